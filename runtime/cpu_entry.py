"""The fast call entry: one compiled ``METH_FASTCALL`` function that serves every executable.

It reads a *descriptor*, an int64 array that is the ``self`` of the callable, checks type, dtype,
rank and layout of every argument by reading the array headers, binds and compares sizes, plans,
allocates the results through NumPy's C interface, runs, and returns.  On any doubt it calls the
slow callable with the same arguments, which decides, and makes the error message.

The offsets of NumPy's and Python's structures are those of their public headers, and a self-test at
first use compares them with what known objects contain; without a match, on a Python without the
GIL, or on another Python than CPython, the slow callable is used for all calls.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Sequence

import numpy as np

from . import cpu_entry_text as layout
from . import cpu_blocks, cpu_poll
from .call import Executable
from .convert import Policy
from .cpu_entry_sizes import prologue_words
from .cpu_jit import HAS_GIL, Library, assemble, link, loading, python_functions
from .dtypes import numpy_dtype

MAX_WORDS = 8192
"""Stack words a fast call may use; functions with more arguments and sizes take the slow path."""

MAX_RANK = 32

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64")
"""Data types whose NumPy numbers the entry reads in place."""

# numpy/__multiarray_api.h: slots of the table in numpy._core._multiarray_umath._ARRAY_API.
SLOT_ARRAY_TYPE, SLOT_NEW_FROM_DESCR, SLOT_GET_HANDLER = 2, 94, 305
_METH_FASTCALL_KEYWORDS = 0x0080 | 0x0002


class _MethodDef(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p),
                ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


class _Descriptor(np.ndarray):
    """The int64 words of a descriptor; its attributes keep alive what they point to."""


_loaded: list[tuple[Library, _MethodDef, object] | None] = []
_definitions: list[_MethodDef] = []  # for ever: Python reads them even while it deletes a function


def make_entry(executable: Executable, slow: Callable[..., object] | None = None,
               following: Callable[..., object] | None = None,
               defaults: Sequence[np.ndarray | None] = ()) -> Callable[..., object]:
    """Return the fastest callable for an executable.

    Parameters
    ----------
    executable : Executable
    slow : callable, optional
        Called with the same arguments whenever the fast path has a doubt: by default
        ``executable.call``; a function with several variants puts its dispatcher here.
    following : callable, optional
        Called instead of ``slow`` when the arguments are not those this variant was compiled for:
        the entry of another variant.
    defaults : sequence of (ndarray or None)
        Values of arguments that a call leaves out; by default there are none.

    Returns
    -------
    callable
        ``following`` or ``slow`` itself when the executable has no fast path: it replaces shared
        storage, its prologue is long, or this Python offers none.
    """
    slow = executable.call if slow is None else slow
    following = slow if following is None else following
    names = _keywords(executable)
    defaults = tuple(defaults) or (None,) * len(names)
    words = _descriptor_words(executable, names, defaults)
    support = _support() if words is not None else None
    if words is None or support is None:
        return following
    library, method, _ = support
    words[layout.SLOW], words[layout.NEXT] = id(slow), id(following)
    descriptor = np.array(words, np.int64).view(_Descriptor)
    descriptor.flags.writeable = False
    dtypes = [numpy_dtype(row.dtype) for row in _typed(executable)]
    descriptor.kept = (executable, slow, following, names, defaults, dtypes, library)
    new_function = ctypes.pythonapi.PyCFunction_NewEx
    new_function.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    new_function.restype = ctypes.py_object
    return new_function(ctypes.addressof(method), descriptor, None)


def is_available() -> bool:
    """Return whether this Python and NumPy have the fast path."""
    return _support() is not None


def _typed(executable: Executable) -> list:
    artifact = executable.artifact
    return [*artifact.inputs, *artifact.shared, *artifact.outputs]


def _keywords(executable: Executable) -> list[str | None]:
    """Return the names by which arguments can be passed; None where two have the same one."""
    names = [sys.intern(argument.name) for argument in executable.artifact.inputs]
    return [name if names.count(name) == 1 else None for name in names]


def _address(thing: object) -> int:
    return 0 if thing is None else id(thing)


def _descriptor_words(executable: Executable, names: Sequence[str | None],
                      defaults: Sequence[np.ndarray | None]) -> list[int] | None:
    """Return the descriptor, or None when the executable needs the slow path."""
    artifact = executable.artifact
    rows, prologue = _argument_rows(executable), prologue_words(executable)
    constants = [array.ctypes.data for array in executable.constants]
    result_count = 1 + sum(output.rank for output in artifact.outputs)
    outputs = [word for output, cell in zip(artifact.outputs, executable.cells)
               for word in (id(numpy_dtype(output.dtype)), output.rank,
                            numpy_dtype(output.dtype).itemsize, _address(cell))]
    if rows is None or prologue is None \
            or any(o.shared is not None or o.rank > MAX_RANK for o in artifact.outputs) \
            or len(executable.storages) != executable.locks.count \
            or 2 * (len(rows) + len(outputs) + len(prologue)) + len(constants) + result_count \
            > MAX_WORDS:
        return None
    cells = [id(storage.cell) for storage in executable.storages]
    keys = executable.keys
    words = [0] * layout.ROWS
    words[layout.CONTROL] = executable.control.ctypes.data
    words[layout.PLAN], words[layout.RUN] = executable.code.plan, executable.code.run
    words[layout.INPUTS], words[layout.SHARED] = len(artifact.inputs), len(cells)
    words[layout.OUTPUTS], words[layout.CONSTANTS] = len(artifact.outputs), len(constants)
    words[layout.SYMBOLS], words[layout.RESULTS] = artifact.symbol_count, result_count
    words[layout.STRUCTURE] = layout.DICT if keys is not None \
        else layout.SINGLE if executable.single else layout.LIST
    words[layout.WRITES] = executable.writes
    words[layout.BORROWS] = any(cell is not None for cell in executable.cells)
    words[layout.OUT_NAME] = 0 if "out" in names else id(sys.intern("out"))
    words += rows
    for start, section in (
            (layout.CELLS, cells), (layout.LOCKS, list(executable.locks.words)),
            (layout.OUTPUT_ROWS, outputs), (layout.CONSTANT_ROWS, constants),
            (layout.NAMES, map(_address, names)), (layout.DEFAULTS, map(_address, defaults)),
            (layout.KEYS, map(id, keys or ())), (layout.PROLOGUE, prologue)):
        words[start] = len(words)
        words += section
    if not prologue:
        words[layout.PROLOGUE] = 0
    return words


def _argument_rows(executable: Executable) -> list[int] | None:
    """Return the rows that say what each argument must be, or None when a size stays unbound."""
    artifact = executable.artifact
    rows: list[int] = []
    bound: set[int] = set()
    strict = (Policy(strict=True),) * len(artifact.shared)
    for argument, policy in zip((*artifact.inputs, *artifact.shared),
                                (*executable.policies, *strict), strict=True):
        dtype = numpy_dtype(argument.dtype)
        rows += [id(dtype), dtype.num, dtype.itemsize, len(argument.axes),
                 *_numbers_taken(dtype, policy)]
        for axis in argument.axes:
            symbol = -axis - 1
            rows.append(axis if axis >= 0 else ~(2 * symbol + (symbol in bound)))
            if axis < 0:
                bound.add(symbol)
    computed = 0 if artifact.prologue is None else len(artifact.prologue.outputs)
    return rows if bound == set(range(artifact.symbol_count - computed)) else None


def _numbers_taken(dtype: np.dtype, policy: Policy) -> tuple[int, int]:
    """Return the NumPy type and the kind of Python numbers that a 0-d argument takes."""
    if policy.strict or dtype.name not in DTYPES:
        return 0, layout.KIND_NONE
    kinds = {"float64": layout.KIND_FLOAT64, "int64": layout.KIND_INT64}
    if policy.allow_downcast is not False:
        kinds["float32"] = layout.KIND_FLOAT32
    return id(dtype.type), kinds.get(dtype.name, layout.KIND_NONE)


def _support() -> tuple[Library, _MethodDef, object] | None:
    if not _loaded:
        with loading:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> tuple[Library, _MethodDef, object] | None:
    table = _array_table()
    if platform.python_implementation() != "CPython" or table is None \
            or not HAS_GIL or not _layout_holds(table):
        return None
    has_handler = cpu_blocks.is_supported() and _handler_is_named(table)
    # The longest piece of support code comes first: whoever needs LLVM next finds it free.
    code = assemble(layout.entry_text(has_handler), level=1)
    poll = cpu_poll.library()
    imports = python_functions(
        "PyObject_Vectorcall", "PyList_GetItem", "PyList_New", "PyList_SetItem", "PyErr_Clear",
        "PyDict_New", "PyDict_SetItem", "PyLong_AsLongLongAndOverflow", "PyEval_SaveThread",
        "PyEval_RestoreThread", "Py_IncRef", "Py_DecRef")
    imports |= {name: poll[name] for name in ("tx_now", "tx_take_interrupt")}
    handler = None
    if has_handler:
        handler, blocks = cpu_blocks.handler(), cpu_blocks.library()
        imports |= {name: blocks[name] for name in ("tx_block_take", "tx_block_free")}
    things = {"tx_array_type": np.ndarray, "tx_float_type": float, "tx_int_type": int,
              "tx_list_type": list, "tx_tuple_type": tuple, "tx_handler": handler}
    pointers = {name: _address(thing) for name, thing in things.items()} | {
        "tx_new_from_descr": table[SLOT_NEW_FROM_DESCR]}
    library = link([code], imports, ("tx_entry", *pointers))
    for name, value in pointers.items():
        ctypes.c_void_p.from_address(library[name]).value = value
    definition = _MethodDef(b"tetractys_function", library["tx_entry"], _METH_FASTCALL_KEYWORDS,
                            None)
    _definitions.append(definition)
    return library, definition, handler


def _array_table() -> ctypes.Array | None:
    """Return NumPy's table of C functions, as far as it is used here."""
    try:
        from numpy._core._multiarray_umath import _ARRAY_API as capsule
    except ImportError:
        return None
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.argtypes, get_pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    return (ctypes.c_void_p * (SLOT_GET_HANDLER + 1)).from_address(get_pointer(capsule, None))


def _layout_holds(table: ctypes.Array) -> bool:
    """Compare the structures of known objects with the offsets that the entry reads."""
    if object.__basicsize__ != 16 or table[SLOT_ARRAY_TYPE] != id(np.ndarray):
        return False
    plain = np.zeros((3, 5, 2))
    strided = np.zeros((4, 6), "int16")[::2, 1:]
    swapped = np.zeros(7, np.dtype("float32").newbyteorder())
    scalar = np.array(True)
    return all(map(_header_matches, (plain, strided, swapped, scalar))) \
        and _objects_match() and _makes_array(table[SLOT_NEW_FROM_DESCR])


def _objects_match() -> bool:
    """Compare numbers, tuples and lists with the offsets that the entry reads."""
    numbers = (2.5, *(np.dtype(name).type(1) for name in DTYPES))
    payloads = all(ctypes.string_at(id(number) + layout.PAYLOAD, np.asarray(number).nbytes)
                   == np.asarray(number).tobytes() for number in numbers)
    pair, several = (numbers[0], numbers), [numbers, *numbers[:2]]
    sizes = [ctypes.c_ssize_t.from_address(id(these) + layout.TUPLE_SIZE).value
             for these in (pair, several)]
    items = ctypes.c_void_p.from_address(id(several) + layout.LIST_ITEMS).value or 0
    found = [(ctypes.c_void_p * len(these)).from_address(place)[:]
             for these, place in ((pair, id(pair) + layout.TUPLE_ITEMS), (several, items))]
    return payloads and sizes == [2, 3] and found == [[*map(id, pair)], [*map(id, several)]]


def _handler_is_named(table: ctypes.Array) -> bool:
    """Return whether arrays name their memory's handler where the entry would write it."""
    current = ctypes.PYFUNCTYPE(ctypes.py_object)(table[SLOT_GET_HANDLER])()
    arrays = (np.empty(3), np.empty((2, 5), "int8"))
    return all(ctypes.c_void_p.from_address(id(array) + layout.HANDLER).value == id(current)
               and array.flags.num & layout.OWN_DATA_FLAG for array in arrays)


def _header_matches(array: np.ndarray) -> bool:
    def read(kind: type, address: int) -> int | None:
        return kind.from_address(address).value

    where, dtype = id(array), array.dtype
    dims = read(ctypes.c_void_p, where + layout.DIMS) or 0
    order = chr(read(ctypes.c_uint8, id(dtype) + layout.DESCR_ORDER))
    return (
        read(ctypes.c_void_p, where + 8) == id(np.ndarray)
        and read(ctypes.c_void_p, where + layout.DATA) == array.ctypes.data
        and read(ctypes.c_int, where + layout.RANK) == array.ndim
        and all(read(ctypes.c_int64, dims + 8 * k) == n for k, n in enumerate(array.shape))
        and read(ctypes.c_void_p, where + layout.DESCR) == id(dtype)
        and read(ctypes.c_int, where + layout.FLAGS) & 0x0501 == array.flags.num & 0x0501
        and read(ctypes.c_int, id(dtype) + layout.DESCR_NUMBER) == dtype.num
        and (order in "=|") == dtype.isnative)


def _makes_array(address: int) -> bool:
    """Make an array through NumPy's table, and look at it."""
    make = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_int, ctypes.c_void_p,
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(address)
    dtype = np.dtype("float32")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dtype))  # the call takes over one reference
    made = make(np.ndarray, dtype, 2, (ctypes.c_int64 * 2)(3, 4), None, None, 0, None)
    return type(made) is np.ndarray and made.shape == (3, 4) and made.dtype is dtype \
        and made.flags.c_contiguous and made.flags.owndata
