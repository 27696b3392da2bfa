"""Fixtures that several files use."""

from __future__ import annotations

import pytest

from tetractys.runtime import cpu_support, cuda_driver, cuda_nvrtc
from tetractys.runtime.errors import CompileError, TetractysError


@pytest.fixture(scope="session", autouse=True)
def entry_loaded():
    """Load the call entry, so that every test sees calls go through it from the second one on."""
    cpu_support.load()


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
