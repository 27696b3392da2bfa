"""How many threads to use when nobody says: what the environment and the system grant."""

from __future__ import annotations

import os
import warnings
from functools import cache

MOST_THREADS = 1024
VARIABLES = ("TETRACTYS_NUM_THREADS", "OMP_NUM_THREADS")

# Of control groups, version 2 and 1: the file of the quota, and that of the period if it is apart.
_QUOTA_FILES = (
    ("/sys/fs/cgroup/cpu.max", None),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def default_threads() -> int:
    """Return the number of threads that environment variables ask for, or the CPUs one may use.

    The CPUs are those of the process's affinity, or as many as the quota of its control group
    makes, rounded up, where these are fewer.
    """
    for name in VARIABLES:
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and 1 <= int(text) <= MOST_THREADS:
            return int(text)
        if text:
            warnings.warn(f"{name}={text!r} is not a number of threads: ignored",
                          RuntimeWarning, stacklevel=2)
    return usable_cpus()


def usable_cpus() -> int:
    """Return the CPUs that affinity and control group leave to this process, at this moment."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return max(1, min(cpus, cpu_quota(), MOST_THREADS))


@cache
def planned_cpus() -> int:
    """Return the CPUs that code is shaped for: those usable when it was first asked.

    Later changes of the affinity do not count, nor does the number of threads ever: all functions
    of a process cut equal products equally, so that their results are the same bits.
    """
    return usable_cpus()


def cpu_quota() -> int:
    """Return the CPUs the control group grants, rounded up; ``MOST_THREADS`` without a limit."""
    for quota_file, period_file in _QUOTA_FILES:
        try:
            with open(quota_file) as file:
                words = file.read().split()
            if period_file is not None:
                with open(period_file) as file:
                    words += file.read().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or the word "max": no limit
            continue
        if quota > 0 and period > 0:
            return -(-quota // period)
    return MOST_THREADS
