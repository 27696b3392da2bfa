"""Make the runtime's own support code ready while a graph is being compiled.

The first function of a process needs the call entry, the locks, the poll and the threads; LLVM
compiles or loads them with the GIL released, so that a thread can do it beside the compiler, which
is Python nearly all of the time until it reaches LLVM itself.
"""

from __future__ import annotations

import threading

from . import cpu_entry, cpu_locks, cpu_poll, cpu_threads
from .cpu_jit import loading

_begun: list[threading.Thread] = []


def prepare() -> None:
    """Begin to load the support code in a thread of its own, once a process.

    Whoever needs a part loads it, or waits for the thread; so errors are raised where the code is
    used, and nothing depends on this function having been called.
    """
    if _begun:
        return
    # Not a daemon: the interpreter must not go away under LLVM.
    thread = threading.Thread(target=_load, name="tetractys-support")
    _begun.append(thread)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is ending: then it loads when used
        return


def _load() -> None:
    with loading:  # forking waits until nothing is half done
        cpu_entry.is_available()  # first, as it takes longest
        cpu_poll.library()
        cpu_locks.install()
        cpu_threads.library()
