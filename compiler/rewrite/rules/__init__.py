"""The rules, as data: these files contain no control flow."""

from __future__ import annotations

from ... import ops  # noqa: F401  (patterns are built from the public functions of the ops)
from .. import computed
from ..engine import RuleSet
from . import algebra, cast, linalg, reduce, shape, stability

STABLE = RuleSet("stable", stability.STABLE)
"""Better-conditioned forms; also applied before differentiating."""

CANONICAL = RuleSet("canonical", (
    *computed.CANONICAL, *cast.CANONICAL, *shape.CANONICAL, *reduce.CANONICAL, *linalg.CANONICAL,
    *algebra.CANONICAL))
"""Fewer and cheaper operations, same values."""

FAST_MATH = RuleSet("fast math", (*computed.FAST_MATH, *algebra.FAST_MATH))
"""Only with ``fast_math=True``: values may change where something is infinite, NaN or undefined."""

RULE_SETS = (STABLE, CANONICAL, FAST_MATH)
DEFAULT = STABLE + CANONICAL
FAST = FAST_MATH + DEFAULT


def rule_table() -> list[tuple[str, str, str]]:
    """Return title, effect on values and rule set of every rule, for the documentation."""
    return [(rule.title, rule.effect.name.lower().replace("_", " "), rules.name)
            for rules in RULE_SETS for rule in rules.rules]
