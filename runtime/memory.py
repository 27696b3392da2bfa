"""Blocks of memory for temporaries, and the refusal of sizes that cannot be had."""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

CHECKED_BYTES = 1 << 30
"""Requests above this are compared with the machine's memory before they are tried."""


class Block:
    """Uninitialised memory that starts at a multiple of ``ALIGNMENT``.

    Parameters
    ----------
    size : int
        Bytes.

    Attributes
    ----------
    address : int
    size : int
    """

    __slots__ = ("address", "size", "_array")

    def __init__(self, size: int):
        self._array = allocate((size + ALIGNMENT,), "uint8") if size else None
        start = self._array.ctypes.data if size else 0
        self.address = -(-start // ALIGNMENT) * ALIGNMENT
        self.size = size


def allocate(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new uninitialised C-contiguous array.

    Raises
    ------
    MemoryError
        With the bytes asked for, when they cannot be had.
    """
    size = np.dtype(dtype).itemsize
    for extent in shape:
        size *= extent
    check_size(size)
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):  # ValueError: beyond what NumPy can address
        raise MemoryError(f"cannot allocate {size} bytes for an array of shape {shape} and "
                          f"dtype {dtype}") from None


def check_size(size: int) -> None:
    """Raise ``MemoryError`` when ``size`` bytes are more than this machine has.

    A system that overcommits grants any request, and kills the process when the memory is used.
    """
    if size > CHECKED_BYTES and size > _machine_memory():
        raise MemoryError(f"cannot allocate {size} bytes: this machine has {_machine_memory()}")


@lru_cache(maxsize=1)
def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not POSIX, or not told
        return 1 << 62
