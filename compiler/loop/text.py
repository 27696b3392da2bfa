"""Nests as text: for people, and as the key under which equal kernels are compiled once.

The text determines the code: dtypes, dims, marks and the exact values of constants are in it.  In
the *key*, buffers and symbols are numbered by first appearance, so it does not depend on names;
what the code does not depend on (the first dim of a buffer, its role) is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..dims import Call, DimLike, Symbol
from .ir import (
    Accumulate, Await, Barrier, Buffer, Check, Commit, Const, Expr, Fetch, For, If, Index, Let,
    Load, LoadMatrices, Local, Multiply, Nest, Scalar, Shuffle, Stmt, Store,
)
from .walk import bound_symbols, children, operands, postorder, stable_expressions

_INFIX = {"floordiv": "//", "mod": "%"}
_INDENT = "  "
LONGEST = 60
"""Characters from which on an operation gets a line and a name of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """A nest up to names.

    Attributes
    ----------
    key : str
        Equal for nests that compile to the same code.
    buffers : tuple of Buffer
        The buffers used, in the order the key numbers them.
    symbols : tuple of Symbol
        The free symbols, likewise.
    """

    key: str
    buffers: tuple[Buffer, ...]
    symbols: tuple[Symbol, ...]


class Names:
    """Distinct names for buffers, symbols and locals, given out by first appearance."""

    def __init__(self, canonical: bool):
        self.canonical = canonical
        self.of: dict[Buffer | Symbol | Local, str] = {}
        self._taken: set[str] = set()
        self._counts: Counter[str] = Counter()

    def __call__(self, item: Buffer | Symbol | Local) -> str:
        """Return the name of ``item``, giving it one when it is new."""
        name = self.of.get(item)
        if name is None:
            stem = self._letter(item) if self.canonical else \
                repr(item) if isinstance(item, Symbol) else item.name
            name = f"{stem}0" if self.canonical else stem
            while name in self._taken:
                self._counts[stem] += 1
                name = f"{stem}{'' if self.canonical else '_'}{self._counts[stem]}"
            self._taken.add(name)
            self.of[item] = name
        return name

    @staticmethod
    def _letter(item: Buffer | Symbol | Local) -> str:
        return "b" if isinstance(item, Buffer) else "s" if isinstance(item, Symbol) else "v"


def dim_text(dim: DimLike, names: Names) -> str:
    """Return a dim as text over the given names; equal dims give equal text."""
    if isinstance(dim, int):
        return str(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [_atom_text(atom, names) for atom, power in monomial for _ in range(power)]
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient))
        terms.append((-len(monomial), "*".join(factors)))
    return " + ".join(text for _, text in sorted(terms)).replace("+ -", "- ")


def _atom_text(atom: Symbol | Call, names: Names) -> str:
    if isinstance(atom, Symbol):
        return names(atom)
    left, right = (dim_text(arg, names) for arg in atom.args)
    if atom.function in _INFIX:
        return f"(({left}) {_INFIX[atom.function]} ({right}))"
    return f"{atom.function}({left}, {right})"


def const_text(const: Const) -> str:
    """Return a literal with its dtype; ``repr`` of a float is exact."""
    return f"{const.value!r}:{const.dtype}"


class ExpressionText:
    """The expressions of a nest as text, in which what is shared or long gets a name of its own.

    Subclasses say how a node is written (:meth:`node`), which nodes get names (:meth:`is_named`)
    and how (:meth:`declared`).  They push and pop ``scopes`` as they enter and leave bodies.

    Attributes
    ----------
    stable : set of int
        Expressions, by ``id``, whose names later statements may use.
    scopes : list of dict
        The names in each enclosing body, by ``id`` of the expression.
    temporaries : int
        How many names there are.
    """

    def __init__(self, nest: Nest):
        self.stable = stable_expressions(nest)
        self.scopes: list[dict[int, str]] = [{}]
        self.temporaries = 0

    def expressions(self, roots: tuple[Expr, ...], values: list[str]) -> Iterator[str]:
        """Yield the declarations of what gets a name; append the texts of ``roots``."""
        order = postorder(*roots, known=lambda node: self.known(node) is not None)
        uses: dict[int, int] = {}
        for node in order:
            for child in children(node):
                uses[id(child)] = uses.get(id(child), 0) + 1
        text: dict[int, str] = {}
        for node in order:
            rendered = self.node(node, text)
            if self.is_named(node, rendered, uses.get(id(node), 0) > 1, roots):
                name, line = self.declared(node, rendered)
                self.temporaries += 1
                yield line
                rendered = name
                if id(node) in self.stable:
                    self.scopes[-1][id(node)] = name
            text[id(node)] = rendered
        values.extend(text.get(id(root)) or self.known(root) for root in roots)

    def known(self, node: Expr) -> str | None:
        """Return the name an expression got in this scope or around it."""
        for scope in reversed(self.scopes):
            if id(node) in scope:
                return scope[id(node)]
        return None

    def node(self, node: Expr, text: dict[int, str]) -> str:
        """Return one node, given the texts of its arguments."""
        raise NotImplementedError

    def is_named(self, node: Expr, rendered: str, is_shared: bool, roots: tuple[Expr, ...]) -> bool:
        """Return whether a node gets a name."""
        raise NotImplementedError

    def declared(self, node: Expr, rendered: str) -> tuple[str, str]:
        """Return a node's new name, and the line that gives it."""
        raise NotImplementedError


class _Printer(ExpressionText):
    """One nest being printed."""

    def __init__(self, nest: Nest, names: Names):
        super().__init__(nest)
        self.names = names

    def lines(self, body: tuple[Stmt, ...], depth: int) -> Iterator[str]:
        """Yield the lines of a body at an indentation depth."""
        for stmt in body:
            for line in self._statement(stmt):
                yield _INDENT * depth + line
            if isinstance(stmt, (For, If)):
                self.scopes.append({})
                yield from self.lines(stmt.body, depth + 1)
                self.scopes.pop()

    def _statement(self, stmt: Stmt) -> Iterator[str]:
        if isinstance(stmt, For):
            extent = self._dim(stmt.extent)
            yield f"for {self.names(stmt.index)} < {extent} {stmt.mark}:"
            return
        values: list[str] = []
        yield from self.expressions(operands(stmt), values)
        if isinstance(stmt, If):
            yield f"if {values[0]}:"
        elif isinstance(stmt, Store):
            yield f"{self._access(stmt.buffer, stmt.position)} = {values[0]}"
        elif isinstance(stmt, Let):
            yield f"let {self._let_target(stmt.target)} = {values[0]}"
        elif isinstance(stmt, Check):
            yield f"check {values[0]} else {stmt.code}, {values[1]}"
        elif isinstance(stmt, Barrier):
            yield f"barrier {stmt.scope}"
        elif isinstance(stmt, Shuffle):
            yield f"let {self._let_target(stmt.target)} = {values[0]} of thread ^ {stmt.distance}"
        elif isinstance(stmt, Fetch):
            yield f"fetch {stmt.count} of {self._load(stmt.target)} = {values[0]} if {values[1]}"
        elif isinstance(stmt, Commit):
            yield "commit"
        elif isinstance(stmt, Await):
            yield f"await {stmt.pending}"
        elif isinstance(stmt, LoadMatrices):
            turned = ", transposed" if stmt.across else ""
            yield f"matrices {self._load(stmt.target)} = {values[0]}{turned}"
        elif isinstance(stmt, Multiply):
            yield f"{stmt.kind} {self._load(stmt.total)} += {values[0]} @ {values[1]}"
        else:
            assert isinstance(stmt, Accumulate)
            target = stmt.target
            place = (self.names(target) if isinstance(target, Local)
                     else self._access(target.buffer, target.position))
            yield f"{place} {stmt.combine}= {values[0]}"

    def _load(self, load: Load) -> str:
        return self._access(load.buffer, load.position)

    def _let_target(self, target: Local | Symbol) -> str:
        if isinstance(target, Symbol):
            return f"{self.names(target)}{_bound_text(target)}"
        return f"{self.names(target)}: {target.dtype}"

    def is_named(self, node: Expr, rendered: str, is_shared: bool, roots: tuple[Expr, ...]) -> bool:
        return isinstance(node, Scalar) and (is_shared or len(rendered) > LONGEST)

    def declared(self, node: Expr, rendered: str) -> tuple[str, str]:
        name = f"%{self.temporaries}"
        return name, f"{name} = {rendered}"

    def node(self, node: Expr, text: dict[int, str]) -> str:
        if isinstance(node, Const):
            return const_text(node)
        if isinstance(node, Index):
            return f"<{self._dim(node.dim)}>"
        if isinstance(node, Load):
            return self._access(node.buffer, node.position)
        if isinstance(node, Local):
            return self.names(node)
        args = [text.get(id(arg)) or self.known(arg) for arg in node.args]
        name = f"{node.name}:{node.dtype}" if node.name in ("cast", "bitcast") else node.name
        return f"{name}({', '.join(args)})"

    def _access(self, buffer: Buffer, position: tuple[DimLike, ...]) -> str:
        return f"{self.names(buffer)}[{', '.join(map(self._dim, position))}]"

    def _dim(self, dim: DimLike) -> str:
        return dim_text(dim, self.names)


def _bound_text(symbol: Symbol) -> str:
    """Return the proved lower bound of a symbol: the code may rely on it."""
    return "" if symbol.lower is None else f">={symbol.lower}"


def body_text(nest: Nest, names: Names) -> list[str]:
    """Return the statements of a nest, one a line."""
    return list(_Printer(nest, names).lines(nest.body, 1))


def nest_text(nest: Nest) -> str:
    """Return a nest for people to read.

    Examples
    --------
    >>> from tetractys.compiler.dims import Symbol, as_dim
    >>> from tetractys.compiler.loop.ir import Buffer, For, Load, Nest, Scalar, Store
    >>> i, n = Symbol("i"), as_dim(Symbol("n"))
    >>> x, y = Buffer("x", "float32", (n,)), Buffer("y", "float32", (n,), "output")
    >>> element = Load(x, (as_dim(i),))
    >>> double = Store(y, (as_dim(i),), Scalar("add", (element, element), "float32"))
    >>> print(nest_text(Nest("double", (For(i, n, (double,), "parallel"),))))
    nest double(x: temporary float32[n], y: output float32[n])
      for i < n parallel:
        y[i] = add(x[i], x[i])
    """
    names = Names(canonical=False)
    lines = body_text(nest, names)
    buffers = [item for item in names.of if isinstance(item, Buffer)]
    header = ", ".join(buffer_text(buffer, names) for buffer in buffers)
    return "\n".join([f"nest {nest.name}({header})", *lines])


def buffer_text(buffer: Buffer, names: Names) -> str:
    """Return the declaration of a buffer."""
    dims = ", ".join(dim_text(dim, names) for dim in buffer.dims)
    base = f" in {names(buffer.base)}" if buffer.base is not None else ""
    return f"{names(buffer)}: {buffer.role} {buffer.dtype}[{dims}]{base}"


def statement_text(stmt: Stmt) -> str:
    """Return one statement for an error message; loops and conditions without their bodies."""
    if isinstance(stmt, For):
        stmt = For(stmt.index, stmt.extent, (), stmt.mark)
    elif isinstance(stmt, If):
        stmt = If(stmt.condition, ())
    return "; ".join(line.strip() for line in body_text(Nest("", (stmt,)), Names(False)))


def nest_signature(nest: Nest) -> Signature:
    """Return the nest's key with the buffers and free symbols it stands for."""
    names = Names(canonical=True)
    lines = body_text(nest, names)
    buffers = tuple(item for item in names.of if isinstance(item, Buffer))
    roots: dict[Buffer, int] = {}
    header = []
    for buffer in buffers:
        # Strides come from all dims but the first; equal roots share memory, others never do.
        dims = ", ".join(["_", *(dim_text(dim, names) for dim in buffer.dims[1:])])
        group = roots.setdefault(buffer.root(), len(roots))
        header.append(f"{names(buffer)}: {buffer.dtype}[{dims if buffer.dims else ''}] @{group}")
    bound = bound_symbols(nest)
    symbols = tuple(item for item in names.of if isinstance(item, Symbol) and item not in bound)
    header += [f"{names(symbol)}{_bound_text(symbol)}" for symbol in symbols]
    return Signature("\n".join([*header, *lines]), buffers, symbols)


def nest_key(nest: Nest) -> str:
    """Return text that is equal for nests that differ in names only."""
    return nest_signature(nest).key

