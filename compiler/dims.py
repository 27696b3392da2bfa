"""Integer expressions over named symbols: the sizes of axes and the indices of loops.

A dim is a plain ``int`` or a :class:`Dim`, a polynomial with integer coefficients over *atoms*; an
atom is a :class:`Symbol` or an irreducible ``floordiv``, ``mod``, ``min`` or ``max`` of two dims.
The normal form makes equality structural: two dims are proved equal when their difference is 0.

Three questions are kept apart: :func:`proves_equal` (true for every value of the symbols), a
*guard* recorded on a graph node (checked once a call), and a hint for heuristics (never here).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import TypeAlias, Union

_serials = count()


class Symbol:
    """A named integer whose value is known only at run time.

    Parameters
    ----------
    name : str
        Shown to users; need not be unique.
    lower : int or None
        A proved lower bound; 0 for sizes and loop indices, None if it may be negative.
    extent : dim or None
        For a loop index: it is proved to be below ``extent``.
    """

    __slots__ = ("name", "lower", "extent", "serial", "key")

    def __init__(self, name: str, lower: int | None = 0, extent: DimLike | None = None):
        self.name, self.lower, self.extent = name, lower, extent
        self.serial = next(_serials)
        self.key = f"s{self.serial:012d}"

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self):
        return _restore_symbol, (repr(self), self.lower, self.extent, self.serial, _process_token())


class Call:
    """An irreducible integer function of two dims: ``floordiv``, ``mod``, ``min`` or ``max``."""

    __slots__ = ("function", "args", "key")

    def __init__(self, function: str, args: tuple[DimLike, DimLike]):
        self.function, self.args = function, args
        self.key = f"t{function}({_key(args[0])},{_key(args[1])})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        left, right = map(str, self.args)
        if self.function in _INFIX:
            return f"({left}){_INFIX[self.function]}({right})"
        return f"{self.function}({left}, {right})"

    def __reduce__(self):
        return Call, (self.function, self.args)


Atom: TypeAlias = Union[Symbol, Call]
Monomial: TypeAlias = tuple[tuple[Atom, int], ...]
_INFIX = {"floordiv": "//", "mod": "%"}
_EVALUATE = {"floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b, "min": min, "max": max}


class Dim:
    """A polynomial over atoms, in normal form.  Build it with operators from :func:`dim_symbol`.

    Examples
    --------
    >>> n = dim_symbol("n")
    >>> 2 * n + 1 - n
    n+1
    >>> (n + 1) * (n - 1) == n * n - 1
    True
    """

    __slots__ = ("terms", "symbols")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]):
        self.terms = terms
        self.symbols: frozenset[Symbol] | None = None  # ``symbols_of`` keeps its result here

    @property
    def key(self) -> str:
        """A text that only equal dims share; it orders them."""
        return "+".join(
            f"{c}*" + "*".join(f"{a.key}^{p}" for a, p in m) for m, c in self.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __reduce__(self):
        return _rebuild, (self.terms,)

    def __bool__(self) -> bool:
        raise TypeError(f"the size {self} is symbolic: it has no truth value; use proves_equal")

    def __repr__(self) -> str:
        parts = []
        for monomial, coefficient in sorted(self.terms, key=lambda t: -sum(p for _, p in t[0])):
            body = "*".join(f"{a}" if p == 1 else f"{a}**{p}" for a, p in monomial)
            sign = "-" if coefficient < 0 else "+"
            factors = [str(abs(coefficient))] if abs(coefficient) != 1 or not body else []
            parts.append(sign + "*".join([*factors, *filter(None, [body])]))
        return "".join(parts).removeprefix("+")

    def __add__(self, other: DimLike) -> DimLike:
        return _combine(self, other, 1)

    def __radd__(self, other: DimLike) -> DimLike:
        return _combine(self, other, 1)

    def __sub__(self, other: DimLike) -> DimLike:
        return _combine(self, other, -1)

    def __rsub__(self, other: int) -> DimLike:
        return _combine(self * -1, other, 1)

    def __neg__(self) -> DimLike:
        return self * -1

    def __mul__(self, other: DimLike) -> DimLike:
        if isinstance(other, int):
            if other == 0:
                return 0
            return self if other == 1 else Dim(tuple((m, c * other) for m, c in self.terms))
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                monomial = _multiply(left, right)
                total[monomial] = total.get(monomial, 0) + a * b
        return _normal(total)

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> DimLike:
        return floordiv(other, self)

    def __mod__(self, other: DimLike) -> DimLike:
        return modulo(self, other)

    def __rmod__(self, other: int) -> DimLike:
        return modulo(other, self)


DimLike: TypeAlias = Union[int, Dim]


def _key(dim: DimLike) -> str:
    return str(dim) if isinstance(dim, int) else dim.key


def _rebuild(terms: tuple[tuple[Monomial, int], ...]) -> DimLike:
    return _normal(dict(terms))


_token: list[str] = []
_restored: dict[tuple[str, int], Symbol] = {}


def _process_token() -> str:
    """Name this process, so that symbols pickled here and there keep their identities apart."""
    if not _token:
        from uuid import uuid4
        _token.append(uuid4().hex)
    return _token[0]


def _restore_symbol(name: str, lower: int | None, extent: DimLike | None, serial: int,
                    token: str) -> Symbol:
    """Unpickle a symbol; the same pickled symbol always restores to one object."""
    found = _restored.get((token, serial))
    if found is None:
        found = _restored[(token, serial)] = Symbol(name, lower, extent)
    return found


def _term_key(term: tuple[Monomial, int]) -> tuple[tuple[str, int], ...]:
    return tuple((atom.key, power) for atom, power in term[0])


def _normal(total: Mapping[Monomial, int]) -> DimLike:
    terms = [(m, c) for m, c in total.items() if c]
    if not terms:
        return 0
    if len(terms) > 1:
        terms.sort(key=_term_key)
    elif terms[0][0] == ():
        return terms[0][1]
    return Dim(tuple(terms))


def _multiply(left: Monomial, right: Monomial) -> Monomial:
    powers: dict[Atom, int] = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: item[0].key))


def _combine(left: Dim, right: DimLike, sign: int) -> DimLike:
    if isinstance(right, int):
        if right == 0:
            return left
        right_terms: Iterable[tuple[Monomial, int]] = (((), right),)
    else:
        right_terms = right.terms
    total = dict(left.terms)
    for monomial, coefficient in right_terms:
        total[monomial] = total.get(monomial, 0) + sign * coefficient
    return _normal(total)


def dim_symbol(name: str, lower: int | None = 0, extent: DimLike | None = None) -> Dim:
    """Return a dim that is one new symbol."""
    return as_dim(Symbol(name, lower, extent))


def as_dim(symbol: Atom) -> Dim:
    """Return the dim whose value is that of ``symbol``."""
    return Dim(((((symbol, 1),), 1),))


def as_symbol(dim: DimLike) -> Symbol | None:
    """Return the symbol a dim consists of, or None when it is any other expression."""
    if isinstance(dim, Dim) and len(dim.terms) == 1:
        (monomial, coefficient), = dim.terms
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            atom = monomial[0][0]
            return atom if isinstance(atom, Symbol) else None
    return None


def proves_equal(left: DimLike, right: DimLike) -> bool:
    """Return whether the two dims are equal for every value of their symbols."""
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return left == right


def proves_different(left: DimLike, right: DimLike) -> bool:
    """Return whether the two dims differ for every value of their symbols."""
    if _has_no_upper_bound(left) and _has_no_upper_bound(right):
        return False  # sizes of two inputs, most often
    difference = left - right
    if isinstance(difference, int):
        return difference != 0
    return proves_nonnegative(difference - 1) or proves_nonnegative(-difference - 1)


def _has_no_upper_bound(dim: DimLike) -> bool:
    """Return whether a dim is a symbol that may have any value from some number on."""
    symbol = as_symbol(dim)
    return symbol is not None and symbol.extent is None


def lower_bound(dim: DimLike) -> int | None:
    """Return a proved lower bound of ``dim``, or None when none is known."""
    if isinstance(dim, int):
        return dim
    bound = 0
    for monomial, coefficient in dim.terms:
        if monomial == ():
            bound += coefficient
            continue
        if coefficient < 0:
            top = _upper_atom(monomial)
            if top is None:
                return None
            bound += coefficient * top
            continue
        low = 1
        for atom, power in monomial:
            atom_low = _lower_atom(atom)
            if atom_low is None or atom_low < 0:
                return None
            low *= atom_low ** power
        bound += coefficient * low
    return bound


def _lower_atom(atom: Atom) -> int | None:
    if isinstance(atom, Symbol):
        return atom.lower
    left, right = (lower_bound(arg) for arg in atom.args)
    if atom.function == "max":
        known = [b for b in (left, right) if b is not None]
        return max(known) if known else None
    if atom.function == "min":
        return None if left is None or right is None else min(left, right)
    if atom.function == "mod":
        return 0 if right is not None and right > 0 else None
    nonnegative = left is not None and left >= 0 and right is not None and right > 0
    return 0 if nonnegative else None


def _upper_atom(monomial: Monomial) -> int | None:
    """Return a constant upper bound of a monomial that is a single bounded loop index."""
    if len(monomial) == 1 and monomial[0][1] == 1 and isinstance(monomial[0][0], Symbol):
        extent = monomial[0][0].extent
        return extent - 1 if isinstance(extent, int) else None
    return None


def proves_nonnegative(dim: DimLike) -> bool:
    """Return whether ``dim >= 0`` for every value of its symbols.

    Loop indices are replaced by their largest value where their coefficient is negative, so
    ``n - 1 - i`` is proved non-negative for a loop index ``i < n``.
    """
    bound = lower_bound(dim)
    if bound is not None and bound >= 0:
        return True
    if isinstance(dim, int):
        return False
    for monomial, coefficient in dim.terms:
        if coefficient < 0 and len(monomial) >= 1:
            for atom, power in monomial:
                if isinstance(atom, Symbol) and atom.extent is not None and power == 1:
                    rest = dim - as_dim(atom) * _without(monomial, atom, coefficient)
                    top = (atom.extent - 1) * _without(monomial, atom, coefficient)
                    return proves_nonnegative(rest + top)
                if isinstance(atom, Call) and atom.function == "min" and power == 1 \
                        and len(monomial) == 1:
                    rest = dim - as_dim(atom) * coefficient
                    return any(proves_nonnegative(rest + arg * coefficient) for arg in atom.args)
    return False


def _without(monomial: Monomial, atom: Atom, coefficient: int) -> DimLike:
    remaining = tuple((a, p) for a, p in monomial if a is not atom)
    return _normal({remaining: coefficient})


def floordiv(left: DimLike, right: DimLike) -> DimLike:
    """Return ``left // right``, rounding towards minus infinity; ``right`` must not be 0."""
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    if right == 1:
        return left
    quotient, remainder = _divide(left, right)
    if isinstance(remainder, int) and isinstance(right, int):
        return quotient + remainder // right
    if proves_nonnegative(remainder) and proves_nonnegative(right - remainder - 1):
        return quotient
    return quotient + as_dim(Call("floordiv", (remainder, right)))


def ceildiv(left: DimLike, right: DimLike) -> DimLike:
    """Return the quotient rounded up."""
    return floordiv(left + right - 1, right)


def modulo(left: DimLike, right: DimLike) -> DimLike:
    """Return ``left % right``, with the sign of ``right``, which must not be 0."""
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    if right == 1:
        return 0
    _, remainder = _divide(left, right)
    if isinstance(remainder, int) and isinstance(right, int):
        return remainder % right
    if remainder == 0 or (proves_nonnegative(remainder)
                          and proves_nonnegative(right - remainder - 1)):
        return remainder
    return as_dim(Call("mod", (remainder, right)))


def _divide(left: DimLike, right: DimLike) -> tuple[DimLike, DimLike]:
    """Split ``left == quotient * right + remainder`` by the terms that divide exactly."""
    if isinstance(left, int):
        return 0, left
    if isinstance(right, int):
        divisor: Monomial = ()
        scale = right
    elif len(right.terms) == 1:
        (divisor, scale), = right.terms
    else:
        return (1, 0) if left == right else (0, left)
    quotient: dict[Monomial, int] = {}
    for monomial, coefficient in left.terms:
        powers = dict(monomial)
        if coefficient % scale == 0 and all(powers.get(a, 0) >= p for a, p in divisor):
            for atom, power in divisor:
                powers[atom] -= power
            rest = tuple((a, p) for a, p in powers.items() if p)
            quotient[rest] = coefficient // scale
    result = _normal(quotient)
    return result, left - result * right


def minimum(left: DimLike, right: DimLike) -> DimLike:
    """Return the smaller of two dims."""
    return _extremum("min", left, right)


def maximum(left: DimLike, right: DimLike) -> DimLike:
    """Return the larger of two dims."""
    return _extremum("max", left, right)


def _extremum(function: str, left: DimLike, right: DimLike) -> DimLike:
    if isinstance(left, int) and isinstance(right, int):
        return _EVALUATE[function](left, right)
    larger, smaller = (left, right) if function == "max" else (right, left)
    difference = larger - smaller
    if proves_nonnegative(difference):
        return left
    if proves_nonnegative(-difference):
        return right
    first, second = sorted((left, right), key=_key)
    return as_dim(Call(function, (first, second)))


_FUNCTIONS = {"floordiv": floordiv, "mod": modulo, "min": minimum, "max": maximum}


def prod(dims: Iterable[DimLike]) -> DimLike:
    """Return the product of dims; 1 for none."""
    result: DimLike = 1
    for dim in dims:
        result = result * dim
    return result


_NO_SYMBOLS: frozenset[Symbol] = frozenset()


def symbols_of(dim: DimLike) -> frozenset[Symbol]:
    """Return the symbols a dim depends on."""
    if isinstance(dim, int):
        return _NO_SYMBOLS
    if dim.symbols is None:
        found: set[Symbol] = set()
        for monomial, _ in dim.terms:
            for atom, _ in monomial:
                if isinstance(atom, Symbol):
                    found.add(atom)
                else:
                    found |= symbols_of(atom.args[0]) | symbols_of(atom.args[1])
        dim.symbols = frozenset(found)
    return dim.symbols


def substitute(dim: DimLike, values: Mapping[Symbol, DimLike]) -> DimLike:
    """Replace symbols by dims; symbols without a value stay."""
    return _fold(dim, lambda symbol: values[symbol] if symbol in values else as_dim(symbol))


def evaluate(dim: DimLike, values: Mapping[Symbol, int]) -> int:
    """Return the integer value of ``dim``.

    Raises
    ------
    KeyError
        If a symbol has no value.
    """
    result = _fold(dim, lambda symbol: values[symbol])
    assert isinstance(result, int)
    return result


def _fold(dim: DimLike, leaf: Callable[[Symbol], DimLike]) -> DimLike:
    if isinstance(dim, int):
        return dim
    total: DimLike = 0
    for monomial, coefficient in dim.terms:
        product: DimLike = coefficient
        for atom, power in monomial:
            if isinstance(atom, Symbol):
                value = leaf(atom)
            else:
                value = _FUNCTIONS[atom.function](*(_fold(arg, leaf) for arg in atom.args))
            for _ in range(power):
                product = product * value
        total = total + product
    return total
