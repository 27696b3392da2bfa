"""``T.nnet``: activation functions, softmax and cross-entropies (see ``compiler/ops/nnet.py``)."""

from __future__ import annotations

from .tensor import functions_of

_FUNCTIONS = functions_of("T.nnet")
globals().update(_FUNCTIONS)

__all__ = sorted(_FUNCTIONS)
