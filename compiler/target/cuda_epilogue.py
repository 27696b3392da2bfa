"""Epilogues of products that work element by element: they run where the product is finished.

Enters: a contraction whose epilogue is a loop over the elements of the product, or over its rows
and then its columns.  Leaves: the statements of one element, which read the product from a local.
"""

from __future__ import annotations

from ..dims import DimLike, Symbol, as_dim, proves_equal
from ..loop.ir import Check, Expr, For, Let, Load, Local, Stmt
from ..loop.rewrite import Rewriter
from ..loop.walk import accumulated_locals, loads, operands, statements, target_access
from ..program import Contract


def is_elementwise(step: Contract) -> bool:
    """Return whether an epilogue needs of the product, and of what it writes, one element each."""
    nest, (_, m, n, _) = step.epilogue.nest, step.sizes
    outer = nest.body[0]
    assert isinstance(outer, For)
    before, inner = _parts(outer)
    if accumulated_locals(nest) or any(isinstance(stmt, Check) for stmt in statements(nest.body)):
        return False
    if inner is None:
        return not any(isinstance(stmt, For) for stmt in statements(outer.body)) \
            and proves_equal(outer.extent, m * n)
    written = {access[0].root() for stmt in statements(nest.body)
               if (access := target_access(stmt)) is not None}
    alone = {load.buffer.root() for stmt in before for load in loads(*operands(stmt))}
    out = step.out.buffer.root()
    return all(isinstance(stmt, Let) for stmt in before) and not alone & (written | {out}) \
        and proves_equal(outer.extent, m) and proves_equal(inner.extent, n) \
        and inner.mark in ("vector", "parallel") \
        and not any(isinstance(stmt, For) for stmt in statements(inner.body)) \
        and all(_is_own(load, out, outer.index, inner.index)
                for stmt in statements(inner.body) for load in loads(*operands(stmt)))


def _is_own(load: Load, out: object, row: Symbol, column: Symbol) -> bool:
    """Return whether a load, if of the product, is of the element of the row and the column."""
    return load.buffer.root() is not out or (
        load.position == (as_dim(row), as_dim(column)))


def _parts(outer: For) -> tuple[tuple[Stmt, ...], For | None]:
    """Return what stands before the only inner loop, which ends the body; or no loop."""
    *before, last = outer.body
    return (tuple(before), last) if isinstance(last, For) else (outer.body, None)


def run_on(step: Contract, row: DimLike, column: DimLike, product: Local) -> tuple[Stmt, ...]:
    """Return the statements of an elementwise epilogue for one element.

    Parameters
    ----------
    step : Contract
    row, column : dim
    product : Local
        The element of the product.
    """
    outer = step.epilogue.nest.body[0]
    before, inner = _parts(outer)
    out = step.out.buffer.root()

    def read(new: Load, old: Load) -> Expr:
        return product if old.buffer.root() is out else new

    if inner is None:
        return Rewriter({outer.index: row * step.sizes[2] + column}, read).body(outer.body)
    rewriter = Rewriter({outer.index: row, inner.index: column}, read)
    return (*rewriter.body(before), *rewriter.body(inner.body))
