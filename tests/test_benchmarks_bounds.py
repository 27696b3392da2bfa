"""The benchmarks' bounds: instructions told apart, counted by loop, and their arithmetic."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.target.llvm import LlvmOptions, vector_unit
from tetractys.runtime.cpu_jit import IS_X86

needs_avx2 = pytest.mark.skipif(not IS_X86 or vector_unit("", "", "").vector_bytes < 32,
                                reason="counts instructions of x86-64 with AVX2 only")


@pytest.mark.parametrize("line, kind", [
    ("vfmadd231ps\t%ymm0, %ymm1, %ymm2", "multiply"),
    ("vfnmadd213pd\t.LCPI0_1(%rip), %ymm1, %ymm2", "multiply+load"),
    ("vsubps\t%ymm0, %ymm1, %ymm2", "add"),
    ("vcmpltps\t%ymm0, %ymm1, %ymm2", "compare"),
    ("vdivps\t%ymm0, %ymm1, %ymm2", "divide ps"),
    ("vdivsd\t%xmm0, %xmm1, %xmm2", "divide ss"),
    ("vsqrtpd\t(%rax), %ymm2", "root pd+load"),
    ("vblendvps\t%ymm0, %ymm1, %ymm2, %ymm3", "blend"),
    ("vblendps\t$3, %ymm1, %ymm2, %ymm3", "logic"),
    ("vpxor\t%xmm0, %xmm0, %xmm0", "move"),
    ("vpxor\t%xmm0, %xmm1, %xmm0", "logic"),
    ("xorl\t%eax, %eax", "move"),
    ("vpsrad\t$3, %ymm0, %ymm1", "shift"),
    ("vpcmpgtd\t%ymm0, %ymm1, %ymm2", "integer"),
    ("vpackssdw\t%xmm0, %xmm1, %xmm2", "shuffle"),
    ("vmovshdup\t%xmm0, %xmm1", "shuffle"),
    ("vextractf128\t$1, %ymm0, %xmm1", "permute"),
    ("vextractf128\t$1, %ymm0, 16(%rdi,%rax,4)", "store"),
    ("vbroadcastss\t(%rax,%rcx,4), %ymm0", "load"),
    ("vbroadcastss\t%xmm0, %ymm0", "permute"),
    ("vcvttps2dq\t%ymm0, %ymm0", "convert"),
    ("vmovntps\t%ymm0, (%rdi)", "store"),
    ("vmaskmovps\t%ymm0, %ymm1, (%rdi)", "masked store"),
    ("vmaskmovps\t(%rdi), %ymm1, %ymm0", "load"),
    ("vmovaps\t%ymm0, %ymm1", "move"),
    ("movq\t8(%rsp), %rax", "load word"), ("movq\t%rax, 8(%rsp)", "store word"),
    ("movl\t$1, %eax", "move"), ("pushq\t%rbx", "store word"), ("popq\t%rbx", "load word"),
    ("leaq\t8(%rax,%rcx), %rdx", "scalar"), ("addq\t(%rax), %rdx", "scalar+load"),
    ("cmpq\t%rax, (%rdx)", "scalar+load"), ("incq\t(%rax)", "store word"),
    ("prefetcht0\t256(%rax)", "load word"), ("jne\t.LBB0_1", ""), ("jmp\t.LBB0_1", "other"),
    ("vzeroupper", "other"), ("vdpps\t$1, %xmm0, %xmm1, %xmm2", "unknown"),
])
def test_instructions_are_told_apart(load_benchmark, line, kind):
    assert load_benchmark("instructions").classify(line) == kind


ASSEMBLY = """\
\t.section\t.rodata
.LCPI0_0:
\t.long\t1
\t.text
helper:
\tvdivps\t%ymm0, %ymm1, %ymm1
\tretq
rows:
\tpushq\t%rbx
.LBB1_1:                                # %outer
\taddq\t$32, %rdi
.LBB1_2:
\tvmulps\t(%rdi), %ymm0, %ymm0
\tcallq\thelper
\tcmpq\t%rax, %rdi
\tjl\t.LBB1_2
\tsubq\t$1, %rcx
\tjne\t.LBB1_1
\tpopq\t%rbx
\tretq
"""


def test_blocks_begin_at_labels_and_after_jumps(load_benchmark):
    blocks = load_benchmark("instructions").parse(ASSEMBLY)
    assert [(b.function, b.label, len(b.lines)) for b in blocks] == [
        ("", "", 0), ("helper", "helper", 2), ("rows", "rows", 1), ("rows", ".LBB1_1", 1),
        ("rows", ".LBB1_2", 4), ("rows", "", 2), ("rows", "", 2)]


def test_long_loops_count_alone_and_short_ones_with_what_is_around(load_benchmark):
    module = load_benchmark("instructions")
    blocks = module.parse(ASSEMBLY)
    # Ten runs of the outer loop, of a thousand of the inner one or of two.
    for inner in (1000, 2):
        found = module.by_loop(blocks, [0, 10 * inner, 1, 10, 10 * inner, 10, 1])
        loop = "rows, .LBB1_2" if inner == 1000 else "rows"
        assert set(found) == ({loop, "rows", "rows, .LBB1_1"} if inner == 1000 else {"rows"})
        assert found[loop]["divide ps"] == 10 * inner, "counts where it is called from"
        assert found[loop]["multiply+load"] == 10 * inner
        assert sum(sum(kinds.values()) for kinds in found.values()) == 50 * inner + 10 + 10 + 3


def test_bounds_of_kinds_pairs_and_decoding(load_benchmark):
    ports = load_benchmark("ports")
    kinds = ("add", "load", "multiply", "other")
    beside = {(a, b): 1.0 for a in kinds for b in kinds if a < b}
    alone = {"add": 0.5, "multiply": 0.5, "load": 0.5, "other": 0.125}
    model = ports.Ports(1.0, alone, beside | {("add", "multiply"): 1.5})
    assert model.least({"multiply": 10}) == 5
    assert model.least({"multiply+load": 10, "load": 10}) == 10, "both read memory"
    assert model.least({"multiply": 10, "add": 8}) == 4 + 5 * 0.5
    assert model.least({"multiply": 10, "add": 10}) == 7.5
    assert model.least({"multiply": 1, "strange": 100}) == 101 / 8, "all must be decoded"


def test_the_allowed_ratio_is_the_peers_time_over_the_longest_bound(load_benchmark):
    bounds, workloads = load_benchmark("bounds"), load_benchmark("workloads").WORKLOADS
    row = bounds.Bound("w", "w", 1, 9.0, 4.0, 3.5, 2.0, 3.0, 3.0, "jax", 12.0)
    assert row.least == 4.0
    assert "| 9 s | 4 s | 3.5 s | 2 s | 3 s | 2.25 | jax | 12 s | 1.33 | 3.00 | 3.00 | 4.00 |" \
        in bounds.bounds_table([row])
    nan = float("nan")
    blas = bounds.Bound("w", "w", 1, 9.0, nan, nan, 2.0, 3.0, 1.0, "-", nan)
    assert blas.least == 3.0 and "| 9 s | - | - | 2 s |" in bounds.bounds_table([blas])
    assert [bounds.target(workloads[name]) for name in (
        "matmul_100x100x100", "matmul_200x200x200", "matmul_100x10x256", "layer_norm")] \
        == [1.5, 1.0, 1.0, 2.0]


@needs_avx2
def test_instructions_of_a_call_are_counted(load_benchmark):
    x = T.fvector("x")
    function = tx.function([x], T.sqrt(x))
    for length in (4096, 8192):
        given = np.ones(length, np.float32)
        function(given)
        found = sum(load_benchmark("instructions").executed(function, [given]).values(), Counter())
        lanes = vector_unit("", "", "").vector_bytes // 4
        assert found["root ps"] + found["root ps+load"] == length // lanes


@pytest.mark.skipif(not IS_X86, reason="assembles x86-64 with the host's own assembler")
@pytest.mark.parametrize("cpu, width", [("haswell", 32), ("skylake-avx512", 64)])
def test_every_kind_has_an_instruction_for_each_width(load_benchmark, cpu, width):
    ports = load_benchmark("ports")
    kinds = {kind: 2 for kind in ports.FORMS} | {
        f"{kind}+load": 2 for kind in ("multiply", "permute", "divide ss", "scalar", "root pd")}
    lines = ports.body_of(kinds, width)
    assert len(lines) == 2 * len(kinds) and any("zmm" in line for line in lines) == (width == 64)
    assert load_benchmark("instructions").assemble(
        ports.loop_text(lines, width), LlvmOptions(cpu=cpu, speed_level=1))


@needs_avx2
def test_a_mix_takes_as_long_as_its_kinds_and_no_longer_than_all_of_them(load_benchmark):
    ports = load_benchmark("ports")
    mix = {"multiply+load": 100, "divide ps": 50, "scalar+load": 10, "store": 1}
    alone = [ports.mix_seconds({kind: count}) for kind, count in mix.items()]
    # A factor of two for a busy machine.
    assert max(alone) / 2 < ports.mix_seconds(mix) < 2 * sum(alone)
