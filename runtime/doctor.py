"""What Tetractys finds on this machine, and what to install for what it does not find."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator

from . import blas, cache, cpu_jit
from .errors import TetractysError

_CPU_FEATURES = ("avx2", "fma", "avx512f", "neon", "sve")
_EXTRA = 'pip install "tetractys[cuda]"'


def report() -> str:
    """Return the findings as text, one a line; a line that starts with ``->`` says what to do."""
    return "\n".join([*_host(), *_products(), *_cache(), *_gpu()])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _line(name: str, value: object) -> str:
    return f"{name:14} {value}"


def _host() -> Iterator[str]:
    yield _line("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    for package in ("tetractys", "numpy", "llvmlite"):
        yield _line(package, _version(package))
    processor, features = cpu_jit.host()
    found = [name for name in _CPU_FEATURES if features.get(name)]
    yield _line("processor", f"{processor}; {', '.join(found) or 'no wide vectors'}")
    from .cpu_threads import get_num_threads
    yield _line("threads", f"{get_num_threads()} of {os.cpu_count()} cores")


def _products() -> Iterator[str]:
    yield _line("OpenBLAS", f"{_version('scipy-openblas32')}, kernels for "
                f"{blas.core_name()}" if blas.available() else "not found")
    if not blas.available():
        yield "-> pip install scipy-openblas32: matrix products are plain loops without it"


def _cache() -> Iterator[str]:
    place = cache.folder()
    yield _line("cache folder", place or "off")
    if place and os.path.exists(place) and not os.access(place, os.W_OK):
        yield "-> the folder cannot be written; TETRACTYS_CACHE_DIR names another one"


def _gpu() -> Iterator[str]:
    from .cuda_blas import find
    from .cuda_driver import driver
    from .cuda_nvrtc import version
    try:
        yield _line("NVRTC", version())
    except TetractysError:
        yield _line("NVRTC", "not found")
        yield f"-> {_EXTRA}: for device='cuda'"
    found = ", ".join(f"of CUDA {major}" for major in sorted(find()))
    yield _line("cuBLAS", found or 'not installed; only gpu_blas="large" needs it')
    try:
        own = driver()
        count = own.count()
        yield _line("CUDA driver", f"{own.version()}, {count} GPUs")
        for device in range(count):
            name, architecture = own.describe(device)
            with own.at(device):
                free, total = own.memory()
            yield _line(f"cuda:{device}", f"{name}, {architecture}, {free >> 20} of "
                                          f"{total >> 20} MiB free")
    except TetractysError as error:
        yield _line("CUDA driver", "not found")
        yield f"-> {str(error).splitlines()[0]} Only device='cuda' needs NVIDIA's driver."
