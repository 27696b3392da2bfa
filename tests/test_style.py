"""The house style, as far as it can be counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("frontend", "compiler", "runtime")
SOURCES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))
EVERYTHING = SOURCES + sorted(path for folder in ("tests", "examples", "benchmarks")
                              for path in (ROOT / folder).rglob("*.py"))

MAX_FILE, MAX_FUNCTION, MAX_COLUMNS = 600, 60, 100
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}


def tree_of(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    """Return a file's name within the repository."""
    return str(path.relative_to(ROOT))


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


def test_there_are_files_to_look_at():
    assert {name_of(path).split("/")[0] for path in SOURCES} == set(PACKAGES)
    assert Path(__file__).resolve() in EVERYTHING


def test_files_are_short():
    lengths = {name_of(path): path.read_text().count("\n") for path in EVERYTHING}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE} == {}


def test_lines_are_narrow_and_end_without_blanks():
    assert [f"{name_of(path)}:{number}" for path in EVERYTHING
            for number, line in enumerate(path.read_text().split("\n"), 1)
            if len(line) > MAX_COLUMNS or line != line.rstrip()] == []


def test_functions_are_short():
    lengths = {f"{name_of(path)}:{node.lineno} {node.name}": code_lines(node)
               for path in EVERYTHING for node in functions(tree_of(path))}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION} == {}


def test_public_definitions_are_documented():
    assert [f"{name_of(path)}:{missing}" for path in SOURCES
            for missing in undocumented(tree_of(path))] == []


def test_public_functions_are_annotated():
    assert [f"{name_of(path)}:{missing}" for path in SOURCES
            for missing in unannotated(tree_of(path))] == []


def test_names_of_files_say_something():
    assert [name_of(path) for path in SOURCES if path.stem in FORBIDDEN_NAMES] == []


def test_annotations_are_not_evaluated():
    assert [name_of(path) for path in SOURCES
            if any(functions(tree_of(path)))
            and "from __future__ import annotations" not in path.read_text()] == []


def test_the_counts_find_what_they_look_for():
    long_body = "\n".join(["def f():", '    """Doc."""'] + ["    x = 1"] * 60)
    (node,) = functions(ast.parse(long_body))
    assert code_lines(node) == 61
    tree = ast.parse('"""Doc."""\ndef a(): pass\nclass B:\n    """Doc."""\n    def c(self): pass\n'
                     "    def _d(self): pass\n")
    assert undocumented(tree) == ["2 a", "5 B.c"]
    assert unannotated(ast.parse("def a(x: int, y) -> int: ...\ndef b(x: int) -> int: ...")) \
        == ["1 a"]
