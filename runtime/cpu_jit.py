"""The process-wide LLVM JIT: LLVM text in, object code out; object code in, addresses out.

One LLJIT serves the process.  It is created on first use and never disposed of, so that machine
code stays valid for threads that outlive the main thread's last statement.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
import threading
from collections.abc import Iterable, Mapping
from itertools import count

from . import cache

loading = threading.RLock()
"""Held while code is compiled or loaded; nobody forks meanwhile."""

_serials = count()
_state: dict[str, object] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=loading.acquire, after_in_parent=loading.release,
                        after_in_child=loading.release)

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
IS_ARM = platform.machine().lower() in ("aarch64", "arm64")

HAS_GIL = "free-threading" not in sys.version
"""Whether this is not a build of Python for free threading, whose version says so."""


class Library:
    """Machine code that is linked and ready to call.

    Attributes
    ----------
    addresses : dict of str to int
        Of the exported symbols; valid as long as this object lives.
    """

    __slots__ = ("addresses", "_tracker")

    def __init__(self, tracker: object, exports: Iterable[str]):
        self._tracker = tracker
        self.addresses: dict[str, int] = {name: tracker[name] for name in exports}

    def __getitem__(self, name: str) -> int:
        return self.addresses[name]


def _binding() -> object:
    """Import llvmlite and set up the native target, once."""
    if "binding" not in _state:
        import llvmlite.binding as binding
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        _state["binding"] = binding
    return _state["binding"]


def host() -> tuple[str, dict[str, bool]]:
    """Return LLVM's name of the processor, and which features it has."""
    binding = _binding()
    return binding.get_host_cpu_name(), dict(binding.get_host_cpu_features())


def _jit() -> object:
    if "jit" not in _state:
        _state["jit"] = _binding().create_lljit_compiler()
    return _state["jit"]


def assemble(text: str, level: int = 0) -> bytes:
    """Compile LLVM text of the runtime's own support code to an object file.

    The code is generic (no optional CPU features), and kept in the disk cache.  The text is written
    as it should run: optimising it would take twice the time and measures the same.

    Parameters
    ----------
    text : str
    level : int
        Of LLVM's code generator: 1 takes half a millisecond for each function and more for large
        ones, five times as long as 0, and pays in the call entry alone (30 ns a call).
    """
    import llvmlite
    key = f"support {llvmlite.__version__} {sys.platform} {platform.machine()} {level} " \
        + hashlib.sha256(text.encode()).hexdigest()
    code = cache.read(key)
    if code is None:
        with loading:
            code = _compile(text, level)
        cache.write(key, code)
    return code


def _compile(text: str, level: int) -> bytes:
    machine, head = _generator(level)
    module = _binding().parse_assembly(head + text)
    module.verify()
    return machine.emit_object(module)


def _generator(level: int) -> tuple[object, str]:
    """Return LLVM's code generator of a level, and what a module for it begins with.

    Beside a busy main thread each call of LLVM waits for the GIL on its return, which takes some
    milliseconds: what all modules need is asked once.
    """
    key = f"generator {level}"
    if key not in _state:
        machine = _binding().Target.from_default_triple().create_target_machine(
            opt=level, reloc="pic", codemodel="default")
        _state[key] = machine, (f'target triple = "{machine.triple}"\n'
                                f'target datalayout = "{machine.target_data}"\n')
    return _state[key]


def link(objects: Iterable[bytes], imports: Mapping[str, int], exports: Iterable[str]) -> Library:
    """Load object files into the process, where they may call each other.

    Parameters
    ----------
    objects : iterable of bytes
    imports : mapping of str to int
        Addresses of everything the code calls.
    exports : iterable of str
        The symbols whose addresses are wanted.

    Raises
    ------
    RuntimeError
        When one is not an object file for this machine, or a symbol is missing.
    """
    exports = tuple(exports)
    with loading:
        jit = _jit()
        builder = _binding().JITLibraryBuilder()
        for code in objects:
            builder.add_object_img(code)
        for name, address in imports.items():
            builder.import_symbol(name, address)
        for name in exports:
            builder.export_symbol(name)
        return Library(builder.link(jit, f"tetractys-{next(_serials)}"), exports)


def address_of(function: object) -> int:
    """Return the address of a ctypes function."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def python_functions(*names: str) -> dict[str, int]:
    """Return the addresses of functions of Python's stable C interface."""
    return {name: address_of(getattr(ctypes.pythonapi, name)) for name in names}


def system_functions(*names: str) -> dict[str, int]:
    """Return the addresses of functions of the C library (of kernel32 on Windows)."""
    library = ctypes.WinDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
    return {name: address_of(getattr(library, name)) for name in names}
