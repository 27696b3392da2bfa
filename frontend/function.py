"""``function``: from symbolic inputs and outputs to an ordinary callable."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .compiler.config import config, is_device
from .compiler.dims import Symbol, as_symbol
from .compiler.graph import (
    Constant, SharedBase, Variable, creation_site, describe, format_site, graph_inputs,
    input_variable, rebuild, toposort)
from .compiler.operators import FUNCTIONS
from .compiler.ops.op import as_tensor
from .runtime.artifact import Argument, Artifact
from .runtime.convert import Policy, convert_arguments
from .runtime.errors import CompileError, DtypeError, ShapeError, format_message

if TYPE_CHECKING:  # imported by the first function instead: importing tetractys stays quick
    from .compiler.pipeline import Options, Signature, Stages
    from .runtime.call import Executable

MAX_VARIANTS = 4
"""Variants compiled for sizes of their own; from then on one with all sizes symbolic serves."""

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


@dataclass(slots=True, eq=False)
class Variant:
    """Code for one choice of fixed sizes."""

    fixed: dict[Symbol, int]
    executable: Executable
    stages: Stages


class Function:
    """A compiled function; call it with one value an input.  Build it with :func:`function`.

    Code is made at the first call, for that call's sizes; a call with other sizes makes a variant
    in which the sizes that varied are symbolic.

    Attributes
    ----------
    name : str
    inputs, outputs : list of Variable
        As given (after ``givens``).
    variants : list of Variant
    """

    def __new__(cls, *args: Any) -> Function:
        # Each function is of a class of its own, whose ``__call__`` is the compiled entry itself:
        # Python then calls machine code with no Python frame in between.
        return object.__new__(type(cls.__name__, (cls,), {"__slots__": ()}))

    def __init__(self, signature: Signature, specs: Sequence[In], keys: list[str] | None,
                 single: bool, options: Options):
        self.signature, self.specs, self.options = signature, tuple(specs), options
        self.name = signature.name
        self.inputs, self.outputs = list(signature.inputs), list(signature.outputs)
        self.variants: list[Variant] = []
        self._keys, self._single = keys, single
        self._lock = threading.RLock()
        self._seen: list[dict[Symbol, int]] = []
        self._checked: set[tuple] = set()
        self._results = signature.results()
        self._guarded = any(node.guards for node in toposort(self._results))
        self._arguments = [Argument(spec.name or spec.variable.name or f"argument {k + 1}",
                                    spec.variable.dtype, (0,) * spec.variable.ndim,
                                    format_site(spec.variable.site))
                           for k, spec in enumerate(self.specs)]
        self._policies = [Policy(spec.strict, spec.allow_downcast) for spec in self.specs]
        self._storages = [v.storage for v in signature.shared]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; see :func:`function`."""
        return self._dispatch(*args, **kwargs)

    def __repr__(self) -> str:
        names = ", ".join(argument.name for argument in self._arguments)
        return f"<tetractys.Function {self.name}({names})>"

    def __reduce__(self):
        return _restore, (self.signature, self.specs, self._keys, self._single, self.options)

    # -- calling -----------------------------------------------------------------------------------

    def _dispatch(self, *args: Any, **kwargs: Any) -> Any:
        """Convert the arguments, find or make the variant for their sizes, and run it."""
        arrays = convert_arguments(self.name, self._arguments, self._policies,
                                   *self._with_defaults(args, kwargs))
        results = self._run(arrays)
        if self._keys is not None:
            return dict(zip(self._keys, results))
        return results

    def _run(self, arrays: list[np.ndarray]) -> Any:
        """Run the variant for the arguments' sizes and those the shared variables have now."""
        failed: dict[Symbol, int] | None = None
        while True:
            sizes = self._sizes(arrays)
            try:
                return self._variant(sizes).executable.run(arrays)
            except ShapeError:
                # Another thread may have changed the shape of a shared variable in between; the
                # same sizes failing twice are the caller's.
                if sizes == failed:
                    raise
                failed = sizes

    def _with_defaults(self, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if len(args) + len(kwargs) < len(self.specs):
            for argument, spec in list(zip(self._arguments, self.specs))[len(args):]:
                if spec.value is not None:
                    kwargs.setdefault(argument.name, spec.value)
        return args, kwargs

    def _sizes(self, arrays: Sequence[np.ndarray]) -> dict[Symbol, int]:
        """Return the value of every size symbol, and check the sizes that must agree."""
        values = [*arrays, *self._storages]
        sizes: dict[Symbol, int] = {}
        for variable, array in zip((*self.signature.inputs, *self.signature.shared), values):
            for axis, (dim, size) in enumerate(zip(variable.type.dims, array.shape)):
                symbol = as_symbol(dim)
                if symbol is not None:
                    sizes[symbol] = size
                elif dim != size:
                    raise ShapeError(format_message(
                        f"{self.name}: {describe(variable)} must have size {dim} on axis {axis}.",
                        values=f"{describe(variable)} {variable.type}, given an array of shape "
                               f"{array.shape}",
                        where=format_site(variable.site),
                        remedy="pass an array of the declared shape, or declare the axis as None"))
        if self._guarded:
            key = tuple(sizes.values())
            if key not in self._checked:
                from .compiler.pipeline import check_guards
                check_guards(self._results, sizes)
                if len(self._checked) < 10_000:
                    self._checked.add(key)
        return sizes

    def _made(self, sizes: dict[Symbol, int]) -> Variant | None:
        """Return the latest variant that serves these sizes."""
        for variant in reversed(self.variants):
            if all(sizes[symbol] == size for symbol, size in variant.fixed.items()):
                return variant
        return None

    def _variant(self, sizes: dict[Symbol, int]) -> Variant:
        variant = self._made(sizes)
        if variant is not None:
            return variant
        with self._lock:
            variant = self._made(sizes)  # by another thread, while this one waited
            if variant is not None:
                return variant
            self._seen.append(sizes)
            if len(self.variants) >= MAX_VARIANTS:
                fixed: dict[Symbol, int] = {}
            else:
                fixed = {symbol: size for symbol, size in sizes.items()
                         if all(seen[symbol] == size for seen in self._seen)}
            return self.compile(fixed)

    def compile(self, fixed: Mapping[Symbol, int] | None = None) -> Variant:
        """Compile a variant; sizes without a value in ``fixed`` are symbolic."""
        from .compiler.pipeline import compile_signature
        from .runtime import cache
        from .runtime.devices import make_entry, make_executable
        artifact, stages = compile_signature(
            self.signature, fixed or {}, self.options, cache)
        executable = make_executable(
            self._named(artifact), self.options.device, self._storages, self._policies,
            self._single, self.options.on_device)
        variant = Variant(dict(fixed or {}), executable, stages)
        with self._lock:
            self.variants.append(variant)
            if self._keys is None:
                type(self).__call__ = make_entry(executable, self._dispatch)
        return variant

    def _named(self, artifact: Artifact) -> Artifact:
        """Return the artifact with the names under which arguments can be passed."""
        inputs = tuple(replace(theirs, name=ours.name)
                       for theirs, ours in zip(artifact.inputs, self._arguments))
        return replace(artifact, inputs=inputs)

    # -- seeing ------------------------------------------------------------------------------------

    def explain(self, assembly: bool = False, file: Any = None) -> None:
        """Print the four levels: the graph, the program, its loops, and the code.

        Parameters
        ----------
        assembly : bool
            Also print the machine's assembly.
        file : file object, optional
            Default: standard output.
        """
        from .explain import explanation
        print(explanation(self, assembly), file=file)

    @property
    def memory(self) -> int | None:
        """Bytes of the arena of the last variant (None while symbolic or not yet compiled)."""
        if not self.variants:
            return None
        arena = self.variants[-1].stages.program.arena
        return arena if isinstance(arena, int) else None

    @property
    def seconds(self) -> dict[str, float]:
        """Compile time by pass, over all variants."""
        total: dict[str, float] = {}
        for variant in self.variants:
            for name, seconds in variant.stages.seconds.items():
                total[name] = total.get(name, 0.0) + seconds
        return total


def _restore(signature: Signature, specs: Sequence[In], keys: list[str] | None, single: bool,
             options: Options) -> Function:
    return Function(signature, specs, keys, single, options)


def function(inputs: Sequence[Variable | In], outputs: Any = None, updates: Updates = None,
             givens: Any = None, on_unused_input: str | None = None,
             allow_input_downcast: bool | None = None, mode: Any = None, name: str | None = None,
             no_default_updates: bool | Sequence[SharedBase] = False, device: str | None = None,
             on_device: bool = False) -> Function:
    """Compile a function.

    Parameters
    ----------
    inputs : sequence of Variable or In
    outputs : Variable, sequence, dict of str to Variable, or None
        What a call returns: one array, a list, a dict, or an empty list.
    updates : mapping or pairs of (shared variable, expression)
        New values of shared variables, all computed from the old ones, stored after the outputs.
    givens : mapping or pairs of (Variable, Variable)
        Substitutions made in all expressions before compiling.
    on_unused_input : {'raise', 'warn', 'ignore'}
        Default: ``config.on_unused_input``.
    allow_input_downcast : bool or None
        True: round arguments to the input's dtype.  None: only Python floats, to scalars.
        False: never.
    mode : str, Options or None
        ``'FAST_RUN'``, ``'FAST_COMPILE'``, ``'DebugMode'`` (every level is verified), or options.
    name : str, optional
        For messages.
    no_default_updates : bool or sequence of shared variables
        Do not apply ``default_update`` (of these).
    device : str, optional
        ``'cpu'``, ``'cuda'``, ``'cuda:1'``.  Default: ``config.device``.
    on_device : bool
        Return results as arrays in the device's memory, which other libraries take without a copy
        (DLPack, ``__cuda_array_interface__``), rather than as NumPy arrays.

    Returns
    -------
    Function

    Raises
    ------
    CompileError
        Missing, unused or repeated inputs; a cycle in ``givens``.
    DtypeError, ShapeError
        Updates or givens of the wrong type.

    Examples
    --------
    >>> import tetractys as tx
    >>> from tetractys import tensor as T
    >>> x = T.vector("x")
    >>> f = tx.function([x], (x ** 2).sum())
    >>> f([1.0, 2.0, 3.0])
    array(14.)
    """
    if not isinstance(inputs, Iterable) or isinstance(inputs, (Variable, str)):
        raise CompileError(format_message(
            "The inputs of a function are a list of variables.", values=repr(inputs),
            where=format_site(creation_site()), remedy="write tx.function([x], ...)"))
    from .compiler.pipeline import Signature
    specs = [_spec(given, allow_input_downcast) for given in inputs]
    keys = list(outputs) if isinstance(outputs, Mapping) else None
    results = _outputs(outputs)
    substitutions = _givens(givens)
    pairs = _updates(updates)
    if substitutions:
        replaced = rebuild([*results, *(value for _, value in pairs)], substitutions)
        results = replaced[:len(results)]
        pairs = [(shared, value) for (shared, _), value in zip(pairs, replaced[len(results):])]
    _add_default_updates(results, pairs, no_default_updates, substitutions)
    specs, results, pairs = _cut_at_inputs(specs, results, pairs)
    variables = [spec.variable for spec in specs]
    shared = _check_inputs(variables, results, pairs,
                           on_unused_input or config.on_unused_input, substitutions)
    position = {variable: k for k, variable in enumerate(shared)}
    signature = Signature(name or "function", tuple(variables), tuple(shared), tuple(results),
                          tuple((position[s], value) for s, value in pairs))
    single = isinstance(outputs, Variable) or (
        outputs is not None and not isinstance(outputs, (Mapping, list, tuple)))
    return Function(signature, specs, keys, single, _options(mode, device, on_device))


_MODES = {"FAST_RUN": {"optimize": "full"}, "FAST_COMPILE": {"optimize": "fast_compile"},
          "DEBUGMODE": {"verify": True}, "DEBUG_MODE": {"verify": True}}


def _options(mode: Any, device: str | None, on_device: bool) -> Options:
    """Return the options of a mode, on a device."""
    from .compiler.target import target_of
    from .runtime import blas
    options = _mode_options(mode)
    device = device or (config.device if options.device == "cpu" else options.device)
    if not is_device(device):
        raise CompileError(format_message(
            f"There is no device {device!r}.", remedy="use 'cpu', 'cuda' or 'cuda:1'"))
    return replace(options, device=device, on_device=on_device or options.on_device,
                   has_blas=target_of(device).has_products or (
                       options.has_blas and blas.available()))


def _mode_options(mode: Any) -> Options:
    from .compiler.pipeline import Options
    if isinstance(mode, Options):
        return mode
    if mode is None:
        return Options(optimize=config.optimize)
    if not isinstance(mode, str) or mode.upper() not in _MODES:
        raise CompileError(format_message(
            f"There is no mode {mode!r}.",
            remedy="use 'FAST_RUN', 'FAST_COMPILE', 'DebugMode', or an Options object"))
    return Options(**_MODES[mode.upper()])


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


def _outputs(outputs: Any) -> list[Variable]:
    if outputs is None:
        return []
    if isinstance(outputs, Mapping):
        return [as_tensor(value) for value in outputs.values()]
    if isinstance(outputs, (list, tuple)):
        return [as_tensor(value) for value in outputs]
    return [as_tensor(outputs)]


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
    result: list[tuple[SharedBase, Variable]] = []
    for shared, value in _pairs(updates, "updates"):
        if not isinstance(shared, SharedBase):
            raise CompileError(format_message(
                "Only shared variables can be updated.", values=repr(shared),
                where=format_site(creation_site()), remedy="make it with tx.shared(value)"))
        if any(shared is other for other, _ in result):
            raise CompileError(format_message(
                f"The shared variable {describe(shared)} has two updates.",
                where=format_site(shared.site), remedy="keep one of them"))
        result.append((shared, as_update(shared, value)))
    return result


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
                  pairs: Sequence[tuple[SharedBase, Variable]], on_unused: str,
                  substitutions: Mapping[Variable, Variable]) -> list[SharedBase]:
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
            warnings.warn(message, stacklevel=3)
    shared = [v for v in needed if isinstance(v, SharedBase)]
    shared += [s for s, _ in pairs if not any(s is v for v in shared)]
    return shared


def evaluate(variable: Variable, inputs_to_values: Mapping[Variable, Any] | None = None) -> Any:
    """Return the value of an expression, compiling it on first use (``variable.eval()``).

    Parameters
    ----------
    variable : Variable
    inputs_to_values : mapping of Variable to array_like
        A value for each input it depends on.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.scalar("x")
    >>> (x + 1).eval({x: 2.0})
    array(3.)
    """
    values = dict(inputs_to_values or {})
    return _evaluator(variable, tuple(values))(*values.values())


@lru_cache(maxsize=256)
def _evaluator(variable: Variable, inputs: tuple[Variable, ...]) -> Function:
    return function(list(inputs), variable, on_unused_input="ignore", no_default_updates=True,
                    name="eval")


FUNCTIONS["eval"] = evaluate
