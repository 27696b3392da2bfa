"""Derivatives as users ask for them, with Theano's names and semantics.

All of them return ordinary graphs, so derivatives of derivatives need nothing more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, Union

import numpy as np

from .compiler.derivative import UNDEFINED, is_connected, jvp, vjp
from .compiler.dims import proves_different
from .compiler.dtypes import HALVES, is_float
from .compiler.graph import (
    Constant, Variable, creation_site, describe, format_site, input_variable)
from .compiler.interpret import evaluate
from .compiler.operators import FUNCTIONS
from .compiler.ops.control import LoopIndex, map_loop
from .compiler.ops.gradient import (  # noqa: F401  (public here, as in Theano)
    disconnected_grad, grad_clip, grad_scale, zero_grad)
from .compiler.ops.op import as_tensor
from .compiler.rewrite.stabilize import stabilize
from .runtime.errors import DtypeError, GradientError, ShapeError, format_message

consider_constant = disconnected_grad

OneOrMany: TypeAlias = Union[Variable, Sequence[Variable]]
Structured: TypeAlias = Union[Variable, None, list, tuple]
Action: TypeAlias = Literal["raise", "warn", "ignore"]


class DisconnectedType:
    """The type of :data:`DISCONNECTED`, what ``return_disconnected='disconnected'`` returns."""

    def __repr__(self) -> str:
        return "<disconnected>"


DISCONNECTED = DisconnectedType()


def grad(cost: Variable | None, wrt: OneOrMany, consider_constant: Iterable[Variable] | None = None,
         disconnected_inputs: Action = "raise", add_names: bool = True,
         known_grads: Mapping[Variable, Any] | None = None,
         return_disconnected: Literal["zero", "none", "disconnected"] = "zero",
         null_gradients: Literal["raise", "return"] = "raise") -> Any:
    """Return the gradient of a scalar: ``d cost / d wrt``.

    Parameters
    ----------
    cost : scalar float, or None
        None if ``known_grads`` says where derivatives start.
    wrt : Variable or sequence of Variable
        Inputs, shared variables or intermediate variables; floats.
    consider_constant : iterable of Variable, optional
        Variables through which nothing is differentiated.
    disconnected_inputs : 'raise', 'warn' or 'ignore'
        What to do when ``cost`` does not depend on one of ``wrt``.
    add_names : bool
        Name the results ``(dcost/dwrt)`` when both have names.
    known_grads : mapping of Variable to tensor, optional
        Gradients that are known already; the graph's own contributions to them are not used.
    return_disconnected : 'zero', 'none' or 'disconnected'
        What stands for the gradient with respect to a disconnected variable: a tensor of zeros,
        None, or :data:`DISCONNECTED`.  Capitals do not matter (Theano: ``'None'``).
    null_gradients : 'raise' or 'return'
        Where an op on the way has no derivative: raise, or return None for the variables affected.

    Returns
    -------
    Variable, or list or tuple of Variable
        Structured as ``wrt``; each of the dtype and shape of its variable.

    Raises
    ------
    GradientError
        If the cost is not a float scalar, a variable is not a float or is disconnected, or an op
        has no derivative.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.dvector('x')
    >>> grad((x ** 2).sum(), x).eval({x: [1.0, 2.0, 3.0]})
    array([2., 4., 6.])
    """
    _check_actions(disconnected_inputs, return_disconnected, null_gradients)
    known = {v: as_tensor(g) for v, g in (known_grads or {}).items()}
    if cost is None and not known:
        raise GradientError(format_message(
            "grad needs a cost or known_grads.", where=format_site(creation_site()),
            remedy="give one of them"))
    starts = list(known)
    if cost is not None:
        _check_cost(cost)
        starts.append(cost)
    for variable, gradient in known.items():
        _check_like(gradient, variable, "known gradient")
    variables = _as_list(wrt)
    _check_floats(variables, "grad")
    constants = tuple(consider_constant or ())
    seeds = [] if cost is None else [as_tensor(1.0, cost.dtype)]
    outputs = [] if cost is None else stabilize([cost], [*variables, *known, *constants])
    found = vjp(outputs, variables, seeds, known, constants,
                raise_undefined=null_gradients == "raise")
    connected = is_connected(starts, variables, constants)
    results = [_result(g, v, is_reached, disconnected_inputs, return_disconnected, cost)
               for g, v, is_reached in zip(found, variables, connected)]
    if add_names and cost is not None and cost.name:
        for variable, result in zip(variables, results):
            if variable.name and isinstance(result, Variable) and result.name is None \
                    and result.owner is not None:
                result.name = f"(d{cost.name}/d{variable.name})"
    return _structured(results, wrt)


def Lop(f: OneOrMany, wrt: OneOrMany, eval_points: OneOrMany,
        consider_constant: Iterable[Variable] | None = None,
        disconnected_inputs: Action = "raise") -> Any:
    """Return the vector-Jacobian product ``eval_points . df/dwrt``, without the Jacobian.

    Parameters
    ----------
    f, eval_points : Variable or sequence of Variable
        Of equal shapes.
    wrt : Variable or sequence of Variable
    consider_constant, disconnected_inputs
        As for :func:`grad`.

    Returns
    -------
    Variable, or list or tuple of Variable
        Structured as ``wrt``, of the shapes of ``wrt``.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x, v = T.dvectors('x', 'v')
    >>> Lop(x ** 2, x, v).eval({x: [1.0, 2.0], v: [1.0, 10.0]})
    array([ 2., 40.])
    """
    _check_actions(disconnected_inputs)
    outputs, points = _pairs(f, eval_points, "Lop", "output")
    variables = _as_list(wrt)
    _check_floats(variables, "Lop")
    constants = tuple(consider_constant or ())
    found = vjp(stabilize(outputs, [*variables, *constants]), variables, points,
                consider_constant=constants)
    results = [_result(g, v, is_reached, disconnected_inputs, "zero", outputs[0])
               for g, v, is_reached in zip(found, variables,
                                           is_connected(outputs, variables, constants))]
    return _structured(results, wrt)


def Rop(f: OneOrMany, wrt: OneOrMany, eval_points: OneOrMany,
        disconnected_outputs: Action = "raise",
        return_disconnected: Literal["zero", "none", "disconnected"] = "zero") -> Any:
    """Return the Jacobian-vector product ``df/dwrt . eval_points``, in one forward pass.

    Parameters
    ----------
    f : Variable or sequence of Variable
    wrt, eval_points : Variable or sequence of Variable
        Of equal shapes.
    disconnected_outputs : 'raise', 'warn' or 'ignore'
        What to do when one of ``f`` depends on none of ``wrt``.
    return_disconnected : 'zero', 'none' or 'disconnected'
        As for :func:`grad`.

    Returns
    -------
    Variable, or list or tuple of Variable
        Structured as ``f``, of the shapes of ``f``.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x, v = T.dvectors('x', 'v')
    >>> Rop((x ** 2).sum(), x, v).eval({x: [1.0, 2.0], v: [1.0, 10.0]})
    array(42.)
    """
    _check_actions(disconnected_outputs, return_disconnected)
    variables, points = _pairs(wrt, eval_points, "Rop", "variable")
    _check_floats(variables, "Rop")
    outputs = _as_list(f)
    results = []
    for output, tangent in zip(outputs, jvp(stabilize(outputs, variables), variables, points)):
        connected = tangent is not None or any(is_connected([output], variables))
        results.append(_result(tangent, output, connected, disconnected_outputs,
                               return_disconnected, None))
    return _structured(results, f)


def jacobian(expression: Variable, wrt: OneOrMany,
             consider_constant: Iterable[Variable] | None = None,
             disconnected_inputs: Action = "raise") -> Any:
    """Return all partial derivatives of the elements of ``expression``.

    ``J[i..., j...] = d expression[i...] / d wrt[j...]``

    Parameters
    ----------
    expression : float tensor of any rank
    wrt : Variable or sequence of Variable
    consider_constant, disconnected_inputs
        As for :func:`grad`.

    Returns
    -------
    Variable, or list or tuple of Variable
        Structured as ``wrt``, each of shape ``expression.shape + wrt.shape``.

    Notes
    -----
    One reverse pass for each element of ``expression``, in a loop of the compiled function; what
    the passes share is computed once.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.dvector('x')
    >>> jacobian(x ** 2, x).eval({x: [1.0, 2.0]})
    array([[2., 0.],
           [0., 4.]])
    """
    _check_actions(disconnected_inputs)
    variables = _as_list(wrt)
    _check_floats(variables, "jacobian")
    _check_floats([expression], "jacobian")
    constants = tuple(consider_constant or ())
    connected = is_connected([expression], variables, constants)
    flat = FUNCTIONS["flatten"](*stabilize([expression], [*variables, *constants]))
    index = LoopIndex(FUNCTIONS["axis_size"](flat, 0))
    one_hot = FUNCTIONS["cast"](FUNCTIONS["eq"](FUNCTIONS["arange"](index.count), index),
                                expression.dtype)
    rows = vjp([flat], variables, [one_hot], consider_constant=constants)
    stacked = iter(map_loop(index, [row for row in rows if row is not None]))
    results = []
    for row, variable, is_reached in zip(rows, variables, connected):
        shape = [*_sizes(expression), *_sizes(variable)]
        if row is None:
            _result(None, variable, is_reached, disconnected_inputs, "none", expression)
            results.append(FUNCTIONS["zeros"](shape, variable.dtype))
        else:
            matrix = next(stacked)
            results.append(matrix if expression.ndim == 1 else
                           FUNCTIONS["reshape"](matrix, shape))
    return _structured(results, wrt)


def hessian(cost: Variable, wrt: OneOrMany, consider_constant: Iterable[Variable] | None = None,
            disconnected_inputs: Action = "raise") -> Any:
    """Return the second derivatives of a scalar, with respect to each variable by itself.

    ``H[i..., j...] = d^2 cost / d wrt[i...] d wrt[j...]``

    Parameters
    ----------
    cost : scalar float
    wrt : Variable or sequence of Variable
        Of any rank (Theano: vectors only).
    consider_constant, disconnected_inputs
        As for :func:`grad`.

    Returns
    -------
    Variable, or list or tuple of Variable
        Structured as ``wrt``, each of shape ``wrt.shape + wrt.shape``.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.dvector('x')
    >>> hessian(x[0] ** 2 * x[1], x).eval({x: [1.0, 3.0]})
    array([[6., 2.],
           [2., 0.]])
    """
    variables, constants = _as_list(wrt), tuple(consider_constant or ())
    gradients = grad(cost, variables, constants, disconnected_inputs, add_names=False)
    results = [jacobian(g, v, constants, "ignore") for g, v in zip(gradients, variables)]
    return _structured(results, wrt)


def hessian_vector_product(cost: Variable, wrt: OneOrMany, p: OneOrMany) -> Any:
    """Return ``H . p``, the derivative of the gradient along ``p``, without the Hessian.

    Parameters
    ----------
    cost : scalar float
    wrt, p : Variable or sequence of Variable
        Of equal shapes; all of ``wrt`` are taken together.

    Returns
    -------
    Variable, or list or tuple of Variable
        Structured as ``wrt``.

    Notes
    -----
    Forward mode over reverse mode: about three times the cost of the gradient.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x, p = T.dvectors('x', 'p')
    >>> hessian_vector_product((x ** 3).sum(), x, p).eval({x: [1.0, 2.0], p: [1.0, 1.0]})
    array([ 6., 12.])
    """
    variables = _as_list(wrt)
    gradients = grad(cost, variables, add_names=False)
    return _structured(Rop(gradients, variables, _as_list(p), disconnected_outputs="ignore"), wrt)


def subgraph_grad(wrt: Sequence[Variable], end: Sequence[Variable],
                  start: Mapping[Variable, Any] | None = None, cost: Variable | None = None
                  ) -> tuple[list[Variable], list[Variable]]:
    """Return gradients of one part of a graph, to go on from ``end`` in another call.

    Parameters
    ----------
    wrt : sequence of Variable
    end : sequence of Variable
        Intermediate variables at which differentiation stops.
    start : mapping of Variable to tensor, optional
        Gradients that the next part of the graph gave.
    cost : scalar float, optional
        Where differentiation starts otherwise.

    Returns
    -------
    (list of Variable, list of Variable)
        Gradients with respect to ``wrt``, and with respect to ``end``.
    """
    known = {v: as_tensor(g) for v, g in (start or {}).items()}
    _check_floats([*wrt, *end], "subgraph_grad")
    if cost is not None:
        _check_cost(cost)
    outputs = [] if cost is None else stabilize([cost], [*wrt, *end, *known])
    found = vjp(outputs, [*wrt, *end], [as_tensor(1.0, cost.dtype)] if outputs else [], known,
                stop=end)
    zeros = FUNCTIONS["zeros_like"]
    results = [zeros(v) if g is None else g for g, v in zip(found, [*wrt, *end])]
    return results[:len(wrt)], results[len(wrt):]


def verify_grad(fun: Callable[..., Variable], pt: Sequence[Any], n_tests: int = 2,
                rng: np.random.Generator | int | None = None, eps: float | None = None,
                abs_tol: float | None = None, rel_tol: float | None = None) -> None:
    """Check a gradient against central differences, on random directions.

    Parameters
    ----------
    fun : callable
        Takes symbolic tensors, returns one.
    pt : sequence of array_like
        Where to check, one float array an argument.
    n_tests : int
        How many random directions.
    rng : numpy Generator or seed, optional
    eps : float, optional
        Step of the differences; default 1e-5 for float64 and 5e-3 for float32.
    abs_tol, rel_tol : float, optional
        Default 1e-4 for float64 and 1e-2 for float32; either suffices.

    Raises
    ------
    GradientError
        If the numbers disagree.
    DtypeError
        If a point is of float16 or bfloat16.

    Notes
    -----
    Everything runs in the reference interpreter: what is checked is the derivative, not the
    compiler.
    """
    points = [np.asarray(p) for p in pt]
    rng = np.random.default_rng(rng)
    inputs = [input_variable(p.dtype.name, [1 if n == 1 else None for n in p.shape])
              for p in points]
    _check_floats(inputs, "verify_grad")
    if any(v.dtype in HALVES for v in inputs):
        raise DtypeError(format_message(
            "verify_grad: differences of values with so few digits show no derivative.",
            values=", ".join(v.dtype for v in inputs), where=format_site(creation_site()),
            remedy="give points of float32 or float64"))
    output = fun(*inputs)
    is_single = any(p.dtype == np.float32 for p in points)
    eps = eps or (5e-3 if is_single else 1e-5)
    tolerances = [t or (1e-2 if is_single else 1e-4) for t in (abs_tol, rel_tol)]
    (value,) = evaluate([output], dict(zip(inputs, points)))
    for _ in range(n_tests):
        projection = rng.uniform(-1, 1, value.shape).astype(value.dtype)
        cost = FUNCTIONS["sum"](FUNCTIONS["mul"](output, Constant(projection)))
        gradients = grad(cost, inputs, disconnected_inputs="ignore")
        directions = [rng.uniform(-1, 1, p.shape).astype(p.dtype) for p in points]
        exact = sum(float(np.vdot(g, d)) for g, d in zip(
            evaluate(gradients, dict(zip(inputs, points))), directions))
        ahead, behind = (float(evaluate([cost], {
            v: p + p.dtype.type(sign * eps) * d
            for v, p, d in zip(inputs, points, directions)})[0]) for sign in (1, -1))
        differences = (ahead - behind) / (2 * eps)
        error = abs(exact - differences)
        if not (error <= tolerances[0]
                or error <= tolerances[1] * max(abs(exact), abs(differences))):
            raise GradientError(format_message(
                "The gradient disagrees with central differences.",
                values=f"gradient {exact:.9g}, differences {differences:.9g}, step {eps:g}",
                where=format_site(creation_site()),
                remedy="correct the derivative, or check at a point that is not a kink"))


# -- shared ----------------------------------------------------------------------------------------

Item = TypeVar("Item")


def _as_list(value: Any) -> list[Variable]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _structured(results: Sequence[Item], like: Any) -> Any:
    """Return results as one item, a list or a tuple, as ``like`` is."""
    if isinstance(like, tuple):
        return tuple(results)
    return list(results) if isinstance(like, list) else results[0]


def _sizes(variable: Variable) -> list[Variable]:
    return [FUNCTIONS["axis_size"](variable, axis) for axis in range(variable.ndim)]


def _check_actions(action: str, return_disconnected: str = "zero", null_gradients: str = "raise"
                   ) -> None:
    """Refuse misspelt choices, which would otherwise count as the most lenient one."""
    for given, choices in ((action, ("raise", "warn", "ignore")),
                           (str(return_disconnected).lower(), ("zero", "none", "disconnected")),
                           (null_gradients, ("raise", "return"))):
        if given not in choices:
            raise GradientError(format_message(
                f"There is no choice {given!r} of what to do about a missing gradient.",
                where=format_site(creation_site()), remedy=f"use one of {', '.join(choices)}"))


def _check_cost(cost: Any) -> None:
    if not isinstance(cost, Variable) or cost.ndim != 0 or not is_float(cost.dtype):
        is_variable = isinstance(cost, Variable)
        raise GradientError(format_message(
            "The gradient is taken of a float scalar.",
            values=f"the cost is {describe(cost)} {cost.type}" if is_variable else
            f"the cost is a {type(cost).__name__}",
            where=format_site(cost.site if is_variable else creation_site()),
            remedy="reduce it with .sum() or .mean(), or use jacobian or Lop"))


def _check_floats(variables: Sequence[Any], what: str) -> None:
    for variable in variables:
        if not isinstance(variable, Variable) or not is_float(variable.dtype):
            is_variable = isinstance(variable, Variable)
            raise GradientError(format_message(
                f"{what}: derivatives are with respect to symbolic float tensors.",
                values=f"{describe(variable)} {variable.type}" if is_variable
                else f"got {type(variable).__name__} {variable!r}"[:80],
                where=format_site(variable.site if is_variable else creation_site()),
                remedy="cast the variable to a float and differentiate with respect to that"
                if is_variable else "give a variable, or a list or tuple of variables"))


def _check_like(value: Variable, like: Variable, what: str) -> None:
    extra = like.ndim - value.ndim
    if extra < 0 or not is_float(like.dtype) or any(
            own != 1 and proves_different(own, wanted)
            for own, wanted in zip(value.type.dims, like.type.dims[extra:])):
        raise ShapeError(format_message(
            f"A {what} must have the shape of its float variable.",
            values=f"{describe(value)} {value.type} for {describe(like)} {like.type}",
            where=format_site(like.site), remedy="give a tensor of the same shape"))


def _pairs(variables: OneOrMany, points: OneOrMany, what: str, noun: str
           ) -> tuple[list[Variable], list[Variable]]:
    """Return variables and their eval_points, checked to fit each other."""
    left, right = _as_list(variables), [
        None if p is None else as_tensor(p) for p in _as_list(points)]
    if len(left) != len(right):
        raise GradientError(format_message(
            f"{what} needs one eval_point for each {noun}.",
            values=f"{len(left)} {noun}s, {len(right)} eval_points",
            where=format_site(creation_site()), remedy="give as many of both"))
    for variable, point in zip(left, right):
        if point is not None:
            _check_like(point, variable, "eval_point")
    return left, right


def _result(derivative: Variable | None, like: Variable, connected: bool, action: Action,
            return_disconnected: str, cost: Variable | None) -> Any:
    """Return a derivative as users see it: zeros for None, complaints where disconnected."""
    if derivative is UNDEFINED:
        return None
    if derivative is not None:
        return derivative
    if not connected:
        what = "does not depend on any variable of wrt" if cost is None else \
            f"is not needed to compute {describe(cost)}"
        message = format_message(
            f"{describe(like)} is disconnected: it {what}.", values=str(like.type),
            where=format_site(like.site),
            remedy="remove it, or pass disconnected_inputs='ignore' to get zeros"
            if cost is not None else "pass disconnected_outputs='ignore' to get zeros")
        if action == "raise":
            raise GradientError(message)
        if action == "warn":
            warnings.warn(message, stacklevel=3)
        if str(return_disconnected).lower() == "none":
            return None
        if str(return_disconnected).lower() == "disconnected":
            return DISCONNECTED
    return FUNCTIONS["zeros_like"](like)
