"""cuBLAS, from NVIDIA's wheel: where it is, and how it is asked for a product.

It stores matrices by columns, ours are stored by rows: what lies in memory as ``C`` is to cuBLAS
the transpose of ``C``, which is the product of the transposes, in the opposite order.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

from .cuda_driver import is_current
from .cuda_layout import Matrix, Product
from .cuda_memory import Stream
from .errors import DeviceError, format_message

_FILES = "*/bin/**/cublas64_*.dll" if sys.platform == "win32" else "*/lib/libcublas.so.*"
"""Where wheels have it, within the package ``nvidia``."""

_REMEDY = ("pip install nvidia-cublas, or nvidia-cublas-cu12 for a driver of CUDA 12; or leave "
           'tx.config.gpu_blas at "never": products are kernels of our own then')

_MATRIX = (c_void_p, c_int, c_int64, c_int64)
_GEMM = "cublasGemmStridedBatchedEx_64"
_ARGUMENTS = {
    "cublasCreate_v2": (POINTER(c_void_p),),
    "cublasDestroy_v2": (c_void_p,),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    _GEMM: (c_void_p, c_int, c_int, c_int64, c_int64, c_int64, c_void_p, *_MATRIX, *_MATRIX,
            c_void_p, *_MATRIX, c_int64, c_int, c_int),
}
"""The functions in use; all return a status."""

_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77
_GEMM_DEFAULT = -1


def find() -> dict[int, Path]:
    """Return the libraries that are installed, by the major version of CUDA they belong to."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec is not None else None
    return {int(re.search(r"(?:\.so\.|64_)(\d+)", path.name)[1]): path
            for folder in folders or () for path in Path(folder).glob(_FILES)}


def load(version: str) -> Blas:
    """Return the newest cuBLAS that a driver of a version of CUDA can run.

    Raises
    ------
    DeviceError
        Saying what to install.
    """
    found = find()
    usable = [major for major in found if major <= int(version.partition(".")[0])]
    if not usable:
        raise DeviceError(format_message(
            "cuBLAS is asked for, but not installed." if not found else
            "NVIDIA's driver is too old for this cuBLAS.",
            f"the driver knows CUDA {version}; cuBLAS of CUDA "
            f"{', '.join(map(str, sorted(found))) or 'any version'}: "
            f"{'found' if found else 'not found'}", remedy=_REMEDY))
    path = found[max(usable)]
    try:
        # The part it depends on lies beside it, where the loader need not look.
        ctypes.CDLL(str(path.with_name(path.name.replace("cublas", "cublasLt"))))
        return Blas(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:
        raise DeviceError(format_message(
            "cuBLAS cannot be loaded.", str(error), remedy=_REMEDY)) from error


class Blas:
    """The library.

    Parameters
    ----------
    library : object
        With cuBLAS's functions as attributes.
    """

    def __init__(self, library: object):
        self.library = library
        for name, arguments in _ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
        library.cublasGetStatusName.argtypes = (c_int,)
        library.cublasGetStatusName.restype = c_char_p

    def ask(self, name: str, *arguments: object) -> None:
        """Call a function, and raise what it answers unless it is success."""
        status = getattr(self.library, name)(*arguments)
        if status:
            said = self.library.cublasGetStatusName(status).decode()
            raise DeviceError(format_message(
                f"cuBLAS reports an error: {said}.", f"{name} answers {status}",
                remedy='tx.config.gpu_blas = "never" does without; see nvidia-smi and the '
                       "system's log"))


class Handle:
    """What cuBLAS keeps between products of one lane.

    Parameters
    ----------
    blas : Blas
    stream : Stream
        The lane's; its GPU is the one in use.
    """

    __slots__ = ("blas", "stream", "handle")

    def __init__(self, blas: Blas, stream: Stream):
        self.blas, self.stream = blas, stream
        self.handle = c_void_p()
        blas.ask("cublasCreate_v2", byref(self.handle))

    def multiply(self, product: Product, stream: int) -> None:
        """Queue a product."""
        batch, m, n, k = product.sizes
        left, right, out = product.left, product.right, product.out
        is_double = out.dtype == "float64"
        scalar = c_double if is_double else c_float
        compute = _COMPUTE_64F if is_double else \
            _COMPUTE_32F_FAST_TF32 if left.dtype == "float32" and product.rounds else _COMPUTE_32F
        ask = self.blas.ask
        ask("cublasSetStream_v2", self.handle, stream)  # forgets the workspace
        ask("cublasSetWorkspace_v2", self.handle, product.workspace, product.workspace_size)
        ask(_GEMM, self.handle, int(right.turned), int(left.turned), n, m, k, byref(scalar(1)),
            *_matrix(right), *_matrix(left), byref(scalar(product.adds)), *_matrix(out),
            batch, compute, _GEMM_DEFAULT)

    def __del__(self) -> None:
        if not self.handle or sys.is_finalizing() or not is_current(self.stream.driver):
            return
        with suppress(DeviceError), self.stream.driver.at(self.stream.device):
            self.blas.ask("cublasDestroy_v2", self.handle)


def _matrix(own: Matrix) -> tuple[int, int, int, int]:
    """Return a matrix as cuBLAS is given it."""
    return own.pointer, _TYPES[own.dtype], max(1, own.line), own.batch
