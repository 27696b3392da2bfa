"""The primitive scalar operations of the loop language, and smart constructors for expressions.

A row states what an operation means (NumPy), the dtypes it takes and gives.  Targets implement
exactly these rows; everything else (``exp``, ``tanh`` ...) is written with them in ``math.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...runtime.artifact import numpy_dtype
from ..dims import DimLike
from ..dtypes import BOOL, FLOATS, HALVES

if TYPE_CHECKING:
    from .ir import Const, Expr


class ScalarOp(NamedTuple):
    """One primitive.

    Attributes
    ----------
    name : str
    arity : int
    accepts : str
        Which dtypes the arguments may have: any of the letters ``b`` (bool), ``i`` (integers),
        ``f`` (floats), ``h`` (halves: stored, not computed with).  All arguments have one dtype,
        except for a condition (see :data:`CHOICES`).
    result : str
        ``same`` (the arguments' dtype), ``bool``, or ``given`` (the node's own dtype decides).
    evaluate : callable
        The meaning, on NumPy arrays or scalars.
    doc : str
    """

    name: str
    arity: int
    accepts: str
    result: str
    evaluate: Callable[..., object]
    doc: str


def _shift_bits(x):
    return np.asarray(x).dtype.itemsize * 8 - 1


def _float_to_int(x, dtype):
    """Convert as the targets do: NaN gives 0, values out of range saturate."""
    x, info = np.asarray(x), np.iinfo(dtype)
    with np.errstate(all="ignore"):
        low, high = x.dtype.type(info.min), x.dtype.type(info.max)
        inside = np.where((x > low) & (x < high), x, 0).astype(dtype)
    result = np.where(x <= low, info.min, np.where(x >= high, info.max, inside))
    return np.where(np.isnan(x), 0, result).astype(dtype)


def convert(x: object, dtype: str) -> np.ndarray:
    """Return ``x`` cast to ``dtype`` with the meaning of the ``cast`` primitive.

    Float to integer truncates towards zero, saturates out of range and maps NaN to 0, on every
    target; integer to integer wraps; anything to bool tests for non-zero; float to float rounds to
    the nearest, ties to even.  To bfloat16 everything is rounded by way of float32.
    """
    x = np.asarray(x)
    with np.errstate(all="ignore"):
        if x.dtype.name in HALVES:
            x = x.astype("float32")
        if x.dtype.kind == "f" and kind_of(dtype) == "i":
            return _float_to_int(x, dtype)
        if dtype == "bfloat16":
            x = x.astype("float32")
        return x.astype(numpy_dtype(dtype))


def _integer_divide(x, y):
    y = np.asarray(y)
    with np.errstate(all="ignore"):
        return np.where(y == 0, 0, np.floor_divide(x, np.where(y == 0, 1, y))).astype(y.dtype)


def _integer_modulo(x, y):
    y = np.asarray(y)
    with np.errstate(all="ignore"):
        return np.where(y == 0, 0, np.mod(x, np.where(y == 0, 1, y))).astype(y.dtype)


def _fused_multiply_add(x, y, z):
    """Return ``x*y + z`` with one rounding (to within the last bit).

    float32 is computed in float64; float64 adds the errors of product and sum, which Dekker's and
    Knuth's error-free transformations give (T. J. Dekker, "A floating-point technique for extending
    the available precision", 1971).
    """
    x, y, z = (np.asarray(value) for value in (x, y, z))
    if x.dtype == np.float32:
        return (x.astype("float64") * y + z).astype("float32")
    product = x * y
    total = product + z
    halves = [(value * 134217729.0) - ((value * 134217729.0) - value) for value in (x, y)]
    tails = [value - half for value, half in zip((x, y), halves)]
    product_error = (((halves[0] * halves[1] - product) + halves[0] * tails[1]
                      + tails[0] * halves[1]) + tails[0] * tails[1])
    part = total - product
    sum_error = (product - (total - part)) + (z - part)
    exact = total + (sum_error + product_error)
    return np.where(np.isfinite(exact), exact, total)


CHOICES = ("select", "shortcut")
"""Primitives whose first argument is a condition, of its own dtype."""

_ROWS = (
    ScalarOp("add", 2, "if", "same", np.add, "sum; integers wrap"),
    ScalarOp("sub", 2, "if", "same", np.subtract, "difference; integers wrap"),
    ScalarOp("sub_rounded", 2, "f", "same", np.subtract,
             "difference of its arguments as they are rounded: no part of a multiply-add"),
    ScalarOp("mul", 2, "if", "same", np.multiply, "product; integers wrap"),
    ScalarOp("div", 2, "f", "same", np.divide, "IEEE quotient"),
    ScalarOp("floordiv", 2, "i", "same", _integer_divide,
             "integer quotient rounded down; x // 0 is 0; min // -1 wraps to min"),
    ScalarOp("mod", 2, "i", "same", _integer_modulo,
             "remainder with the divisor's sign; x % 0 is 0"),
    ScalarOp("fma", 3, "f", "same", _fused_multiply_add,
             "x*y+z with one rounding where the target has it"),
    ScalarOp("neg", 1, "if", "same", np.negative, "negation; flips the sign of zero"),
    ScalarOp("abs", 1, "if", "same", np.abs, "absolute value"),
    ScalarOp("minimum", 2, "if", "same", np.minimum, "smaller; NaN if either is NaN"),
    ScalarOp("maximum", 2, "if", "same", np.maximum, "larger; NaN if either is NaN"),
    ScalarOp("sqrt", 1, "f", "same", np.sqrt, "square root, correctly rounded"),
    ScalarOp("floor", 1, "f", "same", np.floor, "round down"),
    ScalarOp("ceil", 1, "f", "same", np.ceil, "round up"),
    ScalarOp("trunc", 1, "f", "same", np.trunc, "round towards zero"),
    ScalarOp("rint", 1, "f", "same", np.rint, "round to nearest, ties to even"),
    ScalarOp("copysign", 2, "f", "same", np.copysign, "magnitude of x, sign of y"),
    ScalarOp("eq", 2, "bif", "bool", np.equal, "equal; false with NaN"),
    ScalarOp("ne", 2, "bif", "bool", np.not_equal, "different; true with NaN"),
    ScalarOp("lt", 2, "bif", "bool", np.less, "less; false with NaN"),
    ScalarOp("le", 2, "bif", "bool", np.less_equal, "less or equal; false with NaN"),
    ScalarOp("gt", 2, "bif", "bool", np.greater, "greater; false with NaN"),
    ScalarOp("ge", 2, "bif", "bool", np.greater_equal, "greater or equal; false with NaN"),
    ScalarOp("and", 2, "bi", "same", np.bitwise_and, "bitwise and; logical on bool"),
    ScalarOp("or", 2, "bi", "same", np.bitwise_or, "bitwise or; logical on bool"),
    ScalarOp("xor", 2, "bi", "same", np.bitwise_xor, "bitwise exclusive or"),
    ScalarOp("not", 1, "bi", "same", np.invert, "bitwise complement; logical not on bool"),
    ScalarOp("shl", 2, "i", "same", lambda x, y: np.left_shift(x, y & _shift_bits(x)),
             "shift left by y modulo the width"),
    ScalarOp("shr", 2, "i", "same", lambda x, y: np.right_shift(x, y & _shift_bits(x)),
             "shift right by y modulo the width; arithmetic on signed, logical on unsigned"),
    ScalarOp("mulhi", 2, "i", "same",
             lambda x, y: ((np.asarray(x, "uint64") * np.asarray(y, "uint64")) >> np.uint64(32))
             .astype("uint32"), "upper half of the 64-bit product; uint32 only"),
    ScalarOp("select", 3, "bifh", "given", np.where,
             "y where the bool x holds, else z; both are evaluated"),
    ScalarOp("shortcut", 3, "f", "given", np.where,
             "y where the bool x holds, else z, which is right everywhere and costs more"),
    ScalarOp("cast", 1, "bifh", "given", convert,
             "convert to the node's dtype; see scalar.convert; a half from or to float32 only"),
    ScalarOp("bitcast", 1, "ifh", "given", lambda x, dtype: np.asarray(x).view(numpy_dtype(dtype)),
             "the same bits as the node's dtype of equal size"),
)

SCALARS: dict[str, ScalarOp] = {row.name: row for row in _ROWS}


def kind_of(dtype: str) -> str:
    """Return the letter of a dtype's kind: ``b``, ``i``, ``f`` or ``h``."""
    return "b" if dtype == BOOL else "h" if dtype in HALVES else "f" if dtype in FLOATS else "i"


@cache
def _ir() -> ModuleType:
    """Return the module of the nodes: building graphs needs this one, but no loops."""
    from . import ir
    return ir


def const(value: bool | int | float, dtype: str) -> Const:
    """Return a literal of ``dtype``, rounded to it."""
    return _ir().Const(np.asarray(value).astype(numpy_dtype(dtype)).item(), dtype)


def index(dim: DimLike) -> Expr:
    """Return the value of a dim as an int64 expression."""
    return _ir().Const(dim, "int64") if isinstance(dim, int) else _ir().Index(dim)


def apply(name: str, *args: Expr, dtype: str | None = None) -> Expr:
    """Build a primitive operation, folding it when all arguments are literals.

    Parameters
    ----------
    name : str
        A row of :data:`SCALARS`.
    *args : Expr
        Of one dtype (except the condition of :data:`CHOICES`).
    dtype : str, optional
        The result's dtype for ``cast`` and ``bitcast``.
    """
    row = SCALARS[name]
    assert len(args) == row.arity, (name, len(args))
    operands = args[1:] if name in CHOICES else args
    assert len({arg.dtype for arg in operands}) == 1, (name, [arg.dtype for arg in args])
    assert kind_of(operands[0].dtype) in row.accepts, (name, operands[0].dtype)
    if row.result == "bool":
        dtype = "bool"
    elif row.result == "same" or name in CHOICES:
        dtype = operands[0].dtype
    assert dtype is not None, name
    if name == "cast" and args[0].dtype == dtype:
        return args[0]
    literal = _ir().Const
    if name == "cast" and not isinstance(args[0], literal) \
            and _needs_two_steps(args[0].dtype, dtype):
        return _cast_by_single(args[0], dtype)
    if name in CHOICES and (isinstance(args[0], literal) or args[1] is args[2]):
        return args[1] if args[1] is args[2] or args[0].value else args[2]
    if all(isinstance(arg, literal) for arg in args):
        values = [np.asarray(a.value, numpy_dtype(a.dtype)) for a in args]
        return const(evaluate(name, values, dtype), dtype)
    return _ir().Scalar(name, args, dtype)


def _needs_two_steps(source: str, target: str) -> bool:
    """Return whether a conversion is one from or to a half, and the other dtype is not float32."""
    return source != target and "float32" not in (source, target) \
        and (source in HALVES or target in HALVES)


def _cast_by_single(x: Expr, dtype: str) -> Expr:
    """Convert from or to a half by way of float32.

    A float64 on its way to float16 is first rounded to odd, to the digits of a float32: cut off,
    with the last bit set where something was lost.  With two digits more than the result needs and
    two to spare, the second rounding is then that of the original (Boldo and Melquiond, "When
    double rounding is odd", 2005).
    """
    if x.dtype == "float64" and dtype == "float16":
        bits, last = apply("bitcast", x, dtype="uint64"), 1 << 29
        lost = apply("ne", apply("and", bits, const(last - 1, "uint64")), const(0, "uint64"))
        mark = apply("select", lost, const(last, "uint64"), const(0, "uint64"))
        kept = apply("and", bits, const((1 << 64) - last, "uint64"))
        x = apply("bitcast", apply("or", kept, mark), dtype="float64")
    return apply("cast", apply("cast", x, dtype="float32"), dtype=dtype)


def evaluate(name: str, values: list, dtype: str) -> object:
    """Return the value of a primitive on NumPy values: the meaning the targets must meet."""
    row = SCALARS[name]
    with np.errstate(all="ignore"):
        if name in ("cast", "bitcast"):
            return row.evaluate(values[0], dtype)
        return np.asarray(row.evaluate(*values)).astype(numpy_dtype(dtype))
