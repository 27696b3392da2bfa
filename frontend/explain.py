"""What ``f.explain()`` prints: one function on each of the four levels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .compiler.pipeline import Stages, compile_signature
from .compiler.program_text import program_text
from .printing import debugprint

if TYPE_CHECKING:
    from .function import Function


def explanation(function: Function, assembly: bool = False) -> str:
    """Return the text of a function's last variant (all sizes symbolic before the first call).

    Parameters
    ----------
    function : Function
    assembly : bool
        Append the machine's assembly.
    """
    fixed = function.variants[-1].fixed if function.variants else {}
    options = replace(function.options, keep_text=True)
    artifact, stages = compile_signature(function.signature, fixed, options)
    sizes = ", ".join(f"{symbol}={size}" for symbol, size in fixed.items()) or "symbolic"
    written, simplified = (str(debugprint(results, file="str")).rstrip()
                           for results in (function.signature.results(), stages.simplified))
    parts = [f"{function!r}, sizes: {sizes}", _title("1 graph, as written"), written,
             _title("1 graph, simplified"), simplified]
    parts += _levels(stages)
    for language, text in artifact.notes.items():
        if language != "assembly" or assembly:
            parts += [_title(f"4 code: {_TITLES.get(language, language)}"), text.strip()]
    parts += [_title("seconds by pass")]
    parts += [f"{name:12} {seconds:.4f}" for name, seconds in stages.seconds.items()]
    return "\n".join(parts)


_TITLES = {"llvm": "LLVM IR"}


def _levels(stages: Stages) -> list[str]:
    parts: list[str] = []
    if stages.prologue is not None:
        parts += [_title("2 and 3 program and loops of the prologue, which computes sizes"),
                  program_text(stages.prologue.program)]
    return parts + [_title("2 and 3 program and loops"), program_text(stages.program)]


def _title(text: str) -> str:
    return f"\n--- {text} " + "-" * max(0, 92 - len(text))
