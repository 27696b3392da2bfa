"""Initial values of parameters: callables that turn a shape into an array of ``config.floatX``.

Random initialisers draw from one generator, replaced by :func:`set_rng`.

Examples
--------
>>> from tetractys import init
>>> init.set_rng(0)
>>> init.GlorotUniform()((784, 256)).shape
(784, 256)
>>> init.Constant(0.5)((2,))
array([0.5, 0.5])
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

import tetractys as tx

from .runtime.errors import ArgumentError, ShapeError, format_message

__all__ = [
    "Constant", "Glorot", "GlorotNormal", "GlorotUniform", "He", "HeNormal", "HeUniform",
    "Initializer", "LeCun", "LeCunNormal", "LeCunUniform", "Normal", "Orthogonal", "Sparse",
    "Uniform", "get_rng", "set_rng",
]


class RandomSource(Protocol):
    """What the initialisers need: ``Generator``, ``RandomState`` and ``numpy.random`` have it."""

    def normal(self, loc: float, scale: float, size: Sequence[int]) -> np.ndarray:
        """Return normal draws."""

    def uniform(self, low: float, high: float, size: Sequence[int] | None = None) -> Any:
        """Return uniform draws from ``[low, high)``."""

    def permutation(self, count: int) -> np.ndarray:
        """Return ``arange(count)`` in random order."""


_rng: RandomSource | None = None  # numpy.random, which takes 10 ms to import: when first used


def get_rng() -> RandomSource:
    """Return the source of random initial values.

    Until :func:`set_rng` is called this is ``numpy.random`` itself, so that ``numpy.random.seed``
    makes a program reproducible.
    """
    return np.random if _rng is None else _rng


def set_rng(rng: int | np.random.Generator | np.random.RandomState) -> None:
    """Make ``rng`` the source of random initial values and of the seeds of noise layers.

    Parameters
    ----------
    rng : int, Generator or RandomState
        An integer seeds a new ``Generator``.
    """
    global _rng
    _rng = np.random.default_rng(rng) if isinstance(rng, (int, np.integer)) else rng


def _gain(gain: float | str) -> float:
    if gain == "relu":
        return math.sqrt(2.0)
    if isinstance(gain, str):
        raise ArgumentError(format_message(
            f"There is no gain called {gain!r}.", remedy="give a number or 'relu'"))
    return float(gain)


class Initializer(ABC):
    """Base of the initialisers; a subclass defines :meth:`sample`."""

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        """Return ``sample(shape)`` as an array of ``config.floatX``."""
        return np.asarray(self.sample(tuple(shape)), dtype=tx.config.floatX)

    @abstractmethod
    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of ``shape``, of any float dtype."""


class Constant(Initializer):
    """Every element is ``value``.

    Parameters
    ----------
    value : float
    """

    def __init__(self, value: float = 0.0):
        self.value = value

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a constant array."""
        return np.full(shape, self.value)


class Normal(Initializer):
    """Draws from a normal distribution.

    Parameters
    ----------
    std : float
        Standard deviation.
    mean : float
    """

    def __init__(self, std: float = 0.01, mean: float = 0.0):
        self.std, self.mean = std, mean

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return normal draws."""
        return get_rng().normal(self.mean, self.std, size=shape)


class Uniform(Initializer):
    """Draws from a uniform distribution.

    Parameters
    ----------
    range : float or (float, float)
        A number ``a`` stands for the interval ``(-a, a)``.
    std : float, optional
        If given, the interval is the one around ``mean`` with this standard deviation:
        ``mean +- sqrt(3) * std``, and ``range`` is not used.
    mean : float
        Used with ``std`` only.
    """

    def __init__(self, range: float | tuple[float, float] = 0.01, std: float | None = None,
                 mean: float = 0.0):
        if std is not None:
            half = math.sqrt(3.0) * std
            self.range = mean - half, mean + half
        elif isinstance(range, (tuple, list)):
            self.range = float(range[0]), float(range[1])
        else:
            self.range = -float(range), float(range)

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return uniform draws."""
        return get_rng().uniform(*self.range, size=shape)


# -- scaled by the number of connections ----------------------------------------------------------

def _fans(shape: tuple[int, ...], owner: str) -> tuple[int, int]:
    """Return the numbers of inputs and outputs one weight tensor connects.

    A matrix is ``(inputs, outputs)``; with more axes it is a bank of filters, ``(outputs, inputs,
    *field)``, and each connection counts once for every position of the receptive field.
    """
    if len(shape) < 2:
        raise ShapeError(format_message(
            f"{owner} needs a shape with at least 2 axes: it scales by the number of connections.",
            values=f"shape {shape}", remedy="use Normal, Uniform or Constant for vectors"))
    if len(shape) == 2:
        return shape
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


class _FanScaled(Initializer):
    """Draws whose standard deviation is ``gain`` times a function of the fan-in and fan-out."""

    def __init__(self, initializer: type[Initializer] = Normal, gain: float | str = 1.0):
        self.initializer, self.gain = initializer, _gain(gain)

    @abstractmethod
    def spread(self, fan_in: int, fan_out: int) -> float:
        """Return the standard deviation for ``gain`` 1."""

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return draws with the standard deviation that the fans ask for."""
        std = self.gain * self.spread(*_fans(shape, type(self).__name__))
        return self.initializer(std=std).sample(shape)


class Glorot(_FanScaled):
    """Keeps the variance of activations and gradients alike: ``std = gain sqrt(2/(in + out))``.

    Parameters
    ----------
    initializer : class
        :class:`Normal` or :class:`Uniform`, or another that takes ``std=``.
    gain : float or 'relu'
        ``'relu'`` means ``sqrt(2)``; 1 suits linear and sigmoid units.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010, equations 12 and 16.
    """

    def spread(self, fan_in: int, fan_out: int) -> float:
        """Return ``sqrt(2 / (fan_in + fan_out))``."""
        return math.sqrt(2.0 / (fan_in + fan_out))


class GlorotNormal(Glorot):
    """:class:`Glorot` with normal draws."""

    def __init__(self, gain: float | str = 1.0):
        super().__init__(Normal, gain)


class GlorotUniform(Glorot):
    """:class:`Glorot` with uniform draws."""

    def __init__(self, gain: float | str = 1.0):
        super().__init__(Uniform, gain)


class He(_FanScaled):
    """Keeps the variance of activations: ``std = gain sqrt(1/in)``.

    Parameters
    ----------
    initializer : class
        :class:`Normal` or :class:`Uniform`, or another that takes ``std=``.
    gain : float or 'relu'
        ``'relu'`` means ``sqrt(2)``, the paper's value for rectified units.

    References
    ----------
    He et al., "Delving deep into rectifiers", ICCV 2015, equation 10.
    """

    def spread(self, fan_in: int, fan_out: int) -> float:
        """Return ``sqrt(1 / fan_in)``."""
        return math.sqrt(1.0 / fan_in)


class HeNormal(He):
    """:class:`He` with normal draws."""

    def __init__(self, gain: float | str = 1.0):
        super().__init__(Normal, gain)


class HeUniform(He):
    """:class:`He` with uniform draws."""

    def __init__(self, gain: float | str = 1.0):
        super().__init__(Uniform, gain)


class LeCun(He):
    """``std = sqrt(1/in)``: :class:`He` with gain 1, the choice for ``selu`` and scaled tanh.

    References
    ----------
    LeCun et al., "Efficient BackProp", 1998, equation 16.
    """

    def __init__(self, initializer: type[Initializer] = Normal):
        super().__init__(initializer, 1.0)


class LeCunNormal(LeCun):
    """:class:`LeCun` with normal draws."""

    def __init__(self):
        super().__init__(Normal)


class LeCunUniform(LeCun):
    """:class:`LeCun` with uniform draws."""

    def __init__(self):
        super().__init__(Uniform)


# -- structured ------------------------------------------------------------------------------------

class Orthogonal(Initializer):
    """A random matrix with orthonormal rows or columns (whichever are fewer), times ``gain``.

    Axes after the first are taken together as the columns.

    Parameters
    ----------
    gain : float or 'relu'

    References
    ----------
    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", ICLR 2014.  The correction that makes the QR factor uniform over all
    orthogonal matrices: Mezzadri, Notices of the AMS 54(5), 2007.
    """

    def __init__(self, gain: float | str = 1.0):
        self.gain = _gain(gain)

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a slice of a uniformly distributed orthogonal matrix."""
        if len(shape) < 2:
            raise ShapeError(format_message(
                "Orthogonal needs a shape with at least 2 axes.", values=f"shape {shape}",
                remedy="use Normal, Uniform or Constant for vectors"))
        rows, columns = shape[0], math.prod(shape[1:])
        normal = get_rng().normal(0.0, 1.0, size=(max(rows, columns), min(rows, columns)))
        factor, triangle = np.linalg.qr(normal)
        factor = factor * np.where(np.diagonal(triangle) < 0, -1.0, 1.0)
        return self.gain * (factor if rows >= columns else factor.T).reshape(shape)


class Sparse(Initializer):
    """A matrix whose columns have few non-zero elements, at random places.

    Parameters
    ----------
    sparsity : float
        Fraction of elements of each column that are not zero, rounded up to whole elements.
    std : float
        Standard deviation of the elements that are not zero.

    References
    ----------
    Martens, "Deep learning via Hessian-free optimization", ICML 2010, section 5.
    """

    def __init__(self, sparsity: float = 0.1, std: float = 0.01):
        if not 0.0 <= sparsity <= 1.0:
            raise ArgumentError(format_message(
                "The sparsity is a fraction between 0 and 1.", values=f"sparsity {sparsity}"))
        self.sparsity, self.std = sparsity, std

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a matrix with ``ceil(sparsity * rows)`` normal draws in each column."""
        if len(shape) != 2:
            raise ShapeError(format_message(
                "Sparse initialises matrices only.", values=f"shape {shape}"))
        rng, (rows, columns) = get_rng(), shape
        count = math.ceil(self.sparsity * rows)
        matrix = np.zeros(shape)
        for column in range(columns):
            matrix[rng.permutation(rows)[:count], column] = rng.normal(0.0, self.std, size=(count,))
        return matrix
