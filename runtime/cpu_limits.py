"""Parallel loops and BLAS with a limit on threads of their own, for one function.

Code of a function with the option ``threads=n`` is linked with these instead of the ordinary ones.
BLAS knows one number for the process.  It is lowered while such products run, and set back when the
last of them ends.
"""

from __future__ import annotations

from . import blas, cpu_threads
from .cpu_jit import Library, assemble, link, loading

_REGIONS = """
declare i64 @tx_parallel_limited(ptr, ptr, i64, i64, i64, i64)

define void @tx_parallel_for(ptr %body, ptr %frame, i64 %count, i64 %grain) {
  %stopped = call i64 @tx_parallel_limited(ptr %body, ptr %frame, i64 %count, i64 %grain, i64 0,
                                           i64 LIMIT)
  ret void
}
define i64 @tx_parallel_until(ptr %body, ptr %frame, i64 %count, i64 %grain, i64 %may.stop) {
  %stopped = call i64 @tx_parallel_limited(ptr %body, ptr %frame, i64 %count, i64 %grain,
                                           i64 %may.stop, i64 LIMIT)
  ret i64 %stopped
}
"""

_LOWER = """
@busy = internal global i64 0, align 64
@running = internal global i64 0
@before = internal global i32 0
declare i32 @get_threads()
declare void @set_threads(i32)

define internal void @lock() {
entry:
  br label %try
try:
  %pair = cmpxchg ptr @busy, i64 0, i64 1 acquire monotonic, align 8
  %mine = extractvalue { i64, i1 } %pair, 1
  br i1 %mine, label %done, label %try
done:
  ret void
}

define void @tx_lower(i32 %limit) {
  call void @lock()
  %count = load i64, ptr @running
  %now = call i32 @get_threads()
  %first = icmp eq i64 %count, 0
  br i1 %first, label %note, label %compare
note:
  store i32 %now, ptr @before
  br label %compare
compare:
  %more = add i64 %count, 1
  store i64 %more, ptr @running
  %above = icmp sgt i32 %now, %limit
  br i1 %above, label %lower, label %done
lower:
  call void @set_threads(i32 %limit)
  br label %done
done:
  store atomic i64 0, ptr @busy release, align 8
  ret void
}

define void @tx_raise() {
  call void @lock()
  %count = load i64, ptr @running
  %less = sub i64 %count, 1
  store i64 %less, ptr @running
  %last = icmp eq i64 %less, 0
  br i1 %last, label %restore, label %done
restore:
  %before = load i32, ptr @before
  %now = call i32 @get_threads()
  %other = icmp ne i32 %now, %before
  br i1 %other, label %set, label %done
set:
  call void @set_threads(i32 %before)
  br label %done
done:
  store atomic i64 0, ptr @busy release, align 8
  ret void
}
"""

_PRODUCT = """
declare void @blas(i32, i32, i32, i32, i32, i32, KIND, ptr, i32, ptr, i32, KIND, ptr, i32)
declare void @tx_lower(i32)
declare void @tx_raise()

define void @gemm(i32 %order, i32 %ta, i32 %tb, i32 %m, i32 %n, i32 %k, KIND %alpha, ptr %a,
                  i32 %lda, ptr %b, i32 %ldb, KIND %beta, ptr %c, i32 %ldc) {
  call void @tx_lower(i32 LIMIT)
  call void @blas(i32 %order, i32 %ta, i32 %tb, i32 %m, i32 %n, i32 %k, KIND %alpha, ptr %a,
                  i32 %lda, ptr %b, i32 %ldb, KIND %beta, ptr %c, i32 %ldc)
  call void @tx_raise()
  ret void
}
"""

_KINDS = {"cblas_sgemm": "float", "cblas_dgemm": "double"}
_loaded: dict[tuple[str, int], Library] = {}


def limited(name: str, threads: int) -> int:
    """Return the address of one of ``artifact.EXTERNALS`` that uses at most so many threads.

    Parameters
    ----------
    name : str
        ``tx_parallel_for``, ``tx_parallel_until``, ``cblas_sgemm`` or ``cblas_dgemm``.
    threads : int
        At least 1.
    """
    with loading:
        if name not in _KINDS:
            key = ("regions", threads)
            if key not in _loaded:
                imports = {"tx_parallel_limited": cpu_threads.library()["tx_parallel_limited"]}
                _loaded[key] = link(assemble(_REGIONS.replace("LIMIT", str(threads))), imports,
                                    ("tx_parallel_for", "tx_parallel_until"))
            return _loaded[key][name]
        key = (name, threads)
        if key not in _loaded:
            text = _PRODUCT.replace("LIMIT", str(threads)).replace("KIND", _KINDS[name])
            _loaded[key] = link(assemble(text), {"blas": blas.address(name), **_lowering()},
                                ("gemm",))
        return _loaded[key]["gemm"]


def _lowering() -> dict[str, int]:
    key = ("lower", 0)
    if key not in _loaded:
        _loaded[key] = link(assemble(_LOWER), blas.thread_functions(), ("tx_lower", "tx_raise"))
    return _loaded[key].addresses
