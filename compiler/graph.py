"""Level one: the graph of symbolic expressions, as users build it.

A :class:`Variable` has a type (dtype and dims) and an *owner*, the :class:`Apply` that computes
it, or none if it is an input.  Types are computed when a node is built, so errors of dtype and
shape are raised on the user's own line.  Variables compare by identity; all walks are iterative.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.artifact import format_message
from .dtypes import dtype_name
from .dims import DimLike, Symbol, as_dim, maximum, minimum, proves_equal
from .operators import Operators

if TYPE_CHECKING:
    from .ops.op import Op


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype and dims of a tensor; a dim that is the integer 1 broadcasts.

    Examples
    --------
    >>> TensorType("float32", (3, 1)).broadcastable
    (False, True)
    """

    dtype: str
    dims: tuple[DimLike, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.dims)

    @property
    def broadcastable(self) -> tuple[bool, ...]:
        """Which axes are known to have length 1."""
        return tuple(dim == 1 if isinstance(dim, int) else False for dim in self.dims)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The sizes that are known, None elsewhere."""
        return tuple(dim if isinstance(dim, int) else None for dim in self.dims)

    def __call__(self, name: str | None = None) -> Variable:
        """Return a new input of this dtype, with the sizes that are known: ``x.type("y")``."""
        return input_variable(self.dtype, self.shape, name)

    def __str__(self) -> str:
        sizes = ", ".join(str(dim) for dim in self.dims)
        return f"{self.dtype} ({sizes}{',' if len(self.dims) == 1 else ''})"


@dataclass(frozen=True, slots=True)
class SizeGuard:
    """Two sizes that a node needs to be equal and that could not be proved so.

    ``left_of`` and ``right_of`` say whose they are: ``(variable, axis)``; axis ``-1`` means the
    variable as a whole (the value of an integer scalar, or a number of elements).  A bound
    ``n >= k`` is the guard ``max(n, k) == n``; ``reason`` then says it as a full sentence, to be
    shown instead of the two sizes' disagreement.  ``kind`` names the error class of ``errors``.
    """

    left: DimLike
    right: DimLike
    left_of: tuple[Variable, int]
    right_of: tuple[Variable, int]
    reason: str = ""
    kind: str = "ShapeError"


class Variable(Operators):
    """A symbolic tensor.

    Attributes
    ----------
    type : TensorType
    owner : Apply or None
        The node that computes it; None for inputs, constants and shared variables.
    index : int
        Which output of the owner.
    name : str or None
        Shown in messages and printouts.
    site : tuple of (str, int) or None
        File and line where it was created.
    """

    __slots__ = ("type", "owner", "index", "name", "site", "_tag", "_symbol", "__weakref__")

    def __init__(self, type: TensorType, owner: Apply | None = None, index: int = 0,
                 name: str | None = None, site: tuple[str, int] | None = None):
        self.type, self.owner, self.index, self.name = type, owner, index, name
        self.site = site if owner is None else owner.site
        self._tag: SimpleNamespace | None = None
        self._symbol: DataSymbol | None = None

    @property
    def tag(self) -> SimpleNamespace:
        """A namespace for the user's own annotations."""
        if self._tag is None:
            self._tag = SimpleNamespace()
        return self._tag

    @property
    def dtype(self) -> str:
        """Data type name."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.type.dims)

    @property
    def broadcastable(self) -> tuple[bool, ...]:
        """Which axes are known to have length 1."""
        return self.type.broadcastable

    def __repr__(self) -> str:
        return describe(self)

    def __reduce__(self):
        if self.owner is None:
            return _restore_input, (type(self), self.type, self.name, self.site, self._tag)
        written = getattr(_pickling, "written", ())
        owner = self.owner if id(self.owner) in written else NodeChain([self])
        return _restore_output, (owner, self.index)


class Constant(Variable):
    """A tensor whose value is part of the graph.  ``data`` is a read-only array."""

    __slots__ = ("data",)

    def __init__(self, data: np.ndarray, name: str | None = None):
        data = np.array(data, order="C")
        data.setflags(write=False)
        super().__init__(TensorType(dtype_name(data.dtype), data.shape), name=name)
        self.data = data

    @property
    def value(self) -> np.ndarray:
        """The array (Theano's name for ``data``)."""
        return self.data

    def __reduce__(self):
        return Constant, (self.data, self.name)


class SharedBase(Variable):
    """An input whose value lives in ``storage`` between calls (the frontend's shared variable)."""

    __slots__ = ("storage", "default_update")

    def __init__(self, type: TensorType, storage: object, name: str | None = None,
                 site: tuple[str, int] | None = None):
        super().__init__(type, name=name, site=site)
        self.storage = storage
        self.default_update: Variable | None = None

    def __reduce__(self):
        return (_restore_shared, (type(self), self.type, self.storage, self.name, self.site),
                (self._tag, self.default_update))

    def __setstate__(self, state) -> None:
        self._tag, self.default_update = state


class DataSymbol(Symbol):
    """A size that is the value of an integer scalar variable: known once data is."""

    __slots__ = ("variable",)

    def __init__(self, variable: Variable):
        super().__init__(variable.name or "n", lower=None)
        self.variable = variable

    def __reduce__(self):
        return _symbol_of, (self.variable,)


class Apply:
    """One operation applied to inputs.

    Attributes
    ----------
    op : Op
        The row of the op table.
    inputs : tuple of Variable
    params : dict
        Static parameters (axes, flags); values are hashable.  Never modified.
    outputs : tuple of Variable
    guards : tuple of SizeGuard
        Sizes that must agree when it runs.
    site : tuple of (str, int) or None
        The user's file and line.
    """

    __slots__ = ("op", "inputs", "params", "outputs", "guards", "site", "__weakref__")

    def __init__(self, op: Op, inputs: tuple[Variable, ...], params: dict[str, Any],
                 types: Sequence[TensorType], guards: tuple[SizeGuard, ...] = (),
                 site: tuple[str, int] | None = None):
        self.op, self.inputs, self.params = op, inputs, params
        self.guards, self.site = guards, site
        self.outputs = tuple(Variable(type, self, i) for i, type in enumerate(types))

    @property
    def output(self) -> Variable:
        """The only output."""
        (only,) = self.outputs
        return only

    def __reduce__(self):
        notes = tuple((out.name, out._tag) for out in self.outputs)
        return _restore_apply, (self.op.name, self.inputs, self.params, self.site, notes)


# -- where a node was built ----------------------------------------------------------------------

# In a wheel the frontend's files lie in the folder above this one, in a checkout beside it.
_PACKAGE_FOLDERS = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep
    for file in (__file__, sys.modules[__name__.partition(".")[0]].__file__))
_PACKAGE = __name__.partition(".")[0]
_is_internal: dict[str, bool] = {}


class _Building(threading.local):
    """Where this thread builds nodes for: what ``built_at`` says."""

    site: tuple[str, int] | None = None


_building = _Building()


class built_at:
    """Give nodes built inside the block this site: what a pass builds for a user's line."""

    __slots__ = ("site", "outer")

    def __init__(self, site: tuple[str, int] | None):
        self.site = site

    def __enter__(self) -> None:
        self.outer = _building.site
        _building.site = self.site

    def __exit__(self, *raised: object) -> None:
        _building.site = self.outer


def creation_site() -> tuple[str, int] | None:
    """Return file and line of the innermost frame outside Tetractys (or what ``built_at`` says)."""
    if (site := _building.site) is not None:
        return site
    frame = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        internal = _is_internal.get(filename)
        if internal is None and filename.startswith("<"):
            # Compiled from a string, such as a dataclass's constructor: its module says whose.
            internal = frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE
        elif internal is None:
            internal = os.path.abspath(filename).startswith(_PACKAGE_FOLDERS)
            _is_internal[filename] = internal
        if not internal:
            return filename, frame.f_lineno
        frame = frame.f_back
    return None


def format_site(site: tuple[str, int] | None) -> str:
    """Return ``file:line``, or an empty string when the site is unknown."""
    return f"{site[0]}:{site[1]}" if site else ""


def unequal_sizes(title: str, values: str, site: tuple[str, int] | None, broadcasts: bool) -> str:
    """Return the message for two sizes that an op needs to be equal and that differ."""
    return format_message(
        f"{title}: sizes that must be equal differ.", values, format_site(site),
        "make the sizes equal" + ", or declare length 1 where an axis broadcasts" * broadcasts)


def describe(variable: Variable) -> str:
    """Return what a message calls a variable: its name, else its operation and type."""
    if variable.name:
        return variable.name
    if isinstance(variable, Constant) and variable.ndim == 0:
        value = variable.data.item()
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(variable, Constant):
        text = np.array2string(variable.data, threshold=6, precision=6, separator=", ")
        return text if len(text) <= 40 else f"constant {variable.type}"
    if variable.owner is None:
        return f"<{variable.type}>"
    name, inputs = variable.owner.op.name, variable.owner.inputs
    if name == "axis_size":
        return f"{describe(inputs[0])}.shape[{variable.owner.params['axis']}]"
    if name == "cast" and (inputs[0].name or isinstance(inputs[0], Constant)):
        return describe(inputs[0])
    return f"{name}.{variable.index}" if len(variable.owner.outputs) > 1 else name


# -- walks -----------------------------------------------------------------------------------------

def toposort(outputs: Iterable[Variable], stop: Iterable[Variable] = ()) -> list[Apply]:
    """Return the nodes needed for ``outputs``, each after the nodes it reads.

    Parameters
    ----------
    outputs : iterable of Variable
    stop : iterable of Variable
        Variables taken as given: their owners are not visited.
    """
    stops = {id(v) for v in stop}
    order: list[Apply] = []
    done: set[Apply] = set()
    for output in outputs:
        if output.owner is None or id(output) in stops:
            continue
        stack = [output.owner]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            waiting = [owner for source in node.inputs
                       if (owner := source.owner) is not None and owner not in done
                       and id(source) not in stops]
            if waiting:
                stack += waiting[::-1]
            else:
                done.add(node)
                order.append(stack.pop())
    return order


def graph_inputs(outputs: Iterable[Variable], stop: Iterable[Variable] = ()) -> list[Variable]:
    """Return the variables without owner (constants too) that ``outputs`` depend on, in order."""
    outputs = list(outputs)
    stops = {id(v) for v in stop}
    found = {id(v): v for v in outputs if v.owner is None or id(v) in stops}
    for node in toposort(outputs, stop):
        for source in node.inputs:
            if source.owner is None or id(source) in stops:
                found.setdefault(id(source), source)
    return list(found.values())


def rebuild(outputs: Sequence[Variable], replacements: Mapping[Variable, Variable],
            make: Callable[[Apply, tuple[Variable, ...]], Apply] | None = None) -> list[Variable]:
    """Return ``outputs`` with variables replaced, rebuilding (and retyping) what depends on them.

    Parameters
    ----------
    outputs : sequence of Variable
    replacements : mapping
        Old variable -> new variable.  Replacements are not searched again.
    make : callable, optional
        ``make(node, new_inputs) -> node``; default: apply the same op again, keeping names, tags
        and sites.  Nodes whose inputs do not change are kept as they are.
    """
    make = make or reapply
    mapped: dict[int, Variable] = {id(old): new for old, new in replacements.items()}
    for node in toposort(outputs, stop=replacements):
        inputs = tuple(mapped.get(id(source), source) for source in node.inputs)
        if all(new is old for new, old in zip(inputs, node.inputs)):
            continue
        for old, new in zip(node.outputs, make(node, inputs).outputs):
            mapped.setdefault(id(old), new)
    return [mapped.get(id(output), output) for output in outputs]


def reapply(node: Apply, inputs: tuple[Variable, ...]) -> Apply:
    """Apply a node's op to other inputs; the new outputs keep names, tags and the site."""
    new = node.op.make_node(inputs, node.params, site=node.site)
    for old_output, new_output in zip(node.outputs, new.outputs):
        new_output.name, new_output._tag = old_output.name, old_output._tag
    return new


# -- sizes as variables, variables as sizes --------------------------------------------------------

_INTEGER_DIM = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
                "floordiv": lambda a, b: _quotient(a, b),
                "minimum": minimum, "maximum": maximum}


def _quotient(left: DimLike, right: DimLike) -> DimLike | None:
    """Return ``left // right``; by a symbol, which may be 0, only where the division is exact."""
    if isinstance(right, int):
        return left // right if right > 0 else None
    quotient = left // right
    return quotient if proves_equal(quotient * right, left) else None


def dim_of(variable: Variable) -> DimLike:
    """Return an integer scalar variable as a dim.

    Constants give integers, sizes of tensors (``x.shape[0]``) and their sums, products, minima and
    maxima give their expression; anything else gives a :class:`DataSymbol`, one per variable.
    """
    known: dict[int, DimLike | None] = {}
    for node in toposort([variable]):
        out = node.outputs[0]
        if node.op.name == "size":
            known[id(out)] = node.params["dim"]
        elif node.op.name == "axis_size":
            known[id(out)] = node.inputs[0].type.dims[node.params["axis"]]
        elif node.op.name in ("cast", "copy") and out.ndim == 0 and out.dtype == "int64":
            known[id(out)] = known.get(id(node.inputs[0]), _constant_dim(node.inputs[0]))
        elif node.op.name in _INTEGER_DIM and out.ndim == 0 and out.dtype == "int64":
            left, right = (known.get(id(i), _constant_dim(i)) for i in node.inputs)
            if left is not None and right is not None:
                known[id(out)] = _INTEGER_DIM[node.op.name](left, right)
    found = known.get(id(variable), _constant_dim(variable))
    return as_dim(_symbol_of(variable)) if found is None else found


def _constant_dim(variable: Variable) -> int | None:
    return int(variable.data) if isinstance(variable, Constant) and variable.ndim == 0 else None


def _symbol_of(variable: Variable) -> DataSymbol:
    if variable._symbol is None:
        variable._symbol = DataSymbol(variable)
    return variable._symbol


def is_known_equal(left: TensorType, right: TensorType) -> bool:
    """Return whether two types are proved to have equal dims and dtype."""
    return left.dtype == right.dtype and len(left.dims) == len(right.dims) and all(
        proves_equal(a, b) for a, b in zip(left.dims, right.dims))


# -- pickling without recursion --------------------------------------------------------------------

_pickling = threading.local()


class NodeChain(list):
    """The nodes that some variables depend on, pickled in topological order.

    While its items are being written each node refers only to nodes already written, so the
    pickler's stack stays flat however deep the graph is; the pickler's own memo keeps identities.
    """

    def __init__(self, variables: Sequence[Variable] = ()):
        super().__init__()
        self.variables = variables

    def __reduce__(self):
        return NodeChain, (), None, self._items()

    def _items(self) -> Iterator[Apply]:
        written = _pickling.__dict__.setdefault("written", set())
        added = []
        try:
            for node in toposort(self.variables):
                yield node
                if id(node) not in written:
                    written.add(id(node))
                    added.append(id(node))
        finally:
            written.difference_update(added)


def _restore_output(owner: Apply | NodeChain, index: int) -> Variable:
    return (owner[-1] if isinstance(owner, NodeChain) else owner).outputs[index]


def _restore_input(cls: type, type: TensorType, name, site, tag) -> Variable:
    variable = cls(type, name=name, site=site)
    variable._tag = tag
    return variable


def _restore_shared(cls: type, type: TensorType, storage, name, site) -> SharedBase:
    return cls(type, storage, name=name, site=site)


def _restore_apply(op_name: str, inputs, params, site, notes) -> Apply:
    from .ops.op import REGISTRY
    node = REGISTRY[op_name].make_node(inputs, params, site=site)
    for output, (name, tag) in zip(node.outputs, notes):
        output.name, output._tag = name, tag
    return node


def input_variable(dtype: str, shape: Sequence[int | None], name: str | None = None) -> Variable:
    """Return a new input; each None in ``shape`` becomes a fresh size symbol."""
    variable = Variable(TensorType(dtype, ()), name=name, site=creation_site())
    variable.type = TensorType(dtype, axis_dims(variable, shape))
    return variable


def axis_dims(variable: Variable, shape: Sequence[int | None]) -> tuple[DimLike, ...]:
    """Return ``shape`` as dims of ``variable``, with a fresh symbol for each None."""
    return tuple(as_dim(AxisSymbol(variable, axis)) if size is None else size
                 for axis, size in enumerate(shape))


class AxisSymbol(Symbol):
    """The unknown size of one axis of an input; named after it."""

    __slots__ = ("_owner", "axis")

    def __init__(self, variable: Variable, axis: int):
        super().__init__("")
        self._owner, self.axis = variable, axis

    def __repr__(self) -> str:
        return f"{self._owner.name or 'input'}.shape[{self.axis}]"
