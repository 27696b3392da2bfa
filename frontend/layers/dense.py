"""Layers whose units each see the whole input."""

from __future__ import annotations

import math
from typing import Any

from .. import init, nonlinearities
from .. import tensor as T
from ..runtime.errors import ArgumentError, ShapeError
from .base import Incoming, Layer, Nonlinearity, Shape
from .parameter import ParameterSpec


class DenseLayer(Layer):
    """A fully connected layer: ``nonlinearity(x . W + b)``.

    Parameters
    ----------
    incoming : Layer, or tuple of (int or None)
        ``(*leading, *features)``; the features are flattened, so their sizes must be known.
    num_units : int
    W : number, array, callable, shared variable or expression
        Weights, ``(inputs, num_units)``.
    b : as W, or None
        Biases, ``(num_units,)``; None: no biases.
    nonlinearity : callable or None
        None is :func:`~tetractys.nonlinearities.linear`.
    num_leading_axes : int
        How many axes are not features.  1 is the batch only; 2 would apply the layer to each step
        of sequences ``(batch, steps, features)``.  A negative number counts the feature axes.
    name : str, optional

    Raises
    ------
    ShapeError
        If the size of a feature axis is not known.
    ArgumentError
        If ``num_leading_axes`` leaves no features, or ``num_units`` is not positive.

    Examples
    --------
    >>> DenseLayer((None, 28, 28), num_units=100).output_shape
    (None, 100)
    >>> DenseLayer((None, 10, 20), num_units=5, num_leading_axes=2).output_shape
    (None, 10, 5)
    """

    def __init__(self, incoming: Incoming, num_units: int,
                 W: ParameterSpec = init.GlorotUniform(),
                 b: ParameterSpec | None = init.Constant(0.0),
                 nonlinearity: Nonlinearity | None = nonlinearities.rectify,
                 num_leading_axes: int = 1, name: str | None = None):
        super().__init__(incoming, name)
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity
        if num_units < 1:
            raise self.error(ArgumentError, "it needs at least one unit.",
                             values=f"num_units {num_units}")
        self.num_units = num_units
        rank = len(self.input_shape)
        self.num_leading_axes = num_leading_axes + (rank if num_leading_axes < 0 else 0)
        if not 0 <= self.num_leading_axes < rank:
            raise self.error(
                ArgumentError, "num_leading_axes must leave at least one axis of features.",
                values=f"num_leading_axes {num_leading_axes}, input shape {self.input_shape}")
        features = self.input_shape[self.num_leading_axes:]
        if None in features:
            raise self.error(
                ShapeError, "the sizes of its features must be known.",
                values=f"input shape {self.input_shape}, of which {features} are features",
                remedy="give these sizes in the InputLayer, or raise num_leading_axes")
        num_inputs = math.prod(features)
        self.W = self.add_param(W, (num_inputs, num_units), name="W")
        self.b = None if b is None else self.add_param(
            b, (num_units,), name="b", regularizable=False)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the leading sizes and ``num_units``."""
        return (*input_shape[:self.num_leading_axes], self.num_units)

    def get_output_for(self, input: T.Variable, **kwargs: Any) -> T.Variable:
        """Return ``nonlinearity(x . W + b)``."""
        if input.ndim > self.num_leading_axes + 1:
            input = input.flatten(self.num_leading_axes + 1)
        activation = T.dot(input, self.W)
        if self.b is not None:
            activation = activation + self.b
        return self.nonlinearity(activation)
