"""Shared variables: inputs whose value lives between calls and that functions may update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .compiler.config import config
from .compiler.dtypes import DTYPES, is_float
from .compiler.graph import SharedBase, TensorType, axis_dims, creation_site, format_site
from .runtime.devices import array_on_device
from .runtime.dtypes import is_number, numpy_dtype
from .runtime.errors import DtypeError, ShapeError, format_message
from .runtime.shared import Storage


class SharedVariable(SharedBase):
    """A variable with a value of its own; build it with :func:`shared`."""

    __slots__ = ()

    def get_value(self, borrow: bool = False, return_internal_type: bool = False) -> np.ndarray:
        """Return the value.

        Parameters
        ----------
        borrow : bool
            Return the storage itself: a later update changes it.  Default: a copy.
        return_internal_type : bool
            Accepted for Theano's sake; there is one representation.
        """
        return self.storage.get(borrow)

    def set_value(self, new_value: Any, borrow: bool = False) -> None:
        """Replace the value.

        Parameters
        ----------
        new_value : array_like
            Of this variable's dtype (numbers and lists are converted) and number of axes.  An
            array of this dtype in a device's memory is copied there.
        borrow : bool
            Accepted for Theano's sake; the value is always copied, so storage is never aliased.

        Raises
        ------
        DtypeError, ShapeError
            If the value does not fit the variable's type: arrays must have a dtype that casts
            safely, numbers and lists are rounded to floats, but must be exact as integers.
        """
        array = _numbers(new_value)
        if not _is_storable(new_value, array, self.dtype):
            raise DtypeError(format_message(
                f"A value of dtype {array.dtype} cannot be stored in the shared variable "
                f"{self.name or '(unnamed)'} of dtype {self.dtype} without loss.",
                where=format_site(self.site), remedy=f"cast it: value.astype({self.dtype!r})"))
        expected = self.type.shape
        if array.ndim != len(expected) or any(
                size not in (None, own) for size, own in zip(expected, array.shape)):
            raise ShapeError(format_message(
                f"A value of shape {array.shape} does not fit the shared variable "
                f"{self.name or '(unnamed)'}.",
                values=f"its type is {self.type}", where=format_site(self.site),
                remedy="give a value with the same number of axes"))
        self.storage.set(array.astype(numpy_dtype(self.dtype)))


def shared(value: Any, name: str | None = None, strict: bool = False,
           allow_downcast: bool | None = None, borrow: bool = False,
           broadcastable: Sequence[bool] | None = None,
           shape: Sequence[int | None] | None = None) -> SharedVariable:
    """Return a shared variable holding a copy of ``value``.

    Parameters
    ----------
    value : array_like
        Its dtype is kept; Python floats take ``floatX``.
    name : str, optional
    strict, allow_downcast, borrow
        Accepted for Theano's sake.
    broadcastable : sequence of bool, optional
        Axes whose length is fixed to 1, so that they broadcast.  Default: none, as in Theano.
    shape : sequence of (int or None), optional
        Axes of fixed size.

    Raises
    ------
    DtypeError
        If the value has a dtype Tetractys does not have.

    Examples
    --------
    >>> w = shared(np.zeros(3), name="w")
    >>> w.set_value([1.0, 2.0, 3.0])
    >>> w.get_value()
    array([1., 2., 3.])
    """
    array = _numbers(value)
    if not _is_array(value, array) and is_float(array.dtype.name):
        array = array.astype(config.floatX)
    dtype = array.dtype.newbyteorder("=").name
    if dtype not in DTYPES:
        raise DtypeError(format_message(
            f"A shared variable cannot hold dtype {array.dtype}.",
            where=format_site(creation_site()), remedy=f"use one of {', '.join(DTYPES)}"))
    if broadcastable is not None:
        shape = [1 if flag else None for flag in broadcastable]
    shape = list(shape) if shape is not None else [None] * array.ndim
    if len(shape) != array.ndim or any(s not in (None, own) for s, own in zip(shape, array.shape)):
        raise ShapeError(format_message(
            f"A value of shape {array.shape} contradicts the declared shape {tuple(shape)}.",
            where=format_site(creation_site()), remedy="declare the value's own sizes, or None"))
    variable = SharedVariable(TensorType(dtype, ()), Storage(array.astype(numpy_dtype(dtype))),
                              name, creation_site())
    variable.type = TensorType(dtype, axis_dims(variable, shape))
    return variable


def _numbers(value: Any) -> np.ndarray:
    """Return a value as an array of numbers, in a device's memory if it lives there.

    Raises
    ------
    DtypeError
        If it is none.
    """
    try:
        held = array_on_device(value)
        array = np.asarray(value) if held is None else held
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise DtypeError(format_message(
            "A shared variable holds an array of numbers.", values=str(error),
            where=format_site(creation_site()),
            remedy="give a number, an array, or nested lists of equal lengths")) from error
    if not is_number(array.dtype):
        raise DtypeError(format_message(
            f"A shared variable cannot hold dtype {array.dtype}.", values=type(value).__name__,
            where=format_site(creation_site()), remedy=f"use one of {', '.join(DTYPES)}"))
    return array


def _is_array(value: Any, array: Any) -> bool:
    """Return whether a value, given as ``array`` now, has a dtype that somebody chose."""
    return isinstance(value, (np.ndarray, np.generic)) or not isinstance(array, np.ndarray)


def _is_storable(value: Any, array: np.ndarray, dtype: str) -> bool:
    """Return whether a value may be stored as ``dtype``."""
    if _is_array(value, array):
        return np.can_cast(array.dtype, dtype, "safe")
    with np.errstate(invalid="ignore"):
        return is_float(dtype) or bool((array.astype(dtype) == array).all())
