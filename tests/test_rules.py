"""Every rule is checked automatically; the checker itself is checked with planted rules."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from tetractys import tensor as T
from tetractys.compiler.graph import Constant
from tetractys.compiler.rewrite import computed, rules
from tetractys.compiler.rewrite.conditions import nonnegative
from tetractys.compiler.rewrite.measure import Weight, measure
from tetractys.compiler.rewrite.oracle import true_values
from tetractys.compiler.rewrite.pattern import (
    ADMITTED, ComputedRule, Effect, functions, rule, structural, wildcards)
from tetractys.compiler.rewrite.verify import cases, classify, problems

EVERY = [rule_ for rules_ in rules.RULE_SETS for rule_ in rules_.rules]
exp, log, log1p, expm1, sqrt, abs_ = functions("exp log log1p expm1 sqrt abs_")
x, y = wildcards("x y")
n, = wildcards("n", "fi")


@pytest.mark.parametrize("checked", EVERY, ids=lambda rule_: rule_.title)
def test_rule_is_what_it_declares(checked):
    assert problems(checked) == []


def test_titles_are_unique():
    titles = [rule_.title for rule_ in EVERY]
    assert len(titles) == len(set(titles))


def test_default_pipeline_admits_only_rules_that_lose_nothing():
    assert all(rule_.effect <= ADMITTED for rule_ in rules.DEFAULT.rules)


def test_fast_math_holds_what_the_default_refuses():
    assert all(rule_.effect > ADMITTED for rule_ in rules.FAST_MATH.rules)


def test_computed_rules_are_few():
    counted = [rule_ for rule_ in EVERY if isinstance(rule_, ComputedRule)]
    assert len(counted) == len(computed.CANONICAL) + len(computed.FAST_MATH) <= 12


def test_rule_table_lists_every_rule_with_its_effect():
    table = rules.rule_table()
    assert len(table) == len(EVERY)
    assert ("log(1 + x) -> log1p(x)", "more accurate", "stable") in table
    assert ("x / x -> 1", "changes domain", "fast math") in table


# -- planted rules ---------------------------------------------------------------------------------

PLANTED = [
    (rule("x * 1 -> x", x * 1, x, Effect.EXACT), Effect.EXACT),
    (rule("x + 0 -> x", x + 0, x, Effect.EXACT), Effect.SIGN_OF_ZERO),
    (rule("log(1 + x) -> log1p(x)", log(1 + x), log1p(x), Effect.EXACT), Effect.MORE_ACCURATE),
    (rule("log(exp(x)) -> x", log(exp(x)), x, Effect.EXACT), Effect.MORE_ACCURATE),
    (rule("exp(x) - 1 -> expm1(x)", exp(x) - 1, expm1(x), Effect.EXACT), Effect.MORE_ACCURATE),
    (rule("x * 0 -> 0", x * 0, 0, Effect.EXACT), Effect.CHANGES_NONFINITE),
    (rule("x - x -> 0", x - x, 0, Effect.EXACT), Effect.CHANGES_NONFINITE),
    (rule("x / x -> 1", x / x, 1, Effect.EXACT), Effect.CHANGES_DOMAIN),
    (rule("(x * y) / y -> x", (x * y) / y, x, Effect.EXACT), Effect.CHANGES_DOMAIN),
    (rule("exp(log(x)) -> x", exp(log(x)), x, Effect.EXACT), Effect.CHANGES_DOMAIN),
    (rule("exp(x) -> 1 + x", exp(x), 1 + x, Effect.EXACT), Effect.LESS_ACCURATE),
    (rule("log1p(x) -> log(1 + x)", log1p(x), log(1 + x), Effect.EXACT), Effect.LESS_ACCURATE),
    (rule("expm1(x) -> exp(x) - 1", expm1(x), exp(x) - 1, Effect.EXACT), Effect.LESS_ACCURATE),
    (rule("abs(x) -> x", abs_(x), x, Effect.EXACT), Effect.LESS_ACCURATE),
    (rule("abs(x) -> x where x >= 0", abs_(x), x, Effect.EXACT, when=nonnegative(x)),
     Effect.SIGN_OF_ZERO),
    (rule("abs(-n) -> abs(n) on unsigned", abs_(-n), abs_(n), Effect.EXACT), Effect.LESS_ACCURATE),
]


@pytest.mark.parametrize(("planted", "found"), PLANTED, ids=lambda item: getattr(
    item, "title", None))
def test_planted_rule_is_classified(planted, found):
    assert classify(planted) == found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_classification_does_not_hang_on_the_random_points(seed):
    assert [classify(planted, seed) for planted, _ in PLANTED] == [found for _, found in PLANTED]


def test_wrong_declaration_is_a_problem():
    (found,) = problems(rule("x + 0 -> x", x + 0, x, Effect.EXACT))
    assert "declared EXACT and found SIGN_OF_ZERO" in found


def test_right_side_may_bind_nothing_new():
    (found,) = problems(rule("exp(x) -> y", exp(x), y, Effect.EXACT))
    assert "y is not bound" in found


def test_growing_rule_is_a_problem():
    (found,) = problems(rule("x -> x * 1 + 0", abs_(x), abs_(x) * 1, Effect.EXACT))
    assert "measure does not decrease" in found


def test_exchange_of_operands_would_cycle_and_is_a_problem():
    (found,) = problems(rule("x - y -> x - y", x - y, x - y, Effect.EXACT))
    assert "measure does not decrease" in found


def test_result_of_another_dtype_is_a_problem():
    (found,) = problems(rule("x < y -> x", T.lt(x, y), x, Effect.EXACT))
    assert "does not fit" in found


def test_result_of_another_shape_is_a_problem():
    total = structural("sum")(x, axes=(1,))
    (found,) = problems(rule("sum(x) -> x", total, x, Effect.EXACT, examples=[{"x": (2, 3)}]))
    assert "does not fit" in found


def test_example_that_does_not_fire_is_a_problem():
    never = nonnegative(x)._replace(holds=lambda facts, variable: False)
    (found,) = problems(rule("abs(x) -> x", abs_(x), x, Effect.SIGN_OF_ZERO, when=never))
    assert "does not fire" in found


# -- the oracle and the measure --------------------------------------------------------------------

def test_oracle_has_more_digits_than_the_exponent_range():
    v = T.dvector()
    found = true_values(T.log(1 + T.exp(v)), {v: np.array([-700.0, -1e4])}, is_pointwise=True)
    assert float(found[0]) == pytest.approx(np.exp(-700.0), rel=1e-12)
    assert float(mpmath.log(found[1])) == pytest.approx(-1e4, rel=1e-12)


def test_oracle_does_not_decide_where_a_term_is_lost():
    v = T.dvector()
    assert true_values(T.log(1 - T.exp(v)), {v: np.array([-1e30])})[0] is None


def test_oracle_finds_poles_and_complex_values_undefined():
    v = T.dvector()
    for output, at in ((1 / v, 0.0), (T.log(v), -1.0), (T.sqrt(v), -1.0), (v ** 0.5, -np.inf)):
        assert true_values(output, {v: np.array([at])})[0] != \
            true_values(output, {v: np.array([at])})[0]


def test_measure_counts_shared_parts_wherever_they_occur():
    v = T.dscalar()
    assert measure(v).at(1) == 1
    assert measure(T.exp(v) + T.exp(v)).at(1) == 2 * measure(T.exp(v)).at(1) + 4


def test_weights_compare_for_all_values():
    assert Weight(1, {"x": 2}).is_at_least(3)
    assert not Weight(100, {"x": -1}).is_at_least(0)


def test_every_case_has_a_right_side_of_the_same_type():
    for checked in EVERY:
        for case in cases(checked):
            assert case.after.dtype == case.before.dtype
            assert not isinstance(case.before, Constant)
