"""Run a nest in Python, one element at a time, checking everything: the meaning of the language.

Enters: a nest, an array for each buffer it uses, a value for each free symbol.  The arrays are
changed in place.  What the language forbids is an ``InternalError`` naming the statement: an
element out of bounds, an element of a temporary or an output read before it is written, iterations
of a ``parallel`` or ``vector`` loop that depend on each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...runtime.artifact import InternalError
from ..dims import DimLike, Symbol, evaluate as evaluate_dim
from . import scalar
from .ir import (
    Accumulate, Buffer, Check, Const, Expr, For, If, Index, Let, Load, Local, Nest, Scalar, Stmt,
    Store,
)
from .math import FUNCTIONS, definition
from .text import statement_text
from .walk import postorder

Element = tuple[Buffer, int]
_SEVERAL = -1
_UNORDERED = ("parallel", "vector", "block", "thread")


@dataclass(slots=True)
class _Iteration:
    """Who touched which element in one running loop whose iterations must be independent."""

    mark: str
    current: int = 0
    readers: dict[Element, int] = field(default_factory=dict)
    writers: dict[Element, int] = field(default_factory=dict)

    def conflicts(self, element: Element, writing: bool) -> bool:
        """Record an access; return whether another iteration's access forbids it."""
        writer = self.writers.get(element, self.current)
        if not writing:
            reader = self.readers.setdefault(element, self.current)
            if reader != self.current:
                self.readers[element] = _SEVERAL
            return writer != self.current
        reader = self.readers.get(element, self.current)
        self.writers[element] = self.current
        return reader != self.current or (writer != self.current and self.mark != "vector")


def run_nest(nest: Nest, arrays: Mapping[Buffer, np.ndarray], symbols: Mapping[Symbol, int],
             failures: list[tuple[int, int]],
             written: dict[Buffer, np.ndarray] | None = None) -> None:
    """Run ``nest`` on ``arrays``.

    Parameters
    ----------
    nest : Nest
    arrays : mapping of Buffer to ndarray
        C-contiguous, one for the root of each buffer used; changed in place.
    symbols : mapping of Symbol to int
        The free symbols.
    failures : list of (code, value)
        Each failing ``Check`` appends to it.
    written : dict of Buffer to bool ndarray, optional
        For each root the flat elements written so far, kept from nest to nest; without it nothing
        of a temporary or an output counts as written.

    Raises
    ------
    InternalError
        If the nest breaks a rule of the language.
    """
    _Interpreter(nest, arrays, symbols, failures, {} if written is None else written).run()


class _Interpreter:
    """The state of one run: values of symbols and locals, accesses of the loops under way."""

    def __init__(self, nest: Nest, arrays: Mapping[Buffer, np.ndarray],
                 symbols: Mapping[Symbol, int], failures: list[tuple[int, int]],
                 written: dict[Buffer, np.ndarray]):
        self.nest, self.arrays, self.failures, self.written = nest, arrays, failures, written
        self.symbols = dict(symbols)
        self.locals: dict[Local, np.generic] = {}
        self.iterations: list[_Iteration] = []
        self.orders: dict[int, list[Expr]] = {}
        self.shapes: dict[Buffer, tuple[int, ...]] = {}

    def run(self) -> None:
        """Run the whole nest."""
        self.body(self.nest.body)

    def body(self, body: tuple[Stmt, ...]) -> None:
        """Run statements in order."""
        for stmt in body:
            self.statement(stmt)

    def statement(self, stmt: Stmt) -> None:
        """Run one statement."""
        if isinstance(stmt, For):
            self.loop(stmt)
        elif isinstance(stmt, If):
            if self.value(stmt.condition, stmt):
                self.body(stmt.body)
        elif isinstance(stmt, Store):
            self.write(stmt.buffer, stmt.position, self.value(stmt.value, stmt), stmt)
        elif isinstance(stmt, Accumulate):
            self.accumulate(stmt)
        elif isinstance(stmt, Let):
            value = self.value(stmt.value, stmt)
            if isinstance(stmt.target, Symbol):
                self.symbols[stmt.target] = int(value)
            else:
                self.locals[stmt.target] = value
        else:
            if not isinstance(stmt, Check):
                raise self.fault(stmt, "iterations that meet need all threads of a block at once")
            if not self.value(stmt.condition, stmt):
                self.failures.append((stmt.code, int(self.value(stmt.value, stmt))))

    def loop(self, stmt: For) -> None:
        """Run a loop, watching its iterations when they must be independent."""
        watched = stmt.mark in _UNORDERED
        if watched:
            self.iterations.append(_Iteration(stmt.mark))
        for index in range(self.dim(stmt.extent, stmt)):
            self.symbols[stmt.index] = index
            if watched:
                self.iterations[-1].current = index
            self.body(stmt.body)
        self.symbols.pop(stmt.index, None)
        if watched:
            self.iterations.pop()

    def accumulate(self, stmt: Accumulate) -> None:
        """Combine a value into a local or an element."""
        value = self.value(stmt.value, stmt)
        target = stmt.target
        if isinstance(target, Local):
            old = self.local(target, stmt)
            self.locals[target] = _primitive(stmt.combine, [old, value], target.dtype)
        else:
            old = self.read(target, stmt)
            self.write(target.buffer, target.position,
                       _primitive(stmt.combine, [old, value], target.dtype), stmt)

    def value(self, root: Expr, stmt: Stmt) -> np.generic:
        """Return the value of an expression."""
        order = self.orders.get(id(root))
        if order is None:
            order = self.orders[id(root)] = postorder(root)
        values: dict[int, np.generic] = {}
        for node in order:
            values[id(node)] = self.node(node, values, stmt)
        return values[id(root)]

    def node(self, node: Expr, values: dict[int, np.generic], stmt: Stmt) -> np.generic:
        """Return the value of one node, given those of its arguments."""
        if isinstance(node, Const):
            return np.asarray(node.value, node.dtype)[()]
        if isinstance(node, Index):
            return np.int64(self.dim(node.dim, stmt))
        if isinstance(node, Load):
            return self.read(node, stmt)
        if isinstance(node, Local):
            return self.local(node, stmt)
        assert isinstance(node, Scalar)
        return scalar_value(node, [values[id(arg)] for arg in node.args])

    def local(self, local: Local, stmt: Stmt) -> np.generic:
        """Return the value of a local."""
        if local not in self.locals:
            raise self.fault(stmt, f"local {local.name} has no value")
        return self.locals[local]

    def dim(self, dim: DimLike, stmt: Stmt) -> int:
        """Return the value of a dim."""
        try:
            return evaluate_dim(dim, self.symbols)
        except KeyError as error:
            raise self.fault(stmt, f"symbol {error.args[0]} has no value") from None

    def read(self, load: Load, stmt: Stmt) -> np.generic:
        """Return an element, which must have a value."""
        root, flat, place = self.element(load.buffer, load.position, stmt)
        if root.role in ("temporary", "output") and not self.mask(root)[flat]:
            raise self.fault(stmt, f"{place} is read before it is written")
        self.note((root, flat), False, place, stmt)
        return self.arrays[root].reshape(-1)[flat]

    def write(self, buffer: Buffer, position: tuple[DimLike, ...], value: np.generic,
              stmt: Stmt) -> None:
        """Set an element."""
        root, flat, place = self.element(buffer, position, stmt)
        self.note((root, flat), True, place, stmt)
        self.mask(root)[flat] = True
        self.arrays[root].reshape(-1)[flat] = value

    def element(self, buffer: Buffer, position: tuple[DimLike, ...],
                stmt: Stmt) -> tuple[Buffer, int, str]:
        """Return the root, flat index and name of an element, which must be in bounds."""
        shape = self.shapes.get(buffer)
        if shape is None:
            shape = self.shapes[buffer] = tuple(self.dim(dim, stmt) for dim in buffer.dims)
        index = tuple(self.dim(dim, stmt) for dim in position)
        place = f"{buffer.name}{list(index)}"
        if len(index) != len(shape):
            raise self.fault(stmt, f"{place} has {len(index)} indices for shape {shape}")
        flat = 0
        for at, size in zip(index, shape):
            if not 0 <= at < size:
                raise self.fault(stmt, f"{place} is outside shape {shape}")
            flat = flat * size + at
        return buffer.root(), flat, place

    def mask(self, root: Buffer) -> np.ndarray:
        """Return which elements of a root buffer have been written."""
        mask = self.written.get(root)
        if mask is None:
            mask = self.written[root] = np.zeros(self.arrays[root].size, bool)
        return mask

    def note(self, element: Element, writing: bool, place: str, stmt: Stmt) -> None:
        """Check an access against the independent loops under way."""
        for iteration in self.iterations:
            if iteration.conflicts(element, writing):
                deed = "writes" if writing else "reads"
                raise self.fault(
                    stmt, f"iteration {iteration.current} of a {iteration.mark} loop {deed} "
                          f"{place}, which another iteration uses")

    def fault(self, stmt: Stmt, what: str) -> InternalError:
        """Return the error for a broken rule."""
        return InternalError(f"nest {self.nest.name}: {what}\n  in: {statement_text(stmt)}")


def _primitive(name: str, values: list[np.generic], dtype: str) -> np.generic:
    return np.asarray(scalar.evaluate(name, values, dtype))[()]


def scalar_value(node: Scalar, values: list[np.generic]) -> np.generic:
    """Return the value of a primitive, or of a function by its definition."""
    if node.name not in FUNCTIONS:
        return _primitive(node.name, values, node.dtype)
    parameters, result = definition(node.name, node.dtype, len(values))
    known: dict[int, np.generic] = dict(zip(map(id, parameters), values))
    for inner in postorder(result):
        if isinstance(inner, Const):
            known[id(inner)] = np.asarray(inner.value, inner.dtype)[()]
        elif isinstance(inner, Scalar):
            known[id(inner)] = scalar_value(inner, [known[id(arg)] for arg in inner.args])
    return known[id(result)]
