"""Run an artifact on a GPU.

A call runs in a *lane*: a stream, and a block of device memory for arguments and results that come
from and go to the host, for temporaries, and for the words of the checks.  A function has one lane,
and more while several threads call it at once; the lanes of all functions run side by side, and
wait for each other where they use the same memory (``cuda_memory.py``).  Arrays on the device are
used where they are.  The launches of a call that comes with the same sizes and addresses as one
before are recorded as a graph, which one call of the driver replays.

A call waits for the GPU if it takes anything from the host, gives anything to it, or has something
to check; any other call returns at once, and its results know what they wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from . import cpu_locks
from .artifact import Artifact
from .call import Executable, bind_symbols, check_shared, constant_array
from .convert import DEFAULT_POLICY, Policy, convert_arguments
from .cuda_array import DeviceArray, uploaded
from .cuda_blas import Blas, Handle
from .cuda_driver import driver
from .cuda_exchange import convert_on, import_destination
from .cuda_layout import Layout, Places, Plan, Product, byte_count
from .cuda_memory import (
    ForeignMemory, Memory, Stream, has_read, has_written, will_read, will_write)
from .errors import DeviceError, InternalError, ShapeError, format_message
from .memory import MemoryUse, allocate
from .results import Destinations, check_destinations, deliver, destinations, fits
from .shared import Storage, hold, locks_of

NOT_FAILED = -2**63
"""What the word of a check holds while it has not failed."""

GRAPHS = 8
"""Recorded calls a lane keeps, for different sizes and addresses."""

LANES = 4
"""Calls of one function that run at once; further ones wait."""

ALIGNED = 16
"""Bytes: the widest load of a kernel.  Arrays that begin elsewhere are copied."""

AnyArray = np.ndarray | DeviceArray


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


def _overlap(one: AnyArray, other: AnyArray) -> bool:
    """Return whether two arrays may share memory."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) \
            and np.may_share_memory(one, other)
    return one.overlaps(other)


DESTINATIONS = Destinations((np.ndarray, DeviceArray), "NumPy arrays and arrays on the GPU",
                            _overlap)


class Lane:
    """What one call at a time needs of a GPU.

    Attributes
    ----------
    stream : Stream
    block : Memory or None
    seen : dict
        Of each set of sizes and addresses: its graph, or None when it came once.
    cells : list
        The array of each borrowed output.
    foreign : list
        Memory of other libraries that unfinished work reads.
    products : Handle or None
        What cuBLAS keeps, for functions that use it.
    """

    def __init__(self, device: int, outputs: int, blas: Blas | None):
        self.stream = Stream(device)
        self.products = None if blas is None else Handle(blas, self.stream)
        self.recorder = self.stream.driver.stream(records=True)
        self.block: Memory | None = None
        self.seen: dict[tuple[int, ...], object] = {}
        self.cells: list[AnyArray | None] = [None] * outputs
        self.foreign: list[ForeignMemory] = []

    def reserve(self, size: int) -> Memory:
        """Return the block, of this many bytes at least."""
        if self.block is None or self.block.size < size:
            self.forget()
            self.block = Memory(size, self.stream)
        return self.block

    def forget(self) -> None:
        """Free the block, and the graphs that name it."""
        self.block = None
        while self.seen:
            self._discard()

    def note(self, key: tuple[int, ...], graph: object) -> None:
        """Note sizes and addresses, with their graph or None."""
        self.seen.pop(key, None)
        while len(self.seen) >= GRAPHS:
            self._discard()
        self.seen[key] = graph

    def _discard(self) -> None:
        graph = self.seen.pop(next(iter(self.seen)))
        if graph is not None:
            self.stream.driver.discard(graph)

    def settle(self) -> None:
        """Let go of memory of other libraries that is not in use any more."""
        if self.foreign and self.stream.driver.is_done(self.stream.event):
            self.foreign.clear()


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
    borrowed : collection of int
        Outputs whose array is written again by the next call.

    Notes
    -----
    Any number of threads may call one executable.
    """

    def __init__(self, artifact: Artifact, device: str, storages: Sequence[Storage] = (),
                 policies: Sequence[Policy] = (), single: bool = False, on_device: bool = False,
                 keys: Sequence[str] | None = None, borrowed: Sequence[int] = ()):
        self.artifact, self.single, self.on_device = artifact, single, on_device
        self.keys = None if keys is None else tuple(keys)
        self.storages = tuple(storages)
        self.policies = tuple(policies) or (DEFAULT_POLICY,) * len(artifact.inputs)
        if len(self.storages) != len(artifact.shared) \
                or len(self.policies) != len(artifact.inputs):
            raise InternalError(f"{artifact.name}: storages or policies do not match")
        self.borrowed = frozenset(borrowed)
        self.driver = driver()
        self.device = device_number(device)
        self.convert = convert_on(self.device)
        self.plan = Plan(artifact)
        self.functions: dict[str, object] = {}
        with self.driver.at(self.device):
            self.module = self.driver.load(
                self.plan.source, self.driver.describe(self.device)[1]) \
                if self.plan.code["steps"] else None
            self.blas = self.driver.blas() if self.plan.code["uses_blas"] else None
        self.writes = artifact.updates_in_place or any(
            output.shared is not None for output in artifact.outputs)
        cpu_locks.install()
        self.locks = locks_of(self.storages, self.writes)
        self.prologue = None if artifact.prologue is None else CudaExecutable(
            artifact.prologue, device, self.storages)
        self._constants = [constant_array(c.dtype, c.shape, c.data) for c in artifact.constants]
        self._uploaded: list[DeviceArray] | None = None
        self._idle: list[Lane] = []
        self._lanes = 0
        self._free = threading.Condition()
        self._last: tuple[list[int], Layout] | None = None

    # -- a call ------------------------------------------------------------------------------------

    def call(self, *values: object, out: object = None, **named: object) -> object:
        """Call the function on anything array-like, on the host or on its GPU."""
        return self.run(convert_arguments(
            self.artifact.name, self.artifact.inputs, self.policies, values, named,
            self.convert), out)

    def run(self, arrays: Sequence[AnyArray], out: object = None) -> object:
        """Call the function on arrays as ``convert_arguments`` returns them."""
        driver()  # refuses a forked process
        name, outputs = self.artifact.name, self.artifact.outputs
        given = destinations(name, out, sum(o.shared is None for o in outputs), self.single,
                             self.keys)
        imported = iter([import_destination(place, name, self.device) for place in given])
        places = [next(imported) if output.shared is None else None for output in outputs]
        with self.driver.at(self.device), self._lane() as lane:
            with hold(self.locks):
                shared = [self._moved(storage, lane.stream) for storage in self.storages]
                call = _Call(self, lane, arrays, shared, places)
                if any(output.shared is not None for output in outputs):
                    call.finish()  # before new values replace those that a failed check must leave
                results = self._kept_apart(call.results)
            if call.waits:
                call.finish()
            lane.settle()
        results = [found if place is None else place for found, place in zip(results, given)]
        return deliver(results, self.single, self.keys)

    def sizes(self, arrays: Sequence[AnyArray], shared: Sequence[DeviceArray]) -> list[int]:
        """Return the values of all size symbols, those of the prologue included."""
        symbols = bind_symbols(self.artifact, [*arrays, *shared])
        if self.prologue is not None:
            own = self.prologue
            with own._lane() as lane:
                call = _Call(own, lane, arrays, shared, [None] * len(own.artifact.outputs))
                call.finish()
            symbols += [int(value) for value in call.results]
        return symbols

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """Yield a lane that no other call uses."""
        with self._free:
            while not self._idle and self._lanes >= LANES:
                self._free.wait()
            lane = self._idle.pop() if self._idle else None
            self._lanes += lane is None
        try:
            if lane is None:
                lane = Lane(self.device, len(self.artifact.outputs), self.blas)
            yield lane
        finally:
            with self._free:
                if lane is None:
                    self._lanes -= 1
                else:
                    self._idle.append(lane)
                self._free.notify()

    @property
    def memory(self) -> MemoryUse | None:
        """The bytes of the last call; None before the first."""
        if self._last is None:
            return None
        symbols, layout = self._last
        outputs = sum(byte_count(output.dtype, shape) for output, shape
                      in zip(self.artifact.outputs, self.plan.shapes(symbols)))
        return MemoryUse(layout.size - layout.arena, outputs,
                         sum(array.nbytes for array in self._constants),
                         sum(storage.nbytes for storage in self.storages))

    def release_memory(self) -> None:
        """Free the memory kept between calls."""
        with self._free:
            for lane in self._idle:
                lane.forget()
                lane.cells = [None] * len(lane.cells)
            self._uploaded = None

    # -- what a call finds -------------------------------------------------------------------------

    def _moved(self, storage: Storage, stream: Stream) -> DeviceArray:
        """Return a shared variable's value in this GPU's memory, moving it there."""
        value = storage.cell[0]
        if not isinstance(value, DeviceArray) or value.device != self.device:
            storage.cell[0] = value = uploaded(storage.array(), stream)
        return value

    def constants(self, stream: Stream) -> list[DeviceArray]:
        """Return the constants on the GPU, which all lanes share."""
        with self._free:
            if self._uploaded is None:
                self._uploaded = [uploaded(array, stream) for array in self._constants]
            return self._uploaded

    def layout(self, symbols: list[int], inputs: Sequence[bool], outputs: Sequence[bool]) -> Layout:
        """Return where everything is for these sizes."""
        layout = self.plan.layout(symbols, inputs, outputs)
        self._last = symbols, layout
        return layout

    def check_sizes(self, symbols: list[int]) -> tuple[tuple[int, ...], ...]:
        """Check the guards; return the shapes of the outputs."""
        for number, sizes in enumerate(self.artifact.guard_sizes, 1):
            left, right = (self.plan.value(text, symbols) for text in sizes)
            if left != right:
                raise self._broken_guard(number, symbols)
        shapes = self.plan.shapes(symbols)
        if self.plan.negative(symbols):
            raise ShapeError(format_message(
                f"A size computed in {self.artifact.name} is negative.",
                f"results of shapes {list(shapes)}; {self._symbol_text(symbols)}"))
        return shapes

    def launch(self, symbols: list[int], places: Places, lane: Lane, stream: int) -> None:
        """Queue all launches and products of a call on a stream of a lane's."""
        for launch in self.plan.launches(symbols, places):
            if isinstance(launch, Product):
                lane.products.multiply(launch, stream)
                continue
            function = self.functions.get(launch.kernel)
            if function is None:
                function = self.functions[launch.kernel] = self.driver.function(
                    self.module, launch.kernel, launch.scratch)
            self.driver.launch(function, launch.blocks, launch.threads, launch.arguments, stream,
                               launch.scratch)

    def report(self, words: np.ndarray) -> None:
        """Raise the error of the first check that failed."""
        failed = np.flatnonzero(words != NOT_FAILED)
        if failed.size:
            raise self._failure(self.plan.checks[failed[0]], int(words[failed[0]]))


class _Call:
    """One call, queued on a lane.

    Attributes
    ----------
    results : list
        One an output; arrays of the host have their values once ``finish`` was called.
    waits : bool
        Whether the caller must not return before it is finished.
    """

    def __init__(self, owner: CudaExecutable, lane: Lane, inputs: Sequence[AnyArray],
                 shared: Sequence[DeviceArray], places: Sequence[object]):
        self.owner, self.lane, self.driver = owner, lane, owner.driver
        artifact = owner.artifact
        check_shared(artifact, shared)
        symbols = owner.sizes(inputs, shared)
        shapes = owner.check_sizes(symbols)
        check_destinations(artifact, shapes, places, shared, DESTINATIONS)
        self.inputs, self.shared = inputs, shared
        self.results = [self._result(number, shape, place)
                        for number, (shape, place) in enumerate(zip(shapes, places))]
        direct_in = [_is_direct(array) for array in inputs]
        direct_out = [_is_direct(array) and not any(_overlap(array, other) for other in inputs)
                      for array in self.results]
        layout = owner.layout(symbols, [not d for d in direct_in], [not d for d in direct_out])
        constants = owner.constants(lane.stream)
        base = lane.reserve(layout.size).pointer
        self.words = np.empty(len(owner.plan.checks), np.int64)
        self.waits = bool(self.words.size) or any(
            isinstance(array, np.ndarray) and array.nbytes for array in inputs) or any(
            isinstance(array, np.ndarray) or isinstance(array.memory, ForeignMemory)
            for array in self.results)
        self._order([*inputs, *shared, *constants], shared if owner.writes else [])
        try:
            given = (*self._staged(inputs, layout.inputs, base),
                     *(array.pointer for array in shared),
                     *(array.pointer if at is None else base + at
                       for array, at in zip(self.results, layout.outputs)),
                     *(array.pointer for array in constants))
            self._compute(symbols, Places(
                given, base + layout.arena, base + layout.extra, base + layout.status))
            self._collect(layout, base)
        finally:
            self._publish([*inputs, *shared, *constants], shared if owner.writes else [])

    def _result(self, number: int, shape: tuple[int, ...], place: object) -> AnyArray:
        """Return the array an output goes to."""
        owner, output = self.owner, self.owner.artifact.outputs[number]
        if place is not None:
            return place
        cell = self.lane.cells[number] if number in owner.borrowed else None
        on_device = owner.on_device or output.shared is not None
        if cell is not None and isinstance(cell, DeviceArray) == on_device \
                and _fits(cell, output.dtype, shape) \
                and not any(_overlap(cell, array) for array in self.inputs):
            return cell
        if on_device:
            size = byte_count(output.dtype, shape)
            found: AnyArray = DeviceArray(Memory(size, self.lane.stream), shape, output.dtype)
        else:
            found = allocate(shape, output.dtype)
        if number in owner.borrowed:
            self.lane.cells[number] = found
        return found

    # -- order -------------------------------------------------------------------------------------

    def _order(self, read: Sequence[AnyArray], written: Sequence[DeviceArray]) -> None:
        """Wait for what others have queued on the memory of this call."""
        stream = self.lane.stream
        for array in read:
            if isinstance(array, DeviceArray):
                will_read(stream, array.memory)
        for array in (*written, *self.results):
            if isinstance(array, DeviceArray):
                will_write(stream, array.memory)

    def _publish(self, read: Sequence[AnyArray], written: Sequence[DeviceArray]) -> None:
        """Let others know what this call has queued."""
        stream = self.lane.stream
        stream.record()
        for array in read:
            if isinstance(array, DeviceArray):
                has_read(stream, array.memory)
                if isinstance(array.memory, ForeignMemory):
                    self.lane.foreign.append(array.memory)
        for array in (*written, *self.results):
            if isinstance(array, DeviceArray):
                has_written(stream, array.memory)

    # -- work --------------------------------------------------------------------------------------

    def _staged(self, arrays: Sequence[AnyArray], offsets: Sequence[int | None],
                base: int) -> list[int]:
        """Return the address of each argument, after copying those that have to be."""
        stream, found = self.lane.stream.handle, []
        for array, offset in zip(arrays, offsets):
            if offset is None:
                found.append(array.pointer)
                continue
            found.append(base + offset)
            if not array.nbytes:
                continue
            if isinstance(array, DeviceArray):
                self.driver.copy(base + offset, array.pointer, array.nbytes, stream)
            else:
                self.driver.to_device(base + offset, array.ctypes.data, array.nbytes, stream)
        return found

    def _compute(self, symbols: list[int], places: Places) -> None:
        """Queue the launches: one by one the first time, as a graph when they come again."""
        lane, stream = self.lane, self.lane.stream.handle
        if self.words.size:
            self.words.fill(NOT_FAILED)
            self.driver.to_device(places.status, self.words.ctypes.data, self.words.nbytes, stream)
        key = (*symbols, *places.given, places.arena)
        if key not in lane.seen:
            lane.note(key, None)
            self.owner.launch(symbols, places, lane, stream)
            return
        graph = lane.seen[key]
        if graph is None:
            self.driver.begin_capture(lane.recorder)
            try:
                self.owner.launch(symbols, places, lane, lane.recorder)
            finally:
                graph = self.driver.end_capture(lane.recorder)
            lane.note(key, graph)
        self.driver.replay(graph, stream)

    def _collect(self, layout: Layout, base: int) -> None:
        """Queue the copies of results that go elsewhere, and of the words of the checks."""
        stream = self.lane.stream.handle
        for array, offset in zip(self.results, layout.outputs):
            if offset is None or not array.nbytes:
                continue
            if isinstance(array, DeviceArray):
                self.driver.copy(array.pointer, base + offset, array.nbytes, stream)
            else:
                self.driver.to_host(array.ctypes.data, base + offset, array.nbytes, stream)
        if self.words.size:
            self.driver.to_host(self.words.ctypes.data, base + layout.status, self.words.nbytes,
                                stream)

    def finish(self) -> None:
        """Wait for the GPU, and raise the error of a check that failed."""
        self.lane.stream.synchronize()
        self.owner.report(self.words)


def _is_direct(array: AnyArray) -> bool:
    """Return whether kernels can use an array where it is."""
    return isinstance(array, DeviceArray) and array.pointer % ALIGNED == 0


def _fits(array: AnyArray, dtype: str, shape: tuple[int, ...]) -> bool:
    """Return whether a borrowed output can be written again."""
    if isinstance(array, np.ndarray):
        return fits(array, dtype, shape)
    return array.dtype == dtype and array.shape == shape
