"""Random variables: the generator's published vectors, distributions, and how calls advance."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.ops.random import philox, random_bits
from tetractys.random import MRG_RandomStreams, RandomStreams
from tetractys.runtime.errors import DtypeError, ShapeError

VECTORS = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1))]
"""Known answers for philox4x32-10, from the Random123 distribution's kat_vectors."""


@pytest.mark.parametrize("counter, key, expected", VECTORS)
def test_the_generator_gives_the_published_words(counter, key, expected):
    words = philox([np.uint32(w) for w in counter], [np.uint32(w) for w in key])
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("word", range(4))
def test_compiled_bits_are_the_references_and_do_not_depend_on_the_shape(word):
    state = T.constant(np.array([0x299F31D0A4093822, 5], "uint64"))
    flat, square = random_bits(state, (1200,), word), random_bits(state, (30, 40), word)
    expected, _ = evaluate([flat, square], {})
    first, second = tx.function([], [flat, square])()
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second.ravel(), expected)
    assert len(np.unique(expected)) == 1200


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_of_the_distributions(dtype):
    streams, n = RandomStreams(3), 200_000
    uniform = streams.uniform((n,), -1.0, 3.0, dtype=dtype)
    normal = streams.normal((n,), 2.0, 0.5, dtype=dtype)
    coin = streams.binomial((n,), p=0.3, dtype=dtype)
    ten = streams.binomial((n,), n=10, p=0.5)
    die = streams.random_integers((n,), 1, 6)
    u, z, c, t, d = tx.function([], [uniform, normal, coin, ten, die])()
    assert u.dtype == z.dtype == c.dtype == dtype and t.dtype == d.dtype == "int64"
    for sample, mean, deviation in ((u, 1, 4 / 12 ** 0.5), (z, 2, 0.5), (c, 0.3, 0.21 ** 0.5),
                                    (t, 5, 2.5 ** 0.5), (d, 3.5, (35 / 12) ** 0.5)):
        assert abs(sample.mean(dtype="float64") - mean) < 5 * deviation / n ** 0.5
        assert abs(sample.std(dtype="float64") / deviation - 1) < 0.02
    assert u.min() >= -1 and u.max() < 3 and set(np.unique(c)) == {0, 1}
    assert set(np.unique(d)) == set(range(1, 7))
    assert abs(((z - 2) ** 4).mean() / 0.5 ** 4 - 3) < 0.1
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 5 / n ** 0.5


def test_one_variable_is_one_value_in_a_call_and_another_in_the_next():
    u = RandomStreams(1).uniform((4,))
    f = tx.function([], [u, u - u, u.sum()])
    first, difference, total = f()
    assert not difference.any() and total == pytest.approx(first.sum())
    assert not np.any(f()[0] == first)


def test_two_draws_differ_and_a_seed_repeats_them():
    def values():
        streams = RandomStreams(7)
        return tx.function([], [streams.uniform((5,)), streams.uniform((5,))])()
    (a, b), (c, d) = values(), values()
    np.testing.assert_array_equal([a, b], [c, d])
    assert not np.any(a == b)
    assert not np.any(a == tx.function([], RandomStreams(8).uniform((5,)))())


def test_seeding_starts_again():
    streams = MRG_RandomStreams(1)
    f = tx.function([], streams.normal((3,)))
    first, second = f(), f()
    streams.seed()
    np.testing.assert_array_equal([f(), f()], [first, second])
    streams.seed(2)
    assert not np.any(f() == first)


def test_updates_can_be_given_by_hand():
    streams = RandomStreams(1)
    u = streams.uniform((2,))
    f = tx.function([], u, updates=streams.state_updates)
    g = tx.function([], u, no_default_updates=True)
    kept = g()
    np.testing.assert_array_equal(g(), kept)
    np.testing.assert_array_equal(f(), kept)
    assert not np.any(f() == kept)


def test_sizes_may_be_symbolic_or_follow_from_parameters():
    streams, x, n = RandomStreams(1), T.matrix("x"), T.lscalar("n")
    outputs = [streams.binomial(x.shape, p=0.5), streams.normal(avg=x, std=x[0]),
               streams.uniform((n, 2)), streams.uniform(n, 5), streams.uniform(),
               streams.choice((n,), a=x[0]), streams.choice((9,), a=3)]
    results = tx.function([x, n], outputs)(np.arange(6.0).reshape(2, 3), 4)
    assert [r.shape for r in results] == [(2, 3), (2, 3), (4, 2), (4,), (), (4,), (9,)]
    assert set(results[5]) <= {0.0, 1.0, 2.0} and set(results[6]) <= {0, 1, 2}


def test_gradients_flow_to_the_parameters():
    streams, mean, deviation = RandomStreams(1), T.scalar("m"), T.scalar("s")
    z = streams.normal((1000,), mean, deviation)
    f = tx.function([mean, deviation], [z, *T.grad(T.sum(z), [mean, deviation])])
    sample, to_mean, to_deviation = f(1.0, 2.0)
    assert to_mean == pytest.approx(1000)
    assert to_deviation == pytest.approx(((sample - 1) / 2).sum())


@pytest.mark.parametrize("call, error", [
    (lambda s: s.uniform((2,), dtype="int32"), DtypeError),
    (lambda s: s.binomial((2,), n=0), DtypeError),
    (lambda s: s.choice((2,), 5, replace=False), DtypeError),
    (lambda s: s.uniform((-1,)), ShapeError),
    (lambda s: s.uniform(T.lvector()), ShapeError)])
def test_errors_of_draws(call, error):
    with pytest.raises(error):
        call(RandomStreams(1))
