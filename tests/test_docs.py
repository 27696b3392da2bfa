"""What the documentation shows is what happens: README, docs/ and the examples in docstrings.

In a Markdown file each ``python`` block is run, all blocks of a file in one namespace.  A block
that starts with ``>>>`` is a doctest: its outputs are compared.
"""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.operators import FUNCTIONS
from tetractys.compiler.ops.op import REGISTRY

ROOT = Path(__file__).parents[1]
PACKAGES: dict[str, str] = tomllib.loads(
    (ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = ("README.md", "tutorial.md", "how_it_works.md", "add_an_op.md", "add_a_rule.md")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def modules():
    """Return the import name of every module.

    Each package is walked in its own folder: in an editable install the sub-packages are not in
    the folder of the package above them.
    """
    names = set()
    for name in PACKAGES:
        package = importlib.import_module(name)
        found = pkgutil.walk_packages(package.__path__, name + ".")
        names |= {name, *(info.name for info in found)}
    return sorted(names)


@pytest.fixture(autouse=True)
def _settings_of_their_own(tmp_path, monkeypatch):
    """Give each document its own folder; put settings back, and take rows out that it added."""
    monkeypatch.chdir(tmp_path)
    before = tx.config.floatX
    tables = [(table, dict(table)) for table in (REGISTRY, FUNCTIONS)]
    with np.printoptions():
        yield
    tx.config.floatX = before
    for table, content in tables:
        table.clear()
        table.update(content)


def run_examples(examples, namespace, name):
    """Run doctest examples in a namespace; returns the number of them, and what failed."""
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    test = doctest.DocTest(examples, namespace, name, None, 0, None)
    test.globs = namespace  # not the copy it has made: later blocks see the names of earlier ones
    runner.run(test, out=report.append, clear_globs=False)
    return len(examples), "".join(report)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_run(path):
    blocks = FENCE.findall(path.read_text())
    assert blocks or path.name not in WITH_CODE
    namespace = {"__name__": path.stem}
    reports = []
    for number, block in enumerate(blocks, 1):
        name = f"{path.name} block {number}"
        if block.startswith(">>>"):
            count, report = run_examples(doctest.DocTestParser().get_examples(block), namespace,
                                         name)
            assert count
            reports += [report] if report else []
        else:
            exec(compile(block, name, "exec"), namespace)
    assert not reports, "".join(reports)


PUBLISH = """
from tetractys import tensor
vars(tensor).update(tensor.functions_of("T"))
vars(tensor.nnet).update(tensor.functions_of("T.nnet"))
"""
"""What importing Tetractys does with rows that are in ``compiler/ops`` from the start."""


def test_rows_of_the_documentation_pass_the_generated_tests(tmp_path):
    blocks = FENCE.findall((ROOT / "docs" / "add_an_op.md").read_text())
    rows = "\n".join(block for block in blocks if not block.startswith(">>>"))
    (tmp_path / "rows_of_the_page.py").write_text(rows + PUBLISH)
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "rows_of_the_page", "-p", "no:cacheprovider",
         "tests/test_ops_table.py", "-k", "hypot or silu"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert int(re.search(r"(\d+) passed", found.stdout)[1]) > 50


def test_the_reference_is_current():
    script = ROOT / "docs" / "generate_reference.py"
    found = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_reference_that_is_not_current_is_reported(tmp_path):
    outdated = tmp_path / "reference.md"
    outdated.write_text((ROOT / "docs" / "reference.md").read_text().replace("exp", "eggs", 1))
    script = ROOT / "docs" / "generate_reference.py"
    found = subprocess.run([sys.executable, str(script), "--check", "--output", str(outdated)],
                           capture_output=True, text=True)
    assert found.returncode == 1
    assert "generate_reference.py" in found.stderr and "+" in found.stderr


@pytest.mark.parametrize("name", modules())
def test_docstrings_run(name):
    module = importlib.import_module(name)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, name)
             if test.examples]
    for test in tests:
        test.globs.update(np=np, tx=tx, T=T)
        _, report = run_examples(test.examples, test.globs, test.name)
        assert not report, report


def test_a_wrong_output_is_reported():
    examples = doctest.DocTestParser().get_examples(">>> 1 + 1\n3\n")
    assert "Expected:" in run_examples(examples, {}, "wrong")[1]


def test_local_links_lead_somewhere():
    missing = []
    for path in DOCUMENTS:
        prose = CODE.sub("", path.read_text())
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
            if "://" not in target and not (path.parent / target).exists():
                missing.append(f"{path.name}: {target}")
    assert missing == []


@pytest.mark.parametrize("name", ["run", "test"])
def test_the_two_commands_are_marked(name):
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(rf"^<!-- command: {name} -->\n```\w*\n.+\n```$", text, re.MULTILINE)) == 1
