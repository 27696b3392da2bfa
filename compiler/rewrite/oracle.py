"""The true value of an expression: evaluation with more digits than the exponent range.

With fewer, ``1 + 1e-300`` is 1 for the oracle too, and it condemns rules that are right.  A sum
that loses a term entirely, even so, is not decided: such points get ``None`` and are not judged.
Undefined values are NaN: logarithms of negative numbers, and poles, whose sign is that of a zero,
which mathematics does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf

from ...runtime.artifact import InternalError
from ..graph import Apply, Constant, Variable, toposort

BITS = (2300, 16_000)
"""Working precisions, tried in turn: the first exceeds the bits between the largest and the
smallest double, the second those of ``exp(+-1e4)``."""

_UNDEFINED = mpf("nan")
_FAR = mpf(1000)
"""Where erf is 1 and erfc is 0 for every float dtype."""


def true_values(output: Variable, values: Mapping[Variable, np.ndarray],
                is_pointwise: bool = False) -> np.ndarray:
    """Return the exact values of a graph: an object array of ``mpf``, None where undecided.

    Parameters
    ----------
    output : Variable
    values : mapping of Variable to array
        The machine numbers at the inputs, taken as exact.
    is_pointwise : bool
        All arrays are vectors of independent points: only the undecided ones are tried again.

    Raises
    ------
    InternalError
        If the graph has an op the oracle does not know.
    """
    with mp.workprec(BITS[0]):
        result = _evaluate(output, values)
    undecided = np.array([value is None for value in result.flat]).reshape(result.shape)
    if undecided.any():
        with mp.workprec(BITS[1]):
            if is_pointwise:
                result[undecided] = _evaluate(output, {v: a[undecided] for v, a in values.items()})
            else:
                result = _evaluate(output, values)
    return result


def _evaluate(output: Variable, values: Mapping[Variable, np.ndarray]) -> np.ndarray:
    exact: dict[Variable, np.ndarray] = {v: _exact(a) for v, a in values.items()}
    for node in toposort([output], stop=values):
        arrays = [exact[i] if i in exact else _leaf(i) for i in node.inputs]
        result = np.asarray(_apply(node, arrays))
        exact[node.outputs[0]] = result if result.dtype != object else _ensure_exact(result)
    return exact[output] if output in exact else _leaf(output)


def _leaf(variable: Variable) -> np.ndarray:
    if not isinstance(variable, Constant):
        raise InternalError(f"the oracle has no value of {variable!r}")
    return _exact(variable.data)


def _exact(array: np.ndarray) -> np.ndarray:
    """Return floats as ``mpf``; integers and bool stay as they are."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    return _ensure_exact(array.astype(np.float64).astype(object))


def _ensure_exact(array: np.ndarray) -> np.ndarray:
    result = np.empty(array.shape, object)
    for place in np.ndindex(array.shape):
        value = array[place]
        result[place] = value if value is None or isinstance(value, (mpf, bool, np.bool_)) \
            else mpf(value)
    return result


def _apply(node: Apply, arrays: Sequence[np.ndarray]) -> Any:
    name = node.op.name
    if name == "size" or (name == "broadcast_to" and any(
            i.owner is not None and i.owner.op.name == "size" for i in node.inputs)):
        return arrays[0] if arrays else np.asarray(0)  # NumPy broadcasts where it is used.
    if name in _SCALAR:
        return np.frompyfunc(_SCALAR[name], len(arrays), 1)(*arrays)
    if name in _ARRAYS:
        return _ARRAYS[name](*arrays, **node.params)
    if name in _MOVING:
        return node.op.reference(*arrays, **node.params)
    raise InternalError(f"the oracle does not know the op {name!r}")


# -- scalar functions ------------------------------------------------------------------------------

def _defined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with NaN where it is complex or has a pole."""
    def evaluate(*args: Any) -> Any:
        if any(a is None for a in args):
            return None
        numbers = [mpf(int(a)) if isinstance(a, (bool, np.bool_, int, np.integer)) else a
                   for a in args]
        if any(mpmath.isnan(a) for a in numbers):
            return _UNDEFINED
        try:
            result = function(*numbers)
        except (ZeroDivisionError, ValueError):
            return _UNDEFINED
        if result is None or isinstance(result, mpf):
            return result
        return _UNDEFINED if isinstance(result, mpmath.mpc) else mpf(result)
    return evaluate


def _sum_of(x: mpf, y: mpf) -> mpf | None:
    """Return ``x + y``, or None when a term is lost."""
    result = x + y
    is_lost = x and y and (result == x or result == y) and mpmath.isfinite(result)
    return None if is_lost else result


def _one_plus_exp(x: mpf) -> mpf | None:
    return _sum_of(mpf(1), _exponential(x))


def _quotient(x: mpf, y: mpf | None) -> mpf | None:
    return None if y is None else x / y


def _power(x: mpf, y: mpf) -> Any:
    if y == 0:
        return mpf(1)
    if mpmath.isinf(x) and x < 0:
        if y != int(y):
            return _UNDEFINED
        return mpf(0) if y < 0 else mpf("-inf") if int(y) % 2 else mpf("inf")
    return mp.power(x, y)


def _exponential(x: mpf) -> mpf:
    return mpf(0) if x == mpf("-inf") else x if x == mpf("inf") else mp.exp(x)


def _logarithm(x: mpf) -> mpf:
    return mpf("-inf") if x == 0 else mp.log(x)


_SCALAR: dict[str, Callable[..., Any]] = {name: _defined(function) for name, function in {
    "add": _sum_of, "sub": lambda x, y: _sum_of(x, -y), "mul": lambda x, y: x * y,
    "true_div": lambda x, y: x / y, "neg": lambda x: -x, "abs_": abs, "sqr": lambda x: x * x,
    "sqrt": mp.sqrt, "inv": lambda x: 1 / x, "pow": _power, "copy": lambda x: x,
    "exp": _exponential, "expm1": lambda x: _sum_of(_exponential(x), mpf(-1)), "log": _logarithm,
    "log1p": mp.log1p, "sigmoid": lambda x: _quotient(mpf(1), _one_plus_exp(-x)),
    "softplus": lambda x: _defined(_logarithm)(_one_plus_exp(x)),
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "arcsin": mp.asin, "arctan": mp.atan,
    "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh,
    "erf": lambda x: mp.erf(max(min(x, _FAR), -_FAR)),
    "erfc": lambda x: mp.erfc(max(min(x, _FAR), -_FAR)),
    "floor": mp.floor, "ceil": mp.ceil, "maximum": max, "minimum": min,
    "trunc": lambda x: mp.floor(x) if x > 0 else mp.ceil(x),
}.items()}
_SCALAR["switch"] = lambda condition, x, y: x if condition else y

_MOVING = frozenset({"dimshuffle", "reshape", "broadcast_to", "subtensor", "advanced_subtensor"})


# -- functions of arrays ---------------------------------------------------------------------------

def _add(x: Any, y: Any) -> Any:
    return _SCALAR["add"](x, y)


def _reduce(function: Callable[[Any, Any], Any], start: Any) -> Callable[..., np.ndarray]:
    def reduce(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        rows = np.transpose(x, (*kept, *axes)).reshape(*(x.shape[axis] for axis in kept), -1) \
            if x.size else np.empty((*(x.shape[axis] for axis in kept), 0), object)
        result = np.empty(rows.shape[:-1], object)
        for place in np.ndindex(result.shape):
            total = start
            for value in rows[place]:
                total = value if total is None else function(total, value)
            result[place] = total
        return result
    return reduce


_sum = _reduce(_add, mpf(0))


def _keep(x: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    return x.reshape([1 if axis in axes else size for axis, size in enumerate(shape)])


def _softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    powers = np.frompyfunc(_SCALAR["exp"], 1, 1)(x)
    totals = _keep(_sum(powers, axes), x.shape, axes)
    return np.frompyfunc(_SCALAR["true_div"], 2, 1)(powers, totals)


def _logsumexp(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    powers = np.frompyfunc(_SCALAR["exp"], 1, 1)(x)
    return np.asarray(np.frompyfunc(_SCALAR["log"], 1, 1)(_sum(powers, axes)), object)


def _logsoftmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.frompyfunc(_SCALAR["sub"], 2, 1)(x, _keep(_logsumexp(x, axes), x.shape, axes))


def _contract(a: np.ndarray, b: np.ndarray, batch: int, inner: int) -> np.ndarray:
    rows, columns = a.ndim - batch - inner, b.ndim - batch - inner
    products = np.frompyfunc(_SCALAR["mul"], 2, 1)(
        a[(..., *[None] * columns)], b[(slice(None),) * batch + (None,) * rows + (...,)])
    return _sum(np.asarray(products, object), tuple(range(batch + rows, batch + rows + inner)))


_ARRAYS: dict[str, Callable[..., np.ndarray]] = {
    "sum": _sum, "prod": _reduce(_SCALAR["mul"], mpf(1)),
    "max": _reduce(_SCALAR["maximum"], None), "min": _reduce(_SCALAR["minimum"], None),
    "softmax": _softmax, "logsumexp": _logsumexp, "logsoftmax": _logsoftmax,
    "contract": _contract,
    "cast": lambda x, dtype: x if x.dtype == object else _exact(x.astype(dtype)),
}
