"""The pass of the compiler that applies the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..graph import Variable
from ..intern import Interner
from .engine import simplify


def simplify_graph(interner: Interner, outputs: Sequence[Variable], fast_math: bool = False,
                   fired: Counter[str] | None = None) -> list[Variable]:
    """Return ``outputs`` with the default rules applied: stable forms, then canonical ones.

    Parameters
    ----------
    interner : Interner
        To which the outputs belong.
    outputs : sequence of Variable
    fast_math : bool
        Also apply rules that may change values where something is infinite, NaN or undefined.
    fired : Counter, optional
        Counts the titles of the rules applied.
    """
    from .rules import DEFAULT, FAST
    return simplify(interner, outputs, FAST if fast_math else DEFAULT, fired=fired)
