"""Well-formedness of a nest, checked between passes: enters a nest, leaves nothing or an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...runtime.artifact import InternalError
from ..dims import DimLike, Symbol, symbols_of
from ..dtypes import DTYPES
from .ir import (
    Accumulate, Barrier, Buffer, Check, Const, Expr, For, If, Index, Let, Load, Local, Nest, Scalar,
    Shuffle, Stmt, Store,
)
from .math import FUNCTIONS
from .scalar import SCALARS, kind_of
from .text import statement_text
from .walk import bound_symbols, loads, operands, postorder, statements, target_access

_MARKS = ("serial", "parallel", "vector", "unroll", "block", "thread")
_UNORDERED = ("parallel", "vector", "block", "thread")
WARP = 32
"""Threads that exchange values in a ``Shuffle``."""

_COMBINES = {"add": "if", "mul": "if", "minimum": "if", "maximum": "if", "and": "bi", "or": "bi"}


def verify_nest(nest: Nest, sizes: Iterable[Symbol] | None = None) -> None:
    """Check that a nest obeys the rules of the language.

    Parameters
    ----------
    nest : Nest
    sizes : iterable of Symbol, optional
        The symbols known when it starts; all free symbols are accepted when omitted.

    Raises
    ------
    InternalError
        Naming the statement: dtypes that disagree, a symbol or local used before it is bound, a
        position of the wrong rank, a constant position provably out of bounds, iterations of an
        unordered loop that depend on each other through a local or, provably, through memory.
    """
    bound = bound_symbols(nest)
    known = None if sizes is None else frozenset(sizes)
    _Verifier(nest, bound, known).body(nest.body, _Scope(frozenset(), {}, ()))


@dataclass(frozen=True, slots=True)
class _Scope:
    """What holds at a statement: bound symbols, locals (with the loops around their Let), loops."""

    symbols: frozenset[Symbol]
    locals: dict[Local, int]
    loops: tuple[For, ...]


class _Verifier:
    """One nest being checked."""

    def __init__(self, nest: Nest, bound: set[Symbol], sizes: frozenset[Symbol] | None):
        self.nest, self.bound, self.sizes = nest, bound, sizes

    def body(self, body: tuple[Stmt, ...], scope: _Scope) -> None:
        """Check statements in order, each seeing what the earlier ones bound."""
        for stmt in body:
            for expr in operands(stmt):
                self.expression(expr, stmt, scope)
            if isinstance(stmt, For):
                self.loop(stmt, scope)
            elif isinstance(stmt, If):
                self.require(stmt.condition.dtype == "bool", stmt, "the condition is not bool")
                self.body(stmt.body, scope)
            elif isinstance(stmt, Let):
                scope = self.let(stmt, scope)
            elif isinstance(stmt, Shuffle):
                scope = self.shuffle(stmt, scope)
            else:
                self.leaf(stmt, scope)

    def leaf(self, stmt: Stmt, scope: _Scope) -> None:
        """Check a statement that writes memory or a local, or reports."""
        if isinstance(stmt, Store):
            self.access(stmt.buffer, stmt.position, stmt, scope)
            self.require(stmt.buffer.dtype == stmt.value.dtype, stmt,
                         f"{stmt.value.dtype} is stored in {stmt.buffer.dtype}")
            self.require(stmt.buffer.role not in ("input", "constant"), stmt,
                         f"{stmt.buffer.name} is an {stmt.buffer.role} and cannot be written")
        elif isinstance(stmt, Accumulate):
            self.accumulate(stmt, scope)
        elif isinstance(stmt, Check):
            self.require(stmt.condition.dtype == "bool", stmt, "the condition is not bool")
            self.require(stmt.value.dtype == "int64", stmt, "the reported value is not int64")
            self.require(stmt.code >= 1, stmt, "failure codes start from 1")
        elif isinstance(stmt, Barrier):
            self.require(stmt.scope in ("block", "warp"), stmt, f"unknown scope {stmt.scope!r}")
            self.require(any(loop.mark == "thread" for loop in scope.loops), stmt,
                         "a barrier outside of thread loops")
        else:
            self.require(False, stmt, f"unknown statement {type(stmt).__name__}")

    def loop(self, stmt: For, scope: _Scope) -> None:
        """Check a loop and its body."""
        self.require(stmt.mark in _MARKS, stmt, f"unknown mark {stmt.mark!r}")
        self.dim_bound(symbols_of(stmt.extent), stmt, scope)
        self.require(stmt.index not in scope.symbols, stmt, f"{stmt.index} is bound twice")
        if stmt.mark in _UNORDERED:
            self.independent(stmt)
        self.body(stmt.body, _Scope(scope.symbols | {stmt.index}, scope.locals,
                                    scope.loops + (stmt,)))

    def let(self, stmt: Let, scope: _Scope) -> _Scope:
        """Check a binding; return the scope after it."""
        target = stmt.target
        if isinstance(target, Symbol):
            self.require(stmt.value.dtype == "int64", stmt, "a symbol is bound to a non-int64")
            self.require(target not in scope.symbols, stmt, f"{target} is bound twice")
            return _Scope(scope.symbols | {target}, scope.locals, scope.loops)
        self.require(target.dtype == stmt.value.dtype, stmt,
                     f"{target.dtype} local is bound to {stmt.value.dtype}")
        return _Scope(scope.symbols, {**scope.locals, target: len(scope.loops)}, scope.loops)

    def shuffle(self, stmt: Shuffle, scope: _Scope) -> _Scope:
        """Check an exchange within a warp; return the scope after it."""
        lanes = [loop.extent for loop in scope.loops if loop.mark == "thread"][-1:]
        self.require(lanes == [WARP], stmt, f"the innermost thread loop is not of {WARP} threads")
        self.require(0 < stmt.distance < WARP, stmt, f"there is no thread {stmt.distance} apart")
        self.require(stmt.target.dtype == stmt.source.dtype, stmt,
                     f"{stmt.target.dtype} local is bound to {stmt.source.dtype}")
        return _Scope(scope.symbols, {**scope.locals, stmt.target: len(scope.loops)}, scope.loops)

    def accumulate(self, stmt: Accumulate, scope: _Scope) -> None:
        """Check an accumulation's target, operation and dtype."""
        target = stmt.target
        self.require(stmt.combine in _COMBINES, stmt, f"cannot accumulate with {stmt.combine!r}")
        self.require(target.dtype == stmt.value.dtype, stmt,
                     f"{stmt.value.dtype} is accumulated in {target.dtype}")
        self.require(kind_of(target.dtype) in _COMBINES[stmt.combine], stmt,
                     f"{stmt.combine} does not combine {target.dtype}")
        if isinstance(target, Load):
            self.access(target.buffer, target.position, stmt, scope)
            self.require(target.buffer.role not in ("input", "constant"), stmt,
                         f"{target.buffer.name} is an {target.buffer.role} and cannot be written")
            return
        self.require(target in scope.locals, stmt, f"local {target.name} is not bound here")
        crossed = {loop.mark for loop in scope.loops[scope.locals[target]:]}
        self.require(not crossed & {"parallel", "block", "thread"}, stmt,
                     f"iterations of a parallel loop share the local {target.name}")

    def independent(self, loop: For) -> None:
        """Check that iterations of an unordered loop do not depend on each other.

        Only what is decidable without knowing sizes: locals whose partial value is read, and an
        element that every iteration writes (other than under an ``If``).
        """
        inside = list(statements(loop.body))
        own = {stmt.target for stmt in inside if isinstance(stmt, (Let, Shuffle))}
        changing = {stmt.target for stmt in inside
                    if isinstance(stmt, Accumulate) and isinstance(stmt.target, Local)} - own
        for stmt in inside:
            for node in postorder(*operands(stmt)):
                self.require(node not in changing, stmt,
                             "the partial value of an accumulation in an unordered loop is read")
        if loop.extent == 1:
            return
        varying = own | {stmt.index for stmt in inside if isinstance(stmt, For)} | {loop.index}
        fixed: set[tuple[Buffer, tuple[DimLike, ...]]] = set()
        for stmt in _unconditional(loop.body):
            access = target_access(stmt)
            if access is not None and _is_common(access[0], loop) \
                    and not any(symbols_of(dim) & varying for dim in access[1]):
                self.require(loop.mark == "vector" and isinstance(stmt, Store), stmt,
                             f"all iterations of a {loop.mark} loop write one element")
                fixed.add(access)
        for stmt in inside:
            for load in loads(*operands(stmt)):
                self.require((load.buffer, load.position) not in fixed, stmt,
                             "iterations of a vector loop read an element that others write")

    def expression(self, root: Expr, stmt: Stmt, scope: _Scope) -> None:
        """Check an expression."""
        for node in postorder(root):
            self.require(node.dtype in DTYPES, stmt, f"unknown dtype {node.dtype!r}")
            if isinstance(node, Load):
                self.access(node.buffer, node.position, stmt, scope)
            elif isinstance(node, Local):
                self.require(node in scope.locals, stmt, f"local {node.name} is not bound here")
            elif isinstance(node, Index):
                self.dim_bound(symbols_of(node.dim), stmt, scope)
            elif isinstance(node, Scalar):
                fault = scalar_fault(node)
                self.require(fault is None, stmt, fault or "")
            else:
                self.require(isinstance(node, Const), stmt,
                             f"unknown expression {type(node).__name__}")

    def access(self, buffer: Buffer, position: tuple[DimLike, ...], stmt: Stmt,
               scope: _Scope) -> None:
        """Check an element's position."""
        self.require(len(position) == len(buffer.dims), stmt,
                     f"{len(position)} indices for {buffer!r}")
        for at, size in zip(position, buffer.dims):
            self.dim_bound(symbols_of(at), stmt, scope)
            outside = isinstance(at, int) and (at < 0 or isinstance(size, int) and at >= size)
            self.require(not outside, stmt, f"index {at} is outside axis of size {size}")

    def dim_bound(self, symbols: set[Symbol], stmt: Stmt, scope: _Scope) -> None:
        """Check that symbols have values here."""
        for symbol in symbols:
            here = symbol in scope.symbols or symbol not in self.bound and (
                self.sizes is None or symbol in self.sizes)
            self.require(here, stmt, f"symbol {symbol} is not bound here")

    def require(self, holds: bool, stmt: Stmt, what: str) -> None:
        """Raise unless ``holds``."""
        if not holds:
            raise InternalError(f"nest {self.nest.name}: {what}\n  in: {statement_text(stmt)}")


def _is_common(buffer: Buffer, loop: For) -> bool:
    """Return whether the iterations of a loop see one and the same memory of a buffer."""
    role = buffer.root().role
    return role != "register" if loop.mark == "thread" else role not in ("scratch", "register") \
        or loop.mark != "block"


def _unconditional(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Yield the statements every iteration runs (if its inner loops run at all)."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, For):
            yield from _unconditional(stmt.body)


def scalar_fault(node: Scalar) -> str | None:
    """Return what is wrong with the dtypes of a scalar operation, or None."""
    if node.name in FUNCTIONS:
        dtypes = {arg.dtype for arg in node.args} | {node.dtype}
        return None if len(dtypes) == 1 else f"{node.name} of different dtypes"
    row = SCALARS.get(node.name)
    if row is None:
        return f"unknown primitive {node.name!r}"
    if len(node.args) != row.arity:
        return f"{node.name} takes {row.arity} arguments, not {len(node.args)}"
    args = node.args
    if node.name == "select":
        if args[0].dtype != "bool":
            return "select's condition is not bool"
        args = args[1:]
    dtypes = [arg.dtype for arg in args]
    if len(set(dtypes)) != 1:
        return f"{node.name} of different dtypes: {', '.join(dtypes)}"
    if kind_of(dtypes[0]) not in row.accepts:
        return f"{node.name} does not take {dtypes[0]}"
    same = row.result == "same" or node.name == "select"
    expected = "bool" if row.result == "bool" else dtypes[0] if same else node.dtype
    if node.dtype != expected:
        return f"{node.name} of {dtypes[0]} gives {expected}, not {node.dtype}"
    return None
