"""``tx_parallel_for``: a pool of worker threads for the parallel loops of compiled code.

Workers are Python daemon threads inside a JIT-compiled wait loop, with the GIL released.  A worker
spins for some tens of microseconds after a region, so that the next one starts at once, and then
sleeps on a condition variable.

To wake it costs the caller ten microseconds, and it takes several times as long to arrive
(``benchmarks/threads.py``).  So a short region that finds all workers asleep starts alone.  When it
and the regions right before it, which found them asleep too, have taken as long as a worker spins,
they would have gained from workers by then: they are woken, and take what is left.

A *region* publishes its loop, makes ``generation`` odd, takes chunks from a shared counter beside
the workers that join, makes ``generation`` even and waits until no worker is ``active``.  A worker
joins by raising ``active`` and looking at ``generation`` once more: either it sees the region
closed, or the caller sees it active.  So nobody waits for a worker that never came.

Chunks depend on the loop only, never on the number of threads, hence neither do results.  A region
inside another one, or beside one of another Python thread, runs serially in its own thread.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import os
import sys
import threading

from . import cpu_poll, threadpools
from .cpu_jit import (
    IS_ARM, IS_X86, Library, address_of, assemble, link, loading, system_functions,
)
from .processors import MOST_THREADS, default_threads

SPIN_TICKS = max(1, cpu_poll.TICKS_PER_MS * 30 // 1000)
"""How long an idle worker spins before it sleeps: about 30 microseconds."""

WAKE_CHUNKS = 32
"""A region of so many chunks wakes workers at once: compiled code makes none shorter than some
microseconds.  So does one of fewer that is known to be long."""

MAX_CHUNKS = 512
"""Most chunks of one region: enough to balance the load, few enough to cost nothing."""

_SLEEP_POSIX = """
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
define internal void @yield() { %r = call i32 @sched_yield() ret void }
"""
# Elsewhere a sleeping worker looks again every millisecond; the caller never waits for it.
_SLEEP_WINDOWS = """
declare i32 @SwitchToThread()
declare void @Sleep(i32)
define internal i32 @pthread_mutex_init(ptr %m, ptr %a) { ret i32 0 }
define internal i32 @pthread_cond_init(ptr %c, ptr %a) { ret i32 0 }
define internal i32 @pthread_mutex_lock(ptr %m) { ret i32 0 }
define internal i32 @pthread_mutex_unlock(ptr %m) { ret i32 0 }
define internal i32 @pthread_cond_wait(ptr %c, ptr %m) { call void @Sleep(i32 1) ret i32 0 }
define internal i32 @pthread_cond_broadcast(ptr %c) { ret i32 0 }
define internal void @yield() { %r = call i32 @SwitchToThread() ret void }
"""
if IS_X86:
    _DECLARE_PAUSE = "declare void @llvm.x86.sse2.pause()"
    _PAUSE = "call void @llvm.x86.sse2.pause()"
elif IS_ARM:
    _DECLARE_PAUSE = "declare void @llvm.aarch64.hint(i32)"
    _PAUSE = "call void @llvm.aarch64.hint(i32 1)"
else:
    _DECLARE_PAUSE = ""
    _PAUSE = 'fence syncscope("singlethread") seq_cst'

_TEXT = """
@started = internal global i64 0, align 64
@workers = internal global i64 0
@stop = internal global i64 0
@most = internal global i64 MOST_THREADS
@limit = internal global i64 0
@busy = internal global i64 0, align 64
@body = internal global ptr null, align 64
@frame = internal global ptr null
@count = internal global i64 0
@chunk = internal global i64 0
@chunks = internal global i64 0
@may_stop = internal global i64 0
@stopped = internal global i64 0
@next = internal global i64 0, align 64
@generation = internal global i64 0, align 64
@active = internal global i64 0, align 64
@sleepers = internal global i64 0, align 64
@alone = internal global i64 0, align 64
@last = internal global i64 0
@mutex = internal global [128 x i8] zeroinitializer, align 64
@condition = internal global [128 x i8] zeroinitializer, align 64

declare i64 @tx_now()
declare i64 @tx_poll()
declare void @tx_start_workers()
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)

define void @tx_parallel_for(ptr %body, ptr %frame, i64 %count, i64 %grain) {
  %never = call i64 @tx_parallel_limited(ptr %body, ptr %frame, i64 %count, i64 %grain, i64 0,
                                         i64 0, i64 MOST_THREADS)
  ret void
}

define i64 @tx_parallel_until(ptr %body, ptr %frame, i64 %count, i64 %grain, i64 %may.stop,
                              i64 %is.long) {
  %result = call i64 @tx_parallel_limited(ptr %body, ptr %frame, i64 %count, i64 %grain,
                                          i64 %may.stop, i64 %is.long, i64 MOST_THREADS)
  ret i64 %result
}

; At most `own.limit` threads take part, the calling one included.
define i64 @tx_parallel_limited(ptr %body, ptr %frame, i64 %count, i64 %grain, i64 %may.stop,
                                i64 %is.long, i64 %own.limit) {
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %shape, label %done
shape:
  %grain.low = call i64 @llvm.smax.i64(i64 %grain, i64 1)
  %unit = call i64 @llvm.smin.i64(i64 %grain.low, i64 %count)
  %count.less = sub i64 %count, 1
  %units.less = udiv i64 %count.less, %unit
  %group.less = udiv i64 %units.less, MAX_CHUNKS
  %group = add i64 %group.less, 1
  %chunk = mul i64 %group, %unit
  %chunks.less = udiv i64 %count.less, %chunk
  %chunks = add i64 %chunks.less, 1
  %one.chunk = icmp eq i64 %chunks, 1
  %most = load atomic i64, ptr @most monotonic, align 8
  %limit = call i64 @llvm.smin.i64(i64 %most, i64 %own.limit)
  %one.thread = icmp sle i64 %limit, 1
  %single = or i1 %one.chunk, %one.thread
  br i1 %single, label %serial, label %many
many:
  %started = load atomic i64, ptr @started acquire, align 8
  %cold = icmp eq i64 %started, 0
  br i1 %cold, label %start, label %ready
start:
  call void @tx_start_workers()
  br label %ready
ready:
  %workers = load atomic i64, ptr @workers monotonic, align 8
  %alone = icmp eq i64 %workers, 0
  br i1 %alone, label %serial, label %able
able:
  %dozing = load atomic i64, ptr @sleepers monotonic, align 8
  %all.asleep = icmp sge i64 %dozing, %workers
  %few.chunks = icmp slt i64 %chunks, WAKE_CHUNKS
  %not.long = icmp eq i64 %is.long, 0
  %short = and i1 %few.chunks, %not.long
  %hesitates = and i1 %all.asleep, %short
  br i1 %hesitates, label %hesitate, label %claim

; Some chunks alone, as long as it is not worth it to wake a worker.
hesitate:
  %since = call i64 @tx_now()
  %before = load atomic i64, ptr @last monotonic, align 8
  %pause = sub i64 %since, %before
  %is.new = icmp ugt i64 %pause, SPIN_TICKS
  %spent.before = load atomic i64, ptr @alone monotonic, align 8
  %spent = select i1 %is.new, i64 0, i64 %spent.before
  br label %first
first:
  %own.index = phi i64 [ 0, %hesitate ], [ %own.next, %longer ]
  %own.begin = mul i64 %own.index, %chunk
  %own.stop = add i64 %own.begin, %chunk
  %own.end = call i64 @llvm.smin.i64(i64 %own.stop, i64 %count)
  call void %body(ptr %frame, i64 %own.begin, i64 %own.end)
  %own.interrupted = call i64 @interrupted(i64 %may.stop)
  %own.now = call i64 @tx_now()
  %own.spent = sub i64 %own.now, %since
  %own.all = add i64 %spent, %own.spent
  store atomic i64 %own.all, ptr @alone monotonic, align 8
  store atomic i64 %own.now, ptr @last monotonic, align 8
  %own.ends = icmp ne i64 %own.interrupted, 0
  br i1 %own.ends, label %end.early, label %go.on
go.on:
  %own.next = add i64 %own.index, 1
  %own.more = icmp slt i64 %own.next, %chunks
  br i1 %own.more, label %longer, label %done
longer:
  %enough = icmp ugt i64 %own.all, SPIN_TICKS
  br i1 %enough, label %claim, label %first
claim:
  %from = phi i64 [ 0, %able ], [ %own.next, %longer ]
  %from.begin = mul i64 %from, %chunk
  %claimed = cmpxchg ptr @busy, i64 0, i64 1 acquire monotonic, align 8
  %mine = extractvalue { i64, i1 } %claimed, 1
  br i1 %mine, label %open, label %serial
open:
  store i64 %limit, ptr @limit
  store ptr %body, ptr @body
  store ptr %frame, ptr @frame
  store i64 %count, ptr @count
  store i64 %chunk, ptr @chunk
  store i64 %chunks, ptr @chunks
  store i64 %may.stop, ptr @may_stop
  store i64 0, ptr @stopped
  store atomic i64 %from, ptr @next monotonic, align 8
  %opened = atomicrmw add ptr @generation, i64 1 seq_cst, align 8
  %sleepers = load atomic i64, ptr @sleepers seq_cst, align 8
  %awake = sub i64 %workers, %sleepers
  %others = sub i64 %limit, 1
  %few = icmp slt i64 %awake, %others
  %some.asleep = icmp ne i64 %sleepers, 0
  %asleep = and i1 %few, %some.asleep
  br i1 %asleep, label %wake, label %work
wake:
  ; They may take long to come: until then, regions go on alone.
  store atomic i64 0, ptr @alone monotonic, align 8
  call void @wake_all()
  br label %work
work:
  call void @drain()
  %closed = atomicrmw add ptr @generation, i64 1 seq_cst, align 8
  br label %wait
wait:
  %tries = phi i64 [ 0, %work ], [ %tries.next, %again ]
  %active = load atomic i64, ptr @active seq_cst, align 8
  %idle = icmp eq i64 %active, 0
  br i1 %idle, label %release, label %patience
patience:
  %tries.next = add i64 %tries, 1
  %long = icmp ugt i64 %tries, 2000
  br i1 %long, label %give, label %spin
give:
  call void @yield()
  br label %again
spin:
  PAUSE
  br label %again
again:
  br label %wait
release:
  %stopped = load i64, ptr @stopped
  store atomic i64 0, ptr @busy release, align 8
  ret i64 %stopped
serial:
  %begin = phi i64 [ 0, %shape ], [ 0, %ready ], [ %from.begin, %claim ], [ %end, %unstopped ]
  %stop.at = add i64 %begin, %chunk
  %end = call i64 @llvm.smin.i64(i64 %stop.at, i64 %count)
  call void %body(ptr %frame, i64 %begin, i64 %end)
  %interrupted = call i64 @interrupted(i64 %may.stop)
  %ends = icmp ne i64 %interrupted, 0
  br i1 %ends, label %end.early, label %unstopped
unstopped:
  %more = icmp slt i64 %end, %count
  br i1 %more, label %serial, label %done
end.early:
  ret i64 1
done:
  ret i64 0
}

; Only the main thread is ever told of an interrupt, so at most one thread stops a region.
define internal i64 @interrupted(i64 %may.stop) {
  %asks = icmp ne i64 %may.stop, 0
  br i1 %asks, label %ask, label %no
ask:
  %answer = call i64 @tx_poll()
  ret i64 %answer
no:
  ret i64 0
}

define internal void @drain() {
  %body = load ptr, ptr @body
  %may.stop = load i64, ptr @may_stop
  %frame = load ptr, ptr @frame
  %count = load i64, ptr @count
  %chunk = load i64, ptr @chunk
  %chunks = load i64, ptr @chunks
  br label %take
take:
  %index = atomicrmw add ptr @next, i64 1 monotonic, align 8
  %some = icmp slt i64 %index, %chunks
  br i1 %some, label %run, label %done
run:
  %begin = mul i64 %index, %chunk
  %stop.at = add i64 %begin, %chunk
  %end = call i64 @llvm.smin.i64(i64 %stop.at, i64 %count)
  call void %body(ptr %frame, i64 %begin, i64 %end)
  %interrupted = call i64 @interrupted(i64 %may.stop)
  %ends = icmp ne i64 %interrupted, 0
  br i1 %ends, label %stop, label %take
stop:
  store i64 1, ptr @stopped
  store atomic i64 %chunks, ptr @next monotonic, align 8
  ret void
done:
  ret void
}

define internal void @wake_all() {
  %a = call i32 @pthread_mutex_lock(ptr @mutex)
  %b = call i32 @pthread_cond_broadcast(ptr @condition)
  %c = call i32 @pthread_mutex_unlock(ptr @mutex)
  ret void
}

define void @tx_worker() {
entry:
  br label %idle
idle:
  %last = phi i64 [ 0, %entry ], [ %seen, %leave ], [ %last.now, %resume ], [ %generation, %late ]
  %since = call i64 @tx_now()
  br label %look
look:
  %stop = load atomic i64, ptr @stop acquire, align 8
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %quit, label %watch
watch:
  %generation = load atomic i64, ptr @generation acquire, align 8
  %new = call i1 @is_new(i64 %generation, i64 %last)
  br i1 %new, label %join, label %spin
spin:
  PAUSE
  %now = call i64 @tx_now()
  %spent = sub i64 %now, %since
  %tired = icmp sgt i64 %spent, SPIN_TICKS
  br i1 %tired, label %sleep, label %look
sleep:
  %last.now = phi i64 [ %last, %spin ]
  call void @doze(i64 %last)
  br label %resume
resume:
  br label %idle
join:
  %seen = phi i64 [ %generation, %watch ]
  %before = atomicrmw add ptr @active, i64 1 seq_cst, align 8
  %again = load atomic i64, ptr @generation seq_cst, align 8
  %open = icmp eq i64 %again, %seen
  br i1 %open, label %count, label %late
count:
  %limit = load i64, ptr @limit
  %others = sub i64 %limit, 1
  %wanted = icmp slt i64 %before, %others
  br i1 %wanted, label %work, label %late
late:
  %undo = atomicrmw sub ptr @active, i64 1 seq_cst, align 8
  br label %idle
work:
  call void @drain()
  br label %leave
leave:
  %after = atomicrmw sub ptr @active, i64 1 seq_cst, align 8
  br label %idle
quit:
  ret void
}

define internal i1 @is_new(i64 %generation, i64 %last) alwaysinline {
  %odd = trunc i64 %generation to i1
  %other = icmp ne i64 %generation, %last
  %new = and i1 %odd, %other
  ret i1 %new
}

define internal void @doze(i64 %last) {
  %a = call i32 @pthread_mutex_lock(ptr @mutex)
  %b = atomicrmw add ptr @sleepers, i64 1 seq_cst, align 8
  %generation = load atomic i64, ptr @generation seq_cst, align 8
  %new = call i1 @is_new(i64 %generation, i64 %last)
  %stop = load atomic i64, ptr @stop seq_cst, align 8
  %stopped = icmp ne i64 %stop, 0
  %awake = or i1 %new, %stopped
  br i1 %awake, label %done, label %wait
wait:
  %c = call i32 @pthread_cond_wait(ptr @condition, ptr @mutex)
  br label %done
done:
  %d = atomicrmw sub ptr @sleepers, i64 1 seq_cst, align 8
  %e = call i32 @pthread_mutex_unlock(ptr @mutex)
  ret void
}

define void @tx_pool_reset() {
  store i64 0, ptr @workers
  store i64 0, ptr @stop
  store i64 0, ptr @busy
  store i64 0, ptr @generation
  store i64 0, ptr @active
  store i64 0, ptr @sleepers
  %a = call i32 @pthread_mutex_init(ptr @mutex, ptr null)
  %b = call i32 @pthread_cond_init(ptr @condition, ptr null)
  store atomic i64 0, ptr @started release, align 8
  ret void
}

define void @tx_pool_limit(i64 %most) {
  store atomic i64 %most, ptr @most monotonic, align 8
  ret void
}

define void @tx_pool_start(i64 %workers) {
  store atomic i64 %workers, ptr @workers monotonic, align 8
  store atomic i64 1, ptr @started release, align 8
  ret void
}

define void @tx_pool_stop() {
  store atomic i64 0, ptr @workers monotonic, align 8
  store atomic i64 1, ptr @stop seq_cst, align 8
  call void @wake_all()
  ret void
}

define void @tx_pool_prepare() {
  store atomic i64 0, ptr @stop seq_cst, align 8
  ret void
}

define void @tx_pool_forget() {
  store atomic i64 0, ptr @started release, align 8
  ret void
}
"""

_lock = threading.RLock()
_threads: list[threading.Thread] = []
_wanted: list[int] = []
_loaded: list[Library] = []
_closed: list[bool] = []
_VOID = ctypes.CFUNCTYPE(None)


def library() -> Library:
    """Return the loaded code, which exports ``tx_parallel_for``."""
    if not _loaded:
        with loading:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> Library:
    if sys.platform == "win32":
        sleep, names = _SLEEP_WINDOWS, ("SwitchToThread", "Sleep")
    else:
        sleep, names = _SLEEP_POSIX, (
            "pthread_mutex_init", "pthread_cond_init", "pthread_mutex_lock",
            "pthread_mutex_unlock", "pthread_cond_wait", "pthread_cond_broadcast", "sched_yield")
    text = _DECLARE_PAUSE + sleep + _TEXT
    for word, value in (("PAUSE", _PAUSE), ("MAX_CHUNKS", MAX_CHUNKS), ("SPIN_TICKS", SPIN_TICKS),
                        ("MOST_THREADS", MOST_THREADS), ("WAKE_CHUNKS", WAKE_CHUNKS)):
        text = text.replace(word, str(value))
    imports = system_functions(*names) | {
        name: cpu_poll.library()[name] for name in ("tx_now", "tx_poll")} | {
        "tx_start_workers": address_of(_start_callback)}
    loaded = link([assemble(text)], imports, (
        "tx_parallel_for", "tx_parallel_until", "tx_parallel_limited", "tx_worker",
        "tx_pool_reset", "tx_pool_prepare", "tx_pool_start", "tx_pool_stop", "tx_pool_forget",
        "tx_pool_limit"))
    threadpools.register(get_num_threads, set_num_threads)
    _VOID(loaded["tx_pool_reset"])()
    atexit.register(_close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    return loaded


def _start_workers() -> None:
    """Start the pool; compiled code calls this at its first parallel region."""
    try:
        with _lock:
            if _threads or _closed:
                return
            loop = _VOID(library()["tx_worker"])
            _VOID(library()["tx_pool_prepare"])()
            for index in range(1, get_num_threads()):
                thread = threading.Thread(target=loop, daemon=True, name=f"tetractys-{index}")
                try:
                    thread.start()
                except RuntimeError:  # the system's limit of threads: do with those there are
                    break
                _threads.append(thread)
            _announce(len(_threads))
    except KeyboardInterrupt:
        # A callback cannot raise through compiled code: deliver the signal again, after it.
        _thread.interrupt_main()


_start_callback = _VOID(_start_workers)


def _announce(workers: int) -> None:
    """Tell compiled code that the pool has started, with this many workers."""
    ctypes.CFUNCTYPE(None, ctypes.c_int64)(library()["tx_pool_start"])(workers)


def _stop_workers() -> None:
    """Let all workers return, and wait for them."""
    if not _threads:
        return
    _VOID(library()["tx_pool_stop"])()
    for thread in _threads:
        thread.join()
    _threads.clear()


def _close() -> None:
    with _lock:
        _stop_workers()
        _closed.append(True)
        _announce(0)


def _after_fork() -> None:
    """Forget, in the child of a fork, the threads that live only in the parent."""
    global _lock
    _lock = threading.RLock()
    _threads.clear()
    _VOID(_loaded[0]["tx_pool_reset"])()


def get_num_threads() -> int:
    """Return how many threads a parallel loop uses, the calling one included.

    ``set_num_threads`` decides, else ``TETRACTYS_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the
    number of CPUs this process may use (affinity and control group).
    """
    if not _wanted:
        _wanted.append(default_threads())
    return _wanted[0]


def set_num_threads(threads: int) -> None:
    """Set how many threads a parallel loop uses, the calling one included.

    Fewer threads than there are leave the others asleep, so this is quick.

    Parameters
    ----------
    threads : int
        At least 1.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) \
            or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"the number of threads must be an integer from 1 to {MOST_THREADS}, not "
                         f"{threads!r}")
    with _lock:
        if threads == get_num_threads():
            return
        if len(_threads) < threads - 1:
            _stop_workers()
            if _loaded:
                _VOID(_loaded[0]["tx_pool_forget"])()
        _wanted[:] = [threads]
        if _loaded:
            _limit(threads)


def _limit(threads: int) -> None:
    """Tell compiled code how many threads may take part."""
    ctypes.CFUNCTYPE(None, ctypes.c_int64)(library()["tx_pool_limit"])(threads)
