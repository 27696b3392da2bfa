"""How many threads to use when nobody says: what the environment and the system grant."""

from __future__ import annotations

import os
import warnings
from functools import cache

MOST_THREADS = 1024
VARIABLES = ("TETRACTYS_NUM_THREADS", "OMP_NUM_THREADS")

_MEMBERSHIP = "/proc/self/cgroup"
_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu")
"""Where control groups of version 2 and of version 1 are mounted."""


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
    """Return the CPUs that control groups grant, rounded up; ``MOST_THREADS`` without a limit.

    Each group above the process's own can limit it too.  Inside a container the outer groups are
    out of sight, and the root may stand for the container's own.
    """
    quotas = [quota for root, group in zip(_ROOTS, _groups())
              for depth in range(len(group) + 1)
              if (quota := _quota(os.path.join(root, *group[:depth]))) is not None]
    return min(quotas, default=MOST_THREADS)


def _groups() -> tuple[list[str], list[str]]:
    """Return the path of the process's group in the hierarchy of version 2, and in that of version
    1 which limits CPU time; empty where it is not in one."""
    unified: list[str] = []
    cpu: list[str] = []
    try:
        # Names of groups are bytes, which need not be text.
        with open(_MEMBERSHIP, errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError:  # another system than Linux
        lines = []
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        folders = [folder for folder in path.split("/") if folder]
        if ".." in folders:  # a group outside of what this process can see
            continue
        if number == "0" and not controllers:
            unified = folders
        elif "cpu" in controllers.split(","):
            cpu = folders
    return unified, cpu


def _quota(group: str) -> int | None:
    """Return the CPUs that the limit of one group makes, if it has one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            words: list[str] = []
            for name in names:
                with open(os.path.join(group, name)) as file:
                    words += file.read().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or the word "max": no limit
            continue
        if quota > 0 and period > 0:
            return -(-quota // period)
    return None
