"""Neural networks as layers, with Lasagne's API, on top of symbolic expressions.

A layer knows its input layer and its parameters; a network is named by its last layer.  Nothing is
computed until :func:`get_output` turns layers into an expression, which can be combined, derived
and compiled like any other.

>>> from tetractys import layers
>>> network = layers.InputLayer((None, 784))
>>> network = layers.DenseLayer(network, num_units=10)
>>> network.output_shape
(None, 10)
>>> layers.count_params(network)
7850

``base`` has the two classes to derive from, ``parameter`` the making of parameters, ``network``
what walks over whole networks; the layers themselves are in ``input``, ``dense``, ``noise``,
``shape``, ``merge`` and ``nonlinearity``.
"""

from .base import Layer, MergeLayer
from .dense import DenseLayer
from .input import InputLayer
from .merge import (
    ConcatLayer, ElemwiseMergeLayer, ElemwiseSumLayer, autocrop, autocrop_array_shapes, concat)
from .network import (
    count_params, get_all_layers, get_all_param_values, get_all_params, get_output,
    get_output_shape, set_all_param_values)
from .noise import DropoutLayer, dropout
from .nonlinearity import NonlinearityLayer
from .parameter import collect_shared_vars, create_param
from .shape import FlattenLayer, ReshapeLayer, flatten, reshape

__all__ = [
    "ConcatLayer", "DenseLayer", "DropoutLayer", "ElemwiseMergeLayer", "ElemwiseSumLayer",
    "FlattenLayer", "InputLayer", "Layer", "MergeLayer", "NonlinearityLayer", "ReshapeLayer",
    "autocrop", "autocrop_array_shapes", "collect_shared_vars", "concat", "count_params",
    "create_param", "dropout", "flatten", "get_all_layers", "get_all_param_values",
    "get_all_params", "get_output", "get_output_shape", "reshape", "set_all_param_values",
]
