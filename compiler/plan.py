"""Memory planning: where in the arena each temporary lives.

A temporary is alive from the first step that touches it to the last.  Sizes that are integers are
packed greedily, largest first, each at the lowest offset free for its whole life; temporaries of a
symbolic size are placed behind them, and reuse the place of a dead one of the very same size.
"""

from __future__ import annotations

from dataclasses import replace

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
    placed: list[tuple[int, int, int, int]] = []
    end = 0
    fixed = [b for b in lives if isinstance(bytes_of(b), int)]
    for buffer in sorted(fixed, key=lambda b: -_padded(b)):
        first, last = lives[buffer]
        size = _padded(buffer)
        offset = 0
        for start, stop, born, died in sorted(placed):
            overlaps_in_time = not reuse or not (died < first or last < born)
            if overlaps_in_time and start < offset + size and offset < stop:
                offset = stop
        placed.append((offset, offset + size, first, last))
        offsets[buffer] = offset
        end = max(end, offset + size)
    arena: DimLike = end
    slots: list[tuple[DimLike, DimLike, int]] = []
    for buffer in lives:
        if isinstance(bytes_of(buffer), int):
            continue
        first, last = lives[buffer]
        size = _padded(buffer)
        for k, (offset, slot_size, died) in enumerate(slots):
            if reuse and slot_size == size and died < first:
                slots[k] = (offset, slot_size, last)
                offsets[buffer] = offset
                break
        else:
            offsets[buffer] = arena
            slots.append((arena, size, last))
            arena = arena + size
    return replace(program, offsets=offsets, arena=arena)


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
