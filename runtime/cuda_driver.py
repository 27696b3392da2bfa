"""The only door to a GPU: what the runtime asks of a driver, and which driver a process has.

Everything above works with a :class:`Driver`, so tests put an emulator in the place of NVIDIA's
(``cuda_nvidia.py``).  Pointers, streams and events are integers; modules, functions and graphs are
opaque to the callers.  Everything that takes a stream is queued on it, and returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

from .errors import DeviceError, format_message

if TYPE_CHECKING:
    from .cuda_blas import Blas

T = TypeVar("T")

LEGACY_STREAM = 1
"""The default stream of a process, by the number CUDA, DLPack and others call it."""


class Driver(Protocol):
    """What a GPU can be asked to do."""

    def version(self) -> str:
        """Return the newest CUDA version the driver knows."""

    def count(self) -> int:
        """Return how many GPUs there are."""

    def describe(self, device: int) -> tuple[str, str]:
        """Return a GPU's name and architecture (``sm_90``)."""

    def at(self, device: int) -> AbstractContextManager[None]:
        """Make a GPU the one this thread talks to, during a ``with`` block."""

    def memory(self) -> tuple[int, int]:
        """Return the bytes free, and in total."""

    def device_of(self, pointer: int) -> int:
        """Return the number of the GPU that an address belongs to."""

    def allocate(self, size: int, stream: int) -> int:
        """Return the address of memory that work queued on the stream from now on may use.

        Raises ``MemoryError`` with what was asked and free.
        """

    def free(self, pointer: int, stream: int) -> None:
        """Give memory back once the work queued on the stream is done."""

    def to_device(self, pointer: int, address: int, size: int, stream: int) -> None:
        """Copy from the host."""

    def to_host(self, address: int, pointer: int, size: int, stream: int) -> None:
        """Copy to the host."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy within the device."""

    def load(self, source: str, architecture: str) -> object:
        """Return the module of a source text, compiled for the architecture."""

    def function(self, module: object, name: str, scratch: int = 0) -> object:
        """Return a function of a module, which may be given so many bytes of scratch memory."""

    def blas(self) -> Blas:
        """Return cuBLAS."""

    def stream(self, records: bool = False) -> int:
        """Return a new stream; one that only ``records`` has no part in the order of others.

        Work on any other stream comes after what the default stream was given before, and before
        what it is given later.
        """

    def destroy_stream(self, stream: int) -> None:
        """Forget a stream; what is queued on it still runs."""

    def event(self) -> int:
        """Return a new event, which marks a place on a stream."""

    def destroy_event(self, event: int) -> None:
        """Forget an event."""

    def record(self, event: int, stream: int) -> None:
        """Move an event behind all that is queued on a stream now."""

    def wait(self, stream: int, event: int) -> None:
        """Let what is queued on a stream from now on wait for the place an event marks now."""

    def is_done(self, event: int) -> bool:
        """Return whether everything before an event is done."""

    def synchronize(self, stream: int) -> None:
        """Wait until everything queued is done; raises ``DeviceError`` when it failed."""

    def finish(self) -> None:
        """Wait for all streams."""

    def launch(self, function: object, blocks: int, threads: Sequence[int],
               arguments: Sequence[int], stream: int, scratch: int = 0) -> None:
        """Queue a kernel whose arguments are all of 8 bytes: pointers and sizes."""

    def begin_capture(self, stream: int) -> None:
        """Record what is queued from now on instead of doing it."""

    def end_capture(self, stream: int) -> object:
        """Return what was recorded, ready to be replayed."""

    def replay(self, graph: object, stream: int) -> None:
        """Queue everything that was recorded, as one launch."""

    def discard(self, graph: object) -> None:
        """Free what was recorded."""


def out_of_memory(asked: int | None, free: int) -> MemoryError:
    """Return the error for memory that a device does not have."""
    what = "memory" if asked is None else f"{asked} bytes"
    return MemoryError(f"cannot allocate {what} on the GPU: {free} bytes are free")


_state: dict[str, object] = {}


def driver() -> Driver:
    """Return the driver of this process.

    Raises
    ------
    DeviceError
        When there is none, or the process is a fork of one that used it.
    """
    if "driver" not in _state:
        from .cuda_nvidia import NvidiaDriver
        use_driver(NvidiaDriver())
    if _state["process"] != os.getpid():
        raise DeviceError(format_message(
            "A GPU cannot be used in a process forked from one that used it.",
            remedy='start processes with multiprocessing.set_start_method("spawn")'))
    return _state["driver"]


def is_current(own: Driver) -> bool:
    """Return whether a driver is the one in use, in the process that started it."""
    return _state.get("driver") is own and _state.get("process") == os.getpid()


def kept(name: str, make: Callable[[], T]) -> T:
    """Return what is made once and lasts as long as the present driver."""
    if name not in _state:
        _state.setdefault(name, make())
    return _state[name]


def use_driver(own: Driver | None) -> None:
    """Put another driver in the place of NVIDIA's; None forgets the present one."""
    _state.clear()
    if own is not None:
        _state.update(driver=own, process=os.getpid())
