"""Python's operators and NumPy-style methods on variables, as calls of the op table's functions.

The table registers its public functions in :data:`FUNCTIONS`; nothing here knows what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .numpy_names import call_function, call_ufunc

if TYPE_CHECKING:
    from .graph import Variable

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Public function of each op, by the op's name."""


def _binary(name: str) -> Callable[[Any, Any], Any]:
    def operator(self, other):
        return FUNCTIONS[name](self, other)
    operator.__doc__ = f"Return ``{name}(self, other)``, broadcasting."
    return operator


def _reflected(name: str) -> Callable[[Any, Any], Any]:
    def operator(self, other):
        return FUNCTIONS[name](other, self)
    operator.__doc__ = f"Return ``{name}(other, self)``, broadcasting."
    return operator


def _unary(name: str) -> Callable[[Any], Any]:
    def operator(self):
        return FUNCTIONS[name](self)
    operator.__doc__ = f"Return ``{name}(self)``."
    return operator


def _reduction(name: str) -> Callable[..., Any]:
    def method(self, axis=None, **options):
        return FUNCTIONS[name](self, axis=axis, **options)
    method.__doc__ = f"Return ``{name}(self, axis, ...)``; see ``T.{name}``."
    return method


class Operators:
    """What a variable can do without naming a function."""

    __slots__ = ()
    __array_priority__ = 1000

    __add__, __radd__ = _binary("add"), _reflected("add")
    __sub__, __rsub__ = _binary("sub"), _reflected("sub")
    __mul__, __rmul__ = _binary("mul"), _reflected("mul")
    __truediv__, __rtruediv__ = _binary("true_div"), _reflected("true_div")
    __floordiv__, __rfloordiv__ = _binary("floordiv"), _reflected("floordiv")
    __mod__, __rmod__ = _binary("mod"), _reflected("mod")
    __pow__, __rpow__ = _binary("pow"), _reflected("pow")
    __and__, __rand__ = _binary("and_"), _reflected("and_")
    __or__, __ror__ = _binary("or_"), _reflected("or_")
    __xor__, __rxor__ = _binary("xor"), _reflected("xor")
    __lshift__, __rlshift__ = _binary("left_shift"), _reflected("left_shift")
    __rshift__, __rrshift__ = _binary("right_shift"), _reflected("right_shift")
    __matmul__, __rmatmul__ = _binary("matmul"), _reflected("matmul")
    __lt__, __le__ = _binary("lt"), _binary("le")
    __gt__, __ge__ = _binary("gt"), _binary("ge")
    __neg__, __abs__, __invert__ = _unary("neg"), _unary("abs_"), _unary("invert")
    __ceil__, __floor__ = _unary("ceil"), _unary("floor")

    sum, prod, mean = _reduction("sum"), _reduction("prod"), _reduction("mean")
    var, std = _reduction("var"), _reduction("std")
    max, min = _reduction("max"), _reduction("min")
    argmax, argmin = _reduction("argmax"), _reduction("argmin")
    all, any = _reduction("all"), _reduction("any")

    # Equality is identity, as in Theano (variables are dictionary keys); ``T.eq`` compares values.

    def __pos__(self):
        """Return ``self``."""
        return self

    def __divmod__(self, other):
        """Return ``(self // other, self % other)``."""
        return self // other, self % other

    def __bool__(self) -> bool:
        raise TypeError(
            "A symbolic variable has no truth value: its value is known only at run time.\n"
            "  remedy: use T.switch for a symbolic choice, T.and_/T.or_ (or & and |) for logic, "
            "T.eq for equality, and `is None` to test for absence")

    def __len__(self) -> int:
        dims = self.type.dims
        if not dims:
            raise TypeError("len() of a 0-dimensional variable")
        if isinstance(dims[0], int):
            return dims[0]
        raise TypeError(
            f"The length of {self!r} is known only at run time.\n  remedy: use x.shape[0]")

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Variable:
        return FUNCTIONS["getitem"](self, index)

    @property
    def shape(self) -> Variable:
        """The sizes, as an int64 vector; ``x.shape[0]`` needs no value of ``x``."""
        return FUNCTIONS["shape"](self)

    @property
    def size(self) -> Variable:
        """The number of elements, an int64 scalar."""
        return FUNCTIONS["prod"](FUNCTIONS["shape"](self))

    @property
    def T(self) -> Variable:
        """The transpose: axes in reverse order."""
        return FUNCTIONS["transpose"](self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Return ``np.exp(self)``, ``array * self`` and the like as graphs."""
        return call_ufunc(FUNCTIONS, ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        """Return ``np.concatenate([self, other])``, ``np.sum(self)`` and the like as graphs."""
        return call_function(FUNCTIONS, function, args, options)

    def astype(self, dtype: str) -> Variable:
        """Return ``cast(self, dtype)``."""
        return FUNCTIONS["cast"](self, dtype)

    def dot(self, other: Any) -> Variable:
        """Return ``dot(self, other)``."""
        return FUNCTIONS["dot"](self, other)

    def clip(self, low: Any, high: Any) -> Variable:
        """Return ``clip(self, low, high)``."""
        return FUNCTIONS["clip"](self, low, high)

    def reshape(self, *shape: Any, ndim: int | None = None) -> Variable:
        """Return ``reshape(self, shape)``; the shape is a tuple or separate arguments."""
        target = shape[0] if len(shape) == 1 and not _is_size(shape[0]) else shape
        return FUNCTIONS["reshape"](self, target, ndim=ndim)

    def flatten(self, ndim: int = 1) -> Variable:
        """Return ``flatten(self, ndim)``."""
        return FUNCTIONS["flatten"](self, ndim)

    def dimshuffle(self, *pattern: Any) -> Variable:
        """Return ``dimshuffle(self, pattern)``: axes by number, ``'x'`` for a new one."""
        target = pattern[0] if len(pattern) == 1 and isinstance(pattern[0], (tuple, list)) \
            else pattern
        return FUNCTIONS["dimshuffle"](self, target)

    def transpose(self, *axes: int) -> Variable:
        """Return ``transpose(self, axes)``."""
        target = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return FUNCTIONS["transpose"](self, target or None)

    def repeat(self, repeats: Any, axis: int | None = None) -> Variable:
        """Return ``repeat(self, repeats, axis)``."""
        return FUNCTIONS["repeat"](self, repeats, axis)

    def ravel(self) -> Variable:
        """Return ``flatten(self)``."""
        return FUNCTIONS["flatten"](self, 1)

    def copy(self) -> Variable:
        """Return ``copy(self)``: a new variable of the same value."""
        return FUNCTIONS["copy"](self)

    __copy__ = copy

    def round(self) -> Variable:
        """Return ``round(self)``, halves to the even integer."""
        return FUNCTIONS["round"](self)

    __round__ = round

    def squeeze(self, axis: Any = None) -> Variable:
        """Return ``squeeze(self, axis)``: without the axes known to have length 1."""
        return FUNCTIONS["squeeze"](self, axis)

    def swapaxes(self, axis1: int, axis2: int) -> Variable:
        """Return ``swapaxes(self, axis1, axis2)``."""
        return FUNCTIONS["swapaxes"](self, axis1, axis2)

    def take(self, indices: Any, axis: int | None = None) -> Variable:
        """Return ``take(self, indices, axis)``."""
        return FUNCTIONS["take"](self, indices, axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Variable:
        """Return ``diagonal(self, offset, axis1, axis2)``."""
        return FUNCTIONS["diagonal"](self, offset, axis1, axis2)

    def trace(self) -> Variable:
        """Return ``trace(self)``, the sum of the main diagonal."""
        return FUNCTIONS["trace"](self)

    def eval(self, inputs_to_values: Any = None) -> Any:
        """Return the value, compiling on first use: ``(x + 1).eval({x: 2.0})``."""
        return FUNCTIONS["eval"](self, inputs_to_values)

    def norm(self, L: float, axis: Any = None) -> Variable:
        """Return the ``L``-norm over ``axis``: ``(sum |x|**L)**(1/L)``."""
        magnitude = FUNCTIONS["abs_"](self)
        if L == float("inf"):
            return FUNCTIONS["max"](magnitude, axis=axis)
        return FUNCTIONS["sum"](magnitude ** L, axis=axis) ** (1.0 / L)


def _is_size(value: Any) -> bool:
    """Return whether one positional shape argument is a single size, not a tuple or vector."""
    return isinstance(value, int) or getattr(value, "ndim", None) == 0
