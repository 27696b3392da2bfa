"""Loops and addresses as they are written: what LLVM is spared to find out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.target import llvm
from tetractys.compiler.target.llvm_machine import Machine
from tetractys.compiler.target.llvm_writer import FunctionWriter, Module


@pytest.fixture(scope="module")
def program():
    """Return a program with loops in loops, of several rows at once."""
    x, w = T.fmatrix("x"), T.fvector("w")
    f = tx.function([x, w], T.dot(T.nnet.sigmoid(T.dot(x, w)), x))
    f(np.ones((40, 784), "float32"), np.ones(784, "float32"))
    return f.variants[0].stages.program


@pytest.mark.parametrize("cpu, triple", [
    ("", ""), ("skylake-avx512", "x86_64-unknown-linux-gnu"),
    ("cortex-a76", "aarch64-unknown-linux-gnu")])
def test_llvm_does_not_search_for_loop_variables(program, cpu, triple):
    options = llvm.LlvmOptions(cpu=cpu, triple=triple, keep_text=True)
    machine = replace(llvm.vector_unit(cpu, "", triple), is_optimised=True)
    _, notes = llvm.compile_module(llvm.module_texts(program, machine).kernels, options)
    assert "lsr.iv" not in notes["llvm"]
    plain = replace(machine, is_optimised=False)
    _, notes = llvm.compile_module(llvm.module_texts(program, plain).kernels, options)
    assert "lsr.iv" in notes["llvm"]


def test_counters_are_plain_where_llvm_does_not_search(program):
    texts = llvm.module_texts(program)
    assert " asm " in texts.kernels and " asm " not in texts.drivers
    assert " asm " not in llvm.module_texts(program, Machine(is_optimised=False)).kernels


def written_in_loops(*offsets):
    """Return the lines of two loops, over i and j, that read at the ``offsets`` of both."""
    writer = FunctionWriter(Module(), "define void @f(ptr %x, i64 %n)")
    i, j = Symbol("i"), Symbol("j")

    def read():
        for offset in offsets:
            writer.run(f"read {writer.address('float', '%x', offset(as_dim(i), as_dim(j)))}")

    writer.loop(i, "0", "%n", lambda: writer.loop(j, "0", "%n", read))
    writer.finish()
    return writer.module.functions[0].splitlines()


def test_addresses_that_differ_by_a_number_share_the_rest():
    lines = written_in_loops(*(lambda i, j, k=k: 784 * i + j + 784 * k - 1 for k in range(8)))
    pointers = [line for line in lines if "getelementptr" in line]
    outer, inner, *numbers = pointers
    assert len(numbers) == 8 and all(line.split()[-1].lstrip("-").isdigit() for line in numbers)
    inside = lines.index(next(line for line in lines if line.startswith("loop")
                              and lines.index(line) > lines.index(outer)))
    assert lines.index(outer) < inside < lines.index(inner)


def test_what_is_known_outside_is_added_there():
    lines = written_in_loops(lambda i, j: i, lambda i, j: 5, lambda i, j: 0)
    assert [line.split()[-1] for line in lines if "getelementptr" in line][1:] == ["5"]
    assert "  read %x" in lines


def test_a_counter_that_is_known_is_a_number_of_the_address():
    writer = FunctionWriter(Module(), "define void @f(ptr %x)")
    i = Symbol("i")
    writer.bind_constant(i, 3)
    place = writer.address("float", "%x", 784 * as_dim(i) + 2)
    writer.finish()
    assert f"  {place} = getelementptr float, ptr %x, i64 {784 * 3 + 2}" \
        in writer.module.functions[0].splitlines()
