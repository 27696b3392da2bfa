"""cuBLAS for tests: the functions that are used, as NVIDIA's documentation describes them.

Matrices are stored by columns: element ``(i, j)`` of one with the leading dimension ``ld`` is
``i + j * ld`` elements from its beginning.  ``C = alpha op(A) op(B) + beta C``, where ``op(A)`` has
``m`` rows and ``k`` columns, ``op(B)`` has ``n`` columns, and ``op`` may transpose.  Functions are
called through ctypes, so arguments of wrong number or kind do not get here.
"""

from __future__ import annotations

import ctypes
import itertools
import types
from ctypes import CFUNCTYPE, POINTER, c_int, c_int64, c_longlong, c_size_t, c_void_p

import numpy as np

from tetractys.runtime.dtypes import numpy_dtype

NOT_INITIALIZED, ALLOC_FAILED, INVALID_VALUE, NOT_SUPPORTED = 1, 3, 7, 15
STATUSES = {1: b"CUBLAS_STATUS_NOT_INITIALIZED", 3: b"CUBLAS_STATUS_ALLOC_FAILED",
            7: b"CUBLAS_STATUS_INVALID_VALUE", 13: b"CUBLAS_STATUS_EXECUTION_FAILED",
            15: b"CUBLAS_STATUS_NOT_SUPPORTED"}
DTYPES = {0: "float32", 1: "float64", 2: "float16", 14: "bfloat16"}
COMPUTE_32F, COMPUTE_64F, FAST_TF32 = 68, 70, 77
SUPPORTED = {(COMPUTE_32F, 0, 0, 0), (FAST_TF32, 0, 0, 0), (COMPUTE_64F, 1, 1, 1),
             (COMPUTE_32F, 2, 2, 0), (COMPUTE_32F, 2, 2, 2), (COMPUTE_32F, 14, 14, 0),
             (COMPUTE_32F, 14, 14, 14)}
"""Kinds of computation, with the dtypes of A, B and C."""


class FakeBlas:
    """The state of the library.

    Parameters
    ----------
    driver : FakeDriver

    Attributes
    ----------
    handles : dict of int to list
        Of each handle: its GPU, its stream, and its workspace or None.
    asked : list of tuple
        Of each product: (transa, transb, m, n, k, count, compute).
    fail : int
        When set, the status of every product.
    """

    def __init__(self, driver):
        self.driver, self.numbers = driver, itertools.count(77)
        self.handles: dict[int, list] = {}
        self.asked: list[tuple[int, ...]] = []
        self.fail = 0

    def functions(self) -> types.SimpleNamespace:
        """Return what a loaded library would be."""
        matrix = (c_void_p, c_int, c_int64, c_longlong)
        return types.SimpleNamespace(
            cublasCreate_v2=CFUNCTYPE(c_int, POINTER(c_void_p))(self.create),
            cublasDestroy_v2=CFUNCTYPE(c_int, c_void_p)(self.destroy),
            cublasSetStream_v2=CFUNCTYPE(c_int, c_void_p, c_void_p)(self.set_stream),
            cublasSetWorkspace_v2=CFUNCTYPE(
                c_int, c_void_p, c_void_p, c_size_t)(self.set_workspace),
            cublasGemmStridedBatchedEx_64=CFUNCTYPE(
                c_int, c_void_p, c_int, c_int, c_int64, c_int64, c_int64, c_void_p, *matrix,
                *matrix, c_void_p, *matrix, c_int64, c_int, c_int)(self.gemm),
            cublasGetStatusName=lambda status: STATUSES.get(status, b"unrecognized"))

    def create(self, handle) -> int:
        """Make a handle on the GPU in use, which works on the default stream."""
        number = next(self.numbers)
        self.handles[number] = [self.driver.device, None, None]
        handle[0] = number
        return 0

    def destroy(self, handle: int) -> int:
        return 0 if self.handles.pop(handle, None) else NOT_INITIALIZED

    def set_stream(self, handle: int, stream: int) -> int:
        """Set the stream, which puts the workspace back to the library's own."""
        if handle not in self.handles:
            return NOT_INITIALIZED
        self.handles[handle][1:] = stream, None
        return 0

    def set_workspace(self, handle: int, pointer: int, size: int) -> int:
        if handle not in self.handles:
            return NOT_INITIALIZED
        if pointer is None or pointer % 256:
            return INVALID_VALUE
        self.handles[handle][2] = pointer, size
        return 0

    def gemm(self, handle, transa, transb, m, n, k, alpha, a, atype, lda, stride_a,
             b, btype, ldb, stride_b, beta, c, ctype, ldc, stride_c, count, compute, algo) -> int:
        """Queue a batch of products; scalars are read now."""
        if self.fail:
            return self.fail
        device, stream, workspace = self.handles.get(handle, (None, None, None))
        if device is None or device != self.driver.device:
            return NOT_INITIALIZED
        if workspace is None:  # the library's own is none that a recorded call could keep
            return ALLOC_FAILED
        if min(m, n, k, count) < 0 or {transa, transb} - {0, 1} or algo != -1 \
                or lda < max(1, k if transa else m) or ldb < max(1, n if transb else k) \
                or ldc < max(1, m) or (count > 1 and stride_c < ldc * (n - 1) + m):
            return INVALID_VALUE
        if (compute, atype, btype, ctype) not in SUPPORTED:
            return NOT_SUPPORTED
        scalar, kind = (ctypes.c_double, np.float64) if compute == COMPUTE_64F else \
            (ctypes.c_float, np.float32)
        alpha, beta = (scalar.from_address(place).value for place in (alpha, beta))
        self.asked.append((transa, transb, m, n, k, count, compute))

        def do() -> None:
            self.driver.view(*workspace[:1], workspace[1:], "uint8")[:] = 0x5A
            left = self.matrices(a, (k, m) if transa else (m, k), lda, stride_a, count, atype)
            right = self.matrices(b, (n, k) if transb else (k, n), ldb, stride_b, count, btype)
            out = self.matrices(c, (m, n), ldc, stride_c, count, ctype)
            left, right = (rounded(x.astype(kind), compute) for x in (left, right))
            product = alpha * ((left.swapaxes(1, 2) if transa else left)
                               @ (right.swapaxes(1, 2) if transb else right))
            out[...] = product + beta * out.astype(kind) if beta else product
            self.driver.launched.append("cublas")

        self.driver.submit(stream, do)
        return 0

    def matrices(self, pointer: int, shape: tuple[int, int], ld: int, stride: int, count: int,
                 dtype: int) -> np.ndarray:
        """Return device memory as ``count`` matrices stored by columns."""
        name, (rows, columns) = DTYPES[dtype], shape
        if not rows * columns * count:
            return np.zeros((count, rows, columns), numpy_dtype(name))
        size = (count - 1) * stride + (columns - 1) * ld + rows
        flat = self.driver.view(pointer, (size,), numpy_dtype(name))
        step = flat.itemsize
        return np.lib.stride_tricks.as_strided(
            flat, (count, rows, columns), (stride * step, step, ld * step))


def rounded(values: np.ndarray, compute: int) -> np.ndarray:
    """Return operands as they are multiplied: with ten bits of mantissa where that is asked for."""
    if compute != FAST_TF32:
        return values
    return ((values.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
