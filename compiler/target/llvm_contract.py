"""Contractions on the CPU: CBLAS where its conventions allow, else plain loops.

One function per dtype takes all sizes and strides and decides at run time which operand is
transposed, so symbolic sizes need no case distinction in the caller.
"""

from __future__ import annotations

from ..dims import Symbol, as_dim
from ..loop.ir import Accumulate, Buffer, For, If, Let, Load, Local, Nest, Store
from ..loop.scalar import apply, const, index
from ..loop.text import nest_signature
from .llvm_kernel import emit_kernel
from .llvm_scalar import llvm_type
from .llvm_writer import Module

SIZES = ("batch", "m", "n", "k", "ob", "om", "on", "lb", "lm", "lk", "rb", "rm", "rn")
"""Size arguments of a contraction: the extents, then the strides of out, left and right."""

_LEADING = """
define internal i64 @tx.leading(i64 %rows, i64 %columns, i64 %row, i64 %column)
    noinline optnone nounwind {
  ; The leading dimension of a row-major matrix with these strides; 0 when BLAS cannot express it.
  %narrow = icmp sle i64 %columns, 1
  %adjacent = icmp eq i64 %column, 1
  %unit = or i1 %narrow, %adjacent
  %least = call i64 @llvm.smax.i64(i64 %columns, i64 1)
  %single = icmp sle i64 %rows, 1
  %leading = select i1 %single, i64 %least, i64 %row
  %apart = icmp sge i64 %leading, %least
  %fits = icmp sle i64 %leading, 2147483647
  %possible = and i1 %unit, %apart
  %good = and i1 %possible, %fits
  %result = select i1 %good, i64 %leading, i64 0
  ret i64 %result
}"""

_CONTRACT = """
define internal void @tx.contract.{T}(ptr %out, ptr %left, ptr %right, {SIZES}, i1 %add)
    noinline optnone nounwind {{
entry:
  %ldc = call i64 @tx.leading(i64 %m, i64 %n, i64 %om, i64 %on)
  %lda = call i64 @tx.leading(i64 %m, i64 %k, i64 %lm, i64 %lk)
  %lda.t = call i64 @tx.leading(i64 %k, i64 %m, i64 %lk, i64 %lm)
  %ldb = call i64 @tx.leading(i64 %k, i64 %n, i64 %rm, i64 %rn)
  %ldb.t = call i64 @tx.leading(i64 %n, i64 %k, i64 %rn, i64 %rm)
  %turn.a = icmp eq i64 %lda, 0
  %turn.b = icmp eq i64 %ldb, 0
  %a.stride = select i1 %turn.a, i64 %lda.t, i64 %lda
  %b.stride = select i1 %turn.b, i64 %ldb.t, i64 %ldb
  %a.kind = select i1 %turn.a, i32 112, i32 111
  %b.kind = select i1 %turn.b, i32 112, i32 111
  %least.ab = call i64 @llvm.smin.i64(i64 %a.stride, i64 %b.stride)
  %least.abc = call i64 @llvm.smin.i64(i64 %least.ab, i64 %ldc)
  %least = call i64 @llvm.smin.i64(i64 %least.abc, i64 %k)
  %most.mn = call i64 @llvm.smax.i64(i64 %m, i64 %n)
  %most = call i64 @llvm.smax.i64(i64 %most.mn, i64 %k)
  %regular = icmp sge i64 %least, 1
  %small = icmp sle i64 %most, 2147483647
  %blas = and i1 %regular, %small
  %rows = icmp sgt i64 %m, 0
  %columns = icmp sgt i64 %n, 0
  %area = and i1 %rows, %columns
  %some = icmp sgt i64 %batch, 0
  %work = and i1 %area, %some
  br i1 %work, label %choose, label %done
choose:
  %beta = uitofp i1 %add to {T}
  %add.word = zext i1 %add to i64
  %m32 = trunc i64 %m to i32
  %n32 = trunc i64 %n to i32
  %k32 = trunc i64 %k to i32
  %lda32 = trunc i64 %a.stride to i32
  %ldb32 = trunc i64 %b.stride to i32
  %ldc32 = trunc i64 %ldc to i32
  br i1 %blas, label %loop, label %plain
loop:
  %i = phi i64 [ 0, %choose ], [ %next, %loop ]
  %a.at = mul nsw i64 %i, %lb
  %b.at = mul nsw i64 %i, %rb
  %c.at = mul nsw i64 %i, %ob
  %a = getelementptr inbounds {T}, ptr %left, i64 %a.at
  %b = getelementptr inbounds {T}, ptr %right, i64 %b.at
  %c = getelementptr inbounds {T}, ptr %out, i64 %c.at
  call void @{GEMM}(i32 101, i32 %a.kind, i32 %b.kind, i32 %m32, i32 %n32, i32 %k32,
    {T} 1.0, ptr %a, i32 %lda32, ptr %b, i32 %ldb32, {T} %beta, ptr %c, i32 %ldc32)
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %batch
  br i1 %more, label %loop, label %done
plain:
  call void @tx.plain.{T}(ptr null, {POINTERS}, {PASSED})
  br label %done
done:
  ret void
}}"""


def gemm_name(dtype: str) -> str:
    """Return the CBLAS routine of a float dtype."""
    return "cblas_sgemm" if dtype == "float32" else "cblas_dgemm"


def contract_function(module: Module, dtype: str) -> str:
    """Include the contraction of a dtype; return its name.

    ``void name(ptr out, ptr left, ptr right, i64 sizes..., i1 add)`` with :data:`SIZES`.
    """
    kind = llvm_type(dtype)
    name = f"tx.contract.{kind}"
    if name not in module.declarations:
        for extremum in ("smin", "smax"):
            module.declare(f"llvm.{extremum}.i64", "i64", "i64", "i64")
        module.declarations["tx.leading"] = _LEADING
        module.declare(gemm_name(dtype), "void", *["i32"] * 6, kind, "ptr", "i32", "ptr", "i32",
                       kind, "ptr", "i32")
        pointers, passed = _emit_plain(module, dtype)
        module.declarations[name] = _CONTRACT.format(
            T=kind, GEMM=gemm_name(dtype), SIZES=", ".join(f"i64 %{size}" for size in SIZES),
            POINTERS=pointers, PASSED=passed)
    return name


def _emit_plain(module: Module, dtype: str) -> tuple[str, str]:
    """Add ``tx.plain``, the contraction as loops; return the texts of its arguments."""
    sizes = {name: Symbol(name, lower=None) for name in (*SIZES, "add.word")}
    value = {name: as_dim(symbol) for name, symbol in sizes.items()}
    b, m, n, k = (Symbol(name) for name in "bmnk")
    buffers = {name: Buffer(name, dtype, (1,)) for name in ("out", "left", "right")}
    place = as_dim(b) * value["ob"] + as_dim(m) * value["om"] + as_dim(n) * value["on"]
    left = Load(buffers["left"], (
        as_dim(b) * value["lb"] + as_dim(m) * value["lm"] + as_dim(k) * value["lk"],))
    right = Load(buffers["right"], (
        as_dim(b) * value["rb"] + as_dim(k) * value["rm"] + as_dim(n) * value["rn"],))
    total = Local("total", dtype)
    old = Load(buffers["out"], (place,))
    adding = apply("ne", index(value["add.word"]), const(0, "int64"))
    body = For(b, value["batch"], (For(m, value["m"], (For(n, value["n"], (
        Let(total, const(0, dtype)),
        For(k, value["k"], (Accumulate(total, "add", apply("mul", left, right)),)),
        If(adding, (Accumulate(total, "add", old),)),
        Store(buffers["out"], (place,), total),
    )),)),))
    nest = Nest("plain", (body,))
    signature = nest_signature(nest)
    emit_kernel(module, f"tx.plain.{llvm_type(dtype)}", nest, signature, "optsize")
    pointers = ", ".join(f"ptr %{buffer.name}" for buffer in signature.buffers)
    return pointers, ", ".join(f"i64 %{symbol.name}" for symbol in signature.symbols)
