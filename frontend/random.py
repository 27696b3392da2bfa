"""Random variables for graphs, with Theano's names: :class:`RandomStreams`.

Each draw has a state of its own, a shared variable ``(key, number)`` whose default update counts
the calls.  So within one call of a function a random variable has one value, however often it is
used; the next call draws anew; and the numbers depend on the seed and the order in which draws were
made, not on what else a function computes, nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .compiler.config import config
from .compiler.graph import Variable
from .compiler.operators import FUNCTIONS
from .compiler.ops import random as draws
from .compiler.ops.op import as_tensor, broadcast_dims, check
from .compiler.ops.sizes import axis_size
from .runtime.errors import DtypeError, ShapeError
from .shared import SharedVariable, shared

__all__ = ["MRG_RandomStreams", "RandomStreams"]


class RandomStreams:
    """A source of random variables.

    Parameters
    ----------
    seed : int, optional
        The same seed gives the same numbers.  Default: from the operating system.

    Examples
    --------
    >>> import tetractys as tx
    >>> u = RandomStreams(seed=1).uniform((2, 3))
    >>> f = tx.function([], [u, u])
    >>> first, again = f()
    >>> bool((first == again).all()), bool((first == f()[0]).any())
    (True, False)
    """

    def __init__(self, seed: int | None = None):
        self._states: list[SharedVariable] = []
        self._entropy = np.random.SeedSequence(seed).entropy

    @property
    def state_updates(self) -> list[tuple[SharedVariable, Variable]]:
        """The state of each draw with its update, for functions that are given updates by hand."""
        return [(state, state.default_update) for state in self._states]

    def seed(self, seed: int | None = None) -> None:
        """Start all draws made so far again, from another seed.

        Parameters
        ----------
        seed : int, optional
            Default: the seed in use, so that the same numbers come again.
        """
        if seed is not None:
            self._entropy = np.random.SeedSequence(seed).entropy
        for number, state in enumerate(self._states):
            state.set_value(self._initial(number))

    def _initial(self, number: int) -> np.ndarray:
        sequence = np.random.SeedSequence(self._entropy, spawn_key=(number,))
        return np.array([sequence.generate_state(1, "uint64")[0], 0], "uint64")

    def _next_state(self) -> SharedVariable:
        number = len(self._states)
        state = shared(self._initial(number), name=f"random_state_{number}", shape=(2,))
        state.default_update = FUNCTIONS["add"](state, np.array([0, 1], "uint64"))
        self._states.append(state)
        return state

    def uniform(self, size: Any = None, low: Any = 0.0, high: Any = 1.0, ndim: int | None = None,
                dtype: str | None = None) -> Variable:
        """Return uniform numbers from ``[low, high)``.

        Parameters
        ----------
        size : sequence of sizes, or integer vector, optional
            The shape.  Default: that to which ``low`` and ``high`` broadcast.
        low, high : tensor
        ndim : int, optional
            Number of axes, where ``size`` is a vector of unknown length.
        dtype : str, optional
            ``float32`` or ``float64``.  Default: ``floatX``.
        """
        return draws.random_uniform(self._next_state(), _shape(size, ndim, low, high), low, high,
                                    dtype or config.floatX)

    def normal(self, size: Any = None, avg: Any = 0.0, std: Any = 1.0, ndim: int | None = None,
               dtype: str | None = None) -> Variable:
        """Return normal numbers of mean ``avg`` and standard deviation ``std``.

        Parameters
        ----------
        size : sequence of sizes, or integer vector, optional
            The shape.  Default: that to which ``avg`` and ``std`` broadcast.
        avg, std : tensor
            Gradients flow to them.
        ndim : int, optional
            Number of axes, where ``size`` is a vector of unknown length.
        dtype : str, optional
            ``float32`` or ``float64``.  Default: ``floatX``.
        """
        return draws.random_normal(self._next_state(), _shape(size, ndim, avg, std), avg, std,
                                   dtype or config.floatX)

    def binomial(self, size: Any = None, n: int = 1, p: Any = 0.5, ndim: int | None = None,
                 dtype: str = "int64") -> Variable:
        """Return numbers of successes in ``n`` trials of probability ``p``.

        Parameters
        ----------
        size : sequence of sizes, or integer vector, optional
            The shape.  Default: that of ``p``.
        n : int
            Every trial is drawn: the cost grows with it.
        p : tensor
        ndim : int, optional
            Number of axes, where ``size`` is a vector of unknown length.
        dtype : str
            Of the result.
        """
        return draws.random_binomial(self._next_state(), _shape(size, ndim, p), n, p, dtype)

    def random_integers(self, size: Any = None, low: Any = 0, high: Any = 1,
                        ndim: int | None = None, dtype: str = "int64") -> Variable:
        """Return uniform integers from ``low`` to ``high``, both included.

        Parameters
        ----------
        size : sequence of sizes, or integer vector, optional
            The shape.  Default: that to which ``low`` and ``high`` broadcast.
        low, high : integer tensor
        ndim : int, optional
            Number of axes, where ``size`` is a vector of unknown length.
        dtype : str
            Of the result.
        """
        above = FUNCTIONS["add"](as_tensor(high, "int64"), 1)
        return draws.random_integers(self._next_state(), _shape(size, ndim, low, high), low, above,
                                     dtype)

    def choice(self, size: Any = None, a: Any = 2, replace: bool = True, p: Any = None,
               ndim: int | None = None, dtype: str | None = None) -> Variable:
        """Return elements of ``a`` drawn with equal probability, with replacement.

        Parameters
        ----------
        size : sequence of sizes, or integer vector, optional
            The shape.  Default: one element.
        a : int or vector
            A number ``n`` stands for ``0, ..., n - 1``.
        replace : bool
            Must be true.
        p
            Must be None.
        ndim : int, optional
            Number of axes, where ``size`` is a vector of unknown length.
        dtype : str, optional
            Of the result.  Default: that of ``a``.
        """
        check(replace and p is None, DtypeError,
              "choice: only equal probabilities with replacement are supported.",
              f"replace={replace}, p={p!r}", "compare uniform numbers with cumulated probabilities")
        a = as_tensor(a)
        count = a if a.ndim == 0 else axis_size(a, 0)
        index = draws.random_integers(self._next_state(), _shape(size, ndim), 0, count)
        chosen = index if a.ndim == 0 else a[index]
        return chosen if dtype is None else as_tensor(chosen, dtype)


MRG_RandomStreams = RandomStreams
"""The name of Theano's second generator; there is one here."""


def _shape(size: Any, ndim: int | None, *parameters: Any) -> Sequence[Any]:
    """Return the shape of a draw: ``size``, or what the parameters broadcast to."""
    if size is not None:
        if isinstance(size, Variable) and size.ndim == 1 and not isinstance(size.type.dims[0], int):
            check(ndim is not None, ShapeError, "The number of axes of a draw must be known.",
                  f"size {size.type}", "give ndim=, or a tuple of sizes")
            return [size[k] for k in range(ndim)]
        return size
    tensors = [as_tensor(value) for value in parameters]
    dims, _ = broadcast_dims("random draw", tensors)
    shape: list[Any] = []
    for axis, dim in enumerate(dims):
        owner = next((t for t in tensors if t.ndim >= len(dims) - axis
                      and t.type.dims[axis - len(dims)] != 1), None)
        shape.append(1 if owner is None else axis_size(owner, axis - len(dims)))
    return shape
