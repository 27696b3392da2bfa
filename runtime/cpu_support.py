"""Load the code of the call entry, and what it calls, beside the calls of a program.

No first call needs it: the careful path, in Python, gives the same results.  LLVM takes longer for
the entry than for many a function, and a compiler in Python that runs meanwhile waits for the
thread that does it, and that thread for the compiler.  So it begins with a second call; some tens
of milliseconds later, calls go through the entry.
"""

from __future__ import annotations

import threading

from .cpu_jit import loading

_begun: list[threading.Thread] = []
_done: list[bool] = []


def is_loaded() -> bool:
    """Return whether entries can be made without waiting for their code."""
    return bool(_done)


def load_beside() -> bool:
    """Return whether the code is loaded; if not, see to it that a thread of its own loads it.

    Raises
    ------
    RuntimeError
        If the thread failed, and loading in this one does too.
    """
    if _done:
        return True
    if not _begun:
        # Not a daemon: the interpreter must not go away under LLVM.
        thread = threading.Thread(target=load, name="tetractys-support")
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            load()
            return True
        _begun.append(thread)
    elif not _begun[0].is_alive():  # it has failed, or lives on only in the parent of this process
        load()
    return is_loaded()


def load() -> None:
    """Load the code, or wait until the thread that does so has loaded it."""
    with loading:  # forking waits until nothing is half done, imports included
        from . import cpu_entry
        cpu_entry.is_available()
        _done.append(True)
