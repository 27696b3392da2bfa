"""The house style, as far as it can be counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("frontend", "compiler", "runtime")
SOURCES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))
EVERYTHING = SOURCES + sorted(path for folder in ("tests", "examples", "benchmarks")
                              for path in (ROOT / folder).rglob("*.py"))

MAX_FILE, MAX_FUNCTION, MAX_COLUMNS = 600, 60, 100
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}

each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
each_file = pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: str(p.relative_to(ROOT)))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function, methods and nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, its docstring not counted."""
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) \
            and isinstance(first.value.value, str):
        lines -= first.end_lineno - first.lineno + 1
    return lines


def undocumented(tree: ast.Module) -> list[str]:
    """Return the public definitions without a docstring; nested functions are not public."""
    missing = [] if ast.get_docstring(tree) else ["the module"]
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        prefix, parent = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                if node.name.startswith("_") or _is_overload(node):
                    continue
                if not ast.get_docstring(node):
                    missing.append(f"{node.lineno} {prefix}{node.name}")
                if isinstance(node, ast.ClassDef):
                    pending.append((f"{prefix}{node.name}.", node))
    return missing


def _is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(decorator)
               for decorator in getattr(node, "decorator_list", ()))


def unannotated(tree: ast.Module) -> list[str]:
    """Return the public functions with a parameter or result that has no annotation."""
    found = []
    for parent in (tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))):
        for node in parent.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if arguments and arguments[0].arg in ("self", "cls"):
                arguments = arguments[1:]
            if node.returns is None or any(a.annotation is None for a in arguments):
                found.append(f"{node.lineno} {node.name}")
    return found


@each_file
def test_files_are_short_and_narrow(path):
    lines = path.read_text().split("\n")
    assert len(lines) <= MAX_FILE + 1
    assert [n for n, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS] == []
    assert [n for n, line in enumerate(lines, 1) if line != line.rstrip()] == []


@each_file
def test_functions_are_short(path):
    found = {f"{node.lineno} {node.name}": code_lines(node)
             for node in functions(ast.parse(path.read_text()))}
    assert {name: lines for name, lines in found.items() if lines > MAX_FUNCTION} == {}


@each_source
def test_public_definitions_are_documented(path):
    assert undocumented(ast.parse(path.read_text())) == []


@each_source
def test_public_functions_are_annotated(path):
    assert unannotated(ast.parse(path.read_text())) == []


@each_source
def test_names_of_files_say_something(path):
    assert path.stem not in FORBIDDEN_NAMES


@each_file
def test_annotations_are_not_evaluated(path):
    text = path.read_text()
    has_definitions = any(True for _ in functions(ast.parse(text)))
    assert not has_definitions or "from __future__ import annotations" in text \
        or path.name == "conftest.py"


def test_the_counts_find_what_they_look_for():
    long_body = "\n".join(["def f():", '    """Doc."""'] + ["    x = 1"] * 60)
    (node,) = functions(ast.parse(long_body))
    assert code_lines(node) == 61
    tree = ast.parse('"""Doc."""\ndef a(): pass\nclass B:\n    """Doc."""\n    def c(self): pass\n'
                     "    def _d(self): pass\n")
    assert undocumented(tree) == ["2 a", "5 B.c"]
    assert unannotated(ast.parse("def a(x: int, y) -> int: ...\ndef b(x: int) -> int: ...")) \
        == ["1 a"]
