"""A GPU for tests: host memory with checked bounds, whose kernels run in the emulator.

It stands where ``runtime/cuda_driver.py`` has NVIDIA's driver, so everything above it is the real
thing: launch parameters, arguments, memory, updates, recording and replaying.  A kernel does not
run from its text, but from the scheduled nest that the text was printed from.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from cuda_fake_blas import FakeBlas

from tetractys.compiler.dims import evaluate, symbols_of
from tetractys.compiler.loop.ir import Check
from tetractys.compiler.loop.walk import statements
from tetractys.compiler.target import cuda
from tetractys.compiler.target.cuda_emulate import run_scheduled
from tetractys.compiler.target.cuda_schedule import parts_of
from tetractys.runtime import cuda_driver
from tetractys.runtime.cuda import NOT_FAILED
from tetractys.runtime.cuda_blas import Blas
from tetractys.runtime.cuda_driver import LEGACY_STREAM
from tetractys.runtime.errors import DeviceError


@dataclass(slots=True)
class Work:
    """Something queued on a stream: what to do, after the work before it and after others'."""

    do: Callable[[], object]
    after: tuple[Work, ...]
    done: bool = False


class FakeDriver:
    """A driver of ``devices`` GPUs with ``total`` bytes each.

    Work waits in its stream until somebody waits for it, and then drags along only what it has to
    come after.  So whatever is not kept in order by streams and events finds old values, memory
    that is not there yet, or memory that was given back.

    Parameters
    ----------
    devices, total : int
    eager : bool
        Do everything at once instead.

    Attributes
    ----------
    launched : list of str
        Names of the kernels that ran.
    moved : dict of str to int
        Bytes copied, by direction.
    recorded, replayed : int
        How often a call was recorded, and replayed.
    waited : int
        How often the host waited for a stream.
    lost : str
        When set, what every further request is refused with.
    """

    def __init__(self, devices: int = 2, total: int = 1 << 28, eager: bool = False):
        self.devices, self.total, self.eager = devices, total, eager
        self.builds: dict[str, cuda.Build] = {}
        self.blocks: dict[int, tuple[int, np.ndarray]] = {}
        self.launched: list[str] = []
        self.moved = {"in": 0, "out": 0, "within": 0}
        self.recorded = self.replayed = self.waited = 0
        self.recording: dict[int, list[Callable[[], object]]] = {}
        self.present = threading.local()
        self.last: dict[int, Work | None] = {LEGACY_STREAM: None}
        self.marks: dict[int, Work | None] = {}
        self.recorders: set[int] = set()
        self.mutex = threading.RLock()
        self.lost = ""
        self.library = FakeBlas(self)

    @property
    def device(self) -> int:
        """The GPU in use."""
        return self.present.device

    def version(self) -> str:
        return "13.0"

    def count(self) -> int:
        return self.devices

    def describe(self, device: int) -> tuple[str, str]:
        return "Emulated GPU", "sm_90"

    @contextmanager
    def at(self, device: int) -> Iterator[None]:
        if self.lost:
            raise DeviceError(self.lost)
        before = getattr(self.present, "device", None)
        self.present.device = device
        try:
            yield
        finally:
            self.present.device = before

    # -- order -------------------------------------------------------------------------------------

    def stream(self, records: bool = False) -> int:
        with self.mutex:
            number = 1000 + len(self.last)
            self.last[number] = None
            if records:
                self.recorders.add(number)
            return number

    def destroy_stream(self, stream: int) -> None:
        assert stream in self.last

    def event(self) -> int:
        with self.mutex:
            number = 1 + len(self.marks)
            self.marks[number] = None
            return number

    def destroy_event(self, event: int) -> None:
        assert event in self.marks

    def queue(self, stream: int, do: Callable[[], object], *more: Work) -> None:
        """Queue something on a stream, after ``more``; the default stream keeps order with all."""
        with self.mutex:
            assert stream not in self.recorders
            others = [self.last[LEGACY_STREAM]] if stream != LEGACY_STREAM else self.last.values()
            after = (self.last[stream], *others, *more)
            self.last[stream] = work = Work(do, tuple(w for w in after if w and not w.done))
            if self.eager:
                self.do(work)

    def do(self, work: Work | None) -> None:
        """Do something after all that comes before it."""
        with self.mutex:
            pending = [work] if work else []
            while pending:
                first = [other for other in pending[-1].after if not other.done]
                if first:
                    pending += first
                    continue
                work = pending.pop()
                if not work.done:
                    work.done, work.after = True, ()
                    work.do()

    def record(self, event: int, stream: int) -> None:
        with self.mutex:
            self.marks[event] = self.last[stream]

    def wait(self, stream: int, event: int) -> None:
        if self.marks[event] is not None:
            self.queue(stream, lambda: None, self.marks[event])

    def is_done(self, event: int) -> bool:
        return self.marks[event] is None or self.marks[event].done

    def synchronize(self, stream: int) -> None:
        self.waited += 1
        if self.lost:
            raise DeviceError(self.lost)
        self.do(self.last[stream])

    def finish(self) -> None:
        for work in list(self.last.values()):
            self.do(work)

    # -- memory ------------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        used = sum(block.size for device, block in self.blocks.values() if device == self.device)
        return self.total - used, self.total

    def device_of(self, pointer: int) -> int:
        return self.blocks[self.block_of(pointer, 1)][0]

    def allocate(self, size: int, stream: int) -> int:
        free, _ = self.memory()
        if size > free:
            self.finish()
            free, _ = self.memory()
        if size > free:
            raise cuda_driver.out_of_memory(size, free)
        block = np.full(size + 512, 0xA5, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        with self.mutex:
            self.blocks[address] = self.device, block[address - block.ctypes.data:][:size]
        return address

    def free(self, pointer: int, stream: int) -> None:
        self.queue(stream, lambda: self.blocks.pop(pointer))

    def block_of(self, pointer: int, size: int) -> int:
        """Return the start of the block that holds so many bytes at an address."""
        for start, (_, block) in list(self.blocks.items()):
            if start <= pointer and pointer + size <= start + block.size:
                return start
        raise DeviceError(f"{size} bytes at {pointer:#x} are not in device memory")

    def inside(self, pointer: int, size: int) -> int:
        """Return an address, all of whose bytes are in one block."""
        self.block_of(pointer, size)
        return pointer

    def to_device(self, pointer: int, address: int, size: int, stream: int) -> None:
        self.moved["in"] += size
        self.queue(stream, lambda: ctypes.memmove(self.inside(pointer, size), address, size))

    def to_host(self, address: int, pointer: int, size: int, stream: int) -> None:
        self.moved["out"] += size
        self.queue(stream, lambda: ctypes.memmove(address, self.inside(pointer, size), size))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.moved["within"] += size
        self.queue(stream, lambda: ctypes.memmove(
            self.inside(target, size), self.inside(source, size), size))

    # -- code --------------------------------------------------------------------------------------

    def load(self, source: str, architecture: str) -> cuda.Build:
        return self.builds[source]

    def function(self, module: cuda.Build, name: str, scratch: int = 0) -> cuda.Emitted:
        assert f"{name}(" in module.source and scratch == module.kernels[name].code.scratch
        return module.kernels[name]

    def begin_capture(self, stream: int) -> None:
        assert stream in self.recorders
        self.recording[stream] = []

    def end_capture(self, stream: int) -> list[Callable[[], object]]:
        self.recorded += 1
        return self.recording.pop(stream)

    def replay(self, graph: list[Callable[[], object]], stream: int) -> None:
        self.replayed += 1
        for do in graph:
            self.queue(stream, do)

    def discard(self, graph: list[Callable[[], object]]) -> None:
        graph.clear()

    def submit(self, stream: int, do: Callable[[], object]) -> None:
        """Queue something, or record it."""
        if stream in self.recording:
            self.recording[stream].append(do)
        else:
            self.queue(stream, do)

    def blas(self) -> Blas:
        return Blas(self.library.functions())

    def launch(self, function: cuda.Emitted, blocks: int, threads: Sequence[int],
               arguments: Sequence[int], stream: int, scratch: int = 0) -> None:
        assert scratch == function.code.scratch <= 99 << 10
        assert 0 < blocks < 1 << 31 and len(threads) == 3 and np.prod(threads) <= 1024
        assert all(isinstance(argument, int) for argument in arguments)
        launch = function, blocks, tuple(threads), tuple(arguments)
        self.submit(stream, lambda: self.run(*launch))

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
        arrays, copies = {}, []
        for number, pointer in zip(code.roots, pointers):
            root = signature.buffers[number].root()
            shape = self.shape(root, symbols, pointer)
            size = int(np.prod(shape)) * np.dtype(root.dtype).itemsize
            if size and size > self.left(pointer):
                arrays[root] = self.extended(pointer, shape, root.dtype)
                copies.append((pointer, arrays[root], arrays[root].tobytes()))
            else:
                arrays[root] = self.view(pointer, shape, root.dtype)
        failures: list[tuple[int, int]] = []
        run_scheduled(kernel.nest, arrays, symbols, failures)
        for pointer, array, before in copies:
            self.put_back(pointer, array, before)
        self.launched.append(code.name)
        codes = [s.code for s in statements(kernel.nest.body) if isinstance(s, Check)]
        for failed, value in failures:
            slot = kernel.first_slot + codes.index(failed)
            self.view(sizes[-1] + 8 * slot, (1,), "int64")[0] = value

    def left(self, pointer: int) -> int:
        """Return the bytes from an address to the end of its memory."""
        start = self.block_of(pointer, 1)
        return start + self.blocks[start][1].size - pointer

    def extended(self, pointer: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a copy of memory, with bytes that nobody wrote behind it.

        Equal nests share a kernel, and the arrays of the first one may be larger.
        """
        size, left = int(np.prod(shape)) * np.dtype(dtype).itemsize, self.left(pointer)
        found = np.full(size, 0xA5, np.uint8)
        found[:left] = self.view(pointer, (left,), "uint8")
        return found.view(dtype).reshape(shape)

    def put_back(self, pointer: int, array: np.ndarray, before: bytes) -> None:
        """Write what a kernel changed in a copy."""
        after, left = array.reshape(-1).view(np.uint8), self.left(pointer)
        changed = np.flatnonzero(after != np.frombuffer(before, np.uint8))
        if changed.size and changed[-1] >= left:
            raise DeviceError(f"a kernel writes {changed[-1] - left + 1} bytes beyond its memory")
        self.view(pointer, (left,), "uint8")[changed] = after[changed]

    def shape(self, root, symbols, pointer: int) -> tuple[int, ...]:
        """Return a root's shape; an unknown first dim reaches to the end of its memory."""
        rest = [evaluate(dim, symbols) for dim in root.dims[1:]]
        if not root.dims or symbols_of(root.dims[0]) <= symbols.keys():
            return tuple(evaluate(dim, symbols) for dim in root.dims)
        step = int(np.prod(rest)) * np.dtype(root.dtype).itemsize
        end = next(start + block.size for start, (_, block) in self.blocks.items()
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

    def noted(program, precision, blas):
        built = build(program, precision, blas)
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
