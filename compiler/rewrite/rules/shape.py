"""Shapes: rearrangements that undo or absorb each other."""

from __future__ import annotations

import numpy as np

from ..pattern import Effect, all_parameters, rest, rule, structural, wildcards

reshape, broadcast_to = map(structural, ("reshape", "broadcast_to"))

v, = wildcards("v", "fib")
inner, outer = rest("inner"), rest("outer")
first, second = all_parameters("first"), all_parameters("second")

CANONICAL = (
    rule("reshape(reshape(v, ...), shape) -> reshape(v, shape)",
         reshape(reshape(v, inner, parameters=first), outer, parameters=second),
         reshape(v, outer, parameters=second), Effect.EXACT,
         examples=[{"v": (2, 6), "inner": (np.int64(3), np.int64(4)), "first": {},
                    "outer": (np.int64(12),), "second": {}}]),
    rule("broadcast_to(broadcast_to(v, ...), shape) -> broadcast_to(v, shape)",
         broadcast_to(broadcast_to(v, inner), outer), broadcast_to(v, outer), Effect.EXACT,
         examples=[{"v": (1, 3), "inner": (np.int64(2), np.int64(3)),
                    "outer": (np.int64(4), np.int64(2), np.int64(3))}]),
)
