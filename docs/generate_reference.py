"""Write ``docs/reference.md`` from the tables of the program.

    python docs/generate_reference.py            write it
    python docs/generate_reference.py --check    exit with 1, and show the difference, if it is old

What is in a table (operations, rules, accuracies) becomes a table; the rest of the public names are
listed with their docstrings.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import tetractys
from tetractys import tensor
from tetractys.compiler import dtypes
from tetractys.compiler.loop.math import ACCURACY
from tetractys.compiler.ops.op import REGISTRY, Op
from tetractys.compiler.ops.public import BUILDERS
from tetractys.compiler.rewrite.pattern import Effect
from tetractys.compiler.rewrite.rules import RULE_SETS

REFERENCE = Path(__file__).with_name("reference.md")

MODULES = {
    "function": "Functions", "specification": "Inputs and outputs", "threads": "Threads",
    "gradient": "Derivatives", "control": "Loops", "random": "Random numbers",
    "layers": "Layers", "init": "Initial values", "nonlinearities": "Nonlinearities",
    "objectives": "Objectives", "regularization": "Regularization", "updates": "Updates",
    "graph": "Graphs", "printing": "Printing", "debug": "Debugging",
}
"""Modules listed with their docstrings, and the headings."""

INTRODUCTION = """# Reference

Written by `docs/generate_reference.py` from the tables and docstrings of the program; not to be
edited. `help(T.exp)` shows the whole documentation of a function."""

OPERATIONS = """## Operations

`T` is `tetractys.tensor`, and `x.sum()` is `T.sum(x)` for most. *Derivative* and *lowering* are the
kinds of [Add an operation](add_an_op.md). *ulp* is the largest error of the compiled function in
units in the last place, float32 / float64; where there is none, the operation is exact, correctly
rounded, or as accurate as its parts."""

COMPOSED = """### Composed functions

Built from the operations above when they are called; they have no row of their own."""

INTERNAL = """### Internal operations

What indexing, products and loops are made of; `explain` shows them."""

ACCURACIES = """## Accuracy of the scalar functions

Largest error over all finite arguments, in units in the last place of the exact result. Rounding
the exact result is an error of 0.5."""

RULES = """## Rewrite rules

The effect of each rule on values is found by running it, and a test compares it with the one
declared: see [Add a rewrite rule](add_a_rule.md). Rules that may change values are used with
`fast_math` only."""

INPUTS = """## Inputs

Each constructor takes an optional name. The dtype is `floatX`, or that of a prefix: {prefixes}. So
`T.fmatrix('x')` is a float32 matrix. The plural makes several: `T.vectors('a', 'b')`."""


# -- Markdown --------------------------------------------------------------------------------------

def code(text: str) -> str:
    """Return inline code; a bar would end the cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def summary(thing: Any) -> str:
    """Return the first paragraph of a docstring, in one line, with Markdown's code marks."""
    first = (inspect.getdoc(thing) or "").split("\n\n")[0]
    plain = re.sub(r":\w+:`", "`", " ".join(first.split()))
    return plain.replace("``", "`").replace("|", "\\|")


def signature(thing: Any, name: str) -> str:
    """Return how a function or class is called, without annotations."""
    found = inspect.signature(thing)
    parameters = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty
                            else _Plain(p.default)) for p in found.parameters.values()]
    return name + str(found.replace(parameters=parameters, return_annotation=found.empty))


class _Plain:
    """A default value that prints without the address of an object."""

    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        text = repr(self.value)
        if not text.startswith("<"):
            return text
        return getattr(self.value, "__name__", None) or f"{type(self.value).__name__}()"


# -- operations ------------------------------------------------------------------------------------

def operations() -> Iterator[str]:
    """Yield the tables of the public operations by section, of builders, and of internal rows."""
    yield OPERATIONS
    sections: dict[str, list[Op]] = {}
    for row in REGISTRY.values():
        if row.namespace:
            sections.setdefault(row.section, []).append(row)
    for section in sorted(sections):
        yield f"### {section}"
        yield table(["function", "", "kind", "derivative", "lowering", "ulp"],
                    map(operation, sorted(sections[section], key=lambda row: row.name)))
    yield COMPOSED
    yield table(["function", ""], (
        [code(signature(function, f"{namespace}.{name}")), summary(function)]
        for namespace in ("T", "T.nnet") for name, function in sorted(BUILDERS[namespace].items())))
    yield INTERNAL
    yield table(["name", "kind", "derivative", "lowering", "section"], (
        [code(row.name), *kinds(row), row.section]
        for row in sorted(REGISTRY.values(), key=lambda row: row.name) if not row.namespace))


def operation(row: Op) -> list[str]:
    """Return the cells of one public operation."""
    call = code(signature(row.function, f"{row.namespace}.{row.name}"))
    if row.aliases:
        call += f" (also {', '.join(map(code, row.aliases))})"
    return [call, summary(row.function), *kinds(row), ulps(row.ulp)]


def kinds(row: Op) -> list[str]:
    """Return the kind of an operation, of its derivative and of its lowering."""
    lowering = type(row.lower).__name__.removesuffix("Lowering")
    return [row.kind, words(type(row.derivative).__name__), words(lowering)]


def words(name: str) -> str:
    """Return the name of a class as words: ``OfExpansion`` is "of expansion"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def ulps(accuracy: Any) -> str:
    """Return the errors of an operation in float32 and float64."""
    return "" if accuracy is None else f"{accuracy['float32']:.2f} / {accuracy['float64']:.2f}"


def inputs() -> Iterator[str]:
    """Yield the section on the constructors of inputs."""
    yield INPUTS.format(prefixes=", ".join(
        f"`{prefix}` {dtype}" for prefix, dtype in dtypes.PREFIXES.items()))
    yield table(["constructor", "shape"], (
        [code(f"T.{kind}(name)"), code(str(shape))] for kind, shape in tensor.PATTERNS.items()))
    for name in ("tensor", "constant"):
        yield from described(getattr(tensor, name), f"T.{name}")


# -- rules and accuracies --------------------------------------------------------------------------

def accuracies() -> Iterator[str]:
    """Yield the table of the scalar functions' errors."""
    yield ACCURACIES
    yield table(["function", "float32", "float64"], (
        [code(name), f"{errors['float32']:.2f}", f"{errors['float64']:.2f}"]
        for name, errors in sorted(ACCURACY.items())))


def rules() -> Iterator[str]:
    """Yield the tables of rewrite rules, by set."""
    yield RULES
    for rule_set in RULE_SETS:
        yield f"### {rule_set.name.capitalize()}: {len(rule_set.rules)} rules"
        yield table(["rule", "where", "effect on values"], (
            [code(rule.title), ", ".join(code(c.text) for c in getattr(rule, "when", ())),
             name_of(rule.effect)] for rule in rule_set.rules))
    yield "The effects, from harmless to harmful:"
    yield table(["effect", ""], ([name_of(effect), meaning] for effect, meaning in meanings()))


def name_of(effect: Effect) -> str:
    """Return an effect's name in words."""
    return effect.name.lower().replace("_", " ")


def meanings() -> Iterator[tuple[Effect, str]]:
    """Yield each effect with the text below it in the source."""
    source = inspect.getsource(Effect)
    for effect in Effect:
        text = re.search(rf'{effect.name} = \d+\n\s+"""(.*?)"""', source, re.DOTALL)[1]
        yield effect, " ".join(text.split()).replace("``", "`")


# -- modules by docstring --------------------------------------------------------------------------

def public_names(module: ModuleType) -> list[str]:
    """Return the public functions and classes of a module."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if callable(getattr(module, name))]
    return [name for name, thing in vars(module).items()
            if not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing))
            and thing.__module__ == module.__name__]


def described(thing: Any, name: str) -> Iterator[str]:
    """Yield the entry of one function or class: how it is called, and its docstring."""
    yield f"### {code(signature(thing, name))}"
    yield f"```text\n{inspect.getdoc(thing)}\n```"


def package() -> Iterator[str]:
    """Yield the section of the names of the package itself."""
    yield "## The package"
    yield table(["name", ""], (
        [code(f"tetractys.{name}"), summary(getattr(tetractys, name))]
        for name in tetractys.__all__ if callable(getattr(tetractys, name))))
    for name in ("function", "shared"):
        yield from described(getattr(tetractys, name), f"tetractys.{name}")


def modules() -> Iterator[str]:
    """Yield the sections of the modules listed by docstring."""
    for name, heading in MODULES.items():
        module = importlib.import_module(f"tetractys.{name}")
        yield f"## {heading}"
        yield f"`tetractys.{name}`. {summary(module)}"
        for own in public_names(module):
            yield from described(getattr(module, own), f"{name}.{own}")


# -- the page --------------------------------------------------------------------------------------

def reference() -> str:
    """Return the whole page."""
    body = [*package(), *inputs(), *operations(), *modules(), *accuracies(), *rules()]
    headings = [part[3:].partition("\n")[0] for part in body if part.startswith("## ")]
    anchors = [(heading, re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-"))
               for heading in headings]
    contents = "\n".join(f"* [{heading}](#{anchor})" for heading, anchor in anchors)
    return "\n\n".join([INTRODUCTION, contents, *body]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    parser.add_argument("--output", type=Path, default=REFERENCE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    new = reference()
    if not options.check:
        options.output.write_text(new)
        return 0
    old = options.output.read_text() if options.output.is_file() else ""
    if old == new:
        return 0
    difference = difflib.unified_diff(old.splitlines(), new.splitlines(), str(options.output),
                                      "as it should be", lineterm="", n=0)
    print("The reference is not current: run python docs/generate_reference.py", file=sys.stderr)
    print("\n".join(list(difference)[:60]), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
