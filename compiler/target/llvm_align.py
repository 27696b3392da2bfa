"""Where the vectors of a loop begin: at a boundary of the array that it reads most.

An access of a vector that crosses a cache line takes two.  NumPy's large arrays begin 16 bytes
after a line, so that half of the vectors of 32 bytes cross one, and all of 64.  A loop that adds
up several rows of one matrix gains from a few short vectors before and after the others.
"""

from __future__ import annotations

from collections import Counter

from ..dims import modulo, substitute
from ..dtypes import SIZES
from ..loop.ir import For, Let, Load, Store
from ..loop.walk import operands, postorder
from .llvm_values import Values
from .llvm_vector_plan import slope

SHORT = 16
"""Bytes of a short vector, and of the boundaries at which arrays begin."""

LEAST_READS = 4
"""Vectors read for each one written from which on the reads decide where vectors begin."""

SHORTEST = 256
"""Iterations of a loop from which on it is worth short vectors."""


def to_boundary(values: Values, loop: For, lanes: int) -> str | None:
    """Write how many iterations lead to where reads are aligned; None if that is not worth it.

    Parameters
    ----------
    values : Values
        Of the nest.
    loop : For
        Its iterations are independent: where vectors begin changes no result.
    lanes : int
        Of a vector.

    Returns
    -------
    str or None
        Operand: a number of whole short vectors, 0 for an array that begins at none.
    """
    whole = values.writer.module.machine.vector_bytes
    stores = sum(isinstance(stmt, Store) for stmt in loop.body)
    if whole <= SHORT or not isinstance(loop.extent, int) or loop.extent < SHORTEST or not stores \
            or not all(isinstance(stmt, (Let, Store)) for stmt in loop.body):
        return None
    nodes = postorder(*(value for stmt in loop.body for value in operands(stmt)))
    rows = {(node.buffer.root(), offset) for node in nodes if isinstance(node, Load)
            if slope(offset := values.offset(node.buffer, node.position), loop.index) == 1}
    uneven = {root for root, offset in rows
              if modulo(substitute(offset, {loop.index: 0}) * SIZES[root.dtype], whole) != 0}
    reads = Counter(root for root, _ in rows if root.role == "input" and root not in uneven)
    if not reads:
        return None
    (root, count), = reads.most_common(1)
    size = SIZES[root.dtype]
    if count < LEAST_READS * stores or size * lanes != whole or loop.extent * size % SHORT:
        return None
    writer = values.writer
    base = writer.emit(f"ptrtoint ptr {values.addresses[root]} to i64")
    back = writer.emit(f"and i64 {writer.emit(f'sub i64 0, {base}')}, {whole - 1}")
    is_even = writer.emit(f"icmp eq i64 {writer.emit(f'and i64 {back}, {SHORT - 1}')}, 0")
    count = writer.emit(f"udiv i64 {back}, {size}")
    return writer.emit(f"select i1 {is_even}, i64 {count}, i64 0")
