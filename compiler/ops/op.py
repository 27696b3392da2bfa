"""One row per operation: the record, the registry that refuses incomplete rows, and application.

A row says everything about an operation: how its output's type follows from its inputs, what it
means (a NumPy function), its one derivative, how it is lowered, what its tests use, and its
documentation.  The public function, the tests, both modes of differentiation and the reference
documentation are generated from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, Union

import numpy as np

from ...runtime.artifact import (
    DtypeError, InternalError, ShapeError, format_message, numpy_dtype)
from .. import dtypes
from ..config import config
from ..dims import DimLike, proves_different, proves_equal
from ..graph import (
    Apply, Constant, SizeGuard, TensorType, Variable, built_at, creation_site, describe,
    format_site, unequal_sizes)
from ..operators import FUNCTIONS

Kind: TypeAlias = Literal["elementwise", "linear", "composite", "structured"]

# -- derivatives: exactly one of these per row -----------------------------------------------------


class Partials(NamedTuple):
    """Elementwise: ``rule(*inputs, output) -> [d output / d input, ...]`` (None: always zero)."""

    rule: Callable[..., list[Variable | None]]


class Transpose(NamedTuple):
    """Linear in the inputs listed: ``rules[k](cotangent, *inputs, **params) -> cotangent of k``.

    ``jointly``: linear in all listed inputs together (a concatenation), so the forward derivative
    is the op on all tangents at once; otherwise linear in each (a product), a sum over them.
    """

    rules: Mapping[int, Callable[..., Variable]]
    jointly: bool = False


class Custom(NamedTuple):
    """Both modes by hand.

    ``vjp(cotangents, inputs, outputs, **params) -> [cotangent of each input or None]``;
    ``jvp(tangents, inputs, outputs, **params) -> [tangent of each output or None]``.  A cotangent
    or tangent that is zero is given as None.
    """

    vjp: Callable[..., Sequence[Variable | None]]
    jvp: Callable[..., Sequence[Variable | None]]


class OfExpansion:
    """Composite: differentiate the expansion."""


class NoDerivative(NamedTuple):
    """No derivative.  With ``zero`` it is zero almost everywhere (``floor``); otherwise asking for
    it is an error that shows ``reason``."""

    reason: str
    zero: bool = True


Derivative: TypeAlias = Union[Partials, Transpose, Custom, OfExpansion, NoDerivative]

# -- lowerings: exactly one of these per row -------------------------------------------------------


class ScalarLowering(NamedTuple):
    """Elementwise: ``rule(*expressions, **params) -> expression`` of the output's dtype.

    ``cost``: relative to an addition, deciding between recomputing and storing.
    """

    rule: Callable[..., Any]
    cost: float = 1.0


class IndexLowering(NamedTuple):
    """``rule(context, index, node) -> expression``: the element at ``index`` (a tuple of dims).

    ``context.read(k, position)`` gives an element of input k, ``context.bind(expression)`` turns
    an int64 expression into a dim, ``context.check(condition, message, value)`` reports an
    ``IndexOutOfRangeError``.  ``is_view``: pure re-indexing of input 0, free to recompute.
    ``is_cheap``: as good as elementwise, may be computed once for every row that needs it.
    """

    rule: Callable[..., Any]
    is_view: bool = False
    is_cheap: bool = False


class ReduceLowering(NamedTuple):
    """Combine input 0 over ``params['axes']`` (sorted, non-negative; the axes disappear).

    ``identity(dtype)`` is the value of an empty reduction.
    """

    combine: str
    identity: Callable[[str], bool | int | float]


class Region(NamedTuple):
    """Writes ``value(context, index)`` at ``target(context, index)`` for index over ``dims``."""

    dims: tuple[DimLike, ...]
    target: Callable[..., tuple[DimLike, ...]]
    value: Callable[..., Any]
    accumulate: bool = False
    is_parallel: bool = True


class ScatterLowering(NamedTuple):
    """``rule(node) -> (start, regions)``: the output starts as input number ``start`` (copied or
    taken over in place), or as nothing when None (the regions cover it); then each region runs."""

    rule: Callable[[Apply], tuple[int | None, list[Region]]]


class ContractLowering:
    """``out[b.., m.., n..] = sum_k.. left[b.., m.., k..] right[b.., k.., n..]`` of inputs 0 and 1,
    with ``params["batch"]`` axes ``b..`` and ``params["inner"]`` axes ``k..``."""


class ViewLowering:
    """The output is input 0's memory with another shape (row-major order kept)."""


class MapLowering:
    """A closed graph run for each value of an index, outputs stacked (``ops/control.py``)."""


class Expand(NamedTuple):
    """Composite: ``rule(*inputs, **params) -> output`` over other ops (one output)."""

    rule: Callable[..., Variable]


class Never(NamedTuple):
    """Removed before lowering by the pass named in ``reason``."""

    reason: str


Lowering: TypeAlias = Union[ScalarLowering, IndexLowering, ReduceLowering, ScatterLowering,
                            ContractLowering, ViewLowering, MapLowering, Expand, Never]

# -- examples from which the tests are generated ---------------------------------------------------


class Sample(NamedTuple):
    """One way to call the op's public function in a test.

    Attributes
    ----------
    shapes : tuple of shapes
        Of the symbolic arguments, in order.
    dtypes : tuple of tuples of str
        Each entry gives the dtypes of the symbolic arguments; the test runs all entries.
    call : callable
        ``call(function, *variables) -> Variable``; default ``function(*variables)``.
    reference : callable
        ``reference(*arrays) -> array``; default the row's reference.
    domain : tuple of (low, high)
        Range of the random floats of each argument (integers too); one pair serves all.
    differentiable : bool
        Whether gradients are checked on the floats (False at kinks or for integer samples).
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[tuple[str, ...], ...] = (("float64",),)
    call: Callable[..., Any] | None = None
    reference: Callable[..., Any] | None = None
    domain: tuple[tuple[float, float], ...] = ((-2.0, 2.0),)
    differentiable: bool = True


# -- the row ---------------------------------------------------------------------------------------

Inferred: TypeAlias = tuple[Sequence[TensorType], Sequence[SizeGuard]]


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One row.

    Attributes
    ----------
    name : str
        Unique; also the public function's name unless ``aliases`` say more.
    kind : str
        ``elementwise``, ``linear``, ``composite`` or ``structured``.
    infer : callable
        ``infer(*inputs, **params) -> (types, guards)``; raises ``ShapeError`` or ``DtypeError``.
    reference : callable
        ``reference(*arrays, **params) -> array`` (or tuple of arrays): the meaning.  Dims among
        the params arrive as integers.
    derivative : Derivative
    lower : Lowering
    function : callable
        The public function: normalises arguments and calls :meth:`__call__`.
    doc : str
        Documentation of the public function: one line, formula, parameters, accuracy.
    samples : tuple of Sample
        What the generated tests run.
    edges : tuple of float
        Special values the tests add to the inputs of elementwise ops.
    section : str
        Heading in the reference documentation.
    namespace : str
        Where users find it: ``T`` or ``T.nnet``; empty for internal ops.
    aliases : tuple of str
        Further public names.
    ulp : mapping of str to float, or None
        Largest error of float results in units in the last place, by dtype; None: as the
        reference, up to the rounding of reordered sums.
    spoken : str
        What messages call it, where users know it by another name.
    """

    name: str
    kind: Kind
    infer: Callable[..., Inferred]
    reference: Callable[..., Any]
    derivative: Derivative
    lower: Lowering
    function: Callable[..., Any]
    doc: str
    samples: tuple[Sample, ...]
    edges: tuple[float, ...] = ()
    section: str = ""
    namespace: str = "T"
    aliases: tuple[str, ...] = ()
    ulp: Mapping[str, float] | None = None
    spoken: str = ""

    def unequal_sizes(self, values: str, site: tuple[str, int] | None) -> str:
        """Return the message for two sizes that must be equal and that differ."""
        return unequal_sizes(self.spoken or self.name, values, site, self.kind == "elementwise")

    def make_node(self, inputs: Sequence[Variable], params: Mapping[str, Any],
                  site: tuple[str, int] | None = None) -> Apply:
        """Type-check and build one node.

        Raises
        ------
        ShapeError, DtypeError
            When the inputs do not fit the op.
        """
        with built_at(site):
            types, guards = self.infer(*inputs, **params)
        return Apply(self, tuple(inputs), dict(params), types, tuple(guards), site)

    def __call__(self, *inputs: Variable, **params: Any) -> Any:
        """Apply the op to variables; returns its output (a list when there are several)."""
        node = self.make_node(inputs, params, site=creation_site())
        return node.outputs[0] if len(node.outputs) == 1 else list(node.outputs)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self):
        return _find, (self.name,)


REGISTRY: dict[str, Op] = {}
"""Every op by name."""

_DERIVATIVES = {"elementwise": (Partials, Custom, NoDerivative),
                "linear": (Transpose, Custom, NoDerivative),
                "composite": (OfExpansion, Partials, Custom, NoDerivative),
                "structured": (Custom, Transpose, NoDerivative)}


def _find(name: str) -> Op:
    return REGISTRY[name]


def register(row: Op) -> Op:
    """Add a row to the table; refuse an incomplete or inconsistent one.

    Raises
    ------
    InternalError
        Naming what is missing.
    """
    problems = []
    if row.name in REGISTRY:
        problems.append("its name is taken")
    if not isinstance(row.derivative, _DERIVATIVES[row.kind]):
        problems.append(f"a {row.kind} op cannot have {type(row.derivative).__name__}")
    if (row.kind == "composite") != isinstance(row.lower, Expand):
        problems.append("composite ops, and only they, are lowered by Expand")
    if (row.kind == "elementwise") != isinstance(row.lower, ScalarLowering):
        problems.append("elementwise ops, and only they, are lowered by ScalarLowering")
    if row.namespace and not (row.doc.strip() and row.samples):
        problems.append("a public op needs documentation and samples")
    if problems:
        raise InternalError(f"op {row.name!r} is refused: {'; '.join(problems)}")
    REGISTRY[row.name] = row
    function = row.function
    for name in (row.name, *row.aliases):
        FUNCTIONS[name] = function
    return row


def public_function(name: str, parameters: Sequence[str], body: Callable[..., Any],
                    doc: str) -> Callable[..., Any]:
    """Give ``body`` the name, signature and documentation of an op's public function."""
    def function(*args, **kwargs):
        return body(*args, **kwargs)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = inspect.cleandoc(doc)
    function.__signature__ = inspect.Signature([
        inspect.Parameter(p, inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in parameters])
    return function


# -- values to variables ---------------------------------------------------------------------------

ArrayLike: TypeAlias = Any


def as_dtype(dtype: Any) -> str:
    """Return the name of a dtype given as a name, NumPy dtype or type, or ``"floatX"``.

    Raises
    ------
    DtypeError
        If Tetractys does not have it.
    """
    if isinstance(dtype, str) and dtype in dtypes.SIZES:
        return dtype
    if isinstance(dtype, str) and dtype == "floatX":
        return config.floatX
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    check(dtype is not None and name in dtypes.SIZES, DtypeError, f"There is no dtype {dtype!r}.",
          remedy=f"choose one of {', '.join(dtypes.DTYPES)}, or floatX")
    return name


def as_tensor(value: ArrayLike, dtype: Any = None, name: str | None = None) -> Variable:
    """Return a variable: itself, or a constant holding a number, list or array.

    Parameters
    ----------
    value : Variable, number, nested list or array
    dtype : str or NumPy dtype, optional
        Of the constant; by default Python floats become ``floatX``, others keep NumPy's dtype.

    Raises
    ------
    DtypeError
        If the value has a dtype Tetractys does not have, or is not representable in ``dtype``.
    """
    if isinstance(value, Variable):
        return value if dtype is None or value.dtype == dtype else FUNCTIONS["cast"](value, dtype)
    dtype = None if dtype is None else as_dtype(dtype)
    if isinstance(value, (list, tuple)) and _holds_variable(value):
        stacked = FUNCTIONS["stack"](list(value))
        return stacked if dtype is None else FUNCTIONS["cast"](stacked, dtype)
    array = np.asarray(value)
    if dtype is None and not isinstance(value, (np.ndarray, np.generic)) \
            and array.dtype == np.float64:
        dtype = config.floatX
    if dtype is None and dtypes.dtype_name(array.dtype) not in dtypes.DTYPES:
        raise DtypeError(format_message(
            f"A value of dtype {array.dtype} cannot enter a graph.",
            values=f"{type(value).__name__} {str(value)[:60]!r}",
            where=format_site(creation_site()),
            remedy=f"convert it to one of {', '.join(dtypes.DTYPES)}"))
    if dtype is not None and dtypes.is_integer(dtype) and array.size \
            and isinstance(value, int) and not dtypes.fits(int(value), dtype):
        raise DtypeError(format_message(
            f"The integer {value} does not fit in {dtype}.",
            where=format_site(creation_site()),
            remedy="cast the tensor it meets to a wider dtype first"))
    dtype = dtype or dtypes.dtype_name(array.dtype)
    return Constant(array.astype(numpy_dtype(dtype), copy=False), name=name)


def _holds_variable(value: Any) -> bool:
    return any(isinstance(item, Variable)
               or (isinstance(item, (list, tuple)) and _holds_variable(item)) for item in value)


def is_weak(value: Any) -> bool:
    """Return whether ``value`` is a plain Python number, which adapts to the tensors it meets."""
    return isinstance(value, (bool, int, float)) and not isinstance(value, np.generic)


def promote_arguments(values: Sequence[ArrayLike], convert: Callable[[str], str] = str,
                      widens: bool = False) -> list[Variable]:
    """Return arguments as variables of one dtype, NumPy's promotion of all.

    Python numbers are weak: they follow the tensors, unless their kind is higher.

    Parameters
    ----------
    values : sequence of ArrayLike
    convert : callable
        Maps the promoted dtype to the one wanted.
    widens : bool
        Whether an integer too large for narrow tensors makes all int64, instead of an error.
    """
    tensors = [None if is_weak(value) else as_tensor(value) for value in values]
    strong = [tensor.dtype for tensor in tensors if tensor is not None]
    common = dtypes.promote(*strong) if strong else None
    for value, tensor in zip(values, tensors):
        if tensor is None:
            common = dtypes.weak_dtype(value, common, config.floatX)
            if widens and dtypes.is_integer(common) and common != "uint64" \
                    and not dtypes.fits(value, common) and dtypes.fits(value, "int64"):
                common = "int64"
    dtype = convert(common)
    return [as_tensor(value if tensor is None else tensor, dtype)
            for value, tensor in zip(values, tensors)]


# -- broadcasting ----------------------------------------------------------------------------------

def broadcast_dims(op_name: str, inputs: Sequence[Variable]
                   ) -> tuple[tuple[DimLike, ...], list[SizeGuard]]:
    """Return the dims of inputs broadcast together, and the sizes that must agree at run time.

    An axis broadcasts when its size is known to be 1 while the graph is built (as in Theano).

    Raises
    ------
    ShapeError
        When two sizes are known and differ.
    """
    shaped = [v.type.dims for v in inputs if v.type.dims]
    if all(dims == shaped[0] for dims in shaped[1:]):
        return shaped[0] if shaped else (), []
    rank = max(map(len, shaped))
    dims: list[DimLike] = []
    guards: list[SizeGuard] = []
    for axis in range(rank):
        chosen: tuple[DimLike, Variable, int] | None = None
        for variable in inputs:
            own_axis = axis - rank + variable.ndim
            if own_axis < 0 or (size := variable.type.dims[own_axis]) == 1:
                continue
            if chosen is None:
                chosen = size, variable, own_axis
            elif not proves_equal(size, chosen[0]):
                if proves_different(size, chosen[0]):
                    raise shape_mismatch(op_name, chosen, (size, variable, own_axis), True)
                guards.append(SizeGuard(chosen[0], size, chosen[1:], (variable, own_axis)))
                if isinstance(size, int) and not isinstance(chosen[0], int):
                    chosen = size, variable, own_axis
        dims.append(1 if chosen is None else chosen[0])
    return tuple(dims), guards


def shape_mismatch(op_name: str, left: tuple[DimLike, Variable, int],
                   right: tuple[DimLike, Variable, int], broadcasts: bool = False) -> ShapeError:
    """Return the error for two axes whose known sizes differ."""
    first, second = ((f"{v.name} {v.type}" if v.name else describe(v))
                     + f" has {size} on axis {axis}"
                     + (f" (from {format_site(v.site)})" if v.site else "")
                     for size, v, axis in (left, right))
    return ShapeError(unequal_sizes(op_name, f"{first}; {second}", creation_site(), broadcasts))


def normalize_axes(axis: int | Sequence[int] | None, ndim: int, op_name: str) -> tuple[int, ...]:
    """Return axes as a sorted tuple of non-negative integers; None means all.

    Raises
    ------
    ShapeError
        If an axis is out of range or repeated.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    result = sorted(int(a) + ndim if a < 0 else int(a) for a in axes)
    if any(not 0 <= a < ndim for a in result) or len(set(result)) != len(result):
        raise ShapeError(format_message(
            f"{op_name}: axis {axis} does not fit a tensor of {ndim} axes.",
            where=format_site(creation_site()),
            remedy=f"use distinct axes from {-ndim} to {ndim - 1}"))
    return tuple(result)


def check(condition: bool, error: type[Exception], what: str, values: str = "",
          remedy: str = "") -> None:
    """Raise ``error`` with the four-part message unless ``condition`` holds.

    What is called for each node of a graph asks for the condition first, as writing the message
    takes longer than building the node.
    """
    if not condition:
        raise error(format_message(what, values, format_site(creation_site()), remedy))


