"""``tx_poll``: lets a long call notice Ctrl-C, and ``tx_now``, the clock behind it.

Compiled code polls between its steps.  A poll is a clock read; at most every 50 ms or so, and only
on the main thread, where Python handles signals, it takes the GIL and runs the pending handlers.
An exception they raise is set aside here, the code returns ``INTERRUPTED``, and the caller raises
it with ``take_interrupt``.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

from .cpu_jit import (
    IS_X86, Library, assemble, link, loading, python_functions, system_functions,
)

# Ticks of `tx_now` in a millisecond.  A time stamp counter runs at 1 to 5 GHz; where it is used the
# durations below are right within a factor of about two, and nothing needs more.
if IS_X86:
    TICKS_PER_MS = 2_500_000
elif sys.platform == "win32":
    TICKS_PER_MS = 1
else:
    TICKS_PER_MS = 1_000_000

POLL_MS = 50

_NOW_X86 = """
declare i64 @llvm.readcyclecounter()
define i64 @tx_now() { %t = call i64 @llvm.readcyclecounter() ret i64 %t }
"""
_NOW_WINDOWS = """
declare i64 @GetTickCount64()
define i64 @tx_now() { %t = call i64 @GetTickCount64() ret i64 %t }
"""
_NOW_POSIX = """
declare i32 @clock_gettime(i32, ptr)
define i64 @tx_now() {
  %spec = alloca [2 x i64]
  store [2 x i64] zeroinitializer, ptr %spec
  %rc = call i32 @clock_gettime(i32 MONOTONIC, ptr %spec)
  %s = load i64, ptr %spec
  %fraction = getelementptr i64, ptr %spec, i64 1
  %ns = load i64, ptr %fraction
  %scaled = mul i64 %s, 1000000000
  %t = add i64 %scaled, %ns
  ret i64 %t
}
"""

_THREAD_POSIX = """
declare i64 @pthread_self()
define internal i64 @thread_id() { %t = call i64 @pthread_self() ret i64 %t }
"""
_THREAD_WINDOWS = """
declare i32 @GetCurrentThreadId()
define internal i64 @thread_id() {
  %t = call i32 @GetCurrentThreadId()
  %wide = zext i32 %t to i64
  ret i64 %wide
}
"""

_TEXT = """
@deadline = internal global i64 0
@tx_main_thread = global i64 0
@tx_handling = global i32 0
@tx_keyboard_interrupt = global ptr null
@stash = internal global [3 x ptr] zeroinitializer

declare i32 @PyGILState_Ensure()
declare void @PyGILState_Release(i32)
declare i32 @PyErr_CheckSignals()
declare void @PyErr_Fetch(ptr, ptr, ptr)
declare void @PyErr_Restore(ptr, ptr, ptr)
declare void @PyErr_SetNone(ptr)

define i64 @tx_poll() {
  %now = call i64 @tx_now()
  %due = load atomic i64, ptr @deadline monotonic, align 8
  %early = icmp slt i64 %now, %due
  br i1 %early, label %nothing, label %late
late:
  %self = call i64 @thread_id()
  %main = load i64, ptr @tx_main_thread
  %mine = icmp eq i64 %self, %main
  br i1 %mine, label %check, label %nothing
check:
  %next = add i64 %now, INTERVAL
  store atomic i64 %next, ptr @deadline monotonic, align 8
  %gil = call i32 @PyGILState_Ensure()
  %depth = load i32, ptr @tx_handling
  %deeper = add i32 %depth, 1
  store i32 %deeper, ptr @tx_handling
  %rc = call i32 @PyErr_CheckSignals()
  store i32 %depth, ptr @tx_handling
  %raised = icmp ne i32 %rc, 0
  br i1 %raised, label %keep, label %quiet
keep:
  %value = getelementptr ptr, ptr @stash, i64 1
  %trace = getelementptr ptr, ptr @stash, i64 2
  call void @PyErr_Fetch(ptr @stash, ptr %value, ptr %trace)
  call void @PyGILState_Release(i32 %gil)
  ret i64 1
quiet:
  call void @PyGILState_Release(i32 %gil)
  br label %nothing
nothing:
  ret i64 0
}

define ptr @tx_take_interrupt() {
  %value.at = getelementptr ptr, ptr @stash, i64 1
  %trace.at = getelementptr ptr, ptr @stash, i64 2
  %type = load ptr, ptr @stash
  %value = load ptr, ptr %value.at
  %trace = load ptr, ptr %trace.at
  store [3 x ptr] zeroinitializer, ptr @stash
  %empty = icmp eq ptr %type, null
  br i1 %empty, label %plain, label %kept
kept:
  call void @PyErr_Restore(ptr %type, ptr %value, ptr %trace)
  ret ptr null
plain:
  %class = load ptr, ptr @tx_keyboard_interrupt
  call void @PyErr_SetNone(ptr %class)
  ret ptr null
}
"""

_loaded: list[Library] = []


def library() -> Library:
    """Return the loaded code: ``tx_now``, ``tx_poll``, ``tx_take_interrupt``, ``tx_handling``."""
    if not _loaded:
        with loading:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> Library:
    text, names = _platform_text()
    text += _TEXT.replace("INTERVAL", str(POLL_MS * TICKS_PER_MS))
    imports = system_functions(*names) | python_functions(
        "PyGILState_Ensure", "PyGILState_Release", "PyErr_CheckSignals", "PyErr_Fetch",
        "PyErr_Restore", "PyErr_SetNone")
    loaded = link([assemble(text)], imports, (
        "tx_now", "tx_poll", "tx_take_interrupt", "tx_main_thread", "tx_handling",
        "tx_keyboard_interrupt"))
    ctypes.c_int64.from_address(loaded["tx_keyboard_interrupt"]).value = id(KeyboardInterrupt)
    _note_main_thread(loaded)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _note_main_thread(loaded))
    return loaded


def _platform_text() -> tuple[str, tuple[str, ...]]:
    """Return ``tx_now`` and ``thread_id`` for this platform, and what they call."""
    if sys.platform == "win32":
        thread, names = _THREAD_WINDOWS, ("GetCurrentThreadId",)
    else:
        thread, names = _THREAD_POSIX, ("pthread_self",)
    if IS_X86:
        return thread + _NOW_X86, names
    if sys.platform == "win32":
        return thread + _NOW_WINDOWS, (*names, "GetTickCount64")
    clock = _NOW_POSIX.replace("MONOTONIC", str(time.CLOCK_MONOTONIC))
    return thread + clock, (*names, "clock_gettime")


def _note_main_thread(loaded: Library) -> None:
    main = threading.main_thread().ident or 0
    ctypes.c_uint64.from_address(loaded["tx_main_thread"]).value = main
    ctypes.c_int32.from_address(loaded["tx_handling"]).value = 0


def is_handling() -> bool:
    """Return whether this code runs inside a signal handler that a poll started."""
    return bool(_loaded) and threading.current_thread() is threading.main_thread() \
        and ctypes.c_int32.from_address(_loaded[0]["tx_handling"]).value > 0


def raise_interrupt() -> None:
    """Raise what a signal handler raised during the call that returned ``INTERRUPTED``."""
    # A null result of a py_object function makes ctypes raise the exception that is set.
    ctypes.PYFUNCTYPE(ctypes.py_object)(library()["tx_take_interrupt"])()
