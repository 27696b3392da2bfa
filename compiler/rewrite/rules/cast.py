"""Conversions of dtype that change nothing; chains of them are a computed rule."""

from __future__ import annotations

from ..pattern import Effect, functions, rule, structural, wildcards

invert, switch = functions("invert switch")
cast = structural("cast")

b, = wildcards("b", "b")

CANONICAL = (
    rule("cast(b, bool) -> b", cast(b, dtype="bool"), b, Effect.EXACT),
)
