"""Contractions on the CPU: our own kernels, or CBLAS where that is faster.

BLAS is used only for what it can express; our own kernels take any strides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..dims import DimLike, prod
from .llvm_gemm import gemm_function
from .llvm_gemm_sizes import EXTENTS, PARAMETERS, SizeWriter, Truth
from .llvm_scalar import llvm_type
from .llvm_writer import Module

BLAS_WORK = 1 << 21
"""Multiply-adds from which OpenBLAS is faster, or as fast: 128 cubed."""

BLAS_WORK_TURNED = 1 << 27
"""The same where ``right`` is transposed, so that its columns are contiguous: 512 cubed."""

BLAS_LEAST = 32
"""Up to this many rows or columns of the result our own kernels are faster at any size."""

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

_BLAS = """
define internal i1 @tx.blas.{T}({PARAMETERS})
    noinline optnone nounwind {{
entry:
  ; Returns whether BLAS can express the product, which is then done.
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
  %least.mn = call i64 @llvm.smin.i64(i64 %m, i64 %n)
  %least.mnk = call i64 @llvm.smin.i64(i64 %least.mn, i64 %k)
  %least.all = call i64 @llvm.smin.i64(i64 %least.abc, i64 %least.mnk)
  %least = call i64 @llvm.smin.i64(i64 %least.all, i64 %batch)
  %most.mn = call i64 @llvm.smax.i64(i64 %m, i64 %n)
  %most = call i64 @llvm.smax.i64(i64 %most.mn, i64 %k)
  %regular = icmp sge i64 %least, 1
  %small = icmp sle i64 %most, 2147483647
  %blas = and i1 %regular, %small
  br i1 %blas, label %start, label %done
start:
  %beta = uitofp i1 %add to {T}
  %m32 = trunc i64 %m to i32
  %n32 = trunc i64 %n to i32
  %k32 = trunc i64 %k to i32
  %lda32 = trunc i64 %a.stride to i32
  %ldb32 = trunc i64 %b.stride to i32
  %ldc32 = trunc i64 %ldc to i32
  br label %loop
loop:
  %i = phi i64 [ 0, %start ], [ %next, %loop ]
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
done:
  ret i1 %blas
}}"""


def gemm_name(dtype: str) -> str:
    """Return the CBLAS routine of a float dtype."""
    return "cblas_sgemm" if dtype == "float32" else "cblas_dgemm"


def contract_function(module: Module, dtype: str, sizes: Sequence[DimLike]) -> str:
    """Include the contraction of a dtype and of certain sizes; return its name.

    Parameters
    ----------
    module : Module
    dtype : str
        ``float32`` or ``float64``.
    sizes : sequence of dim
        What ``llvm_gemm_sizes.EXTENTS`` lists: numbers are built in, others are arguments.

    Returns
    -------
    str
        ``void name(ptr out, ptr left, ptr right, i64 sizes..., i1 add)``, all sizes passed.
    """
    known = "_".join(str(size) if isinstance(size, int) else "" for size in sizes)
    name = f"tx.contract.{llvm_type(dtype)}.{known}".replace("-", "n")
    if name not in module.declarations:
        module.declarations[name] = ""
        _Dispatch(module, dtype, name, dict(zip(EXTENTS, sizes, strict=True))).write()
    return name


class _Dispatch(SizeWriter):
    """Writes the choice between our own kernels and BLAS."""

    def __init__(self, module: Module, dtype: str, name: str, sizes: Mapping[str, DimLike]):
        super().__init__(module, name, sizes, "optnone")
        self.dtype, self.sizes = dtype, sizes

    def write(self) -> None:
        """Write the whole function."""
        self.leave_if(self.prefers_blas(), self.blas)
        if not self.writer.left:
            self.own()
            self.writer.run("ret void")
        self.writer.finish()

    def prefers_blas(self) -> Truth:
        """Return whether OpenBLAS is faster: the rule, measured on AVX2 with one thread.

        OpenBLAS wins by a tenth on large products, whose ``right`` it packs once for all rows.  It
        loses a half and more on small ones, and on results of few rows or columns.
        """
        m, n, k = (self.value[word] for word in ("m", "n", "k"))
        work = prod((m, n, k))
        turned = self.both(self.compare("eq", self.value["rm"], 1),
                           self.compare("ne", self.value["rn"], 1))
        large = self.compare("sge", work, self.choose(turned, BLAS_WORK_TURNED, BLAS_WORK))
        return self.both(large, self.both(self.compare("sgt", m, BLAS_LEAST),
                                          self.compare("sgt", n, BLAS_LEAST)))

    def own(self) -> None:
        """Write the call of our own product."""
        name = gemm_function(self.module, self.dtype, tuple(self.sizes.values()))
        self.writer.run(f"call void @{name}({PARAMETERS})")

    def blas(self) -> None:
        """Write the call of BLAS, and what happens if it cannot express the product."""
        done = self.writer.emit(
            f"call i1 @{blas_function(self.module, self.dtype)}({PARAMETERS})")
        if not is_expressible(self.value):
            undone = self.writer.emit(f"xor i1 {done}, true")
            self.writer.branch_if(undone, self.own, "own")


def is_expressible(value: Mapping[str, DimLike]) -> bool:
    """Return whether BLAS is known to express a product of these sizes."""
    if not all(isinstance(size, int) for size in value.values()):
        return False

    def leads(rows: str, columns: str, row: str, column: str) -> bool:
        least = max(1, value[columns])
        return (value[columns] <= 1 or value[column] == 1) and (
            value[rows] <= 1 or least <= value[row] < 1 << 31)

    return (max(value["m"], value["n"], value["k"]) < 1 << 31
            and min(value["batch"], value["m"], value["n"], value["k"]) >= 1
            and leads("m", "n", "om", "on")
            and (leads("m", "k", "lm", "lk") or leads("k", "m", "lk", "lm"))
            and (leads("k", "n", "rm", "rn") or leads("n", "k", "rn", "rm")))


def blas_function(module: Module, dtype: str) -> str:
    """Include the product by BLAS; return its name.

    ``i1 name(PARAMETERS)`` returns whether BLAS can express the product, and if so computes it.
    """
    kind = llvm_type(dtype)
    name = f"tx.blas.{kind}"
    if name not in module.declarations:
        for extremum in ("smin", "smax"):
            module.declare(f"llvm.{extremum}.i64", "i64", "i64", "i64")
        module.declarations["tx.leading"] = _LEADING
        module.declare(gemm_name(dtype), "void", *["i32"] * 6, kind, "ptr", "i32", "ptr", "i32",
                       kind, "ptr", "i32")
        module.declarations[name] = _BLAS.format(
            T=kind, GEMM=gemm_name(dtype), PARAMETERS=PARAMETERS)
    return name
