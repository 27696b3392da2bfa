"""How public functions enter the table: as the function of a row, or as a builder of graphs.

A *row function* has a Python signature of its own and calls its row; a *builder* is no row: it is a
few lines over other public functions, which rewrite rules then see through.  Both are found by name
in ``FUNCTIONS``; builders are listed in :data:`BUILDERS` for the namespaces and the documentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...runtime.artifact import InternalError
from ..operators import FUNCTIONS
from .op import Op, register

BUILDERS: dict[str, dict[str, Callable[..., Any]]] = {}
"""Builders by namespace (``T``, ``T.nnet``, or empty for internal ones) and name."""


def row(function: Callable[..., Any], name: str | None = None, **fields: Any) -> Op:
    """Register a row whose public function, name and documentation are those of ``function``."""
    return register(Op(name=name or function.__name__, function=function,
                       doc=inspect.getdoc(function) or "", **fields))


def builder(namespace: str = "T", *aliases: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that lists a function as a builder, also under ``aliases``.

    Raises
    ------
    InternalError
        If a name is taken or the function has no documentation.
    """
    def enlist(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in (function.__name__, *aliases):
            if name in FUNCTIONS or not inspect.getdoc(function):
                raise InternalError(f"builder {name!r} is refused: taken or undocumented")
            BUILDERS.setdefault(namespace, {})[name] = FUNCTIONS[name] = function
        return function
    return enlist
