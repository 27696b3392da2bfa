"""Loops over sequences, with Theano's names and semantics."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from .compiler.dims import proves_equal
from .compiler.graph import Variable, creation_site, describe, format_site
from .compiler.operators import FUNCTIONS
from .compiler.ops.control import LoopIndex, map_loop
from .compiler.ops.op import as_tensor
from .runtime.errors import CompileError, ShapeError, format_message


def map(fn: Callable[..., Any], sequences: Any, non_sequences: Any = None,
        truncate_gradient: int = -1, go_backwards: bool = False, mode: Any = None,
        name: str | None = None) -> tuple[Any, OrderedDict]:
    """Apply ``fn`` to the elements of sequences: ``out[k] = fn(s[k], t[k], ..., *non_sequences)``.

    Parameters
    ----------
    fn : callable
        Takes one element of each sequence (without its first axis), then the non-sequences;
        returns a variable, or a list or tuple of variables.  It runs once, on symbols.
    sequences : tensor or list of tensors
        Of at least one axis; the shortest decides the number of steps.
    non_sequences : tensor or list of tensors, optional
        Handed to ``fn`` as they are.  ``fn`` may also use any other variable directly.
    go_backwards : bool
        Take the last element first.
    truncate_gradient, mode
        Accepted for Theano's sake: the steps are independent, so there is nothing to truncate.
    name : str, optional
        Of the index, in printouts.

    Returns
    -------
    outputs : Variable, or list of Variable
        The results stacked along a new first axis.
    updates : OrderedDict
        Empty; returned as Theano does.

    Raises
    ------
    ShapeError
        If a sequence is a scalar, or the shape of a result depends on the step.
    CompileError
        If ``fn`` returns updates, or nothing.

    Notes
    -----
    What does not depend on the step is computed once, before the loop.  That includes random
    numbers drawn inside ``fn``: draw them outside, one row a step, and pass them as a sequence.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.dmatrix('x')
    >>> outputs, updates = map(lambda row: row / row.sum(), x)
    >>> outputs.eval({x: [[1.0, 3.0], [2.0, 2.0]]})
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    """
    tensors = [as_tensor(s) for s in _as_list(sequences)]
    if not tensors:
        raise CompileError(format_message("map needs at least one sequence.",
                                          where=format_site(creation_site()),
                                          remedy="for a number of steps n pass T.arange(n)"))
    for tensor in tensors:
        if tensor.ndim == 0:
            raise ShapeError(format_message(
                "map goes over the first axis of each sequence.",
                values=f"{describe(tensor)} {tensor.type} has none",
                where=format_site(tensor.site), remedy="pass it in non_sequences"))
    count = _shortest(tensors)
    index = LoopIndex(count, name)
    place = FUNCTIONS["sub"](FUNCTIONS["sub"](count, 1), index) if go_backwards else index
    elements = [_element(tensor, place) for tensor in tensors]
    returned = fn(*elements, *(as_tensor(v) for v in _as_list(non_sequences)))
    results = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    if not results or any(result is None or isinstance(result, dict) for result in results):
        raise CompileError(format_message(
            "The function given to map returns variables only.", values=f"it returned {returned!r}",
            where=format_site(creation_site()),
            remedy="return a variable or a list of variables; state belongs in scan"))
    outputs = map_loop(index, [as_tensor(result) for result in results])
    return (outputs if isinstance(returned, (list, tuple)) else outputs[0]), OrderedDict()


def _element(sequence: Variable, place: Variable) -> Variable:
    """Return ``sequence[place]``; of a range it is a number, which sizes may depend on."""
    node = sequence.owner
    if node is None or node.op.name != "arange":
        return sequence[place]
    distance = FUNCTIONS["mul"](place, node.params["step"])
    return FUNCTIONS["add"](node.inputs[0], distance)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _shortest(tensors: Sequence[Variable]) -> Variable:
    """Return the length of the shortest sequence."""
    count = FUNCTIONS["axis_size"](tensors[0], 0)
    for tensor in tensors[1:]:
        if not proves_equal(tensor.type.dims[0], tensors[0].type.dims[0]):
            count = FUNCTIONS["minimum"](count, FUNCTIONS["axis_size"](tensor, 0))
    return count
