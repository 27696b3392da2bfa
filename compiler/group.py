"""Group kernels that do not depend on each other: program -> program.

The updates of a hundred parameters are a hundred kernels, most of them too short for threads of
their own.  Together they are one parallel region, whose tasks range over all of them.

Behind ``commit`` a kernel moves up to the group that is open, past steps that touch nothing it
reads or writes: no value is kept longer for it but what updates hand to each other.  Before, only
neighbours that are small are grouped, since all that a group touches is alive at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from .program import Group, Kernel, Program, Step, Trace, bytes_of, roots

SMALL_BYTES = 1 << 18
"""Memory that a kernel of a group before ``commit`` may touch; beyond, its own work is worth a
parallel region."""

MOST_KERNELS = 64
"""Kernels of a group: enough to share the cost of a region; what the driver notes down about them
lies on the stack."""


def group_kernels(program: Program) -> Program:
    """Return the program with independent kernels grouped."""
    commit = program.commit
    early = _grouped(program.steps[:commit], moves=False)
    late = _grouped(program.steps[commit:], moves=True)
    return program.with_steps((*early, *late), commit=len(early))


def _grouped(steps: Iterable[Step], moves: bool) -> list[Step]:
    """Return steps with kernels grouped; those that are no neighbours too when ``moves``."""
    result: list[Step | list[Kernel]] = []
    group: list[Kernel] | None = None
    since = Trace()
    for step in steps:
        joins = isinstance(step, Kernel) and (moves or _is_small(step))
        if joins and group is not None and len(group) < MOST_KERNELS and since.commutes(step):
            group.append(step)
        elif joins:
            group, since = [step], Trace()
            result.append(group)
        else:
            group = group if moves else None
            result.append(step)
        since.add(step)
    return [step if not isinstance(step, list) else step[0] if len(step) == 1
            else Group(tuple(step)) for step in result]


def _is_small(kernel: Kernel) -> bool:
    """Return whether a kernel is known to touch little memory."""
    sizes = [bytes_of(root) for root in roots((*kernel.reads, *kernel.writes))]
    return all(isinstance(size, int) for size in sizes) and sum(sizes) <= SMALL_BYTES
