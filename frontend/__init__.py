"""Tetractys: symbolic expressions compiled to native code.

>>> import tetractys as tx
>>> from tetractys import tensor as T
"""

if __name__ != "tetractys":
    raise ImportError("import tetractys, not frontend")

from .compiler.config import config
from .function import Function, In, function
from .shared import SharedVariable, shared

__all__ = ["Function", "In", "SharedVariable", "config", "function", "shared"]
