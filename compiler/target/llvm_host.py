"""The machine that runs this process, as LLVM sees it."""

from __future__ import annotations

from functools import cache

import llvmlite.binding as llvm


@cache
def describe_host() -> str:
    """Return what compiled code depends on besides the program: LLVM, processor, features."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return " ".join((version, llvm.get_process_triple(), llvm.get_host_cpu_name(),
                     llvm.get_host_cpu_features().flatten()))
