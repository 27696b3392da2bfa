"""The rules, as data: these files contain no control flow."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module

from ... import ops  # noqa: F401  (patterns are built from the public functions of the ops)
from ..engine import RuleSet
from ..pattern import AnyRule

RULE_FILES = ("cast", "shape", "reduce", "linalg", "algebra")
"""In the order in which their rules are tried, after those that compute."""


def _rules_of(file: str, kind: str) -> tuple[AnyRule, ...]:
    return tuple(getattr(import_module(f"{__name__}.{file}"), kind))


def _canonical() -> RuleSet:
    """Return the rules for fewer and cheaper operations, same values."""
    from ..computed import CANONICAL
    return RuleSet("canonical", (
        *CANONICAL, *(rule for file in RULE_FILES for rule in _rules_of(file, "CANONICAL"))))


def _fast_math() -> RuleSet:
    """Return the rules of ``fast_math=True``, which may change values where something is infinite,
    NaN or undefined."""
    from ..computed import FAST_MATH
    return RuleSet("fast math", (*FAST_MATH, *_rules_of("algebra", "FAST_MATH")))


_SETS: dict[str, Callable[[], RuleSet]] = {
    # Better-conditioned forms; also applied before differentiating, alone.
    "STABLE": lambda: RuleSet("stable", _rules_of("stability", "STABLE")),
    "CANONICAL": _canonical,
    "FAST_MATH": _fast_math,
    "DEFAULT": lambda: rule_set("STABLE") + rule_set("CANONICAL"),
    "FAST": lambda: rule_set("FAST_MATH") + rule_set("DEFAULT"),
}


@cache
def rule_set(name: str) -> RuleSet:
    """Return a set of rules; building them takes time, and few processes need them all."""
    return _SETS[name]()


def rule_sets() -> tuple[RuleSet, ...]:
    """Return the sets that have no rule in common."""
    return rule_set("STABLE"), rule_set("CANONICAL"), rule_set("FAST_MATH")


def __getattr__(name: str) -> RuleSet | tuple[RuleSet, ...]:
    """Return ``STABLE``, ``DEFAULT`` and so on, or ``RULE_SETS``, built at the first use."""
    if name in _SETS:
        return rule_set(name)
    if name == "RULE_SETS":
        return rule_sets()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def rule_table() -> list[tuple[str, str, str]]:
    """Return title, effect on values and rule set of every rule, for the documentation."""
    return [(rule.title, rule.effect.name.lower().replace("_", " "), rules.name)
            for rules in rule_sets() for rule in rules.rules]
