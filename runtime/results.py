"""Where the results of a call go: fresh arrays, arrays of the caller's (``out=``), or reused ones.

``destinations`` checks what the caller passed; ``deliver`` gives the results back in the structure
in which the outputs were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .artifact import Artifact
from .dtypes import numpy_dtype
from .errors import CallError, ShapeError, format_message

_FRESH = "Pass numpy.empty(shape, dtype), or leave it out: then a fresh array is returned."


def destinations(name: str, out: object, count: int, single: bool,
                 keys: Sequence[str] | None) -> list[object]:
    """Return what the caller passed for each output, None where nothing.

    Parameters
    ----------
    name : str
        The function's, for messages.
    out : object
        None, or in the structure of the outputs: an array, a list or tuple, a mapping by key.
    count : int
        Number of outputs.
    single : bool
        Whether a call returns its only output itself.
    keys : sequence of str or None
        Keys, when it returns a dict.

    Raises
    ------
    CallError
        When the structure differs.
    """
    if out is None:
        return [None] * count
    if single:
        return [out]
    if keys is not None:
        unknown = [key for key in out if key not in keys] if isinstance(out, Mapping) else []
        if not isinstance(out, Mapping) or unknown:
            raise CallError(format_message(
                f"out of {name} must be a dict of arrays with the keys {', '.join(keys)}.",
                f"unknown keys: {', '.join(map(repr, unknown))}" if unknown
                else f"given an object of type {type(out).__name__}", remedy=_FRESH))
        return [out.get(key) for key in keys]
    if not isinstance(out, (list, tuple)) or len(out) != count:
        given = f"{len(out)}" if isinstance(out, (list, tuple)) \
            else f"an object of type {type(out).__name__}"
        raise CallError(format_message(
            f"out of {name} must be a list of {count} array{'s' if count != 1 else ''}, one an "
            "output (None for a fresh one).", f"given {given}", remedy=_FRESH))
    return list(out)


class Destinations(NamedTuple):
    """Which arrays a device's functions write results into.

    Attributes
    ----------
    kinds : tuple of type
    words : str
        The kinds, for messages.
    overlap : callable
        Whether two arrays may share memory.
    """

    kinds: tuple[type, ...]
    words: str
    overlap: Callable[[object, object], bool]


HOST = Destinations((np.ndarray,), "NumPy arrays", np.may_share_memory)


def check_destinations(artifact: Artifact, shapes: Sequence[tuple[int, ...]],
                       given: Sequence[object], shared: Sequence[np.ndarray],
                       accepted: Destinations = HOST) -> None:
    """Check that results can be written straight into the arrays the caller passed.

    Raises
    ------
    CallError
        For what is no array, has another dtype, is not C-contiguous, aligned and writable, or
        shares memory with another one or with a shared variable.
    ShapeError
        For another shape.
    """
    for number, (array, shape) in enumerate(zip(given, shapes, strict=True)):
        if array is None:
            continue
        dtype = numpy_dtype(artifact.outputs[number].dtype)
        title = f"out of {artifact.name}" + (f", output {number}" if len(given) > 1 else "")
        if not isinstance(array, accepted.kinds):
            raise CallError(format_message(
                f"{title}: results are written into {accepted.words} only.",
                f"expected {dtype} of shape {shape}; given an object of type "
                f"{type(array).__name__}", remedy=_FRESH))
        values = f"expected {dtype} of shape {shape}; given {array.dtype} of shape {array.shape}"
        if array.dtype != dtype:
            raise CallError(format_message(
                f"{title}: the array has another dtype.", values, remedy=_FRESH))
        if array.shape != shape:
            raise ShapeError(format_message(
                f"{title}: the array has another shape.", values, remedy=_FRESH))
        flags = array.flags
        wrong = [word for word, good in (
            ("C-contiguous", flags.c_contiguous), ("aligned", flags.aligned),
            ("writable", flags.writeable)) if not good]
        if wrong:
            raise CallError(format_message(
                f"{title}: the array is not {' and not '.join(wrong)}.", values, remedy=_FRESH))
        others = [*shared, *(a for a in given[:number] if a is not None)]
        if any(accepted.overlap(array, other) for other in others):
            raise CallError(format_message(
                f"{title}: the array shares memory with a shared variable or with another output.",
                values, remedy="Pass an array of its own for each output."))


def fits(array: np.ndarray | None, dtype: str, shape: tuple[int, ...]) -> bool:
    """Return whether a result of this dtype and shape can be written into an array of our own."""
    return array is not None and array.dtype == dtype and array.shape == shape \
        and array.flags.carray


def deliver(results: list[np.ndarray], single: bool,
            keys: Sequence[str] | None) -> np.ndarray | list[np.ndarray] | dict[str, np.ndarray]:
    """Return results as the outputs were asked for: itself, a list, or a dict."""
    if keys is not None:
        return dict(zip(keys, results, strict=True))
    return results[0] if single else results
