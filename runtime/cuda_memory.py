"""Streams, and memory that knows which of them use it: what keeps calls in the right order.

A :class:`Memory` notes the stream that wrote it last and those that read it since.  Whoever reads
it waits for the writer, whoever writes or frees it for all of them, and only for those: calls that
have nothing to do with each other run side by side.  Every stream has one event, which its calls
move along; waiting for a later place of the same stream than necessary is right too.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

from .cuda_driver import driver, is_current, kept
from .errors import DeviceError


class Stream:
    """A queue of work on a GPU, and the event behind what was published last.

    Parameters
    ----------
    device : int
        The number of the GPU.
    """

    __slots__ = ("device", "driver", "handle", "event", "__weakref__")

    def __init__(self, device: int):
        self.device, self.driver = device, driver()
        self.handle = self.event = 0
        with self.driver.at(device):
            self.handle, self.event = self.driver.stream(), self.driver.event()

    def record(self) -> None:
        """Move the event behind everything queued so far."""
        self.driver.record(self.event, self.handle)

    def wait_for(self, other: Stream | None) -> None:
        """Let what is queued from now on wait for what another stream recorded."""
        if other is not None and other is not self:
            self.driver.wait(self.handle, other.event)

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        self.driver.synchronize(self.handle)

    def __del__(self) -> None:
        if not self.handle or sys.is_finalizing() or not is_current(self.driver):
            return
        # A lost device took everything with it: the call that meets it says so.
        with suppress(DeviceError), self.driver.at(self.device):
            self.driver.destroy_stream(self.handle)
            if self.event:
                self.driver.destroy_event(self.event)


class Memory:
    """A block of a GPU's memory, given back when nothing refers to it.

    Parameters
    ----------
    size : int
        Bytes.
    stream : Stream
        The one that may use it at once.

    Attributes
    ----------
    pointer, size, device : int
        Address and bytes, and the number of the GPU.
    writer : Stream or None
        The last one that wrote it.
    readers : set of Stream
        Those that read it since.
    is_exported : bool
        Whether another library has, or had, its address.
    """

    __slots__ = ("pointer", "size", "device", "writer", "readers", "is_exported", "_stream")

    def __init__(self, size: int, stream: Stream):
        self.pointer, self.size, self.device = 0, size, stream.device
        self._stream = self.writer = stream
        self.readers: set[Stream] = set()
        self.is_exported = False
        self.pointer = stream.driver.allocate(max(size, 1), stream.handle)

    def __del__(self) -> None:
        # When the interpreter ends, or in a forked process, the memory is not ours to give back.
        stream = self._stream
        if not self.pointer or sys.is_finalizing() or not is_current(stream.driver):
            return
        with suppress(DeviceError), stream.driver.at(self.device):
            if self.is_exported:
                stream.driver.finish()  # nobody tells which streams others used it on
            for other in (self.writer, *self.readers):
                stream.wait_for(other)
            stream.driver.free(self.pointer, stream.handle)


class ForeignMemory:
    """Memory of another library, kept alive by its owner.

    Attributes
    ----------
    pointer, size, device : int
    writer : Stream or None
        One that waits for what the other library queued.
    readers : set of Stream
        Those that read any memory of others: the same memory may come in many times.
    owner : object
    """

    __slots__ = ("pointer", "size", "device", "writer", "readers", "owner")

    def __init__(self, pointer: int, size: int, entry: Entry, waits: bool, owner: object):
        self.pointer, self.size, self.device = pointer, size, entry.stream.device
        self.writer = entry.stream if waits else None
        self.readers, self.owner = entry.readers, owner


AnyMemory = Memory | ForeignMemory


def will_read(stream: Stream, memory: AnyMemory) -> None:
    """Let a stream wait for what it has to before it reads."""
    stream.wait_for(memory.writer)


def will_write(stream: Stream, memory: AnyMemory) -> None:
    """Let a stream wait for what it has to before it writes."""
    for other in (memory.writer, *memory.readers):
        stream.wait_for(other)


def has_read(stream: Stream, memory: AnyMemory) -> None:
    """Note that what a stream has recorded reads memory."""
    memory.readers.add(stream)


def has_written(stream: Stream, memory: AnyMemory) -> None:
    """Note that what a stream has recorded writes memory."""
    memory.writer = stream
    memory.readers = set()


class Entry:
    """The stream on which arrays of other libraries come in, one a GPU."""

    def __init__(self, device: int):
        self.stream = Stream(device)
        self.readers: set[Stream] = set()
        self.mutex = threading.Lock()

    def after(self, foreign: int) -> None:
        """Let the stream wait for another library's."""
        own = self.stream
        with self.mutex, own.driver.at(own.device):
            own.driver.record(own.event, foreign)
            own.driver.wait(own.handle, own.event)
            own.record()


def entry(device: int) -> Entry:
    """Return the entry of a GPU."""
    return kept(f"entry {device}", lambda: Entry(device))
