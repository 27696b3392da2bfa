"""A scheduled nest as a CUDA C function, to be read by people and compiled by NVRTC.

``__global__ void name(T *__restrict__ buffer..., long long size..., long long *status)``: a pointer
for each root buffer, in the order of the nest's signature, then its free symbols.  ``status`` has a
word for each check, which holds the largest offending value, or the least int64 while none failed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..access import coefficient_of, flat_offset
from ..dims import Call, DimLike, Symbol, as_dim, proves_nonnegative, substitute
from ..dtypes import HALVES, SIZES
from ..loop.half import conversion
from ..loop.ir import (
    Accumulate, Await, Barrier, Buffer, Check, Commit, Const, Expr, Fetch, For, If, Index, Let,
    Load, LoadMatrices, Local, Multiply, Nest, Scalar, Shuffle, Stmt, Store,
)
from ..loop.math import FUNCTIONS, definition
from ..loop.text import LONGEST, ExpressionText, Signature
from ..loop.walk import (
    accumulated_locals, buffers_written, loads, operands, postorder, statements)
from .cuda_instructions import INSTRUCTIONS
from .cuda_scalar import C_TYPES, NATIVE_CONVERSIONS, PRELUDE, PRINTERS, combined, literal
from .cuda_schedule import is_multiple, parts_of

INLINE_LIMIT = 250
"""Operations of a scalar function up to which it is inlined."""

NARROW = 1 << 31
"""Index expressions that are proved to stay below are computed with 32 bits."""

MOST_DECLARED = 48 << 10
"""Bytes of scratch memory that code may declare; for more a launch has to ask."""

NOT_FAILED = -2**63
"""What a word of ``status`` holds while its check holds."""

_RESERVED = frozenset(
    "auto bool break case char class const continue default delete do double else enum extern "
    "false float for goto if inline int long namespace new operator private public register return "
    "short signed sizeof static struct switch template this true try typedef typename union "
    "unsigned using virtual void volatile while and or not xor min max abs exp log sin cos tan "
    "sqrt pow minimum maximum modulo floor_divide to_integer status scratch".split()).union(
        INSTRUCTIONS, (
        name + suffix for name in ("fabs", "sqrt", "floor", "ceil", "trunc", "rint", "copysign",
                                   "fma") for suffix in ("", "f")))


class Module:
    """What the kernels of one program share: vector types and scalar functions."""

    def __init__(self) -> None:
        self.types: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self.kernels: dict[str, str] = {}

    def vector(self, dtype: str, width: int) -> str:
        """Return the type of ``width`` neighbouring elements."""
        name = f"{dtype}x{width}"
        self.types[name] = (f"struct __align__({SIZES[dtype] * width}) {name} "
                            f"{{ {C_TYPES[dtype]} at[{width}]; }};")
        return name

    def function(self, name: str, dtype: str, arity: int) -> str:
        """Return the name of a scalar function, written from its expression."""
        own = f"{name}_{dtype}"
        if own not in self.functions:
            self.functions[own] = _definition(self, own, *definition(name, dtype, arity))
        return own

    def conversion(self, source: str, target: str) -> str:
        """Return the name of the conversion of a half to float32, or back."""
        own = f"{target}_from_{source}"
        if own not in self.functions:
            parameter, result = conversion(source, target)
            native = NATIVE_CONVERSIONS.get((source, target), "")
            self.functions[own] = _definition(self, own, (parameter,), result, native)
        return own

    def instruction(self, name: str) -> str:
        """Return the name of a function of ``cuda_instructions.py``."""
        if name == "multiply_tf32":
            self.instruction("round_tf32")
        elif name == "multiply_float16":
            self.conversion("float16", "float32")
        self.functions[name] = INSTRUCTIONS[name]
        return name

    def text(self) -> str:
        """Return the source of all kernels."""
        return "\n".join([PRELUDE, *self.types.values(), *self.functions.values(),
                          *self.kernels.values()])


@dataclass(frozen=True, slots=True)
class KernelCode:
    """How to launch an emitted kernel.

    Attributes
    ----------
    name : str
    roots : tuple of int
        For each pointer, which of the signature's buffers gives the address.
    threads : tuple of int
        Threads along the first, second and third axis of a block.
    has_status : bool
        Whether ``status`` is passed, after the sizes.
    scratch : int
        Bytes of scratch memory that the launch has to ask for; 0 if the code declares what it uses.
    """

    name: str
    roots: tuple[int, ...]
    threads: tuple[int, int, int]
    has_status: bool
    scratch: int = 0


def identifier(name: str, taken: set[str]) -> str:
    """Return a C name like ``name`` that is not taken, and take it."""
    stem = re.sub(r"\W+", "_", name).strip("_") or "value"
    if stem[0].isdigit() or stem in _RESERVED or stem in C_TYPES:
        stem = f"{stem}_" if not stem[0].isdigit() else f"n{stem}"
    found, number = stem, 1
    while found in taken or re.fullmatch(r"t\d+", found):
        number += 1
        found = f"{stem}_{number}"
    taken.add(found)
    return found


def emit_kernel(module: Module, nest: Nest, signature: Signature, slots: tuple[int, int],
                waits: bool) -> KernelCode:
    """Add a kernel to a module.

    Parameters
    ----------
    module : Module
    nest : Nest
        Scheduled.
    signature : Signature
        Of the nest.
    slots : (first, count)
        The first check's word of ``status``, and how many words it has.
    waits : bool
        Whether the kernel does nothing once a check has failed.
    """
    emitter = _Emitter(module, nest, slots[0])
    roots: dict[Buffer, int] = {}
    for number, buffer in enumerate(signature.buffers):
        if buffer.root().role not in ("scratch", "register"):
            roots.setdefault(buffer.root(), number)
    written = {buffer.root() for buffer in buffers_written(nest)}
    parameters = []
    for root in roots:
        const = "" if root in written else "const "
        parameters.append(f"{const}{C_TYPES[root.dtype]} *__restrict__ {emitter.name(root)}")
    parameters += [f"const long long {emitter.name(symbol)}" for symbol in signature.symbols]
    has_status = waits or any(isinstance(stmt, Check) for stmt in statements(nest.body))
    if has_status:
        parameters.append("long long *status")
    outer, threads, body = parts_of(nest)
    size = 1
    for loop in threads:
        size *= loop.extent
    # The suffix keeps "exp2" apart from C's own function.
    name = identifier(f"{nest.name}_kernel", set(module.kernels))
    lines = [f'extern "C" __global__ void __launch_bounds__({size})',
             f"{name}({', '.join(parameters)}) {{"]
    if waits:
        lines.append(f"    for (int k = 0; k < {slots[1]}; ++k) "
                     f"if (status[k] != {literal(Const(NOT_FAILED, 'int64'))}) return;")
    emitter.narrow |= {outer.index, *(loop.index for loop in threads)}
    inside = list(emitter.body(body))
    lines += ["    " + line for line in (*emitter.head(outer, threads, inside), *inside)]
    module.kernels[name] = "\n".join([*lines, "}", ""])
    shape = tuple(loop.extent for loop in reversed(threads))
    return KernelCode(name, tuple(roots.values()), (*shape, *(1,) * (3 - len(shape))), has_status,
                      emitter.scratch if emitter.scratch > MOST_DECLARED else 0)


def _definition(module: Module, own: str, parameters: Sequence[Local], result: Expr,
                native: str = "") -> str:
    """Return a function; ``native`` assigns its result to ``y`` where the GPU can."""
    kind = C_TYPES[result.dtype]
    emitter = _Emitter(module, Nest(own, ()), 0)
    header = ", ".join(f"{C_TYPES[local.dtype]} {emitter.name(local)}" for local in parameters)
    inline = "__forceinline__" if len(postorder(result)) <= INLINE_LIMIT else "__noinline__"
    values: list[str] = []
    lines = [*emitter.expressions((result,), values)]
    inside = [f"    {line}" for line in (*lines, f"return {bare(values[0])};")]
    if native:
        inside = ["#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800",
                  f"    {kind} y;", f"    {native}", "    return y;", "#else", *inside, "#endif"]
    return "\n".join([f"__device__ {inline} {kind} {own}({header}) {{", *inside, "}", ""])


def bare(text: str) -> str:
    """Return an expression without parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if place == len(text) - 1 else text
    return text


def scratch_bytes(buffer: Buffer) -> int:
    """Return the scratch memory a buffer takes, in whole 16 bytes."""
    if buffer.role != "scratch":
        return 0
    return -(-math.prod(buffer.dims) * SIZES[buffer.dtype] // 16) * 16


class _Emitter(ExpressionText):
    """Writes the statements of one kernel."""

    def __init__(self, module: Module, nest: Nest, first_slot: int):
        super().__init__(nest)
        self.module, self.slot = module, first_slot
        self.names: dict[Buffer | Symbol | Local, str] = {}
        self.taken: set[str] = set()
        self.changing = accumulated_locals(nest)
        self.vectors: dict[tuple[Buffer, DimLike], str] = {}
        self.wide: set[Symbol] = set()
        self.narrow: set[Symbol] = set()
        self.on_chip: list[Buffer] = list(dict.fromkeys(
            buffer.root() for buffer in buffers_written(nest)
            if buffer.root().role in ("scratch", "register")))
        self.scratch = sum(map(scratch_bytes, self.on_chip))

    def name(self, item: Buffer | Symbol | Local) -> str:
        """Return the C name of something."""
        found = self.names.get(item)
        if found is None:
            text = repr(item) if isinstance(item, Symbol) else item.name
            found = self.names[item] = identifier(text, self.taken)
        return found

    def head(self, outer: For, threads: tuple[For, ...], inside: list[str]) -> Iterator[str]:
        """Yield the declarations that the lines ``inside`` a kernel need."""
        used = set(re.findall(r"\w+", "\n".join(inside)))
        axes = [(outer, "blockIdx.x"), *((loop, f"threadIdx.{axis}")
                                         for loop, axis in zip(reversed(threads), "xyz"))]
        for loop, value in axes:
            if self.name(loop.index) in used:
                yield f"const int {self.name(loop.index)} = {value};"
        asked = self.scratch > MOST_DECLARED
        if asked:
            yield "extern __shared__ __align__(16) unsigned char scratch[];"
        start = 0
        for buffer in self.on_chip:
            kind, name = C_TYPES[buffer.dtype], self.name(buffer)
            if asked and buffer.role == "scratch":
                yield f"{kind} *{name} = ({kind} *)(scratch + {start});"
                start += scratch_bytes(buffer)
                continue
            shared = "__shared__ " if buffer.role == "scratch" else ""
            yield f"{shared}__align__(16) {kind} {name}[{math.prod(buffer.dims)}];"

    # -- statements --------------------------------------------------------------------------------

    def body(self, body: tuple[Stmt, ...]) -> Iterator[str]:
        """Yield the lines of statements."""
        for stmt in body:
            yield from self.statement(stmt)

    def inside(self, body: tuple[Stmt, ...]) -> Iterator[str]:
        """Yield the lines of a block in braces."""
        self.scopes.append({})
        for line in self.body(body):
            yield "    " + line
        self.scopes.pop()
        yield "}"

    def statement(self, stmt: Stmt) -> Iterator[str]:
        """Yield the lines of one statement."""
        if isinstance(stmt, For):
            yield from self.loop(stmt)
            return
        if isinstance(stmt, Barrier):
            yield "__syncthreads();" if stmt.scope == "block" else "__syncwarp();"
            return
        if isinstance(stmt, (Fetch, Commit, Await, LoadMatrices, Multiply)):
            yield from self.exchange(stmt)
            return
        if isinstance(stmt, Let) and isinstance(stmt.target, Symbol) \
                and isinstance(stmt.value, Index):
            yield f"const {self.kind(stmt.target)} {self.name(stmt.target)} = " \
                  f"{bare(self.dim(stmt.value.dim))};"
            return
        values: list[str] = []
        yield from self.expressions(operands(stmt), values)
        if isinstance(stmt, If):
            yield f"if ({bare(values[0])}) {{"
            yield from self.inside(stmt.body)
        elif isinstance(stmt, Store):
            yield f"{self.place(stmt.buffer, stmt.position)} = {bare(values[0])};"
        elif isinstance(stmt, Let):
            yield self.let(stmt, values[0])
        elif isinstance(stmt, Accumulate):
            yield self.accumulate(stmt, values[0])
        elif isinstance(stmt, Check):
            yield f"if (!{values[0]}) atomicMax(status + {self.slot}, {values[1]});"
            self.slot += 1
        else:
            assert isinstance(stmt, Shuffle)
            yield f"const {C_TYPES[stmt.target.dtype]} {self.name(stmt.target)} = " \
                  f"__shfl_xor_sync(0xffffffffu, {values[0]}, {stmt.distance});"

    def exchange(self, stmt: Fetch | Commit | Await | LoadMatrices | Multiply) -> Iterator[str]:
        """Yield the lines of a copy, or of what a warp does together."""
        def pointer(load: Load) -> str:
            return f"&{self.place(load.buffer, load.position)}"

        call = self.module.instruction
        if isinstance(stmt, Fetch):
            values: list[str] = []
            yield from self.expressions((stmt.inside,), values)
            size = stmt.count * SIZES[stmt.source.dtype]
            yield f"{call('fetch')}<{size}>({pointer(stmt.target)}, {pointer(stmt.source)}, " \
                  f"{bare(values[0])});"
        elif isinstance(stmt, Commit):
            yield f"{call('commit')}();"
        elif isinstance(stmt, Await):
            yield f"{call('await')}<{stmt.pending}>();"
        elif isinstance(stmt, LoadMatrices):
            name = call("load_matrices_across" if stmt.across else "load_matrices")
            yield f"{name}({pointer(stmt.target)}, {pointer(stmt.source)});"
        else:
            yield f"{call(f'multiply_{stmt.kind}')}({pointer(stmt.total)}, " \
                  f"{pointer(stmt.left)}, {pointer(stmt.right)});"

    def let(self, stmt: Let, value: str) -> str:
        """Return the declaration of a name."""
        target = stmt.target
        if isinstance(target, Symbol):
            return f"const long long {self.name(target)} = {bare(value)};"
        const = "" if target in self.changing else "const "
        return f"{const}{C_TYPES[target.dtype]} {self.name(target)} = {bare(value)};"

    def accumulate(self, stmt: Accumulate, value: str) -> str:
        """Return ``target = combine(target, value)``."""
        target = stmt.target
        place = self.name(target) if isinstance(target, Local) \
            else self.place(target.buffer, target.position)
        if stmt.combine == "add" and target.dtype.startswith("float"):
            return f"{place} += {bare(value)};"
        return f"{place} = {bare(combined(stmt.combine, target.dtype, place, value))};"

    def loop(self, stmt: For) -> Iterator[str]:
        """Yield a loop; one over the elements a thread takes at a time moves them together."""
        after: list[str] = []
        known = dict(self.vectors)
        before = list(self.moved_together(stmt, after)) if stmt.mark == "vector" else []
        indent = "    " if before else ""
        if before:
            yield "{"
        for line in before:
            yield indent + line
        kind, index = self.kind(stmt.index, stmt.extent), self.name(stmt.index)
        if stmt.mark in ("unroll", "vector"):
            yield f"{indent}#pragma unroll"
        yield f"{indent}for ({kind} {index} = 0; {index} < {self.dim(stmt.extent)}; ++{index}) {{"
        for line in self.inside(stmt.body):
            yield indent + line
        self.vectors = known
        for line in after:
            yield indent + line
        if before:
            yield "}"

    def moved_together(self, stmt: For, after: list[str]) -> Iterator[str]:
        """Yield the loads of several elements at once; the stores go to ``after``."""
        read = [(load.buffer, load.position, False) for inner in stmt.body
                for load in loads(*operands(inner))]
        stored = [(inner.buffer, inner.position, True) for inner in stmt.body
                  if isinstance(inner, Store)]
        both = {(buffer.root(), flat_offset(at, buffer.dims)) for buffer, at, _ in stored} & {
            (buffer.root(), flat_offset(at, buffer.dims)) for buffer, at, _ in read}
        added = {inner.target.buffer.root() for inner in statements(stmt.body)
                 if isinstance(inner, Accumulate) and isinstance(inner.target, Load)}
        for buffer, position, writes in read + stored:
            offset = flat_offset(position, buffer.dims)
            key = (buffer.root(), offset)
            if key in self.vectors or buffer.root() in added \
                    or buffer.root().role in ("scratch", "register") \
                    or coefficient_of(offset, stmt.index) != 1 \
                    or not is_multiple(offset - as_dim(stmt.index), stmt.extent):
                continue
            kind = self.module.vector(buffer.dtype, stmt.extent)
            own = identifier(f"{self.name(buffer.root())}_{stmt.extent}", self.taken)
            self.vectors[key] = f"{own}.at[{self.name(stmt.index)}]"
            start = bare(self.dim(substitute(offset, {stmt.index: 0})))
            place = f"({self.name(buffer.root())} + {start})"
            if not writes:
                const = "" if key in both else "const "
                yield f"{const}{kind} {own} = *(const {kind} *){place};"
            else:
                yield f"{kind} {own};"
            if writes or key in both:
                after.append(f"*({kind} *){place} = {own};")

    # -- expressions -------------------------------------------------------------------------------

    def is_named(self, node: Expr, rendered: str, is_shared: bool, roots: tuple[Expr, ...]) -> bool:
        return is_shared and isinstance(node, (Scalar, Load)) or (
            isinstance(node, Scalar) and len(rendered) > LONGEST and node not in roots)

    def declared(self, node: Expr, rendered: str) -> tuple[str, str]:
        name = f"t{self.temporaries}"
        return name, f"const {C_TYPES[node.dtype]} {name} = {bare(rendered)};"

    def node(self, node: Expr, text: dict[int, str]) -> str:
        """Return one node whose arguments are written."""
        if isinstance(node, Const):
            return literal(node)
        if isinstance(node, Index):
            narrow = self.bound(node.dim) < NARROW
            return f"(long long){self.dim(node.dim)}" if narrow else self.dim(node.dim)
        if isinstance(node, Load):
            return self.place(node.buffer, node.position)
        if isinstance(node, Local):
            return self.name(node)
        args = [text.get(id(arg)) or self.known(arg) for arg in node.args]
        if node.name in FUNCTIONS:
            name = self.module.function(node.name, node.dtype, len(args))
            return f"{name}({', '.join(map(bare, args))})"
        if node.name == "cast" and (node.dtype in HALVES or node.args[0].dtype in HALVES):
            return f"{self.module.conversion(node.args[0].dtype, node.dtype)}({bare(args[0])})"
        if node.name in ("lt", "eq", "ne") and all(map(self.is_narrow, node.args)):
            args = [self.dim(arg.dim) if isinstance(arg, Index) else str(arg.value)
                    for arg in node.args]
        return PRINTERS[node.name](node, args)

    def is_narrow(self, node: Expr) -> bool:
        """Return whether an expression is an index of 32 bits."""
        if isinstance(node, Const):
            return node.dtype == "int64" and 0 <= node.value < NARROW
        return isinstance(node, Index) and self.bound(node.dim) < NARROW

    def place(self, buffer: Buffer, position: tuple[DimLike, ...]) -> str:
        """Return an element."""
        offset = flat_offset(position, buffer.dims)
        found = self.vectors.get((buffer.root(), offset))
        if found is not None:
            return found
        return f"{self.name(buffer.root())}[{bare(self.dim(offset))}]"

    # -- integers ----------------------------------------------------------------------------------

    def kind(self, symbol: Symbol, extent: DimLike | None = None) -> str:
        """Return the C type of an index."""
        extent = symbol.extent if extent is None else extent
        limit = NARROW if extent is None else self.bound(extent)
        (self.narrow if limit < NARROW else self.wide).add(symbol)
        return "int" if limit < NARROW else "long long"

    def bound(self, dim: DimLike) -> int:
        """Return what the sum of the magnitudes of a dim's terms stays below (or NARROW)."""
        if isinstance(dim, int):
            return abs(dim) + 1
        total = 1
        for monomial, coefficient in dim.terms:
            product = abs(coefficient)
            for atom, power in monomial:
                product *= (self._atom_bound(atom) - 1) ** power
            total += product
        return min(total, NARROW)

    def _atom_bound(self, atom: Symbol | Call) -> int:
        if isinstance(atom, Symbol):
            if atom in self.wide or atom.lower is None or not isinstance(atom.extent, int):
                known = None if atom.extent is None or atom in self.wide or atom.lower is None \
                    else self.bound(atom.extent)
                return NARROW if known is None else known
            return max(atom.extent, 1)
        left, right = map(self.bound, atom.args)
        if atom.function in ("min", "max"):
            return max(left, right)
        return left if atom.function == "floordiv" and right < NARROW else max(left, right)

    def dim(self, dim: DimLike) -> str:
        """Return a dim as an expression, of 64 bits where 32 may not do."""
        if isinstance(dim, int):
            return str(dim) if -NARROW < dim < NARROW else f"{dim}ll"
        narrow = self.bound(dim) < NARROW
        parts: list[str] = []
        for monomial, coefficient in sorted(dim.terms, key=lambda term: not term[0]):
            factors = [self._atom(atom, narrow) for atom, power in monomial for _ in range(power)]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, self.dim(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+"
            parts += [sign, " * ".join(factors)]
        text = " ".join(parts[1:] if parts[0] == "+" else [f"-{parts[1]}", *parts[2:]])
        is_atom = len(parts) == 2 and parts[0] == "+" and len(factors) == 1
        return text if is_atom else f"({text})"

    def _atom(self, atom: Symbol | Call, narrow: bool) -> str:
        if isinstance(atom, Symbol):
            cast = "(long long)" if atom in self.narrow and not narrow else ""
            return cast + self.name(atom)
        kind = "int" if narrow else "long long"
        left, right = (self.dim(arg) for arg in atom.args)
        if atom.function in ("min", "max"):
            return f"{atom.function}imum<{kind}>({bare(left)}, {bare(right)})"
        divisor = atom.args[1]
        positive = divisor > 0 if isinstance(divisor, int) else proves_nonnegative(divisor - 1)
        if positive and proves_nonnegative(atom.args[0]):
            return f"({left} {'/' if atom.function == 'floordiv' else '%'} {right})"
        name = "floor_divide" if atom.function == "floordiv" else "modulo"
        return f"{name}<{kind}>({bare(left)}, {bare(right)})"
