"""Cross-entropies, from probabilities and from logits.

Those of probabilities are builders: they write ``log(p)`` of their argument, which the stability
rules turn into ``logsoftmax(x)`` or ``-softplus(-x)`` where ``p`` is a softmax or a sigmoid.
"""

from __future__ import annotations

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from .. import dtypes
from ..graph import Variable, describe
from ..operators import FUNCTIONS
from .arithmetic import add, mul, neg, sub
from .elementwise import FLOAT, convert_arguments, infer_elementwise, quiet
from .op import ArrayLike, Expand, OfExpansion, Sample, as_tensor, check
from .public import builder, row
from .reduce import sum
from .sizes import axis_size
from .softmax import logsoftmax
from .transcendental import log, softplus

_SECTION = "Neural networks"


def sigmoid_binary_crossentropy(x: ArrayLike, target: ArrayLike) -> Variable:
    """Binary cross-entropy of ``sigmoid(x)``, from the logit ``x``: no overflow, no cancellation.

    ``target * softplus(-x) + (1 - target) * softplus(x)``

    Parameters
    ----------
    x : tensor
        Logits.
    target : tensor
        Probabilities, broadcasting with ``x``.

    Returns
    -------
    Variable
        Elementwise.

    Examples
    --------
    >>> T.nnet.sigmoid_binary_crossentropy([1e4, 1e4], [1.0, 0.0]).eval()
    array([    0., 10000.])
    """
    return _SIGMOID_BINARY(*convert_arguments((x, target), FLOAT))


def _binary_from_logits(x: Variable, target: Variable) -> Variable:
    return add(mul(target, softplus(neg(x))), mul(sub(1, target), softplus(x)))


def _binary_from_logits_array(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(x)
    return target * np.logaddexp(-x, zero) + (1 - target) * np.logaddexp(x, zero)


_SIGMOID_BINARY = row(
    sigmoid_binary_crossentropy, kind="composite",
    infer=infer_elementwise("sigmoid_binary_crossentropy", "f", "same"),
    reference=quiet(_binary_from_logits_array), derivative=OfExpansion(),
    lower=Expand(_binary_from_logits), edges=(0.0, 0.5, 1.0), section=_SECTION,
    namespace="T.nnet",
    samples=(Sample(((3, 4), (3, 4)), (("float64",) * 2, ("float32",) * 2),
                    domain=((-5.0, 5.0), (0.0, 1.0))),
             Sample(((3, 4), (4,)), (("float64",) * 2,), domain=((-5.0, 5.0), (0.0, 1.0)))))


@builder("T.nnet")
def binary_crossentropy(output: ArrayLike, target: ArrayLike) -> Variable:
    """Binary cross-entropy: ``-(target * log(output) + (1 - target) * log(1 - output))``.

    Where ``output`` is ``sigmoid(x)``, the logarithms are simplified, and nothing overflows.

    Parameters
    ----------
    output : tensor
        Predicted probabilities.
    target : tensor
        Probabilities, broadcasting with ``output``.

    Returns
    -------
    Variable
        Elementwise.

    Examples
    --------
    >>> T.nnet.binary_crossentropy([0.5], [1.0]).eval()
    array([0.69314718])
    """
    return neg(add(mul(target, log(output)), mul(sub(1.0, target), log(sub(1.0, output)))))


def _cross_entropy(log_p: Variable, target: Variable, name: str) -> Variable:
    """Return minus the expected ``log_p`` along the last axis, for classes or probabilities."""
    is_classes = target.ndim == log_p.ndim - 1
    check(log_p.ndim > 0 and (is_classes or target.ndim == log_p.ndim), ShapeError,
          f"{name} takes as target either probabilities of the shape of the distribution, or "
          "one class for each of its rows.", f"distribution {log_p.type}, target {target.type}",
          "give the target as many axes, or one fewer")
    if not is_classes:
        return neg(sum(mul(target, log_p), axis=-1))
    check(dtypes.is_integer(target.dtype), DtypeError,
          f"{name}: classes must be integers.", f"{describe(target)} {target.type}",
          "cast the target to int64, or give probabilities of the shape of the distribution")
    return neg(_pick(log_p, target))


def _pick(x: Variable, classes: Variable) -> Variable:
    """Return the element ``classes`` of each row along the last axis."""
    rank = classes.ndim
    rows = [FUNCTIONS["dimshuffle"](
        FUNCTIONS["arange"](axis_size(x, axis)),
        ["x"] * axis + [0] + ["x"] * (rank - axis - 1)) for axis in range(rank)]
    return x[(*rows, classes)]


@builder("T.nnet", "crossentropy_categorical_1hot")
def categorical_crossentropy(coding_dist: ArrayLike, true_dist: ArrayLike) -> Variable:
    """Cross-entropy of a predicted distribution and the true one, along the last axis.

    ``-sum(true_dist * log(coding_dist), axis=-1)``, or ``-log(coding_dist)[row, class]``.  Where
    ``coding_dist`` is ``softmax(x)``, the logarithm is simplified, and nothing overflows.

    Parameters
    ----------
    coding_dist : (..., classes) float
        Predicted probabilities.
    true_dist : (...) integer, or (..., classes) float
        A class for each row, or its distribution.

    Returns
    -------
    Variable
        One value for each row.

    Raises
    ------
    ShapeError
        If the target has neither as many axes as the distribution nor one fewer.
    DtypeError
        If classes are not integers.

    Examples
    --------
    >>> T.nnet.categorical_crossentropy([[0.5, 0.5]], T.constant([1])).eval()
    array([0.69314718])
    """
    return _cross_entropy(log(coding_dist), as_tensor(true_dist), "categorical_crossentropy")


@builder("T.nnet")
def softmax_cross_entropy(logits: ArrayLike, target: ArrayLike) -> Variable:
    """Cross-entropy of ``softmax(logits)`` and the true distribution, along the last axis.

    Parameters
    ----------
    logits : (..., classes) float
    target : (...) integer, or (..., classes) float
        A class for each row, or its distribution.

    Returns
    -------
    Variable
        One value for each row.

    Raises
    ------
    ShapeError, DtypeError
        As ``categorical_crossentropy``.

    Examples
    --------
    >>> T.nnet.softmax_cross_entropy([[0.0, -1e4]], T.constant([1])).eval()
    array([10000.])
    """
    return _cross_entropy(logsoftmax(logits), as_tensor(target), "softmax_cross_entropy")
