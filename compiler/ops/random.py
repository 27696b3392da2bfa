"""Random numbers: pure functions of a state, by counting (Philox 4x32-10).

The generator has no hidden state.  A *state* is the uint64 vector ``(key, draw)``: element number
``i`` of the draw is a word of Philox with the key ``key`` at the counter ``(i, draw)``, so it
depends neither on how many threads or lanes compute it nor on the shape of the result.

References
----------
Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact import DtypeError, ShapeError
from .. import dtypes
from ..dims import DimLike
from ..graph import Apply, Constant, SizeGuard, TensorType, Variable, describe, dim_of
from ..loop import scalar
from ..operators import FUNCTIONS
from .op import (
    ArrayLike, IndexLowering, Inferred, NoDerivative, Sample, as_tensor, check)
from .public import builder, row
from .sizes import as_sizes, size_guards

if TYPE_CHECKING:
    from ..loop.ir import Expr

# -- the generator in NumPy ------------------------------------------------------------------------

def philox(counter: tuple[np.ndarray, ...], key: tuple[np.ndarray, np.ndarray]
           ) -> tuple[np.ndarray, ...]:
    """Return the four uint32 words of Philox 4x32-10.

    Parameters
    ----------
    counter : four uint32 arrays
    key : two uint32 arrays
    """
    from ..loop.random_bits import MULTIPLIERS, ROUNDS, WEYL
    half = np.uint64(32)
    multipliers = [np.uint64(m) for m in MULTIPLIERS]
    c = [np.asarray(word, "uint32") for word in counter]
    k = [np.asarray(word, "uint32") for word in key]
    with np.errstate(over="ignore"):
        for _ in range(ROUNDS):
            first, second = (m * word.astype("uint64")
                             for m, word in zip(multipliers, (c[0], c[2])))
            high = [(p >> half).astype("uint32") for p in (first, second)]
            low = [p.astype("uint32") for p in (first, second)]
            c = [high[1] ^ c[1] ^ k[0], low[1], high[0] ^ c[3] ^ k[1], low[0]]
            k = [word + np.uint32(step) for word, step in zip(k, WEYL)]
    return tuple(c)


def _words(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    number = np.asarray(number, "uint64")
    return number.astype("uint32"), (number >> np.uint64(32)).astype("uint32")


# -- the row ---------------------------------------------------------------------------------------


def random_bits(state: Variable, shape: Any, word: int = 0) -> Variable:
    """Return random bits: each element an independent, uniform uint32.

    Parameters
    ----------
    state : (2,) uint64
        Key, and number of the draw.
    shape : int, sequence of sizes, or integer vector
    word : int
        Which of the four independent words of a draw.
    """
    return _RANDOM_BITS(as_tensor(state), *as_sizes(shape, "random_bits"), word=word)


def _infer_random_bits(state: Variable, *sizes: Variable, word: int) -> Inferred:
    check(state.ndim == 1 and state.dtype == "uint64", DtypeError,
          "random_bits: the state is a uint64 vector.", f"{describe(state)} {state.type}")
    check(word in range(4), ShapeError, f"random_bits: there is no word {word}.")
    dims = tuple(dim_of(entry) for entry in sizes)
    guards = size_guards(sizes, dims, "random_bits")
    length = state.type.dims[0]
    what = "random_bits: the state has two elements, key and draw."
    check(not isinstance(length, int) or length == 2, ShapeError, what,
          f"{describe(state)} {state.type}")
    if length != 2:
        guards.append(SizeGuard(length, 2, (state, 0), (state, 0), what))
    return [TensorType("uint32", dims)], guards


def _reference_random_bits(state: np.ndarray, *sizes: np.ndarray, word: int) -> np.ndarray:
    shape = tuple(int(entry) for entry in sizes)
    element = np.arange(math.prod(shape), dtype="uint64").reshape(shape)
    return philox((*_words(element), *_words(state[1])), _words(state[0]))[word]


def _lower_random_bits(context: Any, index: tuple[DimLike, ...], node: Apply) -> Expr:
    from ..loop.random_bits import philox4x32
    element: DimLike = 0
    for position, size in zip(index, node.output.type.dims):
        element = element * size + position
    flat = scalar.apply("cast", scalar.index(element), dtype="uint64")
    key, draw = context.read(0, (0,)), context.read(0, (1,))
    return philox4x32((*_halves(flat), *_halves(draw)), _halves(key))[node.params["word"]]


def _halves(number: Expr) -> tuple[Expr, Expr]:
    high = scalar.apply("shr", number, scalar.const(32, "uint64"))
    return scalar.apply("cast", number, dtype="uint32"), scalar.apply("cast", high, dtype="uint32")


_STATE = np.array([0x0123456789ABCDEF, 7], "uint64")
_RANDOM_BITS = row(
    random_bits, kind="structured", infer=_infer_random_bits, reference=_reference_random_bits,
    derivative=NoDerivative("random bits are integers"), lower=IndexLowering(_lower_random_bits),
    namespace="", section="Random numbers", samples=(
        Sample((), ((),), lambda f: f(Constant(_STATE), (2, 3)),
               lambda: _reference_random_bits(_STATE, 2, 3, word=0)),
        Sample((), ((),), lambda f: f(Constant(_STATE), (), word=3),
               lambda: _reference_random_bits(_STATE, word=3)),
        Sample((), ((),), lambda f: f(Constant(_STATE), (0, 2)),
               lambda: np.zeros((0, 2), "uint32"))))

# -- distributions ---------------------------------------------------------------------------------


def _float_dtype(op_name: str, dtype: str) -> str:
    check(dtype in dtypes.FLOATS, DtypeError, f"{op_name}: the result cannot be {dtype}.",
          remedy="draw float32 or float64, then cast")
    return dtype


def _unit(state: Variable, shape: Any, dtype: str, half: int = 0) -> Variable:
    """Return numbers in [0, 1): multiples of 2**-24 (float32) or 2**-53 (float64).

    ``half`` is 0 or 1: a draw has enough bits for two independent numbers an element.
    """
    if dtype == "float32":
        return FUNCTIONS["mul"](_digits(state, shape, half, 24, dtype), 2.0 ** -24)
    high = _digits(state, shape, 2 * half, 27, dtype)
    low = _digits(state, shape, 2 * half + 1, 26, dtype)
    return FUNCTIONS["mul"](FUNCTIONS["add"](FUNCTIONS["mul"](high, 2.0 ** 26), low), 2.0 ** -53)


def _digits(state: Variable, shape: Any, word: int, count: int, dtype: str) -> Variable:
    """Return ``count`` random bits as a float; by way of int32, which converts fastest."""
    shift = Constant(np.uint32(32 - count))
    bits = FUNCTIONS["right_shift"](random_bits(state, shape, word), shift)
    return FUNCTIONS["cast"](FUNCTIONS["cast"](bits, "int32"), dtype)


@builder("")
def random_uniform(state: Variable, shape: Any, low: ArrayLike = 0.0, high: ArrayLike = 1.0,
                   dtype: str = "float64") -> Variable:
    """Return uniform numbers from ``[low, high)``: ``low + (high - low) * u``.

    Parameters
    ----------
    state : (2,) uint64
    shape : sequence of sizes
    low, high : tensors that broadcast to ``shape``
    dtype : str
        ``float32`` (24 random bits) or ``float64`` (53).
    """
    u = _unit(state, shape, _float_dtype("uniform", dtype))
    low, high = as_tensor(low, dtype), as_tensor(high, dtype)
    return FUNCTIONS["add"](FUNCTIONS["mul"](u, FUNCTIONS["sub"](high, low)), low)


@builder("")
def random_normal(state: Variable, shape: Any, avg: ArrayLike = 0.0, std: ArrayLike = 1.0,
                  dtype: str = "float64") -> Variable:
    """Return normal numbers: ``avg + std * sqrt(-2 log(1 - u)) cos(2 pi v)``.

    Parameters
    ----------
    state : (2,) uint64
    shape : sequence of sizes
    avg, std : tensors that broadcast to ``shape``
        Mean and standard deviation; gradients flow to them.
    dtype : str
        ``float32`` or ``float64``.

    Notes
    -----
    The tails end at 5.7 (float32) or 8.5 (float64) standard deviations, where ``u`` is largest.

    References
    ----------
    Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    F = FUNCTIONS
    _float_dtype("normal", dtype)
    u, v = (_unit(state, shape, dtype, half) for half in (0, 1))
    radius = F["sqrt"](F["mul"](F["log"](F["sub"](1.0, u)), -2.0))
    unit = F["mul"](radius, F["cos"](F["mul"](v, 2.0 * math.pi)))
    return F["add"](F["mul"](unit, as_tensor(std, dtype)), as_tensor(avg, dtype))


@builder("")
def random_binomial(state: Variable, shape: Any, n: int = 1, p: ArrayLike = 0.5,
                    dtype: str = "int64") -> Variable:
    """Return numbers of successes in ``n`` trials of probability ``p``.

    Parameters
    ----------
    state : (2,) uint64
    shape : sequence of sizes
    n : int
        The cost grows with it: each trial is drawn.
    p : tensor that broadcasts to ``shape``
    dtype : str
        Of the result.
    """
    check(isinstance(n, (int, np.integer)) and n >= 1, DtypeError,
          "binomial: the number of trials must be a known positive integer.", repr(n))
    p = as_tensor(p)
    kind = dtypes.computed(p.dtype) if dtypes.is_float(p.dtype) else "float64"
    sizes = as_sizes(shape, "binomial")
    if n == 1:
        return FUNCTIONS["cast"](FUNCTIONS["lt"](_unit(state, sizes, kind), p), dtype)
    trials = _unit(state, [Constant(np.int64(n)), *sizes], kind)
    successes = FUNCTIONS["cast"](FUNCTIONS["lt"](trials, p), dtype)
    return FUNCTIONS["sum"](successes, axis=0, dtype=dtype)


@builder("")
def random_integers(state: Variable, shape: Any, low: ArrayLike, high: ArrayLike,
                    dtype: str = "int64") -> Variable:
    """Return uniform integers from ``[low, high)``.

    Parameters
    ----------
    state : (2,) uint64
    shape : sequence of sizes
    low, high : integer tensors that broadcast to ``shape``
    dtype : str
        Of the result.

    Notes
    -----
    ``low + floor(u * (high - low))`` with 53 random bits: probabilities deviate from equality by
    less than ``(high - low) * 2**-53``, relatively.
    """
    F = FUNCTIONS
    low, high = as_tensor(low, "int64"), as_tensor(high, "int64")
    span = F["cast"](F["sub"](high, low), "float64")
    steps = F["cast"](F["floor"](F["mul"](_unit(state, shape, "float64"), span)), "int64")
    return F["cast"](F["add"](low, steps), dtype)
