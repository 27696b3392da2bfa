"""The measure that every rule decreases: a polynomial interpretation of expressions.

Each op is given a polynomial in the weights of its inputs, strictly increasing in each; a variable
or constant weighs 1.  If the left side of a rule outweighs its right side for all weights of the
wildcards, then every application, anywhere in an expression, lowers the weight of the whole: no
sequence of rules is infinite.  (Lankford, "On proving term rewriting systems are Noetherian",
1979.)

The polynomials are linear, so the comparison is of coefficients.
"""

from __future__ import annotations


from dataclasses import dataclass, field

from ..graph import Apply, Variable, toposort
from .pattern import Wildcard


@dataclass(frozen=True, slots=True)
class Weight:
    """A linear polynomial with integer coefficients: ``constant + sum(factor * variable)``.

    Examples
    --------
    >>> x = Weight(0, {"x": 1})
    >>> (2 * x + 3).at(1)
    5
    """

    constant: int
    factors: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Weight | int) -> Weight:
        if isinstance(other, int):
            return Weight(self.constant + other, self.factors)
        names = {**self.factors, **other.factors}
        return Weight(self.constant + other.constant, {
            name: self.factors.get(name, 0) + other.factors.get(name, 0) for name in names})

    def __rmul__(self, factor: int) -> Weight:
        return Weight(factor * self.constant, {n: factor * f for n, f in self.factors.items()})

    def __sub__(self, other: Weight) -> Weight:
        return self + -1 * other

    def at(self, weight: int) -> int:
        """Return the value when every variable has this weight."""
        return self.constant + weight * sum(self.factors.values())

    def is_at_least(self, bound: int) -> bool:
        """Return whether the value is ``>= bound`` for all weights from 1 on."""
        return all(factor >= 0 for factor in self.factors.values()) and self.at(1) >= bound


# scale, addend: the weight is scale * (sum of the inputs' weights) + addend.
_DEFAULT = (2, 10)
_LINEAR: dict[str, tuple[int, int]] = {
    "neg": (1, 1), "sqr": (1, 1), "abs_": (1, 1), "copy": (1, 1), "sqrt": (1, 2), "cast": (1, 2),
    "add": (1, 4), "sub": (1, 4), "mul": (2, 1), "true_div": (2, 8), "inv": (2, 6), "pow": (4, 8),
    "tanh": (8, 40), "invert": (1, 1), "dimshuffle": (2, 0), "reshape": (1, 1),
    "broadcast_to": (1, 1),
    "subtensor": (1, 1), "advanced_subtensor": (1, 1), "size": (1, 1),
    "place": (1, 1),
}
_FIRST_INPUT_ONLY = frozenset({
    "broadcast_to", "reshape", "subtensor", "advanced_subtensor"})
_REDUCTIONS = frozenset({"sum", "prod", "max", "min", "all", "any"})


def measure(variable: Variable) -> Weight:
    """Return the weight of an expression, or of a pattern as a polynomial in its wildcards."""
    weights: dict[Variable, Weight] = {}
    for node in toposort([variable]):
        inputs = node.inputs[:1] if node.op.name in _FIRST_INPUT_ONLY else node.inputs
        total = sum((weights.get(i) or _leaf(i) for i in inputs), Weight(0))
        scale, addend = _polynomial(node)
        for output in node.outputs:
            weights[output] = scale * total + addend
    return weights.get(variable) or _leaf(variable)


def _polynomial(node: Apply) -> tuple[int, int]:
    if node.op.name in _REDUCTIONS:
        axes = node.params["axes"]
        # A wildcard for axes stands for one or more of them, the same on both sides.
        return 4 ** (len(axes) if isinstance(axes, tuple) else 1), 10
    return _LINEAR.get(node.op.name, _DEFAULT)


def _leaf(variable: Variable) -> Weight:
    if isinstance(variable, Wildcard):
        return Weight(0, {variable.name: 1})
    return Weight(1)
