"""Parallel loops with a limit on threads of their own, for one function.

Code of a function with the option ``threads=n`` is linked with these instead of the ordinary ones.
"""

from __future__ import annotations

from . import cpu_threads
from .cpu_jit import Library, assemble, link, loading

_REGIONS = """
declare i64 @tx_parallel_limited(ptr, ptr, i64, i64, i64, i64, i64)

define void @tx_parallel_for(ptr %body, ptr %frame, i64 %count, i64 %grain) {
  %stopped = call i64 @tx_parallel_limited(ptr %body, ptr %frame, i64 %count, i64 %grain, i64 0,
                                           i64 0, i64 LIMIT)
  ret void
}
define i64 @tx_parallel_until(ptr %body, ptr %frame, i64 %count, i64 %grain, i64 %may.stop,
                              i64 %is.long) {
  %stopped = call i64 @tx_parallel_limited(ptr %body, ptr %frame, i64 %count, i64 %grain,
                                           i64 %may.stop, i64 %is.long, i64 LIMIT)
  ret i64 %stopped
}
"""

_loaded: dict[int, Library] = {}


def limited(threads: int) -> Library:
    """Return ``tx_parallel_for`` and ``tx_parallel_until`` that use at most so many threads."""
    with loading:
        if threads not in _loaded:
            imports = {"tx_parallel_limited": cpu_threads.library()["tx_parallel_limited"]}
            _loaded[threads] = link([assemble(_REGIONS.replace("LIMIT", str(threads)))], imports,
                                    ("tx_parallel_for", "tx_parallel_until"))
        return _loaded[threads]
