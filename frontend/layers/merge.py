"""Layers that join several inputs, and the cropping that makes their sizes agree."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .. import tensor as T
from ..runtime.errors import ArgumentError, ShapeError, format_message
from .base import Incoming, MergeLayer, Shape

Cropping = Sequence[str | None] | None

_CROPPINGS = (None, "lower", "center", "upper")


def _modes(cropping: Cropping, rank: int) -> tuple[str | None, ...]:
    """Return one mode for each axis; missing ones are None."""
    given = tuple(cropping or ())
    if any(mode not in _CROPPINGS for mode in given):
        raise ArgumentError(format_message(
            "A cropping is None, 'lower', 'center' or 'upper' for each axis.",
            values=f"cropping {given}"))
    return (given + (None,) * rank)[:rank]


def autocrop_array_shapes(input_shapes: Sequence[Shape], cropping: Cropping) -> list[Shape]:
    """Return the shapes :func:`autocrop` would give inputs of ``input_shapes``.

    Examples
    --------
    >>> autocrop_array_shapes([(1, 5, 7), (1, 4, 9)], [None, "lower", "center"])
    [(1, 4, 7), (1, 4, 7)]
    """
    ranks = {len(shape) for shape in input_shapes}
    if len(ranks) > 1:
        raise ShapeError(format_message("Inputs to merge need equally many axes.",
                                        values=f"input shapes {list(input_shapes)}"))
    axes = zip(*input_shapes)
    cropped = [sizes if mode is None
               else (None if None in sizes else min(sizes),) * len(sizes)
               for mode, sizes in zip(_modes(cropping, ranks.pop()), axes)]
    return list(zip(*cropped)) if cropped else [()] * len(input_shapes)


def autocrop(inputs: Sequence[T.Variable], cropping: Cropping) -> list[T.Variable]:
    """Crop inputs to their smallest size along chosen axes.

    Parameters
    ----------
    inputs : sequence of Variable
        With equally many axes.
    cropping : sequence of (None, 'lower', 'center' or 'upper'), optional
        For each axis: leave it; keep the first elements, the middle, or the last.  Axes beyond the
        sequence are left.

    Returns
    -------
    list of Variable

    Raises
    ------
    ShapeError
        If the numbers of axes differ.
    ArgumentError
        For another mode.
    """
    inputs = list(inputs)
    ranks = {variable.ndim for variable in inputs}
    if len(ranks) > 1:
        raise ShapeError(format_message("Inputs to merge need equally many axes.",
                                        values=", ".join(map(repr, inputs))))
    slices: list[list[slice]] = [[] for _ in inputs]
    for axis, mode in enumerate(_modes(cropping, ranks.pop() if ranks else 0)):
        sizes = [variable.shape[axis] for variable in inputs]
        smallest = functools.reduce(T.minimum, sizes)
        for own, size in zip(slices, sizes):
            own.append(_slice(mode, size, smallest))
    if not any(_modes(cropping, len(slices[0]) if slices else 0)):
        return inputs
    return [variable[tuple(own)] for variable, own in zip(inputs, slices)]


def _slice(mode: str | None, size: T.Variable, smallest: T.Variable) -> slice:
    if mode is None:
        return slice(None)
    start = {"lower": 0, "center": (size - smallest) // 2, "upper": size - smallest}[mode]
    return slice(start, start + smallest)


class ConcatLayer(MergeLayer):
    """Joins inputs along an axis.

    Parameters
    ----------
    incomings : sequence of (Layer, or tuple of (int or None))
        Equal in shape but for ``axis``, once cropped.
    axis : int
    cropping : sequence of (None, 'lower', 'center' or 'upper'), optional
        See :func:`autocrop`; ``axis`` itself is never cropped.
    name : str, optional

    Raises
    ------
    ShapeError
        If the shapes do not fit.

    Examples
    --------
    >>> ConcatLayer([(None, 20), (None, 5)]).output_shape
    (None, 25)
    """

    def __init__(self, incomings: Sequence[Incoming], axis: int = 1, cropping: Cropping = None,
                 name: str | None = None):
        super().__init__(incomings, name)
        rank = len(self.input_shapes[0])
        if not -rank <= axis < rank:
            raise self.error(ArgumentError, "axis is not an axis of its inputs.",
                             values=f"axis {axis}, input shapes {self.input_shapes}")
        self.axis = axis % rank
        modes = list(_modes(cropping, rank))
        modes[self.axis] = None
        self.cropping = modes
        self.get_output_shape_for(self.input_shapes)  # so that a misfit is reported here

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Return the common sizes, and the sum of sizes along ``axis``."""
        shapes = autocrop_array_shapes(input_shapes, self.cropping)
        output: list[int | None] = []
        for axis, sizes in enumerate(zip(*shapes)):
            if axis == self.axis:
                output.append(None if None in sizes else sum(sizes))
                continue
            known = {size for size in sizes if size is not None}
            if len(known) > 1:
                raise self.error(
                    ShapeError, f"its inputs differ in size along axis {axis}.",
                    values=f"input shapes {list(input_shapes)}, axis {self.axis}",
                    remedy="make the sizes equal, or crop with cropping=")
            output.append(known.pop() if known else None)
        return tuple(output)

    def get_output_for(self, inputs: Sequence[T.Variable], **kwargs: Any) -> T.Variable:
        """Return the inputs, cropped and joined."""
        return T.concatenate(autocrop(inputs, self.cropping), axis=self.axis)


concat = ConcatLayer


class ElemwiseMergeLayer(MergeLayer):
    """Folds a function of two arguments over the inputs, from the left.

    Parameters
    ----------
    incomings : sequence of (Layer, or tuple of (int or None))
        Equal in shape, once cropped; an axis of size 1 broadcasts.
    merge_function : callable
        Elementwise, such as ``T.add``, ``T.mul`` or ``T.maximum``.
    cropping : sequence of (None, 'lower', 'center' or 'upper'), optional
        See :func:`autocrop`.
    name : str, optional

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    """

    def __init__(self, incomings: Sequence[Incoming],
                 merge_function: Callable[[T.Variable, T.Variable], T.Variable],
                 cropping: Cropping = None, name: str | None = None):
        super().__init__(incomings, name)
        self.merge_function, self.cropping = merge_function, cropping
        self.get_output_shape_for(self.input_shapes)  # so that a misfit is reported here

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Return the common sizes."""
        output: list[int | None] = []
        for axis, sizes in enumerate(zip(*autocrop_array_shapes(input_shapes, self.cropping))):
            known = {size for size in sizes if size not in (None, 1)}
            if len(known) > 1:
                raise self.error(
                    ShapeError, f"its inputs differ in size along axis {axis}.",
                    values=f"input shapes {list(input_shapes)}",
                    remedy="make the sizes equal, or crop with cropping=")
            output.append(known.pop() if known else None if None in sizes else 1)
        return tuple(output)

    def get_output_for(self, inputs: Sequence[T.Variable], **kwargs: Any) -> T.Variable:
        """Return the inputs, cropped and merged."""
        return functools.reduce(self.merge_function, autocrop(inputs, self.cropping))


class ElemwiseSumLayer(ElemwiseMergeLayer):
    """A weighted sum of its inputs.

    Parameters
    ----------
    incomings : sequence of (Layer, or tuple of (int or None))
        Equal in shape, once cropped; an axis of size 1 broadcasts.
    coeffs : float, scalar expression, or a sequence with one for each input
    cropping : sequence of (None, 'lower', 'center' or 'upper'), optional
        See :func:`autocrop`.
    name : str, optional

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    ArgumentError
        If the number of coefficients is not that of inputs.

    Examples
    --------
    >>> difference = ElemwiseSumLayer([(None, 3), (None, 3)], coeffs=[1, -1])
    >>> difference.output_shape
    (None, 3)
    """

    def __init__(self, incomings: Sequence[Incoming], coeffs: float | Sequence[float] = 1,
                 cropping: Cropping = None, name: str | None = None):
        super().__init__(incomings, T.add, cropping, name)
        count = len(self.input_shapes)
        self.coeffs = list(coeffs) if isinstance(coeffs, (list, tuple)) else [coeffs] * count
        if len(self.coeffs) != count:
            raise self.error(ArgumentError, "it needs one coefficient for each input.",
                             values=f"{len(self.coeffs)} coefficients, {count} inputs")

    def get_output_for(self, inputs: Sequence[T.Variable], **kwargs: Any) -> T.Variable:
        """Return the inputs, cropped, times their coefficients, summed."""
        scaled = [input if not isinstance(coefficient, T.Variable) and coefficient == 1
                  else input * coefficient for input, coefficient in zip(inputs, self.coeffs)]
        return super().get_output_for(scaled, **kwargs)
