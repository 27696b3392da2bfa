"""Rules whose right side must be computed: arithmetic on axes, sizes and constants.

They are few, and a test counts them; whatever can be data is in ``rules/``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...runtime.artifact import InternalError
from .. import dtypes
from ..dims import DimLike, as_symbol, prod, proves_equal
from ..graph import Apply, Constant, DataSymbol, Variable, built_at, dim_of, input_variable
from ..operators import FUNCTIONS
from ..ops.op import REGISTRY, as_tensor
from ..selection import sum_of_places
from ..widen import reference
from .pattern import Builder, Effect, Facts, computed_rule, fit

LARGEST_FOLDED = 10_000
"""Elements a folded constant may have, unless its inputs have more."""

_NOT_FOLDED = frozenset({"broadcast_to"})
"""Left as they are: a broadcast number is worth more, to rules and to memory, than an array."""


def _x(*shape: int | None, dtype: str = "float64") -> Variable:
    return input_variable(dtype, shape, name="x")


# -- constants -------------------------------------------------------------------------------------

@computed_rule("op(constants) -> constant", ["*"], Effect.EXACT, [
    lambda: (REGISTRY["exp"](as_tensor([1.0, 2.0])), []),
    lambda: (REGISTRY["mul"](FUNCTIONS["broadcast_to"](as_tensor(3.0), (2, 2)),
                             as_tensor([2.0, 2.0])), []),
    lambda: (FUNCTIONS["sum"](as_tensor(np.arange(6).reshape(2, 3)), axis=0), [])])
def fold_constants(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Compute what depends on constants only."""
    if not node.inputs or node.op.kind == "structured" or node.op.name in _NOT_FOLDED:
        return None
    output = node.outputs[0]
    if node.op.kind == "elementwise":
        values = []
        for source in node.inputs:
            value = facts.scalar_value(source)
            if value is None:
                break
            values.append(np.asarray(value))
        else:
            return fit(builder.constant(_reference(node, values, ())), output, builder)
    if not all(isinstance(source, Constant) for source in node.inputs) \
            or not all(isinstance(dim, int) for dim in output.type.dims):
        return None
    if prod(output.type.dims) > max(LARGEST_FOLDED, sum(i.data.size for i in node.inputs)):
        return None
    try:
        return builder.constant(
            _reference(node, [source.data for source in node.inputs], output.type.dims))
    except (ValueError, IndexError):
        return None  # An error of the user's, reported with its line when the function is called.


def _reference(node: Apply, arrays: Sequence[np.ndarray], dims: tuple[DimLike, ...]) -> np.ndarray:
    with np.errstate(all="ignore"):
        result, = reference(node, arrays, node.params)
    if result.dtype != node.outputs[0].dtype or result.shape != dims:
        raise InternalError(f"{node.op.name}: the reference returns {result.dtype} {result.shape}, "
                            f"the inferred type is {node.outputs[0].type}")
    return result


@computed_rule("x / 2**k -> x * 2**-k", ["true_div"], Effect.EXACT, [
    lambda: ((x := _x(3)) / 4.0, [x])])
def divide_by_power_of_two(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Multiply by the reciprocal where both are exact."""
    dividend, divisor = node.inputs
    value = facts.scalar_value(divisor)
    if value is None or not np.isfinite(value) or abs(np.frexp(value)[0]) != 0.5:
        return None
    with np.errstate(all="ignore"):
        reciprocal = value.dtype.type(1) / value
    if not np.isfinite(reciprocal) or abs(reciprocal) < dtypes.LEAST_NORMAL[value.dtype.name]:
        return None
    factor = builder.constant(np.asarray(reciprocal))
    product, = builder.apply(REGISTRY["mul"], (dividend, factor), {}, node.site)
    return fit(product, node.outputs[0], builder)


@computed_rule("2**k * (c * x) -> (2**k * c) * x", ["mul"], Effect.MORE_ACCURATE, [
    lambda: (0.25 * (3e307 * (x := _x(3))), [x])])
def merge_power_of_two(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Multiply once where the product of the factors is exact: then so is the other product."""
    for outer, product in (node.inputs, node.inputs[::-1]):
        power = facts.scalar_value(outer)
        if power is None or product.owner is None or product.owner.op.name != "mul" \
                or not dtypes.is_float(outer.dtype) or abs(np.frexp(power)[0]) != 0.5:
            continue
        for inner, rest in (product.owner.inputs, product.owner.inputs[::-1]):
            factor = facts.scalar_value(inner)
            if factor is None:
                continue
            with np.errstate(all="ignore"):
                both = factor * power
            if np.isfinite(both) and abs(both) >= dtypes.LEAST_NORMAL[both.dtype.name]:
                scaled, = builder.apply(REGISTRY["mul"], (builder.constant(np.asarray(both)), rest),
                                        {}, node.site)
                return fit(scaled, node.outputs[0], builder)
    return None


# -- sizes -----------------------------------------------------------------------------------------

@computed_rule("size(a) + size(b) -> size(a + b)", ["add", "sub", "mul", "floordiv"],
               Effect.EXACT, [lambda: ((x := _x(None, None)).size, [x])])
def combine_sizes(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Turn arithmetic on sizes into one size."""
    output = node.outputs[0]
    if output.ndim or output.dtype != "int64" or not all(
            isinstance(i, Constant) or (i.owner is not None and i.owner.op.name == "size")
            for i in node.inputs):
        return None
    dim = dim_of(output)
    if isinstance(as_symbol(dim), DataSymbol) and as_symbol(dim).variable is output:
        return None
    return builder.apply(REGISTRY["size"], (), {"dim": dim}, node.site)[0]


# -- axes ------------------------------------------------------------------------------------------

@computed_rule("dimshuffle(dimshuffle(v, p), q) -> dimshuffle(v, r)", ["dimshuffle"],
               Effect.EXACT, [
    lambda: (FUNCTIONS["dimshuffle"](FUNCTIONS["dimshuffle"](x := _x(2, 3), (1, "x", 0)),
                                     (2, 0, 1, "x")), [x]),
    lambda: ((x := _x(2, 3)).T.T, [x])])
def compose_dimshuffles(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Compose two rearrangements; drop one that does nothing."""
    source, pattern = node.inputs[0], node.params["pattern"]
    if pattern == tuple(range(source.ndim)):
        return source
    inner = source.owner
    if inner is None or inner.op.name != "dimshuffle":
        return None
    composed = tuple("x" if k == "x" else inner.params["pattern"][k] for k in pattern)
    return builder.apply(node.op, inner.inputs, {"pattern": composed}, node.site)[0]


@computed_rule("shape_change(v, v.shape) -> v", ["reshape", "broadcast_to", "subtensor"],
               Effect.EXACT, [
    lambda: (FUNCTIONS["reshape"](x := _x(2, 3), (2, 3)), [x]),
    lambda: (FUNCTIONS["broadcast_to"](x := _x(2, 3), (2, 3)), [x]),
    lambda: ((x := _x(2, 3))[:, :], [x])])
def drop_shape_change(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Drop a reshape or broadcast to the shape the tensor has, and the slice of everything."""
    source, output = node.inputs[0], node.outputs[0]
    if node.op.name == "subtensor":
        is_same = all(entry == (False, False, 1) for entry in node.params["spec"])
    else:
        is_same = source.ndim == output.ndim \
            and all(map(proves_equal, source.type.dims, output.type.dims))
    return source if is_same else None


_REDUCTIONS = ("sum", "prod", "max", "min", "all", "any")


@computed_rule("reduce(reduce(v, axes), more) -> reduce(v, all)", _REDUCTIONS,
               Effect.MORE_ACCURATE, [
    lambda: ((x := _x(2, 3, 4)).sum(axis=1).sum(axis=1), [x]),
    lambda: ((x := _x(2, 3, 4)).max(axis=(0, 2)).max(axis=0), [x])])
def merge_reductions(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Reduce over the axes of two nested reductions at once."""
    inner = node.inputs[0].owner
    if inner is None or inner.op is not node.op:
        return None
    first = inner.params["axes"]
    kept = [axis for axis in range(inner.inputs[0].ndim) if axis not in first]
    axes = tuple(sorted((*first, *(kept[axis] for axis in node.params["axes"]))))
    return builder.apply(node.op, inner.inputs, {"axes": axes}, node.site)[0]


@computed_rule("sum(zeros, y added once a row, the row) -> y", ["sum"], Effect.SIGN_OF_ZERO, [
    lambda: (FUNCTIONS["inc_subtensor"](FUNCTIONS["zeros"]((2, 3))[
        np.arange(2), FUNCTIONS["argmax"](x := _x(2, 3), axis=1)], y := _x(2)).sum(axis=1),
        [x, y])])
def sum_one_place(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Read the one value of each row that is not zero; its index stays checked."""
    write = node.inputs[0].owner
    if write is None or write.op.name != "advanced_inc_subtensor" \
            or facts.scalar_value(write.inputs[0]) != 0:
        return None
    with built_at(node.site):
        found = sum_of_places(write, node.params["axes"])
    return None if found is None else fit(builder.adopt(found), node.outputs[0], builder)


@computed_rule("reduce(v, axis of length 1) -> dimshuffle(v)", _REDUCTIONS, Effect.EXACT, [
    lambda: ((x := _x(2, 1, 4)).sum(axis=(1, 2)), [x]),
    lambda: ((x := _x(2, 1)).max(axis=1), [x])])
def reduce_fewer_axes(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Drop axes of length 1 instead of reducing over them."""
    source, axes = node.inputs[0], node.params["axes"]
    ones = [axis for axis in axes if source.type.dims[axis] == 1]
    if axes and not ones or source.dtype != node.outputs[0].dtype:
        return None
    kept = [axis for axis in range(source.ndim) if axis not in ones]
    if ones:
        source, = builder.apply(REGISTRY["dimshuffle"], (source,), {"pattern": tuple(kept)},
                                node.site)
    remaining = tuple(kept.index(axis) for axis in axes if axis not in ones)
    if not remaining:
        return source
    return builder.apply(node.op, (source,), {"axes": remaining}, node.site)[0]


# -- dtypes ----------------------------------------------------------------------------------------

@computed_rule("cast(cast(v)) -> cast(v)", ["cast"], Effect.EXACT, [
    lambda: (FUNCTIONS["cast"](FUNCTIONS["cast"](x := _x(3, dtype="float32"), "float64"),
                               "float32"), [x]),
    lambda: (FUNCTIONS["cast"](FUNCTIONS["cast"](x := _x(3, dtype="int8"), "int32"), "uint16"),
             [x])])
def merge_casts(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Drop a conversion to the same dtype, and a first conversion that loses nothing."""
    source, target = node.inputs[0], node.params["dtype"]
    if source.dtype == target:
        return source
    inner = source.owner
    if inner is None or inner.op.name != "cast":
        return None
    start, middle = inner.inputs[0].dtype, source.dtype
    is_exact = dtypes.can_cast(start, middle) and not (
        dtypes.SIZES[start] == 8 and dtypes.is_integer(start) and dtypes.is_float(middle))
    # Integers wrap when converted to integers, floats saturate.
    stays_wrapping = dtypes.is_float(start) or not dtypes.is_float(middle) \
        or not dtypes.is_integer(target) or dtypes.can_cast(start, target)
    if not is_exact or not stays_wrapping:
        return None
    if start == target:
        return inner.inputs[0]
    return builder.apply(node.op, inner.inputs, {"dtype": target}, node.site)[0]


# -- products --------------------------------------------------------------------------------------

def _operand_patterns(pattern: tuple[int | str, ...], batch: int, rows: int, summed: int
                      ) -> tuple[tuple[int, ...], tuple[int, ...], bool] | None:
    """Return how to permute the operands of a product to get its result permuted by ``pattern``,
    and whether they change places; None when rows and columns would be interleaved."""
    if "x" in pattern or any(axis >= batch for axis in pattern[:batch]):
        return None
    first = batch + rows
    lead, own = pattern[:batch], [axis for axis in pattern[batch:] if axis < first]
    other = [axis for axis in pattern[batch:] if axis >= first]
    if pattern[batch:] not in ((*own, *other), (*other, *own)):
        return None
    left = (*lead, *own, *range(first, first + summed))
    right = (*lead, *range(batch, batch + summed), *(axis - rows + summed for axis in other))
    if pattern[batch:] == (*own, *other):
        return left, right, False
    return ((*lead, *left[first:], *own), (*right[:batch], *right[batch + summed:],
                                           *range(batch, batch + summed)), True)


@computed_rule("(a @ b).T -> b.T @ a.T", ["dimshuffle"], Effect.MORE_ACCURATE, [
    lambda: (FUNCTIONS["dot"](a := _x(2, 3), b := _x(3, 4)).T, [a, b]),
    lambda: (FUNCTIONS["tensordot"](a := _x(2, 3, 4), b := _x(4, 5, 6), 1).dimshuffle(3, 2, 0, 1),
             [a, b])])
def transpose_operands(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Transpose the operands (free: flags of the product) instead of the result (a copy)."""
    source, pattern = node.inputs[0], tuple(node.params["pattern"])
    inner = source.owner
    if inner is None or inner.op.name != "contract" or not facts.is_used_once(source) \
            or len(pattern) != source.ndim or pattern == tuple(range(source.ndim)):
        return None
    batch, summed = inner.params["batch"], inner.params["inner"]
    found = _operand_patterns(pattern, batch, inner.inputs[0].ndim - batch - summed, summed)
    if found is None:
        return None
    operands = [builder.apply(node.op, (operand,), {"pattern": own}, node.site)[0]
                for operand, own in zip(inner.inputs, found)]
    return builder.apply(inner.op, operands[::-1] if found[2] else operands, inner.params,
                         node.site)[0]


@computed_rule("(a @ b) @ c -> a @ (b @ c) where cheaper", ["contract"], Effect.CHANGES_NONFINITE, [
    lambda: (FUNCTIONS["dot"](FUNCTIONS["dot"](a := _x(8, 7), b := _x(7, 6)), c := _x(6, 1)),
             [a, b, c]),
    lambda: (FUNCTIONS["dot"](a := _x(1, 6), FUNCTIONS["dot"](b := _x(6, 7), c := _x(7, 8))),
             [a, b, c])])
def order_products(node: Apply, builder: Builder, facts: Facts) -> Variable | None:
    """Multiply a chain of three matrices in the cheaper order, when the sizes are known."""
    for position, other in ((0, 1), (1, 0)):
        inner = node.inputs[position].owner
        if inner is None or inner.op is not node.op or inner.params != node.params \
                or not facts.is_used_once(node.inputs[position]):
            continue
        chain = (*inner.inputs, node.inputs[1]) if position == 0 \
            else (node.inputs[0], *inner.inputs)
        if node.params["inner"] != 1 or any(v.ndim != node.params["batch"] + 2 for v in chain):
            continue
        sizes = [chain[0].type.dims[-2], *(matrix.type.dims[-1] for matrix in chain)]
        if not all(isinstance(size, int) for size in sizes):
            continue
        rows, first, second, columns = sizes
        left_first = rows * second * (first + columns)
        right_first = first * columns * (second + rows)
        if position == 0 and right_first < left_first:
            tail, = builder.apply(node.op, chain[1:], node.params, node.site)
            return builder.apply(node.op, (chain[0], tail), node.params, node.site)[0]
        if position == 1 and left_first < right_first:
            head, = builder.apply(node.op, chain[:2], node.params, node.site)
            return builder.apply(node.op, (head, chain[2]), node.params, node.site)[0]
    return None


CANONICAL = (fold_constants, divide_by_power_of_two, merge_power_of_two, combine_sizes,
             compose_dimshuffles, drop_shape_change, merge_reductions, sum_one_place,
             reduce_fewer_axes, merge_casts, transpose_operands)

FAST_MATH = (order_products,)
