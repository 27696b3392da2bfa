"""Every primitive scalar operation, compiled for the CPU, equals its NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest

from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.dtypes import COMPUTED, FLOATS, SIZES
from tetractys.compiler.loop.ir import Buffer, For, Load, Nest, Scalar, Store
from tetractys.compiler.loop.scalar import CHOICES, SCALARS, apply, const, evaluate, kind_of
from tetractys.compiler.program import Kernel, Program
from tetractys.compiler.target.llvm import compile_program
from tetractys.compiler.target.llvm_scalar import EMITTERS
from tetractys.runtime.call import Executable

EDGES = {"b": [False, True],
         "f": [0.0, -0.0, 1.0, -1.5, 2.5, -2.5, 1e-40, 127.5, 3e9, -3e9, 1e20, float("inf"),
               float("-inf"), float("nan"), 255.9, -0.5]}


def edge_values(dtype):
    """Return values of a dtype at which operations go wrong."""
    if kind_of(dtype) != "i":
        return np.array(EDGES[kind_of(dtype)], dtype)
    info = np.iinfo(dtype)
    plain = [0, 1, 2, 3, 5, 7, 31, 100, info.max, info.max - 1, info.min, info.min + 1]
    return np.array(plain + ([-1, -2, -3, -7] if info.min else []), dtype)


def scalar_cases():
    """Yield each primitive with each dtype it takes, and each dtype it gives.

    Halves, which are only chosen, converted and looked at, are in ``test_half.py``.
    """
    for row in SCALARS.values():
        for dtype in COMPUTED:
            if kind_of(dtype) not in row.accepts or row.name == "mulhi" and dtype != "uint32":
                continue
            results = [dtype]
            if row.result == "bool":
                results = ["bool"]
            elif row.name == "cast":
                results = list(COMPUTED)
            elif row.name == "bitcast":
                results = [d for d in COMPUTED if SIZES[d] == SIZES[dtype] and d != "bool"]
            yield from ((row.name, dtype, result) for result in results)


def scalar_program(name, dtype, result, operands):
    """Return a program that applies a primitive to constant columns."""
    size = len(operands[0])
    buffers = [Buffer(f"x{at}", str(o.dtype), (size,), "input") for at, o in enumerate(operands)]
    out = Buffer("out", result, (size,), "output")
    i = Symbol("i", 0, size)
    here = (as_dim(i),)
    value = Scalar(name, tuple(Load(buffer, here) for buffer in buffers), result)
    nest = Nest(name, (For(i, size, (Store(out, here, value),), "vector"),))
    return Program(name, tuple(buffers), (), (out,), (), (
        Kernel(nest, tuple(buffers), (out,)),))


def scalar_operands(name, dtype):
    """Return columns that hold all combinations of edge values."""
    values = edge_values(dtype)
    columns = [values] * SCALARS[name].arity
    if name in CHOICES:
        columns = [np.array([False, True]), values, values]
    elif name == "fma":
        columns = [values[:6], values, values[:6]]
    return [np.ascontiguousarray(grid.reshape(-1)) for grid in np.meshgrid(*columns)]


def merged_scalar_program(cases):
    """Return one program with an output for each case: one compilation for a whole primitive."""
    steps, inputs, outputs, arrays = [], [], [], []
    for name, dtype, result in cases:
        operands = scalar_operands(name, dtype)
        part = scalar_program(name, dtype, result, operands)
        inputs += part.inputs
        outputs += part.outputs
        steps += part.steps
        arrays += operands
    return Program("scalars", tuple(inputs), (), tuple(outputs), (), tuple(steps)), arrays


@pytest.mark.parametrize("name", SCALARS)
def test_primitive_equals_its_reference(name):
    cases = [case for case in scalar_cases() if case[0] == name]
    program, arrays = merged_scalar_program(cases)
    outputs = Executable(compile_program(program)).run(arrays)
    at = 0
    for (_, dtype, result), got in zip(cases, outputs, strict=True):
        operands = arrays[at:at + SCALARS[name].arity]
        at += SCALARS[name].arity
        want = np.asarray(evaluate(name, operands, result))
        assert want.dtype == got.dtype
        if result in FLOATS and name not in ("copysign", "bitcast", "neg", "abs"):
            np.testing.assert_allclose(got, want, rtol=1e-6 if name == "fma" else 0,
                                       err_msg=f"{name} {dtype} -> {result}")
        else:
            np.testing.assert_array_equal(got.view(f"u{got.itemsize}"),
                                          want.view(f"u{want.itemsize}"),
                                          err_msg=f"{name} {dtype} -> {result}")


@pytest.mark.parametrize("name", ["floordiv", "mod"])
@pytest.mark.parametrize("divisor", [8, 7, -3, -1, 0, 1])
def test_division_by_a_literal(name, divisor):
    values = edge_values("int32")
    x, out = (Buffer(title, "int32", (len(values),), role)
              for title, role in (("x", "input"), ("out", "output")))
    i = Symbol("i", 0, len(values))
    value = apply(name, Load(x, (as_dim(i),)), const(divisor, "int32"))
    nest = Nest(name, (For(i, len(values), (Store(out, (as_dim(i),), value),)),))
    program = Program(name, (x,), (), (out,), (), (Kernel(nest, (x,), (out,)),))
    got, = Executable(compile_program(program)).run([values])
    np.testing.assert_array_equal(got, evaluate(name, [values, np.int32(divisor)], "int32"))


def test_every_primitive_has_an_emitter():
    assert set(EMITTERS) == set(SCALARS)
