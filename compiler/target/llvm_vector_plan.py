"""How a loop is cut into vectors: which of its values differ between iterations, how many lanes a
vector has, how many vectors are computed side by side.

Enters a loop of the loop language; leaves a :class:`VectorPlan`, or None for a loop that runs one
iteration after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..dims import DimLike, Symbol, as_dim, substitute, symbols_of
from ..dtypes import SIZES, is_float
from ..loop.ir import Accumulate, Check, Expr, For, If, Index, Let, Load, Local, Scalar, Stmt, Store
from ..loop.math import FUNCTIONS
from ..loop.walk import operands, postorder, target_access
from .llvm_values import Values

INTERLEAVE, LONG_INTERLEAVE = 4, 2
"""Vectors computed side by side.  An iteration is one chain of latencies (a polynomial; additions
to one accumulator), so that several run 1.1 to 2.6 times faster than one; more than four gain
little.  In a long body two, which bounds the length of the code."""

ACCUMULATED_INTERLEAVE = 6
"""Likewise, where each of them adds to a total of its own: two units that add, with a latency of
three or four cycles.  Log-softmax and layer norm take 0.93 times as long as with four."""

LONG_BODY = 300.0
"""Cost of an iteration from which on a body is long, unless it calls its functions."""

MASKED_BODY = 150.0
"""Cost from which on one body with masks serves all iterations: masks cost little beside it, and
another body for the last vectors would cost the time to compile it."""

GATHERED_INTERLEAVE = 1
"""Likewise, where positions are data and no function is computed: addresses are made lane by lane,
so that one vector holds independent work enough, and its code is as long as that of several."""

INLINED_CALLS = 1
"""Scalar functions that are inlined into a loop.  Where there are more they are called, on all
vectors side by side: that runs as fast (up to 1.1 times faster; the loop needs fewer registers),
and the code for a function is made once.  Functions of one argument share what they have in
common when they are inlined (an exponential: twice as fast), so these are, up to
``INLINED_SHARING``."""

INLINED_SHARING = 8


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """What the emitter of a vector loop follows.

    Attributes
    ----------
    lanes : int
        Iterations side by side in a vector; a power of two, at least 2.
    copies : int
        Vectors computed side by side.
    single_body : bool
        Whether one body, with a mask, serves all iterations.
    inline : bool
        Whether scalar functions are inlined.
    shares : bool
        Whether they are because they have something in common.
    varying : frozenset of int
        ``id`` of each expression whose value differs between iterations.
    symbols : frozenset of Symbol
        Bound in the body to values that differ between iterations; the index among them.
    hoisted : tuple of expressions
        Evaluated before the loop: equal in all iterations, and needed by each of them.
    accumulated : dict of Local to str
        Locals of outside the loop that it accumulates, with the operation.
    """

    lanes: int
    copies: int
    single_body: bool
    inline: bool
    shares: bool
    varying: frozenset[int]
    symbols: frozenset[Symbol]
    hoisted: tuple[Expr, ...]
    accumulated: dict[Local, str]


def vector_plan(loop: For, values: Values, cost: float, vector_bytes: int,
                has_loops: bool = False, wanted: int | None = None) -> VectorPlan | None:
    """Return how to cut a loop into vectors, or None when it must run one by one.

    It must when it holds another loop, unless ``has_loops``, when iterations meet in one element
    under a condition, or when it is too short.

    Parameters
    ----------
    loop : For
    values : Values
        Of the nest.
    cost : float
        Of an iteration, relative to an addition.
    vector_bytes : int
        Of the processor's vector registers.
    has_loops : bool
        Whether it may hold loops, which all iterations side by side go through together.
    wanted : int, optional
        About how many vectors should be side by side; by default what suits the body.
    """
    if isinstance(loop.extent, int) and loop.extent < 2:
        return None
    analysis = _Analysis(loop, values, has_loops)
    if not analysis.run():
        return None
    widths = analysis.float_sizes or analysis.sizes
    lanes = vector_bytes // max(widths, default=vector_bytes)
    if isinstance(loop.extent, int):
        while lanes >= 2 * max(loop.extent, 1):
            lanes //= 2
    if lanes < 2:
        return None
    calls = [node for node in analysis.scalars if node.name in FUNCTIONS]
    shares = _share(calls)
    inline = shares or len(calls) <= INLINED_CALLS
    only_totals = not any(isinstance(stmt, Store) for stmt in _flat(loop.body))
    is_flexible = not (calls and analysis.accumulated and only_totals)
    wanted = wanted or _wanted(analysis, cost, inline, bool(calls))
    return VectorPlan(
        lanes, _copies(loop.extent, lanes, wanted, is_flexible), cost >= MASKED_BODY,
        inline, shares, frozenset(analysis.varying),
        frozenset(analysis.symbols), tuple(analysis.hoisted), analysis.accumulated)


def _wanted(analysis: _Analysis, cost: float, inline: bool, has_calls: bool) -> int:
    """Return how many vectors to compute side by side."""
    if len(analysis.symbols) > 1 and not has_calls:
        return GATHERED_INTERLEAVE
    if cost >= LONG_BODY and inline:
        return LONG_INTERLEAVE
    return ACCUMULATED_INTERLEAVE if analysis.accumulated and cost < MASKED_BODY else INTERLEAVE


def _share(calls: list[Scalar]) -> bool:
    """Return whether some of a loop's few functions are of one argument, or of its negative."""
    arguments = {tuple(id(_unsigned(arg)) for arg in call.args) for call in calls}
    return len(arguments) < len(calls) <= INLINED_SHARING


def _unsigned(expr: Expr) -> Expr:
    return expr.args[0] if isinstance(expr, Scalar) and expr.name == "neg" else expr


def _copies(extent: DimLike, lanes: int, wanted: int, is_flexible: bool) -> int:
    """Return the number of vectors side by side: as many as are wanted, or about, if flexible.

    Totals of function values are not: beside five or seven, LLVM has registers for fewer of them
    in a loop of known extent, which takes up to 1.1 times as long.
    """
    if not isinstance(extent, int):
        return wanted
    vectors = -(-extent // lanes)
    if vectors <= wanted:
        return vectors
    if not is_flexible:
        return wanted
    # Of two about equal numbers, that which leaves less after the loop makes shorter code.
    nearby = (wanted, wanted + 1, wanted - 1) if wanted > 2 else (wanted, wanted + 1)
    return min(nearby, key=lambda count: vectors % count)


def slope(offset: DimLike, symbol: Symbol) -> DimLike | None:
    """Return c where ``offset == c * symbol + rest`` and neither mentions ``symbol``; else None."""
    if symbol not in symbols_of(offset):
        return 0
    at_zero = substitute(offset, {symbol: 0})
    step = substitute(offset, {symbol: 1}) - at_zero
    if offset - at_zero - step * as_dim(symbol) != 0 or symbol in symbols_of(step):
        return None
    return step


class _Analysis:
    """One loop's body being looked at, statement after statement."""

    def __init__(self, loop: For, values: Values, has_loops: bool):
        self.loop, self.values, self.has_loops = loop, values, has_loops
        self.symbols: set[Symbol] = {loop.index}
        self.inner_symbols: set[Symbol] = {loop.index}
        self.inner_locals: set[Local] = set()
        self.varying_locals: set[Local] = set()
        self.varying: set[int] = set()
        self.inner: set[int] = set()
        self.seen: set[int] = set()
        self.scalars: list[Scalar] = []
        self.hoisted: list[Expr] = []
        self.accumulated: dict[Local, str] = {}
        self.sizes: set[int] = set()
        self.float_sizes: set[int] = set()

    def run(self) -> bool:
        """Look at the whole body; return whether vectors can compute it."""
        for stmt in _flat(self.loop.body):
            if isinstance(stmt, Let) and isinstance(stmt.target, Local):
                self.inner_locals.add(stmt.target)
        if not all(self._statement(stmt, False) for stmt in self.loop.body):
            return False
        reads = {node for stmt in _flat(self.loop.body)
                 for node in postorder(*operands(stmt)) if isinstance(node, Local)}
        return not reads & set(self.accumulated)

    def _statement(self, stmt: Stmt, conditional: bool) -> bool:
        if isinstance(stmt, For):
            self.inner_symbols.add(stmt.index)
            return self.has_loops and all(self._statement(one, conditional) for one in stmt.body)
        for root in operands(stmt):
            self._expression(root, conditional)
        if isinstance(stmt, If):
            return all(self._statement(inner, True) for inner in stmt.body)
        if isinstance(stmt, Let):
            self._let(stmt)
        elif isinstance(stmt, Accumulate) and isinstance(stmt.target, Local):
            return self._accumulate(stmt)
        elif not isinstance(stmt, Check):
            return self._write(stmt, conditional)
        return True

    def _let(self, stmt: Let) -> None:
        varies = id(stmt.value) in self.varying
        if isinstance(stmt.target, Symbol):
            self.inner_symbols.add(stmt.target)
            if varies:
                self.symbols.add(stmt.target)
        elif varies or stmt.target in self.values.changing:
            self.varying_locals.add(stmt.target)

    def _accumulate(self, stmt: Accumulate) -> bool:
        self._uses(stmt.target.dtype)
        if stmt.target in self.inner_locals:
            return True
        known = self.accumulated.setdefault(stmt.target, stmt.combine)
        return known == stmt.combine

    def _write(self, stmt: Store | Accumulate, conditional: bool) -> bool:
        buffer, position = target_access(stmt)
        self._uses(buffer.dtype)
        meets = not self._varies(self.values.offset(buffer, position))
        return not meets or isinstance(stmt, Store) and not conditional

    def _uses(self, dtype: str) -> None:
        """Note a dtype that decides how many elements a vector has: floats before all others."""
        (self.float_sizes if is_float(dtype) else self.sizes).add(SIZES[dtype])

    def _varies(self, dim: DimLike) -> bool:
        return bool(symbols_of(dim) & self.symbols)

    def _expression(self, root: Expr, conditional: bool) -> None:
        order = postorder(root, known=lambda node: id(node) in self.seen)
        for node in order:
            self.seen.add(id(node))
            self._node(node)
        if not conditional:
            users = [node for node in order if id(node) in self.varying]
            needed = [arg for node in users if isinstance(node, Scalar) for arg in node.args]
            self.hoisted += [node for node in (root, *needed)
                             if id(node) not in self.varying and id(node) not in self.inner
                             and id(node) in self.values.stable]

    def _node(self, node: Expr) -> None:
        """Note whether a node varies, and whether it needs what the body binds."""
        dims: tuple[DimLike, ...] = ()
        if isinstance(node, Load):
            dims = (self.values.offset(node.buffer, node.position),)
        elif isinstance(node, Index):
            dims = (node.dim,)
        varies = any(self._varies(dim) for dim in dims)
        inner = any(symbols_of(dim) & self.inner_symbols for dim in dims)
        if isinstance(node, Local):
            varies, inner = node in self.varying_locals, node in self.inner_locals
        elif isinstance(node, Scalar):
            varies = any(id(arg) in self.varying for arg in node.args)
            inner = any(id(arg) in self.inner for arg in node.args)
        if varies:
            self.varying.add(id(node))
            if isinstance(node, Scalar):
                self.scalars.append(node)
            if isinstance(node, Load) or is_float(node.dtype):
                self._uses(node.dtype)
        if inner:
            self.inner.add(id(node))


def _flat(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Yield statements, and those under their conditions and in their loops."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, (For, If)):
            yield from _flat(stmt.body)
