"""Which products cuBLAS computes, where the user asks for it, and on which matrices.

Those with no known size below ``LEAST_SIDE``, of operands of one dtype that are matrices to cuBLAS:
elements side by side along one axis, lines at a distance along the other, a batch of them along at
most one axis.  An epilogue that works element by element is worth more on our own kernel's
registers, unless it only converts: cuBLAS stores results of another dtype itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..dims import DimLike, as_dim, proves_equal, proves_nonnegative
from ..loop.ir import Buffer, For, Load, Nest, Scalar, Store
from ..program import Contract, View, row_major_strides
from .cuda_epilogue import is_elementwise
from .cuda_schedule import schedule

LEAST_SIDE = 128
"""Rows, columns and depth of a large product; sizes that are not known count as large."""

WORKSPACE = 32 << 20
"""Bytes that cuBLAS may use meanwhile: what NVIDIA recommends for its newer GPUs."""

RESULTS = {"float32": ("float32",), "float64": ("float64",), "float16": ("float32", "float16"),
           "bfloat16": ("float32", "bfloat16")}
"""Dtypes of operands, and those their products can be stored in."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A batch of matrices in a buffer; places and distances count elements.

    Attributes
    ----------
    buffer : Buffer
    offset : dim
        Where the first one begins.
    line, batch : dim
        From a line to the next one, and from a matrix to the next one.
    turned : bool
        Whether lines are columns rather than rows.
    """

    buffer: Buffer
    offset: DimLike
    line: DimLike
    batch: DimLike
    turned: bool


@dataclass(frozen=True, slots=True)
class LibraryProduct:
    """A product for cuBLAS, and what is launched after it."""

    left: Matrix
    right: Matrix
    out: Matrix
    after: tuple[Nest, ...]


def library_product(step: Contract, keeps: bool) -> LibraryProduct | None:
    """Return how cuBLAS computes a product; None where our own kernels do.

    Parameters
    ----------
    step : Contract
    keeps : bool
        Whether anything but the epilogue reads the product.
    """
    if any(isinstance(size, int) and size < LEAST_SIDE for size in step.sizes[1:]) \
            or step.sizes[0] == 0 or len(step.inner_dims) != 1:
        return None
    out, after = step.out, ()
    if step.epilogue is not None and is_elementwise(step):
        out = None if keeps or step.add else _converted(step)
    elif step.epilogue is not None:
        after = schedule(step.epilogue.nest)
    dtype = step.left.buffer.dtype
    if out is None or step.right.buffer.dtype != dtype \
            or out.buffer.dtype not in RESULTS.get(dtype, ()):
        return None
    left, right, target = (_matrix(view) for view in (step.left, step.right, out))
    if left is None or right is None or target is None or target.turned:
        return None
    return LibraryProduct(left, right, target, after)


def _matrix(view: View) -> Matrix | None:
    """Return a view as a batch of matrices whose lines do not overlap."""
    *batch_dims, rows, columns = view.dims
    *batch_strides, down, along = view.strides
    batch = [stride for size, stride in zip(batch_dims, batch_strides) if size != 1]
    if len(batch) > 1:
        return None
    for unit, line, length, turned in ((along, down, columns, False), (down, along, rows, True)):
        if unit == 1 and proves_nonnegative(line - length):
            return Matrix(view.buffer, view.offset, line, batch[0] if batch else 0, turned)
    return None


def _converted(step: Contract) -> View | None:
    """Return where an epilogue that only converts stores the product, element for element."""
    loop = step.epilogue.nest.body[0]
    _, m, n, _ = step.sizes
    if not isinstance(loop, For) or len(loop.body) != 1 or not isinstance(loop.body[0], Store) \
            or step.sizes[0] != 1:
        return None
    store, place = loop.body[0], (as_dim(loop.index),)
    if not isinstance(store.value, Scalar) or store.value.name != "cast":
        return None
    source = store.value.args[0]
    if not isinstance(source, Load) or source.buffer.root() is not step.out.buffer.root() \
            or not store.position == source.position == place \
            or not proves_equal(loop.extent, m * n):
        return None
    return View(store.buffer, 0, step.out.dims, row_major_strides(step.out.dims))
