"""Tetractys: symbolic expressions compiled to native code, in the style of Theano.

>>> import tetractys as tx
>>> from tetractys import tensor as T
>>> x = T.vector("x")
>>> y = T.log(1 + T.exp(x)).sum()
>>> f = tx.function([x], [y, tx.grad(y, x)])
>>> f([0.0])
[array(0.69314718), array([0.5])]

``tensor`` (``T``) has the symbolic tensors, ``layers`` and its neighbours ``init``,
``nonlinearities``, ``objectives``, ``regularization`` and ``updates`` the networks.
"""

from __future__ import annotations

if __name__ != "tetractys":
    raise ImportError("import tetractys, not frontend")

import importlib
from types import ModuleType

from . import tensor
from .compiler.config import config
from .compiler.graph import Variable
from .control import map
from .function import Function, function
from .gradient import (
    Lop, Rop, grad, hessian, hessian_vector_product, jacobian, subgraph_grad, verify_grad)
from .graph import clone
from .printing import debugprint, pp
from .runtime.errors import (
    ArgumentError, CallError, CompileError, DtypeError, GradientError, IndexOutOfRangeError,
    InternalError, ShapeError, TetractysError)
from .shared import SharedVariable, shared
from .specification import In, Out
from .threads import get_num_threads, set_num_threads

__all__ = [
    "ArgumentError", "CallError", "CompileError", "DtypeError", "Function", "GradientError",
    "In", "IndexOutOfRangeError", "InternalError", "Lop", "Out", "Rop", "ShapeError",
    "SharedVariable", "TetractysError", "Variable", "clone", "config", "debugprint", "function",
    "get_num_threads", "grad", "hessian", "hessian_vector_product", "jacobian", "map", "pp",
    "set_num_threads", "shared", "subgraph_grad", "tensor", "verify_grad",
]

__version__ = "0.1.0"

_SUBMODULES = ("debug", "init", "layers", "nonlinearities", "objectives", "random",
               "regularization", "updates")


def __getattr__(name: str) -> ModuleType:
    """Import a submodule at its first use: ``tx.layers`` needs no import statement of its own."""
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
