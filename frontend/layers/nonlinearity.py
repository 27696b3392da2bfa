"""A nonlinearity as a layer of its own."""

from __future__ import annotations

from typing import Any

from .. import nonlinearities
from .. import tensor as T
from .base import Incoming, Layer, Nonlinearity


class NonlinearityLayer(Layer):
    """Applies a function to each element.

    Parameters
    ----------
    incoming : Layer, or tuple of (int or None)
    nonlinearity : callable or None
        From an expression to one of the same shape; None is
        :func:`~tetractys.nonlinearities.linear`.
    name : str, optional
    """

    def __init__(self, incoming: Incoming,
                 nonlinearity: Nonlinearity | None = nonlinearities.rectify,
                 name: str | None = None):
        super().__init__(incoming, name)
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity

    def get_output_for(self, input: T.Variable, **kwargs: Any) -> T.Variable:
        """Return ``nonlinearity(input)``."""
        return self.nonlinearity(input)
