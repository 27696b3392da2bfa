"""The scalar functions (``loop/math.py``) as LLVM functions, of several vectors side by side.

A function is written once for each dtype, number of lanes and number of vectors, and inlined into
the loops that call it, or called.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..loop.ir import Const, Expr, Local, Scalar
from ..loop.math import Style, definition
from ..loop.walk import postorder
from .llvm_scalar import EMITTERS, constant, llvm_type, suffix, vector_of
from .llvm_writer import FunctionWriter, Module

INLINE_LIMIT = 250
"""Operations of a scalar function up to which it may be inlined into loops; only integer powers
are longer."""


def call(writer: FunctionWriter, node: Scalar, args: Sequence[Sequence[str]], lanes: int = 1,
         inline: bool = True, shares: bool = False) -> list[str]:
    """Write the call of a scalar function on several independent vectors.

    Parameters
    ----------
    writer : FunctionWriter
    node : Scalar
        Gives the function's name, dtype and arity.
    args : sequence of sequence of str
        For each vector the operands.
    lanes : int
        Of a vector.
    inline : bool
        Whether the function's code goes into the loop, for speed, or is called, for short code.
    shares : bool
        Whether other functions of the same argument are inlined too.

    Returns
    -------
    list of str
        A result for each vector.
    """
    kind = llvm_type(node.dtype, lanes)
    copies = len(args)
    stem = f"{node.name}.{suffix(node.dtype, lanes)}" + (".shared" if shares else "")
    name = stem + (f".x{copies}" if copies > 1 else "") + ("" if inline else ".call")
    module = writer.module
    if name not in module.declarations:
        parameters, root = definition(
            node.name, node.dtype, len(node.args), Style(branches=True, shares=shares))
        is_short = len(_used(root)) <= INLINE_LIMIT
        module.declarations[name] = ""
        module.declarations[name] = _Definition(module, stem, parameters, lanes, copies).text(
            name, root, "alwaysinline" if inline and is_short else "noinline")
    passed = ", ".join(f"{kind} {arg}" for operands in args for arg in operands)
    result = _result_type(kind, copies)
    together = writer.emit(f"call {result} @{name}({passed})")
    if copies == 1:
        return [together]
    return [writer.emit(f"extractvalue {result} {together}, {copy}") for copy in range(copies)]


def _result_type(kind: str, copies: int) -> str:
    return kind if copies == 1 else "{ " + ", ".join([kind] * copies) + " }"


def _used(root: Expr) -> list[Expr]:
    """Return an expression's nodes, arguments before their users, without shortcuts' detours."""
    needed, used = {id(root)}, []
    for node in reversed(postorder(root)):
        if id(node) in needed:
            used.append(node)
            needed.update(map(id, _inputs(node)))
    return used[::-1]


def _inputs(node: Expr) -> tuple[Expr, ...]:
    if not isinstance(node, Scalar):
        return ()
    return node.args[:2] if node.name == "shortcut" else node.args


class _Definition:
    """The LLVM function of a scalar function, being written from its expression.

    The vectors' operations alternate: each is one long chain, and the processor looks only so far
    ahead for independent work.

    Attributes
    ----------
    values : dict of int to list of str
        By ``id`` of an expression, its register for each vector.
    """

    def __init__(self, module: Module, stem: str, parameters: tuple[Local, ...], lanes: int,
                 copies: int):
        self.module, self.stem, self.parameters = module, stem, parameters
        self.lanes, self.copies = lanes, copies
        self.detours = 0
        self.values = {id(local): [f"%x{copy}.{number}" for copy in range(copies)]
                       for number, local in enumerate(parameters)}

    def text(self, name: str, root: Expr, attributes: str) -> str:
        """Return the function's text."""
        kind = llvm_type(root.dtype, self.lanes)
        result = _result_type(kind, self.copies)
        header = ", ".join(f"{kind} {self.values[id(local)][copy]}"
                           for copy in range(self.copies) for local in self.parameters)
        writer = self.writer = FunctionWriter(
            self.module, f"define internal {result} @{name}({header}) "
                         f"{attributes} nounwind willreturn memory(none)")
        for node in _used(root):
            if isinstance(node, Const):
                self.values[id(node)] = [constant(node.value, node.dtype, self.lanes)] * self.copies
            elif isinstance(node, Scalar):
                write = self.shortcut if node.name == "shortcut" else self.primitive
                self.values[id(node)] = write(node)
        returned = self.values[id(root)]
        together = "poison"
        for copy, value in enumerate(returned):
            if self.copies > 1:
                together = writer.emit(f"insertvalue {result} {together}, {kind} {value}, {copy}")
        writer.run(f"ret {result} {together if self.copies > 1 else returned[0]}")
        writer.finish()
        return self.module.functions.pop()

    def primitive(self, node: Scalar) -> list[str]:
        """Write a primitive."""
        return [EMITTERS[node.name](
                    self.writer, node, [self.values[id(arg)][copy] for arg in node.args],
                    self.lanes) for copy in range(self.copies)]

    def shortcut(self, node: Scalar) -> list[str]:
        """Write a branch around the calls of a function that is right everywhere.

        An element's result does not depend on its neighbours: where the shortcut applies, it is
        what counts also when they need the detour.
        """
        writer, kind = self.writer, llvm_type(node.dtype, self.lanes)
        applies, short = (self.values[id(arg)] for arg in node.args[:2])
        before, detour, after = writer.block, writer.label("detour"), writer.label("end")
        writer.run(f"br i1 {self.all(applies)}, label %{after}, label %{detour}")
        writer.start(detour)
        name = self.general(node.args[2])
        flags = vector_of("i1", self.lanes)
        results = []
        for copy in range(self.copies):
            passed = ", ".join(f"{kind} {self.values[id(local)][copy]}"
                               for local in self.parameters)
            general = writer.emit(f"call {kind} @{name}({passed})")
            results.append(writer.emit(f"select {flags} {applies[copy]}, {kind} {short[copy]}, "
                                       f"{kind} {general}"))
        writer.run(f"br label %{after}")
        writer.start(after)
        return [writer.emit(f"phi {kind} [ {one}, %{before} ], [ {other}, %{detour} ]")
                for one, other in zip(short, results)]

    def all(self, flags: list[str]) -> str:
        """Write whether all lanes of all vectors are set."""
        kind = vector_of("i1", self.lanes)
        every = flags[0]
        for other in flags[1:]:
            every = self.writer.emit(f"and {kind} {every}, {other}")
        if self.lanes == 1:
            return every
        function = self.module.declare(f"llvm.vector.reduce.and.v{self.lanes}i1", "i1", kind)
        return self.writer.emit(f"call i1 {function}({kind} {every})")

    def general(self, root: Expr) -> str:
        """Include the function of one vector that computes an expression; return its name."""
        self.detours += 1
        name = f"{self.stem}.general{self.detours}"
        if name not in self.module.declarations:
            written = _Definition(self.module, self.stem, self.parameters, self.lanes, 1)
            self.module.declarations[name] = written.text(name, root, "noinline cold")
        return name
