"""The worker pool: every chunk once, the same chunks for any number of threads, no hangs."""

import ctypes
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime import blas, cpu_limits, cpu_threads, processors
from tetractys.runtime.cpu_jit import assemble, link

BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

# Adds 1 to frame[0][begin:end] and counts chunks: marks[begin] = end; `work` repeats the adding.
TEXT = """
declare void @tx_parallel_for(ptr, ptr, i64, i64)
define internal void @body(ptr %frame, i64 %begin, i64 %end) {
entry:
  %data = load ptr, ptr %frame
  %marks.at = getelementptr ptr, ptr %frame, i64 1
  %marks = load ptr, ptr %marks.at
  %work.at = getelementptr i64, ptr %frame, i64 2
  %work = load i64, ptr %work.at
  %nested.at = getelementptr ptr, ptr %frame, i64 3
  %nested = load ptr, ptr %nested.at
  %mark = getelementptr i64, ptr %marks, i64 %begin
  store i64 %end, ptr %mark
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %added ]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %one, label %done
one:
  %at = getelementptr i64, ptr %data, i64 %i
  br label %add
add:
  %k = phi i64 [ 0, %one ], [ %k.next, %add ]
  %old = load volatile i64, ptr %at
  %step = icmp eq i64 %k, 0
  %unit = zext i1 %step to i64
  %new = add i64 %old, %unit
  store volatile i64 %new, ptr %at
  %k.next = add i64 %k, 1
  %again = icmp slt i64 %k.next, %work
  br i1 %again, label %add, label %added
added:
  %i.next = add i64 %i, 1
  br label %loop
done:
  %inner = icmp ne ptr %nested, null
  br i1 %inner, label %nest, label %leave
nest:
  call void @tx_parallel_for(ptr @body, ptr %nested, i64 64, i64 4)
  br label %leave
leave:
  ret void
}
define void @go(ptr %frame, i64 %count, i64 %grain) {
  call void @tx_parallel_for(ptr @body, ptr %frame, i64 %count, i64 %grain)
  ret void
}
define void @repeat(ptr %frame, i64 %count, i64 %times) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  call void @tx_parallel_for(ptr @body, ptr %frame, i64 %count, i64 1)
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %times
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


class Loop:
    """A compiled parallel loop that counts its visits."""

    def __init__(self):
        imports = {"tx_parallel_for": cpu_threads.library()["tx_parallel_for"]}
        self.library = link([assemble(TEXT)], imports, ("go", "repeat"))
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self.go, self.repeat = kind(self.library["go"]), kind(self.library["repeat"])

    def frame(self, count, work=1, nested=None):
        """Return the frame's words, and the arrays they point to."""
        data, marks = np.zeros(max(count, 1), "int64"), np.zeros(max(count, 1), "int64")
        inner = nested[0].ctypes.data if nested else 0
        words = np.array([data.ctypes.data, marks.ctypes.data, work, inner], "int64")
        return words, data, marks

    def run(self, count, grain, work=1):
        words, data, marks = self.frame(count, work)
        self.go(words.ctypes.data, count, grain)
        return data, marks


@pytest.fixture(scope="module")
def loop():
    return Loop()


@pytest.fixture
def threads():
    """Set the number of threads; restored afterwards."""
    before = cpu_threads.get_num_threads()
    yield cpu_threads.set_num_threads
    cpu_threads.set_num_threads(before)


@pytest.mark.parametrize("count", [0, -5, 1, 2, 7, 512, 513, 100_003])
@pytest.mark.parametrize("grain", [-1, 0, 1, 3, 1000, 2 ** 62])
def test_every_element_once_in_chunks_of_whole_grains(loop, threads, count, grain):
    seen = []
    for number in (1, 4):
        threads(number)
        data, marks = loop.run(count, grain)
        assert np.all(data[:max(count, 0)] == 1)
        seen.append(marks)
    np.testing.assert_array_equal(*seen)
    begins = np.flatnonzero(seen[0])
    if count > 0:
        assert len(begins) <= cpu_threads.MAX_CHUNKS
        assert np.all(begins % max(1, min(grain, count)) == 0)
        np.testing.assert_array_equal(seen[0][begins], [*begins[1:], count])


def test_several_threads_take_part(threads):
    # A Python callback as body: slow, but it can tell which thread runs it.
    threads(3)
    names = set()

    def body(frame, begin, end):
        names.add(threading.current_thread().name)
        time.sleep(0.005)
    parallel_for = ctypes.CFUNCTYPE(None, BODY, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        cpu_threads.library()["tx_parallel_for"])
    parallel_for(BODY(body), None, 60, 1)
    assert len(names) == 3 and sum(name.startswith("tetractys-") for name in names) == 2


@pytest.mark.parametrize("seconds, chunks, is_alone", [
    (0.0, 4, True), (0.01, 8, False), (0.0, cpu_threads.WAKE_CHUNKS, None)],
    ids=["short", "long", "many chunks"])
def test_only_work_for_several_wakes_sleeping_workers(threads, seconds, chunks, is_alone):
    threads(3)
    names, seen = set(), []

    def body(frame, begin, end):
        names.add(threading.current_thread().name)
        seen.extend(range(begin, end))
        if seconds:
            time.sleep(seconds)
    parallel_for = ctypes.CFUNCTYPE(None, BODY, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        cpu_threads.library()["tx_parallel_for"])
    callback = BODY(body)
    parallel_for(callback, None, 60, 1)
    counts = []
    for _ in range(5):
        time.sleep(0.05)  # the workers are asleep
        names.clear()
        seen.clear()
        parallel_for(callback, None, 3 * chunks, 3)
        assert sorted(seen) == list(range(3 * chunks))
        counts.append(len(names))
    # Another process may take the caller's CPU away in a short region, or the workers'.
    if is_alone is not None:
        assert min(counts) == 1 if is_alone else max(counts) > 1


def test_many_short_regions(loop, threads):
    for number in (2, 5, 1, 3):
        threads(number)
        words, data, _ = loop.frame(16)
        loop.repeat(words.ctypes.data, 16, 20_000)
        assert np.all(data == 20_000)


def test_regions_after_a_pause(loop, threads):
    threads(3)
    for pause in (0, 1e-5, 1e-4, 2e-3) * 20:
        time.sleep(pause)
        assert np.all(loop.run(300, 1)[0] == 1)


def test_nested_region_runs_serially(loop, threads):
    threads(4)
    inner = loop.frame(64)
    words, data, _ = loop.frame(50, nested=inner)
    loop.go(words.ctypes.data, 50, 50)
    assert np.all(data == 1) and np.all(inner[1] == 1)


def test_concurrent_regions_do_not_deadlock(loop, threads):
    threads(2)
    wrong = []

    def work():
        for _ in range(300):
            if not np.all(loop.run(1000, 7, work=5)[0] == 1):
                wrong.append(1)
    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for number in (3, 1, 2, 4) * 5:
        threads(number)
        time.sleep(0.005)
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers) and wrong == []


def test_number_of_threads(threads):
    threads(3)
    assert cpu_threads.get_num_threads() == 3
    for wrong in (0, -1, 1.5, "2", True, 10 ** 9):
        with pytest.raises(ValueError, match="number of threads"):
            threads(wrong)
    assert cpu_threads.get_num_threads() == 3


def test_fewer_threads_leave_the_others_asleep(loop, threads):
    threads(4)
    loop.run(1000, 1)
    pool = list(cpu_threads._threads)
    for number in (2, 1, 4, 3):
        threads(number)
        words, data, _ = loop.frame(64)
        loop.repeat(words.ctypes.data, 64, 2000)
        assert np.all(data == 2000)
    assert cpu_threads._threads == pool and all(thread.is_alive() for thread in pool)


def _names_of_participants(address, chunks=60):
    names = set()

    def body(frame, begin, end):
        names.add(threading.current_thread().name)
        time.sleep(0.002)
    ctypes.CFUNCTYPE(None, BODY, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)(
        BODY(body), None, chunks, 1)
    return names


def test_a_function_may_use_fewer_threads(threads):
    threads(4)
    assert len(_names_of_participants(cpu_threads.library()["tx_parallel_for"])) == 4
    for limit in (1, 2, 3):
        names = _names_of_participants(cpu_limits.limited(limit)["tx_parallel_for"])
        assert len(names) == limit
    assert len(_names_of_participants(cpu_limits.limited(64)["tx_parallel_for"])) == 4


def test_the_option_threads():
    x = T.dmatrix("x")
    product, expected = T.tanh(T.dot(x, x.T)), None
    for number in (None, 1, 2):
        f = tx.function([x], [product, T.exp(x).sum()], threads=number)
        for _ in range(2):
            results = f(np.ones((300, 300)))
        expected = expected or results
        np.testing.assert_array_equal(results[1], expected[1])
        np.testing.assert_allclose(results[0], expected[0], rtol=1e-14)
    for wrong in (0, -1, True, 2.0, "2", 10_000):
        with pytest.raises(tx.CompileError, match="threads=") as caught:
            tx.function([x], x, threads=wrong)
        assert "remedy" in str(caught.value) and "test_runtime_threads.py" in str(caught.value)


def test_public_names(threads):
    threads(3)
    assert tx.get_num_threads() == 3
    tx.set_num_threads(2)
    assert cpu_threads.get_num_threads() == 2
    with pytest.raises(ValueError, match="number of threads"):
        tx.set_num_threads(0)


def test_threadpoolctl_sees_and_limits_the_pool(threads):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    threads(3)
    loop_address = cpu_threads.library()["tx_parallel_for"]

    def ours():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info()
                if pool["user_api"] == "tetractys"]
    assert ours() == [3]
    with threadpoolctl.threadpool_limits(1):
        assert ours() == [1] and cpu_threads.get_num_threads() == 1
        assert len(_names_of_participants(loop_address)) == 1
    assert ours() == [3] and cpu_threads.get_num_threads() == 3
    with threadpoolctl.threadpool_limits({"tetractys": 2}):
        assert ours() == [2]
    assert ours() == [3]


def test_threadpoolctl_is_not_needed():
    done = _python("""
import sys
sys.modules["threadpoolctl"] = None
loop = t.Loop()
assert np.all(loop.run(1000, 1)[0] == 1)
print("done")
""")
    assert done.stdout == "done\n", done.stderr


QUOTAS = {
    "version 2": ({"cpu.max": "150000 100000"}, "0::/", 2),
    "no limit": ({"cpu.max": "max 100000"}, "0::/", 1024),
    "half a CPU": ({"cpu.max": "50000 100000"}, "0::/", 1),
    "version 1": ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, "", 4),
    "version 1 without a limit": (
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "", 1024),
    "nonsense": ({"cpu.max": "nonsense"}, "0::/\nnonsense", 1024),
    "half of version 1": ({"cpu/cpu.cfs_quota_us": "100000"}, "", 1024),
    "nothing": ({}, "", 1024),
    "a service": ({"a.slice/b.service/cpu.max": "300000 100000"}, "0::/a.slice/b.service", 3),
    "the slice of a service": (
        {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "200000 100000"},
        "0::/a.slice/b.service", 2),
    "the least of several": (
        {"a.slice/b.service/cpu.max": "100000 100000", "a.slice/cpu.max": "500000 100000"},
        "0::/a.slice/b.service", 1),
    "another's group": ({"a.slice/c.service/cpu.max": "100000 100000"},
                        "0::/a.slice/b.service", 1024),
    "version 1, below the root": (
        {"cpu/job/cpu.cfs_quota_us": "250000", "cpu/job/cpu.cfs_period_us": "100000"},
        "5:memory:/other\n3:cpu,cpuacct:/job\n0::/", 3),
    "version 1, in a container": (
        {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"},
        "3:cpu,cpuacct:/docker/0123", 3),
    "outside of what is seen": ({"cpu.max": "100000 100000"}, "0::/../../b.service", 1),
}


@pytest.mark.parametrize("files, groups, cpus", QUOTAS.values(), ids=QUOTAS)
def test_quota_of_the_control_groups(tmp_path, monkeypatch, files, groups, cpus):
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if groups:
        (tmp_path / "membership").write_text(groups + "\n")
    monkeypatch.setattr(processors, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(processors, "_ROOTS", (tmp_path / "groups", tmp_path / "groups" / "cpu"))
    assert processors.cpu_quota() == cpus
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("TETRACTYS_NUM_THREADS", raising=False)
    assert processors.default_threads() == min(cpus, len(os.sched_getaffinity(0)))


def test_groups_whose_names_are_no_text(tmp_path, monkeypatch):
    group = os.fsencode(tmp_path) + b"/\xff.slice"
    try:
        os.mkdir(group)
    except OSError:
        pytest.skip("this system's names are text")
    with open(group + b"/cpu.max", "w") as file:
        file.write("300000 100000")
    (tmp_path / "membership").write_bytes(b"0::/\xff.slice\n")
    monkeypatch.setattr(processors, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(processors, "_ROOTS", (tmp_path, tmp_path / "cpu"))
    assert processors.cpu_quota() == 3


def test_affinity_of_the_process():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    done = _python("""
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(cpu_threads.get_num_threads())
""", OMP_NUM_THREADS="", TETRACTYS_NUM_THREADS="")
    assert done.stdout == "1\n", done.stderr


def test_blas_has_one_thread(threads):
    assert blas.available() and blas.core_name()
    threads(2)
    assert blas.get_num_threads() == 1
    assert blas.address("cblas_sgemm") and blas.address("cblas_dgemm")
    with pytest.raises(Exception, match="cblas_nothing"):
        blas.address("cblas_nothing")


def _python(script, **environment):
    folder = os.path.dirname(os.path.abspath(__file__))
    start = f"import sys; sys.path.insert(0, {folder!r})\nimport test_runtime_threads as t\n" \
            "from tetractys.runtime import cpu_threads\nimport numpy as np\n"
    return subprocess.run([sys.executable, "-c", start + script], capture_output=True, text=True,
                          timeout=60, env=os.environ | environment)


@pytest.mark.parametrize("environment, expected", [
    ({"TETRACTYS_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, "3"),
    ({"TETRACTYS_NUM_THREADS": "", "OMP_NUM_THREADS": "2,4"}, "2"),
])
def test_number_of_threads_from_the_environment(environment, expected):
    done = _python("print(cpu_threads.get_num_threads())", **environment)
    assert done.stdout.strip() == expected, done.stderr


def test_bad_environment_is_reported_and_ignored():
    done = _python("print(cpu_threads.get_num_threads() >= 1)", TETRACTYS_NUM_THREADS="many")
    assert done.stdout.strip() == "True" and "'many' is not a number" in done.stderr


def test_process_ends_cleanly_with_idle_and_busy_workers():
    done = _python("""
import threading
loop = t.Loop()
assert np.all(loop.run(1000, 1)[0] == 1)
def forever():
    while True:
        loop.run(5000, 1, work=100)
threading.Thread(target=forever, daemon=True).start()
print("done")
""", TETRACTYS_NUM_THREADS="3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_threads_start_at_the_first_region():
    done = _python("""
import threading
loop = t.Loop()
print(threading.active_count())
loop.run(1000, 1)
print(threading.active_count())
""", TETRACTYS_NUM_THREADS="4")
    assert done.stdout.split() == ["1", "4"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_pool_is_made_anew_in_the_child_of_a_fork():
    done = _python("""
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
loop = t.Loop()
assert np.all(loop.run(1000, 1)[0] == 1)
stop = []
def busy():
    while not stop:
        loop.run(1000, 1, work=50)
threading.Thread(target=busy, daemon=True).start()
for _ in range(10):
    child = os.fork()
    if not child:
        good = np.all(loop.run(1000, 1)[0] == 1) and threading.active_count() == 3
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.append(1)
print("done")
""", TETRACTYS_NUM_THREADS="3")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
