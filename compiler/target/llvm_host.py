"""The machine that runs this process, as LLVM sees it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import llvmlite.binding as llvm


COMMON_LAST_CACHE = 32 << 20
"""Bytes, where the system does not tell."""

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@cache
def last_cache_bytes() -> int:
    """Return the size of the processor's last cache."""
    sizes = []
    for path in _CACHES.glob("index*/size"):
        text = path.read_text().strip()
        number, unit = text[:-1], {"K": 1 << 10, "M": 1 << 20}.get(text[-1:])
        if unit is not None and number.isdigit():
            sizes.append(int(number) * unit)
    return max(sizes, default=COMMON_LAST_CACHE)


@cache
def describe_host() -> str:
    """Return what compiled code depends on besides the program: LLVM, processor, features."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return " ".join((version, llvm.get_process_triple(), llvm.get_host_cpu_name(),
                     llvm.get_host_cpu_features().flatten(), str(last_cache_bytes())))
