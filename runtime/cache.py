"""Artifacts and object code on disk, so that a program compiles once for all processes.

A file holds one entry: a magic line, the SHA-256 of the rest, a JSON header and raw bytes; nothing
in it is executed by reading it.  Files are written to a temporary name and renamed, so readers and
writers of many processes need no lock.  Whatever is wrong with the folder or with a file counts as
"not there"; the first such fault of a process is reported by one warning.

``TETRACTYS_CACHE_DIR`` names the folder, an empty value turns the cache off;
``TETRACTYS_CACHE_SIZE`` bounds its bytes (1 GiB by default): the entries unused for longest go
first.  The folder must belong to the user and be writable by nobody else, since it holds code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import sys
import time
import warnings
from dataclasses import fields

from .artifact import Argument, Artifact, Constant, Output

MAGIC = b"tetractys 1\n"
DEFAULT_SIZE = 1 << 30
_SUFFIX = ".tx"
_STALE_SECONDS = 3600
_used: dict[str, int] = {}
_warned: list[bool] = []


def get(key: str) -> Artifact | None:
    """Return the artifact stored under ``key``, or None."""
    payload = read(key)
    if payload is None:
        return None
    try:
        return decode(payload)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        _warn(f"a damaged entry is ignored ({error})")
        return None


def put(key: str, artifact: Artifact) -> None:
    """Store an artifact under ``key``, a text that determines it completely."""
    write(key, encode(artifact))


def read(key: str) -> bytes | None:
    """Return the bytes stored under ``key``, or None."""
    folder = _folder(create=False)
    if folder is None:
        return None
    path = _path(folder, key)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(f"cannot read {path}: {error}")
        return None
    start = len(MAGIC) + 32
    body = data[start:]
    if data[:len(MAGIC)] != MAGIC or hashlib.sha256(body).digest() != data[len(MAGIC):start]:
        _warn(f"a damaged entry is ignored ({path})")
        return None
    name = hashlib.sha256(key.encode()).digest()
    if body[:32] != name:
        return None
    with contextlib.suppress(OSError):  # a read-only cache still serves; it only cannot rank
        os.utime(path)
    return body[32:]


def write(key: str, payload: bytes) -> None:
    """Store bytes under ``key``."""
    limit = _limit()
    folder = _folder(create=True) if len(payload) < limit else None
    if folder is None:
        return
    body = hashlib.sha256(key.encode()).digest() + payload
    data = MAGIC + hashlib.sha256(body).digest() + body
    temporary = os.path.join(folder, f"{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, _path(folder, key))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        _warn(f"cannot write to {folder}: {error}")
        return
    if folder not in _used:
        _used[folder] = limit + 1  # unknown as yet: measure now
    _used[folder] += len(data)
    if _used[folder] > limit:
        _evict(folder, limit)


def folder() -> str | None:
    """Return the cache's folder, or None when the cache is off."""
    if "TETRACTYS_CACHE_DIR" in os.environ:
        return os.environ["TETRACTYS_CACHE_DIR"] or None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")
    return os.path.join(base, "tetractys") if os.path.isabs(base) else None


def _folder(create: bool) -> str | None:
    """Return the folder if it can be trusted."""
    path = folder()
    if path is None:
        return None
    try:
        if create:
            os.makedirs(path, mode=0o700, exist_ok=True)
        facts = os.stat(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _warn(f"cannot use {path}: {error}")
        return None
    if not stat.S_ISDIR(facts.st_mode):
        _warn(f"{path} is not a folder")
        return None
    if hasattr(os, "geteuid") and (facts.st_uid != os.geteuid() or facts.st_mode & 0o022):
        _warn(f"{path} belongs to another user, or others may write to it")
        return None
    return path


def _path(folder: str, key: str) -> str:
    return os.path.join(folder, hashlib.sha256(key.encode()).hexdigest() + _SUFFIX)


def _limit() -> int:
    text = os.environ.get("TETRACTYS_CACHE_SIZE", "").strip()
    if text and not text.isdecimal():
        _warn(f"TETRACTYS_CACHE_SIZE={text!r} is not a number of bytes")
    return int(text) if text.isdecimal() else DEFAULT_SIZE


def _warn(text: str) -> None:
    if not _warned:
        _warned.append(True)
        warnings.warn(f"Tetractys' disk cache: {text}", RuntimeWarning, stacklevel=3)


def _evict(folder: str, limit: int) -> None:
    """Measure the folder; when it is over the limit, delete down to four fifths of it."""
    entries, total, now = [], 0, time.time()
    try:
        listing = list(os.scandir(folder))
    except OSError:
        return
    for entry in listing:
        with contextlib.suppress(OSError):  # another process deleted it
            facts = entry.stat(follow_symlinks=False)
            if entry.name.endswith(".tmp") and now - facts.st_mtime > _STALE_SECONDS:
                os.unlink(entry.path)
            elif entry.name.endswith(_SUFFIX):
                entries.append((facts.st_mtime, facts.st_size, entry.path))
                total += facts.st_size
    if total > limit:
        for _, size, path in sorted(entries):
            if total <= limit * 4 // 5:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
    _used[folder] = total


def encode(artifact: Artifact) -> bytes:
    """Return an artifact as bytes: the length of a JSON header, the header, and the raw data."""
    blobs = bytearray()
    header = json.dumps(_to_json(artifact, blobs), separators=(",", ":")).encode()
    return b"".join((len(header).to_bytes(8, "little"), header, blobs))


def decode(payload: bytes) -> Artifact:
    """Return the artifact that ``encode`` wrote.

    Raises
    ------
    ValueError, TypeError, KeyError, IndexError
        When the bytes are no such artifact.
    """
    start = 8 + int.from_bytes(payload[:8], "little")
    if start > len(payload):
        raise ValueError("the entry is truncated")
    return _from_json(json.loads(payload[8:start]), memoryview(payload)[start:])


_ROWS: dict[type, dict[str, type]] = {
    Artifact: {"inputs": Argument, "shared": Argument, "outputs": Output, "constants": Constant}}
_BLOBS = {Artifact: "code", Constant: "data"}


def _to_json(record: object, blobs: bytearray) -> dict[str, object]:
    """Return a dataclass as JSON data; bytes become ``[offset, length]`` in ``blobs``."""
    result: dict[str, object] = {}
    rows, blob = _ROWS.get(type(record), {}), _BLOBS.get(type(record))
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name == blob:
            result[field.name] = _placed(value, blobs)
        elif field.name in rows:
            result[field.name] = [_to_json(row, blobs) for row in value]
        elif field.name == "prologue":
            result[field.name] = None if value is None else _to_json(value, blobs)
        else:
            result[field.name] = value
    return result


def _placed(value: bytes | tuple[bytes, ...], blobs: bytearray) -> list:
    """Append bytes to ``blobs``; return where they are, for several a list."""
    if isinstance(value, tuple):
        return [_placed(part, blobs) for part in value]
    blobs += value
    return [len(blobs) - len(value), len(value)]


def _taken(place: list, blobs: memoryview) -> bytes | tuple[bytes, ...]:
    """Return the bytes that ``_placed`` appended."""
    if all(isinstance(part, list) for part in place):
        return tuple(_taken(part, blobs) for part in place)
    offset, length = place
    if not 0 <= offset <= offset + length <= len(blobs):
        raise ValueError("the entry is truncated")
    return bytes(blobs[offset:offset + length])


def _from_json(data: dict[str, object], blobs: memoryview, record: type = Artifact) -> Artifact:
    """Return the dataclass that ``_to_json`` took apart."""
    values: dict[str, object] = {}
    rows, blob = _ROWS.get(record, {}), _BLOBS.get(record)
    for field in fields(record):
        value = data[field.name]
        if field.name == blob:
            values[field.name] = _taken(value, blobs)
        elif field.name in rows:
            values[field.name] = tuple(_from_json(row, blobs, rows[field.name]) for row in value)
        elif field.name == "prologue":
            values[field.name] = None if value is None else _from_json(value, blobs)
        else:
            values[field.name] = _frozen(value)
    return record(**values)


def _frozen(value: object) -> object:
    """Turn JSON's lists into tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
