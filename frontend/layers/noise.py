"""Layers that add noise while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import init
from .. import tensor as T
from ..random import RandomStreams
from ..runtime.errors import ArgumentError
from .base import Incoming, Layer


class DropoutLayer(Layer):
    """Sets elements to zero at random while training.

    With ``deterministic=True`` given to ``get_output`` the layer passes its input on.

    Parameters
    ----------
    incoming : Layer, or tuple of (int or None)
    p : float or scalar expression
        Probability of zero, from 0 to below 1.
    rescale : bool
        Divide what is kept by ``1 - p``, so that its expectation is the input.
    shared_axes : sequence of int
        Axes along which one draw serves all elements: ``(2, 3)`` drops whole feature maps.
    name : str, optional

    Raises
    ------
    ArgumentError
        If ``p`` is outside its range, or an axis outside the input's.

    Notes
    -----
    The draws are seeded from ``init.get_rng()`` when the layer is made.

    References
    ----------
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 15, 2014.  For shared axes: Tompson et al., "Efficient object localization using
    convolutional networks", CVPR 2015.
    """

    def __init__(self, incoming: Incoming, p: float | T.Variable = 0.5, rescale: bool = True,
                 shared_axes: Sequence[int] = (), name: str | None = None):
        super().__init__(incoming, name)
        if not isinstance(p, T.Variable) and not 0.0 <= p < 1.0:
            raise self.error(ArgumentError, "p is a probability from 0 to below 1.",
                             values=f"p {p}")
        rank = len(self.input_shape)
        if not all(-rank <= axis < rank for axis in shared_axes):
            raise self.error(ArgumentError, "a shared axis is not an axis of its input.",
                             values=f"shared_axes {tuple(shared_axes)}, "
                                    f"input shape {self.input_shape}")
        self.p, self.rescale = p, rescale
        self.shared_axes = tuple(axis % rank for axis in shared_axes)
        self._streams = RandomStreams(int(init.get_rng().uniform(1, 2**31 - 1)))

    def get_output_for(self, input: T.Variable, deterministic: bool = False,
                       **kwargs: Any) -> T.Variable:
        """Return the input with elements dropped, or as it is if ``deterministic``."""
        if deterministic or (not isinstance(self.p, T.Variable) and self.p == 0.0):
            return input
        kept = T.cast(1.0 - self.p, input.dtype) if isinstance(self.p, T.Variable) \
            else 1.0 - self.p
        sizes = tuple(1 if axis in self.shared_axes else known or input.shape[axis]
                      for axis, known in enumerate(input.type.shape))
        mask = self._streams.binomial(size=sizes, n=1, p=kept, dtype=input.dtype)
        return input / kept * mask if self.rescale else input * mask


dropout = DropoutLayer
