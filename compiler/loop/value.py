"""Expressions written with operators: how the scalar mathematics spells the loop language.

A :class:`Value` is an expression together with the :class:`ExprCache` that makes equal
operations on equal nodes one node, so ``sigmoid(x)`` and ``softplus(x)`` share their exponential.
What enters is an expression; what leaves is ``Value.expr``, made of primitives only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...runtime.artifact import numpy_dtype
from .ir import Const, Expr
from .scalar import apply, const


class Format(NamedTuple):
    """An IEEE binary format.

    Attributes
    ----------
    dtype : str
    bits : str
        The unsigned integer dtype of the same size.
    mantissa : int
        Stored bits of the fraction.
    bias : int
        Added to the exponent.
    """

    dtype: str
    bits: str
    mantissa: int
    bias: int

    @property
    def sign(self) -> int:
        """The bit of the sign."""
        return 1 << (8 * np.dtype(self.dtype).itemsize - 1)

    @property
    def one(self) -> int:
        """The bits of 1.0."""
        return self.bias << self.mantissa

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0 ** (1 - self.bias)


FORMATS = {
    "float32": Format("float32", "uint32", 23, 127),
    "float64": Format("float64", "uint64", 52, 1023),
}


class Style(NamedTuple):
    """What scalar functions are built for, where one formula is not the best for all.

    Attributes
    ----------
    branches : bool
        Whether :func:`shortcut` makes nodes, for a target that can branch.
    shares : bool
        Whether several functions of an argument, or of it and its negative, are wanted together:
        then those of ``exp(x)`` are made of ``exp(-|x|)``.
    """

    branches: bool = False
    shares: bool = False


@dataclass(slots=True, eq=False)
class ExprCache:
    """Hash-consing of expressions: the same primitive on the same nodes is the same node.

    Give one cache to all builders of a kernel and their common parts are computed once.  It holds
    its nodes, so a node's ``id`` stays its own while the cache lives.

    Attributes
    ----------
    style : Style
        What the functions are built for.
    """

    style: Style = Style()
    nodes: dict[tuple[object, ...], tuple[tuple[Expr, ...], Expr]] = field(default_factory=dict)

    def apply(self, name: str, *args: Expr, dtype: str | None = None) -> Expr:
        """Return the node of a primitive, as :func:`scalar.apply` builds it, made only once."""
        key = (name, dtype, *map(id, args))
        found = self.nodes.get(key)
        if found is None:
            found = self.nodes[key] = (args, apply(name, *args, dtype=dtype))
        return found[1]

    def const(self, value: bool | int | float, dtype: str) -> Const:
        """Return the literal's node; zeros of either sign and NaNs are told apart by their bits."""
        literal = const(value, dtype)
        key = ("const", dtype, np.asarray(literal.value, numpy_dtype(dtype)).tobytes())
        node = self.nodes.setdefault(key, ((), literal))[1]
        assert isinstance(node, Const)
        return node


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An expression with Python's operators, whose results share one cache.

    Numbers on either side of an operator take the value's dtype.
    """

    expr: Expr
    cache: ExprCache

    @property
    def dtype(self) -> str:
        """The expression's dtype."""
        return self.expr.dtype

    @property
    def format(self) -> Format:
        """The floating-point format of the expression's dtype."""
        return FORMATS[self.dtype]

    def like(self, number: Operand) -> Value:
        """Return ``number`` as a literal of this value's dtype; a value stays as it is."""
        if isinstance(number, Value):
            return number
        return Value(self.cache.const(number, self.dtype), self.cache)

    def op(self, name: str, *others: Operand, dtype: str | None = None) -> Value:
        """Return primitive ``name`` of this value and ``others``."""
        args = [self.like(other).expr for other in others]
        return Value(self.cache.apply(name, self.expr, *args, dtype=dtype), self.cache)

    def cast(self, dtype: str) -> Value:
        """Return the value converted to ``dtype``."""
        return self.op("cast", dtype=dtype)

    def view(self, dtype: str) -> Value:
        """Return the value's bits as ``dtype``."""
        return self.op("bitcast", dtype=dtype)

    def bits(self) -> Value:
        """Return a float's bits as an unsigned integer."""
        return self.view(self.format.bits)

    def __add__(self, other: Operand) -> Value:
        return self.op("add", other)

    def __radd__(self, other: Operand) -> Value:
        return self.like(other).op("add", self)

    def __sub__(self, other: Operand) -> Value:
        return self.op("sub", other)

    def __rsub__(self, other: Operand) -> Value:
        return self.like(other).op("sub", self)

    def __mul__(self, other: Operand) -> Value:
        return self.op("mul", other)

    def __rmul__(self, other: Operand) -> Value:
        return self.like(other).op("mul", self)

    def __truediv__(self, other: Operand) -> Value:
        return self.op("div", other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.like(other).op("div", self)

    def __neg__(self) -> Value:
        return self.op("neg")

    def __abs__(self) -> Value:
        return self.op("abs")

    def __lt__(self, other: Operand) -> Value:
        return self.op("lt", other)

    def __le__(self, other: Operand) -> Value:
        return self.op("le", other)

    def __gt__(self, other: Operand) -> Value:
        return self.op("gt", other)

    def __ge__(self, other: Operand) -> Value:
        return self.op("ge", other)

    def equals(self, other: Operand) -> Value:
        """Return whether the values are equal (``==`` is left to compare Python objects)."""
        return self.op("eq", other)

    def differs(self, other: Operand) -> Value:
        """Return whether the values differ; true with NaN."""
        return self.op("ne", other)

    def __and__(self, other: Operand) -> Value:
        return self.op("and", other)

    def __or__(self, other: Operand) -> Value:
        return self.op("or", other)

    def __xor__(self, other: Operand) -> Value:
        return self.op("xor", other)

    def __lshift__(self, other: Operand) -> Value:
        return self.op("shl", other)

    def __rshift__(self, other: Operand) -> Value:
        return self.op("shr", other)


LONG_POLYNOMIAL = 5

Operand = Value | bool | int | float


def fma(x: Value, y: Operand, z: Operand) -> Value:
    """Return ``x*y + z`` rounded once."""
    return x.op("fma", y, z)


def select(condition: Value, yes: Operand, no: Operand) -> Value:
    """Return ``yes`` where ``condition`` holds, else ``no``; one of the two is a value."""
    model = yes if isinstance(yes, Value) else no
    assert isinstance(model, Value)
    return condition.op("select", model.like(yes), model.like(no))


def shortcut(applies: Value, short: Value, general: Value) -> Value:
    """Return ``short`` where ``applies`` holds, else ``general``.

    ``general`` is right everywhere, and costs more: a target computes it only where ``applies``
    does not hold for all elements of some vectors, or always, and then never asks.
    """
    if not applies.cache.style.branches:
        return general
    return applies.op("shortcut", short, general)


def at_most(x: Value, bound: float) -> Value:
    """Return ``x``, or ``bound`` where ``x`` is above it; NaN stays."""
    return select(x > bound, bound, x)


def at_least(x: Value, bound: float) -> Value:
    """Return ``x``, or ``bound`` where ``x`` is below it; NaN stays."""
    return select(x < bound, bound, x)


def with_sign(x: Value, signed: Value) -> Value:
    """Return ``x``, which is not negative, with the sign of ``signed``."""
    return (x.bits() | (signed.bits() & x.format.sign)).view(x.dtype)


def horner(x: Value, coefficients: Sequence[float]) -> Value:
    """Return ``c[0] + c[1]*x + c[2]*x**2 + ...`` by Horner's rule, one rounding a step."""
    result = x.like(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = fma(result, x, coefficient)
    return result


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """Return ``c[0] + c[1]*x + c[2]*x**2 + ...``.

    A long one is a polynomial in ``x*x`` whose coefficients are the pairs ``c[2*k] + c[2*k+1]*x``,
    which a processor evaluates side by side: about half as many steps wait for each other.
    """
    if len(coefficients) < LONG_POLYNOMIAL:
        return horner(x, coefficients)
    pairs = [horner(x, coefficients[start:start + 2]) for start in range(0, len(coefficients), 2)]
    square = x * x
    result = pairs[-1]
    for pair in reversed(pairs[:-1]):
        result = fma(result, square, pair)
    return result


def two_sum(x: Value, y: Value) -> tuple[Value, Value]:
    """Return ``x + y`` rounded, and the rounding error (Knuth 1969)."""
    total = x + y
    shadow = total - x
    return total, (x - (total - shadow)) + (y - shadow)


def fast_two_sum(x: Value, y: Value) -> tuple[Value, Value]:
    """Return ``x + y`` rounded, and the rounding error, where ``|x| >= |y|`` or ``x`` is zero."""
    total = x + y
    return total, y - (total - x)


def two_product(x: Value, y: Operand) -> tuple[Value, Value]:
    """Return ``x * y`` rounded, and the rounding error."""
    product = x * y
    return product, fma(x, y, -product)
