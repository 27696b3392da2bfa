"""What every elementwise row shares: conversion of arguments, types, samples, documentation.

A row is one call of :func:`elementwise` (or its short forms :func:`unary`, :func:`binary`,
:func:`comparison`), which registers the op and returns its public function.  The rows themselves
are in ``arithmetic.py``, ``transcendental.py``, ``comparison.py`` and ``nnet.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...runtime.artifact import DtypeError
from .. import dtypes
from ..graph import Constant, TensorType, Variable, describe
from ..loop import scalar
from ..operators import FUNCTIONS
from .op import (
    REGISTRY, Custom, Derivative, Inferred, NoDerivative, Op, Sample, ScalarLowering, as_tensor,
    broadcast_dims, check, promote_arguments, public_function, register)

if TYPE_CHECKING:
    from ..loop.ir import Expr

EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, 2.5, float("inf"), float("-inf"), float("nan"),
         1e-310, -1e-40, 1e30, -1e300)
"""Special values that the generated tests mix into the inputs of elementwise ops."""

KINDS = {name: scalar.kind_of(dtypes.computed(name)) for name in dtypes.DTYPES}
_KIND_NAMES = {"b": "bool", "i": "integers", "f": "floats"}


# -- which dtype the arguments are converted to ----------------------------------------------------

class Conversion(NamedTuple):
    """``dtype`` maps NumPy's promotion of the arguments to the dtype the op runs in.

    With ``widens`` a Python integer too large for narrow tensors makes all int64.
    """

    dtype: Callable[[str], str]
    doc: str
    widens: bool = False


SAME = Conversion(lambda dtype: dtype, "Promoted as NumPy does.")
FLOAT = Conversion(dtypes.float_of,
                   "Integers become float64, bool and integers of up to 16 bits float32.")
QUOTIENT = Conversion(lambda dtype: dtype if dtypes.is_float(dtype) else "float64",
                      "Integers and bool become float64.")
COMPARED = Conversion(lambda dtype: dtype, SAME.doc, widens=True)
NUMBER = Conversion(lambda dtype: "int8" if dtype == dtypes.BOOL else dtype,
                    "Promoted as NumPy does, bool as int8.")


def convert_arguments(values: Sequence[Any], conversion: Conversion) -> list[Variable]:
    """Return the arguments as variables of the one dtype that ``conversion`` chooses."""
    if not _have_one_dtype(values):
        return promote_arguments(values, conversion.dtype, conversion.widens)
    found = values[0].type.dtype
    dtype = conversion.dtype(found)
    return list(values) if dtype == found else [as_tensor(v, dtype) for v in values]


def _have_one_dtype(values: Sequence[Any]) -> bool:
    """Return whether all are variables of one dtype: the usual case, which needs no promotion."""
    first = values[0]
    return isinstance(first, Variable) and all(
        isinstance(v, Variable) and v.type.dtype == first.type.dtype for v in values)


def convert_arrays(arrays: Sequence[np.ndarray], conversion: Conversion) -> list[np.ndarray]:
    """Return arrays converted as :func:`convert_arguments` converts variables of their dtypes."""
    dtype = conversion.dtype(dtypes.promote(*(np.asarray(a).dtype.name for a in arrays)))
    return [scalar.convert(a, dtype) for a in arrays]


# -- scalar mathematics of the loop level ----------------------------------------------------------

def math_function(name: str) -> Callable[..., Expr]:
    """Return a lowering rule: a call of the function ``name`` of ``compiler/loop/math.py``.

    The module is imported at the first use: importing Tetractys and building graphs need none.
    """
    def rule(*args: Expr) -> Expr:
        from ..loop.math import call
        return call(name, *args)
    return rule


class MeasuredAccuracy(Mapping[str, float]):
    """Largest error in ulp by dtype, read from the table of the loop-level function."""

    def __init__(self, name: str):
        self._name = name

    def _table(self) -> Mapping[str, float]:
        from ..loop.math import ACCURACY
        return ACCURACY[self._name]

    def __getitem__(self, dtype: str) -> float:
        return self._table()[dtype]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())


def primitive(name: str) -> Callable[..., Expr]:
    """Return a lowering rule: the scalar primitive ``name``."""
    return lambda *args: scalar.apply(name, *args)


def by_kind(**rules: Callable[..., Expr]) -> Callable[..., Expr]:
    """Return a lowering rule that chooses by kind of dtype: letters of ``b``, ``i``, ``f``."""
    choice = {letter: rule for letters, rule in rules.items() for letter in letters}
    return lambda *args: choice[KINDS[args[-1].dtype]](*args)


def unchanged(x: Expr) -> Expr:
    """Return the argument: the lowering of operations that do nothing to some dtypes."""
    return x


# -- types -----------------------------------------------------------------------------------------

def infer_elementwise(name: str, accepts: str, result: str) -> Callable[..., Inferred]:
    """Return a type rule: inputs of one dtype broadcast together.

    Parameters
    ----------
    name : str
        For messages.
    accepts : str
        Kinds of dtype taken: letters ``b`` (bool), ``i`` (integers), ``f`` (floats).
    result : str
        ``same`` as the inputs, or a dtype.
    """
    def infer(*inputs: Variable, **params: Any) -> Inferred:
        dtype = inputs[0].type.dtype
        for variable in inputs:
            if KINDS[variable.type.dtype] not in accepts or variable.type.dtype != dtype:
                _reject(name, accepts, inputs)
        if len(inputs) == 1:
            dims, guards = inputs[0].type.dims, ()
        else:
            dims, guards = broadcast_dims(name, inputs)
        return (TensorType(dtype if result == "same" else result, dims),), guards
    return infer


def _reject(name: str, accepts: str, inputs: Sequence[Variable]) -> None:
    check(False, DtypeError,
          f"{name} takes tensors of one dtype, of these kinds: "
          f"{', '.join(_KIND_NAMES[letter] for letter in accepts)}.",
          ", ".join(f"{describe(v)} {v.type}" for v in inputs),
          "cast the arguments (x.astype('int64'), x.astype('float64')), or use T.xor, T.or_, "
          "T.and_ and T.invert for logic on bool")


# -- documentation ---------------------------------------------------------------------------------

def document(summary: str, parameters: Mapping[str, str], returns: str, notes: str = "",
             example: str = "") -> str:
    """Compose a NumPy-style docstring."""
    parts = [summary, _section("Parameters", "\n".join(
        f"{name} : {text}" for name, text in parameters.items()))]
    parts.append(_section("Returns", f"Variable\n    {returns}"))
    if notes:
        parts.append(_section("Notes", notes))
    if example:
        parts.append(_section("Examples", example))
    return "\n\n".join(parts)


def _section(title: str, body: str) -> str:
    return f"{title}\n{'-' * len(title)}\n{body}"


# -- rows ------------------------------------------------------------------------------------------

def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` without NumPy's floating-point warnings: special values are meant."""
    def reference(*arrays, **params):
        with np.errstate(all="ignore"):
            return function(*arrays, **params)
    return reference


def elementwise(name: str, parameters: Sequence[str], reference: Callable[..., Any],
                derivative: Derivative, summary: str, *, lower: Callable[..., Any] | None = None,
                conversion: Conversion = SAME, accepts: str = "bif", result: str = "same",
                domain: Sequence[tuple[float, float]] = ((-2.0, 2.0),), cost: float = 1.0,
                measured: str = "", smooth: bool = True, notes: str = "", example: str = "",
                variadic: bool = False, validate: Callable[..., None] | None = None,
                section: str = "Arithmetic", namespace: str = "T",
                aliases: tuple[str, ...] = (), edges: tuple[float, ...] = EDGES
                ) -> Callable[..., Variable]:
    """Register one elementwise op and return its public function.

    Parameters
    ----------
    name, parameters : str, sequence of str
        Of the public function.
    reference : callable
        NumPy's function, on arrays of the one dtype that ``conversion`` chooses.
    derivative : Derivative
    summary : str
        First paragraph of the documentation, with the formula.
    lower : callable, optional
        Lowering rule; default: the function of this name in ``compiler/loop/math.py``, whose
        measured accuracy the row then carries.
    conversion : Conversion
        Which dtype the arguments are brought to.
    accepts, result : str
        See :func:`infer_elementwise`; ``accepts`` is checked after the conversion.
    domain : sequence of (low, high)
        Where tests draw arguments from.
    cost : float
        Relative to an addition.
    measured : str
        Name in the accuracy table of ``compiler/loop/math.py``, when ``lower`` is given.
    smooth : bool
        Whether the derivative is checked by differences (False for steps).
    notes, example : str
        Further documentation.
    variadic : bool
        Whether more arguments than parameters are combined from left to right.
    validate : callable, optional
        Called with the converted inputs; raises if the values are not allowed.
    """
    arity = len(parameters)
    reference = quiet(reference)
    takes = "tensor" if arity == 1 else "tensors that broadcast together"
    shape = f"Of the shape of {parameters[0]}" if arity == 1 else "Of the broadcast shape"
    doc = document(summary, {", ".join(parameters): f"{takes}\n    {conversion.doc}"},
                   shape + (", bool." if result == "bool" else "."), notes, example)
    body = _public_body(name, tuple(parameters), conversion, variadic, validate)
    row = register(Op(
        name=name, kind="elementwise", infer=infer_elementwise(name, accepts, result),
        reference=reference, derivative=derivative,
        lower=ScalarLowering(lower or math_function(name), cost),
        function=public_function(name, parameters, body, doc), doc=doc,
        samples=_samples(arity, conversion, accepts, reference, tuple(domain), smooth),
        edges=edges, section=section, namespace=namespace, aliases=aliases,
        ulp=MeasuredAccuracy(measured or name) if measured or lower is None else None))
    return row.function


def _public_body(name: str, parameters: tuple[str, ...], conversion: Conversion, variadic: bool,
                 validate: Callable[..., None] | None) -> Callable[..., Variable]:
    """Return what the public function does: collect arguments, convert, apply."""
    arity = len(parameters)

    def apply(values: Sequence[Any]) -> Variable:
        if len(values) != arity:
            check(False, TypeError,
                  f"{name} takes {arity} argument{'s' * (arity > 1)}, not {len(values)}.")
        inputs = convert_arguments(values, conversion)
        if validate is not None:
            validate(*inputs)
        return REGISTRY[name](*inputs)

    def body(*values: Any, **named: Any) -> Variable:
        if named:
            values += tuple(named.pop(p) for p in parameters[len(values):] if p in named)
            check(not named, TypeError, f"{name} does not take {', '.join(named)}.")
        if variadic and len(values) > arity:
            total = apply(values[:arity])
            for value in values[arity:]:
                total = apply((total, value))
            return total
        return apply(values)
    return body


def _samples(arity: int, conversion: Conversion, accepts: str, reference: Callable[..., Any],
             domain: tuple[tuple[float, float], ...], smooth: bool) -> tuple[Sample, ...]:
    """Return samples over every dtype the op takes, and over mixed dtypes when there are several.

    The domain of integer samples is that of the floats, widened so that values differ.
    """
    taken = [d for d in dtypes.COMPUTED if KINDS[conversion.dtype(d)] in accepts]
    if accepts == "f":
        # Integers are only cast: one of each fate will do.
        taken = ["float32", "float64", "bool", "int8", "uint16", "int64"]

    def of_arrays(*arrays):
        return reference(*convert_arrays(arrays, conversion))

    floats = tuple((d,) * arity for d in taken if dtypes.is_float(d))
    others = tuple((d,) * arity for d in taken if not dtypes.is_float(d))
    samples = []
    if floats:
        samples.append(Sample(((3, 4),) * arity, floats, reference=of_arrays, domain=domain,
                              differentiable=smooth))
    if others:
        wide = tuple((np.floor(low) * 2, np.ceil(high) * 2) for low, high in domain)
        samples.append(Sample(((3, 4),) * arity, others, reference=of_arrays, domain=wide,
                              differentiable=False))
    if arity == 2 and "f" in accepts:
        mixed = (("int32", "float32"), ("float32", "float64"), ("bool", "float32"))
        samples.append(Sample(((2, 3), (3,)), mixed, reference=of_arrays, domain=domain,
                              differentiable=False))
        samples.append(Sample(((2, 1, 3), (4, 1)), (("float64", "float64"),), reference=of_arrays,
                              domain=domain, differentiable=smooth))
    return tuple(samples)


def unary(name: str, reference: Callable[..., Any], derivative: Derivative, summary: str,
          **options: Any) -> Callable[..., Variable]:
    """Register an op of one argument ``x``; see :func:`elementwise`."""
    return elementwise(name, ("x",), reference, derivative, summary, **options)


def binary(name: str, reference: Callable[..., Any], derivative: Derivative, summary: str,
           **options: Any) -> Callable[..., Variable]:
    """Register an op of two arguments ``x`` and ``y``; see :func:`elementwise`."""
    return elementwise(name, ("x", "y"), reference, derivative, summary, **options)


def comparison(name: str, reference: Callable[..., Any], symbol: str, what: str,
               ) -> Callable[..., Variable]:
    """Register a comparison of two tensors giving bool: ``x symbol y``."""
    return binary(
        name, reference, NoDerivative("a comparison is constant between its steps"),
        f"Whether x is {what} y, elementwise: ``x {symbol} y``.",
        lower=primitive("ne" if name == "neq" else name), conversion=COMPARED, result="bool",
        smooth=False,
        section="Comparison and logic",
        notes="Comparisons with NaN are false, ``neq`` true.")


# -- derivatives -----------------------------------------------------------------------------------

ONE, MINUS_ONE = Constant(np.array(1.0)), Constant(np.array(-1.0))
"""Partial derivatives that differentiation does not multiply by."""


def add_terms(terms: Iterator[Variable | None]) -> Variable | None:
    """Return the sum of the terms that are not None (not zero), or None."""
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else FUNCTIONS["add"](total, term)
    return total


def selection(conditions: Callable[..., Sequence[Variable | None]]) -> Custom:
    """Return the derivative of an op whose output is, elementwise, one of its inputs.

    ``conditions(*inputs) -> [bool tensor or None]`` says where the output is each input.  The
    cotangent is *selected*, not multiplied by 0 or 1, so that infinite and NaN cotangents stay
    out of the inputs that were not taken.
    """
    def keep(condition: Variable | None, value: Variable | None) -> Variable | None:
        if condition is None or value is None:
            return None
        return FUNCTIONS["switch"](condition, value, as_tensor(0, value.dtype))

    def vjp(cotangents, inputs, outputs, **params):
        return [keep(condition, cotangents[0]) for condition in conditions(*inputs)]

    def jvp(tangents, inputs, outputs, **params):
        return [add_terms(keep(condition, tangent)
                          for condition, tangent in zip(conditions(*inputs), tangents))]
    return Custom(vjp, jvp)

