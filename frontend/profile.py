"""``f.profile``: where the time of compiling a function and of its calls went."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .function import Function, Variant

PHASES = {
    "imports": "parts of the compiler imported by the first function of a process",
    "look up graph": "the graph's key, and its code if stored",
    "intern": "equal subexpressions merged, sizes put in",
    "simplify": "rewrite rules",
    "expand": "composite operations",
    "bufferize": "fusion, loops, buffers",
    "attach": "kernels that follow a product run on its rows",
    "group": "independent kernels share a parallel region",
    "rematerialize": "values computed twice, for a memory budget",
    "plan": "memory",
    "look up": "the program's key, and its code if stored",
    "write code": "loops to the target's language",
    "LLVM": "optimisation, machine code",
    "link": "machine code loaded",
    "entry": "the callable",
}
"""The phases of compiling, in order, and what happens in each."""


class Profile:
    """Times of one function; ``print`` it, or call :meth:`summary` as in Theano.

    Attributes
    ----------
    calls : int
        Calls since the function was compiled; counted only with ``profile=True``.
    call_seconds : float
        Time in these calls, without that of compiling further variants.

    Examples
    --------
    >>> import tetractys as tx
    >>> from tetractys import tensor as T
    >>> x = T.vector("x")
    >>> f = tx.function([x], x.sum(), profile=True)
    >>> for _ in range(4): result = f([1.0, 2.0])
    >>> f.profile.calls
    3
    """

    def __init__(self, function: Function):
        self._function = function
        self.calls = 0
        self.call_seconds = 0.0

    @property
    def compile_seconds(self) -> float:
        """Time spent on compiling all variants."""
        return sum(variant.seconds for variant in self._function.variants)

    def phases(self) -> list[dict[str, float]]:
        """Return the seconds of each phase of compiling, for every variant; ``other`` is the
        rest."""
        found = []
        for variant in self._function.variants:
            known = variant.stages.seconds
            phases = {name: known[name] for name in [*PHASES, *known] if name in known}
            found.append({**phases, "other": variant.seconds - sum(phases.values())})
        return found

    def counted(self, entry: Callable[..., Any]) -> Callable[..., Any]:
        """Return a callable that counts and times the calls of ``entry``."""
        def call(*args: Any, **kwargs: Any) -> Any:
            compiled, start = self.compile_seconds, time.perf_counter()
            try:
                return entry(*args, **kwargs)
            finally:
                taken = time.perf_counter() - start
                self.calls += 1
                self.call_seconds += taken - (self.compile_seconds - compiled)

        return call

    def summary(self, file: Any = None) -> None:
        """Print the table."""
        print(self, file=file)

    def __str__(self) -> str:
        variants, phases = self._function.variants, self.phases()
        lines = [f"{self._function!r}"]
        if self.calls:
            lines.append(f"{self.calls} calls, {_readable(self.call_seconds)}, "
                         f"{_readable(self.call_seconds / self.calls)} each")
        if not variants:
            return "\n".join([*lines, "not compiled yet: the first call does it"])
        lines += [f"variant {k}: {_sizes(variant)}" for k, variant in enumerate(variants, 1)]
        rows = [["", *(f"variant {k}" for k in range(1, len(variants) + 1))],
                ["code", *("from the cache" if v.stages.is_cached else "compiled"
                           for v in variants)]]
        names = dict.fromkeys(name for each in phases for name in each if name != "other")
        rows += [[name, *(_readable(each[name]) if name in each else "-" for each in phases),
                  PHASES.get(name, "")] for name in names]
        rows.append(["other", *(_readable(each["other"]) for each in phases)])
        rows.append(["total", *(_readable(variant.seconds) for variant in variants)])
        widths = [max(len(row[k]) for row in rows) for k in range(1 + len(variants))]
        for first, *cells in rows:
            numbers = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:]))
            note = "".join(cells[len(variants):])
            lines.append(f"{first.ljust(widths[0])}  {numbers}  {note}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def _sizes(variant: Variant) -> str:
    fixed: Mapping[Any, int] = variant.fixed
    return ", ".join(f"{symbol} = {size}" for symbol, size in fixed.items()) or "any sizes"


def _readable(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


__all__ = ["PHASES", "Profile"]
