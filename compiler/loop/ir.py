"""The loop language: what a kernel does, element by element.  Its whole grammar is this page.

::

    statement  =  For(index, extent, body, mark)         run body for index = 0 .. extent-1
               |  If(condition, body)
               |  Store(buffer, position, value)         buffer[position] = value
               |  Accumulate(target, combine, value)     target = combine(target, value)
               |  Let(target, value)                     name a scalar, or bind an integer symbol
               |  Check(condition, code, value)          report error `code` unless condition
               |  Barrier(scope)                         wait for the threads of the block or warp
               |  Shuffle(target, source, distance)      name the source of a thread of the warp
    mark       =  serial | parallel | vector | unroll | block | thread
    expression =  Const(value)  |  Index(dim)  |  Load(buffer, position)  |  Local
               |  Scalar(name, arguments)                a row of compiler/loop/scalar.py, or a
                                                         function of compiler/loop/math.py

*Positions* are tuples of dims (``compiler/dims.py``): integer polynomials over size symbols, loop
indices, and integer symbols bound by ``Let`` (an index that was itself loaded from memory).  Every
buffer is contiguous and row-major, so a position and the buffer's dims give the address.

Iterations of a ``parallel`` loop may run in any order on any thread; ``vector`` states that no
iteration reads what another one writes except through ``Accumulate`` to a ``Local``, whose order of
combination is then free (but fixed for given sizes: it never depends on the number of threads).

A nest that is *scheduled* for many small cores is ``for .. block: for .. thread: body``, with one
or two ``thread`` loops of constant extent.  All iterations of its ``thread`` loops run at once and
may meet: at a ``Barrier``, which all of a block (or of a warp: the innermost ``thread`` loop, whose
extent is then 32) must reach together, and in a ``Shuffle``, which gives each thread of a warp the
value that the thread whose number differs in the bits of ``distance`` holds.  A buffer of role
``scratch`` is memory of the block, one of role ``register`` belongs to each thread.

A ``Load`` outside its buffer's bounds is a fault of the compiler; a user's index is clamped by the
expression that computes it, and reported by ``Check``, so no input reads out of bounds.

Nodes compare by identity.  Expressions are shared (a DAG): whoever walks them memoises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, Union

from ..dims import DimLike, Symbol

Mark: TypeAlias = Literal["serial", "parallel", "vector", "unroll", "block", "thread"]
Combine: TypeAlias = Literal["add", "mul", "minimum", "maximum", "and", "or"]


@dataclass(eq=False, slots=True)
class Buffer:
    """A contiguous row-major array a kernel or step reads or writes.

    Attributes
    ----------
    name : str
        For printing.
    dtype : str
    dims : tuple of dim
        Its shape.
    role : str
        ``input``, ``output``, ``shared``, ``constant`` or ``temporary``; inside a scheduled nest
        also ``scratch`` or ``register``, of constant dims and without content at first.
    base : Buffer or None
        The buffer whose memory this one is (same number of elements, other shape): a reshape.
    """

    name: str
    dtype: str
    dims: tuple[DimLike, ...]
    role: Literal["input", "output", "shared", "constant", "temporary", "scratch",
                  "register"] = "temporary"
    base: Buffer | None = None

    def root(self) -> Buffer:
        """Return the buffer that owns the memory."""
        buffer = self
        while buffer.base is not None:
            buffer = buffer.base
        return buffer

    def __repr__(self) -> str:
        return f"{self.name}:{self.dtype}{list(self.dims)}"


@dataclass(frozen=True, eq=False, slots=True)
class Const:
    """A literal: bool, int or float (NaN and infinities included) of ``dtype``."""

    value: bool | int | float
    dtype: str


@dataclass(frozen=True, eq=False, slots=True)
class Index:
    """The value of an integer dim, as an int64 scalar."""

    dim: DimLike
    dtype: str = "int64"


@dataclass(frozen=True, eq=False, slots=True)
class Load:
    """An element of a buffer."""

    buffer: Buffer
    position: tuple[DimLike, ...]

    @property
    def dtype(self) -> str:
        """The buffer's dtype."""
        return self.buffer.dtype


@dataclass(frozen=True, eq=False, slots=True)
class Local:
    """A scalar named by ``Let``; mutable only through ``Accumulate``."""

    name: str
    dtype: str


@dataclass(frozen=True, eq=False, slots=True)
class Scalar:
    """A scalar operation on expressions: a primitive (a row of ``scalar.SCALARS``) or a call of a
    function of ``math.py``, which every target defines once from its expression."""

    name: str
    args: tuple[Expr, ...]
    dtype: str


Expr: TypeAlias = Union[Const, Index, Load, Local, Scalar]


@dataclass(frozen=True, eq=False, slots=True)
class For:
    """Run ``body`` for ``index`` from 0 to ``extent - 1``."""

    index: Symbol
    extent: DimLike
    body: tuple[Stmt, ...]
    mark: Mark = "serial"


@dataclass(frozen=True, eq=False, slots=True)
class If:
    """Run ``body`` when the bool expression ``condition`` holds."""

    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Store:
    """``buffer[position] = value``; dtypes are equal."""

    buffer: Buffer
    position: tuple[DimLike, ...]
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Accumulate:
    """``target = combine(target, value)`` for a local or a buffer's element."""

    target: Local | Load
    combine: Combine
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Let:
    """Name the value of an expression; a ``Symbol`` target binds an int64 for use in positions."""

    target: Local | Symbol
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Check:
    """Report error ``code`` (and the int64 ``value``) unless the bool ``condition`` holds.

    The kernel goes on; the call fails after it, before any shared variable changes.
    """

    condition: Expr
    code: int
    value: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Barrier:
    """Wait until all threads of the ``block`` or ``warp`` are here; all see what they wrote."""

    scope: Literal["block", "warp"] = "block"


@dataclass(frozen=True, eq=False, slots=True)
class Shuffle:
    """Name the value that ``source`` has in the thread of the warp number ``own ^ distance``."""

    target: Local
    source: Local
    distance: int


Stmt: TypeAlias = Union[For, If, Store, Accumulate, Let, Check, Barrier, Shuffle]


@dataclass(frozen=True, eq=False, slots=True)
class Nest:
    """A kernel's body with its name, for printing, verifying, interpreting and emitting."""

    name: str
    body: tuple[Stmt, ...]
    cost: float = field(default=1.0)
    """Estimated scalar operations of one iteration of the innermost statements."""
