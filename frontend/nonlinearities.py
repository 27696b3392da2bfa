"""Nonlinearities for layers: functions from an expression to an expression of the same shape.

Any such callable may be given to a layer; the ones with parameters are classes whose instances
are called.
"""

from __future__ import annotations

from . import tensor as T

__all__ = [
    "SELU", "LeakyRectify", "ScaledTanH", "ScaledTanh", "elu", "identity", "leaky_rectify",
    "linear", "rectify", "scaled_tanh", "selu", "sigmoid", "softmax", "softplus", "tanh",
    "very_leaky_rectify",
]


def sigmoid(x: T.Variable) -> T.Variable:
    """Return ``1 / (1 + exp(-x))``, between 0 and 1."""
    return T.nnet.sigmoid(x)


def softmax(x: T.Variable) -> T.Variable:
    """Return ``exp(x) / sum(exp(x))`` over the last axis: rows of probabilities.

    Parameters
    ----------
    x : (..., classes) float
    """
    return T.nnet.softmax(x)


def tanh(x: T.Variable) -> T.Variable:
    """Return the hyperbolic tangent, between -1 and 1."""
    return T.tanh(x)


class ScaledTanH:
    """``scale_out * tanh(scale_in * x)``.

    Parameters
    ----------
    scale_in, scale_out : float or scalar expression

    Notes
    -----
    With ``scale_in=2/3, scale_out=1.7159`` (:func:`scaled_tanh`) inputs of unit variance give
    outputs of about unit variance.

    References
    ----------
    LeCun et al., "Efficient BackProp", 1998, section 4.4.
    """

    def __init__(self, scale_in: float = 1.0, scale_out: float = 1.0):
        self.scale_in, self.scale_out = scale_in, scale_out

    def __call__(self, x: T.Variable) -> T.Variable:
        """Return the scaled hyperbolic tangent of ``x``."""
        return T.tanh(x * self.scale_in) * self.scale_out


ScaledTanh = ScaledTanH
scaled_tanh = ScaledTanH(scale_in=2.0 / 3.0, scale_out=1.7159)


def rectify(x: T.Variable) -> T.Variable:
    """Return ``max(x, 0)``."""
    return T.nnet.relu(x)


class LeakyRectify:
    """``x`` where it is positive, ``leakiness * x`` elsewhere.

    Parameters
    ----------
    leakiness : float
        Slope of the negative part: 0 is :func:`rectify`, 1 is :func:`linear`.

    References
    ----------
    Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models",
    ICML 2013.
    """

    def __init__(self, leakiness: float = 0.01):
        self.leakiness = leakiness

    def __call__(self, x: T.Variable) -> T.Variable:
        """Return the leaky rectifier of ``x``."""
        return T.nnet.relu(x, self.leakiness)


leaky_rectify = LeakyRectify()
very_leaky_rectify = LeakyRectify(1.0 / 3.0)


def elu(x: T.Variable) -> T.Variable:
    """Return ``x`` where it is positive, ``exp(x) - 1`` elsewhere.

    References
    ----------
    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential
    linear units", ICLR 2016.
    """
    return T.nnet.elu(x)


class SELU:
    """``scale * x`` where x is positive, ``scale * scale_neg * (exp(x) - 1)`` elsewhere.

    Parameters
    ----------
    scale, scale_neg : float
        :func:`selu` has the paper's values, for which activations converge to zero mean and unit
        variance; initialise its layers with ``init.LeCunNormal``.

    References
    ----------
    Klambauer et al., "Self-normalizing neural networks", NIPS 2017, equation 2.
    """

    def __init__(self, scale: float = 1.0, scale_neg: float = 1.0):
        self.scale, self.scale_neg = scale, scale_neg

    def __call__(self, x: T.Variable) -> T.Variable:
        """Return the scaled exponential linear unit of ``x``."""
        # The minimum keeps exp and its gradient finite on the side that is not chosen.
        negative = self.scale_neg * T.expm1(T.minimum(x, 0))
        return self.scale * T.switch(T.gt(x, 0), x, negative)


# Klambauer et al. (2017), section "Deriving the mapping g": the fixed point (0, 1).
selu = SELU(scale=1.0507009873554804934193349852946, scale_neg=1.6732632423543772848170429916717)


def softplus(x: T.Variable) -> T.Variable:
    """Return ``log(1 + exp(x))``, a smooth :func:`rectify`, without overflow."""
    return T.nnet.softplus(x)


def linear(x: T.Variable) -> T.Variable:
    """Return ``x``."""
    return x


identity = linear
