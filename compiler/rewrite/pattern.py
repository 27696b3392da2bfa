"""Rules as data: a pattern, what replaces it, under which conditions, and what that does to values.

Both sides are built with the functions users write, on wildcards::

    x, = wildcards("x")
    rule("log(1 + x) -> log1p(x)", log(1 + x), log1p(x), Effect.MORE_ACCURATE)

A wildcard is a variable that claims to be a float scalar, so that building type-checks; it matches
tensors of any shape.  Ops with parameters (axes, index patterns) are written with
:func:`structural`, which skips type inference and may capture parameters.  Constants match by
value, in any dtype and however broadcast.  Two-argument commutative ops match in either order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple, Protocol, TypeAlias, Union

import numpy as np

from ...runtime.artifact import numpy_dtype
from ..dims import proves_equal
from ..dtypes import BOOL, is_float, is_integer
from ..graph import Apply, Constant, TensorType, Variable, built_at, toposort
from ..intern import COMMUTATIVE
from ..operators import FUNCTIONS
from ..ops.op import REGISTRY, Op


class Effect(IntEnum):
    """What a rule may do to values, from harmless to harmful; each includes those before it.

    The default pipeline admits rules up to ``MORE_ACCURATE``; the others need ``fast_math``.
    """

    EXACT = 0
    """Every result has the same bits (a NaN remains some NaN)."""
    SIGN_OF_ZERO = 1
    """A zero may change its sign."""
    MORE_ACCURATE = 2
    """Never further from the true value than before, but for a few roundings of the inputs."""
    CHANGES_NONFINITE = 3
    """Differs where an input or an intermediate result is infinite or NaN."""
    CHANGES_DOMAIN = 4
    """Gives a value at finite inputs where the original is undefined."""
    LESS_ACCURATE = 5
    """Further from the true value at some finite inputs."""


ADMITTED = Effect.MORE_ACCURATE
"""The most a rule of the default pipeline may do."""


# -- what patterns are made of ---------------------------------------------------------------------

_PRETENDED = TensorType("float64", ())


class Wildcard(Variable):
    """A variable of a rule; ``kinds`` are the kinds of dtype it matches ('f', 'i', 'b').

    With ``is_rest`` it stands for all remaining inputs of a :func:`structural` node.
    """

    __slots__ = ("kinds", "is_rest")

    def __init__(self, name: str, kinds: str, is_rest: bool = False):
        pretended = {"b": "bool", "i": "int64"}.get(kinds, "float64")
        super().__init__(TensorType(pretended, ()), name=name)
        self.kinds, self.is_rest = kinds, is_rest


def wildcards(names: str, kinds: str = "f") -> list[Wildcard]:
    """Return one wildcard a name.

    Parameters
    ----------
    names : str
        Separated by blanks.
    kinds : str
        Of the dtypes they match: ``f`` floats, ``i`` integers, ``b`` bool, in any combination.
    """
    return [Wildcard(name, kinds) for name in names.split()]


def rest(name: str) -> Wildcard:
    """Return a wildcard for all remaining inputs of a node."""
    return Wildcard(name, "fib", is_rest=True)


@dataclass(frozen=True, slots=True)
class ParameterWildcard:
    """Captures one parameter of a node, or (``is_all``) the whole set of them."""

    name: str
    is_all: bool = False


def any_parameter(name: str) -> ParameterWildcard:
    """Return a wildcard for one parameter."""
    return ParameterWildcard(name)


def all_parameters(name: str) -> ParameterWildcard:
    """Return a wildcard for all parameters of a node, passed on unchanged."""
    return ParameterWildcard(name, is_all=True)


def structural(name: str) -> Callable[..., Variable]:
    """Return a function that builds pattern nodes of op ``name`` without inferring a type.

    It takes the inputs (the last may be a :func:`rest`), and parameters as values or wildcards;
    ``parameters=all_parameters("p")`` captures all of them.
    """
    def build(*inputs: Variable, **params: Any) -> Variable:
        return Apply(REGISTRY[name], inputs, params, (_PRETENDED,)).outputs[0]
    return build


# -- conditions ------------------------------------------------------------------------------------

Bound: TypeAlias = dict[str, Any]


class Facts(Protocol):
    """What the engine can say about variables.

    ``kept`` are those that patterns must not look behind.
    """

    kept: frozenset[Variable]

    def scalar_value(self, variable: Variable) -> np.generic | None:
        """Return the one value all elements have, if it is known."""

    def is_used_once(self, variable: Variable) -> bool:
        """Return whether one node reads the variable, as far as is known."""


class Condition(NamedTuple):
    """A fact that must be proved before a rule applies.

    Attributes
    ----------
    text : str
        How it reads: ``nonnegative(x)``.
    names : tuple of str
        The wildcards it is about.
    holds : callable
        ``holds(facts, *bound) -> bool``: the proof; False when unknown.
    accepts : callable or None
        ``accepts(*arrays) -> bool array``: the values for which the fact is true, for the check of
        rules; None when it is not about values.
    witness : callable or None
        ``witness(variable) -> variable`` for which the proof succeeds, for the check of rules.
    """

    text: str
    names: tuple[str, ...]
    holds: Callable[..., bool]
    accepts: Callable[..., Any] | None = None
    witness: Callable[[Variable], Variable] | None = None


# -- rules -----------------------------------------------------------------------------------------

Example: TypeAlias = Mapping[str, Any]
"""Binds every wildcard of a pattern for the check: a shape (a float array of it), an array (that
constant value), a tuple of arrays for a rest, any value for a parameter, a mapping for all."""


@dataclass(frozen=True, eq=False)
class Rule:
    """One rewrite rule; build it with :func:`rule`.

    The pattern is compiled when the rule is first tried: a process uses few of all rules.

    Attributes
    ----------
    title : str
        ``"left -> right"``.
    pattern, replacement : Variable
        Graphs over wildcards.
    effect : Effect
        Declared, and verified by ``verify.classify``.
    when : tuple of Condition
    examples : tuple of Example
        At least one fires it.
    """

    title: str
    pattern: Variable
    replacement: Variable
    effect: Effect
    when: tuple[Condition, ...] = ()
    examples: tuple[Example, ...] = ({},)

    @property
    def roots(self) -> tuple[str, ...]:
        """Names of the ops at which it applies."""
        return (self.pattern.owner.op.name,)

    @cached_property
    def variants(self) -> tuple[NodePattern, ...]:
        """The pattern compiled, in every order of its commutative nodes."""
        return tuple(dict.fromkeys(_compile(self.pattern)))

    @cached_property
    def source_ops(self) -> frozenset[str]:
        """Ops that must be among those that compute the root's inputs."""
        return frozenset(source.op for source in self.variants[0].inputs
                         if isinstance(source, NodePattern))

    @cached_property
    def needs_value(self) -> bool:
        """Whether an input of the root must have one known value."""
        return any(isinstance(source, ValuePattern) for source in self.variants[0].inputs)

    def rewrite(self, node: Apply, builder: Builder, facts: Facts) -> Variable | None:
        """Return what replaces the node's output, or None when the rule does not apply."""
        for variant in self.variants:
            bound: Bound = {}
            if variant.matches_node(node, bound, facts) and all(
                    condition.holds(facts, *(bound[name] for name in condition.names))
                    for condition in self.when):
                found = instantiate(self.replacement, bound, node.outputs[0].dtype, builder,
                                    node.site)
                found = fit(found, node.outputs[0], builder)
                if found is not None:
                    return found
        return None


@dataclass(frozen=True, slots=True, eq=False)
class ComputedRule:
    """A rule whose right side must be computed.  There are few; a test counts them.

    Attributes
    ----------
    roots : tuple of str
        Ops at which it is tried; ``"*"`` means all.
    rewrite : callable
        As :meth:`Rule.rewrite`.
    source_ops, needs_value
        As of a :class:`Rule`: no demands.
    examples : tuple of callables
        Each returns ``(output, inputs)``: a graph in which it fires.
    """

    title: str
    roots: tuple[str, ...]
    rewrite: Callable[[Apply, Builder, Facts], Variable | None]
    effect: Effect
    examples: tuple[Callable[[], tuple[Variable, list[Variable]]], ...]
    source_ops: frozenset[str] = frozenset()
    needs_value: bool = False


AnyRule: TypeAlias = Union[Rule, ComputedRule]


def rule(title: str, pattern: Variable, replacement: Any, effect: Effect,
         when: Condition | Sequence[Condition] = (),
         examples: Sequence[Example] = ({},)) -> Rule:
    """Return the rule that replaces ``pattern`` by ``replacement`` where ``when`` is proved.

    Parameters
    ----------
    title : str
        The rule as text, ``"left -> right"``.
    pattern : Variable
        Over wildcards; not a bare wildcard.
    replacement : Variable or number
        Over the same wildcards.  Its result is broadcast to the shape it replaces.
    effect : Effect
        What it does to values.
    when : Condition or sequence of Condition
    examples : sequence of Example
        Default: scalars for all wildcards.
    """
    if not isinstance(replacement, Variable):
        replacement = Constant(np.asarray(replacement))
    conditions = (when,) if isinstance(when, Condition) else tuple(when)
    return Rule(title, pattern, replacement, effect, conditions, tuple(examples))


def computed_rule(title: str, roots: Sequence[str], effect: Effect,
                  examples: Sequence[Callable[[], tuple[Variable, list[Variable]]]]
                  ) -> Callable[[Callable[[Apply, Builder, Facts], Variable | None]], ComputedRule]:
    """Return a decorator that makes a function ``(node, builder, facts) -> variable`` a rule."""
    def decorate(function: Callable[[Apply, Builder, Facts], Variable | None]) -> ComputedRule:
        return ComputedRule(title, tuple(roots), function, effect, tuple(examples))
    return decorate


# -- matching --------------------------------------------------------------------------------------

def _kind(dtype: str) -> str:
    return "b" if dtype == BOOL else "i" if is_integer(dtype) else "f"


class WildcardPattern(NamedTuple):
    """Matches anything of its kinds; the same thing wherever the name occurs."""

    name: str
    kinds: str

    def matches(self, variable: Variable, bound: Bound, facts: Facts) -> bool:
        """Return whether ``variable`` fits what is bound so far, and bind it."""
        known = bound.get(self.name)
        if known is not None:
            return known is variable or _is_same(known, variable)
        if _kind(variable.type.dtype) not in self.kinds:
            return False
        bound[self.name] = variable
        return True


class ValuePattern(NamedTuple):
    """Matches a tensor all of whose elements are this number."""

    value: bool | int | float

    def matches(self, variable: Variable, bound: Bound, facts: Facts) -> bool:
        """Return whether all elements of ``variable`` are known to be the value."""
        found = facts.scalar_value(variable)
        if found is None or isinstance(self.value, bool) != (variable.dtype == BOOL):
            return False
        if not is_float(variable.dtype):
            return bool(found == self.value)
        value = found.dtype.type(self.value)
        return bool(found == value and np.signbit(found) == np.signbit(value))


class NodePattern(NamedTuple):
    """Matches the output of an op whose inputs and parameters match.

    ``order`` is that in which the inputs are tried: what fails most often first.
    """

    op: str
    inputs: tuple[WildcardPattern | ValuePattern | NodePattern, ...]
    params: tuple[tuple[str, Any], ...]
    rest: str | None
    order: tuple[int, ...]

    def matches(self, variable: Variable, bound: Bound, facts: Facts) -> bool:
        """Return whether ``variable`` is computed by a node that matches."""
        owner = variable.owner
        return owner is not None and owner.op.name == self.op and variable not in facts.kept \
            and self.matches_node(owner, bound, facts)

    def matches_node(self, node: Apply, bound: Bound, facts: Facts) -> bool:
        """Return whether the node (of the right op) matches, binding wildcards as it goes."""
        if len(node.inputs) < len(self.inputs) \
                or (self.rest is None and len(node.inputs) != len(self.inputs)):
            return False
        for position in self.order:
            if not self.inputs[position].matches(node.inputs[position], bound, facts):
                return False
        if self.rest is not None and not _bind(
                self.rest, tuple(node.inputs[len(self.inputs):]), bound):
            return False
        for name, wanted in self.params:
            if not isinstance(wanted, ParameterWildcard):
                if node.params.get(name) != wanted:
                    return False
            elif not _bind(wanted.name, node.params if wanted.is_all else node.params[name], bound):
                return False
        return True


def _bind(name: str, value: Any, bound: Bound) -> bool:
    if name in bound:
        return bound[name] == value
    bound[name] = value
    return True


def _is_same(left: Variable, right: Variable, budget: int = 64) -> bool:
    """Return whether two expressions are the same, looking at few nodes.

    In an interned graph identity has decided before; this serves the user's own graph.
    """
    pairs = [(left, right)]
    while pairs:
        a, b = pairs.pop()
        if a is b:
            continue
        budget -= 1
        if budget < 0 or a.index != b.index or a.type.dtype != b.type.dtype:
            return False
        if isinstance(a, Constant) and isinstance(b, Constant):
            if a.data.size > 64 or a.data.shape != b.data.shape \
                    or a.data.tobytes() != b.data.tobytes():
                return False
            continue
        first, second = a.owner, b.owner
        if first is None or second is None or first.op is not second.op \
                or len(first.inputs) != len(second.inputs) or first.params != second.params:
            return False
        pairs.extend(zip(first.inputs, second.inputs))
    return True


def _compile(variable: Variable) -> Iterator[Any]:
    """Yield the pattern in every order of its commutative nodes."""
    if isinstance(variable, Wildcard):
        yield WildcardPattern(variable.name, variable.kinds)
        return
    if isinstance(variable, Constant):
        yield ValuePattern(variable.data.item())
        return
    node = variable.owner
    inputs = [i for i in node.inputs if not (isinstance(i, Wildcard) and i.is_rest)]
    remaining = next((i.name for i in node.inputs if isinstance(i, Wildcard) and i.is_rest), None)
    params = tuple(sorted(node.params.items()))
    for chosen in product(*(tuple(_compile(source)) for source in inputs)):
        orders = (chosen, chosen[::-1]) if node.op.name in COMMUTATIVE else (chosen,)
        for sources in orders:
            order = sorted(range(len(sources)), key=lambda k: (
                isinstance(sources[k], WildcardPattern), isinstance(sources[k], NodePattern)))
            yield NodePattern(node.op.name, sources, params, remaining, tuple(order))


# -- building the right side -----------------------------------------------------------------------

class Builder(Protocol):
    """Where new nodes come from: an ``Interner``, or plain construction on the user's graph."""

    def apply(self, op: Op, inputs: Sequence[Variable], params: Mapping[str, Any],
              site: tuple[str, int] | None = None) -> tuple[Variable, ...]:
        """Return the outputs of an op on variables."""

    def constant(self, value: np.ndarray) -> Constant:
        """Return a constant."""

    def adopt(self, variable: Variable) -> Variable:
        """Take in a variable built with public functions."""

    def owns(self, variable: Variable) -> bool:
        """Return whether a variable belongs to the builder, not to the user."""


def instantiate(replacement: Variable, bound: Bound, dtype: str, builder: Builder,
                site: tuple[str, int] | None = None) -> Variable:
    """Return the right side with its wildcards bound.

    Its constants take the dtype of the operands they meet, or ``dtype`` when they stand alone.
    """
    built: dict[int, Variable] = {}

    def resolve(variable: Variable, siblings: str) -> Variable:
        if isinstance(variable, Wildcard):
            return bound[variable.name]
        if isinstance(variable, Constant):
            return builder.constant(variable.data.astype(numpy_dtype(
                variable.dtype if variable.dtype == BOOL else siblings)))
        return built[id(variable)]

    for node in toposort([replacement]):
        siblings = next(
            (resolve(i, dtype).dtype for i in node.inputs
             if not isinstance(i, Constant) and not (isinstance(i, Wildcard) and i.is_rest)
             and i.dtype != BOOL), dtype)
        inputs: list[Variable] = []
        for source in node.inputs:
            if isinstance(source, Wildcard) and source.is_rest:
                inputs.extend(bound[source.name])
            else:
                inputs.append(resolve(source, siblings))
        params = _resolve_params(node.params, bound)
        built[id(node.outputs[0])], = builder.apply(node.op, inputs, params, site)
    return resolve(replacement, dtype)


def _resolve_params(params: Mapping[str, Any], bound: Bound) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, ParameterWildcard):
            result.update(bound[value.name] if value.is_all else {name: bound[value.name]})
        else:
            result[name] = value
    return result


def fit(found: Variable, like: Variable, builder: Builder) -> Variable | None:
    """Return ``found`` broadcast to the type of ``like``, or None when that is impossible."""
    have, want = found.type.dims, like.type.dims
    if found.dtype != like.dtype or len(have) > len(want):
        return None
    if len(have) == len(want) and all(map(proves_equal, have, want)):
        return found
    if not all(a == 1 or proves_equal(a, b) for a, b in zip(have[::-1], want[::-1])):
        return None
    with built_at(like.site):
        sizes = [FUNCTIONS["axis_size"](like, axis) for axis in range(len(want))]
        return builder.adopt(FUNCTIONS["broadcast_to"](found, sizes))


def functions(names: str) -> list[Callable[..., Variable]]:
    """Return the public functions of ops, by their names separated by blanks."""
    return [FUNCTIONS[name] for name in names.split()]
