"""Layers that only rearrange their input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import tensor as T
from ..runtime.errors import ArgumentError, ShapeError
from .base import Incoming, Layer, Shape


class ReshapeLayer(Layer):
    """Gives the input another shape, elements in the same (row-major) order.

    Parameters
    ----------
    incoming : Layer, or tuple of (int or None)
    shape : tuple
        Each entry is a size; or ``[i]``, the size of the input's axis ``i``; or -1 (at most once),
        what the number of elements leaves; or an integer scalar expression.
    name : str, optional

    Raises
    ------
    ArgumentError
        If an entry is none of these.
    ShapeError
        If the numbers of elements are known and differ.

    Examples
    --------
    >>> ReshapeLayer((32, 100, 20), ([0], [1], 2, -1)).output_shape
    (32, 100, 2, 10)
    >>> ReshapeLayer((None, 100, 20), ([0], -1)).output_shape
    (None, 2000)
    """

    def __init__(self, incoming: Incoming, shape: Sequence[int | list[int] | T.Variable],
                 name: str | None = None):
        super().__init__(incoming, name)
        self.shape = tuple(shape)
        if sum(1 for entry in self.shape if isinstance(entry, int) and entry == -1) > 1:
            raise self.error(ArgumentError, "at most one size can be -1.",
                             values=f"shape {self.shape}")
        for entry in self.shape:
            self._check_entry(entry)
        self.get_output_shape_for(self.input_shape)  # so that a misfit is reported here

    def _check_entry(self, entry: int | list[int] | T.Variable) -> None:
        rank = len(self.input_shape)
        if isinstance(entry, T.Variable):
            fits = entry.ndim == 0 and "int" in entry.dtype
        elif isinstance(entry, list):
            fits = len(entry) == 1 and isinstance(entry[0], int) and -rank <= entry[0] < rank
        else:
            fits = isinstance(entry, int) and (entry > 0 or entry == -1)
        if not fits:
            raise self.error(
                ArgumentError, f"{entry!r} is not an entry of a shape.",
                values=f"shape {self.shape}, input shape {self.input_shape}",
                remedy="use a positive size, [i] for the size of input axis i, -1, or an integer "
                       "scalar expression")

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the new sizes, None where they depend on sizes that are not known."""
        sizes = [None if isinstance(entry, T.Variable)
                 else input_shape[entry[0]] if isinstance(entry, list) else entry
                 for entry in self.shape]
        if -1 in sizes:
            return self._with_inferred(input_shape, sizes)
        if None not in sizes and None not in input_shape \
                and math.prod(sizes) != math.prod(input_shape):
            raise self._count_error(input_shape)
        return tuple(sizes)

    def _with_inferred(self, input_shape: Shape, sizes: list[int | None]) -> Shape:
        """Return the sizes with -1 replaced by what the number of elements leaves.

        A size that is not known but copied from the input appears on both sides and cancels.
        """
        place = sizes.index(-1)
        copied = [entry[0] % len(input_shape) for entry in self.shape if isinstance(entry, list)]
        source, target = list(input_shape), sizes[:place] + sizes[place + 1:]
        for axis in copied:
            if input_shape[axis] is None and source[axis] is None and None in target:
                source[axis] = 1
                target[target.index(None)] = 1
        if None in source or None in target:
            sizes[place] = None
            return tuple(sizes)
        known = math.prod(target)
        if math.prod(source) % known:
            raise self._count_error(input_shape)
        sizes[place] = math.prod(source) // known
        return tuple(sizes)

    def _count_error(self, input_shape: Shape) -> Exception:
        return self.error(ShapeError, "the new shape does not have as many elements as the input.",
                          values=f"shape {self.shape}, input shape {input_shape}")

    def get_output_for(self, input: T.Variable, **kwargs: Any) -> T.Variable:
        """Return ``input`` with the new shape."""
        sizes = tuple(input.shape[entry[0]] if isinstance(entry, list) else entry
                      for entry in self.shape)
        return input.reshape(sizes)


reshape = ReshapeLayer


class FlattenLayer(Layer):
    """Flattens the axes from ``outdim - 1`` on into one.

    Parameters
    ----------
    incoming : Layer, or tuple of (int or None)
    outdim : int
        Number of axes of the output, at least 1.
    name : str, optional

    Raises
    ------
    ArgumentError
        If ``outdim`` is not between 1 and the number of axes of the input.

    Examples
    --------
    >>> FlattenLayer((None, 3, 28, 28)).output_shape
    (None, 2352)
    """

    def __init__(self, incoming: Incoming, outdim: int = 2, name: str | None = None):
        super().__init__(incoming, name)
        if not 1 <= outdim <= len(self.input_shape):
            raise self.error(
                ArgumentError, "outdim must be between 1 and the number of axes of its input.",
                values=f"outdim {outdim}, input shape {self.input_shape}")
        self.outdim = outdim

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Return the sizes kept and the product of the others, None if one is not known."""
        merged = input_shape[self.outdim - 1:]
        return (*input_shape[:self.outdim - 1], None if None in merged else math.prod(merged))

    def get_output_for(self, input: T.Variable, **kwargs: Any) -> T.Variable:
        """Return ``input`` with ``outdim`` axes."""
        return input.flatten(self.outdim)


flatten = FlattenLayer
