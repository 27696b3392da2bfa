"""Walks over whole networks: their layers, outputs, shapes and parameters.

A network is given by its last layer, or by several.  All walks are iterative.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from .. import tensor as T
from ..runtime.errors import ArgumentError, ShapeError, format_message
from .base import Layer, MergeLayer, Shape
from .input import InputLayer

Layers: TypeAlias = "Layer | Iterable[Layer]"
Value = TypeVar("Value")


def _as_list(layer: Layers) -> list[Layer]:
    several = [layer] if isinstance(layer, Layer) else list(layer)
    for one in several:
        if not isinstance(one, Layer):
            raise ArgumentError(format_message(
                "A network is given by a layer or several.",
                values=f"{type(one).__name__} {one!r}"))
    return several


def get_all_layers(layer: Layers, treat_as_input: Collection[Layer] = ()) -> list[Layer]:
    """Return all layers that the outputs of ``layer`` depend on, each after the ones it reads.

    Parameters
    ----------
    layer : Layer or iterable of Layer
    treat_as_input : collection of Layer
        Layers whose own inputs are not searched.

    Examples
    --------
    >>> from tetractys.layers import DenseLayer
    >>> first = InputLayer((None, 4), name="first")
    >>> get_all_layers(DenseLayer(first, 2, name="last"))
    [<InputLayer 'first'>, <DenseLayer 'last'>]
    """
    stops, order, done = set(treat_as_input), [], set()
    for last in _as_list(layer):
        stack = [(last, False)]
        while stack:
            current, is_ready = stack.pop()
            if current in done:
                continue
            if is_ready or current in stops:
                done.add(current)
                order.append(current)
                continue
            stack.append((current, True))
            stack.extend((source, False) for source in reversed(current.sources)
                         if source is not None)
    return order


def _propagate(layer: Layers, given: dict[Layer, Value], what: str,
               step: Callable[[Layer, Any], Value]) -> Value | list[Value]:
    """Return what ``step(layer, value or values of its inputs)`` makes of the last layers.

    ``given`` holds the values known beforehand, ``what`` names them in the error for a layer that
    was built from a shape and has none.
    """
    values = dict(given)
    for current in get_all_layers(layer, given):
        if current in values:
            continue
        if None in current.sources or isinstance(current, InputLayer):
            raise current.error(
                ArgumentError, f"it has no input layer, and no {what} was given for it.",
                remedy=f"pass a dictionary with this layer's own {what}, or build it on an "
                       "InputLayer")
        inputs = [values[source] for source in current.sources]
        values[current] = step(current, inputs if isinstance(current, MergeLayer) else inputs[0])
    return values[layer] if isinstance(layer, Layer) else [values[one] for one in layer]


def get_output(layer_or_layers: Layers,
               inputs: Mapping[Layer, Any] | T.Variable | np.ndarray | None = None,
               **kwargs: Any) -> T.Variable | list[T.Variable]:
    """Return the output expression of a network, or a list of them for several layers.

    Parameters
    ----------
    layer_or_layers : Layer or sequence of Layer
    inputs : Variable, array, or mapping of Layer to Variable or array, optional
        Replaces the input of every input layer, or the output of the layers that are keys.  By
        default the network's own input variables.
    **kwargs
        Handed to every layer's ``get_output_for``, such as ``deterministic=True``, which turns
        noise off.  A keyword no layer knows is warned about.

    Raises
    ------
    ArgumentError
        If a layer was built from a shape and no input for it is given.
    ShapeError
        If an input does not have as many axes as the shape declared.

    Examples
    --------
    >>> from tetractys.layers import DenseLayer
    >>> network = DenseLayer(InputLayer((None, 4)), num_units=2)
    >>> get_output(network, deterministic=True).type.shape
    (None, 2)
    """
    if not isinstance(layer_or_layers, Layer):
        layer_or_layers = _as_list(layer_or_layers)
    given = _given_outputs(layer_or_layers, inputs)
    used = [layer for layer in get_all_layers(layer_or_layers, given) if layer not in given]
    _warn_of_unknown(kwargs, used)
    return _propagate(layer_or_layers, given, "input",
                      lambda layer, value: layer.get_output_for(value, **kwargs))


def _given_outputs(layer: Layers, inputs: Any) -> dict[Layer, T.Variable]:
    """Return the outputs that are known without asking a layer."""
    replaced = inputs if isinstance(inputs, Mapping) else {}
    given: dict[Layer, T.Variable] = {}
    for current in get_all_layers(layer, replaced):
        if current in replaced:
            value = replaced[current]
        elif isinstance(current, InputLayer):
            value = current.input_var if inputs is None or replaced is inputs else inputs
        else:
            continue
        given[current] = _checked(current, T.as_tensor_variable(value))
    return given


def _checked(layer: Layer, value: T.Variable) -> T.Variable:
    """Return ``value``; refuse one that cannot stand for the output of ``layer``.

    Sizes may differ from those declared: a network for batches of 100 may be given a last, smaller
    one.
    """
    declared, known = layer.output_shape, value.type.shape
    if len(known) != len(declared):
        raise layer.error(
            ShapeError, "the input given for it has the wrong number of axes.",
            values=f"input {value!r} {value.type}, shape declared {declared}")
    return value


def _warn_of_unknown(kwargs: Mapping[str, Any], layers: Iterable[Layer]) -> None:
    """Warn of keyword arguments that no layer takes, with the nearest that some layer does."""
    known = {"deterministic"}
    for layer in layers:
        signature = inspect.signature(layer.get_output_for)
        known.update(name for name, parameter in signature.parameters.items()
                     if parameter.kind in (parameter.KEYWORD_ONLY,
                                           parameter.POSITIONAL_OR_KEYWORD))
        known.update(layer.get_output_kwargs)
    known -= {"input", "inputs"}
    for name in kwargs:
        if name not in known:
            from difflib import get_close_matches
            close = get_close_matches(name, known, n=1)
            warnings.warn(
                f"get_output: no layer takes the argument {name!r}"
                + (f"; did you mean {close[0]!r}?" if close else ""), stacklevel=3)


def get_output_shape(layer_or_layers: Layers,
                     input_shapes: Mapping[Layer, Shape] | Shape | None = None
                     ) -> Shape | list[Shape]:
    """Return the output shape of a network, or a list of them for several layers.

    Parameters
    ----------
    layer_or_layers : Layer or sequence of Layer
    input_shapes : tuple, or mapping of Layer to tuple, optional
        Replaces the shape of every input layer, or the output shape of the layers that are keys.
        By default the shapes declared.

    Examples
    --------
    >>> from tetractys.layers import DenseLayer
    >>> network = DenseLayer(InputLayer((None, 4)), num_units=2)
    >>> get_output_shape(network), get_output_shape(network, (100, 4))
    ((None, 2), (100, 2))
    """
    if not isinstance(layer_or_layers, Layer):
        layer_or_layers = _as_list(layer_or_layers)
    if input_shapes is None:
        return layer_or_layers.output_shape if isinstance(layer_or_layers, Layer) \
            else [layer.output_shape for layer in layer_or_layers]
    if isinstance(input_shapes, Mapping):
        given = {layer: tuple(shape) for layer, shape in input_shapes.items()}
    else:
        given = {}
    for layer in get_all_layers(layer_or_layers, given):
        if isinstance(layer, InputLayer) and layer not in given:
            given[layer] = layer.output_shape if isinstance(input_shapes, Mapping) \
                else tuple(input_shapes)
    return _propagate(layer_or_layers, given, "shape",
                      lambda layer, value: tuple(layer.get_output_shape_for(value)))


# -- parameters ------------------------------------------------------------------------------------

def get_all_params(layer: Layers, unwrap_shared: bool = True, **tags: bool) -> list[T.Variable]:
    """Return the parameters that the output of ``layer`` depends on, each once, from the input on.

    Parameters
    ----------
    layer : Layer or iterable of Layer
    unwrap_shared : bool
        Replace parameters given as expressions by the shared variables in them.
    **tags : bool
        See :meth:`Layer.get_params`: ``trainable=True`` for an optimiser.

    Examples
    --------
    >>> from tetractys.layers import DenseLayer
    >>> network = DenseLayer(DenseLayer((None, 4), 3, name="a"), 2, name="b")
    >>> get_all_params(network, regularizable=True)
    [a.W, b.W]
    """
    params = (param for one in get_all_layers(layer)
              for param in one.get_params(unwrap_shared=unwrap_shared, **tags))
    return list(dict.fromkeys(params))


def count_params(layer: Layers, **tags: bool) -> int:
    """Return the number of elements of all parameters together; ``tags`` select them."""
    return sum(math.prod(param.get_value(borrow=True).shape)
               for param in get_all_params(layer, **tags))


def get_all_param_values(layer: Layers, **tags: bool) -> list[np.ndarray]:
    """Return copies of the values of all parameters, in order; ``tags`` select them.

    ``numpy.savez(file, *get_all_param_values(layer))`` saves a network.
    """
    return [param.get_value() for param in get_all_params(layer, **tags)]


def set_all_param_values(layer: Layers, values: Sequence[np.ndarray], **tags: bool) -> None:
    """Set the values of all parameters, in the order of :func:`get_all_params`.

    Nothing is set unless everything fits.

    Parameters
    ----------
    layer : Layer or iterable of Layer
    values : sequence of array
        One for each parameter, of its shape.
    **tags : bool
        Which parameters.

    Raises
    ------
    ArgumentError
        If their number is not that of the parameters.
    ShapeError
        If a shape differs; the message names the parameter.
    """
    params, values = get_all_params(layer, **tags), [np.asarray(value) for value in values]
    if len(params) != len(values):
        raise ArgumentError(format_message(
            "There must be one value for each parameter.",
            values=f"{len(values)} values, {len(params)} parameters {params}",
            remedy="build the network that the values were saved from"))
    for position, (param, value) in enumerate(zip(params, values)):
        own = param.get_value(borrow=True).shape
        if own != value.shape:
            raise ShapeError(format_message(
                f"The value of parameter {position}, {param!r}, has the wrong shape.",
                values=f"given {value.shape}, needed {own}",
                remedy="build the network that the values were saved from"))
    converted = [value.astype(param.dtype) for param, value in zip(params, values)]
    for param, value in zip(params, converted):
        param.set_value(value)
