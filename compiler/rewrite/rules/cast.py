"""Conversions of dtype; chains of them are a computed rule."""

from __future__ import annotations

from ..pattern import Effect, any_parameter, functions, rule, structural, wildcards

neq, = functions("neq")
cast = structural("cast")

b, = wildcards("b", "b")
dtype = any_parameter("dtype")
_DTYPES = [{"dtype": "float32"}, {"dtype": "int8"}, {"dtype": "bool"}]

CANONICAL = (
    rule("cast(cast(b, dtype), bool) -> b", cast(cast(b, dtype=dtype), dtype="bool"), b,
         Effect.EXACT, examples=_DTYPES),
    rule("cast(b, dtype) != 0 -> b", neq(cast(b, dtype=dtype), 0), b, Effect.EXACT,
         examples=_DTYPES[:2]),
)
