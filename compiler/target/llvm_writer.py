"""Writing one LLVM function as text: fresh names, scopes, loops, and integer expressions of sizes.

Integer expressions (dims) depend on symbols only, so each operation of theirs is written where the
innermost of its symbols is bound: at the start of a loop's body, or at the function's entry.  That
is loop-invariant motion and common-subexpression elimination, which LLVM need not repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, Union

from ..dims import Call, DimLike, Symbol, proves_nonnegative
from .llvm_machine import Machine

Lines: TypeAlias = list[Union[str, "Lines"]]

SHORT_MODULE = 30
"""Lines: a module takes LLVM 1.5 ms, a short function above level 0 half of one."""

KERNEL_ATTRIBUTES = "noinline nounwind align 64"
"""Of functions with loops over elements.  They begin with a cache line, so that a loop runs as fast
whatever functions come before it (products of 32 rows and logistic regression: up to 6 %)."""

FLOOR_DIVIDE, MODULO = "tx.floordiv.i64", "tx.mod.i64"
INTEGER_HELPERS = {
    FLOOR_DIVIDE: """
define internal i64 @tx.floordiv.i64(i64 %a, i64 %b) alwaysinline nounwind {
  %zero = icmp eq i64 %b, 0
  %minus = icmp eq i64 %b, -1
  %special = or i1 %zero, %minus
  %d = select i1 %special, i64 1, i64 %b
  %q = sdiv i64 %a, %d
  %r = srem i64 %a, %d
  %rest = icmp ne i64 %r, 0
  %signs = xor i64 %r, %d
  %differ = icmp slt i64 %signs, 0
  %down = and i1 %rest, %differ
  %one = zext i1 %down to i64
  %floor = sub i64 %q, %one
  %negated = sub i64 0, %a
  %known = select i1 %minus, i64 %negated, i64 %floor
  %result = select i1 %zero, i64 0, i64 %known
  ret i64 %result
}""",
    MODULO: """
define internal i64 @tx.mod.i64(i64 %a, i64 %b) alwaysinline nounwind {
  %zero = icmp eq i64 %b, 0
  %minus = icmp eq i64 %b, -1
  %special = or i1 %zero, %minus
  %d = select i1 %special, i64 1, i64 %b
  %r = srem i64 %a, %d
  %rest = icmp ne i64 %r, 0
  %signs = xor i64 %r, %d
  %differ = icmp slt i64 %signs, 0
  %up = and i1 %rest, %differ
  %more = select i1 %up, i64 %d, i64 0
  %result = add i64 %r, %more
  ret i64 %result
}""",
}
"""Python's ``//`` and ``%`` that cannot trap: a zero divisor gives 0."""


_FOLDED: dict[str, Callable[[int, int], int | None]] = {
    "add": int.__add__, "add nsw": int.__add__, "mul": int.__mul__, "mul nsw": int.__mul__,
    "@llvm.smin.i64": min, "@llvm.smax.i64": max,
    "udiv": lambda left, right: left // right if left >= 0 and right > 0 else None,
    "urem": lambda left, right: left % right if left >= 0 and right > 0 else None,
}
"""Operations on known numbers; None where the code decides."""


class Value(NamedTuple):
    """An i64 operand, and the depth of the scope from which on it is available."""

    text: str
    depth: int


@dataclass(slots=True)
class Scope:
    """A region of the function in which certain symbols have values."""

    entry: Lines
    memo: dict[str, Value] = field(default_factory=dict)


class Module:
    """What the functions of one LLVM module share: declarations, helpers, metadata.

    Parameters
    ----------
    machine : Machine
        What the code is for.
    kernels : Module, optional
        Another module whose exported functions this one's call.

    Attributes
    ----------
    kernels : Module
        That module, or this one.
    declarations : dict of str
        Text of each external function or helper used, by name.
    exports : list of str
        Declaration of each function that other modules may call.
    hides_counters : bool
        Whether LLVM shall not look for what depends on a loop's counter.
    """

    def __init__(self, machine: Machine = Machine(), kernels: Module | None = None) -> None:
        self.machine = machine
        self.kernels = kernels or self
        self.exports: list[str] = []
        self.declarations: dict[str, str] = {}
        self.functions: list[str] = []
        self.metadata: list[str] = []
        self._nontemporal: str | None = None
        # Those that call another module's functions are compiled at level 0.
        self.hides_counters = machine.is_optimised and kernels is None

    def loop_metadata(self, hints: tuple[str, ...]) -> str:
        """Add the properties of one loop; return the reference to them."""
        number = len(self.metadata)
        listed = ", ".join(f"!{{{hint}}}" for hint in hints)
        self.metadata.append(f"!{number} = distinct !{{!{number}, {listed}}}")
        return f"!{number}"

    def nontemporal(self) -> str:
        """Return the reference to the property of an access that goes past the caches."""
        if self._nontemporal is None:
            self._nontemporal = f"!{len(self.metadata)}"
            self.metadata.append(f"{self._nontemporal} = !{{i32 1}}")
        return self._nontemporal

    def declare(self, name: str, result: str, *arguments: str) -> str:
        """Declare an external function or intrinsic; return its name as an operand."""
        if name not in self.declarations:
            self.declarations[name] = f"declare {result} @{name}({', '.join(arguments)})"
        return f"@{name}"

    def helper(self, name: str) -> str:
        """Include one of :data:`INTEGER_HELPERS`; return its name as an operand."""
        self.declarations[name] = INTEGER_HELPERS[name]
        return f"@{name}"

    def is_short(self) -> bool:
        """Return whether it has so few lines that LLVM takes longer for a module than for them."""
        return not self.metadata and sum(
            text.count("\n") for text in (*self.declarations.values(), *self.functions)
        ) <= SHORT_MODULE

    def join(self, other: Module) -> None:
        """Include another module's functions, which call this one's."""
        self.declarations |= other.declarations
        self.functions += other.functions

    def text(self) -> str:
        """Return the module's LLVM IR."""
        imports = [] if self.kernels is self else self.kernels.exports
        return "\n".join([*imports, *self.declarations.values(), *self.functions,
                          *self.metadata]) + "\n"


class FunctionWriter:
    """One function under construction.

    Lines go to the current block; ``dim`` puts its operations at the right scope's entry.
    """

    def __init__(self, module: Module, header: str):
        self.module, self.header = module, header
        self.count = 0
        self.block = "entry"
        self.left = False
        self.allocas: Lines = []
        self.lines: Lines = [self.allocas]
        self.scopes: list[Scope] = []
        self.symbols: dict[Symbol, Value] = {}
        self.push_scope()

    def name(self) -> str:
        """Return a new register name."""
        self.count += 1
        return f"%t{self.count}"

    def emit(self, operation: str) -> str:
        """Append an operation to the current block; return the register of its result."""
        name = self.name()
        self.lines.append(f"  {name} = {operation}")
        return name

    def run(self, instruction: str) -> None:
        """Append an instruction without a result."""
        self.lines.append(f"  {instruction}")

    def label(self, stem: str) -> str:
        """Return a new label."""
        self.count += 1
        return f"{stem}{self.count}"

    def start(self, label: str) -> None:
        """Begin the block ``label``."""
        self.lines.append(f"{label}:")
        self.block = label

    def alloca(self, type_: str, count: int = 1, align: int = 8) -> str:
        """Reserve stack in the entry block (never inside a loop)."""
        name = self.name()
        self.allocas.append(f"  {name} = alloca {type_}, i64 {count}, align {align}")
        return name

    def push_scope(self) -> None:
        """Open a scope here: symbols bound from now on belong to it."""
        entry: Lines = []
        self.lines.append(entry)
        self.scopes.append(Scope(entry))

    def pop_scopes(self, depth: int) -> None:
        """Close the scopes opened since there were ``depth``."""
        del self.scopes[depth:]

    def bind(self, symbol: Symbol, text: str) -> None:
        """Give a symbol its value in the innermost scope."""
        self.symbols[symbol] = Value(text, len(self.scopes) - 1)

    def bind_constant(self, symbol: Symbol, value: int) -> None:
        """Give a symbol a literal value, replacing any other."""
        self.symbols[symbol] = Value(str(value), 0)

    def branch_if(self, condition: str, body: Callable[[], None], stem: str = "if") -> None:
        """Write ``if (condition) body()``; a condition that is known decides here."""
        if condition in ("true", "false"):
            if condition == "true":
                body()
            if self.left:  # what follows is never reached, but has to be in some block
                self.left = False
                self.start(self.label("end"))
            return
        inside, after = self.label(stem), self.label("end")
        self.run(f"br i1 {condition}, label %{inside}, label %{after}")
        self.start(inside)
        depth = len(self.scopes)
        self.push_scope()
        body()
        self.pop_scopes(depth)
        if not self.left:
            self.run(f"br label %{after}")
        self.left = False
        self.start(after)

    def branch(self, condition: str, holds: Callable[[], None], fails: Callable[[], None]) -> None:
        """Write ``if (condition) holds() else fails()``."""
        left, right, after = self.label("if"), self.label("else"), self.label("end")
        self.run(f"br i1 {condition}, label %{left}, label %{right}")
        for label, body in ((left, holds), (right, fails)):
            self.start(label)
            body()
            self.run(f"br label %{after}")
        self.start(after)

    def both(self, first: str, second: Callable[[], str]) -> str:
        """Write ``first and second()``, where all that the second condition takes, dims included,
        is computed only when the first one holds."""
        inside, after, before = self.label("also"), self.label("end"), self.block
        self.run(f"br i1 {first}, label %{inside}, label %{after}")
        self.start(inside)
        depth, symbols = len(self.scopes), self.symbols
        self.push_scope()
        self.symbols = {symbol: Value(value.text, depth) for symbol, value in symbols.items()}
        also, last = second(), self.block
        self.symbols = symbols
        self.pop_scopes(depth)
        self.run(f"br label %{after}")
        self.start(after)
        return self.emit(f"phi i1 [ false, %{before} ], [ {also}, %{last} ]")

    def leave(self, instruction: str) -> None:
        """End the current block with a return."""
        self.run(instruction)
        self.left = True

    def loop(self, index: Symbol, begin: str, end: str, body: Callable[[], None],
             hints: tuple[str, ...] = (), step: int = 1) -> None:
        """Write ``for (index = begin; index < end; index += step) body()``, tested at the bottom.

        Parameters
        ----------
        hints : tuple of str
            LLVM's loop properties, as the contents of metadata nodes.
        """
        first, last = _number(begin), _number(end)
        if first is not None and last is not None and last - first <= step:
            if first < last:
                self.once(index, first, body)
            return
        top, after = self.label("loop"), self.label("end")
        before = self.block
        enter = self.emit(f"icmp slt i64 {begin}, {end}")
        self.run(f"br i1 {enter}, label %{top}, label %{after}")
        self.start(top)
        counter = self.name()
        phi: Lines = []
        self.lines.append(phi)
        depth = len(self.scopes)
        self.push_scope()
        self.bind(index, counter)
        body()
        self.pop_scopes(depth)
        following = self.hidden("i64", self.emit(f"add nuw nsw i64 {counter}, {step}"))
        again = self.emit(f"icmp slt i64 {following}, {end}")
        phi.append(f"  {counter} = phi i64 [ {begin}, %{before} ], [ {following}, %{self.block} ]")
        suffix = f", !llvm.loop {self.module.loop_metadata(hints)}" if hints else ""
        self.run(f"br i1 {again}, label %{top}, label %{after}{suffix}")
        self.start(after)

    def once(self, index: Symbol, value: int, body: Callable[[], None]) -> None:
        """Write the only iteration of a loop."""
        depth = len(self.scopes)
        self.push_scope()
        self.bind_constant(index, value)
        body()
        self.pop_scopes(depth)

    def carry(self, count: str, kinds: list[str], start: list[str],
              step: Callable[[list[str]], list[str]]) -> list[str]:
        """Write ``state = step(state)``, ``count`` times over, all in registers.

        Parameters
        ----------
        count : str
            Operand; none of it when not positive.
        kinds, start : list of str
            LLVM type and first value of each part of the state.
        step : callable
            Writes one iteration: takes the state's registers, returns those of the next one.

        Returns
        -------
        list of str
            The registers of the last state.
        """
        top, after = self.label("carry"), self.label("end")
        before = self.block
        enter = self.emit(f"icmp sgt i64 {count}, 0")
        self.run(f"br i1 {enter}, label %{top}, label %{after}")
        self.start(top)
        counter, now = self.name(), [self.name() for _ in kinds]
        phis: Lines = []
        self.lines.append(phis)
        later = [self.hidden(kind, value) for kind, value in zip(kinds, step(now))]
        following = self.hidden("i64", self.emit(f"add nuw nsw i64 {counter}, 1"))
        again = self.emit(f"icmp slt i64 {following}, {count}")
        phis += [f"  {name} = phi {kind} [ {first}, %{before} ], [ {next_}, %{self.block} ]"
                 for name, kind, first, next_ in zip(
                     [counter, *now], ["i64", *kinds], ["0", *start], [following, *later])]
        last = self.block
        hint = self.module.loop_metadata(('!"llvm.loop.unroll.disable"',))
        self.run(f"br i1 {again}, label %{top}, label %{after}, !llvm.loop {hint}")
        self.start(after)
        return [self.emit(f"phi {kind} [ {first}, %{before} ], [ {next_}, %{last} ]")
                for kind, first, next_ in zip(kinds, start, later)]

    def hidden(self, kind: str, value: str) -> str:
        """Return a loop's counter or address in its next iteration as LLVM is to see it.

        Code that is optimised gets it from empty assembly, which costs no instruction.  LLVM would
        else search for sums of such variables that make addresses cheaper, in up to two thirds of
        the time that it takes for a kernel; they are written cheap (:meth:`address`).
        """
        if self.module.hides_counters and kind in ("i64", "ptr"):
            return self.emit(f'call {kind} asm "", "=r,0"({kind} {value})')
        return value

    def is_less(self, left: DimLike, right: DimLike) -> str:
        """Write a comparison of dims, or decide it."""
        texts = self.dim(left), self.dim(right)
        known = tuple(map(_number, texts))
        if None not in known:
            return "true" if known[0] < known[1] else "false"
        return self.emit(f"icmp slt i64 {texts[0]}, {texts[1]}")

    def dim(self, dim: DimLike) -> str:
        """Return the operand holding a dim's value."""
        return self.dim_value(dim).text

    def dim_value(self, dim: DimLike, exact: bool = True) -> Value:
        """Return a dim's value.

        Parameters
        ----------
        dim : dim
        exact : bool
            Whether overflow is excluded, because the value is a size or position that exists; not
            so for the arguments of ``min``, whose other argument may be the one that counts.
        """
        if isinstance(dim, int):
            return Value(str(dim), 0)
        terms = [self._term(monomial, coefficient, exact)
                 for monomial, coefficient in dim.terms]
        return self._chain("add", terms, exact)

    def _term(self, monomial: tuple[tuple[Symbol | Call, int], ...], coefficient: int,
              exact: bool) -> Value:
        factors = [value for atom, power in monomial for value in [self._atom(atom)] * power]
        if coefficient != 1 or not factors:
            factors.append(Value(str(coefficient), 0))
        return self._chain("mul", factors, exact)

    def _chain(self, operation: str, values: list[Value], exact: bool) -> Value:
        """Combine values, those of outer scopes first."""
        values = sorted(values, key=lambda value: value.depth)
        total = values[0]
        for value in values[1:]:
            total = self.integer(f"{operation} nsw" if exact else operation, total, value)
        return total

    def integer(self, operation: str, left: Value, right: Value) -> Value:
        """Write an i64 operation at the scope where both operands are available, once."""
        known = _number(left.text), _number(right.text)
        if None not in known and operation in _FOLDED:
            folded = _FOLDED[operation](*known)
            if folded is not None and -1 << 63 <= folded < 1 << 63:
                return Value(str(folded), 0)
        depth = max(left.depth, right.depth)
        if operation.startswith("@"):
            text = f"call i64 {operation}(i64 {left.text}, i64 {right.text})"
        else:
            text = f"{operation} i64 {left.text}, {right.text}"
        return self._once(text, depth)

    def address(self, kind: str, base: str, offset: DimLike) -> str:
        """Write the address of an element.

        Each part of its offset is added where it is known, from the function's entry inwards, and
        numbers last: addresses that differ by a number share a register, as it is a part of the
        instruction that loads or stores.

        Parameters
        ----------
        kind : str
            LLVM type of an element.
        base : str
            Operand that is available in the whole function.
        offset : dim
            Elements before this one.
        """
        terms = {(): offset} if isinstance(offset, int) else dict(offset.terms)
        number = terms.pop((), 0)
        parts: dict[int, list[Value]] = {}
        for monomial, coefficient in terms.items():
            value = self._term(monomial, coefficient, exact=True)
            known = _number(value.text)
            if known is None:
                parts.setdefault(value.depth, []).append(value)
            else:
                number += known
        place = base
        for depth in sorted(parts):
            total = self._chain("add", parts[depth], exact=True)
            place = self._once(
                f"getelementptr {kind}, ptr {place}, i64 {total.text}", depth).text
        return self.emit(f"getelementptr {kind}, ptr {place}, i64 {number}") if number else place

    def _once(self, operation: str, depth: int) -> Value:
        """Write an operation at a scope where its operands are available, once."""
        scope = self.scopes[depth]
        found = scope.memo.get(operation)
        if found is None:
            name = self.name()
            scope.entry.append(f"  {name} = {operation}")
            found = scope.memo[operation] = Value(name, depth)
        return found

    def _atom(self, atom: Symbol | Call) -> Value:
        if isinstance(atom, Symbol):
            return self.symbols[atom]
        left, right = (self.dim_value(arg, exact=False) for arg in atom.args)
        return self.integer(self._call(atom), left, right)

    def _call(self, call: Call) -> str:
        """Return the operation that computes ``call``."""
        if call.function in ("min", "max"):
            return self.module.declare(f"llvm.s{call.function}.i64", "i64", "i64", "i64")
        numerator, divisor = call.args
        if proves_nonnegative(numerator) and _proves_positive(divisor):
            return "udiv" if call.function == "floordiv" else "urem"
        return self.module.helper(FLOOR_DIVIDE if call.function == "floordiv" else MODULO)

    def finish(self) -> None:
        """Add the function to the module."""
        if not self.header.startswith("define internal"):
            self.module.exports.append(self.header.replace("define", "declare", 1))
        flat: list[str] = []
        stack: Lines = [self.lines]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                flat.append(item)
            else:
                stack.extend(reversed(item))
        self.module.functions.append("\n".join([f"\n{self.header} {{", "entry:", *flat, "}"]))


def _number(text: str) -> int | None:
    """Return the number that an operand is, if it is one."""
    return int(text) if text.removeprefix("-").isdecimal() else None


def _proves_positive(dim: DimLike) -> bool:
    return dim > 0 if isinstance(dim, int) else proves_nonnegative(dim - 1)
