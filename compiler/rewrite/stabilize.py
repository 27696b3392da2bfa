"""Make a user's expression numerically stable before it is differentiated.

``log(softmax(x))`` is rewritten to ``logsoftmax(x)`` by the compiler; but its gradient, built on
the user's graph, would contain ``1 / softmax(x)``, infinite where the softmax underflows, and no
local rule can undo that.  So ``grad`` differentiates the stabilised expression.  Nodes without
anything to improve stay the user's own, hence so do the variables asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..graph import Apply, Constant, Variable
from ..ops.op import Op
from .engine import simplify


class PlainBuilder:
    """Builds ordinary nodes beside the user's, which stay untouched."""

    def __init__(self) -> None:
        self._made: dict[Variable, Apply] = {}

    def apply(self, op: Op, inputs: Sequence[Variable], params: Mapping[str, Any],
              site: tuple[str, int] | None = None) -> tuple[Variable, ...]:
        """Return the outputs of a new node."""
        node = op.make_node(inputs, params, site=site)
        self._made.update((output, node) for output in node.outputs)
        return node.outputs

    def constant(self, value: np.ndarray) -> Constant:
        """Return a new constant."""
        return Constant(value)

    def adopt(self, variable: Variable) -> Variable:
        """Return the variable itself."""
        return variable

    def owns(self, variable: Variable) -> bool:
        """Return whether a variable was made here."""
        return variable in self._made


def stabilize(outputs: Sequence[Variable], keep: Iterable[Variable] = ()) -> list[Variable]:
    """Return ``outputs`` with the stability rules applied, on the user's own inputs.

    Values change only towards the exact ones.

    Parameters
    ----------
    outputs : sequence of Variable
    keep : iterable of Variable
        Variables (of any kind, intermediate ones too) that must survive: those differentiated
        with respect to, those considered constant, those with known gradients.  Rules do not look
        behind them.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.dmatrix("x")
    >>> stabilize([T.log(T.nnet.softmax(x))])
    [logsoftmax]
    """
    from .rules import STABLE
    return simplify(PlainBuilder(), outputs, STABLE, keep=keep)
