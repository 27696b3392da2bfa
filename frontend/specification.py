"""What the user says about a function: checked, and made into lists of variables.

Enter inputs, outputs, updates and givens as ``function`` takes them; leave the specifications of
the inputs, the results, and the pairs of shared variable and new value.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from .compiler.config import config
from .compiler.graph import (
    Constant, SharedBase, Variable, creation_site, describe, format_site, graph_inputs,
    input_variable, rebuild, toposort)
from .compiler.ops.op import as_tensor
from .runtime.errors import CompileError, DtypeError, ShapeError, format_message

Updates: TypeAlias = "Mapping[SharedBase, Any] | Iterable[tuple[SharedBase, Any]] | None"


@dataclass(frozen=True, slots=True)
class In:
    """An input with options.

    Attributes
    ----------
    variable : Variable
    value : array_like, optional
        Default, used when the call leaves the argument out.
    name : str, optional
        Keyword under which it can be passed; default: the variable's name.
    strict : bool
        Accept only arrays of exactly the variable's dtype.
    allow_downcast : bool or None
        As ``allow_input_downcast`` of :func:`function`, for this input.
    """

    variable: Variable
    value: Any = None
    name: str | None = None
    strict: bool = False
    allow_downcast: bool | None = None


@dataclass(frozen=True, slots=True)
class Out:
    """An output with options.

    Attributes
    ----------
    variable : Variable
    borrow : bool
        The result lies in memory that the function keeps: the next call writes the same array
        again, unless sizes changed, the array is among that call's arguments, or another thread's
        call was running.  So read or copy a borrowed result before anyone calls the function
        again.  Two calls that run at the same time never write to one array.

    Examples
    --------
    >>> import tetractys as tx
    >>> from tetractys import tensor as T
    >>> x = T.vector("x")
    >>> f = tx.function([x], tx.Out(2 * x, borrow=True))
    >>> first = f(np.ones(2))
    >>> f(np.zeros(2)) is first
    True
    """

    variable: Any
    borrow: bool = False


class Specification(NamedTuple):
    """A function, checked.

    Attributes
    ----------
    inputs : tuple of In
    outputs : tuple of Variable
    keys : tuple of str or None
        Of the outputs, when they are returned as a dict.
    single : bool
        Whether the only output is returned itself.
    borrowed : frozenset of int
        Outputs returned in memory that is used again.
    shared : tuple of SharedBase
        All that are read or updated.
    updates : tuple of (SharedBase, Variable)
    """

    inputs: tuple[In, ...]
    outputs: tuple[Variable, ...]
    keys: tuple[str, ...] | None
    single: bool
    borrowed: frozenset[int]
    shared: tuple[SharedBase, ...]
    updates: tuple[tuple[SharedBase, Variable], ...]


def specify(inputs: Sequence[Variable | In], outputs: Any, updates: Updates, givens: Any,
            on_unused_input: str | None, allow_input_downcast: bool | None,
            no_default_updates: bool | Sequence[SharedBase]) -> Specification:
    """Check the arguments of :func:`tetractys.function`, whose documentation explains them.

    Raises
    ------
    CompileError, DtypeError, ShapeError
    """
    if not isinstance(inputs, Iterable) or isinstance(inputs, (Variable, str)):
        raise CompileError(format_message(
            "The inputs of a function are a list of variables.", values=repr(inputs),
            where=format_site(creation_site()), remedy="write tx.function([x], ...)"))
    specs = [_spec(given, allow_input_downcast) for given in inputs]
    results, borrowed = _outputs(outputs)
    substitutions = _givens(givens)
    pairs = _updates(updates)
    if substitutions:
        replaced = rebuild([*results, *(value for _, value in pairs)], substitutions)
        results = replaced[:len(results)]
        pairs = [(shared, value) for (shared, _), value in zip(pairs, replaced[len(results):])]
    _add_default_updates(results, pairs, no_default_updates, substitutions)
    specs, results, pairs = _cut_at_inputs(specs, results, pairs)
    shared = _check_inputs([spec.variable for spec in specs], results, pairs,
                           on_unused_input or config.on_unused_input)
    single = outputs is not None and not isinstance(outputs, (Mapping, list, tuple))
    return Specification(
        tuple(specs), tuple(results), tuple(outputs) if isinstance(outputs, Mapping) else None,
        single, borrowed, tuple(shared), tuple(pairs))


def _spec(given: Variable | In, allow_downcast: bool | None) -> In:
    spec = given if isinstance(given, In) else In(given, allow_downcast=allow_downcast)
    if not isinstance(spec.variable, Variable) or isinstance(spec.variable, (Constant, SharedBase)):
        kind = "shared variable" if isinstance(spec.variable, SharedBase) else "constant" \
            if isinstance(spec.variable, Constant) else type(spec.variable).__name__
        raise CompileError(format_message(
            f"A {kind} cannot be an input of a function.", values=repr(spec.variable),
            where=format_site(creation_site()),
            remedy="inputs are symbolic variables such as T.matrix('x'); shared variables are "
                   "found by themselves, and replaced with givens"))
    return spec


def _outputs(outputs: Any) -> tuple[list[Variable], frozenset[int]]:
    """Return the outputs' variables, and which of them are borrowed."""
    if outputs is None:
        outputs = []
    elif isinstance(outputs, Mapping):
        outputs = outputs.values()
    elif not isinstance(outputs, (list, tuple)):
        outputs = [outputs]
    outs = [given if isinstance(given, Out) else Out(given) for given in outputs]
    return ([as_tensor(out.variable) for out in outs],
            frozenset(k for k, out in enumerate(outs) if out.borrow))


def _pairs(given: Any, name: str) -> list[tuple[Any, Any]]:
    """Return the pairs of ``updates`` or ``givens``."""
    if given is None:
        return []
    try:
        return [(old, new) for old, new in
                (given.items() if isinstance(given, Mapping) else given)]
    except (TypeError, ValueError) as error:
        raise CompileError(format_message(
            f"{name} is neither a dict nor a list of pairs.", values=repr(given),
            where=format_site(creation_site()),
            remedy=f"write {name}=[(variable, value), ...]")) from error


def _updates(updates: Updates) -> list[tuple[SharedBase, Variable]]:
    result: dict[SharedBase, Variable] = {}
    for shared, value in _pairs(updates, "updates"):
        if not isinstance(shared, SharedBase):
            raise CompileError(format_message(
                "Only shared variables can be updated.", values=repr(shared),
                where=format_site(creation_site()), remedy="make it with tx.shared(value)"))
        if shared in result:
            raise CompileError(format_message(
                f"The shared variable {describe(shared)} has two updates.",
                where=format_site(shared.site), remedy="keep one of them"))
        result[shared] = as_update(shared, value)
    return list(result.items())


def as_update(shared: SharedBase, value: Any) -> Variable:
    """Return the new value of a shared variable as a variable of its dtype and rank.

    Raises
    ------
    DtypeError
        Naming the first expression that had the wrong dtype.
    ShapeError
        When the number of axes differs.
    """
    new = value if isinstance(value, Variable) else as_tensor(value, shared.dtype)
    if new.dtype != shared.dtype:
        culprit = _first_of_dtype(new, new.dtype)
        raise DtypeError(format_message(
            f"The update of {describe(shared)} has dtype {new.dtype}, the variable {shared.dtype}.",
            values=f"the first expression of dtype {new.dtype} is {describe(culprit)}"
                   + (f", built at {format_site(culprit.site)}" if culprit.site else ""),
            where=format_site(new.site),
            remedy=f"cast there, or here: T.cast(update, {shared.dtype!r})"))
    if new.ndim != shared.ndim:
        raise ShapeError(format_message(
            f"The update of {describe(shared)} has {new.ndim} axes, the variable {shared.ndim}.",
            where=format_site(new.site), remedy="reshape or broadcast the update"))
    return new


def _first_of_dtype(variable: Variable, dtype: str) -> Variable:
    """Return the input or expression that first brought a dtype into an expression."""
    for source in graph_inputs([variable]):
        if source.dtype == dtype and not (isinstance(source, Constant) and source.ndim == 0):
            return source
    for node in toposort([variable]):
        if node.outputs[0].dtype == dtype and not any(
                source.dtype == dtype and source.owner is not None for source in node.inputs):
            return node.outputs[0]
    return variable


def _givens(givens: Any) -> dict[Variable, Variable]:
    """Return substitutions with chains resolved; refuse cycles and wrong types."""
    pairs: dict[Variable, Variable] = {}
    for old, new in _pairs(givens, "givens"):
        if not isinstance(old, Variable):
            raise CompileError(format_message(
                "givens replaces variables.", values=repr(old),
                where=format_site(creation_site()), remedy="give pairs (variable, replacement)"))
        new = new if isinstance(new, Variable) else as_tensor(new, old.dtype)
        if new.dtype != old.dtype or new.ndim != old.ndim:
            raise DtypeError(format_message(
                f"givens cannot replace {describe(old)} by {describe(new)}.",
                values=f"{old.type} and {new.type}", where=format_site(creation_site()),
                remedy="give a replacement of the same dtype and number of axes"))
        pairs[old] = new
    resolved: dict[Variable, Variable] = {}
    waiting = dict(pairs)
    while waiting:
        ready = [old for old, new in waiting.items() if not any(
            source in waiting and source is not old for source in _sources(new, waiting))]
        if not ready:
            names = ", ".join(describe(old) for old in waiting)
            raise CompileError(format_message(
                "givens has a cycle: each replacement needs another one.", values=names,
                where=format_site(creation_site()),
                remedy="replace by expressions of variables that are not replaced themselves"))
        for old in ready:
            others = {k: v for k, v in resolved.items() if k is not old}
            resolved[old] = rebuild([waiting.pop(old)], others)[0]
    return resolved


def _sources(variable: Variable, keys: Mapping[Variable, Any]) -> list[Variable]:
    """Return the variables an expression is made of that are keys."""
    found = [variable] if variable in keys else []
    for node in toposort([variable]):
        found += [source for source in node.inputs if source in keys]
    return found


def _add_default_updates(results: list[Variable], pairs: list[tuple[SharedBase, Variable]],
                         excluded: bool | Sequence[SharedBase],
                         substitutions: Mapping[Variable, Variable]) -> None:
    if excluded is True:
        return
    skip = list(excluded) if excluded else []
    known = {id(shared) for shared, _ in pairs} | {id(v) for v in skip}
    pending = [*results, *(value for _, value in pairs)]
    while pending:
        found = [v for v in graph_inputs(pending)
                 if isinstance(v, SharedBase) and v.default_update is not None
                 and id(v) not in known]
        pending = []
        for variable in found:
            known.add(id(variable))
            value = rebuild([as_update(variable, variable.default_update)], substitutions)[0]
            pairs.append((variable, value))
            pending.append(value)


def _cut_at_inputs(specs: list[In], results: list[Variable],
                   pairs: list[tuple[SharedBase, Variable]]
                   ) -> tuple[list[In], list[Variable], list[tuple[SharedBase, Variable]]]:
    """Allow expressions as inputs: what they were computed from no longer matters."""
    computed = {spec.variable: input_variable(spec.variable.dtype, spec.variable.type.shape,
                                              spec.variable.name)
                for spec in specs if spec.variable.owner is not None}
    if not computed:
        return specs, results, pairs
    new = rebuild([*results, *(value for _, value in pairs)], computed)
    specs = [replace(spec, variable=computed.get(spec.variable, spec.variable)) for spec in specs]
    return specs, new[:len(results)], [
        (shared, value) for (shared, _), value in zip(pairs, new[len(results):])]


def _check_inputs(variables: Sequence[Variable], results: Sequence[Variable],
                  pairs: Sequence[tuple[SharedBase, Variable]], on_unused: str
                  ) -> list[SharedBase]:
    """Refuse repeated, missing and unused inputs; return the shared variables, in order."""
    if on_unused not in ("raise", "warn", "ignore"):
        raise CompileError(format_message(
            f"on_unused_input cannot be {on_unused!r}.", where=format_site(creation_site()),
            remedy="use 'raise', 'warn' or 'ignore'"))
    given = {id(v) for v in variables}
    if len(given) != len(variables):
        twice = next(v for k, v in enumerate(variables) if v in variables[:k])
        raise CompileError(format_message(
            f"The input {describe(twice)} is listed twice.", where=format_site(twice.site),
            remedy="list every input once"))
    every = [*results, *(value for _, value in pairs)]
    needed = graph_inputs(every)
    for variable in needed:
        if not isinstance(variable, (Constant, SharedBase)) and id(variable) not in given:
            needs = next((describe(r) for r in every if variable in graph_inputs([r])), "")
            raise CompileError(format_message(
                f"The input {describe(variable)} is missing.",
                values=f"{variable.type}, needed for {needs}", where=format_site(variable.site),
                remedy="add it to the function's inputs, or give its value with givens"))
    used = {id(v) for v in needed}
    for variable in variables:
        if id(variable) not in used and on_unused != "ignore":
            message = format_message(
                f"The input {describe(variable)} is not used by any output or update.",
                where=format_site(variable.site),
                remedy="remove it, or pass on_unused_input='ignore'")
            if on_unused == "raise":
                raise CompileError(message)
            warnings.warn(message, stacklevel=4)
    return list(dict.fromkeys(
        [*(v for v in needed if isinstance(v, SharedBase)), *(s for s, _ in pairs)]))
