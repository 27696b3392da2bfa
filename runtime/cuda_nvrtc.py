"""CUDA C to machine code for one kind of GPU, through NVIDIA's NVRTC; kept in the disk cache."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from . import cache
from .errors import CompileError, format_message

REMEDY = 'install NVIDIA\'s Python packages: pip install "tetractys[cuda]"'


@lru_cache(maxsize=1)
def _binding() -> object:
    try:
        from cuda.bindings import nvrtc
        nvrtc.nvrtcVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise CompileError(format_message(
            "Compiling for CUDA needs NVRTC, which cannot be loaded.", str(error),
            remedy=REMEDY)) from error
    return nvrtc


def version() -> str:
    """Return NVRTC's version.

    Raises
    ------
    CompileError
        When it cannot be loaded.
    """
    _, major, minor = _binding().nvrtcVersion()
    return f"{major}.{minor}"


def assemble(text: str, architecture: str) -> bytes:
    """Return the machine code (a cubin) of CUDA C.

    Parameters
    ----------
    text : str
    architecture : str
        ``sm_80``, ``sm_90`` ...

    Raises
    ------
    CompileError
        When NVRTC cannot be loaded, or does not know the architecture.
    """
    key = f"cubin {version()} {architecture} {hashlib.sha256(text.encode()).hexdigest()}"
    code = cache.read(key)
    if code is None:
        code = build(text, architecture)[0]
        cache.write(key, code)
    return code


def build(text: str, architecture: str, *options: str) -> tuple[bytes, str]:
    """Return the machine code and the compiler's log, without the cache.

    Parameters
    ----------
    text, architecture : str
    *options : str
        Further options of NVRTC.
    """
    nvrtc = _binding()
    error, program = nvrtc.nvrtcCreateProgram(text.encode(), b"tetractys.cu", 0, [], [])
    _check(nvrtc, error, "")
    try:
        flags = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17",
                 *(option.encode() for option in options)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
        log = _read(nvrtc, program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        message = log.decode(errors="replace").strip("\x00\n ")
        _check(nvrtc, status, message)
        return _read(nvrtc, program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), message
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read(nvrtc: object, program: object, size_of: object, read: object) -> bytes:
    error, size = size_of(program)
    _check(nvrtc, error, "")
    data = b" " * size
    (error,) = read(program, data)
    _check(nvrtc, error, "")
    return data


def _check(nvrtc: object, error: object, log: str) -> None:
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(format_message(
            f"NVRTC refuses the generated code ({error.name}).", log,
            remedy="a GPU newer than NVRTC needs a newer nvidia-cuda-nvrtc"))
