"""A compiled function as plain data: machine code, the arguments it takes, what it returns.

This is the one module that the compiler and the runtime share; the disk cache stores its objects.

The code exports two functions (C ABI, 64-bit integers ``i64``):

``i64 plan(const i64 *symbols, i64 *results)``
    Checks the guards; returns 0, or the 1-based number of the first guard that fails, or -1 when
    a size overflows.  Fills ``results[0]`` with the arena's bytes, and from ``results[1]`` on the
    dims of all outputs, one output after the other.

``i64 run(const i64 *symbols, char **pointers, char *arena, i64 *status)``
    Runs the steps.  ``pointers`` lists the data of inputs, shared variables, outputs and constants,
    in this order; the arena is 64-byte aligned.  Returns 0, or ``INTERRUPTED``, or the positive
    code of a failure, which is then also in ``status[0]`` with the offending value in
    ``status[1]``.  ``status`` must be zeroed by the caller.

``symbols`` holds first the symbols bound by axes of arguments, then those the prologue computes.

The code imports, by these names, what the runtime provides (see ``EXTERNALS``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .dtypes import numpy_dtype  # noqa: F401  (the compiler takes this and the errors from here)
from .errors import (  # noqa: F401
    CallError, CompileError, DtypeError, GradientError, IndexOutOfRangeError, InternalError,
    ShapeError, TetractysError, format_message,
)

INTERRUPTED = -1

EXTERNALS = {
    "tx_parallel_for": "void (void (*body)(i64 *frame, i64 begin, i64 end), i64 *frame, i64 count,"
                       " i64 grain): runs body over [0, count) in chunks of a multiple of grain",
    "tx_parallel_until": "i64 (body, frame, count, grain as above, i64 may_stop, i64 is_long): when"
                         " may_stop is set it leaves out the rest once the user interrupted the"
                         " call, and then returns non-zero; is_long tells that it pays to wake"
                         " threads that sleep",
    "tx_poll": "i64 (): 0, or non-zero when the user interrupted the call",
    "cblas_sgemm": "CBLAS single-precision matrix product, 32-bit integers",
    "cblas_dgemm": "CBLAS double-precision matrix product, 32-bit integers",
}
"""Functions the runtime offers to compiled code, with their C types."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An input or a shared variable.

    Attributes
    ----------
    name : str
        For messages.
    dtype : str
        NumPy name; arrays must be C-contiguous, aligned and in native byte order.
    axes : tuple of int
        One an axis: ``v >= 0`` demands that size; ``-(k + 1)`` is symbol ``k``: the first axis (in
        the order inputs, shared) that names ``k`` binds it, later ones must be equal.
    site : str
        The user's line that created the variable.
    """

    name: str
    dtype: str
    axes: tuple[int, ...]
    site: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """A result: a fresh C-contiguous array.

    Attributes
    ----------
    dtype : str
    rank : int
    shared : int or None
        When set, the result is not returned: it replaces the storage of shared variable ``shared``
        (an update that may change the shape).
    """

    dtype: str
    rank: int
    shared: int | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """An array embedded in the program: raw C-contiguous little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Artifact:
    """Everything needed to run one variant of a function.

    Attributes
    ----------
    name : str
    target : str
        ``cpu`` here; says which runtime loads the code.
    code : tuple of bytes
        For the CPU: relocatable object files, linked together, exporting ``plan`` and ``run`` under
        the names ``symbol_plan`` and ``symbol_run``.
    inputs, shared : tuple of Argument
    outputs : tuple of Output
    constants : tuple of Constant
    symbol_count : int
    symbol_names : tuple of str
        For messages.
    guards : tuple of str
        The message of each guard.  ``{0}`` and ``{1}`` are its two sizes.
    guard_kinds : tuple of str
        The class of ``errors`` each guard raises; ``ShapeError`` where it has no entry.
    guard_sizes : tuple of (str, str)
        Python expressions over ``s[k]`` (and ``min``, ``max``) that compute the two sizes.
    failures : tuple of (str, str)
        ``(kind, message)`` of each failure code from 1 on; ``kind`` names a class of ``errors``,
        ``{value}`` in the message is the offending value.
    prologue : Artifact or None
        Takes the same inputs and shared variables; its outputs (int64 scalars) are the last
        ``len(prologue.outputs)`` symbols.
    updates_in_place : bool
        Whether ``run`` writes to shared storage.
    work : str
        Python expression over ``s[k]``: estimated picoseconds of a call (to decide whether
        releasing the GIL pays).
    externals : tuple of str
        Names from ``EXTERNALS`` the code imports.
    """

    name: str
    target: str
    code: tuple[bytes, ...]
    inputs: tuple[Argument, ...]
    shared: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    constants: tuple[Constant, ...]
    symbol_count: int
    symbol_names: tuple[str, ...]
    guards: tuple[str, ...] = ()
    guard_sizes: tuple[tuple[str, str], ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    prologue: Artifact | None = None
    updates_in_place: bool = False
    work: str = "0"
    externals: tuple[str, ...] = ()
    symbol_plan: str = "tx_plan"
    symbol_run: str = "tx_run"
    notes: dict[str, str] = field(default_factory=dict)
    """Optional texts for ``explain``: ``llvm``, ``assembly``."""
    guard_kinds: tuple[str, ...] = ()
