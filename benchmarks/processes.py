"""The processes of the sides, from the outside: start, ask, stop."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sides import DEFAULT_PEERS, OURS, SIDES
from worker import receive, send

HERE = Path(__file__).resolve().parent

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                    "NUMBA_NUM_THREADS", "TETRACTYS_NUM_THREADS")

UNSET = ("OPENBLAS_CORETYPE", "TETRACTYS_FLAGS", "XLA_FLAGS", "OMP_WAIT_POLICY",
         "NUMBA_DISABLE_JIT", "PYTHONDONTWRITEBYTECODE")
"""Variables that would favour or hinder a side; installed packages have their bytecode."""


class Unavailable(Exception):
    """A side that cannot run, with the reason."""


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a side: the same for all, with this number of threads."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return {**kept, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def pinned(threads: int) -> list[int] | None:
    """Return the CPUs a process with so many threads may use; None where none can be chosen.

    JAX has no variable for its number of threads: like the others it is held by its affinity.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))[-threads:]


class Side:
    """A running side.

    Parameters
    ----------
    name : str
        A key of ``sides.SIDES``.
    python : str
        The interpreter that has its libraries.
    threads : int
    variables : dict of str to str, optional
        More environment.

    Raises
    ------
    Unavailable
        If the interpreter or a library is missing.
    """

    def __init__(self, name: str, python: str, threads: int,
                 variables: dict[str, str] | None = None):
        self.name = name
        cpus = pinned(threads)
        if cpus is not None and len(cpus) < threads:
            raise Unavailable(f"this process may use {len(cpus)} CPUs only")
        self.log = tempfile.TemporaryFile()  # a pipe could fill up, and block the process
        restrict = None if cpus is None else lambda: os.sched_setaffinity(0, cpus)
        try:
            self.process = subprocess.Popen(
                [python, str(HERE / "worker.py"), name], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self.log, preexec_fn=restrict,
                env={**environment(threads), **(variables or {})})
        except OSError as error:
            raise Unavailable(f"its Python cannot be started ({error.strerror})") from error
        missing = self.answer()
        if missing is not None:
            self.process.wait()
            raise Unavailable(f"the module {missing} is missing")

    def ask(self, command: str, *arguments: Any) -> Any:
        """Send a command and return its answer.

        Raises
        ------
        Unavailable
            If the process ended instead of answering.
        """
        try:
            send(self.process.stdin, (command, *arguments))
        except BrokenPipeError:
            raise Unavailable("its process is gone") from None
        return self.answer()

    def answer(self) -> Any:
        """Return the next answer; see :meth:`ask`."""
        try:
            return receive(self.process.stdout)
        except EOFError:
            self.log.seek(0)
            tail = self.log.read().decode(errors="replace").strip().splitlines()
            raise Unavailable(tail[-1] if tail else "its process ended") from None

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def python_of(side: str, peer_python: str | None) -> str:
    """Return the interpreter of a side.

    Raises
    ------
    Unavailable
        If no interpreter was named for the peers.
    """
    if side == OURS:
        return sys.executable
    if not peer_python:
        raise Unavailable("no --peer-python, and TETRACTYS_PEER_PYTHON is not set")
    return peer_python


def peer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the peers and their interpreter."""
    peers = [name for name in SIDES if name != OURS]
    parser.add_argument("--peers", metavar="NAMES", help=f"of {', '.join(peers)}; default: "
                        f"{','.join(DEFAULT_PEERS['cpu'])}, and those that have the device")
    parser.add_argument("--peer-python", default=os.environ.get("TETRACTYS_PEER_PYTHON"),
                        metavar="PATH", help="interpreter of the environment that has the peers; "
                        "default: the environment variable TETRACTYS_PEER_PYTHON")


def chosen_sides(peers: str | None) -> list[str]:
    """Return ours and the peers of a comma-separated list; the CPU's by default.

    Raises
    ------
    SystemExit
        If there is no such peer.
    """
    names = list(DEFAULT_PEERS["cpu"]) if peers is None else [
        name for name in peers.split(",") if name]
    for name in names:
        if name not in SIDES or name == OURS:
            raise SystemExit(f"there is no peer {name!r}; there are: {', '.join(SIDES)}")
    return [OURS, *names]


def start(names: Sequence[str], peer_python: str | None, threads: int,
          notes: list[str], device: str = "cpu") -> dict[str, Side]:
    """Start the sides that can be started; what is missing becomes a note."""
    started: dict[str, Side] = {}
    for name in names:
        try:
            started[name] = Side(name, python_of(name, peer_python), threads,
                                 {"BENCHMARK_DEVICE": device})
        except Unavailable as reason:
            notes.append(f"{name}, {threads} threads: skipped, {reason}")
    return started
