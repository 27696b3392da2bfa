"""All kernels there are to compile: of the table of operations, the rules' examples, networks.

Networks are the examples' and the benchmarks', with their training steps.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from test_ops_table import CASES, _variants

import tetractys as tx
from tetractys.compiler.loop.text import nest_signature
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.program import For, Program
from tetractys.compiler.rewrite import rules
from tetractys.compiler.rewrite.verify import cases
from tetractys.compiler.target.cuda import scheduled
from tetractys.compiler.target.cuda_kernel import Module, emit_kernel
from tetractys.runtime import cuda_nvrtc

ROOT = Path(__file__).parents[1]

MODULE_SIZE = 250
"""Kernels NVRTC gets at once."""


class Collection:
    """The distinct kernels of many programs, in modules of some hundred.

    Attributes
    ----------
    programs : int
        How many were added.
    """

    def __init__(self) -> None:
        self.modules, self.known, self.programs = [Module()], set(), 0

    def __len__(self) -> int:
        return sum(len(module.kernels) for module in self.modules)

    def add(self, program: Program) -> None:
        """Add a program's kernels."""
        self.programs += 1
        pending = list(program.steps)
        while pending:
            step = pending.pop()
            if isinstance(step, For):
                pending += step.body
                continue
            for nest in scheduled(step):
                signature = nest_signature(nest)
                if signature.key in self.known:
                    continue
                self.known.add(signature.key)
                if len(self.modules[-1].kernels) >= MODULE_SIZE:
                    self.modules.append(Module())
                emit_kernel(self.modules[-1], nest, signature, (0, 1), False)

    def function(self, f: tx.Function, sizes: Mapping) -> None:
        """Add a function's kernels for some sizes."""
        _, stages = compile_signature(f.signature, sizes, Options(device="cuda"))
        self.add(stages.program)
        if stages.prologue is not None:
            self.add(stages.prologue.program)

    def compile(self, architecture: str) -> int:
        """Compile everything with NVRTC; return the bytes of machine code."""
        size = 0
        for module in self.modules:
            code, _ = cuda_nvrtc.build(module.text(), architecture)
            assert code[:4] == b"\x7fELF"
            size += len(code)
        return size


def table(found: Collection, step: int = 1) -> None:
    """Add every ``step``-th case of the table of operations, sizes known and symbolic."""
    for case in CASES[::step]:
        for _, inputs, all_arrays in _variants(case):
            f = tx.function(inputs, case.apply(inputs), on_unused_input="ignore")
            for sizes in ({}, f._sizes([np.asarray(a) for a in all_arrays[0]])):
                found.function(f, sizes)


def rule_examples(found: Collection, step: int = 1) -> None:
    """Add both sides of every ``step``-th example of the rules."""
    every = [case for rules_ in rules.RULE_SETS for rule in rules_.rules for case in cases(rule)]
    for case in every[::step]:
        for side in (case.before, case.after):
            f = tx.function(list(case.inputs), side, on_unused_input="ignore")
            found.function(f, {})


@contextmanager
def _single_precision() -> Iterator[None]:
    before = tx.config.floatX
    tx.config.floatX = "float32"
    try:
        yield
    finally:
        tx.config.floatX = before


def load(path: Path, name: str) -> object:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks() -> Iterator[tuple[str, tx.Function, dict]]:
    """Yield the functions of all examples, by name, with sizes to compile them for."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        with _single_precision():
            model = load(path, f"example_{path.stem}").build((28, 28))
        pixels, labels = np.zeros((100, 28, 28), np.uint8), np.zeros(100, np.uint8)
        for name in ("step", "evaluate"):
            f = getattr(model, name)
            yield f"{path.stem} {name}", f, f._sizes([pixels, labels])


def workloads(names: str | None = None) -> Iterator[tuple[str, tx.Function, dict]]:
    """Yield the functions of the benchmarks (of these, as the benchmarks' command line has it)."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        with _single_precision():
            side = importlib.import_module("sides.tetractys_side").SIDE
            for workload in importlib.import_module("workloads").select(names):
                case = side[workload.family](workload.data())
                yield workload.name, case.function, case.function._sizes(case.arguments)
    finally:
        sys.path.remove(folder)


def network_kernels(found: Collection, names: str | None = None) -> None:
    """Add the kernels of networks, and of workloads of these names, sizes known and symbolic."""
    for _, f, sizes in (*networks(), *workloads(names)):
        for known in ({}, sizes):
            found.function(f, known)
