"""Run an artifact: the careful path, in Python, which also makes the error messages.

``Executable.call`` converts the arguments, binds the sizes, checks them, allocates, runs, and
explains whatever goes wrong.  ``cpu_entry.py`` does the same in compiled code for calls about which
there is nothing to explain, and hands every other call to this one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from types import CodeType

import numpy as np

from . import cpu_poll, errors
from .artifact import INTERRUPTED, Argument, Artifact
from .convert import DEFAULT_POLICY, Policy, convert_arguments
from .cpu import load
from .dtypes import numpy_dtype
from .errors import CallError, InternalError, ShapeError, TetractysError, format_message
from .memory import Block, MemoryUse, allocate, check_size
from .results import check_destinations, deliver, destinations, fits
from .shared import Locks, Storage, hold, locks_of

RELEASE_WORK = 20_000_000
"""Estimated picoseconds of a call from which on releasing the GIL pays."""

# Words of `Executable.control`, shared with the compiled call entry.
ARENA, CAPACITY, BUSY, RELEASE = range(4)

_PLAN = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
_RUN_TYPES = (ctypes.c_int64,) + (ctypes.c_void_p,) * 4
_RUN_HOLDING_GIL = ctypes.PYFUNCTYPE(*_RUN_TYPES)
_RUN_WITHOUT_GIL = ctypes.CFUNCTYPE(*_RUN_TYPES)
_ARITHMETIC = {"__builtins__": {}, "min": min, "max": max}


class Executable:
    """A loaded artifact.

    Parameters
    ----------
    artifact : Artifact
    storages : sequence of Storage
        One for each entry of ``artifact.shared``.
    policies : sequence of Policy
        One for each input; by default all are ``Policy()``.
    single : bool
        Return the only result itself, rather than a list of results.
    keys : sequence of str, optional
        Return a dict with these keys.
    borrowed : collection of int
        Outputs whose array is written again by the next call.
    threads : int, optional
        Most threads a call uses.

    Attributes
    ----------
    cells : tuple of (list or None)
        Of each output: for a borrowed one, a list of its array (or of None); the array belongs to
        the call that holds the arena.
    control : (4,) int64
        Address and bytes of the arena, its lock word, and whether calls release the GIL.

    Notes
    -----
    Any number of threads may call one executable.  Those that write shared variables run one at a
    time; the others run together, the first one in the persistent arena.
    """

    def __init__(self, artifact: Artifact, storages: Sequence[Storage] = (),
                 policies: Sequence[Policy] = (), single: bool = False,
                 keys: Sequence[str] | None = None, borrowed: Collection[int] = (),
                 threads: int | None = None):
        self.artifact = artifact
        self.storages = tuple(storages)
        self.policies = tuple(policies) or (DEFAULT_POLICY,) * len(artifact.inputs)
        returned = sum(output.shared is None for output in artifact.outputs)
        if len(self.storages) != len(artifact.shared) or (single and returned != 1) \
                or len(self.policies) != len(artifact.inputs) \
                or (keys is not None and len(keys) != returned):
            raise InternalError(f"{artifact.name}: storages, policies or results do not match")
        self.single, self.keys = single, None if keys is None else tuple(keys)
        self.cells: tuple[list[np.ndarray | None] | None, ...] = tuple(
            [None] if number in borrowed else None for number in range(len(artifact.outputs)))
        self.code = load(artifact, threads)
        self.writes = artifact.updates_in_place or any(
            output.shared is not None for output in artifact.outputs)
        self.locks = locks_of(self.storages, self.writes)
        self.prologue = None if artifact.prologue is None else Executable(
            artifact.prologue, self.storages, threads=threads)
        self.constants = [constant_array(c.dtype, c.shape, c.data) for c in artifact.constants]
        self.control = np.zeros(4, np.int64)
        self._arena_lock = Locks([self.control.ctypes.data + 8 * BUSY], exclusive=True)
        self._block = Block(0)
        self._symbols: list[int] | None = None
        self._plan = _PLAN(self.code.plan)
        self._run = _RUN_HOLDING_GIL(self.code.run)
        self._run_without_gil = _RUN_WITHOUT_GIL(self.code.run)
        self._work: CodeType = compile(artifact.work, "<work>", "eval")

    def __repr__(self) -> str:
        return f"<Executable {self.artifact.name}>"

    def call(self, *values: object, out: object = None, **named: object) -> object:
        """Call the function on anything array-like.

        Parameters
        ----------
        *values, **named : array_like
        out : ndarray, list, or mapping, optional
            Arrays for the results, in the structure of the results; None for fresh ones.

        Returns
        -------
        ndarray, list of ndarray, or dict of str to ndarray
            C-contiguous arrays; 0-d results are 0-d arrays.

        Raises
        ------
        CallError
            When the arguments' number, dtypes or ranks do not fit.
        ShapeError
            When sizes that must be equal differ.
        MemoryError
            When the results or temporaries do not fit in memory; it states the bytes.
        KeyboardInterrupt
            When the user interrupted a long call; shared variables are then unchanged.
        """
        return self.run(convert_arguments(
            self.artifact.name, self.artifact.inputs, self.policies, values, named), out)

    def run(self, arrays: Sequence[np.ndarray], out: object = None) -> object:
        """Call the function on arrays as ``convert_arguments`` returns them."""
        given = iter(destinations(
            self.artifact.name, out, sum(o.shared is None for o in self.artifact.outputs),
            self.single, self.keys))
        places = [next(given) if output.shared is None else None
                  for output in self.artifact.outputs]
        with hold(self.locks):
            shared = [storage.array() for storage in self.storages]
            outputs = self._execute(arrays, shared, places)
            results = self._kept_apart(outputs)
        return deliver(results, self.single, self.keys)

    def _kept_apart(self, outputs: Sequence[object]) -> list[object]:
        """Return the results of a call, after putting new values of shared variables in place."""
        results = []
        for output, array in zip(self.artifact.outputs, outputs, strict=True):
            if output.shared is None:
                results.append(array)
            else:
                self.storages[output.shared].cell[0] = array
        return results

    @property
    def memory(self) -> MemoryUse | None:
        """The bytes of a call with the sizes of the last one on this path; None before the first.

        Calls that stay in compiled code leave no trace here; the arena is the largest so far.
        """
        if self._symbols is None:
            return None
        sizes = (ctypes.c_int64 * max(1, len(self._symbols)))(*self._symbols)
        arena, shapes = self._planned(self._symbols, sizes)
        outputs = sum(numpy_dtype(output.dtype).itemsize * _product(shape)
                      for output, shape in zip(self.artifact.outputs, shapes, strict=True))
        return MemoryUse(max(arena, int(self.control[CAPACITY])), outputs,
                         sum(array.nbytes for array in self.constants),
                         sum(storage.nbytes for storage in self.storages))

    def release_memory(self) -> None:
        """Free the memory kept between calls: that of temporaries and of borrowed outputs."""
        with hold(self._arena_lock, wait=False) as mine:
            if mine:
                self._keep(Block(0))
                for cell in self.cells:
                    if cell is not None:
                        cell[0] = None

    def _execute(self, inputs: Sequence[np.ndarray], shared: list[np.ndarray],
                 places: Sequence[object]) -> list[np.ndarray]:
        artifact = self.artifact
        check_shared(artifact, shared)
        if self.writes:
            inputs = [_apart(array, shared) for array in inputs]
        symbols = bind_symbols(artifact, [*inputs, *shared])
        if self.prologue is not None:
            symbols += [int(v) for v in self.prologue._execute(
                inputs, shared, [None] * len(self.prologue.artifact.outputs))]
        if len(symbols) != artifact.symbol_count:
            raise InternalError(f"{artifact.name}: {len(symbols)} sizes for "
                                f"{artifact.symbol_count} symbols")
        sizes = (ctypes.c_int64 * max(1, len(symbols)))(*symbols)
        arena_bytes, shapes = self._planned(symbols, sizes)
        self._symbols = symbols
        check_destinations(artifact, shapes, places, shared)
        release = self.control[RELEASE] or self._evaluate(self._work, symbols, 0) >= RELEASE_WORK
        run = self._run_without_gil if release else self._run
        self.control[RELEASE] = bool(release)
        status = (ctypes.c_int64 * 2)()
        with hold(self._arena_lock, wait=False) as mine:
            outputs = [self._target(number, shape, place, inputs, mine)
                       for number, (shape, place) in enumerate(zip(shapes, places, strict=True))]
            arrays = [*inputs, *shared, *outputs, *self.constants]
            pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
            block = self._block if mine else Block(0)
            if block.size < arena_bytes:
                block = Block(arena_bytes)
                if mine:
                    self._keep(block)
            code = run(sizes, pointers, block.address, status)
        if code == INTERRUPTED:
            cpu_poll.raise_interrupt()
        if code:
            raise self._failure(code, status[1])
        for place, output in zip(places, outputs, strict=True):
            if place is not None and place is not output:
                np.copyto(place, output)
        return [output if place is None else place
                for place, output in zip(places, outputs, strict=True)]

    def _target(self, number: int, shape: tuple[int, ...], place: object,
                inputs: Sequence[np.ndarray], mine: bool) -> np.ndarray:
        """Return the array the code writes an output into; never one that it reads.

        ``mine`` says that this call holds the arena, and with it the borrowed outputs.
        """
        dtype, cell = self.artifact.outputs[number].dtype, self.cells[number]
        if place is None and cell is not None and mine and fits(cell[0], dtype, shape):
            place = cell[0]
        if place is not None and not any(np.may_share_memory(place, array) for array in inputs):
            return place
        fresh = allocate(shape, dtype)
        if cell is not None and mine:
            cell[0] = fresh
        return fresh

    def _keep(self, block: Block) -> None:
        """Make a block the persistent arena; its lock must be held."""
        self.control[ARENA], self.control[CAPACITY] = block.address, block.size
        self._block = block

    def _planned(self, symbols: list[int], sizes: ctypes.Array) -> \
            tuple[int, list[tuple[int, ...]]]:
        """Check the guards; return the arena's bytes and the outputs' shapes."""
        artifact = self.artifact
        ranks = [output.rank for output in artifact.outputs]
        results = (ctypes.c_int64 * (1 + sum(ranks)))()
        code = self._plan(sizes, results)
        if code > 0:
            raise self._broken_guard(code, symbols)
        if code < 0:
            raise MemoryError(f"{artifact.name}: the results would take more than {1 << 62} bytes")
        shapes, at = [], 1
        for rank in ranks:
            shapes.append(tuple(results[at:at + rank]))
            at += rank
        if results[0] < 0 or any(extent < 0 for shape in shapes for extent in shape):
            raise ShapeError(format_message(
                f"A size computed in {artifact.name} is negative.",
                f"results of shapes {shapes}; {self._symbol_text(symbols)}"))
        total = results[0]
        for shape, output in zip(shapes, artifact.outputs, strict=True):
            total += numpy_dtype(output.dtype).itemsize * _product(shape)
        check_size(total)
        return results[0], shapes

    def _broken_guard(self, code: int, symbols: list[int]) -> TetractysError:
        artifact = self.artifact
        if code > len(artifact.guards):
            return InternalError(f"{artifact.name}: guard {code} is not described")
        message = artifact.guards[code - 1]
        for place, expression in zip(("{0}", "{1}"), artifact.guard_sizes[code - 1], strict=True):
            value = self._evaluate(compile(expression, "<guard>", "eval"), symbols, expression)
            # Not str.format: the message holds names and file names of the user's.
            message = message.replace(place, str(value))
        kinds = artifact.guard_kinds
        return _error_class(kinds[code - 1] if code <= len(kinds) else "ShapeError")(message)

    def _failure(self, code: int, value: int) -> TetractysError:
        failures = self.artifact.failures
        if not 1 <= code <= len(failures):
            return InternalError(f"{self.artifact.name}: failure {code} is not described")
        kind, message = failures[code - 1]
        return _error_class(kind)(message.replace("{value}", str(value)))

    def _symbol_text(self, symbols: list[int]) -> str:
        return ", ".join(f"{name} = {value}" for name, value
                         in zip(self.artifact.symbol_names, symbols, strict=False))

    @staticmethod
    def _evaluate(expression: CodeType, symbols: list[int], otherwise: int | str) -> int | str:
        try:
            return eval(expression, {**_ARITHMETIC, "s": symbols})  # noqa: S307  (our own text)
        except ArithmeticError:
            return otherwise


def check_shared(artifact: Artifact, shared: Sequence[np.ndarray]) -> None:
    """Refuse shared values of another type than the code was compiled for."""
    for argument, array in zip(artifact.shared, shared, strict=True):
        if array.dtype != argument.dtype or array.ndim != len(argument.axes):
            raise CallError(format_message(
                f"The value of shared variable {argument.name} has another type than when "
                "the function was compiled.",
                f"compiled for {argument.dtype}, {len(argument.axes)}-dimensional; now "
                f"{array.dtype}, {array.ndim}-dimensional", argument.site))


def _error_class(kind: str) -> type[TetractysError]:
    """Return the error class of a name; a name that is none is a fault of the compiler."""
    found = getattr(errors, kind, None)
    is_error = isinstance(found, type) and issubclass(found, TetractysError)
    return found if is_error else InternalError


def bind_symbols(artifact: Artifact, arrays: Sequence[np.ndarray]) -> list[int]:
    """Return the sizes that the axes of inputs and shared variables bind.

    Raises
    ------
    ShapeError
        When an axis has not the size it must have: a constant, or that of an earlier axis.
    """
    bound: dict[int, tuple[int, Argument, int]] = {}
    for argument, array in zip((*artifact.inputs, *artifact.shared), arrays, strict=True):
        for axis, (want, size) in enumerate(zip(argument.axes, array.shape, strict=True)):
            if want >= 0:
                if size != want:
                    raise _wrong_constant(argument, axis, want, array.shape)
                continue
            first, other, other_axis = bound.setdefault(-want - 1, (size, argument, axis))
            if first != size:
                raise ShapeError(format_message(
                    f"{other.name} and {argument.name} must agree in size: axis {other_axis} of "
                    f"{other.name} has {first}, axis {axis} of {argument.name} has {size}.",
                    f"{argument.name} has shape {array.shape}",
                    "; ".join(dict.fromkeys(
                        f"{a.name} at {a.site}" for a in (other, argument) if a.site)),
                    "Pass arrays whose sizes agree along these axes."))
    return [bound[k][0] for k in sorted(bound)]


def _wrong_constant(argument: Argument, axis: int, want: int,
                    shape: tuple[int, ...]) -> ShapeError:
    remedy = f"Pass an array of size {want} along axis {axis}"
    if want == 1:
        remedy += ", or declare the variable without a broadcastable axis there"
    return ShapeError(format_message(
        f"Axis {axis} of {argument.name} must have size {want}, not {shape[axis]}.",
        f"{argument.name} has shape {shape}", argument.site, remedy + "."))


def _apart(array: np.ndarray, shared: list[np.ndarray]) -> np.ndarray:
    """Return the array, or a copy of it when it overlaps storage the call writes."""
    if any(np.may_share_memory(array, other) for other in shared):
        return array.copy()
    return array


def constant_array(dtype: str, shape: tuple[int, ...], data: bytes) -> np.ndarray:
    """Return the array of a constant of an artifact."""
    own = numpy_dtype(dtype)
    little = np.frombuffer(data, own.newbyteorder("<")).reshape(shape)
    return little.astype(own)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for extent in shape:
        result *= extent
    return result
