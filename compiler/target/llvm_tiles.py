"""Which tile covers a product, and how wide its panels are (see ``llvm_gemm.py``)."""

from __future__ import annotations

from functools import cache

from ..dims import DimLike, Symbol, as_dim, ceildiv, maximum, minimum
from .llvm_machine import Machine

PANEL_BYTES = 16 << 10
"""Of a panel of B: half of a first-level cache."""

LEAST_INNER = 192
"""Steps along the inner axis that pay for loading and storing a tile of C."""

NEAR_BEST = 1.02
"""The time, to that of the best tile, which one that other products have may take."""

MANY = 60
"""Rows, and vectors of a row, where their number is unknown: a multiple of most tiles."""


def tile_shape(m: DimLike, n: DimLike, dtype: str, machine: Machine) -> tuple[int, int]:
    """Return rows and vectors of the tile that covers a product in the fewest cycles.

    A step of a tile costs a cycle for two multiply-adds or two loads, at least the latency of one
    multiply-add, which is 4, and a little for what its loads cost beyond the first-level cache;
    between tiles some 20 cycles are lost.  Its vectors and totals fill the registers.
    """
    lanes, registers = machine.lanes(dtype), machine.registers
    panel = LEAST_INNER * machine.vector_bytes

    def widest(rows: int) -> int:
        # One row of tiles reads B where it lies.
        is_alone = isinstance(m, int) and m <= rows
        return max(2, 2 * PANEL_BYTES // panel if is_alone else -(-PANEL_BYTES // panel))

    def step(rows: int, vectors: int) -> float:
        return max(rows * vectors / 2, (rows + vectors) / 2, 4.0) + 0.06 * (rows + vectors) \
            + 20 / LEAST_INNER

    def cycles(rows: int, vectors: int) -> float:
        width = -(-n // lanes) if isinstance(n, int) else MANY
        height = -(-m // rows) if isinstance(m, int) else MANY / rows
        narrow, last = last_panels(width, vectors)
        full = (width - last * narrow) // vectors
        return (full * step(rows, vectors) + last * step(rows, narrow)) * height

    shapes = [(rows, vectors) for rows in range(1, registers // 2)
              for vectors in range(1, widest(rows) + 1)
              if (rows + 1) * (vectors + 1) <= registers + 5
              and rows * vectors + vectors + 1 <= registers]
    best = min(shapes, key=lambda shape: (cycles(*shape), -shape[0] * shape[1]))
    if isinstance(m, int) or isinstance(n, int):
        # Each shape takes LLVM some milliseconds: products share one that is hardly slower.
        common = _common_shape(dtype, machine)
        if cycles(*common) <= NEAR_BEST * cycles(*best):
            return common
    return best


@cache
def _common_shape(dtype: str, machine: Machine) -> tuple[int, int]:
    """Return the tile of products of unknown size."""
    size = as_dim(Symbol("size"))
    return tile_shape(size, size, dtype, machine)


def last_panels(width: int, vectors: int) -> tuple[int, int]:
    """Return the vectors of the panels that are narrower than the others, and how many there are.

    Panels of ``vectors`` that would leave a narrower rest give it one vector each, as far as that
    makes them equal: three of 3, 2 and 2 rather than of 3, 3 and 1.  A tile of few totals waits
    for the latency of multiply-adds.
    """
    full, rest = divmod(width, vectors)
    if rest == 0:
        return vectors, 0
    missing = vectors - rest
    return (vectors - 1, missing) if missing <= full + 1 else (rest, 1)


def shortened(columns: DimLike, full: DimLike, lanes: int, vectors: int) -> DimLike:
    """Return how many of ``full`` panels become narrower ones of a vector less, if ``columns`` are
    left: the same choice where the code makes it."""
    rest = ceildiv(columns, lanes)
    return maximum(minimum(vectors - 1 - rest, full), 0) * minimum(rest, 1)
