"""One side of a comparison, as a process that obeys commands on its standard input.

Started by ``processes.py`` with the side's name; each message is a pickle behind its length.

::

    ("setup", workload, wants_outputs) -> (seconds of the first call, outputs or None)
    ("time", seconds, calls)           -> seconds of one call, by repetition
    ("memory",)                        -> peak resident bytes of the process
    ("version",)                       -> the side's version
"""

from __future__ import annotations

import importlib
import math
import os
import pickle
import struct
import sys
import time
import timeit
from typing import Any, BinaryIO

import numpy as np
from sides import SIDES
from sides.case import Case

WARM_UP = 0.3
"""Seconds of calls before any is timed: a side may still load code beside the first ones."""

PRECISE = 2e-4
"""Seconds a repetition should last: long beside the clock's resolution."""


def send(stream: BinaryIO, message: Any) -> None:
    """Write a message."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack("<Q", len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read a message.

    Raises
    ------
    EOFError
        When the other process is gone.
    """
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError("the other process ended")
    return pickle.loads(stream.read(struct.unpack("<Q", header)[0]))


class Subject:
    """The workload set up last, ready to be timed."""

    def __init__(self, side: str):
        module, table = SIDES[side]
        self.name = side
        self.side = getattr(importlib.import_module(f"sides.{module}"), table)
        self.case: Case | None = None
        self.timer = timeit.Timer("pass")
        self.calls = 1

    def setup(self, name: str, wants_outputs: bool) -> tuple[float, list | None] | None:
        """Build a workload and call it once; None if this side does not have it."""
        from workloads import COMPILED, known
        workload = known("cuda").get(name) or COMPILED[name]
        if workload.family not in self.side:
            return None
        data = workload.data()
        start = time.perf_counter()
        case = self.case = self.side[workload.family](data)
        result = case.function(*case.arguments)
        seconds = time.perf_counter() - start
        # Copies: later calls may write into the same memory.
        outputs = [np.array(out) for out in case.read(result)] if wants_outputs else None
        names = {f"a{k}": value for k, value in enumerate(case.arguments)}
        self.timer = timeit.Timer(f"function({', '.join(names)})",
                                  globals={"function": case.function, **names})
        warm = time.perf_counter() + WARM_UP
        while time.perf_counter() < warm:
            self.timer.timeit(1)
        once = min(self.timer.repeat(3, 1))
        self.calls = max(1, math.ceil(PRECISE / once))
        return seconds, outputs

    def time(self, seconds: float, calls: int) -> list[float]:
        """Repeat for about so long, and at least ``calls`` times, after one call to warm up."""
        self.timer.timeit(1)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while len(taken) < calls or time.perf_counter() < end:
            taken.append(self.timer.timeit(self.calls) / self.calls)
        return taken

    def memory(self) -> int:
        """Return the peak of the memory this process had resident."""
        try:
            with open("/proc/self/status") as file:
                return next(1024 * int(line.split()[1]) for line in file if "VmHWM" in line)
        except FileNotFoundError:
            import resource
            unit = 1 if sys.platform == "darwin" else 1024
            return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def version(self) -> str:
        """Return the version of the side's library."""
        return str(importlib.import_module(self.name.partition(".")[0]).__version__)


def main() -> None:
    """Obey commands until the standard input ends."""
    # Libraries may print; only messages may reach the pipe.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        subject = Subject(sys.argv[1])
    except ImportError as error:
        send(answers, error.name or str(error))
        return
    send(answers, None)
    while True:
        try:
            command, *arguments = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, getattr(subject, command)(*arguments))


if __name__ == "__main__":
    main()
