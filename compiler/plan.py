"""Memory planning: where in the arena each temporary lives.

A temporary is alive from the first step that touches it to the last.  One pass over the steps
gives each new temporary the smallest free gap it fits in (else the end of the arena), and returns
the gaps of those that died.  Temporaries of a symbolic size are placed behind all others, and reuse
the place of a dead one of the very same size.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import replace
from heapq import heappop, heappush

from .dims import DimLike, floordiv
from .loop.ir import Buffer
from .program import Program, bytes_of, reads_of, writes_of

ALIGNMENT = 64
"""Bytes: one cache line, and the widest vector register."""


def plan_memory(program: Program, reuse: bool = True) -> Program:
    """Return the program with ``offsets`` and ``arena`` filled.

    Parameters
    ----------
    program : Program
    reuse : bool
        False gives every temporary its own place (to test against).
    """
    lives = lifetimes(program)
    offsets: dict[Buffer, DimLike] = {}
    fixed = [buffer for buffer in lives if isinstance(bytes_of(buffer), int)]
    dying: dict[int, list[Buffer]] = {}
    gaps = _Gaps()
    step = 0
    for buffer in fixed:
        first, last = lives[buffer]
        while step < first:
            for dead in dying.pop(step, ()):
                gaps.give_back(offsets[dead], _padded(dead))
            step += 1
        offsets[buffer] = gaps.take(_padded(buffer))
        if reuse:
            dying.setdefault(last, []).append(buffer)
    arena: DimLike = gaps.end
    slots: dict[DimLike, list[tuple[int, int, DimLike]]] = {}
    for number, buffer in enumerate(lives):
        if buffer in offsets:
            continue
        first, last = lives[buffer]
        size = _padded(buffer)
        same = slots.setdefault(size, [])
        if reuse and same and same[0][0] < first:
            _, _, offset = heappop(same)
        else:
            offset, arena = arena, arena + size
        offsets[buffer] = offset
        heappush(same, (last, number, offset))
    return replace(program, offsets=offsets, arena=arena)


class _Gaps:
    """The free gaps of the arena, ``[start, stop]`` in order, and its end so far."""

    def __init__(self) -> None:
        self.end = 0
        self.free: list[list[int]] = []

    def take(self, size: int) -> int:
        """Return the offset of ``size`` bytes: the smallest gap that holds them, or the end."""
        fitting = [gap for gap in self.free if gap[1] - gap[0] >= size]
        if fitting:
            best = min(fitting, key=lambda gap: gap[1] - gap[0])
            offset = best[0]
            best[0] += size
            if best[0] == best[1]:
                self.free.remove(best)
            return offset
        offset = self.end
        if self.free and self.free[-1][1] == self.end:
            offset = self.free.pop()[0]
        self.end = offset + size
        return offset

    def give_back(self, offset: int, size: int) -> None:
        """Free bytes, merging gaps that touch."""
        if size == 0:
            return
        place = bisect(self.free, [offset])
        self.free.insert(place, [offset, offset + size])
        for left in (place, place - 1):
            if 0 <= left < len(self.free) - 1 and self.free[left][1] == self.free[left + 1][0]:
                self.free[left][1] = self.free.pop(left + 1)[1]


def _padded(buffer: Buffer) -> DimLike:
    """Return a buffer's size rounded up to the alignment."""
    return floordiv(bytes_of(buffer) + (ALIGNMENT - 1), ALIGNMENT) * ALIGNMENT


def lifetimes(program: Program) -> dict[Buffer, tuple[int, int]]:
    """Return the first and last step that touches each temporary, in order of first use."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for number, step in enumerate(program.steps):
        for buffer in (*reads_of(step), *writes_of(step)):
            root = buffer.root()
            if root.role == "temporary":
                first, _ = lives.get(root, (number, number))
                lives[root] = (first, number)
    return lives
