"""Conversions from and to float16 and bfloat16: NumPy's bits, on every kind of processor."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from cuda_fake import fake_gpu
from cuda_host import COMPILER, HostDriver
from halves import assert_same_bits, half, inputs_of, normal, program_of, rounded, singles

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dtypes import HALVES
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.loop.half import conversion
from tetractys.compiler.loop.interpret import scalar_value
from tetractys.compiler.loop.ir import Const, Scalar
from tetractys.compiler.loop.walk import postorder
from tetractys.compiler.target import llvm
from tetractys.runtime.artifact import numpy_dtype


@pytest.fixture(params=["instructions", "arithmetic"])
def processor(request, monkeypatch):
    """Compile with the processor's own conversions, and as if it had none."""
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")
    if request.param == "arithmetic":
        unit = llvm.vector_unit
        monkeypatch.setattr(llvm, "vector_unit", lambda *args: replace(unit(*args),
                                                                       has_float16=False))


@half
def test_every_half_as_float32(name, processor):
    x, = inputs_of(name, 1)
    every = np.arange(1 << 16, dtype="uint16").view(numpy_dtype(name))
    assert_same_bits(tx.function([x], T.cast(x, "float32"))(every), every.astype("float32"))


@half
def test_float32_is_rounded_to_nearest_even(name, processor):
    x, = inputs_of("float32", 1)
    values = singles()
    assert_same_bits(tx.function([x], T.cast(x, name))(values), rounded(values, name))


@half
def test_float64_is_rounded_once(name, processor):
    x, = inputs_of("float64", 1)
    with np.errstate(all="ignore"):
        values = singles().astype("float64")
        values = np.concatenate([values, values * (1 + 2.0 ** -40), values * (1 - 2.0 ** -40),
                                 np.array([1e300, -1e-300, 1e39, 5e-324])])
        single = values.astype("float32")
    want = rounded(values if name == "float16" else single, name)
    assert_same_bits(tx.function([x], T.cast(x, name))(values), want)
    assert_same_bits(evaluate([T.cast(x, name)], {x: values})[0], want)


@half
@pytest.mark.parametrize("other", ["bool", "int8", "uint16", "int32", "int64", "float64"])
def test_other_dtypes_go_through_float32(name, other):
    x, = inputs_of(name, 1)
    values = rounded([0.0, -0.0, 1.5, -1.5, 200.0, -300.0, 6e4, np.inf, -np.inf, np.nan], name)
    output = T.cast(x, other)
    want = evaluate([T.cast(T.cast(x, "float32"), other)], {x: values})[0]
    for got in (tx.function([x], output)(values), evaluate([output], {x: values})[0]):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == other
    y, = inputs_of(other, 1)
    whole = np.arange(0, 120).astype(other)
    assert_same_bits(tx.function([y], T.cast(y, name))(whole), rounded(whole.astype("f4"), name))


@pytest.mark.parametrize("source, target", [
    pair for name in HALVES for pair in ((name, "float32"), ("float32", name))])
def test_the_arithmetic_of_conversions_uses_no_half(source, target):
    parameter, root = conversion(source, target)
    touching = [node.name for node in postorder(root) if isinstance(node, Scalar)
                and {node.dtype, *(arg.dtype for arg in node.args)} & set(HALVES)]
    assert touching == ["bitcast"]


@half
def test_the_arithmetic_of_conversions_interpreted(name):
    for source, target, values in (
            ("float32", name, singles()[::97]),
            (name, "float32", np.arange(0, 1 << 16, 31, dtype="uint16").view(numpy_dtype(name)))):
        parameter, root = conversion(source, target)
        known = {id(parameter): values}
        with np.errstate(all="ignore"):
            for node in postorder(root):
                if isinstance(node, Const):
                    known[id(node)] = np.asarray(node.value, node.dtype)
                elif isinstance(node, Scalar):
                    known[id(node)] = np.asarray(
                        scalar_value(node, [known[id(arg)] for arg in node.args]))
            assert_same_bits(known[id(root)], values.astype(numpy_dtype(target)))


@pytest.mark.parametrize("triple, cpu", [
    ("x86_64-unknown-linux-gnu", "x86-64"), ("x86_64-unknown-linux-gnu", "haswell"),
    ("x86_64-unknown-linux-gnu", "sapphirerapids"), ("aarch64-unknown-linux-gnu", "generic"),
    ("aarch64-unknown-linux-gnu", "neoverse-v1")])
@half
def test_no_processor_needs_a_library(name, triple, cpu):
    x, = inputs_of(name, 2)
    f = tx.function([x], [T.tanh(x) * 2.0 + 1.0, T.dot(x, x), T.cast(x, "float64")])
    program = program_of(f, normal(name, 9, 9))
    text = llvm.module_texts(program, llvm.vector_unit(cpu, "", triple)).kernels
    _, notes = llvm.compile_module(text, llvm.LlvmOptions(
        cpu=cpu, triple=triple, keep_text=True))
    assert not re.search(r"__\w*(trunc|ext|h2f|f2h)\w*", notes["assembly"])


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to run the emitted text with")
@half
def test_the_text_for_gpus_converts_as_numpy_does(name, tmp_path):
    x, = inputs_of(name, 1)
    y, = inputs_of("float32", 1)
    every = np.arange(1 << 16, dtype="uint16").view(numpy_dtype(name))
    values = singles()[::7]
    with fake_gpu(HostDriver(tmp_path)):
        f = tx.function([x, y], [T.cast(x, "float32"), T.cast(y, name)], device="cuda")
        wide, narrow = f(every, values)
    assert_same_bits(wide, every.astype("float32"))
    assert_same_bits(narrow, rounded(values, name))
