"""Artifacts of the CPU target in memory, called as the runtime calls them, regions counted."""

from __future__ import annotations

import ctypes
from itertools import count

import llvmlite.binding as llvm
import numpy as np
from scipy_openblas32 import get_lib_dir

from tetractys.runtime.artifact import Artifact

_I64 = ctypes.c_int64
_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _I64, _I64)
REGIONS: list[tuple[int, int]] = []
POLLS: list[int] = [0]
STOPS: list[int] = [0]
_LIBRARIES = count()


@ctypes.CFUNCTYPE(_I64, _TASK, ctypes.c_void_p, _I64, _I64, _I64, _I64)
def _parallel_until(task, frame, count, grain, may_stop, is_long):
    """Run the chunks last to first: any order must do."""
    REGIONS.append((count, grain))
    for begin in reversed(range(0, count, grain)):
        task(frame, begin, min(count, begin + grain))
    return may_stop and STOPS[0]


@ctypes.CFUNCTYPE(None, _TASK, ctypes.c_void_p, _I64, _I64)
def _parallel_for(task, frame, count, grain):
    _parallel_until(task, frame, count, grain, 0, 0)


@ctypes.CFUNCTYPE(_I64)
def _poll():
    POLLS.append(POLLS[0])
    return POLLS[0]


def _address(function) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value


class Loaded:
    """An artifact in memory, called as the runtime calls it."""

    jit = None

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        if Loaded.jit is None:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            Loaded.jit = llvm.create_lljit_compiler()
            Loaded.blas = ctypes.CDLL(f"{get_lib_dir()}/libscipy_openblas.so")
        known = {"tx_parallel_for": _address(_parallel_for), "tx_poll": _address(_poll),
                 "tx_parallel_until": _address(_parallel_until)}
        builder = llvm.JITLibraryBuilder().add_current_process()
        for code in artifact.code:
            builder.add_object_img(code)
        for name in artifact.externals:
            routine = known.get(name) or _address(getattr(Loaded.blas, f"scipy_{name}"))
            builder.import_symbol(name, routine)
        builder.export_symbol("tx_plan").export_symbol("tx_run")
        self.tracker = builder.link(Loaded.jit, f"library{next(_LIBRARIES)}")
        self.plan = ctypes.CFUNCTYPE(_I64, *[ctypes.c_void_p] * 2)(self.tracker["tx_plan"])
        self.run = ctypes.CFUNCTYPE(_I64, *[ctypes.c_void_p] * 4)(self.tracker["tx_run"])

    def symbols(self, arrays, extra):
        """Return the symbols' values, from the arguments' axes."""
        values = [None] * self.artifact.symbol_count
        arguments = (*self.artifact.inputs, *self.artifact.shared)
        for argument, array in zip(arguments, arrays, strict=True):
            assert array.dtype == argument.dtype and array.flags.c_contiguous
            for axis, size in zip(argument.axes, array.shape, strict=True):
                if axis < 0 and values[-axis - 1] is None:
                    values[-axis - 1] = size
                assert size == (axis if axis >= 0 else values[-axis - 1])
        first = next((k for k, value in enumerate(values) if value is None), len(values))
        values[first:] = extra
        assert None not in values
        return np.array(values + [0], np.int64)

    def __call__(self, *arrays, extra=()):
        """Return ``(result of run or plan, outputs, status)``."""
        symbols = self.symbols(arrays, list(extra))
        results = np.zeros(1 + sum(output.rank for output in self.artifact.outputs), np.int64)
        planned = self.plan(symbols.ctypes.data, results.ctypes.data)
        if planned:
            return planned, None, None
        outputs, at = [], 1
        for output in self.artifact.outputs:
            outputs.append(np.full(results[at:at + output.rank], 111, output.dtype))
            at += output.rank
        arena = np.full(results[0] + 64, 0xA5, np.uint8)
        constants = [np.frombuffer(c.data, c.dtype) for c in self.artifact.constants]
        listed = [array.ctypes.data for array in (*arrays, *outputs, *constants)]
        pointers = np.array(listed + [0], np.int64)
        status = np.zeros(2, np.int64)
        start = arena.ctypes.data + -arena.ctypes.data % 64
        code = self.run(symbols.ctypes.data, pointers.ctypes.data, start, status.ctypes.data)
        return code, outputs, tuple(status.tolist())
