"""Count what is verified of the CUDA target, for docs/cuda.md.

    python tests/cuda_counts.py --files               which lines are whose
    python tests/cuda_counts.py --kernels             generated, and compiled where NVRTC is
    python tests/cuda_counts.py --emulated            executed by the emulator and compared
    python tests/cuda_counts.py --faults              planted in schedules, and caught

Without an option, all of them; ``--share N`` takes every N-th case.  What NVRTC has compiled is in
the disk cache: a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import time
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import conftest  # noqa: E402, F401  (finds the packages of a bare checkout)

ARCHITECTURES = ("sm_80", "sm_90")


def lines_of_code(path: Path) -> int:
    """Return the lines that hold something else than comments, docstrings or nothing."""
    lines: set[int] = set()
    previous = tokenize.INDENT
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        is_docstring = token.type == tokenize.STRING and previous in (
            tokenize.INDENT, tokenize.NEWLINE, tokenize.NL, tokenize.DEDENT)
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING) \
                and not is_docstring:
            lines.update(range(token.start[0], token.end[0] + 1))
        if token.type != tokenize.COMMENT:
            previous = token.type
    return len(lines)


def files() -> None:
    """Print whose the lines are: CUDA's, the CPU's, of both."""
    totals = {"CUDA's": [0, 0], "the CPU's": [0, 0], "of both": [0, 0]}
    named = []
    for path in sorted(p for folder in ("frontend", "compiler", "runtime")
                       for p in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        kind = "CUDA's" if path.name.startswith("cuda") else \
            "the CPU's" if re.match(r"llvm|cpu|blas", path.name) else "of both"
        totals[kind][0] += text.count("\n")
        totals[kind][1] += lines_of_code(path)
        found = sum("cuda" in line.lower() for line in text.splitlines())
        if found and kind != "CUDA's":
            named.append(f"{path.relative_to(ROOT)} ({found})")
    every = sum(code for _, code in totals.values())
    for kind, (lines, code) in totals.items():
        print(f"{kind:10} {lines:7,} lines, {code:6,} of code: {100 * code / every:.0f} %")
    print("other files with the word, and in how many lines:", ", ".join(named))


def kernels(share: int) -> None:
    """Print how many kernels there are, and how many NVRTC compiles."""
    from cuda_kernels import Collection, network_kernels, rule_examples, table
    from tetractys.runtime import cuda_nvrtc
    from tetractys.runtime.errors import CompileError
    found, before = Collection(), 0
    for title, add in (("table of operations", lambda: table(found, share)),
                       ("rules' examples", lambda: rule_examples(found, share)),
                       ("networks and workloads", lambda: network_kernels(found))):
        programs = found.programs
        add()
        print(f"{title:24} {found.programs - programs:6} programs, {len(found) - before:5} "
              "kernels not seen before", flush=True)
        before = len(found)
    print(f"{'distinct kernels':24} {len(found)}", flush=True)
    try:
        version = cuda_nvrtc.version()
    except CompileError as error:
        print(f"not compiled: {str(error).splitlines()[0]}")
        return
    for architecture in ARCHITECTURES:
        start = time.perf_counter()
        size = sum(len(cuda_nvrtc.assemble(module.text(), architecture))
                   for module in found.modules)
        print(f"compiled for {architecture} by NVRTC {version}: {len(found)}, {size >> 20} MiB, "
              f"{time.perf_counter() - start:.0f} s", flush=True)


def emulated(share: int, first: int) -> None:
    """Print how many comparisons with NumPy the emulator passes."""
    from cuda_fake import fake_gpu
    from test_cuda_table import check
    from test_ops_table import CASES, _variants
    compared = launched = 0
    chosen = CASES[first::share]
    for case in chosen:
        with fake_gpu() as gpu:
            check(case)
            compared += 2 * len(list(_variants(case)))
            launched += len(gpu.launched)
    print(f"comparisons with NumPy in the emulator: {compared}, all equal; {len(chosen)} "
          f"cases, {launched} launches")


def faults() -> None:
    """Print how many planted faults the emulator catches."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         str(ROOT / "tests" / "test_cuda_emulate.py"),
         "-k", "caught or refused or gives_another_value"],
        capture_output=True, text=True, cwd=ROOT)
    print("planted faults:", run.stdout.strip().splitlines()[-1])


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("files", "kernels", "emulated", "faults"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--share", type=int, default=1, help="take every N-th case")
    parser.add_argument("--first", type=int, default=0, help="from this one on, if emulated")
    options = parser.parse_args()
    every = not (options.files or options.kernels or options.emulated or options.faults)
    if every or options.files:
        files()
    if every or options.faults:
        faults()
    if every or options.kernels:
        kernels(options.share)
    if every or options.emulated:
        emulated(options.share, options.first)


if __name__ == "__main__":
    main()
