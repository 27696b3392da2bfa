"""Several functions, threads and streams at once, on a driver that does nothing until it must."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cuda_fake import fake_gpu

import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime import cuda_memory
from tetractys.runtime.cuda import LANES
from tetractys.runtime.cuda_array import DeviceArray
from tetractys.runtime.errors import IndexOutOfRangeError

X = T.fmatrix("x")
A = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(params=[False, True], ids=["late", "at once"])
def gpu(request):
    with fake_gpu(eager=request.param) as fake:
        yield fake


def counter(name: str = "w"):
    """Return a shared variable and a function on the device that doubles it, returning nothing."""
    w = tx.shared(np.ones((4, 3), np.float32), name=name)
    return w, tx.function([], [], updates={w: w * 2}, device="cuda")


def streams_of(f: tx.Function) -> set[int]:
    """Return the streams of a function."""
    return {lane.stream.handle for v in f.variants for lane in v.executable._idle}


def test_functions_have_streams_of_their_own(gpu):
    f, g = (tx.function([X], X + k, device="cuda") for k in (1, 2))
    f(A), g(A), f(A)
    assert len(streams_of(f)) == len(streams_of(g)) == 1
    assert not streams_of(f) & streams_of(g)


def test_a_call_waits_for_what_it_depends_on_and_nothing_else():
    with fake_gpu() as gpu:
        w, double = counter()
        v, other = counter("v")
        double(), other()
        gpu.launched.clear()
        for _ in range(3):
            double(), other()
        assert not gpu.launched, "nothing was asked for yet"
        read = tx.function([], w + 0.5, device="cuda")
        assert read()[0, 0] == 16.5
        assert len(gpu.launched) == 5, "other() is still waiting"
        assert v.get_value()[0, 0] == 16


def test_readers_are_waited_for_before_a_variable_is_written(gpu):
    w, double = counter()
    copy = tx.function([], w + 0, device="cuda", on_device=True)
    seen = []
    for _ in range(5):
        seen.append(copy())
        double()
    assert [float(array.numpy()[0, 0]) for array in reversed(seen)] == [16, 8, 4, 2, 1]


def test_host_and_device_take_turns_on_a_variable(gpu):
    w, double = counter()
    on_cpu = tx.function([], w.sum(), updates={w: w + 1}, device="cpu")
    double(), double()
    assert float(on_cpu()) == 48
    double()
    assert w.get_value()[0, 0] == 10
    w.set_value(np.full((4, 3), 3, np.float32))
    double()
    np.testing.assert_array_equal(w.get_value(borrow=True), 6)


def test_missing_order_is_noticed(monkeypatch):
    monkeypatch.setattr(cuda_memory.Stream, "wait_for", lambda *_: None)
    with fake_gpu():
        w, double = counter()
        read = tx.function([], w + 0, device="cuda")
        read()
        double()
        assert read()[0, 0] == 1, "without waiting, the old value is read"


def test_one_function_from_many_threads(gpu):
    f = tx.function([X], [T.exp(X).sum(axis=1), X * 2], device="cuda")
    f(A)
    inputs = [A * (k + 1) / 20 for k in range(24)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(f, inputs))
    for x, (total, twice) in zip(inputs, results):
        np.testing.assert_allclose(total, np.exp(x).sum(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(twice, x * 2)
    assert 1 <= len(streams_of(f)) <= LANES


def test_threads_that_train_do_not_lose_a_step(gpu):
    w = tx.shared(np.zeros(3, np.float32), name="w")
    add, twice = (tx.function([], [], updates={w: w + step}, device="cuda") for step in (1, 2))
    read = tx.function([], w * 1, device="cuda")
    add(), twice(), read()
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(f) for _ in range(15) for f in (add, twice, read)]:
            job.result()
    np.testing.assert_array_equal(w.get_value(), 16 + 2 * 16)


def test_functions_of_two_threads_run_at_the_same_time():
    """Two calls that each wait, within the driver, until the other one is there too."""
    with fake_gpu() as gpu:
        fs = [tx.function([X], X + k, device="cuda") for k in range(2)]
        for f in fs:
            f(A)
        both = threading.Barrier(2, timeout=20)
        synchronize = gpu.synchronize
        gpu.synchronize = lambda stream: (both.wait(), synchronize(stream))
        with ThreadPoolExecutor(2) as pool:
            results = [job.result() for job in [pool.submit(f, A) for f in fs]]
        gpu.synchronize = synchronize
        for k, result in enumerate(results):
            np.testing.assert_array_equal(result, A + k)


def test_two_calls_of_one_function_run_at_the_same_time():
    with fake_gpu() as gpu:
        f = tx.function([X], X + 1, device="cuda")
        f(A)
        both = threading.Barrier(2, timeout=20)
        synchronize = gpu.synchronize
        gpu.synchronize = lambda stream: (both.wait(), synchronize(stream))
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(f, (A, A + 1)))
        gpu.synchronize = synchronize
        np.testing.assert_array_equal(results[0], A + 1)
        np.testing.assert_array_equal(results[1], A + 2)
        assert len(streams_of(f)) == 2


def test_a_failed_check_in_one_thread_leaves_the_others_alone(gpu):
    index = T.lvector("i")
    w = tx.shared(np.zeros(2, np.float32), name="w")
    f = tx.function([X, index], X[index], updates={w: w + 1}, device="cuda")
    f(A, [0])

    def attempt(k: int) -> bool:
        try:
            return f(A, [k % 8]).shape == (1, 3)
        except IndexOutOfRangeError:
            return False

    with ThreadPoolExecutor(4) as pool:
        good = sum(pool.map(attempt, range(16)))
    assert good == 8 and w.get_value().tolist() == [9, 9]


def test_replaced_variables_and_their_readers(gpu):
    w = tx.shared(np.ones(2, np.float32), name="w")
    grow = tx.function([], [], updates={w: T.concatenate([w, w * 2])}, device="cuda")
    copy = tx.function([], w * 1, device="cuda", on_device=True)
    seen = []
    for _ in range(3):
        seen.append(copy())
        grow()
    assert [array.shape for array in seen] == [(2,), (4,), (8,)]
    assert [float(array.numpy().sum()) for array in seen] == [2, 6, 18]
    assert isinstance(w.storage.cell[0], DeviceArray)
