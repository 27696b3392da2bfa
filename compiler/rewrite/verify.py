"""The automatic check of rules: what each does to types, values, gradients, and the measure.

A rule is good when all of this holds, found by running it, not by trusting it:

- the right side uses only what the left side binds, and has its dtype and shape;
- one measure of expressions decreases, the same for all rules, so no set of rules can cycle;
- its effect on values, classified at special and random points, is the one it declares;
- gradients of both sides agree;
- every example fires it through the engine.

Values are compared with the true ones only where the two sides differ: see ``oracle.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from .. import derivative
from ..dims import Dim, dim_symbol, prod, proves_equal
from ..dtypes import is_float
from ..graph import Constant, TensorType, Variable, graph_inputs, toposort
from ..intern import Interner
from ..interpret import evaluate
from ..operators import FUNCTIONS
from .engine import RuleSet, simplify
from .measure import measure
from .oracle import true_values
from .pattern import (
    ADMITTED, AnyRule, Condition, Effect, Example, ParameterWildcard, Rule, Wildcard, fit,
    instantiate)
from .stabilize import PlainBuilder

TOLERANCE = 4.0
"""Error, in units in the last place, that a more accurate side may always have."""

_DTYPES = {"f": ("float32", "float64"), "i": ("int32", "int64", "uint8"), "b": ("bool",)}
_INFINITE, _NAN = float("inf"), float("nan")
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 1.5, -2.5, 1e-3, -1e-3, 10.0, -10.0, 40.0, -40.0,
            100.0, -100.0, 1e4, -1e4, 1e-10, -1e-10, 1e-40, 1e-310, -1e-310, 1e30, -1e30, 1e300,
            -1e300, _INFINITE, -_INFINITE, _NAN)
_RANDOM_POINTS = 40
_NEIGHBOURS = 4
_SLACK = 16.0


@dataclass(frozen=True, slots=True)
class Case:
    """One rule at work: ``before`` becomes ``after``; both are functions of ``inputs``.

    ``conditions`` are demands on values of some inputs.
    """

    before: Variable
    after: Variable | None
    inputs: tuple[Variable, ...]
    conditions: tuple[tuple[Condition, tuple[Variable, ...]], ...] = ()


# -- from rules to cases ---------------------------------------------------------------------------

def pattern_names(root: Variable) -> set[str]:
    """Return the names of all wildcards, of values and of parameters, in a pattern."""
    names = {v.name for v in graph_inputs([root]) if isinstance(v, Wildcard)}
    for node in toposort([root]):
        names |= {v.name for v in node.params.values() if isinstance(v, ParameterWildcard)}
    return names


def cases(rule: AnyRule) -> Iterator[Case]:
    """Return the rule at each of its examples, in each dtype its wildcards take."""
    if not isinstance(rule, Rule):
        for example in rule.examples:
            output, inputs = example()
            interner = Interner()
            before, *leaves = interner.intern([output, *inputs])
            after, = simplify(interner, [before], RuleSet("one", [rule]))
            yield Case(before, after, tuple(leaves))
        return
    kinds = sorted({letter for v in graph_inputs([rule.pattern]) if isinstance(v, Wildcard)
                    and len(v.kinds) > 0 and not v.is_rest for letter in v.kinds})
    numbers = [kind for kind in kinds if kind != "b"] or ["b"]
    mixed = any(v.kinds == "fib" for v in graph_inputs([rule.pattern])
                if isinstance(v, Wildcard) and not v.is_rest)
    for example in rule.examples:
        for kind in numbers + ["b"] * (mixed and "b" not in numbers):
            for dtype in _DTYPES[kind]:
                yield _case(rule, example, dtype)


def _bind(rule: Rule, example: Example, dtype: str, is_witness: bool = False
          ) -> tuple[dict[str, Any], list[Variable]]:
    """Return variables for the wildcards, and the inputs among them."""
    bound, inputs, points = dict(example), [], dim_symbol("points")
    for wildcard in graph_inputs([rule.pattern]):
        if not isinstance(wildcard, Wildcard):
            continue
        value = example.get(wildcard.name, (points,))
        if wildcard.is_rest:
            bound[wildcard.name] = tuple(Constant(np.asarray(item)) for item in value)
            continue
        own = dtype if _kind(dtype) in wildcard.kinds else _DTYPES[wildcard.kinds[0]][-1]
        variable = Variable(TensorType(own, tuple(value)), name=wildcard.name)
        inputs.append(variable)
        for condition in rule.when:
            if is_witness and condition.witness and condition.names == (wildcard.name,):
                variable = condition.witness(variable)
        bound[wildcard.name] = variable
    return bound, inputs


class _SpreadingBuilder(PlainBuilder):
    """Spreads constants over the points: NumPy's ``power`` treats a scalar exponent specially."""

    def __init__(self, inputs: Sequence[Variable]):
        super().__init__()
        self._dim = next((dim for v in inputs for dim in v.type.dims if isinstance(dim, Dim)), None)

    def constant(self, value: np.ndarray) -> Variable:
        """Return a constant, or a vector of it."""
        constant = super().constant(value)
        if self._dim is None:
            return constant
        return FUNCTIONS["broadcast_to"](constant, [FUNCTIONS["size"](self._dim)])


def _kind(dtype: str) -> str:
    return next(kind for kind, members in _DTYPES.items() if dtype in members)


def _case(rule: Rule, example: Example, dtype: str) -> Case:
    bound, inputs = _bind(rule, example, dtype)
    builder = _SpreadingBuilder(inputs)
    before = instantiate(rule.pattern, bound, dtype, builder)
    after = fit(instantiate(rule.replacement, bound, before.dtype, builder), before, builder)
    demands = tuple((condition, tuple(bound[name] for name in condition.names))
                    for condition in rule.when if condition.accepts)
    return Case(before, after, tuple(inputs), demands)


# -- values ----------------------------------------------------------------------------------------

def classify(rule: AnyRule, seed: int = 0) -> Effect:
    """Return what a rule does to values: the worst over all examples, dtypes and points."""
    random = np.random.default_rng(seed)
    worst = Effect.EXACT
    for case in cases(rule):
        for values in _points(case, random):
            worst = max(worst, _compare(case, values, random))
    return worst


def _points(case: Case, random: np.random.Generator) -> Iterator[dict[Variable, np.ndarray]]:
    """Yield values for the inputs: special ones crossed, and random ones of all magnitudes."""
    inputs = case.inputs
    if _is_pointwise(case):
        pools = [_pool(v.dtype, random) for v in inputs]
        if len(pools) > 2:
            columns = [random.choice(pool, 400) for pool in pools]
        else:
            columns = list(zip(*product(*pools))) or [()] * len(pools)
        values = {v: np.array(column, v.dtype) for v, column in zip(inputs, columns)}
        for condition, variables in case.conditions:
            accepted = condition.accepts(*(values[v] for v in variables))
            values = {v: array[accepted] for v, array in values.items()}
        yield values
        return
    for scale in (lambda shape: 1.0, lambda shape: 1e3, lambda shape: 30.0,
                  lambda shape: 10.0 ** random.uniform(-8, 4, shape)):
        yield {v: _filled(v, scale, random) for v in inputs}
    for special in inputs:
        for value in (_INFINITE, -_INFINITE, _NAN, -0.0):
            values = {v: _filled(v, lambda shape: 10.0, random) for v in inputs}
            if values[special].size and is_float(special.dtype):
                values[special].flat[random.integers(values[special].size)] = value
            yield values


def _pool(dtype: str, random: np.random.Generator) -> np.ndarray:
    if not is_float(dtype):
        if dtype == "bool":
            return np.array([False, True])
        info = np.iinfo(dtype)
        ends = np.array([info.min, info.max, 0, 1, 2, 3, max(-1, info.min)], dtype)
        return np.concatenate([ends, random.integers(info.min, info.max, 8, dtype)])
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        special = np.array((*_SPECIAL, info.max, -info.max, info.tiny, info.eps), dtype)
        magnitude = 10.0 ** random.uniform(-6, 4, _RANDOM_POINTS // 2)
        wild = np.concatenate([magnitude, random.normal(size=_RANDOM_POINTS // 2)])
        signed = (wild * random.choice([-1, 1], wild.size)).astype(dtype)
    return np.concatenate([special, signed])


def _filled(variable: Variable, scale: Callable[[tuple[int, ...]], Any],
            random: np.random.Generator) -> np.ndarray:
    """Return an array of normal deviates times the scale for its shape; any integers."""
    shape = tuple(dim if isinstance(dim, int) else 3 for dim in variable.type.dims)
    if not is_float(variable.dtype):
        return random.choice(_pool(variable.dtype, random), shape)
    return np.asarray(random.normal(size=shape) * scale(shape), variable.dtype)


def _compare(case: Case, values: Mapping[Variable, np.ndarray], random: np.random.Generator
             ) -> Effect:
    """Return the effect at these points."""
    before, after = evaluate([case.before, case.after], values)
    if not is_float(case.before.dtype):
        return Effect.EXACT if np.array_equal(before, after) else Effect.LESS_ACCURATE
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    zeros = (before == 0) & (after == 0) & (np.signbit(before) != np.signbit(after))
    worst = Effect.SIGN_OF_ZERO if zeros.any() else Effect.EXACT
    if same.all():
        return worst
    if _is_pointwise(case):
        values = {v: a[~same] for v, a in values.items()}
        before, after, same = before[~same], after[~same], same[~same]
    truth = true_values(case.before, values, _is_pointwise(case))
    kinds = _kinds_of_inputs(case, values, before.shape)
    suspects = []
    for place in map(tuple, np.argwhere(~same)):
        if truth[place] is None:
            continue
        effect = _judge(truth[place], before[place], after[place], kinds[place])
        if effect > Effect.MORE_ACCURATE and kinds[place] == "infinite" \
                and np.isnan(before).any() and np.isnan(after).any():
            effect = Effect.MORE_ACCURATE  # A row that is NaN in part may be so in whole.
        if effect > Effect.MORE_ACCURATE:
            suspects.append((place, effect))
        worst = max(worst, Effect.MORE_ACCURATE)
    if suspects:
        allowed = _allowed_error(case, values, truth, random)
        for place, effect in suspects:
            if not _error(truth[place], after[place]) <= allowed[place]:
                worst = max(worst, effect)
    return worst


def _is_pointwise(case: Case) -> bool:
    """Return whether the inputs are vectors of independent points."""
    return all(v.ndim == 1 and not isinstance(v.type.dims[0], int) for v in case.inputs)


def _kinds_of_inputs(case: Case, values: Mapping[Variable, np.ndarray], shape: tuple[int, ...]
                     ) -> np.ndarray:
    """Return 'finite', 'infinite' or 'nan': the worst input of each point, or of all."""
    floats = [a for a in values.values() if a.dtype.kind == "f"]
    if _is_pointwise(case):
        has_nan = np.logical_or.reduce([np.isnan(a) for a in floats])
        has_infinite = np.logical_or.reduce([np.isinf(a) for a in floats])
    else:
        has_nan, has_infinite = (np.full(shape, any(test(a).any() for a in floats))
                                 for test in (np.isnan, np.isinf))
    return np.where(has_nan, "nan", np.where(has_infinite, "infinite", "finite"))


def _judge(truth: Any, before: np.floating, after: np.floating, kind: str) -> Effect:
    """Return the effect at one point where the two sides differ."""
    if truth != truth:
        # Undefined: NaN is the honest answer; inf - inf may be anything, NaN must stay NaN.
        if np.isnan(after) or (kind == "infinite" and np.isnan(before)):
            return Effect.MORE_ACCURATE
        return Effect.CHANGES_DOMAIN if kind == "finite" else Effect.CHANGES_NONFINITE
    if _error(truth, after) <= max(_error(truth, before), TOLERANCE):
        return Effect.MORE_ACCURATE
    return Effect.LESS_ACCURATE if kind == "finite" else Effect.CHANGES_NONFINITE


def _error(truth: Any, value: np.floating) -> float:
    """Return the distance to the true value in units in the last place of the nearest number."""
    dtype = value.dtype.type
    with np.errstate(all="ignore"):
        nearest = dtype(float(truth))
        if nearest == value:
            return 0.0
        if not (np.isfinite(nearest) and np.isfinite(value)):
            return _INFINITE
        return float(abs(type(truth)(float(value)) - truth) / float(np.spacing(abs(nearest))))


def _allowed_error(case: Case, values: Mapping[Variable, np.ndarray], truth: np.ndarray,
                   random: np.random.Generator) -> np.ndarray:
    """Return the error the right side may have, in units in the last place.

    It is what the left side has nearby (at the point itself it may be zero by luck), and what
    rounding the inputs once more would do to the true value, up to four bits: both sides of
    ``log(softmax(x))`` round a sum near 1, but not equally often.
    """
    allowed = np.zeros(truth.shape)
    for _ in range(_NEIGHBOURS):
        with np.errstate(all="ignore"):
            moved = {v: a if a.dtype.kind != "f" else
                     (a * (1 + np.finfo(a.dtype).eps * random.integers(-2, 3, a.shape)))
                     .astype(a.dtype) for v, a in values.items()}
        before, = evaluate([case.before], moved)
        near = true_values(case.before, moved, _is_pointwise(case))
        for place in np.ndindex(before.shape):
            if near[place] is None or truth[place] is None or near[place] != near[place]:
                continue
            with np.errstate(over="ignore"):
                rounded = before.dtype.type(float(near[place]))
            allowed[place] = max(allowed[place], _error(near[place], before[place]),
                                 _error(truth[place], rounded))
    return TOLERANCE + _SLACK * allowed


# -- the other demands -----------------------------------------------------------------------------

def _unbound(rule: AnyRule) -> str | None:
    if not isinstance(rule, Rule):
        return None
    known = pattern_names(rule.pattern)
    new = pattern_names(rule.replacement) - known
    new |= {name for condition in rule.when for name in condition.names} - known
    return f"{', '.join(sorted(new))} is not bound by the left side" if new else None


def _badly_typed(rule: AnyRule) -> str | None:
    for case in cases(rule):
        before = case.before.type
        after = None if case.after is None else case.after.type
        if after is None or before.dtype != after.dtype or len(before.dims) != len(after.dims) \
                or not all(map(proves_equal, before.dims, after.dims)):
            return f"the left side is {before}, the right side {after or 'does not fit it'}"
    return None


def _flops(variable: Variable) -> int:
    """Return the multiplications of all matrix products, where sizes are known."""
    total = 0
    for node in toposort([variable]):
        if node.op.name == "contract":
            sizes = (*node.outputs[0].type.dims, node.inputs[0].type.dims[-1])
            total += prod(dim if isinstance(dim, int) else 1 for dim in sizes)
    return total


def _not_decreasing(rule: AnyRule) -> str | None:
    """The measure is lexicographic: work of matrix products, then the weight of ``measure.py``."""
    if isinstance(rule, Rule):
        is_less = (measure(rule.pattern) - measure(rule.replacement)).is_at_least(1)
        return None if is_less else "the measure does not decrease"
    for case in cases(rule):
        before, after = ((_flops(v), measure(v).at(1)) for v in (case.before, case.after))
        if not after < before:
            return f"the measure goes from {before} to {after}"
    return None


def _wrong_effect(rule: AnyRule) -> str | None:
    found = classify(rule)
    is_same = found == rule.effect or (found < rule.effect <= ADMITTED and _rounds_by_machine(rule))
    return None if is_same else f"it is declared {rule.effect.name} and found {found.name}"


def _rounds_by_machine(rule: AnyRule) -> bool:
    """Return whether the rule is about functions whose rounding in NumPy depends on the machine
    (sums of several terms, powers), so that it may be found milder than it is."""
    return any(node.op.name in ("sum", "prod", "contract", "pow")
               for case in cases(rule) for node in toposort([case.before]))


def _disagreeing_gradients(rule: AnyRule, seed: int = 1) -> str | None:
    random = np.random.default_rng(seed)
    for case in cases(rule):
        wrt = [v for v in case.inputs if v.dtype == "float64"]
        if not wrt or case.before.dtype != "float64":
            continue
        values = {v: random.uniform(0.2, 0.9, [d if isinstance(d, int) else 5 for d in v.type.dims])
                  .astype(v.dtype) for v in case.inputs}
        weights = Constant(random.normal(size=evaluate([case.before], values)[0].shape))
        sides = []
        for side in (case.before, case.after):
            total = FUNCTIONS["sum"](FUNCTIONS["mul"](side, weights))
            found = derivative.vjp([total], wrt, [Constant(np.asarray(1.0))])
            found = [FUNCTIONS["zeros_like"](v) if g is None else g for v, g in zip(wrt, found)]
            sides.append(evaluate(found, values))
        if not all(np.allclose(a, b, rtol=1e-7, atol=1e-9) for a, b in zip(*sides)):
            return "the gradients of the two sides differ"
    return None


def _not_firing(rule: AnyRule) -> str | None:
    if not isinstance(rule, Rule):
        return None if all(case.before is not case.after for case in cases(rule)) \
            else "an example does not fire it"
    for example in rule.examples:
        for case_dtype in {case.inputs[0].dtype if case.inputs else "float64"
                           for case in cases(rule)}:
            bound, _ = _bind(rule, example, case_dtype, is_witness=True)
            builder = PlainBuilder()
            left = instantiate(rule.pattern, bound, case_dtype, builder)
            right = fit(instantiate(rule.replacement, bound, left.dtype, builder), left, builder)
            interner = Interner()
            left, right = interner.intern([left, right])
            fired: Counter[str] = Counter()
            result, = simplify(interner, [left], RuleSet("one", [rule]), fired=fired)
            again, = simplify(interner, [right], RuleSet("one", [rule]))
            if not fired[rule.title] or result is not again:
                return f"an example does not fire it ({case_dtype})"
    return None


_CHECKS: Sequence[Callable[[AnyRule], str | None]] = (
    _unbound, _badly_typed, _not_decreasing, _not_firing, _wrong_effect, _disagreeing_gradients)


def problems(rule: AnyRule) -> list[str]:
    """Return what is wrong with a rule; empty if it is good.

    The checks that presuppose earlier ones are left out when those fail.
    """
    for check in _CHECKS:
        found = check(rule)
        if found is not None:
            return [f"{rule.title}: {found}"]
    return []
