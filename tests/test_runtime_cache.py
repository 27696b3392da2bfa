"""The disk cache: what is put comes back, and nothing that is wrong with it does harm."""

import os
import subprocess
import sys
import threading
import warnings

import pytest

from tetractys.runtime import cache
from tetractys.runtime.artifact import Argument, Artifact, Constant, Output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder that does not exist yet."""
    path = tmp_path / "cache"
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", str(path))
    monkeypatch.setattr(cache, "_warned", [])
    monkeypatch.setattr(cache, "_used", {})
    return path


def example(name="f", code=(b"\x00code\xff", b"", b"more")):
    first = Artifact("p", "cpu", (b"first",), (), (), (Output("int64", 0),), (), 0, ())
    return Artifact(
        name, "cpu", code, (Argument("x", "float64", (-1, 3), "π.py:1"),),
        (Argument("w", "int8", ()),), (Output("float32", 2), Output("bool", 0, shared=0)),
        (Constant("float64", (2,), b"\x01" * 16), Constant("int8", (0,), b"")), 2, ("n", "k"),
        ("{0} and {1}",), (("s[0]", "s[1]"),), (("ShapeError", "bad {value}"),), first, True,
        "s[0]*3", ("tx_poll",), "plan", "run", {"llvm": "text"})


def test_what_is_put_comes_back(folder):
    assert cache.get("a") is None
    cache.put("a", example())
    assert cache.get("a") == example() and cache.get("b") is None
    cache.put("a", example("g"))
    assert cache.get("a").name == "g"
    assert folder.stat().st_mode & 0o777 == 0o700 or sys.platform == "win32"
    assert [p.suffix for p in folder.iterdir()] == [".tx"]


def test_bytes(folder):
    cache.write("k", b"")
    cache.write("l", b"x" * 1000)
    assert cache.read("k") == b"" and cache.read("l") == b"x" * 1000


def test_empty_name_turns_the_cache_off(folder, monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_DIR", "")
    cache.put("a", example())
    assert cache.folder() is None and cache.get("a") is None and not folder.exists()


def test_default_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("TETRACTYS_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache.folder() == str(tmp_path / "tetractys")
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        assert cache.folder().endswith("/.cache/tetractys")


def _entry(folder):
    path, = folder.glob("*.tx")
    return path


@pytest.mark.parametrize("position", [0, 5, 12, 30, 44, 80, 100, 200, -1])
def test_a_changed_byte_is_a_miss_and_one_warning(folder, position):
    cache.put("a", example())
    data = bytearray(_entry(folder).read_bytes())
    data[position] ^= 1
    _entry(folder).write_bytes(data)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.get("a") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get("a") is None
    cache.put("a", example())
    assert cache.get("a") == example()


@pytest.mark.parametrize("length", [0, 1, 11, 12, 43, 44, 76, 90, 300])
def test_a_truncated_file_is_a_miss(folder, length):
    cache.put("a", example())
    _entry(folder).write_bytes(_entry(folder).read_bytes()[:length])
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.get("a") is None


@pytest.mark.parametrize("payload", [
    b"", b"\x05", b"\xff" * 8, (2).to_bytes(8, "little") + b"{}",
    (4).to_bytes(8, "little") + b"null", (2).to_bytes(8, "little") + b"[]",
    (1).to_bytes(8, "little") + b"{",
    (20000).to_bytes(8, "little") + b"[" * 20000,
    cache.encode(example())[:-3], cache.encode(example()).replace(b'"cpu"', b'"c\xffu"'),
])
def test_a_valid_file_with_senseless_content_is_a_miss(folder, payload):
    cache.write("a", payload)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.get("a") is None


def test_an_entry_for_another_key_is_a_miss(folder):
    cache.put("a", example())
    os.rename(_entry(folder), cache._path(str(folder), "b"))
    assert cache.get("b") is None


def test_unusable_folders_are_misses_and_one_warning(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below", "nul\0byte"):
        monkeypatch.setattr(cache, "_warned", [])
        monkeypatch.setitem(os.environ, "TETRACTYS_CACHE_DIR", str(tmp_path / "file"))
        monkeypatch.setattr(cache, "folder", lambda path=path: str(tmp_path / path))
        with pytest.warns(RuntimeWarning) as caught:
            cache.put("a", example())
            assert cache.get("a") is None
        assert len(caught) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_folder_that_others_may_write_to_is_refused(folder):
    cache.put("a", example())
    folder.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="others may write"):
        assert cache.get("a") is None


def test_folder_of_another_user_is_refused(folder, monkeypatch):
    cache.put("a", example())
    if hasattr(os, "geteuid"):
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.warns(RuntimeWarning, match="another user"):
            assert cache.get("a") is None


def test_failing_writes_are_one_warning(folder, monkeypatch):
    def full(*args, **more):
        raise OSError(28, "No space left on device")
    cache.put("a", example())
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space") as caught:
        cache.put("b", example())
        cache.put("c", example())
    assert len(caught) == 1 and cache.get("a") == example()
    assert len(list(folder.iterdir())) == 1


def test_readonly_files_still_serve(folder, monkeypatch):
    def refuse(*args, **more):
        raise PermissionError(30, "Read-only file system")
    cache.put("a", example())
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert cache.get("a") == example()
    with pytest.warns(RuntimeWarning, match="Read-only"):
        cache.put("b", example())


def test_least_recently_used_go_first(folder, monkeypatch):
    monkeypatch.setenv("TETRACTYS_CACHE_SIZE", "50000")
    for k in range(4):
        cache.write(f"k{k}", bytes(10_000))
        os.utime(cache._path(str(folder), f"k{k}"), (k + 1, k + 1))
    assert cache.read("k0") is not None
    cache.write("k4", bytes(10_000))
    kept = [k for k in range(5) if cache.read(f"k{k}") is not None]
    assert kept == [0, 3, 4]
    cache.write("large", bytes(60_000))
    assert cache.read("large") is None and cache.read("k4") is not None


def test_stale_temporary_files_are_removed(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    (folder / "1-old.tmp").write_bytes(b"")
    os.utime(folder / "1-old.tmp", (1, 1))
    (folder / "2-new.tmp").write_bytes(b"")
    cache.put("a", example())
    assert sorted(p.name for p in folder.glob("*.tmp")) == ["2-new.tmp"]


def test_many_writers_and_readers(folder):
    wrong = []

    def work(seed):
        for k in range(50):
            cache.put(f"key{k % 5}", example(code=(bytes([k % 5]) * 5000,)))
            found = cache.get(f"key{(k + seed) % 5}")
            if found is not None and found.code != (bytes([(k + seed) % 5]) * 5000,):
                wrong.append(k)
    script = "import test_runtime_cache as t\n" \
             "t.cache.put('key0', t.example(code=(bytes(5000),)))"
    other = subprocess.Popen([sys.executable, "-c", script],
                             cwd=os.path.dirname(os.path.abspath(__file__)))
    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert other.wait(60) == 0 and wrong == []


_ALONE = """
import sys, types
# The runtime by itself: its parent package, the frontend, is a bare name here.
sys.modules["tetractys"] = parent = types.ModuleType("tetractys")
parent.__path__ = [sys.argv[1]]  # the folder that holds runtime/
from tetractys.runtime import cache
from tetractys.runtime.artifact import Artifact, Output
from tetractys.runtime.call import Executable
from tetractys.runtime.cpu_entry import make_entry
from tetractys.runtime.cpu_jit import assemble
found = cache.get("seven")
if found is None:
    code = assemble('''
        define i64 @tx_plan(ptr %s, ptr %r) { store i64 0, ptr %r ret i64 0 }
        define i64 @tx_run(ptr %s, ptr %p, ptr %a, ptr %t) {
          %y = load ptr, ptr %p
          store i64 7, ptr %y
          ret i64 0
        }''')
    cache.put("seven", Artifact("f", "cpu", (code,), (), (), (Output("int64", 0),), (), 0, ()))
f = make_entry(Executable(found or cache.get("seven"), single=True))
print(f(), found is not None, any(name.startswith("tetractys.compiler") for name in sys.modules))
"""


def test_a_cached_artifact_runs_without_the_compiler(folder):
    for known in ("False", "True"):
        parent = os.path.dirname(os.path.dirname(cache.__file__))
        done = subprocess.run([sys.executable, "-c", _ALONE, parent], capture_output=True,
                              text=True)
        assert done.stdout.split() == ["7", known, "False"], done.stderr
