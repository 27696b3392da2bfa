"""Take and release the words of shared storages, in one step under the GIL (see ``shared.py``)."""

from __future__ import annotations

import ctypes
import threading

from . import cpu_poll, shared
from .cpu_jit import HAS_GIL, Library, assemble, link, loading

TEXT = """
define i64 @tx_try_acquire(ptr %words, i64 %count, i64 %exclusive, ptr %held) {
entry:
  %writes = icmp ne i64 %exclusive, 0
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i.next, %free ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %test, label %take
test:
  %slot = getelementptr ptr, ptr %words, i64 %i
  %word = load ptr, ptr %slot
  %value = load i64, ptr %word
  %used = icmp ne i64 %value, 0
  %written = icmp slt i64 %value, 0
  %refuse = select i1 %writes, i1 %used, i1 %written
  br i1 %refuse, label %no, label %free
free:
  %i.next = add i64 %i, 1
  br label %look
no:
  ret i64 0
take:
  %step = select i1 %writes, i64 -1, i64 1
  call void @tx_shift(ptr %words, i64 %count, i64 %step)
  store i64 1, ptr %held
  ret i64 1
}

define void @tx_release(ptr %words, i64 %count, i64 %exclusive, ptr %held) {
  %taken = load i64, ptr %held
  %any = icmp ne i64 %taken, 0
  br i1 %any, label %give, label %done
give:
  %writes = icmp ne i64 %exclusive, 0
  %step = select i1 %writes, i64 1, i64 -1
  call void @tx_shift(ptr %words, i64 %count, i64 %step)
  store i64 0, ptr %held
  br label %done
done:
  ret void
}

define internal void @tx_shift(ptr %words, i64 %count, i64 %step) {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %one ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %slot = getelementptr ptr, ptr %words, i64 %i
  %word = load ptr, ptr %slot
  %value = load i64, ptr %word
  %new = add i64 %value, %step
  store i64 %new, ptr %word
  %i.next = add i64 %i, 1
  br label %next
done:
  ret void
}
"""
"""Included by the call entry too, which locks without leaving compiled code."""

_loaded: list[Library] = []


def install() -> None:
    """Make shared storages lock; to be called before any compiled code runs."""
    if _loaded:
        return
    with loading:
        if not _loaded:
            loaded = link([assemble(TEXT)], {}, ("tx_try_acquire", "tx_release"))
            # PYFUNCTYPE keeps the GIL: that makes each of the two calls one atomic step.
            types = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
            acquire = ctypes.PYFUNCTYPE(ctypes.c_int64, *types)(loaded["tx_try_acquire"])
            release = ctypes.PYFUNCTYPE(None, *types)(loaded["tx_release"])
            shared.use_lock_functions(_alone(acquire), _alone(release), cpu_poll.is_handling)
            _loaded.append(loaded)


def _alone(function: shared.TryAcquire) -> shared.TryAcquire:
    """Serialise calls where there is no GIL to do it."""
    if HAS_GIL:
        return function
    mutex = threading.Lock()

    def locked(words: int, count: int, exclusive: int, held: int) -> int:
        with mutex:
            return function(words, count, exclusive, held)

    return locked
