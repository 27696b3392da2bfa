"""A GPU for tests: host memory with checked bounds, whose kernels run in the emulator.

It stands where ``runtime/cuda_driver.py`` has NVIDIA's driver, so everything above it is the real
thing: launch parameters, arguments, memory, updates, recording and replaying.  A kernel does not
run from its text, but from the scheduled nest that the text was printed from.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from tetractys.compiler.dims import evaluate, symbols_of
from tetractys.compiler.loop.ir import Check
from tetractys.compiler.loop.walk import statements
from tetractys.compiler.target import cuda
from tetractys.compiler.target.cuda_emulate import run_scheduled
from tetractys.compiler.target.cuda_schedule import parts_of
from tetractys.runtime import cuda_driver
from tetractys.runtime.cuda import NOT_FAILED
from tetractys.runtime.errors import DeviceError


class FakeDriver:
    """A driver of ``devices`` GPUs with ``total`` bytes each.

    Attributes
    ----------
    launched : list of str
        Names of the kernels that ran.
    moved : dict of str to int
        Bytes copied, by direction.
    recorded, replayed : int
        How often a call was recorded, and replayed.
    """

    def __init__(self, devices: int = 2, total: int = 1 << 28):
        self.devices, self.total = devices, total
        self.builds: dict[str, cuda.Build] = {}
        self.blocks: dict[int, np.ndarray] = {}
        self.launched: list[str] = []
        self.moved = {"in": 0, "out": 0, "within": 0}
        self.recorded = self.replayed = 0
        self.recording: list[tuple] | None = None
        self.device: int | None = None

    def version(self) -> str:
        return "13.0"

    def count(self) -> int:
        return self.devices

    def describe(self, device: int) -> tuple[str, str]:
        return "Emulated GPU", "sm_90"

    def use(self, device: int) -> None:
        self.device = device

    def memory(self) -> tuple[int, int]:
        return self.total - sum(block.size for block in self.blocks.values()), self.total

    def allocate(self, size: int) -> int:
        free, _ = self.memory()
        if size > free:
            raise cuda_driver.out_of_memory(size, free)
        block = np.full(size + 512, 0xA5, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.blocks[address] = block[address - block.ctypes.data:][:size]
        return address

    def free(self, pointer: int) -> None:
        del self.blocks[pointer]

    def inside(self, pointer: int, size: int) -> int:
        """Return an address, all of whose bytes are in one block."""
        for start, block in self.blocks.items():
            if start <= pointer and pointer + size <= start + block.size:
                return pointer
        raise DeviceError(f"{size} bytes at {pointer:#x} are not in device memory")

    def to_device(self, pointer: int, address: int, size: int, stream: object) -> None:
        assert self.recording is None
        self.moved["in"] += size
        ctypes.memmove(self.inside(pointer, size), address, size)

    def to_host(self, address: int, pointer: int, size: int, stream: object) -> None:
        assert self.recording is None
        self.moved["out"] += size
        ctypes.memmove(address, self.inside(pointer, size), size)

    def copy(self, target: int, source: int, size: int, stream: object) -> None:
        assert self.recording is None
        self.moved["within"] += size
        ctypes.memmove(self.inside(target, size), self.inside(source, size), size)

    def load(self, source: str, architecture: str) -> cuda.Build:
        return self.builds[source]

    def function(self, module: cuda.Build, name: str) -> cuda.Emitted:
        assert f"{name}(" in module.source
        return module.kernels[name]

    def stream(self) -> object:
        return object()

    def synchronize(self, stream: object) -> None:
        assert self.recording is None

    def begin_capture(self, stream: object) -> None:
        self.recording = []

    def end_capture(self, stream: object) -> list[tuple]:
        graph, self.recording = self.recording, None
        self.recorded += 1
        return graph

    def replay(self, graph: list[tuple], stream: object) -> None:
        self.replayed += 1
        for launch in graph:
            self.run(*launch)

    def discard(self, graph: list[tuple]) -> None:
        graph.clear()

    def launch(self, function: cuda.Emitted, blocks: int, threads: Sequence[int],
               arguments: Sequence[int], stream: object) -> None:
        assert 0 < blocks < 1 << 31 and len(threads) == 3 and np.prod(threads) <= 1024
        assert all(isinstance(argument, int) for argument in arguments)
        self.recording.append((function, blocks, tuple(threads), tuple(arguments)))

    def run(self, kernel: cuda.Emitted, blocks: int, threads: tuple[int, ...],
            arguments: tuple[int, ...]) -> None:
        """Run a kernel's nest on the memory that its arguments point to."""
        signature, code = kernel.signature, kernel.code
        pointers, sizes = arguments[:len(code.roots)], arguments[len(code.roots):]
        symbols = dict(zip(signature.symbols, sizes))
        assert len(sizes) == len(signature.symbols) + code.has_status
        outer, loops, _ = parts_of(kernel.nest)
        assert evaluate(outer.extent, symbols) == blocks
        assert [loop.extent for loop in reversed(loops)] == list(threads[:len(loops)])
        if kernel.waits and (self.status(sizes[-1], kernel.first_slot) != NOT_FAILED).any():
            return
        arrays = {}
        for number, pointer in zip(code.roots, pointers):
            root = signature.buffers[number].root()
            shape = self.shape(root, symbols, pointer)
            arrays[root] = self.view(pointer, shape, root.dtype)
        failures: list[tuple[int, int]] = []
        run_scheduled(kernel.nest, arrays, symbols, failures)
        self.launched.append(code.name)
        codes = [s.code for s in statements(kernel.nest.body) if isinstance(s, Check)]
        for failed, value in failures:
            slot = kernel.first_slot + codes.index(failed)
            self.view(sizes[-1] + 8 * slot, (1,), "int64")[0] = value

    def shape(self, root, symbols, pointer: int) -> tuple[int, ...]:
        """Return a root's shape; an unknown first dim reaches to the end of its memory."""
        rest = [evaluate(dim, symbols) for dim in root.dims[1:]]
        if not root.dims or symbols_of(root.dims[0]) <= symbols.keys():
            return tuple(evaluate(dim, symbols) for dim in root.dims)
        step = int(np.prod(rest)) * np.dtype(root.dtype).itemsize
        end = next(start + block.size for start, block in self.blocks.items()
                   if start <= pointer <= start + block.size)
        return ((end - pointer) // max(step, 1), *rest)

    def status(self, pointer: int, count: int) -> np.ndarray:
        """Return the words of checks."""
        return self.view(pointer, (count,), "int64")

    def view(self, pointer: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return memory as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not size:
            return np.empty(shape, dtype)
        self.inside(pointer, size)
        return np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint8)), (size,)).view(dtype).reshape(
                shape)


@contextmanager
def fake_gpu(fake: FakeDriver | None = None, **options: int) -> Iterator[FakeDriver]:
    """Put a fake driver in place of NVIDIA's."""
    fake = FakeDriver(**options) if fake is None else fake
    build = cuda.build

    def noted(program, precision):
        built = build(program, precision)
        fake.builds[built.source] = built
        return built

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "build", noted)
        patch.setenv("TETRACTYS_CACHE_DIR", "")
        cuda_driver.use_driver(fake)
        try:
            yield fake
        finally:
            cuda_driver.use_driver(None)
