"""Who may import whom, read from the source.

``frontend -> compiler -> runtime.artifact``, ``frontend -> runtime``; runtime imports neither of
the others.  The layers and their neighbours use the public symbolic API.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES: dict[str, str] = tomllib.loads(
    (ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
FILES = sorted(path for folder in PACKAGES.values() for path in (ROOT / folder).rglob("*.py"))

# The compiler's only door into the runtime.
DOOR = "tetractys.runtime.artifact"
# What is written on top of the symbolic API, and may not reach past it.
ON_TOP = ("frontend/layers/*", "frontend/init.py", "frontend/nonlinearities.py",
          "frontend/objectives.py", "frontend/regularization.py", "frontend/updates.py")
# Which files alone may import these.
RESERVED = {"ctypes": ("runtime/*",), "cffi": (), "numba": (),
            "llvmlite": ("compiler/target/llvm*.py", "runtime/cpu*.py"),
            "cuda": ("runtime/cuda*.py",),
            "mpmath": ("compiler/rewrite/oracle.py",)}
# The core dependencies, and the extra for GPUs; mpmath comes with sympy.
THIRD_PARTY = {"numpy", "llvmlite", "scipy_openblas32", "sympy", "mpmath", "cuda"}


def module_name(path: Path) -> tuple[str, bool]:
    """Return the import name of a file, and whether it is a package's ``__init__``."""
    folder = path.relative_to(ROOT).parts[0]
    package = next(name for name, own in PACKAGES.items() if own == folder)
    parts = path.relative_to(ROOT / folder).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return ".".join((package, *parts[:-1], *(() if is_package else parts[-1:]))), is_package


def is_module(name: str) -> bool:
    """Return whether an absolute name within the project is a module or package."""
    top = max((p for p in PACKAGES if name == p or name.startswith(p + ".")), key=len)
    place = ROOT / PACKAGES[top] / Path(*name[len(top):].split(".")[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def imported(path: Path, source: str | None = None) -> list[tuple[str, int]]:
    """Return what a file imports, as absolute module names with line numbers."""
    name, is_package = module_name(path)
    found = []
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                package = package[:len(package) - node.level + 1]
                base = ".".join(package + ([node.module] if node.module else []))
            if not base.startswith("tetractys"):
                found.append((base, node.lineno))
                continue
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append((full if is_module(full) else base, node.lineno))
    return found


def violations(path: Path, source: str | None = None) -> list[str]:
    """Return the imports of a file that the directions forbid."""
    own = str(path.relative_to(ROOT))
    problems = []
    for target, line in imported(path, source):
        top = target.split(".")[0]
        into = "compiler" if target.startswith("tetractys.compiler") else \
            "runtime" if target.startswith("tetractys.runtime") else \
            "frontend" if top == "tetractys" else None
        allowed = {
            "runtime": into in (None, "runtime"),
            "compiler": into in (None, "compiler") or target == DOOR,
            "frontend": True,
        }[own.split("/")[0]]
        if any(fnmatch(own, pattern) for pattern in ON_TOP):
            allowed = into != "compiler" and (into != "runtime"
                                              or target == "tetractys.runtime.errors")
        if top in RESERVED and not any(fnmatch(own, pattern) for pattern in RESERVED[top]):
            allowed = False
        if into is None and top not in sys.stdlib_module_names | THIRD_PARTY:
            allowed = False
        if not allowed:
            problems.append(f"{own}:{line} imports {target}")
    return problems


def test_imports_go_in_the_allowed_directions():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES.values())
    assert [problem for path in FILES for problem in violations(path)] == []


@pytest.mark.parametrize("place, source", [
    ("runtime/errors.py", "from ..compiler import graph"),
    ("runtime/errors.py", "from .. import tensor"),
    ("runtime/errors.py", "def late():\n    import tetractys.compiler.graph"),
    ("compiler/graph.py", "from ..runtime import cpu"),
    ("compiler/graph.py", "from ..runtime.errors import ShapeError"),
    ("compiler/graph.py", "from .. import tensor"),
    ("compiler/graph.py", "import ctypes"),
    ("compiler/graph.py", "from llvmlite import ir"),
    ("frontend/updates.py", "from .compiler.graph import Variable"),
    ("frontend/layers/base.py", "from ..compiler import graph"),
    ("frontend/layers/base.py", "from ..runtime.cpu import load"),
    ("frontend/tensor.py", "import ctypes"),
    ("frontend/tensor.py", "import scipy"),
])
def test_a_forbidden_import_is_found(place, source):
    assert len(violations(ROOT / place, source)) == 1


@pytest.mark.parametrize("place, source", [
    ("compiler/graph.py", "from ..runtime.artifact import ShapeError\nimport numpy as np"),
    ("compiler/target/llvm.py", "from llvmlite import ir\nfrom ..loop.ir import For"),
    ("runtime/cpu.py", "import ctypes, llvmlite.binding"),
    ("frontend/tensor.py", "from .compiler.graph import Variable\nfrom .runtime import errors"),
    ("frontend/updates.py", "from . import tensor as T\nfrom .runtime.errors import ShapeError"),
])
def test_an_allowed_import_is_accepted(place, source):
    assert violations(ROOT / place, source) == []


def _fresh(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


SLOW = "print([m for m in ('sympy', 'mpmath', 'scipy', 'matplotlib', 'tqdm') if m in sys.modules])"


def test_import_leaves_slow_libraries_alone():
    assert _fresh("import sys, tetractys, tetractys.layers, tetractys.updates\n" + SLOW) == "[]"


def test_compiling_leaves_slow_libraries_alone():
    assert _fresh("import sys\nimport tetractys as tx\nfrom tetractys import tensor as T\n"
                  "x = T.matrix()\ny = T.log(T.nnet.softmax(x)).sum()\n"
                  "tx.function([x], [y, tx.grad(y, x)])([[1.0, 2.0]])\n" + SLOW) == "[]"


def test_runtime_loads_without_the_compiler():
    # The frontend's __init__ runs first in any import of tetractys.runtime, so it is replaced by
    # an empty package that only knows where the folder is.
    code = (
        "import importlib.util, pkgutil, sys, types\n"
        f"root = {str(ROOT)!r}\n"
        "package = types.ModuleType('tetractys'); package.__path__ = [root]\n"
        "sys.modules['tetractys'] = package\n"
        "for info in pkgutil.walk_packages([root + '/runtime'], 'tetractys.runtime.'):\n"
        "    importlib.import_module(info.name)\n"
        "print([m for m in sys.modules if m.startswith('tetractys.compiler')])")
    assert _fresh(code) == "[]"


def test_submodules_need_no_import_of_their_own():
    assert _fresh("import tetractys as tx; print(tx.layers.DenseLayer.__name__, "
                  "tx.updates.sgd.__name__, tx.random.RandomStreams.__name__, 'init' in dir(tx), "
                  "hasattr(tx, 'nothing'))") == "DenseLayer sgd RandomStreams True False"
