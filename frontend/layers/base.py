"""What every layer is: its input, its parameters, its output shape and its output expression.

A new layer derives from :class:`Layer` (one input) or :class:`MergeLayer` (several), creates its
parameters with :meth:`Layer.add_param` and defines ``get_output_for``; if the shape changes,
``get_output_shape_for``, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .. import tensor as T
from ..runtime.errors import ArgumentError, ShapeError, TetractysError, format_message
from .parameter import ParameterSpec, collect_shared_vars, create_param

Shape: TypeAlias = tuple[int | None, ...]
Incoming: TypeAlias = "Layer | Sequence[int | None]"
Nonlinearity: TypeAlias = "Callable[[T.Variable], T.Variable]"


class Layer:
    """A layer with one input.

    Parameters
    ----------
    incoming : Layer, or tuple of (int or None)
        What feeds the layer: another, or just the shape expected, for a layer used on its own.
    name : str, optional
        Prefix of the parameters' names; also shown in messages.

    Attributes
    ----------
    input_layer : Layer or None
    input_shape : tuple of (int or None)
    params : dict of Variable to set of str
        The parameters with their tags, in order of creation.
    get_output_kwargs : list of str
        Keyword arguments that ``get_output_for`` takes beyond those in its signature.
    site : str
        The user's ``file:line`` that built the layer.

    Raises
    ------
    ShapeError
        If a size of the input shape is not positive.

    Examples
    --------
    >>> class DoubleLayer(Layer):
    ...     def get_output_for(self, input, **kwargs):
    ...         return 2 * input
    >>> DoubleLayer((None, 3)).output_shape
    (None, 3)
    """

    def __init__(self, incoming: Incoming, name: str | None = None):
        self._start(name)
        self.input_layer, self.input_shape = self._resolve(incoming)

    def _start(self, name: str | None) -> None:
        self.name = name
        self.params: dict[T.Variable, set[str]] = {}
        self.get_output_kwargs: list[str] = []
        self.site = _construction_site(self)

    def _resolve(self, incoming: Incoming) -> tuple[Layer | None, Shape]:
        """Return the layer and the shape that feed this one."""
        if isinstance(incoming, Layer):
            layer, shape = incoming, incoming.output_shape
        elif isinstance(incoming, (tuple, list)):
            layer, shape = None, tuple(incoming)
        else:
            raise self.error(
                ArgumentError, "its input is neither a layer nor a shape.",
                values=f"{type(incoming).__name__} {incoming!r}",
                remedy="give a layer, or a tuple of sizes; expressions enter by an InputLayer")
        if not all(size is None or (isinstance(size, int) and size > 0) for size in shape):
            raise self.error(
                ShapeError, "the sizes of its input must be positive integers or None.",
                values=f"input shape {shape}", remedy="use None for sizes not known yet")
        return layer, shape

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def describe(self) -> str:
        """Return what messages call this layer: its class, and its name if it has one."""
        return type(self).__name__ + (f" {self.name!r}" if self.name else "")

    def error(self, kind: type[TetractysError], what: str, values: str = "",
              remedy: str = "") -> TetractysError:
        """Return an error that names this layer and the user's line that built it."""
        return kind(format_message(f"{self.describe()}: {what}", values, self.site, remedy))

    @property
    def sources(self) -> tuple[Layer | None, ...]:
        """The layers this one reads, in order; None where only a shape was given."""
        return (self.input_layer,)

    @property
    def output_shape(self) -> Shape:
        """The output's sizes, None where they are known only at run time."""
        return tuple(self.get_output_shape_for(self.input_shape))

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the output's sizes for an input of ``input_shape``; here, the same."""
        return input_shape

    def get_output_for(self, input: T.Variable, **kwargs: Any) -> T.Variable:
        """Return the output's expression for an input expression.

        Keyword arguments are those of ``get_output``; a layer takes the ones it knows.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_output_for")

    def add_param(self, spec: ParameterSpec, shape: Sequence[int], name: str | None = None,
                  **tags: bool) -> T.Variable:
        """Create a parameter and register it with the layer.

        Parameters
        ----------
        spec : number, array, callable, shared variable or expression
            See :func:`create_param`.
        shape : sequence of int
        name : str, optional
            Prefixed with the layer's name.
        **tags : bool
            Labels to select parameters by; ``trainable`` and ``regularizable`` are true unless
            given as false.

        Returns
        -------
        Variable
            For ``get_output_for`` to use.

        Raises
        ------
        ShapeError, ArgumentError
            If ``spec`` does not give a parameter of this shape.
        """
        if name is not None and self.name:
            name = f"{self.name}.{name}"
        try:
            param = create_param(spec, shape, name)
        except (ShapeError, ArgumentError) as error:
            raise type(error)(f"{self.describe()} ({self.site}): {error}") from error
        tags = {"trainable": True, "regularizable": True, **tags}
        self.params[param] = {tag for tag, is_set in tags.items() if is_set}
        return param

    def get_params(self, unwrap_shared: bool = True, **tags: bool) -> list[T.Variable]:
        """Return the parameters of this layer, not of those below it.

        Parameters
        ----------
        unwrap_shared : bool
            Replace a parameter given as an expression by the shared variables in it, which is what
            an optimiser can update.
        **tags : bool
            Only parameters that have each tag given as true and lack each given as false.

        Examples
        --------
        >>> from tetractys.layers import DenseLayer
        >>> DenseLayer((None, 3), num_units=2, name="hidden").get_params(regularizable=True)
        [hidden.W]
        """
        chosen = [param for param, own in self.params.items()
                  if all((tag in own) == wanted for tag, wanted in tags.items())]
        return collect_shared_vars(chosen) if unwrap_shared else chosen


class MergeLayer(Layer):
    """A layer with several inputs.

    Parameters
    ----------
    incomings : sequence of (Layer, or tuple of (int or None))
        What feeds the layer, each as in :class:`Layer`.
    name : str, optional
        Prefix of the parameters' names; also shown in messages.

    Attributes
    ----------
    input_layers : list of (Layer or None)
    input_shapes : list of tuple of (int or None)
    """

    def __init__(self, incomings: Sequence[Incoming], name: str | None = None):
        self._start(name)
        resolved = [self._resolve(incoming) for incoming in incomings]
        if not resolved:
            raise self.error(ArgumentError, "it has no inputs.",
                             remedy="give at least one layer or shape")
        self.input_layers = [layer for layer, _ in resolved]
        self.input_shapes = [shape for _, shape in resolved]

    @property
    def sources(self) -> tuple[Layer | None, ...]:
        """The layers this one reads, in order; None where only a shape was given."""
        return tuple(self.input_layers)

    @property
    def output_shape(self) -> Shape:
        """The output's sizes, None where they are known only at run time."""
        return tuple(self.get_output_shape_for(self.input_shapes))

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Return the output's sizes for inputs of ``input_shapes``."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_output_shape_for")

    def get_output_for(self, inputs: Sequence[T.Variable], **kwargs: Any) -> T.Variable:
        """Return the output's expression for input expressions."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_output_for")


def _construction_site(layer: Layer) -> str:
    """Return ``file:line`` of the innermost frame that is neither Tetractys nor a constructor of
    ``layer``."""
    package = __name__.partition(".")[0]
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        is_internal = frame.f_globals.get("__name__", "").partition(".")[0] == package
        is_constructor = code.co_argcount > 0 \
            and frame.f_locals.get(code.co_varnames[0]) is layer
        if not (is_internal or is_constructor):
            return f"{code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
