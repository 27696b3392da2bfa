"""Where data enters a network."""

from __future__ import annotations

from collections.abc import Sequence

from .. import tensor as T
from ..runtime.errors import ShapeError
from .base import Layer, Shape


class InputLayer(Layer):
    """A symbolic input.

    Parameters
    ----------
    shape : tuple of (int or None)
        Sizes; None where they vary, usually for the batch.
    input_var : Variable, optional
        The expression that enters; by default a new variable of ``config.floatX``, made when the
        layer is, which :attr:`input_var` gives.
    name : str, optional

    Raises
    ------
    ShapeError
        If a size is not positive, or ``input_var`` is known to have another shape.

    Examples
    --------
    >>> layer = InputLayer((100, 20), name="pixels")
    >>> layer.input_var.name, layer.input_var.dtype
    ('pixels.input', 'float64')
    """

    def __init__(self, shape: Sequence[int | None], input_var: T.Variable | None = None,
                 name: str | None = None):
        super().__init__(tuple(shape), name)
        self.shape: Shape = self.input_shape
        if input_var is None:
            input_var = T.tensor(shape=self.shape, name=f"{name}.input" if name else "input")
        known = input_var.type.shape
        if len(known) != len(self.shape) or any(
                own is not None and size is not None and own != size
                for own, size in zip(known, self.shape)):
            raise self.error(
                ShapeError, "its input variable does not have the shape declared.",
                values=f"shape {self.shape}, input_var {input_var!r} {input_var.type}",
                remedy="declare the variable's own sizes, or None")
        self.input_var = input_var

    @property
    def sources(self) -> tuple[()]:
        """No layers: this is where a network begins."""
        return ()

    @property
    def output_shape(self) -> Shape:
        """The sizes declared."""
        return self.shape
