"""How an operation reads its inputs: which element of which variable, as a function of its index.

Views (transposes, broadcasts, slices) are functions of an index and cost nothing to compose, so
every question about fusion is asked of the variable *behind* the views and the position in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from .dims import DimLike, Symbol, as_dim, substitute, symbols_of
from .dtypes import HALVES
from .graph import Apply, Variable
from .loop import scalar
from .loop.ir import Const, Expr, Local
from .ops.op import ContractLowering, IndexLowering, ReduceLowering, ScalarLowering

Position: TypeAlias = tuple[DimLike, ...]

_AXES = tuple(as_dim(Symbol(f"i{axis}")) for axis in range(64))


_INDICES = tuple(_AXES[:rank] for rank in range(len(_AXES) + 1))


def index_of_rank(rank: int) -> Position:
    """Return the symbolic index ``(i0, i1, ...)`` that all questions of access are asked with."""
    return _INDICES[rank]


class Read(NamedTuple):
    """Access to ``variable`` (no view) at ``position``, None when the position depends on data."""

    variable: Variable
    position: Position | None

    def is_in_place(self) -> bool:
        """Return whether the variable is read at the index that is computed."""
        if self.position is None:
            return False
        dims = self.variable.type.dims
        index = index_of_rank(len(dims))
        return all(p == i or size == 1 for p, i, size in zip(self.position, index, dims))


def is_view(variable: Variable) -> bool:
    """Return whether a variable is a pure re-indexing of its owner's input 0."""
    owner = variable.owner
    lower = None if owner is None else owner.op.lower
    return isinstance(lower, IndexLowering) and lower.is_view


def broadcast_position(variable: Variable, index: Position) -> Position:
    """Return where an elementwise operation reads an operand when it computes ``index``."""
    dims = variable.type.dims
    own = index[len(index) - len(dims):]
    if 1 not in dims:
        return own
    return tuple(0 if size == 1 else i for size, i in zip(dims, own))


class _Tracer:
    """Stands in for the lowering context: records reads, gives each bound value a fresh symbol."""

    def __init__(self, node: Apply):
        self.node = node
        self.reads: list[tuple[int, Position]] = []
        self.is_checked = False

    def read(self, k: int, position: Position) -> Expr:
        self.reads.append((k, tuple(position)))
        # Not a literal: rules fold those, and take what they fold to for known.
        return Local("loaded", self.node.inputs[k].dtype)

    def bind(self, expression: Expr, name: str = "j") -> DimLike:
        return as_dim(_DataPosition(name))

    def check(self, condition: Expr, message: str, value: Expr) -> None:
        self.is_checked = True


class _DataPosition(Symbol):
    """The symbol of an index that is loaded from memory."""

    __slots__ = ()


def view_position(node: Apply, index: Position) -> Position:
    """Return where a view's input 0 is read for ``index``."""
    tracer = _Tracer(node)
    node.op.lower.rule(tracer, index, node)
    (_, position), = tracer.reads
    return position


def behind_views(variable: Variable, position: Position,
                 stop: frozenset[int] | set[int] = frozenset()) -> tuple[Variable, Position]:
    """Follow views until a variable that is none (or whose id is in ``stop``)."""
    while id(variable) not in stop and is_view(variable):
        position = view_position(variable.owner, position)
        variable = variable.owner.inputs[0]
    return variable, position


def is_widening(variable: Variable) -> bool:
    """Return whether a variable is a half converted to float32, which loses and rounds nothing."""
    owner = variable.owner
    return owner is not None and owner.op.name == "cast" and variable.dtype == "float32" \
        and owner.inputs[0].dtype in HALVES


def behind_factor(variable: Variable, position: Position,
                  stop: frozenset[int] | set[int] = frozenset()) -> tuple[Variable, Position]:
    """Follow views, and the conversion of a half: what a product reads for an operand."""
    base, position = behind_views(variable, position, stop)
    if id(base) not in stop and is_widening(base):
        return behind_views(base.owner.inputs[0], position, stop)
    return base, position


def reads_of_node(node: Apply, stop: frozenset[int] | set[int]) -> list[Read]:
    """Return the accesses of a node when it computes index ``(i0, i1, ...)``.

    For a reduction the index runs over its operand.  Node kinds other than elementwise, index and
    reduction read their inputs whole (position None).
    """
    lower = node.op.lower
    if isinstance(lower, ScalarLowering):
        index = index_of_rank(node.outputs[0].ndim)
        pairs = [(source, broadcast_position(source, index)) for source in node.inputs]
    elif isinstance(lower, ReduceLowering):
        pairs = [(node.inputs[0], index_of_rank(node.inputs[0].ndim))]
    elif isinstance(lower, IndexLowering):
        tracer = _Tracer(node)
        lower.rule(tracer, index_of_rank(node.outputs[0].ndim), node)
        pairs = [(node.inputs[k], position) for k, position in tracer.reads]
    else:
        behind = behind_factor if isinstance(lower, ContractLowering) else behind_views
        return [Read(behind(source, index_of_rank(source.ndim), stop)[0], None)
                for source in node.inputs]
    found = []
    for source, position in pairs:
        base, behind = behind_views(source, position, stop)
        # Only an index operation, this one or a view, can have taken a position from data.
        is_plain = behind is position and not isinstance(lower, IndexLowering)
        found.append(Read(base, behind if is_plain or not _depends_on_data(behind) else None))
    return found


def checked_nodes(nodes: Iterable[Apply]) -> set[int]:
    """Return the ids of nodes whose elements may be refused: by a check of an index from data.

    A reader of a view composes it, and makes the view's checks its own.

    Parameters
    ----------
    nodes : iterable of Apply
        In topological order.
    """
    found: set[int] = set()
    for node in nodes:
        composed = any(is_view(source) and id(source.owner) in found for source in node.inputs)
        if composed or (isinstance(node.op.lower, IndexLowering) and _is_checked(node)):
            found.add(id(node))
    return found


def _is_checked(node: Apply) -> bool:
    tracer = _Tracer(node)
    node.op.lower.rule(tracer, index_of_rank(node.outputs[0].ndim), node)
    return tracer.is_checked


def _depends_on_data(position: Position) -> bool:
    return any(isinstance(atom, _DataPosition)
               for dim in position if not isinstance(dim, int)
               for monomial, _ in dim.terms for atom, _ in monomial)


def flat_offset(position: Position, dims: Position) -> DimLike:
    """Return the row-major element offset of ``position`` in an array of shape ``dims``."""
    offset: DimLike = 0
    for index, size in zip(position, dims):
        offset = offset * size + index
    return offset


def coefficient_of(offset: DimLike, symbol: Symbol) -> DimLike | None:
    """Return c where ``offset == c * symbol + rest`` and neither mentions ``symbol``; else None."""
    if isinstance(offset, int):
        return 0
    at_zero = substitute(offset, {symbol: 0})
    slope = substitute(offset, {symbol: 1}) - at_zero
    if offset - at_zero - slope * as_dim(symbol) != 0 or symbol in symbols_of(slope):
        return None
    return slope


def scalar_constant(variable: Variable) -> Const | None:
    """Return the literal of a constant with one element, or None."""
    data = getattr(variable, "data", None)
    return scalar.const(data.reshape(-1)[0], variable.dtype) \
        if data is not None and data.size == 1 else None
