"""Write one loop nest: the values a kernel computes, each at the loop it belongs to.

:class:`NestBuilder` evaluates variables at positions, composing the index functions of everything
that has no memory of its own (fusion *is* this composition), names values that are used twice, and
puts each value at the outermost loop its position depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from .access import (
    Position, broadcast_position, is_view, scalar_constant, view_position)
from .dims import DimLike, Symbol, as_dim, symbols_of
from .fuse import cost_of
from .graph import Apply, Variable, describe, format_site
from .loop import scalar
from .loop.ir import (
    Buffer, Check, Const, Expr, For, Index, Let, Load, Local, Mark, Nest, Stmt, Store)
from .loop.schedule import collapse
from .loop.walk import buffers_read, buffers_written
from .ops.op import IndexLowering, ReduceLowering, ScalarLowering
from .program import Failure, Kernel

if TYPE_CHECKING:
    from .bufferize import Memory


class Scope:
    """The statements of one loop body, and the values already named in it."""

    def __init__(self, parent: Scope | None = None, index: Symbol | None = None,
                 extent: DimLike = 1):
        self.parent, self.index, self.extent = parent, index, extent
        self.body: list[Stmt] = []
        self.memo: dict[tuple[int, Position], Expr] = {}
        self.symbols: set[Symbol] = set() if index is None else {index}

    def lookup(self, key: tuple[int, Position]) -> Expr | None:
        """Return a value named here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if key in scope.memo:
                return scope.memo[key]
            scope = scope.parent
        return None

    def home_of(self, position: Position) -> Scope:
        """Return the outermost scope in which every symbol of ``position`` has a value."""
        wanted = [symbols for dim in position if (symbols := symbols_of(dim))]
        scope = self
        while scope.parent is not None and all(map(scope.symbols.isdisjoint, wanted)):
            scope = scope.parent
        return scope

    def close(self, mark: Mark) -> None:
        """End the loop: append it to the enclosing scope."""
        assert self.parent is not None and self.index is not None
        self.parent.body.append(For(self.index, self.extent, tuple(self.body), mark))


class NestBuilder:
    """Writes the nest of one kernel.

    Parameters
    ----------
    name : str
    memory : Memory
        Which variables have buffers, and the function's list of failures.
    inside : set of int
        ids of nodes this kernel computes itself even though they have memory.
    uses : mapping
        id of variable -> number of its readers.
    """

    def __init__(self, name: str, memory: Memory, inside: set[int], uses: Mapping[int, int]):
        self.name, self.memory, self.inside, self.uses = name, memory, inside, uses
        self.root = Scope()
        self.scope = self.root
        self.written: list[Buffer] = []
        self.pending: list[Stmt] = []
        self.cost = 0.0
        self.groups: list[int] = []
        self.names = 0
        self.node: Apply | None = None

    # -- loops -------------------------------------------------------------------------------------

    def open(self, extents: Iterable[DimLike], name: str = "i") -> Position:
        """Open a group of nested loops and return their indices; a length of 1 needs no loop."""
        index: list[DimLike] = []
        self.groups.append(0)
        for extent in extents:
            if extent == 1:
                index.append(0)
                continue
            self.groups[-1] += 1
            self.names += 1
            symbol = Symbol(f"{name}{self.names}", extent=extent)
            self.scope = Scope(self.scope, symbol, extent)
            index.append(as_dim(symbol))
        return tuple(index)

    def close(self, outermost: Mark = "serial", innermost: Mark = "serial",
              groups: int = 1) -> None:
        """Close groups of loops: pending stores first, then the loops from the inside out."""
        self.flush()
        count = sum(self.groups.pop() for _ in range(groups))
        for level in range(count):
            scope = self.scope
            is_last = level == count - 1
            mark = outermost if is_last and outermost != "serial" else \
                innermost if level == 0 else "serial"
            scope.close(mark)
            assert scope.parent is not None
            self.scope = scope.parent

    def flush(self) -> None:
        """Emit the stores and accumulations collected for the current loop body."""
        self.scope.body.extend(self.pending)
        self.pending = []

    def kernel(self) -> Kernel:
        """Return the finished kernel."""
        body = _inside_parallel(tuple(self.root.body))
        nest = collapse(Nest(self.name, body, max(self.cost, 1.0)))
        return Kernel(nest, buffers_read(nest), buffers_written(nest))

    # -- values ------------------------------------------------------------------------------------

    def value(self, variable: Variable, position: Position) -> Expr:
        """Return the element of ``variable`` at ``position``.

        Elementwise operations are walked with an explicit stack, so a chain of any length works.
        """
        stack = [normal(variable, position)]
        while stack:
            variable_, position_ = stack[-1]
            key = (id(variable_), position_)
            if self.scope.lookup(key) is not None:
                stack.pop()
                continue
            source = self._source(variable_, position_)
            if isinstance(source, tuple):
                source = normal(*source)
                if (found := self.scope.lookup((id(source[0]), source[1]))) is None:
                    stack.append(source)
                else:
                    self.scope.memo[key] = found
                    stack.pop()
            elif not isinstance(source, Apply):
                self.scope.memo[key] = source
                stack.pop()
            else:
                operands = [(v, broadcast_position(v, position_)) for v in source.inputs] \
                    if isinstance(source.op.lower, ScalarLowering) else []
                missing = [(v, p) for v, p in operands if self.scope.lookup((id(v), p)) is None]
                if missing:
                    stack.extend(missing)
                    continue
                stack.pop()
                self._compute(source, variable_, position_, operands)
        return self._lookup(variable, position)

    def _source(self, variable: Variable, position: Position
                ) -> Expr | tuple[Variable, Position] | Apply:
        """Return a leaf expression, what a view shows, or the node that has to be computed."""
        literal = scalar_constant(variable)
        if literal is not None:
            return literal
        owner = variable.owner
        buffer = self.memory.buffers.get(id(variable))
        if owner is None or (buffer is not None and id(owner) not in self.inside):
            return self._load(self.memory.buffer_of(variable), position)
        if owner.op.name == "size":
            return scalar.index(owner.params["dim"])
        if buffer is None and is_view(variable):
            return owner.inputs[0], view_position(owner, position)
        if isinstance(owner.op.lower, ReduceLowering):
            return self._load(self.memory.buffer_of(variable), position)
        return owner

    def _load(self, buffer: Buffer, position: Position) -> Expr:
        element: Expr = Load(buffer, position)
        if buffer.root() in self.memory.overwritten:
            # The kernel may store to this very element: read it before.
            element = self._name("old", element, self.scope.home_of(position))
        return element

    def _compute(self, node: Apply, variable: Variable, position: Position,
                 operands: list[tuple[Variable, Position]]) -> None:
        lower = node.op.lower
        home = self.scope.home_of(position)
        if isinstance(lower, ScalarLowering):
            arguments = [self._lookup(v, p) for v, p in operands]
            expression = lower.rule(*arguments, **node.params)
        else:
            assert isinstance(lower, IndexLowering), node.op.name
            outer, self.scope, self.node = (self.scope, self.node), home, node
            expression = lower.rule(self, position, node)
            self.scope, self.node = outer
        if home is self.scope:
            self.cost += cost_of(node)
        if not isinstance(expression, (Const, Index)) \
                and (self.uses.get(id(variable), 1) > 1 or home is not self.scope):
            expression = self._name(node.op.name.rstrip("_"), expression, home)
        home.memo[(id(variable), position)] = expression

    def _lookup(self, variable: Variable, position: Position) -> Expr:
        variable, position = normal(variable, position)
        found = self.scope.lookup((id(variable), position))
        assert found is not None
        return found

    def _name(self, name: str, expression: Expr, scope: Scope) -> Local:
        self.names += 1
        local = Local(f"{name}{self.names}", expression.dtype)
        scope.body.append(Let(local, expression))
        return local

    # -- what the rows' index and region rules call (the lowering context) -------------------------

    def read(self, k: int, position: Position) -> Expr:
        """Return an element of input ``k`` of the node being lowered."""
        assert self.node is not None
        node = self.node
        value = self.value(node.inputs[k], tuple(position))
        self.node = node
        return value

    def bind(self, expression: Expr, name: str = "j") -> DimLike:
        """Turn an int64 expression into a dim usable in positions."""
        if isinstance(expression, Const):
            return int(expression.value)
        if isinstance(expression, Index):
            return expression.dim
        self.names += 1
        symbol = Symbol(f"{name}{self.names}", lower=None)
        self.scope.symbols.add(symbol)
        self.scope.body.append(Let(symbol, expression))
        return as_dim(symbol)

    def check(self, condition: Expr, message: str, value: Expr) -> None:
        """Report an ``IndexOutOfRangeError`` with ``message`` unless ``condition`` holds."""
        if isinstance(condition, Const) and condition.value:
            return
        assert self.node is not None
        text = f"{message}\n  in: {describe(self.node.outputs[0])}"
        site = format_site(self.node.site)
        code = self.memory.failure(Failure(
            "IndexOutOfRangeError", text + (f"\n  built at: {site}" if site else "")))
        self.scope.body.append(Check(condition, code, value))

    # -- results -----------------------------------------------------------------------------------

    def store(self, variable: Variable, position: Position) -> None:
        """Compute a variable at ``position`` and store it when the loop body ends."""
        value = self.value(variable, position)
        self.store_value(self.memory.buffer_of(variable), position, value)

    def store_value(self, buffer: Buffer, position: Position, value: Expr) -> None:
        """Store a value when the loop body ends."""
        self.pending.append(Store(buffer, position, value))

    def accumulator(self, node: Apply) -> Local:
        """Name a running total for a reduction, starting at its identity."""
        dtype = node.outputs[0].dtype
        assert isinstance(node.op.lower, ReduceLowering)
        return self._name(node.op.name.rstrip("_"),
                          scalar.const(node.op.lower.identity(dtype), dtype), self.scope)


def _inside_parallel(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """Move what only a parallel loop needs into it: a nest that is one such loop can be cut.

    The target moves it out again, in each thread.
    """
    *before, last = body or (None,)
    if not before or not isinstance(last, For) or last.mark != "parallel" \
            or not all(isinstance(statement, Let) for statement in before):
        return body
    return (replace(last, body=(*before, *last.body)),)


def normal(variable: Variable, position: Position) -> tuple[Variable, Position]:
    """Return an access with index 0 on axes of length 1, so that equal accesses compare equal."""
    dims = variable.type.dims
    if 1 in dims:
        position = tuple(0 if size == 1 else i for size, i in zip(dims, position))
    return variable, position


def is_stored(node: Apply, memory: Memory) -> bool:
    """Return whether a node's value has memory."""
    return id(node.outputs[0]) in memory.buffers


def kernel_name(nodes: Iterable[Apply]) -> str:
    """Return a readable name made of the operations a kernel computes."""
    names = list(dict.fromkeys(node.op.name.rstrip("_") for node in nodes))
    return "_".join(names[:3] + ["etc"] * (len(names) > 4) + names[3:][-1:])
