"""Fixtures that several files use."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import tetractys as tx
from tetractys.runtime import cpu_support, cuda_driver, cuda_nvrtc
from tetractys.runtime.errors import CompileError, TetractysError


@pytest.fixture(scope="session", autouse=True)
def entry_loaded():
    """Load the call entry, so that every test sees calls go through it from the second one on."""
    cpu_support.load()


@pytest.fixture
def load_benchmark(monkeypatch):
    """Import a module of the benchmarks anew; after the test they are forgotten."""
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    for name in ("device", "floatX"):
        monkeypatch.setattr(tx.config, name, getattr(tx.config, name))
    before = set(sys.modules)
    yield importlib.import_module
    own = {path.stem for path in folder.iterdir()}
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in own:
            del sys.modules[name]


@pytest.fixture
def real_gpu():
    """Skip unless there is a GPU."""
    try:
        count = cuda_driver.driver().count()
    except TetractysError as error:
        pytest.skip(f"no GPU: {str(error).splitlines()[0]}")
    if not count:
        pytest.skip("no GPU: the driver finds none")


@pytest.fixture
def nvrtc():
    """Skip where there is no NVRTC."""
    try:
        return cuda_nvrtc.version()
    except CompileError as error:
        pytest.skip(f"no NVRTC: {str(error).splitlines()[1].strip()}")
