"""Fixtures that several files use."""

from __future__ import annotations

import pytest

from tetractys.runtime import cuda_driver
from tetractys.runtime.errors import TetractysError


@pytest.fixture
def real_gpu():
    """Skip unless there is a GPU."""
    try:
        count = cuda_driver.driver().count()
    except TetractysError as error:
        pytest.skip(f"no GPU: {str(error).splitlines()[0]}")
    if not count:
        pytest.skip("no GPU: the driver finds none")
