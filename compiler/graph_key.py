"""The content address of what a user asks for: one text for a whole graph, hashed.

Enters a signature on the user's own graph, before any pass, with the sizes chosen and the options;
leaves a key that is equal only where all passes would make the same artifact, so that a stored one
can be taken without running any of them.  Nodes, variables and symbols are numbered in the order of
a walk, so the key does not depend on identities; whatever may show in the artifact is in it:
operations, parameters, sizes, guards, values of constants, and the names of messages.

The user's lines show in messages only, and nothing else depends on them.  They are numbered too, so
a program that has moved, or a notebook, whose files are called otherwise in every process, finds
what is stored; the list of lines beside the key is what the numbers in its messages stand for.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .config import config
from .dims import Call, Dim, DimLike, Symbol
from .graph import (
    Apply, Constant, DataSymbol, SharedBase, SizeGuard, Variable, describe, toposort)
from .intern import dependencies
from .ops import OWN_ROWS
from .ops.control import Body
from .signature import Options, Signature


class _Unknown(Exception):
    """Something in the graph has no content address."""


@dataclass(frozen=True, slots=True)
class GraphKey:
    """The content address of a compilation, and what it leaves out.

    Attributes
    ----------
    text : str
    sites : tuple of (str, int)
        The user's lines (file, line) that messages may show, in the order of the walk.
    """

    text: str
    sites: tuple[tuple[str, int], ...]


def graph_key(signature: Signature, sizes: Mapping[Symbol, int], options: Options,
              target: str) -> GraphKey | None:
    """Return the key of a compilation, or None when the graph has parts without an address.

    Parameters
    ----------
    signature : Signature
    sizes : mapping of Symbol to int
        Sizes that are compiled in.
    options : Options
    target : str
        What code depends on besides its program: the compiler of the code, the processor.

    Notes
    -----
    An operation or parameter that does not come from this package has no address: its meaning is
    in code that the hash of our sources does not cover.
    """
    writer = _Writer(sizes)
    try:
        writer.signature(signature)
    except _Unknown:
        return None
    if any("\\x00" in line for line in writer.lines if isinstance(line, str)):
        return None  # messages would have it where they have the number of a line
    places = tuple(writer.sites)
    head = (_options_text(options), repr(config), np.__version__, target, sources_digest())
    tail = (repr(places),) if writer.names_files() else ()
    digest = hashlib.sha256()
    for part in (*head, *writer.lines, *tail):
        text = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(text))
        digest.update(text)
    return GraphKey("graph " + digest.hexdigest(), places)


def _options_text(options: Options) -> str:
    """Return options as text that does not depend on the order of sets."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return repr({name: sorted(value) if isinstance(value, frozenset) else value
                 for name, value in values.items()})


@cache
def sources_digest() -> str:
    """Return the hash of all sources that decide what a graph becomes."""
    folder = Path(__file__).parent
    runtime = folder.parent / "runtime"
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), runtime / "artifact.py", runtime / "errors.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Writer:
    """Writes a graph as lines, each of which says one thing about what the earlier ones define."""

    def __init__(self, sizes: Mapping[Symbol, int]):
        self.sizes = sizes
        self.lines: list[str | bytes] = []
        self.numbers: MutableMapping[Variable, int] = {}
        self.count = 0
        self.symbols: dict[Symbol, str] = {}
        self.dims: dict[Dim, str] = {}
        self.sites: dict[tuple[str, int], int] = {}

    def signature(self, signature: Signature) -> None:
        """Write everything."""
        self.lines.append(f"function {signature.name!r}")
        for variable in (*signature.inputs, *signature.shared):
            if variable not in self.numbers:
                self.leaf(variable)
        results = signature.results()
        for node in dependencies(results):
            self.node(node)
        for role, variables in (("inputs", signature.inputs), ("shared", signature.shared),
                                ("outputs", signature.outputs)):
            self.lines.append(f"{role} {[self.number(v) for v in variables]}")
        self.lines.append(f"updates {[(k, self.number(v)) for k, v in signature.updates]}")

    # -- variables and nodes -----------------------------------------------------------------------

    def number(self, variable: Variable) -> int:
        """Return a variable's number; constants are written where they are met."""
        found = self.numbers.get(variable)
        if found is None:
            if variable.owner is not None or not isinstance(variable, Constant):
                raise _Unknown
            found = self.leaf(variable)
        return found

    def give_number(self, variable: Variable) -> int:
        """Number a variable."""
        self.numbers[variable] = number = self.count
        self.count += 1
        return number

    def leaf(self, variable: Variable) -> int:
        """Write a variable without owner."""
        number = self.give_number(variable)
        kind = "shared" if isinstance(variable, SharedBase) else type(variable).__name__
        dims = self.tuple(variable.type.dims)
        self.lines.append(f"{number} {kind} {variable.dtype} {dims} {variable.name!r} "
                          f"{self.site(variable.site)}")
        if isinstance(variable, Constant):
            self.lines.append(variable.data.tobytes())
        return number

    def node(self, node: Apply) -> None:
        """Write a node and what it demands of sizes; its outputs get the next numbers."""
        op = node.op
        if op not in OWN_ROWS:
            raise _Unknown
        inputs = ",".join([str(self.number(source)) for source in node.inputs])
        params = "" if not node.params else ",".join(
            [f"{name}={self.value(node.params[name])}" for name in sorted(node.params)])
        names = [out.name for out in node.outputs]
        self.lines.append(f"{op.name}({inputs};{params}){names} {self.site(node.site)}")
        for out in node.outputs:
            self.give_number(out)
        for guard in node.guards:
            self.guard(guard)

    def guard(self, guard: SizeGuard) -> None:
        """Write what a node demands of two sizes, and whose they are."""
        places = [(self.number(variable), axis) if variable in self.numbers
                  else (self.described(variable), axis)
                  for variable, axis in (guard.left_of, guard.right_of)]
        self.lines.append(f"guard {self.dim(guard.left)} {self.dim(guard.right)} {places} "
                          f"{guard.reason!r} {guard.kind}")

    def described(self, variable: Variable) -> tuple[str, str]:
        """Return what messages say of a variable that is no part of the function."""
        return describe(variable), self.site(variable.site)

    def body(self, body: Body) -> str:
        """Write what a loop runs; its names have numbers of their own."""
        outer, self.numbers = self.numbers, ChainMap({}, self.numbers)
        self.lines.append(f"body {self.dim(body.index._symbol.extent)}")
        self.leaf(body.index)
        for variable in body.captured:
            self.leaf(variable)
        for node in toposort(body.outputs, stop=body.captured):
            self.node(node)
        outputs = [self.number(variable) for variable in body.outputs]
        self.numbers = outer
        self.lines.append(f"end {outputs}")
        return "body"

    # -- values ------------------------------------------------------------------------------------

    def value(self, value: Any) -> str:
        """Return a parameter as text that only an equal one of the same type gives."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, tuple):
            return self.tuple(value)
        if isinstance(value, Dim):
            return self.dim(value)
        if isinstance(value, np.generic):
            return f"{value.dtype} {value.tobytes().hex()}"
        if isinstance(value, Body):
            return self.body(value)
        raise _Unknown

    def tuple(self, values: Sequence[Any]) -> str:
        """Return several values as text."""
        return f"({','.join([self.value(value) for value in values])})"

    def dim(self, dim: DimLike) -> str:
        """Return a size as text."""
        if isinstance(dim, int):
            return str(dim)
        found = self.dims.get(dim)
        if found is None:
            terms = [(coefficient, [(self.atom(atom), power) for atom, power in monomial])
                     for monomial, coefficient in dim.terms]
            found = self.dims[dim] = f"dim {terms}"
        return found

    def atom(self, atom: Symbol | Call) -> str:
        """Return a symbol's name in the text (written where it is first met), or a function."""
        if isinstance(atom, Call):
            left, right = map(self.dim, atom.args)
            return f"{atom.function}({left};{right})"
        found = self.symbols.get(atom)
        if found is None:
            found = self.symbols[atom] = f"s{len(self.symbols)}"
            data = self.number(atom.variable) if isinstance(atom, DataSymbol) else ""
            extent = None if atom.extent is None else self.dim(atom.extent)
            self.lines.append(f"size {found} {atom!r} {atom.lower} {extent} "
                              f"{self.sizes.get(atom)} {data}")
        return found

    def site(self, site: tuple[str, int] | None) -> str:
        """Return the number of a user's line."""
        return "" if site is None else str(self.sites.setdefault(site, len(self.sites)))

    def names_files(self) -> bool:
        """Return whether a name could be taken for one of the lines, once both are in a message."""
        files = {spelled for file, _ in self.sites for spelled in (file, repr(file)[1:-1])}
        return any(f"{file}:" in line for line in self.lines if isinstance(line, str)
                   for file in files)
