"""Turn what a user passes into the arrays a compiled function takes, or say why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from .artifact import Argument
from .dtypes import is_float, is_number, numpy_dtype
from .errors import CallError, format_message

_ROUNDED = ("float32", "float16", "bfloat16")
"""What a Python float is rounded to when it is the value of a scalar."""


class Policy(NamedTuple):
    """Which values an argument accepts besides arrays of its own dtype.

    Attributes
    ----------
    strict : bool
        None: only NumPy arrays of exactly the dtype.
    allow_downcast : bool or None
        True: any numbers, rounded or wrapped as NumPy's ``astype`` does.  False: only what keeps
        its value: NumPy's safe casts of arrays; of lists and numbers, those whose values are
        representable.  None: as False, and a Python float for a scalar float32,
        float16 or bfloat16.
    """

    strict: bool = False
    allow_downcast: bool | None = None


DEFAULT_POLICY = Policy()

Converter: TypeAlias = Callable[[object, Argument, Policy], np.ndarray]
"""What makes an argument of a value, or says why not."""


def convert_arguments(name: str, arguments: Sequence[Argument], policies: Sequence[Policy],
                      values: Sequence[object], named: Mapping[str, object],
                      converter: Converter | None = None) -> list[np.ndarray]:
    """Return the arrays for one call.

    Parameters
    ----------
    name : str
        The function's, for messages.
    arguments : sequence of Argument
    policies : sequence of Policy
        One an argument.
    values, named : sequence and mapping of object
        What the user passed by position and by name.
    converter : callable, optional
        What converts one of them; default: :func:`convert`.

    Raises
    ------
    CallError
        When the number of arguments, or one argument's dtype or rank, does not fit.
    """
    if named or len(values) != len(arguments):
        values = _match(name, arguments, values, named)
    one = convert if converter is None else converter
    return [one(value, argument, policy)
            for value, argument, policy in zip(values, arguments, policies, strict=True)]


def _match(name: str, arguments: Sequence[Argument], values: Sequence[object],
           named: Mapping[str, object]) -> list[object]:
    """Put the values passed by position and by name in the order of the arguments."""
    names = [argument.name for argument in arguments]
    rest = names[len(values):]
    wrong = [key for key in named if rest.count(key) != 1]
    if len(values) > len(names) or wrong or len(values) + len(named) < len(names):
        missing = [key for key in rest if key not in named]
        given = f"{len(values)} by position" + (f", by name {', '.join(named)}" if named else "")
        raise CallError(format_message(
            f"{name} takes {len(names)} argument{'s' if len(names) != 1 else ''}"
            f" ({', '.join(names)}).",
            f"given: {given}"
            + (f"; missing: {', '.join(missing)}" if missing and not wrong else "")
            + (f"; unknown, ambiguous or given twice: {', '.join(wrong)}" if wrong else ""),
            remedy="Pass one value for each argument."))
    return [*values, *(named[key] for key in rest)]


def convert(value: object, argument: Argument, policy: Policy = DEFAULT_POLICY) -> np.ndarray:
    """Return ``value`` as a C-contiguous, aligned array of the argument's dtype and rank.

    Arrays that fit are returned as they are; others are converted as ``policy`` allows.

    Raises
    ------
    CallError
    """
    expected = numpy_dtype(argument.dtype)
    if policy.strict and not (isinstance(value, np.ndarray) and value.dtype == expected):
        raise refusal(argument, _describe(value), "it accepts arrays of exactly this dtype only",
                      f"Pass numpy.asarray(value, dtype={argument.dtype!r}).")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise refusal(argument, _describe(value), str(error),
                      "Pass an array or nested lists of equal lengths.") from error
    if array.ndim != len(argument.axes):
        raise refusal(
            argument, _describe(array), "the number of dimensions differs",
            "Reshape the value (value[None] adds an axis), or declare the variable with "
            f"{array.ndim} dimension{'s' if array.ndim != 1 else ''}.")
    if array.dtype != expected:
        array = _cast(value, array, argument, policy)
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype.isnative:
        return array
    return np.array(array, dtype=expected, order="C", copy=True)


def _cast(value: object, array: np.ndarray, argument: Argument, policy: Policy) -> np.ndarray:
    """Cast an array of another dtype, when the policy allows it."""
    expected = numpy_dtype(argument.dtype)
    if not is_number(array.dtype):
        raise refusal(argument, _describe(value if array.dtype == object else array),
                      "it is not made of real numbers",
                      "Pass numbers: an array, a list, or the value of a variable.")
    if policy.allow_downcast or np.can_cast(array.dtype, expected, "safe"):
        return array.astype(expected)
    if not isinstance(value, np.ndarray):
        with np.errstate(all="ignore"):
            cast = array.astype(expected)
            exact = np.array_equal(cast.astype(array.dtype), array,
                                   equal_nan=is_float(expected) and is_float(array.dtype))
        if exact and np.all(np.signbit(cast) == np.signbit(array)):
            return cast
        if policy.allow_downcast is None and isinstance(value, float) \
                and expected.name in _ROUNDED and np.isfinite(cast):
            return cast
    raise refusal(
        argument, _describe(array), "the conversion could lose information",
        f"Pass value.astype({argument.dtype!r}), or compile with allow_input_downcast=True.")


def refusal(argument: Argument, given: str, reason: str, remedy: str) -> CallError:
    """Return the error for a value that does not fit an argument."""
    expected = f"{argument.dtype}, {len(argument.axes)}-dimensional"
    return CallError(format_message(
        f"Argument {argument.name} does not fit: {reason}.",
        f"expected {expected}; given {given}", argument.site, remedy))


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}, {value.ndim}-dimensional, shape {value.shape}"
    return f"an object of type {type(value).__name__}"
