"""Recompute values instead of keeping them, where the arena exceeds a budget.

Enters a program without a memory plan, leaves one with the same results to the bit.  What a
gradient keeps from the forward pass is alive all through the middle of the program.  Such a value
may be dropped after its last early use, and computed again right before the first late one, by the
same step on the same operands.

Two ways are tried, the cheaper first, each on the real plan of memory:

1. drop values that one kernel recomputes from what is alive anyway, those first that save most
   bytes times lifetime for their cost;
2. keep every n-th of all long-lived values as a checkpoint and recompute the others, from the
   checkpoint before them, when the first of them is needed: for a chain of ``L`` equal layers,
   ``n = sqrt(L)`` needs memory for ``2 sqrt(L)`` of them, and one more forward pass.

References
----------
A. Griewank, A. Walther, Algorithm 799: revolve, ACM TOMS 26 (2000).
T. Chen et al., Training deep nets with sublinear memory cost, 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..runtime.artifact import CompileError, format_message
from .dims import DimLike, Symbol, prod, substitute
from .loop.ir import Accumulate, Buffer, Check, Expr, For, If, Load, Nest, Scalar, Stmt, Store
from .loop.walk import operands, postorder, statements
from .plan import plan_memory
from .program import Contract, Copy, Kernel, Program, Step, View, bytes_of, reads_of, writes_of


def rematerialize(programs: Sequence[Program], budget: int,
                  hints: Mapping[Symbol, int]) -> Program:
    """Return a program whose arena fits a budget: one of those given, changed where needed.

    Parameters
    ----------
    programs : sequence of Program
        Forms of one program, the preferred first: that with epilogues, say, and that without.
    budget : int
        Bytes.
    hints : mapping of Symbol to int
        Values of size symbols at which symbolic arenas are judged; others count as 1.

    Raises
    ------
    CompileError
        With the bytes achieved, when the budget cannot be met.
    """
    needs = [_arena(program, hints) for program in programs]
    for program, need in zip(programs, needs):
        if need <= budget:
            return program
    smallest = min(needs)
    for program in programs:
        uses = _Uses(program, hints)
        for dropped in uses.proposals():
            changed = uses.without(dropped)
            size = smallest if changed is None else _arena(changed, hints)
            if changed is not None and size <= budget:
                return changed
            smallest = min(smallest, size)
    raise CompileError(format_message(
        f"{programs[0].name} cannot run within its memory budget.",
        f"asked: {budget} bytes for temporaries; without a budget: {needs[0]}; least found: "
        f"{smallest}", remedy=f"give memory_budget={smallest} or more, or smaller arguments"))


def _arena(program: Program, hints: Mapping[Symbol, int]) -> int:
    return _value(plan_memory(program).arena, hints)


def _value(dim: DimLike, hints: Mapping[Symbol, int]) -> int:
    value = substitute(dim, hints)
    return value if isinstance(value, int) else 1


@dataclass(slots=True)
class _Life:
    """One temporary that can be computed again.

    Attributes
    ----------
    touches : list of int
        Steps that touch it, the one that writes it first.
    cut : int
        The last touch before the longest gap, if that gap lies across the peak: a copy serves the
        later ones.  Else the last touch of all.
    gap : int
        Steps in that gap, or 0.
    size, cost : int and float
        Bytes; estimated scalar operations of computing it.
    """

    touches: list[int]
    cut: int
    gap: int
    size: int
    cost: float


class _Uses:
    """Who reads what when, and what can be recomputed."""

    def __init__(self, program: Program, hints: Mapping[Symbol, int]):
        self.program, self.hints = program, hints
        self.touched: dict[Buffer, list[int]] = {}
        self.written: dict[Buffer, list[int]] = {}
        for number, step in enumerate(program.steps):
            for root in dict.fromkeys(b.root() for b in (*reads_of(step), *writes_of(step))):
                self.touched.setdefault(root, []).append(number)
            for root in dict.fromkeys(b.root() for b in writes_of(step)):
                self.written.setdefault(root, []).append(number)
        self.peak = self._peak()
        self.lives = {root: self._life(root) for root in self.written if self._is_repeatable(root)}

    def _is_repeatable(self, root: Buffer) -> bool:
        """Return whether one step computes a temporary whole, from operands it does not change."""
        if root.role != "temporary" or len(self.written[root]) != 1:
            return False
        step = self.program.steps[self.written[root][0]]
        if isinstance(step, Kernel):
            nests = [step.nest]
        elif isinstance(step, Contract):
            nests = [step.epilogue.nest] if step.epilogue is not None else []
            if step.add:
                return False
        else:
            return isinstance(step, Copy)
        if any(isinstance(stmt, Check) for nest in nests for stmt in statements(nest.body)):
            return False
        touched = {b.root() for b in (*reads_of(step), *writes_of(step))}
        return all(len(self.written.get(b, ())) <= 1 for b in touched if b.role != "shared") \
            and all(b.root().role != "shared" for b in writes_of(step))

    def _life(self, root: Buffer) -> _Life:
        touches = self.touched[root]
        gaps = [(after - before, before) for before, after in zip(touches, touches[1:])]
        gap, cut = max(gaps, default=(0, touches[0]))
        if not cut < self.peak < cut + gap:
            gap, cut = 0, touches[-1]
        size = _value(bytes_of(root), self.hints)
        step = self.program.steps[touches[0]]
        cost = float(size)
        if isinstance(step, Kernel):
            cost *= step.nest.cost
        elif isinstance(step, Contract):
            cost *= 2 * _value(prod(step.left.dims[2:]), self.hints)
        return _Life(touches, cut, gap, size, cost)

    def operands(self, root: Buffer) -> list[Buffer]:
        """Return the buffers a temporary is computed from, without those its step writes."""
        step = self.program.steps[self.written[root][0]]
        own = {buffer.root() for buffer in writes_of(step)}
        return [b for b in dict.fromkeys(b.root() for b in reads_of(step)) if b not in own]

    def proposals(self) -> Iterable[frozenset[Buffer]]:
        """Yield sets of temporaries to drop, cheap ones first."""
        long = [root for root, life in self.lives.items() if life.gap]
        cheap = [root for root in long if isinstance(
            self.program.steps[self.lives[root].touches[0]], (Kernel, Copy))
            and self._is_free(root)]
        cheap.sort(key=lambda root: -self.lives[root].size * self.lives[root].gap
                   / max(self.lives[root].cost, 1.0))
        count = 1
        while cheap and count < 2 * len(cheap):
            yield frozenset(cheap[:count])
            count *= 2
        long.sort(key=lambda root: self.lives[root].touches[0])
        distance = 2
        while distance < 2 * len(long):
            yield frozenset(self.lives) - frozenset(long[::distance])
            distance = max(distance + 1, distance * 5 // 4)

    def _is_free(self, root: Buffer) -> bool:
        """Return whether what a temporary is computed from is alive anyway when it is needed."""
        life = self.lives[root]
        needed = life.cut + life.gap
        return all(operand.role != "temporary" or self.touched[operand][-1] >= needed
                   for operand in self.operands(root))

    def _peak(self) -> int:
        """Return the step at which most bytes are alive."""
        changes = [0] * (len(self.program.steps) + 1)
        for root, touches in self.touched.items():
            if root.role == "temporary":
                size = _value(bytes_of(root), self.hints)
                changes[touches[0]] += size
                changes[touches[-1] + 1] -= size
        alive, most, peak = 0, -1, 0
        for number, change in enumerate(changes[:-1]):
            alive += change
            if alive > most:
                most, peak = alive, number
        return peak

    def without(self, dropped: frozenset[Buffer]) -> Program | None:
        """Return the program that computes these temporaries again after their gaps.

        None when one of them would be computed from a shared variable after its update.
        """
        steps: list[Step] = []
        copies: dict[Buffer, Buffer] = {}
        commit = self.program.commit
        for number, step in enumerate(self.program.steps):
            late = self._late(step, number, dropped)
            for again in self._order(late, number, dropped, copies):
                repeated = self.program.steps[again]
                if any(root.role == "shared" and self.written.get(root, [number])[0] < number
                       for root in (b.root() for b in reads_of(repeated))):
                    return None
                names = {root: copies[root] for root in self._late(repeated, number, dropped)}
                fresh = {root: replace(root, role="temporary")
                         for root in dict.fromkeys(b.root() for b in writes_of(repeated))}
                copies.update(fresh)
                steps.append(_renamed(repeated, names | fresh))
                if number < self.program.commit:
                    commit += 1
            steps.append(_renamed(step, {root: copies[root] for root in late}) if late else step)
        return self.program.with_steps(tuple(steps), commit=commit)

    def _late(self, step: Step, number: int, dropped: frozenset[Buffer]) -> list[Buffer]:
        """Return what a step reads, running at ``number``, that was dropped before."""
        written = {buffer.root() for buffer in writes_of(step)}
        return [root for root in dict.fromkeys(b.root() for b in reads_of(step))
                if root in dropped and root not in written and number > self.lives[root].cut]

    def _order(self, wanted: list[Buffer], number: int, dropped: frozenset[Buffer],
               copies: Mapping[Buffer, Buffer]) -> list[int]:
        """Return the steps to repeat for these temporaries, operands before what uses them."""
        order: dict[int, None] = {}
        pending = list(reversed(wanted))
        while pending:
            root = pending[-1]
            source = self.written[root][0]
            if root in copies or source in order:
                pending.pop()
                continue
            missing = [operand for operand in self._late(
                self.program.steps[source], number, dropped)
                if operand not in copies and self.written[operand][0] not in order]
            if missing:
                pending += missing
            else:
                order[source] = None
                pending.pop()
        return list(order)


# -- steps on other buffers ------------------------------------------------------------------------

def _renamed(step: Step, roots: Mapping[Buffer, Buffer]) -> Step:
    """Return a step that uses other buffers in the place of some."""
    names: dict[Buffer, Buffer] = dict(roots)

    def named(buffer: Buffer) -> Buffer:
        if buffer not in names:
            base = buffer.base and named(buffer.base)
            names[buffer] = buffer if base is buffer.base else replace(
                buffer, base=base, role=base.role)
        return names[buffer]

    def view(old: View) -> View:
        return replace(old, buffer=named(old.buffer))

    def kernel(old: Kernel) -> Kernel:
        return Kernel(_renamed_nest(old.nest, {b: named(b) for b in (*old.reads, *old.writes)}),
                      tuple(map(named, old.reads)), tuple(map(named, old.writes)))

    if isinstance(step, Kernel):
        return kernel(step)
    if isinstance(step, Contract):
        return replace(step, out=view(step.out), left=view(step.left), right=view(step.right),
                       epilogue=step.epilogue and kernel(step.epilogue))
    if isinstance(step, Copy):
        return Copy(named(step.source), named(step.target))
    return replace(step, body=tuple(_renamed(inner, roots) for inner in step.body))


def _renamed_nest(nest: Nest, names: Mapping[Buffer, Buffer]) -> Nest:
    """Return a nest that reads and writes other buffers."""
    made: dict[Expr, Expr] = {}

    def expression(root: Expr) -> Expr:
        for node in postorder(root, known=made.__contains__):
            if isinstance(node, Load):
                made[node] = replace(node, buffer=names[node.buffer])
            elif isinstance(node, Scalar):
                made[node] = replace(node, args=tuple(made[arg] for arg in node.args))
            else:
                made[node] = node
        return made[root]

    def statement(stmt: Stmt) -> Stmt:
        if isinstance(stmt, For):
            return replace(stmt, body=tuple(map(statement, stmt.body)))
        new = [expression(operand) for operand in operands(stmt)]
        if isinstance(stmt, If):
            return replace(stmt, condition=new[0], body=tuple(map(statement, stmt.body)))
        if isinstance(stmt, Check):
            return replace(stmt, condition=new[0], value=new[1])
        if isinstance(stmt, Store):
            return replace(stmt, buffer=names[stmt.buffer], value=new[0])
        if isinstance(stmt, Accumulate) and isinstance(stmt.target, Load):
            target = replace(stmt.target, buffer=names[stmt.target.buffer])
            return replace(stmt, target=target, value=new[0])
        return replace(stmt, value=new[0])
    return replace(nest, body=tuple(map(statement, nest.body)))
