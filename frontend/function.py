"""``function``: from symbolic inputs and outputs to an ordinary callable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import is_not
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler.config import config, is_device
from .compiler.dims import Symbol, as_symbol
from .compiler.graph import (
    SharedBase, Variable, creation_site, describe, format_site, toposort)
from .compiler.operators import FUNCTIONS
from .profile import Profile
from .runtime.artifact import Argument, Artifact
from .runtime.convert import Policy, convert, convert_arguments
from .runtime.errors import CallError, CompileError, ShapeError, format_message
from .runtime.processors import MOST_THREADS
from .specification import In, Specification, Updates, specify

if TYPE_CHECKING:  # imported by the first function instead: importing tetractys stays quick
    from .compiler.signature import Options, Stages
    from .runtime.call import Executable
    from .runtime.convert import Converter
    from .runtime.memory import MemoryUse

MAX_VARIANTS = 4
"""Variants compiled for sizes of their own; from then on one with all sizes symbolic serves."""

@dataclass(slots=True, eq=False)
class Variant:
    """Code for one choice of fixed sizes."""

    fixed: dict[Symbol, int]
    executable: Executable
    stages: Stages
    seconds: float = 0.0


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
    profile : Profile
        Where the time of compiling went and, with ``profile=True``, that of calls.
    """

    def __new__(cls, *args: Any) -> Function:
        # Each function is of a class of its own, whose ``__call__`` is the compiled entry itself:
        # Python then calls machine code with no Python frame in between.
        return object.__new__(type(cls.__name__, (cls,), {"__slots__": ()}))

    def __init__(self, specification: Specification, name: str, options: Options,
                 threads: int | None = None, counts_calls: bool = False):
        from .compiler.signature import Signature
        position = {variable: k for k, variable in enumerate(specification.shared)}
        self.signature = Signature(
            name, tuple(spec.variable for spec in specification.inputs), specification.shared,
            specification.outputs,
            tuple((position[shared], value) for shared, value in specification.updates))
        self.specification, self.options, self.threads = specification, options, threads
        self.name = name
        self.inputs, self.outputs = list(self.signature.inputs), list(self.signature.outputs)
        self.variants: list[Variant] = []
        self.profile, self._counts_calls = Profile(self), counts_calls
        self._specs = specification.inputs
        self._lock = threading.RLock()
        self._seen: list[dict[Symbol, int]] = []
        self._checked: set[tuple] = set()
        self._results = self.signature.results()
        self._guarded = any(node.guards for node in toposort(self._results))
        self._arguments = [Argument(spec.name or spec.variable.name or f"argument {k + 1}",
                                    spec.variable.dtype, (0,) * spec.variable.ndim,
                                    format_site(spec.variable.site))
                           for k, spec in enumerate(self._specs)]
        self._takes_out = all(argument.name != "out" for argument in self._arguments)
        self._trust_input = False
        self._converter: Converter | None = None  # known when a device is first used
        self._compiled: Callable[..., Any] | None = None
        self._enters_later = False  # whether calls will stay in compiled code, once that is loaded
        self._storages = [v.storage for v in self.signature.shared]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; see :func:`function`."""
        return self._dispatch(*args, **kwargs)

    def __repr__(self) -> str:
        names = ", ".join(argument.name for argument in self._arguments)
        return f"<tetractys.Function {self.name}({names})>"

    def __reduce__(self):
        return _restore, (self.specification, self.name, self.options, self.threads,
                          self._counts_calls)

    # -- calling -----------------------------------------------------------------------------------

    def _dispatch(self, *args: Any, **kwargs: Any) -> Any:
        """Convert the arguments, find or make the variant for their sizes, and run it."""
        if self._enters_later:
            self._enter_once_loaded()
        out = kwargs.pop("out", None) if self._takes_out else None
        if self._converter is None:
            from .runtime.devices import converter_for
            self._converter = converter_for(self.options.device)
        arrays = convert_arguments(self.name, self._arguments, self._policies,
                                   *self._with_defaults(args, kwargs), self._converter)
        if self._compiled is not None and (kwargs or any(map(is_not, arrays, args))):
            # They are what compiled code takes now; if not for their sizes, they come back as they
            # are.
            return self._compiled(*arrays) if out is None else self._compiled(*arrays, out=out)
        return self._run(arrays, out)

    def _run(self, arrays: list[np.ndarray], out: Any = None) -> Any:
        """Run the variant for the arguments' sizes and those the shared variables have now."""
        failed: dict[Symbol, int] | None = None
        while True:
            sizes = self._sizes(arrays)
            try:
                return self._variant(sizes).executable.run(arrays, out)
            except ShapeError:
                # Another thread may have changed the shape of a shared variable in between; the
                # same sizes failing twice are the caller's.
                if sizes == failed:
                    raise
                failed = sizes

    def _with_defaults(self, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if len(args) + len(kwargs) < len(self._specs):
            for argument, spec in list(zip(self._arguments, self._specs))[len(args):]:
                if spec.value is not None:
                    kwargs.setdefault(argument.name, spec.value)
        return args, kwargs

    @property
    def _policies(self) -> list[Policy]:
        if self._trust_input:
            return [Policy(allow_downcast=True)] * len(self._specs)
        return [Policy(spec.strict, spec.allow_downcast) for spec in self._specs]

    @property
    def trust_input(self) -> bool:
        """Whether arguments are taken without asking if their conversion keeps their values.

        Theano's switch. When True, what is not yet an array of the right dtype is cast as NumPy's
        ``astype`` casts, whatever ``strict`` and ``allow_downcast`` say. Types, dtypes, ranks,
        layouts and sizes are read at every call either way: they cost a few nanoseconds, and
        without them a wrong argument would be a wrong memory access.
        """
        return self._trust_input

    @trust_input.setter
    def trust_input(self, trusted: bool) -> None:
        """Set it, for the calls that start from now on."""
        with self._lock:
            self._trust_input = bool(trusted)
            for variant in self.variants:
                variant.executable.policies = tuple(self._policies)
            self._enter()

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
                from .compiler.signature import check_guards
                check_guards(self._results, sizes)
                if len(self._checked) < 10_000:
                    self._checked.add(key)
        return sizes

    def _made(self, sizes: dict[Symbol, int]) -> Variant | None:
        """Return the variant with the most sizes fixed that serves these, the latest of several."""
        for variant in self._ordered():
            if all(sizes[symbol] == size for symbol, size in variant.fixed.items()):
                return variant
        return None

    def _ordered(self) -> list[Variant]:
        """Return the variants, those for few sizes before those for many."""
        return sorted(reversed(self.variants), key=lambda variant: -len(variant.fixed))

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
            return self.compile(fixed, sizes)

    def compile(self, fixed: Mapping[Symbol, int] | None = None,
                hints: Mapping[Symbol, int] | None = None) -> Variant:
        """Compile a variant.

        Parameters
        ----------
        fixed : mapping of Symbol to int
            Sizes known to the code; the others are symbolic.
        hints : mapping of Symbol to int
            Sizes at which a memory budget is judged.
        """
        from .compiler.lookup import find_or_compile
        from .runtime import cache
        from .runtime.devices import make_executable
        start = time.perf_counter()
        options = self.options
        if options.memory_budget is not None:
            options = replace(options, size_hints=dict(hints or {}))
        store = None if cache.folder() is None else cache
        artifact, stages = find_or_compile(self.signature, fixed or {}, options, store)
        with stages.timed("link"):
            executable = make_executable(
                self._named(artifact), options.device, self._storages, self._policies,
                self.specification.single, self.specification.keys, self.specification.borrowed,
                self.threads, options.on_device)
        variant = Variant(dict(fixed or {}), executable, stages)
        with self._lock, stages.timed("entry"):
            self.variants.append(variant)
            self._enter()
        variant.seconds = time.perf_counter() - start
        return variant

    def _enter(self) -> None:
        """Make ``__call__`` the chain of the variants' entries, which ends in the careful path.

        Until the code of the entries is loaded, which no first call waits for, that path is all.
        """
        from .runtime import cpu_support
        careful = self._dispatch
        entry: Any = careful
        on_cpu = self.options.device == "cpu"
        self._enters_later = on_cpu and bool(self.variants) and not cpu_support.is_loaded()
        if on_cpu and not self._enters_later:
            from .runtime.cpu_entry import make_entry
            defaults = [self._default(*pair) for pair in zip(self._specs, self._arguments)]
            for variant in reversed(self._ordered()):
                entry = make_entry(variant.executable, careful, entry, defaults)
        self._compiled = None if entry is careful else entry
        if self._counts_calls:
            entry = staticmethod(self.profile.counted(entry))
        type(self).__call__ = entry

    def _enter_once_loaded(self) -> None:
        """Begin to load the code of the entries, or, when that is done, make them."""
        from .runtime import cpu_support
        # Whoever holds the lock compiles a variant, and enters after that.
        if cpu_support.load_beside() and self._lock.acquire(blocking=False):
            try:
                self._enter()
            finally:
                self._lock.release()

    def _default(self, spec: In, argument: Argument) -> np.ndarray | None:
        """Return a default as an array; None when there is none, or a call will have to refuse it.
        """
        try:
            return None if spec.value is None else convert(
                spec.value, argument, Policy(spec.strict, spec.allow_downcast))
        except CallError:
            return None

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

    def release_memory(self) -> None:
        """Give memory kept between calls back to the system.

        That is this function's temporaries and borrowed outputs, and the blocks of dead results,
        which all functions share. The next call allocates anew.
        """
        from .runtime import cpu_blocks
        for variant in self.variants:
            variant.executable.release_memory()
        cpu_blocks.release()

    @property
    def memory(self) -> MemoryUse | None:
        """Bytes the variant compiled last uses in a call (None before the first call).

        ``f.variants[k].executable.memory`` has those of the others. Where sizes are symbolic they
        are those of a call: of the last that was unusual, such as the first.
        """
        return self.variants[-1].executable.memory if self.variants else None

    @property
    def seconds(self) -> dict[str, float]:
        """Compile time by pass, over all variants."""
        total: dict[str, float] = {}
        for variant in self.variants:
            for name, seconds in variant.stages.seconds.items():
                total[name] = total.get(name, 0.0) + seconds
        return total


def _restore(*parts: Any) -> Function:
    return Function(*parts)


def function(inputs: Sequence[Variable | In], outputs: Any = None, updates: Updates = None,
             givens: Any = None, on_unused_input: str | None = None,
             allow_input_downcast: bool | None = None, mode: Any = None, name: str | None = None,
             no_default_updates: bool | Sequence[SharedBase] = False,
             threads: int | None = None, memory_budget: int | None = None,
             profile: bool = False, device: str | None = None,
             on_device: bool = False) -> Function:
    """Compile a function.

    Parameters
    ----------
    inputs : sequence of Variable or In
    outputs : Variable or Out, sequence, dict of str to Variable or Out, or None
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
    threads : int, optional
        Most threads a call uses, its own included, for parallel loops and matrix products. Default:
        as :func:`set_num_threads` says. Results do not depend on it.
    memory_budget : int, optional
        Bytes that temporaries may take. Where they would take more, values that a gradient needs
        late are computed twice rather than kept, which changes no bit of the results. The first
        call raises CompileError, stating the bytes it takes, if that is not enough.
    profile : bool
        Count and time the calls, for ``f.profile``, which tells also where the time of compiling
        went.  A counted call takes a microsecond longer.
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
        A number of threads or a budget below 1; missing, unused or repeated inputs; a cycle in
        ``givens``.
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
    specification = specify(inputs, outputs, updates, givens, on_unused_input,
                            allow_input_downcast, no_default_updates)
    _check_limit("threads", threads, MOST_THREADS)
    _check_limit("memory_budget", memory_budget, 1 << 62)
    options = _options(mode, device, on_device)
    if memory_budget is not None:
        options = replace(options, memory_budget=memory_budget)
    return Function(specification, name or "function", options, threads, profile)


def _check_limit(name: str, limit: Any, most: int) -> None:
    """Refuse what is neither None nor a positive integer."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)
                              or not 1 <= limit <= most):
        raise CompileError(format_message(
            f"A function cannot run with {name}={limit!r}.", where=format_site(creation_site()),
            remedy=f"give an integer from 1 to {most}, or leave it out"))


_MODES = {"FAST_RUN": {"optimize": "full"}, "FAST_COMPILE": {"optimize": "fast_compile"},
          "DEBUGMODE": {"verify": True}, "DEBUG_MODE": {"verify": True}}


def _options(mode: Any, device: str | None, on_device: bool) -> Options:
    """Return the options of a mode, on a device."""
    from .runtime import blas, processors
    options = _mode_options(mode)
    device = device or (config.device if options.device == "cpu" else options.device)
    if not is_device(device):
        raise CompileError(format_message(
            f"There is no device {device!r}.", remedy="use 'cpu', 'cuda' or 'cuda:1'"))
    precision = options.float32_matmul_precision
    if precision == "highest":
        precision = config.float32_matmul_precision
    gpu_blas = config.gpu_blas if options.gpu_blas == "never" else options.gpu_blas
    return replace(options, device=device, on_device=on_device or options.on_device,
                   float32_matmul_precision=precision, gpu_blas=gpu_blas,
                   has_blas=options.has_blas and blas.available(),
                   cpus=options.cpus or processors.planned_cpus())


def _mode_options(mode: Any) -> Options:
    from .compiler.signature import Options
    if isinstance(mode, Options):
        return mode
    if mode is None:
        return Options(optimize=config.optimize)
    if not isinstance(mode, str) or mode.upper() not in _MODES:
        raise CompileError(format_message(
            f"There is no mode {mode!r}.",
            remedy="use 'FAST_RUN', 'FAST_COMPILE', 'DebugMode', or an Options object"))
    return Options(**_MODES[mode.upper()])


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
