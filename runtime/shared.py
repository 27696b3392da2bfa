"""The storage of shared variables, and who may use it when.

A call that runs without the GIL must not meet another one that writes the same storage.  Every
storage carries a word: 0 when free, ``n > 0`` while ``n`` calls read it, -1 while one writes it.
The words change only under the GIL, in compiled code (``cpu_locks.py``), so they need no atomics.
As long as no compiled code is loaded nothing can run without the GIL, and no lock is taken.
"""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from .devices import array_on_device
from .errors import CallError, format_message

TryAcquire: TypeAlias = Callable[[int, int, int, int], int]
Release: TypeAlias = Callable[[int, int, int, int], None]

_functions: list[tuple[TryAcquire, Release, Callable[[], bool]]] = []
_all: weakref.WeakSet[Storage] = weakref.WeakSet()


class Storage:
    """The value of a shared variable: an array of its own, C-contiguous and in native byte order.

    Parameters
    ----------
    value : array_like
        Copied.

    Attributes
    ----------
    cell : list of one ndarray
        Compiled code reads ``cell[0]`` at every call.  While the value lives in the memory of a
        device it is an object with ``shape``, ``dtype`` and ``numpy()``, which compiled code for
        the host hands to the careful path.

    Examples
    --------
    >>> storage = Storage([1.0, 2.0])
    >>> storage.set(storage.get() * 2)
    >>> storage.get()
    array([2., 4.])
    """

    __slots__ = ("cell", "lock", "__weakref__")

    def __init__(self, value: object):
        self.cell = [own_copy(value)]
        self.lock = ctypes.c_int64(0)
        _all.add(self)

    def get(self, borrow: bool = False) -> np.ndarray:
        """Return the value.

        Parameters
        ----------
        borrow : bool
            Return the array itself, which later calls may change, rather than a copy of it.
        """
        with hold(locks_of((self,), exclusive=False)):
            if borrow:
                return self.array()
            value = self.cell[0]
            return value.copy() if isinstance(value, np.ndarray) else value.numpy()

    def array(self) -> np.ndarray:
        """Return the value itself; from now on it lives in the host's memory.

        The caller holds the lock.
        """
        value = self.cell[0]
        if not isinstance(value, np.ndarray):
            value = self.cell[0] = value.numpy()
        return value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value, wherever it lives."""
        return self.cell[0].shape

    @property
    def nbytes(self) -> int:
        """The bytes of the value, wherever it lives."""
        return self.cell[0].nbytes

    def set(self, value: object) -> None:
        """Replace the value by a copy of ``value``; dtype and shape are the caller's business."""
        array = own_copy(value)
        with hold(locks_of((self,), exclusive=True)):
            self.cell[0] = array

    def __repr__(self) -> str:
        return f"Storage({self.cell[0]!r})"

    def __reduce__(self) -> tuple[type[Storage], tuple[np.ndarray]]:
        return Storage, (self.get(),)


def own_copy(value: object) -> np.ndarray:
    """Return a C-contiguous, aligned copy of ``value`` in native byte order, as a plain array.

    What lives in a device's memory (see ``cell``) is copied there.
    """
    held = array_on_device(value)
    if held is not None:
        return held.copy()
    array = np.asarray(value)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)


class Locks:
    """Some lock words, as compiled code takes them: all or none.

    Parameters
    ----------
    addresses : sequence of int
        Of the words, which must outlive this object.
    exclusive : bool
        Whether to take them for writing.
    """

    __slots__ = ("words", "count", "exclusive")

    def __init__(self, addresses: Sequence[int], exclusive: bool):
        self.count = len(addresses)
        self.exclusive = exclusive
        self.words = (ctypes.c_int64 * self.count)(*addresses)


def locks_of(storages: Sequence[Storage], exclusive: bool) -> Locks:
    """Return the locks of storages, each taken once."""
    return Locks([ctypes.addressof(s.lock) for s in dict.fromkeys(storages)], exclusive)


@contextmanager
def hold(locks: Locks, wait: bool = True) -> Iterator[bool]:
    """Hold locks during a ``with`` block.

    Parameters
    ----------
    locks : Locks
    wait : bool
        Wait until they are free.  Otherwise enter the block at once, with the value False when
        they were not.

    Raises
    ------
    CallError
        When a signal handler would wait for the very call it interrupts.
    """
    if not _functions or not locks.count:
        yield True
        return
    try_acquire, release, is_handling = _functions[0]
    held = ctypes.c_int64(0)
    arguments = (ctypes.addressof(locks.words), locks.count, int(locks.exclusive),
                 ctypes.addressof(held))
    try:
        pause = 20e-6
        while not try_acquire(*arguments) and wait:
            if is_handling():
                raise CallError(format_message(
                    "A signal handler used a shared variable that the interrupted call is using.",
                    remedy="Let the handler set a flag, and act on it after the call."))
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)
        yield bool(held.value)
    finally:
        # Compiled code notes in `held` whether it took the locks, so that an interrupt that
        # arrives right after cannot leave them taken for ever.
        release(*arguments)


def use_lock_functions(try_acquire: TryAcquire, release: Release,
                       is_handling: Callable[[], bool]) -> None:
    """Take the lock functions of the compiled support code (see ``cpu_locks.py``)."""
    _functions[:] = [(try_acquire, release, is_handling)]


def _unlock_all() -> None:
    for storage in _all:
        storage.lock.value = 0


# The calls that held locks in the parent of a fork do not exist in the child.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_all)
