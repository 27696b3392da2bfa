"""The symbolic tensors users write with, ``from tetractys import tensor as T``.

Constructors of inputs (``T.matrix('x')``), the functions of the op table (``T.exp``, ``T.dot``; see
``compiler/ops``), derivatives (``T.grad``), and ``T.nnet``.  NumPy's functions work on symbolic
variables too: ``np.exp(x)``, ``np.concatenate([x, y])``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .compiler import dtypes, ops
from .compiler.config import config
from .compiler.graph import Constant, Variable, input_variable
from .compiler.ops.op import REGISTRY, as_dtype, as_tensor, check
from .compiler.ops.public import BUILDERS
from .runtime.errors import DtypeError, ShapeError

for _module in pkgutil.iter_modules(ops.__path__):
    importlib.import_module(f"{ops.__name__}.{_module.name}")

TensorVariable = Variable
TensorConstant = Constant


def functions_of(namespace: str) -> dict[str, Callable[..., Any]]:
    """Return the public functions of a namespace (``T``, ``T.nnet``) by all their names."""
    found = {name: row.function for row in REGISTRY.values() if row.namespace == namespace
             for name in (row.name, *row.aliases)}
    return {**found, **BUILDERS.get(namespace, {})}


# -- constants and inputs --------------------------------------------------------------------------


def as_tensor_variable(x: Any, name: str | None = None, ndim: int | None = None,
                       dtype: str | None = None) -> Variable:
    """Return ``x`` as a tensor: itself, a stack of the tensors in a list, or a constant.

    Parameters
    ----------
    x : Variable, number, nested list or array
        Lists may hold symbolic tensors.
    name : str, optional
        Of a new constant.
    ndim : int, optional
        Axes of length 1 are put in front until there are so many.
    dtype : str, optional
        The result is cast to it.

    Examples
    --------
    >>> as_tensor_variable([scalar("x"), 1.0]).type.shape
    (2,)
    """
    found = as_tensor(x, dtype, name)
    if ndim is not None:
        check(found.ndim <= ndim, ShapeError, f"A tensor of {found.ndim} axes cannot have {ndim}.",
              remedy="reshape it")
        if found.ndim < ndim:
            return found.dimshuffle(["x"] * (ndim - found.ndim) + list(range(found.ndim)))
    return found


def constant(value: Any, name: str | None = None, ndim: int | None = None,
             dtype: str | None = None) -> Constant:
    """Return a tensor whose value is part of the graph.

    Parameters
    ----------
    value : number, nested list or array
    name : str, optional
    ndim : int, optional
        Axes of length 1 are put in front until there are so many.
    dtype : str, optional
        Default: that of the array; Python floats take ``floatX``.

    Examples
    --------
    >>> constant([1, 2, 3]).type
    TensorType(dtype='int64', dims=(3,))
    """
    found = as_tensor(value, dtype, name)
    if isinstance(found, Constant) and ndim is not None and ndim > found.ndim:
        return Constant(found.data.reshape((1,) * (ndim - found.ndim) + found.data.shape), name)
    return found


def tensor(dtype: str | None = None, shape: Sequence[int | None] | None = None,
           name: str | None = None, broadcastable: Sequence[bool] | None = None) -> Variable:
    """Return a new input of any rank.

    Parameters
    ----------
    dtype : str, optional
        Default: ``floatX``.
    shape : sequence of (int or None), or int
        The sizes that are known; axes of length 1 broadcast.
    name : str, optional
    broadcastable : sequence of bool, optional
        Theano's way to say it: which axes have length 1, and nothing about the others.

    Examples
    --------
    >>> tensor("float32", (None, 784), "x").type.shape
    (None, 784)
    """
    if shape is not None and len(shape) and isinstance(shape[0], (bool, np.bool_)):
        shape, broadcastable = None, shape
    check(shape is not None or broadcastable is not None, DtypeError,
          "A tensor needs a shape.", remedy="T.tensor('float32', shape=(None, 784))")
    if isinstance(shape, (int, np.integer)):
        shape = (shape,)
    return TensorType(dtype or config.floatX, broadcastable, shape)(name)


@dataclass(frozen=True)
class TensorType:
    """A declared type: calling it makes an input.

    Parameters
    ----------
    dtype : str
    broadcastable : sequence of bool
        Which axes have length 1.
    shape : sequence of (int or None), optional
        The sizes that are known; given instead of ``broadcastable``.

    Examples
    --------
    >>> column = TensorType("float64", (False, True))
    >>> column("c").broadcastable
    (False, True)
    """

    dtype: str
    broadcastable: Sequence[bool] | None = None
    shape: Sequence[int | None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", as_dtype(self.dtype))
        shape = self.shape
        if shape is None:
            shape = [1 if flag is True or flag == 1 else None for flag in self.broadcastable or ()]
        for n in shape:
            check(n is None or (isinstance(n, (int, np.integer)) and n >= 0), ShapeError,
                  "Sizes are integers of 0 or more, or None.", f"shape {tuple(shape)}",
                  "use None for sizes that are not known yet")
        object.__setattr__(self, "shape", tuple(None if n is None else int(n) for n in shape))
        object.__setattr__(self, "broadcastable", tuple(n == 1 for n in self.shape))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __call__(self, name: str | None = None) -> Variable:
        """Return a new input of this type."""
        return input_variable(self.dtype, self.shape, name)

    make_variable = __call__


# -- the named constructors ------------------------------------------------------------------------

PATTERNS: dict[str, tuple[int | None, ...]] = {
    "scalar": (), "vector": (None,), "row": (1, None), "col": (None, 1), "matrix": (None,) * 2,
    "tensor3": (None,) * 3, "tensor4": (None,) * 4, "tensor5": (None,) * 5}
"""Shape of each kind of input."""

PLURALS = {"matrix": "matrices"}
"""Plurals that do not just add an s."""


def _constructor(kind: str, prefix: str) -> Callable[..., Variable]:
    """Return ``matrix``, ``fmatrix``, ...: makes one input."""
    shape, fixed = PATTERNS[kind], dtypes.PREFIXES.get(prefix)

    def make(name: str | None = None, dtype: str | None = None) -> Variable:
        return TensorType(fixed or dtype or config.floatX, shape=shape)(name)

    make.__name__ = make.__qualname__ = prefix + kind
    make.__doc__ = f"""Return a new {kind}: an input of shape {shape} (None: any size).

    Parameters
    ----------
    name : str, optional
    dtype : str, optional
        {f'Is {fixed}.' if fixed else 'Default: ``floatX``.'}
    """
    return make


def _plural(make: Callable[..., Variable], name: str) -> Callable[..., Any]:
    """Return ``matrices``, ``fmatrices``, ...: makes several inputs."""
    def make_all(*names: str | int, dtype: str | None = None) -> Any:
        if len(names) == 1 and isinstance(names[0], int):
            names = (None,) * names[0]
        made = [make(own, dtype) for own in names]
        return made[0] if len(made) == 1 else made

    make_all.__name__ = make_all.__qualname__ = name
    make_all.__doc__ = f"""Return several inputs, each as from :func:`{make.__name__}`.

    Parameters
    ----------
    *names : str, or one int
        Their names; or how many, without names.
    dtype : str, optional

    Returns
    -------
    list of Variable
        The variable itself if it is only one, as in Theano.
    """
    return make_all


def _constructors() -> Iterable[tuple[str, Callable[..., Any]]]:
    for kind in PATTERNS:
        for prefix in ("", *dtypes.PREFIXES):
            make = _constructor(kind, prefix)
            yield make.__name__, make
            plural = prefix + PLURALS.get(kind, kind + "s")
            yield plural, _plural(make, plural)


globals().update(_constructors())
# From here on names such as ``sum``, ``max`` and ``all`` are the table's, not Python's.
globals().update(functions_of("T"))

from . import tensor_nnet as nnet  # noqa: E402,F401
from .gradient import (  # noqa: E402,F401
    Lop, Rop, consider_constant, disconnected_grad, grad, grad_clip, hessian, jacobian, verify_grad,
    zero_grad)

inf, nan, pi = np.inf, np.nan, np.pi
