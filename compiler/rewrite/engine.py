"""Apply rules to a graph: one bottom-up pass with a worklist, near-linear in the nodes.

Each variable is brought to normal form once, after the variables it reads; nodes that a rule
creates join the worklist, the rest of the graph is never swept again.  Every rule lowers one
measure (``verify.py``), so this ends; a budget of firings bounds the time in any case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ...runtime.artifact import InternalError, numpy_dtype
from ..dims import substitute, symbols_of
from ..graph import Apply, Constant, DataSymbol, Variable, dim_of, toposort
from ..intern import data_behind
from .pattern import AnyRule, Builder

BUDGET_FACTOR, BUDGET_BASE = 4, 1000
"""Default budget: this many firings a node, plus the base."""

_SAME_VALUE = frozenset({"dimshuffle", "broadcast_to", "reshape", "copy", "tensor_copy", "second"})
_LARGEST_UNIFORM = 4096
_LONGEST_CHAIN = 16


class RuleSet:
    """Rules in the order they are tried, indexed by the op at their root.

    Parameters
    ----------
    name : str
    rules : iterable of Rule or ComputedRule
    """

    def __init__(self, name: str, rules: Iterable[AnyRule]):
        self.name, self.rules = name, tuple(rules)
        self._by_root: dict[str, list[AnyRule]] = {}

    def at(self, op_name: str) -> Sequence[AnyRule]:
        """Return the rules that may apply at an op."""
        found = self._by_root.get(op_name)
        if found is None:
            found = self._by_root[op_name] = [
                rule for rule in self.rules if op_name in rule.roots or "*" in rule.roots]
        return found

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet(f"{self.name}+{other.name}", self.rules + other.rules)

    def __repr__(self) -> str:
        return f"<{len(self.rules)} rules {self.name}>"


def simplify(builder: Builder, outputs: Sequence[Variable], rules: RuleSet,
             budget: int | None = None, keep: Iterable[Variable] = (),
             fired: Counter[str] | None = None) -> list[Variable]:
    """Return ``outputs`` rewritten until no rule applies (or the budget is spent).

    Parameters
    ----------
    builder : Interner or Builder
        Builds new nodes; the graph given is not modified.
    outputs : sequence of Variable
        Interned if the builder is an interner.
    rules : RuleSet
    budget : int, optional
        Number of rule applications after which the rest is left as it is; default: four a node.
    keep : iterable of Variable
        Variables taken as given: they stay, and patterns of rules do not look behind them.
    fired : Counter, optional
        Counts the titles of the rules applied.
    """
    keep = list(keep)
    order = toposort(outputs, keep)
    if budget is None:
        budget = BUDGET_FACTOR * len(order) + BUDGET_BASE
    uses = Counter(source for node in order for source in node.inputs)
    uses.update(outputs)
    engine = _Engine(builder, rules, budget, keep, uses, fired)
    return [engine.normal_form(output) for output in outputs]


class _Engine:
    """The state of one pass; also what conditions ask for facts."""

    def __init__(self, builder: Builder, rules: RuleSet, budget: int, keep: list[Variable],
                 uses: Counter[Variable], fired: Counter[str] | None):
        self.builder, self.rules, self.budget, self.fired = builder, rules, budget, fired
        self.uses, self.kept = uses, frozenset(keep)
        self.final: dict[Variable, Variable] = {variable: variable for variable in keep}
        self.forward: dict[Variable, Variable] = {}
        self.rebuilt: dict[Apply, tuple[Variable, ...]] = {}
        self.values: dict[Variable, np.generic | None] = {}

    def normal_form(self, root: Variable) -> Variable:
        """Return what a variable becomes."""
        final, forward = self.final, self.forward
        active: set[Variable] = set()
        stack = [root]
        while stack:
            variable = stack[-1]
            if variable in final:
                stack.pop()
                continue
            node = variable.owner
            if node is None:
                final[variable] = variable
                continue
            target = forward.get(variable)
            if target is None:
                needed = [source for source in _sources(node) if source not in final]
                if needed:
                    active.add(variable)
                    self._push(stack, needed, active)
                    continue
                target = self._step(variable, node)
                if target is variable:
                    final[variable] = variable
                    active.discard(variable)
                    continue
                forward[variable] = target
                active.add(variable)
            if target in final:
                final[variable] = final[target]
                active.discard(variable)
            else:
                self._push(stack, [target], active)
        return final[root]

    def _push(self, stack: list[Variable], variables: list[Variable],
              active: set[Variable]) -> None:
        for variable in variables:
            if variable in active:
                raise InternalError(f"rewriting {variable!r} leads back to itself: two rules undo "
                                    "each other")
        stack.extend(reversed(variables))

    def _step(self, variable: Variable, node: Apply) -> Variable:
        """Return what a variable whose inputs are final becomes next; itself if nothing."""
        inputs = [self.final[source] for source in node.inputs]
        params = node.params
        if node.op.name == "size":
            params = {"dim": self._renew(params["dim"])}
        if params != node.params or any(a is not b for a, b in zip(inputs, node.inputs)):
            outputs = self.rebuilt.get(node)
            if outputs is None:
                outputs = self.builder.apply(node.op, inputs, params, node.site)
                self.rebuilt[node] = outputs
                for old, new in zip(node.outputs, outputs):
                    self.uses[new] += self.uses[old]
                    self._name(new, old)
            if outputs[variable.index] is not variable:
                return outputs[variable.index]
        if len(node.outputs) > 1 or self.budget <= 0:
            return variable
        candidates = self.rules.at(node.op.name)
        if not candidates:
            return variable
        sources = {i.owner.op.name for i in inputs if i.owner is not None}
        has_value = any(self.scalar_value(i) is not None for i in inputs)
        for rule in candidates:
            if rule.source_ops <= sources and (has_value or not rule.needs_value):
                found = rule.rewrite(node, self.builder, self)
                if found is not None and found is not variable:
                    self._check_type(rule, variable, found)
                    self.budget -= 1
                    if self.fired is not None:
                        self.fired[rule.title] += 1
                    self._name(found, variable)
                    return found
        return variable

    def _name(self, new: Variable, old: Variable) -> None:
        """Let a name and tag ride along, unless the variable is the user's own."""
        if new.owner is not None and self.builder.owns(new):
            new.name = new.name or old.name
            if new._tag is None:
                new._tag = old._tag

    def _renew(self, dim):
        """Return a size in terms of the final forms of the data it depends on."""
        changed = {symbol: dim_of(self.final[symbol.variable]) for symbol in symbols_of(dim)
                   if isinstance(symbol, DataSymbol)}
        return substitute(dim, changed) if changed else dim

    def _check_type(self, rule: AnyRule, old: Variable, new: Variable) -> None:
        if new.dtype != old.dtype or new.ndim != old.ndim:
            raise InternalError(f"the rule {rule.title!r} changes the type of {old!r} from "
                                f"{old.type} to {new.type}")

    def scalar_value(self, variable: Variable) -> np.generic | None:
        """Return the one value all elements of a variable have, if it is known."""
        if variable.owner is None and not isinstance(variable, Constant) or variable in self.kept:
            return None
        if variable in self.values:
            return self.values[variable]
        found = self.values[variable] = _uniform_value(variable)
        return found

    def is_used_once(self, variable: Variable) -> bool:
        """Return whether one node reads the variable; new ones are taken to be read once."""
        return self.uses[variable] <= 1


def _sources(node: Apply) -> Sequence[Variable]:
    return data_behind(node.params) if node.op.name == "size" else node.inputs


def _uniform_value(variable: Variable) -> np.generic | None:
    dtypes: list[str] = []
    for _ in range(_LONGEST_CHAIN):
        if isinstance(variable, Constant):
            break
        node = variable.owner
        if node is None or node.op.name not in _SAME_VALUE and node.op.name != "cast":
            return None
        if node.op.name == "cast":
            dtypes.append(variable.dtype)
        variable = node.inputs[-1 if node.op.name == "second" else 0]
    if not isinstance(variable, Constant) or not 1 <= variable.data.size <= _LARGEST_UNIFORM:
        return None
    data = variable.data.reshape(-1)
    value = data[0]
    if data.size > 1 and data.tobytes() != data[:1].tobytes() * data.size:
        return None
    with np.errstate(all="ignore"):
        for dtype in reversed(dtypes):
            value = value.astype(numpy_dtype(dtype))
    return value
