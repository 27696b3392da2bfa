"""Losses and accuracies: expressions with one value per example, and :func:`aggregate`.

Keeping the examples apart lets the caller weight, mask or average them:

>>> import numpy as np
>>> from tetractys import objectives, tensor as T
>>> loss = objectives.squared_error(T.constant([1.0, 2.0]), T.constant([1.0, 4.0]))
>>> objectives.aggregate(loss, mode="mean").eval()
array(2.)
"""

from __future__ import annotations

from . import tensor as T
from .runtime.errors import ArgumentError, ShapeError, format_message

__all__ = [
    "aggregate", "binary_accuracy", "binary_crossentropy", "binary_hinge_loss",
    "categorical_accuracy", "categorical_crossentropy", "huber_loss", "multiclass_hinge_loss",
    "squared_error",
]


def _aligned(predictions: T.Variable, targets: T.Variable) -> tuple[T.Variable, T.Variable]:
    """Return both as variables; a vector of targets meets a column of predictions as a column.

    Without this a network of one unit, ``(batch, 1)``, against targets ``(batch,)`` would
    broadcast to ``(batch, batch)``.
    """
    predictions, targets = T.as_tensor_variable(predictions), T.as_tensor_variable(targets)
    for column, vector in ((predictions, targets), (targets, predictions)):
        if column.broadcastable == (False, True) and vector.ndim == 1:
            column_of_vector = vector.dimshuffle(0, "x")
            return (column, column_of_vector) if column is predictions \
                else (column_of_vector, column)
    return predictions, targets


def _scores_and_classes(owner: str, predictions: T.Variable, targets: T.Variable
                        ) -> tuple[T.Variable, T.Variable]:
    """Return both as variables, the targets as class numbers even if given as indicator rows."""
    predictions, targets = T.as_tensor_variable(predictions), T.as_tensor_variable(targets)
    if targets.ndim == predictions.ndim - 1:
        return predictions, targets
    if targets.ndim == predictions.ndim:
        return predictions, T.argmax(targets, axis=-1)
    raise ShapeError(format_message(
        f"{owner}: targets need as many axes as the predictions, or one fewer.",
        values=f"predictions {predictions.type}, targets {targets.type}",
        remedy="give class numbers (batch,) or one row of class indicators per example"))


# -- losses ----------------------------------------------------------------------------------------

def binary_crossentropy(predictions: T.Variable, targets: T.Variable) -> T.Variable:
    """Return ``-t log(p) - (1 - t) log(1 - p)`` for each element.

    Parameters
    ----------
    predictions : float
        Probabilities, for example the output of a sigmoid (the logarithm of a sigmoid is
        simplified, so extreme values stay finite).
    targets : float or integer, same shape
        0 or 1, or between.
    """
    predictions, targets = _aligned(predictions, targets)
    return T.nnet.binary_crossentropy(predictions, targets)


def categorical_crossentropy(predictions: T.Variable, targets: T.Variable) -> T.Variable:
    """Return ``-sum_c t_c log(p_c)`` for each example.

    Parameters
    ----------
    predictions : (batch, classes) float
        Probabilities, for example the output of a softmax (its logarithm is simplified, so
        extreme values stay finite).
    targets : (batch,) integer or (batch, classes) float
        Class numbers, or probabilities of the classes.

    Returns
    -------
    Variable, (batch,) float
    """
    return T.nnet.categorical_crossentropy(predictions, targets)


def squared_error(a: T.Variable, b: T.Variable) -> T.Variable:
    """Return ``(a - b)**2`` for each element."""
    a, b = _aligned(a, b)
    return T.sqr(a - b)


def huber_loss(predictions: T.Variable, targets: T.Variable, delta: float = 1.0) -> T.Variable:
    """Return ``e**2 / 2`` where ``|e| <= delta``, else ``delta (|e| - delta/2)``, e = p - t.

    Parameters
    ----------
    predictions, targets : float
    delta : float
        Where the parabola becomes a straight line.

    References
    ----------
    Huber, "Robust estimation of a location parameter", Annals of Statistics 53(1), 1964.
    """
    predictions, targets = _aligned(predictions, targets)
    distance = abs(predictions - targets)
    near = T.minimum(distance, delta)
    return near * (distance - 0.5 * near)


def binary_hinge_loss(predictions: T.Variable, targets: T.Variable, delta: float = 1.0,
                      log_odds: bool = True, binary: bool = True) -> T.Variable:
    """Return ``max(0, delta - t p)`` for each element, ``t`` being -1 or 1.

    Parameters
    ----------
    predictions : float
        Log odds (any real number), or probabilities with ``log_odds=False``.
    targets : same shape
        0 or 1; with ``binary=False``, -1 or 1.
    delta : float
        The margin.
    log_odds : bool
        Whether the predictions are log odds (before the sigmoid) or probabilities (after it).
    binary : bool
        Whether the targets are 0 and 1.
    """
    predictions, targets = _aligned(predictions, targets)
    if not log_odds:
        predictions = T.log(predictions / (1.0 - predictions))
    targets = T.cast(targets, predictions.dtype)
    if binary:
        targets = 2.0 * targets - 1.0
    return T.nnet.relu(delta - predictions * targets)


def multiclass_hinge_loss(predictions: T.Variable, targets: T.Variable,
                          delta: float = 1.0) -> T.Variable:
    """Return ``max(0, delta + max_{c != t} p_c - p_t)`` for each example.

    Parameters
    ----------
    predictions : (batch, classes) float
        Scores, two classes or more.
    targets : (batch,) integer or (batch, classes)
        Class numbers, or one-hot rows.
    delta : float
        The margin.

    Returns
    -------
    Variable, (batch,) float

    Raises
    ------
    ShapeError
        If the ranks do not fit; a class number out of range is an ``IndexError`` at the call.

    References
    ----------
    Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based vector
    machines", JMLR 2, 2001.
    """
    predictions, targets = _scores_and_classes("multiclass_hinge_loss", predictions, targets)
    correct = predictions[T.arange(predictions.shape[0]), targets]
    rival = T.set_subtensor(correct, float("-inf")).max(axis=-1)
    return T.nnet.relu(rival - correct + delta)


# -- from one value per example to one number -----------------------------------------------------

def aggregate(loss: T.Variable, weights: T.Variable | None = None,
              mode: str = "mean") -> T.Variable:
    """Reduce a loss per example to a scalar.

    Parameters
    ----------
    loss : float
    weights : float, optional
        Multiplied with the loss first, broadcasting.
    mode : str
        ``'mean'``, ``'sum'``, or ``'normalized_sum'``: the sum over the sum of the weights.

    Returns
    -------
    Variable, () float

    Raises
    ------
    ArgumentError
        For another mode, or ``'normalized_sum'`` without weights.
    """
    if weights is not None:
        loss = loss * weights
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    if mode == "normalized_sum":
        if weights is None:
            raise ArgumentError(format_message(
                "aggregate(mode='normalized_sum') divides by the sum of the weights.",
                remedy="give weights=, or use mode='mean'"))
        return loss.sum() / T.as_tensor_variable(weights).sum()
    raise ArgumentError(format_message(
        f"aggregate has no mode {mode!r}.", remedy="use 'mean', 'sum' or 'normalized_sum'"))


# -- accuracies ------------------------------------------------------------------------------------

def binary_accuracy(predictions: T.Variable, targets: T.Variable,
                    threshold: float = 0.5) -> T.Variable:
    """Return whether each prediction lies on its target's side of the threshold.

    Parameters
    ----------
    predictions : float
    targets : same shape
        0 or 1.
    threshold : float
        From here on a prediction counts as 1.

    Returns
    -------
    Variable, bool
    """
    predictions, targets = _aligned(predictions, targets)
    return T.eq(T.ge(predictions, threshold), T.neq(targets, 0))


def categorical_accuracy(predictions: T.Variable, targets: T.Variable,
                         top_k: int = 1) -> T.Variable:
    """Return whether the target is among the ``top_k`` largest predictions of each example.

    Parameters
    ----------
    predictions : (..., classes) float
    targets : (...) integer or (..., classes)
        Class numbers, or one row per example whose largest element marks the class.
    top_k : int
        Among equal predictions the class with the smaller number ranks first.

    Returns
    -------
    Variable, (...) bool
        Never true where the target's prediction is NaN, or the target no class.
    """
    predictions, targets = _scores_and_classes("categorical_accuracy", predictions, targets)
    if top_k < 1:
        raise ArgumentError(format_message(
            "categorical_accuracy needs top_k of at least 1.", values=f"top_k {top_k}"))
    column = targets.dimshuffle(*range(targets.ndim), "x")
    classes = T.arange(predictions.shape[-1])
    is_target = T.eq(column, classes)
    score = T.switch(is_target, predictions, 0).sum(axis=-1, keepdims=True)
    # Not "greater than the target's score": a NaN on either side must rank before the target.
    ranks_before = T.invert(T.le(predictions, score)) | (
        T.eq(predictions, score) & T.lt(classes, column))
    return is_target.any(axis=-1) & T.lt(ranks_before.sum(axis=-1), top_k)
