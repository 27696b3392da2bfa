"""Rows of comparisons, logic, bits, classification, choice and conversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact import DtypeError
from .. import dtypes
from ..graph import Constant, TensorType, Variable, describe
from ..loop.scalar import apply, const, convert
from .elementwise import (
    EDGES, NUMBER, ONE, binary, by_kind, comparison, primitive, selection, unary, unchanged)
from .op import (
    ArrayLike, Custom, Inferred, NoDerivative, Partials, Sample, ScalarLowering, as_dtype,
    as_tensor, broadcast_dims, check, promote_arguments)
from .public import builder, row

if TYPE_CHECKING:
    from ..loop.ir import Expr

_SECTION = "Comparison and logic"
_BITS = NoDerivative("it works on bits")

eq = comparison("eq", np.equal, "==", "equal to")
neq = comparison("neq", np.not_equal, "!=", "different from")
lt = comparison("lt", np.less, "<", "less than")
le = comparison("le", np.less_equal, "<=", "at most")
gt = comparison("gt", np.greater, ">", "greater than")
ge = comparison("ge", np.greater_equal, ">=", "at least")

# -- logic and bits --------------------------------------------------------------------------------


def _bitwise(name: str, reference: Callable[..., Any], summary: str, *aliases: str
             ) -> Callable[..., Variable]:
    return binary(name, reference, _BITS, summary, lower=primitive(name.rstrip("_")),
                  accepts="bi", smooth=False, section=_SECTION, aliases=aliases)


and_ = _bitwise("and_", np.bitwise_and, "And: logical on bool, bitwise on integers.",
                "bitwise_and")
or_ = _bitwise("or_", np.bitwise_or, "Or: logical on bool, bitwise on integers.", "bitwise_or")
xor = _bitwise("xor", np.bitwise_xor, "Exclusive or: logical on bool, bitwise on integers.",
               "bitwise_xor")

invert = unary(
    "invert", np.invert, _BITS, "Not: logical on bool, all bits flipped on integers.",
    lower=primitive("not"), accepts="bi", smooth=False, section=_SECTION,
    aliases=("not_", "bitwise_not"))


def _shift(name: str) -> Callable[[Expr, Expr], Expr]:
    """Return the lowering of a shift that is right for every count, as NumPy's is.

    Primitives take the count modulo the width.  A count outside the width, or negative, shifts
    everything out: what remains is 0, or the sign of a signed number shifted right.
    """
    def rule(x: Expr, y: Expr) -> Expr:
        width = 8 * dtypes.SIZES[x.dtype]
        zero = const(0, x.dtype)
        inside = apply("and", apply("ge", y, zero), apply("lt", y, const(width, x.dtype)))
        beyond = zero if name == "shl" else apply("shr", x, const(width - 1, x.dtype))
        if name == "shr" and x.dtype in dtypes.UNSIGNED:
            beyond = zero
        return apply("select", inside, apply(name, x, y), beyond)
    return rule


left_shift = binary(
    "left_shift", np.left_shift, _BITS, "``x * 2**y``; bits shifted out are lost.",
    lower=_shift("shl"), conversion=NUMBER, accepts="i", domain=((-9.0, 9.0), (0.0, 7.0)),
    smooth=False, section=_SECTION)

right_shift = binary(
    "right_shift", np.right_shift, _BITS, "``floor(x / 2**y)``.", lower=_shift("shr"),
    conversion=NUMBER, accepts="i", domain=((-9.0, 9.0), (0.0, 7.0)), smooth=False,
    section=_SECTION)

# -- classification --------------------------------------------------------------------------------


def _never(x: Expr) -> Expr:
    return const(False, "bool")


def _is_infinite(x: Expr) -> Expr:
    return apply("eq", apply("abs", x), const(float("inf"), x.dtype))


def _is_finite(x: Expr) -> Expr:
    return apply("lt", apply("abs", x), const(float("inf"), x.dtype))


def _classify(name: str, reference: Callable[..., Any], summary: str, lower: Callable[..., Expr],
              otherwise: Callable[..., Expr]) -> Callable[..., Variable]:
    return unary(name, reference, NoDerivative("it is a yes or no"), summary, result="bool",
                 lower=by_kind(f=lower, bi=otherwise), smooth=False, section=_SECTION)


isnan = _classify("isnan", np.isnan, "Whether x is NaN.", lambda x: apply("ne", x, x), _never)
isinf = _classify("isinf", np.isinf, "Whether x is plus or minus infinity.", _is_infinite, _never)
isfinite = _classify("isfinite", np.isfinite, "Whether x is neither NaN nor infinite.",
                     _is_finite, lambda x: const(True, "bool"))

# -- choice ----------------------------------------------------------------------------------------



def _infer_switch(cond: Variable, ift: Variable, iff: Variable) -> Inferred:
    check(cond.type.dtype == dtypes.BOOL and ift.type.dtype == iff.type.dtype, DtypeError,
          "switch takes a bool condition and two branches of one dtype.",
          ", ".join(f"{describe(v)} {v.type}" for v in (cond, ift, iff)),
          "compare the condition with something, for instance T.neq(x, 0); cast a branch")
    dims, guards = broadcast_dims("switch", (cond, ift, iff))
    return (TensorType(ift.type.dtype, dims),), guards


def switch(cond: ArrayLike, ift: ArrayLike, iff: ArrayLike) -> Variable:
    """Choose elementwise: ``ift`` where ``cond`` holds, else ``iff``.

    Both branches are computed; what is not chosen, infinite or NaN, does not spoil the result nor,
    since cotangents are chosen in the same way, its derivative.

    Parameters
    ----------
    cond : tensor
        Not bool: whether it differs from 0.
    ift, iff : tensors
        Promoted as NumPy does; all three broadcast together.

    Returns
    -------
    Variable

    Examples
    --------
    >>> T.switch([True, False], 1.0, [2.0, 3.0]).eval()
    array([1., 3.])
    """
    return _SWITCH(cast(cond, dtypes.BOOL), *promote_arguments((ift, iff)))


_SWITCH = row(
    switch, kind="elementwise", infer=_infer_switch, reference=np.where,
    derivative=selection(lambda cond, ift, iff: [None, cond, invert(cond)]),
    lower=ScalarLowering(primitive("select")),
    samples=(Sample(((3, 4),) * 3, (("bool", "float64", "float64"), ("bool", "float32", "float32"),
                                    ("bool", "int8", "int8"), ("bool", "bool", "bool"))),
             Sample(((4,), (3, 1), ()), (("bool", "float64", "float64"),)),
             Sample(((4,), (3, 1), (4,)), (("float64", "int32", "float32"),),
                    reference=lambda c, x, y: np.where(c, x, y), differentiable=False)),
    edges=EDGES, section=_SECTION, aliases=("where",))

# -- conversion ------------------------------------------------------------------------------------


def cast(x: ArrayLike, dtype: Any) -> Variable:
    """Convert to another dtype.

    Float to integer truncates towards zero, saturates out of range and maps NaN to 0; integer to
    integer wraps; anything to bool tests for non-zero.

    Parameters
    ----------
    x : tensor
    dtype : str, or NumPy dtype
        ``"floatX"`` stands for the configured float type.

    Returns
    -------
    Variable
        ``x`` itself if it has that dtype already.

    Notes
    -----
    The derivative from float to float is cast back; there is none through integers or bool.

    Examples
    --------
    >>> T.cast([1.9, -1.9, 300.0], "int8").eval()
    array([  1,  -1, 127], dtype=int8)
    """
    x, dtype = as_tensor(x), as_dtype(dtype)
    if x.dtype == dtype:
        return x
    if isinstance(x, Constant) and x.ndim == 0:
        return Constant(convert(x.data, dtype), name=x.name)
    return _CAST(x, dtype=dtype)


def _cast_vjp(cotangents, inputs, outputs, dtype):
    return [None if cotangents[0] is None else cast(cotangents[0], inputs[0].dtype)]


def _cast_jvp(tangents, inputs, outputs, dtype):
    is_float = dtypes.is_float(dtype) and tangents[0] is not None
    return [cast(tangents[0], dtype) if is_float else None]


_CAST = row(
    cast, kind="elementwise",
    infer=lambda x, dtype: ((TensorType(dtype, x.type.dims),), ()),
    reference=lambda x, dtype: convert(x, dtype), derivative=Custom(_cast_vjp, _cast_jvp),
    lower=ScalarLowering(lambda x, dtype: apply("cast", x, dtype=dtype)),
    samples=tuple(
        Sample(((3, 4),), tuple((d,) for d in dtypes.COMPUTED),
               call=lambda function, x, dtype=dtype: function(x, dtype),
               reference=lambda x, dtype=dtype: convert(x, dtype), domain=((-300.0, 300.0),),
               differentiable=dtype == "float64")
        for dtype in dtypes.COMPUTED),
    edges=(*EDGES, 127.5, -128.5, 2.0 ** 31, 2.0 ** 63, -2.0 ** 63, 2.0 ** 64),
    section="Conversion")


tensor_copy = unary(
    "copy", np.copy, Partials(lambda x, z: [ONE]), "The same value as a new variable.",
    lower=unchanged, cost=0.0, section="Conversion", aliases=("tensor_copy", "identity"))


@builder("T", "second")
def fill(a: ArrayLike, b: ArrayLike) -> Variable:
    """Return ``b`` broadcast against ``a``, whose values do not matter.

    Parameters
    ----------
    a : tensor
        Gives the shape.
    b : tensor
        Broadcasts with ``a``.

    Returns
    -------
    Variable
        Of the dtype of ``b``.

    Examples
    --------
    >>> T.fill(T.zeros((2, 2)), 7.0).eval()
    array([[7., 7.],
           [7., 7.]])
    """
    b = as_tensor(b)
    return switch(True, b, cast(a, b.dtype))
