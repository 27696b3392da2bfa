"""Our quickly made dataclasses behave as the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from tetractys.runtime.dataclass import dataclass


def make(decorator: Callable[..., Any], **options: bool) -> type:
    """Return a class with every kind of field."""
    @decorator(**options)
    class Sample:
        """A sample."""

        first: int
        second: object = "two"
        third: list = field(default_factory=list)
        hidden: int = field(default=4, repr=False, compare=False)

    return Sample


OPTIONS = [dict(frozen=frozen, slots=slots, eq=eq)
           for frozen in (False, True) for slots in (False, True) for eq in (False, True)]
both = pytest.mark.parametrize("options", OPTIONS, ids=str)


@dataclass(frozen=True, slots=True)
class Pair:
    """Of the module, so that it can be pickled."""

    left: int
    right: tuple = ()


@dataclass(frozen=True, slots=True)
class Single:
    """One field."""

    only: object


class Named(Pair):
    """A subclass with an attribute of its own."""

    __slots__ = ("name",)


def outcome(run: Callable[[], Any]) -> Any:
    """Return a result, or the class of the error."""
    try:
        return run()
    except Exception as error:
        return type(error)


@both
def test_as_the_standard_library(options):
    ours, theirs = make(dataclass, **options), make(dataclasses.dataclass, **options)
    for cls in (ours, theirs):
        cls.__qualname__ = "Sample"
    assert [str(f) for f in dataclasses.fields(ours)] == [
        str(f) for f in dataclasses.fields(theirs)]
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
    found = []
    for cls in (ours, theirs):
        one, other, last = cls(1), cls(first=1, hidden=5), cls(2, third=[3])
        found.append([
            repr(one), repr(last), one == other, one != last, one == 1,
            outcome(lambda: hash(one) == hash(one)), outcome(lambda: setattr(one, "first", 7)),
            outcome(lambda: delattr(one, "first")),
            outcome(lambda: cls()), outcome(lambda: cls(1, 2, [], 4, 5)),
            repr(dataclasses.replace(last, second=1)), dataclasses.asdict(last),
            repr(copy.deepcopy(last)), one.third is other.third, hasattr(last, "__dict__"),
            cls.__match_args__])
        if options["frozen"] or options["slots"]:
            with pytest.raises((AttributeError, TypeError)):
                last.more = 7
    assert found[0] == found[1]


def test_hashes_follow_equality():
    assert len({Pair(1), Pair(1, ()), Pair(2)}) == 2
    assert Single((1,)) == Single((1,)) and hash(Single(3)) == hash(Single(3))
    assert Single(1) != Pair(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Pair(1, ([],)))


def test_own_methods_are_kept():
    @dataclass(frozen=True, slots=True)
    class Odd:
        """Equal to everything."""

        value: int

        def __post_init__(self) -> None:
            object.__setattr__(self, "value", abs(self.value))

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 12

        def __repr__(self) -> str:
            return "odd"

    odd = Odd(-3)
    assert (odd.value, odd == 5, hash(odd), repr(odd)) == (3, True, 12, "odd")


def test_copies_and_pickles():
    pair = Pair(1, (2, 3))
    for clone in (copy.copy(pair), copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert clone == pair and type(clone) is Pair


def test_a_subclass_has_attributes_of_its_own():
    named = Named(1)
    named.name = "n"
    assert named.name == "n" and named != Pair(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'left'"):
        named.left = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'left'"):
        del named.left


def test_a_cycle_has_a_representation():
    inner: list = []
    single = Single(inner)
    inner.append(single)
    assert repr(single) == "Single(only=[...])"
