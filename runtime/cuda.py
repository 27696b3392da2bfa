"""Run an artifact on a GPU.

The arguments of a call, its results, constants, the words of its checks and the arena lie in one
block of device memory that the function keeps; shared variables have memory of their own, which
moves to the host only when somebody reads it.  For given sizes and addresses all launches of a call
are recorded once, as a graph, and replayed with one call of the driver.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import cpu_locks
from .artifact import Artifact
from .call import Executable, bind_symbols, constant_array
from .convert import DEFAULT_POLICY, Policy
from .cuda_array import DeviceArray, Memory
from .cuda_driver import driver
from .errors import CallError, DeviceError, InternalError, ShapeError, format_message
from .memory import MemoryUse
from .results import deliver
from .shared import Storage, hold, locks_of

ALIGNMENT = 256
"""Bytes: what device memory is aligned to."""

NOT_FAILED = -2**63
"""What the word of a check holds while it has not failed."""

GRAPHS = 8
"""Recorded calls kept for different sizes."""

LARGEST = 1 << 62
_ARITHMETIC = {"__builtins__": {}, "min": min, "max": max}


def device_number(device: str) -> int:
    """Return the number of ``cuda`` or ``cuda:1``, which must exist.

    Raises
    ------
    DeviceError
    """
    number = int(device.partition(":")[2] or 0)
    count = driver().count()
    if number >= count:
        raise DeviceError(format_message(
            f"There is no GPU number {number}.", f"GPUs found: {count}",
            remedy="use device='cuda' for the first one; CUDA_VISIBLE_DEVICES may hide others"))
    return number


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in the block, for given sizes: offsets in bytes, and shapes of results."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[int, ...]
    status: int
    arena: int
    extra: int
    size: int
    shapes: tuple[tuple[int, ...], ...]


class CudaExecutable(Executable):
    """A loaded artifact for a GPU.

    Parameters
    ----------
    artifact : Artifact
    device : str
        ``cuda`` or ``cuda:1``.
    storages : sequence of Storage
    policies : sequence of Policy
    single : bool
        As in :class:`Executable`.
    on_device : bool
        Return results as :class:`DeviceArray`, rather than as NumPy arrays.
    keys : sequence of str, optional
        Return a dict with these keys.
    """

    def __init__(self, artifact: Artifact, device: str, storages: Sequence[Storage] = (),
                 policies: Sequence[Policy] = (), single: bool = False, on_device: bool = False,
                 keys: Sequence[str] | None = None):
        self.artifact, self.single, self.on_device = artifact, single, on_device
        self.keys = None if keys is None else tuple(keys)
        self.storages = tuple(storages)
        self.policies = tuple(policies) or (DEFAULT_POLICY,) * len(artifact.inputs)
        if len(self.storages) != len(artifact.shared) \
                or len(self.policies) != len(artifact.inputs):
            raise InternalError(f"{artifact.name}: storages or policies do not match")
        self.driver = driver()
        self.device = device_number(device)
        self.driver.use(self.device)
        self.code = json.loads(artifact.code)
        self.functions: dict[str, object] = {}
        self.module = self.driver.load(self.code["source"], self.driver.describe(self.device)[1]) \
            if self.code["steps"] else None
        self.stream = self.driver.stream()
        self.writes = artifact.updates_in_place or any(
            output.shared is not None for output in artifact.outputs)
        cpu_locks.install()
        self.locks = locks_of(self.storages, self.writes)
        self.prologue = None if artifact.prologue is None else CudaExecutable(
            artifact.prologue, device, self.storages)
        self.constants = [constant_array(c.dtype, c.shape, c.data) for c in artifact.constants]
        self.block: Memory | None = None
        self.graphs: dict[tuple[int, ...], object] = {}
        self.layouts: dict[tuple[int, ...], _Layout] = {}
        self.compiled: dict[str, object] = {}
        self.own = threading.RLock()

    # -- a call ------------------------------------------------------------------------------------

    def run(self, arrays: Sequence[np.ndarray], out: object = None) -> object:
        """Call the function on arrays as ``convert_arguments`` returns them.

        Raises
        ------
        CallError
            When given ``out``: results of a GPU go to fresh arrays.
        """
        if out is not None:
            raise CallError(format_message(
                f"{self.artifact.name} runs on a GPU, which cannot write into out=.",
                remedy="leave out= away; on_device=True keeps the results in the GPU's memory"))
        with hold(self.locks), self.own:
            driver()  # refuses a forked process
            self.driver.use(self.device)
            shared = [self._on_device(storage) for storage in self.storages]
            outputs = self._execute(arrays, shared)
            results = self._kept_apart(outputs)
        return deliver(results, self.single, self.keys)

    @property
    def memory(self) -> MemoryUse | None:
        """The bytes of a call with the sizes planned last; None before the first."""
        if not self.layouts:
            return None
        layout = next(reversed(self.layouts.values()))
        outputs = sum(self._bytes(output.dtype, shape)
                      for output, shape in zip(self.artifact.outputs, layout.shapes))
        return MemoryUse(layout.size - layout.arena, outputs,
                         sum(array.nbytes for array in self.constants),
                         sum(storage.nbytes for storage in self.storages))

    def release_memory(self) -> None:
        """Free the memory kept between calls."""
        with self.own:
            self._forget()

    def _forget(self) -> None:
        self.block = None
        for graph in self.graphs.values():
            self.driver.discard(graph)
        self.graphs.clear()

    def _on_device(self, storage: Storage) -> DeviceArray:
        """Return a shared variable's value in this GPU's memory, moving it there."""
        value = storage.cell[0]
        if isinstance(value, DeviceArray) and value.device == self.device:
            return value
        array = storage.array()
        moved = DeviceArray(Memory(array.nbytes, self.device), array.shape, array.dtype)
        self._upload(moved.memory.pointer, array)
        self.driver.synchronize(self.stream)
        storage.cell[0] = moved
        return moved

    def _execute(self, inputs: Sequence[np.ndarray], shared: list[DeviceArray]) -> list[object]:
        artifact = self.artifact
        symbols = bind_symbols(artifact, [*inputs, *shared])
        if self.prologue is not None:
            symbols += [int(np.asarray(v)) for v in self.prologue._execute(inputs, shared)]
        layout = self._layout(symbols)
        if self.block is None or self.block.size < layout.size:
            self._forget()
            self.block = Memory(layout.size, self.device)
            self.layouts = {tuple(symbols): layout}
        base = self.block.pointer
        for offset, array in zip(layout.inputs, inputs):
            self._upload(base + offset, array)
        count = len(self.code["checks"])
        if count:
            self._upload(base + layout.status, np.full(count, NOT_FAILED, np.int64))
        key = (*symbols, *(array.memory.pointer for array in shared))
        graph = self.graphs.get(key)
        if graph is None:
            graph = self._record(symbols, layout, shared)
            while len(self.graphs) >= GRAPHS:
                self.driver.discard(self.graphs.pop(next(iter(self.graphs))))
            self.graphs[key] = graph
        self.driver.replay(graph, self.stream)
        if count:
            self._report(base + layout.status, count)
        return self._results(layout)

    def _results(self, layout: _Layout) -> list[object]:
        """Return the results: copies of what the block holds."""
        found: list[object] = []
        for output, offset, shape in zip(self.artifact.outputs, layout.outputs, layout.shapes):
            start = self.block.pointer + offset
            if self.on_device or output.shared is not None:
                size = int(np.prod(shape, dtype=np.int64)) * np.dtype(output.dtype).itemsize
                array = DeviceArray(Memory(size, self.device), shape, output.dtype)
                if size:
                    self.driver.copy(array.memory.pointer, start, size, self.stream)
            else:
                array = np.empty(shape, output.dtype)
                if array.nbytes:
                    self.driver.to_host(array.ctypes.data, start, array.nbytes, self.stream)
            found.append(array)
        self.driver.synchronize(self.stream)
        return found

    def _upload(self, pointer: int, array: np.ndarray) -> None:
        if array.nbytes:
            self.driver.to_device(pointer, array.ctypes.data, array.nbytes, self.stream)

    def _report(self, pointer: int, count: int) -> None:
        """Raise the error of the first check that failed."""
        words = np.empty(count, np.int64)
        self.driver.to_host(words.ctypes.data, pointer, words.nbytes, self.stream)
        self.driver.synchronize(self.stream)
        failed = np.flatnonzero(words != NOT_FAILED)
        if failed.size:
            raise self._failure(self.code["checks"][failed[0]], int(words[failed[0]]))

    # -- sizes and places --------------------------------------------------------------------------

    def _value(self, text: str, symbols: Sequence[int] | Mapping[int, int]) -> int:
        """Return the value of an expression over sizes."""
        code = self.compiled.get(text)
        if code is None:
            code = self.compiled[text] = compile(text, "<size>", "eval")
        return eval(code, {**_ARITHMETIC, "s": symbols})  # noqa: S307  (our own text)

    def _layout(self, symbols: list[int]) -> _Layout:
        """Check the guards; return where everything is for these sizes."""
        layout = self.layouts.get(tuple(symbols))
        if layout is not None:
            return layout
        artifact, code = self.artifact, self.code
        for number, sizes in enumerate(artifact.guard_sizes, 1):
            left, right = (self._value(text, symbols) for text in sizes)
            if left != right:
                raise self._broken_guard(number, symbols)
        shapes = tuple(tuple(self._value(text, symbols) for text in dims)
                       for dims in code["outputs"])
        if any(self._value(text, symbols) < 0 for text in code["sizes"]):
            raise ShapeError(format_message(
                f"A size computed in {artifact.name} is negative.",
                f"results of shapes {list(shapes)}; {self._symbol_text(symbols)}"))
        offset = 0

        def place(size: int) -> int:
            nonlocal offset
            start, offset = offset, offset + -(-size // ALIGNMENT) * ALIGNMENT
            return start

        inputs = tuple(place(self._bytes(argument.dtype, [
            axis if axis >= 0 else symbols[-axis - 1] for axis in argument.axes]))
            for argument in artifact.inputs)
        outputs = tuple(place(self._bytes(output.dtype, shape))
                        for output, shape in zip(artifact.outputs, shapes))
        constants = tuple(place(array.nbytes) for array in self.constants)
        status = place(8 * len(code["checks"]))
        arena = place(self._value(code["arena"], symbols))
        extra = place(max((self._value(text, symbols) for text in code["extra"]), default=0))
        if offset > LARGEST:
            raise MemoryError(f"{artifact.name}: the results would take more than {LARGEST} bytes")
        layout = _Layout(inputs, outputs, constants, status, arena, extra, offset, shapes)
        while len(self.layouts) >= GRAPHS:
            del self.layouts[next(iter(self.layouts))]
        self.layouts[tuple(symbols)] = layout
        return layout

    @staticmethod
    def _bytes(dtype: str, shape: Sequence[int]) -> int:
        size = np.dtype(dtype).itemsize
        for extent in shape:
            size *= extent
        return size

    # -- recording ---------------------------------------------------------------------------------

    def _record(self, symbols: list[int], layout: _Layout, shared: list[DeviceArray]) -> object:
        """Return the graph of all launches of a call."""
        base = self.block.pointer
        for offset, array in zip(layout.constants, self.constants):
            self._upload(base + offset, array)
        self.driver.synchronize(self.stream)
        given = [*(base + offset for offset in layout.inputs),
                 *(array.memory.pointer for array in shared),
                 *(base + offset for offset in layout.outputs),
                 *(base + offset for offset in layout.constants)]
        place = _Places(given, base + layout.arena, base + layout.extra, base + layout.status)
        self.driver.begin_capture(self.stream)
        try:
            self._launch_all(self.code["steps"], dict(enumerate(symbols)), place)
        finally:
            graph = self.driver.end_capture(self.stream)
        return graph

    def _launch_all(self, steps: list[dict], symbols: dict[int, int], place: _Places) -> None:
        for step in steps:
            if "body" not in step:
                self._launch(step, symbols, place)
                continue
            for index in range(self._value(step["extent"], symbols)):
                symbols[step["index"]] = index
                self._launch_all(step["body"], symbols, place)

    def _launch(self, step: dict, symbols: dict[int, int], place: _Places) -> None:
        blocks = self._value(step["blocks"], symbols)
        if blocks <= 0:
            return
        starts = {"arena": place.arena, "extra": place.extra}
        arguments = [place.given[at] if where == "given"
                     else starts[where] + self._value(at, symbols)
                     for where, at in step["pointers"]]
        arguments += [self._value(text, symbols) for text in step["sizes"]]
        if step["status"]:
            arguments.append(place.status)
        name = step["kernel"]
        function = self.functions.get(name)
        if function is None:
            function = self.functions[name] = self.driver.function(self.module, name)
        self.driver.launch(function, blocks, step["threads"], arguments, self.stream)


@dataclass(frozen=True, slots=True)
class _Places:
    """Addresses: of what is passed and returned, of the arena, of what lies beyond, of status."""

    given: list[int]
    arena: int
    extra: int
    status: int
