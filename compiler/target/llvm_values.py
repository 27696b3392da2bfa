"""The values of expressions in LLVM IR: loads, stores, sizes, and what is made of them.

:class:`Values` writes one element at a time; ``llvm_vector.py`` writes several, and asks it for
what all of them share.
"""

from __future__ import annotations

from ..dims import DimLike
from ..dtypes import SIZES
from ..loop.ir import Buffer, Check, Const, Expr, Index, Load, Local, Nest, Scalar
from ..loop.math import FUNCTIONS
from ..loop.walk import accumulated_locals, postorder, stable_expressions
from ..program import row_major_strides
from .llvm_function import call
from .llvm_scalar import EMITTERS, combine, constant, llvm_type, memory_type
from .llvm_writer import FunctionWriter

_REPORT = """
define internal void @tx.report(ptr %status, i64 %code, i64 %value) noinline cold nounwind {
  %old = cmpxchg ptr %status, i64 0, i64 %code monotonic monotonic, align 8
  %first = extractvalue { i64, i1 } %old, 1
  br i1 %first, label %store, label %done
store:
  %slot = getelementptr inbounds i64, ptr %status, i64 1
  store i64 %value, ptr %slot, align 8
  br label %done
done:
  ret void
}"""


class Values:
    """Writes the expressions of one nest.

    A local that some ``Accumulate`` changes lives in a stack slot: LLVM turns it into a register.

    Attributes
    ----------
    addresses : dict of Buffer to str
        The pointer of each root buffer.
    locals : dict of Local to str
        The value of each local that is bound, or its slot when it changes.
    memos : list of dict
        Operands of stable expressions, for each block under way.
    streamed : dict of Buffer to str
        Whether each result that the nest may write past the caches is large (``llvm_stream.py``).
    """

    def __init__(self, writer: FunctionWriter, nest: Nest, addresses: dict[Buffer, str]):
        self.writer, self.addresses = writer, addresses
        self.stable = stable_expressions(nest)
        self.changing = accumulated_locals(nest)
        self.memos: list[dict[int, str]] = [{}]
        self.streamed: dict[Buffer, str] = {}
        self.locals: dict[Local, str] = {}
        self.strides: dict[Buffer, tuple[DimLike, ...]] = {}
        self.checks: dict[int, tuple[int, str, str]] = {}

    def value(self, root: Expr) -> str:
        """Return the operand holding an expression's value."""
        own: dict[int, str] = {}
        for node in postorder(root, known=lambda node: self.memo(node) is not None):
            text = own[id(node)] = self._node(node, own)
            if id(node) in self.stable:
                self.memos[-1][id(node)] = text
        return own.get(id(root)) or self.memo(root)

    def memo(self, node: Expr) -> str | None:
        """Return the operand of a node written by an earlier statement, if it may be reused."""
        for memo in reversed(self.memos):
            if id(node) in memo:
                return memo[id(node)]
        return None

    def _node(self, node: Expr, own: dict[int, str]) -> str:
        """Write one node whose arguments are written."""
        if isinstance(node, Const):
            return constant(node.value, node.dtype)
        if isinstance(node, Index):
            return self.writer.dim(node.dim)
        if isinstance(node, Load):
            return self.load(node)
        if isinstance(node, Local):
            return self.local(node)
        assert isinstance(node, Scalar), node
        args = [own.get(id(arg)) or self.memo(arg) for arg in node.args]
        if node.name in FUNCTIONS:
            return call(self.writer, node, [args])[0]
        return EMITTERS[node.name](self.writer, node, args, 1)

    def local(self, local: Local) -> str:
        """Return a local's value."""
        if local not in self.changing:
            return self.locals[local]
        kind = llvm_type(local.dtype)
        return self.writer.emit(f"load {kind}, ptr {self.locals[local]}, align 8")

    def set_local(self, local: Local, value: str) -> None:
        """Change a local that has a slot."""
        kind = llvm_type(local.dtype)
        self.writer.run(f"store {kind} {value}, ptr {self.locals[local]}, align 8")

    def load(self, load: Load) -> str:
        """Write a load."""
        return self.load_at(load.dtype, self.address(load.buffer, load.position))

    def load_at(self, dtype: str, address: str) -> str:
        """Write a load from an address."""
        value = self.writer.emit(
            f"load {memory_type(dtype)}, ptr {address}, align {SIZES[dtype]}")
        return self.writer.emit(f"icmp ne i8 {value}, 0") if dtype == "bool" else value

    def store(self, buffer: Buffer, position: tuple[DimLike, ...], value: str) -> None:
        """Write a store."""
        self.store_at(buffer.dtype, self.address(buffer, position), value)

    def store_at(self, dtype: str, address: str, value: str) -> None:
        """Write a store to an address."""
        if dtype == "bool":
            value = self.writer.emit(f"zext i1 {value} to i8")
        self.writer.run(f"store {memory_type(dtype)} {value}, ptr {address}, "
                        f"align {SIZES[dtype]}")

    def offset(self, buffer: Buffer, position: tuple[DimLike, ...]) -> DimLike:
        """Return the elements before one in its buffer."""
        strides = self.strides.get(buffer)
        if strides is None:
            strides = self.strides[buffer] = row_major_strides(buffer.dims)
        offset: DimLike = 0
        for index, stride in zip(position, strides):
            offset = offset + index * stride
        return offset

    def address(self, buffer: Buffer, position: tuple[DimLike, ...]) -> str:
        """Write an element's address."""
        return self.address_at(buffer, self.offset(buffer, position))

    def address_at(self, buffer: Buffer, offset: DimLike) -> str:
        """Write the address of the element after ``offset`` others."""
        return self.writer.address(
            memory_type(buffer.dtype), self.addresses[buffer.root()], offset)

    def check(self, stmt: Check) -> None:
        """Write a check without a branch: the largest offending value is reported at the end."""
        holds, value = self.value(stmt.condition), self.value(stmt.value)
        writer = self.writer
        failed, worst = self.check_slots(stmt)
        fails = writer.emit(f"xor i1 {holds}, true")
        either = writer.emit(f"or i1 {writer.emit(f'load i1, ptr {failed}, align 8')}, {fails}")
        writer.run(f"store i1 {either}, ptr {failed}, align 8")
        candidate = writer.emit(f"select i1 {holds}, i64 {-2**63}, i64 {value}")
        old = writer.emit(f"load i64, ptr {worst}, align 8")
        largest = combine(writer, "maximum", "int64", old, candidate)
        writer.run(f"store i64 {largest}, ptr {worst}, align 8")

    def check_slots(self, stmt: Check) -> tuple[str, str]:
        """Return where a check keeps whether it failed, and the largest offending value."""
        writer = self.writer
        if id(stmt) not in self.checks:
            failed, worst = writer.alloca("i1"), writer.alloca("i64")
            writer.allocas.append(f"  store i1 false, ptr {failed}, align 8")
            writer.allocas.append(f"  store i64 {-2**63}, ptr {worst}, align 8")
            self.checks[id(stmt)] = (stmt.code, failed, worst)
        return self.checks[id(stmt)][1:]

    def report(self) -> None:
        """Write the epilogue that reports failed checks."""
        writer = self.writer
        for code, failed, worst in self.checks.values():
            writer.module.declarations["tx.report"] = _REPORT

            def tell(code: int = code, worst: str = worst) -> None:
                value = writer.emit(f"load i64, ptr {worst}, align 8")
                writer.run(f"call void @tx.report(ptr %status, i64 {code}, i64 {value})")

            writer.branch_if(writer.emit(f"load i1, ptr {failed}, align 8"), tell, "failed")
