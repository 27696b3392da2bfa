"""Parameters: from what a user may give for one to a variable, and back to shared variables."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

import tetractys as tx

from .. import tensor as T
from ..graph import inputs
from ..runtime.errors import ArgumentError, ShapeError, format_message
from ..shared import SharedVariable, shared

ParameterValue: TypeAlias = "float | np.ndarray | T.Variable"
ParameterSpec: TypeAlias = "ParameterValue | Callable[[tuple[int, ...]], ParameterValue]"


def create_param(spec: ParameterSpec, shape: Sequence[int], name: str | None = None) -> T.Variable:
    """Return a parameter: a new shared variable, or the given variable after a check.

    Parameters
    ----------
    spec : number, array, callable, shared variable or expression
        An array becomes a shared variable of its dtype, a number one of ``config.floatX``; a
        callable, such as an initialiser, is called with the shape and returns one of the others.
    shape : sequence of int
        What the parameter must have; a new shared variable has it for good.
    name : str, optional
        Given to the variable unless it has a name.

    Raises
    ------
    ShapeError
        If ``shape`` is not all positive integers, or the value has another shape.
    ArgumentError
        If ``spec`` is something else.

    Examples
    --------
    >>> create_param(np.zeros((2, 3), "float32"), (2, 3), name="W").type.shape
    (2, 3)
    """
    shape, label = tuple(shape), name or "a parameter"
    if not all(isinstance(size, numbers.Integral) and size > 0 for size in shape):
        raise ShapeError(format_message(
            f"The sizes of {label} must be positive integers.", values=f"shape {shape}",
            remedy="give the layers below a shape in which these sizes are known"))
    value = spec(shape) if callable(spec) and not isinstance(spec, T.Variable) else spec
    if isinstance(value, T.Variable):
        return _checked_variable(value, shape, name)
    if isinstance(value, numbers.Number) and not isinstance(value, np.generic):
        value = np.asarray(value, tx.config.floatX)
    if not isinstance(value, (np.ndarray, np.generic)):
        origin = "What was given for" if value is spec else f"{spec!r} returned as"
        raise ArgumentError(format_message(
            f"{origin} {label} is no parameter.", values=f"{type(value).__name__}",
            remedy="use a number, an array, a shared variable, an expression, or a callable that "
                   "takes the shape and returns one of these"))
    value = np.asarray(value)
    if value.shape != shape:
        raise ShapeError(_disagreement(label, str(value.shape), shape))
    return shared(value, name=name, shape=shape)


def _checked_variable(variable: T.Variable, shape: tuple[int, ...],
                      name: str | None) -> T.Variable:
    """Return the variable, named; refuse one that is known not to have the shape."""
    known = variable.get_value(borrow=True).shape if isinstance(variable, SharedVariable) \
        else variable.type.shape
    if len(known) != len(shape) or any(
            own is not None and own != size for own, size in zip(known, shape)):
        raise ShapeError(_disagreement(name or "a parameter", f"{variable!r} {known}", shape))
    if not variable.name:
        variable.name = name
    return variable


def _disagreement(label: str, found: str, shape: tuple[int, ...]) -> str:
    return format_message(f"The value of {label} does not have the shape its layer needs.",
                          values=f"given {found}, needed {shape}",
                          remedy="give a value of that shape, or an initialiser")


def collect_shared_vars(expressions: T.Variable | Iterable[T.Variable]) -> list[SharedVariable]:
    """Return the shared variables that expressions are made of, each once, in order.

    Parameters
    ----------
    expressions : Variable or iterable of Variable
    """
    several = [expressions] if isinstance(expressions, T.Variable) else expressions
    found = (variable for expression in several for variable in inputs(expression))
    return list(dict.fromkeys(v for v in found if isinstance(v, SharedVariable)))
