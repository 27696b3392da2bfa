"""``f.profile``: phases of compiling and counted calls."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import tetractys as tx
from tetractys import tensor as T
from tetractys.profile import PHASES


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", str(tmp_path / "cache"))


def double(**options):
    x = T.dvector("x")
    return tx.function([x], 2 * x, name="double", **options)


def test_phases_of_compiling_are_listed():
    """Every pass of a cold compilation is there, and together they are the whole."""
    f = double()
    f(np.ones(3))
    phases, = f.profile.phases()
    assert set(phases) == {*PHASES, "other"}
    assert all(seconds >= 0 for seconds in phases.values())
    assert sum(phases.values()) == pytest.approx(f.profile.compile_seconds)


def test_a_cached_function_says_so():
    double()(np.ones(3))
    f = double()
    f(np.ones(3))
    phases, = f.profile.phases()
    assert set(phases) == {"imports", "look up graph", "link", "entry", "other"}
    assert "from the cache" in str(f.profile) and "compiled" not in str(f.profile)


def test_calls_are_counted():
    """All but the first call, which compiles; those that fail, too."""
    f = double(profile=True)
    for size in (3, 3, 4, 4):
        np.testing.assert_array_equal(f(np.ones(size)), np.full(size, 2.0))
    assert f.profile.calls == 3 and len(f.variants) == 2
    assert 0 < f.profile.call_seconds < f.profile.compile_seconds
    with pytest.raises(tx.CallError):
        f()
    assert f.profile.calls == 4


def test_functions_with_named_results_are_counted():
    x = T.dvector("x")
    f = tx.function([x], {"y": x + 1}, profile=True)
    for _ in range(3):
        np.testing.assert_array_equal(f(np.ones(2))["y"], [2, 2])
    assert f.profile.calls == 2


def test_calls_are_not_counted_unless_asked():
    f = double()
    for _ in range(3):
        f(np.ones(3))
    assert f.profile.calls == 0


def test_the_table_is_for_people():
    f = double(profile=True)
    assert "not compiled yet" in str(f.profile)
    for size in (3, 3, 4):
        f(np.ones(size))
    output = io.StringIO()
    f.profile.summary(file=output)
    lines = output.getvalue().splitlines()
    assert "double(x)" in lines[0] and lines[1].startswith("2 calls, ")
    assert lines[2] == "variant 1: x.shape[0] = 3" and lines[3] == "variant 2: any sizes"
    for phase in ("intern", "LLVM", "link", "total"):
        row, = (line for line in lines if line.startswith(phase))
        assert row.split()[2] in ("s", "ms", "us", "ns")


def test_pickled_functions_count_too():
    f = pickle.loads(pickle.dumps(double(profile=True)))
    for _ in range(2):
        f(np.ones(3))
    assert f.profile.calls == 1


def test_fast_compile_spends_less_time_in_llvm(monkeypatch):
    """It leaves LLVM's optimiser out: about a third of the time, asked for half."""
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")
    x = T.dmatrix("x")
    results = [T.nnet.softmax(T.sin(x) + T.exp(x)), T.erf(x).sum(axis=0), T.log1p(x * x).mean()]
    seconds = {}
    for mode in ("FAST_RUN", "FAST_COMPILE"):
        best = np.inf
        for _ in range(3):
            f = tx.function([x], results, mode=mode)
            f(np.ones((3, 4)))
            phases, = f.profile.phases()
            best = min(best, phases["LLVM"])
        seconds[mode] = best
    assert seconds["FAST_COMPILE"] < 0.5 * seconds["FAST_RUN"]
