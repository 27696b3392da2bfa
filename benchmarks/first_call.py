"""Time the import of a side's library and a workload's first call; run by ``compile_time.py``.

Arguments: the side and the workload.  Prints one JSON object; or null, if the side lacks the
workload; or a text, if a library is missing.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

from sides import SIDES


def measure(side: str, name: str) -> dict[str, Any] | str | None:
    """Return the seconds of the import, NumPy's included, and of the first call; its phases."""
    module, table = SIDES[side]
    start = time.perf_counter()
    try:
        functions = getattr(importlib.import_module(f"sides.{module}"), table)
    except ImportError as error:
        return f"the module {error.name or error} is missing"
    imported = time.perf_counter() - start
    from workloads import COMPILED
    workload = COMPILED[name]
    if workload.family not in functions:
        return None
    data = workload.data()
    start = time.perf_counter()
    case = functions[workload.family](data)
    case.function(*case.arguments)
    return {"import": imported, "first call": time.perf_counter() - start, "phases": case.phases()}


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
