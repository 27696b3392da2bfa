"""Memory for results: blocks that are kept when an array dies, and used again for the next one.

Fresh memory costs twice: NumPy's allocation takes longer than a small kernel runs, and the pages of
a large block are mapped, and filled with zeros, one fault after the other.  The arrays that the
call entry makes own memory from here through NumPy's interface for allocators (NEP 49): when the
last reference to one dies, NumPy calls ``tx_block_free``, wherever that happens.  So a block is
never used again before nobody can see it, and the arrays are ordinary in every other way.

All functions are called with the GIL held.  Small blocks (up to 1 KB) wait in a list for each
multiple of 64 bytes, ``SMALL_KEPT`` at most; up to ``SLOTS`` larger ones wait for a request of
exactly their size, ``KEPT_BYTES`` at most in all; the oldest make room.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

from .cpu_jit import Library, assemble, link, loading, system_functions

SMALL_KEPT = 16
"""Most blocks kept for one small size."""

SLOTS = 16
KEPT_BYTES = 128 << 20

HUGE_BYTES = 4 << 20
"""From here on the system is asked for huge pages: a fault each 2 MB, rather than each 4 KB."""

_CLASSES = 17  # 64 k bytes, k = 0 .. 16

_TEXT = """
%list = type { i64, [SMALL_KEPT x ptr] }
%slot = type { i64, ptr }
@small = internal global [CLASSES x %list] zeroinitializer, align 64
@slots = internal global [SLOTS x %slot] zeroinitializer, align 64
@oldest = internal global i64 0
@kept = internal global i64 0

declare i32 @posix_memalign(ptr, i64, i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)
declare i32 @madvise(ptr, i64, i32)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal i64 @rounded(i64 %size) alwaysinline {
  %zero = icmp eq i64 %size, 0
  %some = select i1 %zero, i64 1, i64 %size
  %more = add i64 %some, 63
  %result = and i64 %more, -64
  ret i64 %result
}

define ptr @tx_block_take(i64 %wanted) {
entry:
  %size = call i64 @rounded(i64 %wanted)
  %is.small = icmp ule i64 %size, 1024
  br i1 %is.small, label %small.list, label %search
small.list:
  %class = lshr i64 %size, 6
  %list = getelementptr [CLASSES x %list], ptr @small, i64 0, i64 %class
  %count = load i64, ptr %list
  %empty = icmp eq i64 %count, 0
  br i1 %empty, label %fresh, label %pop
pop:
  %last = sub i64 %count, 1
  store i64 %last, ptr %list
  %place = getelementptr %list, ptr %list, i64 0, i32 1, i64 %last
  %popped = load ptr, ptr %place
  ret ptr %popped
search:
  %i = phi i64 [ 0, %entry ], [ %i.next, %other ]
  %more = icmp ult i64 %i, SLOTS
  br i1 %more, label %compare, label %fresh
compare:
  %slot = getelementptr [SLOTS x %slot], ptr @slots, i64 0, i64 %i
  %have = load i64, ptr %slot
  %exact = icmp eq i64 %have, %size
  br i1 %exact, label %reuse, label %other
other:
  %i.next = add i64 %i, 1
  br label %search
reuse:
  %block.at = getelementptr %slot, ptr %slot, i64 0, i32 1
  %block = load ptr, ptr %block.at
  store i64 0, ptr %slot
  %before = load i64, ptr @kept
  %after = sub i64 %before, %size
  store i64 %after, ptr @kept
  ret ptr %block
fresh:
  %new = call ptr @allocate(i64 %size)
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %again, label %made
made:
  ret ptr %new
again:
  call void @tx_blocks_release()
  %second = call ptr @allocate(i64 %size)
  ret ptr %second
}

define internal ptr @allocate(i64 %size) {
  %result = alloca ptr
  store ptr null, ptr %result
  %rc = call i32 @posix_memalign(ptr %result, i64 64, i64 %size)
  %block = load ptr, ptr %result
  %failed = icmp ne i32 %rc, 0
  br i1 %failed, label %none, label %some
none:
  ret ptr null
some:
  %huge = icmp uge i64 %size, HUGE_BYTES
  br i1 %huge, label %advise, label %done
advise:
  %address = ptrtoint ptr %block to i64
  %up = add i64 %address, 4095
  %page = and i64 %up, -4096
  %skipped = sub i64 %page, %address
  %length = sub i64 %size, %skipped
  %start = inttoptr i64 %page to ptr
  %advised = call i32 @madvise(ptr %start, i64 %length, i32 ADVICE)
  br label %done
done:
  ret ptr %block
}

define void @tx_block_free(ptr %context, ptr %block, i64 %given) {
entry:
  %nothing = icmp eq ptr %block, null
  br i1 %nothing, label %done, label %sized
sized:
  %size = call i64 @rounded(i64 %given)
  %is.small = icmp ule i64 %size, 1024
  br i1 %is.small, label %small.list, label %large
small.list:
  %class = lshr i64 %size, 6
  %list = getelementptr [CLASSES x %list], ptr @small, i64 0, i64 %class
  %count = load i64, ptr %list
  %full = icmp uge i64 %count, SMALL_KEPT
  br i1 %full, label %free, label %push
push:
  %place = getelementptr %list, ptr %list, i64 0, i32 1, i64 %count
  store ptr %block, ptr %place
  %one.more = add i64 %count, 1
  store i64 %one.more, ptr %list
  ret void
large:
  %too.large = icmp ugt i64 %size, KEPT_BYTES
  br i1 %too.large, label %free, label %room
room:
  ; Drop the oldest ones until the slot that comes next is free and the bound is kept.
  %next = load i64, ptr @oldest
  %slot = getelementptr [SLOTS x %slot], ptr @slots, i64 0, i64 %next
  call void @drop(ptr %slot)
  %kept = load i64, ptr @kept
  %total = add i64 %kept, %size
  %beyond = icmp ugt i64 %total, KEPT_BYTES
  %following = add i64 %next, 1
  %wrapped = urem i64 %following, SLOTS
  store i64 %wrapped, ptr @oldest
  br i1 %beyond, label %room, label %keep
keep:
  store i64 %size, ptr %slot
  %block.at = getelementptr %slot, ptr %slot, i64 0, i32 1
  store ptr %block, ptr %block.at
  store i64 %total, ptr @kept
  ret void
free:
  call void @free(ptr %block)
  ret void
done:
  ret void
}

define internal void @drop(ptr %slot) {
  %size = load i64, ptr %slot
  %used = icmp ne i64 %size, 0
  br i1 %used, label %give, label %done
give:
  %block.at = getelementptr %slot, ptr %slot, i64 0, i32 1
  %block = load ptr, ptr %block.at
  call void @free(ptr %block)
  store i64 0, ptr %slot
  %kept = load i64, ptr @kept
  %less = sub i64 %kept, %size
  store i64 %less, ptr @kept
  br label %done
done:
  ret void
}

define void @tx_blocks_release() {
entry:
  br label %slots
slots:
  %i = phi i64 [ 0, %entry ], [ %i.next, %slots ]
  %slot = getelementptr [SLOTS x %slot], ptr @slots, i64 0, i64 %i
  call void @drop(ptr %slot)
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, SLOTS
  br i1 %more, label %slots, label %classes
classes:
  %k = phi i64 [ 0, %slots ], [ %k.next, %class.done ]
  %list = getelementptr [CLASSES x %list], ptr @small, i64 0, i64 %k
  br label %blocks
blocks:
  %count = load i64, ptr %list
  %empty = icmp eq i64 %count, 0
  br i1 %empty, label %class.done, label %one
one:
  %last = sub i64 %count, 1
  store i64 %last, ptr %list
  %place = getelementptr %list, ptr %list, i64 0, i32 1, i64 %last
  %block = load ptr, ptr %place
  call void @free(ptr %block)
  br label %blocks
class.done:
  %k.next = add i64 %k, 1
  %more.classes = icmp ult i64 %k.next, CLASSES
  br i1 %more.classes, label %classes, label %done
done:
  ret void
}

define i64 @tx_blocks_kept() {
  %kept = load i64, ptr @kept
  ret i64 %kept
}

define ptr @tx_block_malloc(ptr %context, i64 %size) {
  %block = call ptr @tx_block_take(i64 %size)
  ret ptr %block
}

define ptr @tx_block_calloc(ptr %context, i64 %count, i64 %item) {
  %product = call { i64, i1 } @llvm.umul.with.overflow.i64(i64 %count, i64 %item)
  %size = extractvalue { i64, i1 } %product, 0
  %overflow = extractvalue { i64, i1 } %product, 1
  br i1 %overflow, label %none, label %some
some:
  %block = call ptr @tx_block_take(i64 %size)
  %failed = icmp eq ptr %block, null
  br i1 %failed, label %none, label %clear
clear:
  call void @llvm.memset.p0.i64(ptr %block, i8 0, i64 %size, i1 false)
  ret ptr %block
none:
  ret ptr null
}
declare { i64, i1 } @llvm.umul.with.overflow.i64(i64, i64)

define ptr @tx_block_realloc(ptr %context, ptr %block, i64 %wanted) {
  %size = call i64 @rounded(i64 %wanted)
  %moved = call ptr @realloc(ptr %block, i64 %size)
  ret ptr %moved
}
"""


class _Handler(ctypes.Structure):
    """NumPy's ``PyDataMem_Handler``."""

    _fields_ = [("name", ctypes.c_char * 127), ("version", ctypes.c_uint8),
                *((name, ctypes.c_void_p) for name in
                  ("context", "malloc", "calloc", "realloc", "free"))]


_loaded: list[Library] = []
_handler = _Handler(b"tetractys", 1)


def is_supported() -> bool:
    """Return whether this system has what the blocks are made of."""
    return sys.platform != "win32"


def library() -> Library:
    """Return the loaded code, which exports ``tx_block_take`` and ``tx_block_free``."""
    if not _loaded:
        with loading:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> Library:
    text = _TEXT
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        text = text.replace("icmp uge i64 %size, HUGE_BYTES", "icmp ne i64 0, 0")
    for word, value in (("ADVICE", getattr(mmap, "MADV_HUGEPAGE", 0)), ("HUGE_BYTES", HUGE_BYTES),
                        ("SMALL_KEPT", SMALL_KEPT), ("KEPT_BYTES", KEPT_BYTES), ("SLOTS", SLOTS),
                        ("CLASSES", _CLASSES)):
        text = text.replace(word, str(value))
    return link([assemble(text)], system_functions("posix_memalign", "realloc", "free", "madvise"),
                ("tx_block_take", "tx_block_malloc", "tx_block_calloc", "tx_block_realloc",
                 "tx_block_free", "tx_blocks_release", "tx_blocks_kept"))


def handler() -> object:
    """Return the capsule by which NumPy's arrays name these functions as theirs."""
    loaded = library()
    for name in ("malloc", "calloc", "realloc", "free"):
        setattr(_handler, name, loaded[f"tx_block_{name}"])
    make = ctypes.pythonapi.PyCapsule_New
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    make.restype = ctypes.py_object
    return make(ctypes.addressof(_handler), b"mem_handler", None)


def kept_bytes() -> int:
    """Return the bytes of the large blocks that are kept."""
    return ctypes.PYFUNCTYPE(ctypes.c_int64)(_loaded[0]["tx_blocks_kept"])() if _loaded else 0


def release() -> None:
    """Give the blocks that are kept, of all functions, back to the system."""
    if _loaded:
        ctypes.PYFUNCTYPE(None)(_loaded[0]["tx_blocks_release"])()
