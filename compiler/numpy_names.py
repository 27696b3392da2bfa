"""NumPy's names for what the op table calls otherwise: how ``np.exp(x)`` finds ``exp``.

A NumPy function called with a symbolic variable asks the variable what to do (NEP 13 and NEP 18);
the answer is the table's function of the same meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

UFUNCS = {
    "subtract": "sub", "multiply": "mul", "divide": "true_div", "floor_divide": "floordiv",
    "remainder": "mod", "power": "pow", "float_power": "pow", "negative": "neg", "absolute": "abs_",
    "fabs": "abs_", "sign": "sgn", "rint": "round", "square": "sqr", "reciprocal": "inv",
    "equal": "eq", "not_equal": "neq", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge", "bitwise_and": "and_", "bitwise_or": "or_", "bitwise_xor": "xor",
    "bitwise_not": "invert", "bitwise_invert": "invert", "logical_and": "and_",
    "logical_or": "or_", "logical_xor": "xor", "logical_not": "invert",
    "bitwise_left_shift": "left_shift", "bitwise_right_shift": "right_shift",
    "asin": "arcsin", "acos": "arccos", "atan": "arctan",
    "atan2": "arctan2"}
"""Universal functions whose names differ."""

LOGICAL = ("logical_and", "logical_or", "logical_xor", "logical_not")
"""Universal functions whose arguments count as true or false."""

FUNCTIONS_OF_NUMPY = {
    "where": "switch", "amax": "max", "amin": "min", "permute_dims": "transpose",
    "concat": "concatenate", "around": "round", "round_": "round", "ravel": "flatten"}
"""Other functions whose names differ."""


def call_ufunc(functions: Mapping[str, Callable[..., Any]], ufunc: Any, method: str,
               inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Return a universal function of symbolic arguments, or NotImplemented if there is none."""
    name = UFUNCS.get(ufunc.__name__, ufunc.__name__)
    if method == "reduce" and not {"where", "initial", "out"} & options.keys():
        reduction = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min",
                     "logical_and": "all", "logical_or": "any"}.get(ufunc.__name__)
        if reduction is not None:
            axis = options.get("axis", inputs[1] if len(inputs) > 1 else 0)
            return functions[reduction](inputs[0], axis=axis,
                                        keepdims=options.get("keepdims", False))
    if method != "__call__" or options or name not in functions:
        return NotImplemented
    if ufunc.__name__ in LOGICAL:
        inputs = [functions["neq"](value, 0) for value in inputs]
    return functions[name](*inputs)


def call_function(functions: Mapping[str, Callable[..., Any]], function: Any,
                  args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Return any other NumPy function of symbolic arguments, or NotImplemented if there is none."""
    name = FUNCTIONS_OF_NUMPY.get(function.__name__, function.__name__)
    if name == "size" and len(args) == 1 and not options:
        return args[0].size
    cuts_at = name == "split" and not isinstance((*args, *options.values())[1], int)
    if function.__module__ != "numpy" or name not in functions or name == "size" or cuts_at:
        return NotImplemented
    return functions[name](*args, **options)
