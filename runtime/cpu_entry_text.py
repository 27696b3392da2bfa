"""The LLVM text of the fast call entry, and the layout of the descriptor it reads.

``cpu_entry.py`` fills descriptors and makes callables; here is what they execute.
"""

from __future__ import annotations

import re

from . import cpu_entry_check, cpu_entry_sizes, cpu_locks, cpu_poll
from .call import ARENA, BUSY, CAPACITY, RELEASE

RELEASE_BYTES = 1 << 20
"""Calls with more bytes of arguments release the GIL, whatever the last one took."""

MAX_ELEMENTS = 1 << 27
"""Results with more elements are allocated by the slow path, which checks the machine's memory."""

RELEASE_TICKS = max(1, cpu_poll.TICKS_PER_MS * 50 // 1000)
"""A call longer than this (about 50 microseconds) makes the next one release the GIL."""

# numpy/ndarraytypes.h: PyArrayObject_fields and PyArray_Descr, after the 16 bytes of PyObject.
DATA, RANK, DIMS, DESCR, FLAGS, HANDLER = 16, 24, 32, 56, 64, 88
DESCR_ORDER, DESCR_NUMBER = 26, 28
CARRAY_FLAGS = 0x0001 | 0x0100  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
OWN_DATA_FLAG = 0x0004  # NPY_ARRAY_OWNDATA
WRITABLE_FLAGS = CARRAY_FLAGS | 0x0400  # NPY_ARRAY_WRITEABLE
PAYLOAD = 16  # the value of a Python float or a NumPy number
TUPLE_SIZE, TUPLE_ITEMS, LIST_ITEMS = 16, 24, 24  # a list has its size where a tuple has it

# Words of the descriptor.  SLOW decides about calls that are unusual; NEXT, about those whose
# arguments are not what this variant was compiled for: another variant's entry, if there is one.
# From ROWS on there are rows for inputs and shared; the other sections start at the words named.
(SLOW, NEXT, CONTROL, PLAN, RUN, INPUTS, SHARED, OUTPUTS, CONSTANTS, SYMBOLS, RESULTS, STRUCTURE,
 WRITES, BORROWS, OUT_NAME, CELLS, LOCKS, OUTPUT_ROWS, CONSTANT_ROWS, NAMES, DEFAULTS, KEYS,
 PROLOGUE, ROWS) = range(24)

# A row: dtype object, its number, item size, rank, type of NumPy numbers that serve as this 0-d
# argument (or 0), kind of Python numbers that do, axes.  An axis is a size, or the complement of
# 2 k (bind symbol k) or of 2 k + 1 (compare with it).
ROW_TYPE, ROW_KIND, ROW_AXES = 4, 5, 6
KIND_NONE, KIND_FLOAT64, KIND_FLOAT32, KIND_INT64 = range(4)

# A row of an output: dtype object, rank, item size, and the cell of a borrowed one (or 0).
OUTPUT_WORDS = 4

LIST, SINGLE, DICT = range(3)
"""What a call returns: the values of ``STRUCTURE``."""

_NAMES = {name: value for name, value in globals().items() if isinstance(value, int)}

_ENTRY = """
@tx_array_type = global ptr null
@tx_new_from_descr = global ptr null
@tx_handler = global ptr null
@tx_float_type = global ptr null
@tx_int_type = global ptr null
@tx_list_type = global ptr null
@tx_tuple_type = global ptr null

declare i64 @tx_now()
$BLOCK_FUNCTIONS
declare ptr @tx_take_interrupt()
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare ptr @PyList_GetItem(ptr, i64)
declare ptr @PyList_New(i64)
declare i32 @PyList_SetItem(ptr, i64, ptr)
declare ptr @PyDict_New()
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare i64 @PyLong_AsLongLongAndOverflow(ptr, ptr)
declare void @PyErr_Clear()
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)

define ptr @tx_entry(ptr %self, ptr %args, i64 %nargs, ptr %names) {
entry:
  %d.at = getelementptr i8, ptr %self, i64 $DATA
  %d = load ptr, ptr %d.at
  $WORD(slow.callable, SLOW, ptr)
  $WORD(next.callable, NEXT, ptr)
  $WORD(control, CONTROL, ptr)
  $WORD(plan, PLAN, ptr)
  $WORD(run, RUN, ptr)
  $WORD(inputs, INPUTS, i64)
  $WORD(shared, SHARED, i64)
  $WORD(outputs, OUTPUTS, i64)
  $WORD(constants, CONSTANTS, i64)
  $WORD(symbol.count, SYMBOLS, i64)
  $WORD(result.count, RESULTS, i64)
  $WORD(structure, STRUCTURE, i64)
  $WORD(writes, WRITES, i64)
  $WORD(borrows, BORROWS, i64)
  $WORD(cells.word, CELLS, i64)
  $WORD(locks.word, LOCKS, i64)
  $WORD(outputs.word, OUTPUT_ROWS, i64)
  $WORD(constants.word, CONSTANT_ROWS, i64)
  %cells = getelementptr i64, ptr %d, i64 %cells.word
  %locks = getelementptr i64, ptr %d, i64 %locks.word
  %output.rows = getelementptr i64, ptr %d, i64 %outputs.word
  %constant.rows = getelementptr i64, ptr %d, i64 %constants.word
  %first.row = getelementptr i64, ptr %d, i64 $ROWS
  %positional = icmp eq ptr %names, null
  %complete = icmp eq i64 %nargs, %inputs
  %plain = and i1 %positional, %complete
  %out.at = alloca ptr
  store ptr null, ptr %out.at
  br i1 %plain, label %prepare, label %arrange
arrange:
  %ordered = alloca ptr, i64 %inputs
  %in.order = call i1 @order(ptr %args, i64 %nargs, ptr %names, ptr %d, ptr %ordered, ptr %out.at)
  br i1 %in.order, label %prepare, label %slow
prepare:
  %objects = phi ptr [ %args, %entry ], [ %ordered, %arrange ]
  %total = add i64 %inputs, %shared
  %with.outputs = add i64 %total, %outputs
  %pointer.count = add i64 %with.outputs, %constants
  %symbols = alloca i64, i64 %symbol.count
  %results = alloca i64, i64 %result.count
  %pointers = alloca ptr, i64 %pointer.count
  %extents = alloca i64, i64 %with.outputs
  %scratch = alloca i64, i64 %total
  %made = alloca ptr, i64 %outputs
  %held = alloca i64
  %status = alloca [2 x i64]
  store i64 0, ptr %held
  store [2 x i64] zeroinitializer, ptr %status
  br label %arguments

arguments:
  %i = phi i64 [ 0, %prepare ], [ %i.next, %accept ]
  %row = phi ptr [ %first.row, %prepare ], [ %row.next, %accept ]
  %bytes.sum = phi i64 [ 0, %prepare ], [ %bytes.next, %accept ]
  %more = icmp slt i64 %i, %total
  br i1 %more, label %argument, label %checked
argument:
  %is.input = icmp slt i64 %i, %inputs
  br i1 %is.input, label %from.args, label %from.cell
from.args:
  %arg.at = getelementptr ptr, ptr %objects, i64 %i
  %arg = load ptr, ptr %arg.at
  br label %check
from.cell:
  %c = sub i64 %i, %inputs
  %cell.at = getelementptr ptr, ptr %cells, i64 %c
  %cell = load ptr, ptr %cell.at
  %value = call ptr @PyList_GetItem(ptr %cell, i64 0)
  %empty = icmp eq ptr %value, null
  br i1 %empty, label %clear, label %check
check:
  %object = phi ptr [ %arg, %from.args ], [ %value, %from.cell ]
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %i
  %scratch.at = getelementptr i64, ptr %scratch, i64 %i
  %bytes = call i64 @check(ptr %object, ptr %row, ptr %symbols, ptr %pointer.at, ptr %scratch.at)
  %refused = icmp slt i64 %bytes, 0
  br i1 %refused, label %next, label %accept
accept:
  %extent.at = getelementptr i64, ptr %extents, i64 %i
  store i64 %bytes, ptr %extent.at
  %bytes.next = add i64 %bytes.sum, %bytes
  %rank.at = getelementptr i64, ptr %row, i64 3
  %rank = load i64, ptr %rank.at
  %row.words = add i64 %rank, $ROW_AXES
  %row.next = getelementptr i64, ptr %row, i64 %row.words
  %i.next = add i64 %i, 1
  br label %arguments

checked:
  %writing = icmp ne i64 %writes, 0
  br i1 %writing, label %aliases, label %sizing
aliases:
  %aliased = call i1 @overlap(ptr %pointers, ptr %extents, i64 %inputs, i64 %total)
  br i1 %aliased, label %slow, label %sizing
sizing:
  $WORD(prologue, PROLOGUE, i64)
  %has.prologue = icmp ne i64 %prologue, 0
  br i1 %has.prologue, label %reading, label %planning
reading:
  ; Shared variables that it reads do not change until the locks are taken again: the GIL is held.
  %readable = call i64 @tx_try_acquire(ptr %locks, i64 %shared, i64 0, ptr %held)
  %may.read = icmp ne i64 %readable, 0
  br i1 %may.read, label %read, label %slow
read:
  %prologue.words = getelementptr i64, ptr %d, i64 %prologue
  %known = call i1 @sizes(ptr %prologue.words, ptr %symbols, ptr %pointers, i64 %total)
  call void @tx_release(ptr %locks, i64 %shared, i64 0, ptr %held)
  br i1 %known, label %planning, label %slow
planning:
  %verdict = call i64 %plan(ptr %symbols, ptr %results)
  %fits = icmp eq i64 %verdict, 0
  br i1 %fits, label %arena, label %slow
arena:
  %need = load i64, ptr %results
  %some.arena = icmp ne i64 %need, 0
  %some.borrowed = icmp ne i64 %borrows, 0
  %any.need = or i1 %some.arena, %some.borrowed
  %capacity.at = getelementptr i64, ptr %control, i64 $CAPACITY
  %capacity = load i64, ptr %capacity.at
  %too.large = icmp ugt i64 %need, %capacity
  %busy.at = getelementptr i64, ptr %control, i64 $BUSY
  %busy = load i64, ptr %busy.at
  %is.busy = icmp ne i64 %busy, 0
  %blocked = and i1 %is.busy, %any.need
  %no.arena = or i1 %too.large, %blocked
  br i1 %no.arena, label %slow, label %destination

destination:
  ; `out`: an array, or a list or tuple of as many arrays as there are outputs.
  %out = load ptr, ptr %out.at
  %fresh = icmp eq ptr %out, null
  br i1 %fresh, label %allocate, label %caller.owned
caller.owned:
  %want.one = icmp eq i64 %structure, $SINGLE
  br i1 %want.one, label %allocate, label %sequence
sequence:
  %out.type.at = getelementptr i8, ptr %out, i64 8
  %out.type = load ptr, ptr %out.type.at
  %list.type = load ptr, ptr @tx_list_type
  %tuple.type = load ptr, ptr @tx_tuple_type
  %is.list = icmp eq ptr %out.type, %list.type
  %is.tuple = icmp eq ptr %out.type, %tuple.type
  %is.sequence = or i1 %is.list, %is.tuple
  %want.list = icmp eq i64 %structure, $LIST
  %right.kind = and i1 %is.sequence, %want.list
  br i1 %right.kind, label %lengths, label %slow
lengths:
  %length.at = getelementptr i8, ptr %out, i64 $TUPLE_SIZE
  %length = load i64, ptr %length.at
  %one.each = icmp eq i64 %length, %outputs
  %list.items.at = getelementptr i8, ptr %out, i64 $LIST_ITEMS
  %list.items = load ptr, ptr %list.items.at
  %tuple.items = getelementptr i8, ptr %out, i64 $TUPLE_ITEMS
  %items = select i1 %is.list, ptr %list.items, ptr %tuple.items
  br i1 %one.each, label %allocate, label %slow

allocate:
  %outs = phi ptr [ null, %destination ], [ %out.at, %caller.owned ], [ %items, %lengths ]
  %first.dims = getelementptr i64, ptr %results, i64 1
  %first.output = getelementptr ptr, ptr %pointers, i64 %total
  br label %outputs.loop
outputs.loop:
  %o = phi i64 [ 0, %allocate ], [ %o.next, %stored ]
  %dims = phi ptr [ %first.dims, %allocate ], [ %dims.next, %stored ]
  %more.outputs = icmp slt i64 %o, %outputs
  br i1 %more.outputs, label %measure, label %constants.start
measure:
  %o.word = mul i64 %o, $OUTPUT_WORDS
  %extent.out.index = add i64 %total, %o
  %extent.out = getelementptr i64, ptr %extents, i64 %extent.out.index
  %output.at = getelementptr ptr, ptr %first.output, i64 %o
  store i64 0, ptr %extent.out
  %o.row = getelementptr i64, ptr %output.rows, i64 %o.word
  %o.descr = load ptr, ptr %o.row
  %o.rank.at = getelementptr i64, ptr %o.row, i64 1
  %o.rank = load i64, ptr %o.rank.at
  %dims.next = getelementptr i64, ptr %dims, i64 %o.rank
  br label %extent
extent:
  %axis = phi i64 [ 0, %measure ], [ %axis.next, %extent.next ]
  %elements = phi i64 [ 1, %measure ], [ %elements.next, %extent.next ]
  %more.axes = icmp slt i64 %axis, %o.rank
  br i1 %more.axes, label %extent.next, label %create
extent.next:
  %size.at = getelementptr i64, ptr %dims, i64 %axis
  %size = load i64, ptr %size.at
  %elements.next = mul i64 %elements, %size
  %axis.next = add i64 %axis, 1
  br label %extent
create:
  %huge = icmp ugt i64 %elements, $MAX_ELEMENTS
  br i1 %huge, label %discard, label %where
where:
  %from.caller = icmp ne ptr %outs, null
  br i1 %from.caller, label %theirs, label %ours
theirs:
  %their.at = getelementptr ptr, ptr %outs, i64 %o
  %their.array = load ptr, ptr %their.at
  br label %offered
ours:
  %o.cell.at = getelementptr i64, ptr %o.row, i64 3
  %o.cell = load ptr, ptr %o.cell.at
  %is.borrowed = icmp ne ptr %o.cell, null
  br i1 %is.borrowed, label %again, label %new
again:
  %own.array = call ptr @PyList_GetItem(ptr %o.cell, i64 0)
  %lost = icmp eq ptr %own.array, null
  br i1 %lost, label %new.failed, label %offered
offered:
  %target = phi ptr [ %their.array, %theirs ], [ %own.array, %again ]
  %holds = call i1 @holds(ptr %target, ptr %o.descr, i64 %o.rank, ptr %dims)
  br i1 %holds, label %apart, label %discard
apart:
  %target.data.at = getelementptr i8, ptr %target, i64 $DATA
  %target.data = load ptr, ptr %target.data.at
  store ptr %target.data, ptr %output.at
  %o.item.at = getelementptr i64, ptr %o.row, i64 2
  %o.item = load i64, ptr %o.item.at
  %o.bytes = mul i64 %elements, %o.item
  store i64 %o.bytes, ptr %extent.out
  %after.out = add i64 %extent.out.index, 1
  %collides = call i1 @overlap(ptr %pointers, ptr %extents, i64 %extent.out.index, i64 %after.out)
  br i1 %collides, label %discard, label %adopt
adopt:
  call void @Py_IncRef(ptr %target)
  br label %stored
new:
  %new.item.at = getelementptr i64, ptr %o.row, i64 2
  %new.item = load i64, ptr %new.item.at
  %new.bytes = mul i64 %elements, %new.item
  %new.one = call ptr @make(ptr %o.descr, i64 %o.rank, ptr %dims, i64 %new.bytes)
  %failed = icmp eq ptr %new.one, null
  br i1 %failed, label %new.failed, label %stored
new.failed:
  call void @PyErr_Clear()
  br label %discard
stored:
  %array = phi ptr [ %new.one, %new ], [ %target, %adopt ]
  %made.at = getelementptr ptr, ptr %made, i64 %o
  store ptr %array, ptr %made.at
  %array.data.at = getelementptr i8, ptr %array, i64 $DATA
  %array.data = load ptr, ptr %array.data.at
  store ptr %array.data, ptr %output.at
  %o.next = add i64 %o, 1
  br label %outputs.loop

constants.start:
  %first.constant = getelementptr ptr, ptr %pointers, i64 %with.outputs
  %constant.bytes = shl i64 %constants, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %first.constant, ptr %constant.rows, i64 %constant.bytes,
                                   i1 false)
  ; Nothing below gives up before the code has run.
  %locked = call i64 @tx_try_acquire(ptr %locks, i64 %shared, i64 %writes, ptr %held)
  %lock.ok = icmp ne i64 %locked, 0
  br i1 %lock.ok, label %start, label %discard
start:
  %block.at = getelementptr i64, ptr %control, i64 $ARENA
  %block = load ptr, ptr %block.at
  br i1 %any.need, label %take, label %timed
take:
  store i64 -1, ptr %busy.at
  br label %timed
timed:
  %release.at = getelementptr i64, ptr %control, i64 $RELEASE
  %release = load i64, ptr %release.at
  %slow.before = icmp ne i64 %release, 0
  %large = icmp ugt i64 %bytes.sum, $RELEASE_BYTES
  %without.gil = or i1 %slow.before, %large
  %before = call i64 @tx_now()
  br i1 %without.gil, label %run.free, label %run.holding
run.holding:
  %code.holding = call i64 %run(ptr %symbols, ptr %pointers, ptr %block, ptr %status)
  %after.holding = call i64 @tx_now()
  br label %ran
run.free:
  %thread = call ptr @PyEval_SaveThread()
  %code.free = call i64 %run(ptr %symbols, ptr %pointers, ptr %block, ptr %status)
  %after.free = call i64 @tx_now()
  call void @PyEval_RestoreThread(ptr %thread)
  br label %ran
ran:
  %code = phi i64 [ %code.holding, %run.holding ], [ %code.free, %run.free ]
  %after = phi i64 [ %after.holding, %run.holding ], [ %after.free, %run.free ]
  %spent = sub i64 %after, %before
  %long = icmp sgt i64 %spent, $RELEASE_TICKS
  %long.word = zext i1 %long to i64
  store i64 %long.word, ptr %release.at
  call void @tx_release(ptr %locks, i64 %shared, i64 %writes, ptr %held)
  br i1 %any.need, label %give, label %verdict.code
give:
  store i64 0, ptr %busy.at
  br label %verdict.code
verdict.code:
  switch i64 %code, label %discard [ i64 0, label %success  i64 -1, label %interrupted ]

success:
  switch i64 %structure, label %list [ i64 $SINGLE, label %one  i64 $DICT, label %dict ]
one:
  %result = load ptr, ptr %made
  ret ptr %result
list:
  %list.object = call ptr @PyList_New(i64 %outputs)
  %no.list = icmp eq ptr %list.object, null
  br i1 %no.list, label %no.memory, label %fill
fill:
  %f = phi i64 [ 0, %list ], [ %f.next, %fill.one ]
  %more.results = icmp slt i64 %f, %outputs
  br i1 %more.results, label %fill.one, label %filled
fill.one:
  %f.at = getelementptr ptr, ptr %made, i64 %f
  %f.array = load ptr, ptr %f.at
  %f.rc = call i32 @PyList_SetItem(ptr %list.object, i64 %f, ptr %f.array)
  %f.next = add i64 %f, 1
  br label %fill
filled:
  ret ptr %list.object
dict:
  $WORD(keys.word, KEYS, i64)
  %keys = getelementptr i64, ptr %d, i64 %keys.word
  %dict.object = call ptr @PyDict_New()
  %no.dict = icmp eq ptr %dict.object, null
  br i1 %no.dict, label %no.memory, label %entries
entries:
  %e = phi i64 [ 0, %dict ], [ %e.next, %entered ]
  %more.entries = icmp slt i64 %e, %outputs
  br i1 %more.entries, label %enter, label %complete.dict
enter:
  %e.at = getelementptr ptr, ptr %made, i64 %e
  %e.array = load ptr, ptr %e.at
  %key.at = getelementptr ptr, ptr %keys, i64 %e
  %key = load ptr, ptr %key.at
  %e.rc = call i32 @PyDict_SetItem(ptr %dict.object, ptr %key, ptr %e.array)
  %e.failed = icmp ne i32 %e.rc, 0
  br i1 %e.failed, label %no.entry, label %entered
entered:
  call void @Py_DecRef(ptr %e.array)
  %e.next = add i64 %e, 1
  br label %entries
complete.dict:
  ret ptr %dict.object
no.entry:
  %left = sub i64 %outputs, %e
  call void @drop(ptr %e.at, i64 %left)
  call void @Py_DecRef(ptr %dict.object)
  ret ptr null
no.memory:
  call void @drop(ptr %made, i64 %outputs)
  ret ptr null
interrupted:
  call void @drop(ptr %made, i64 %outputs)
  %error = call ptr @tx_take_interrupt()
  ret ptr null

discard:
  ; The number of arrays made: all of them unless the loop above was left early.
  %count = phi i64 [ %o, %create ], [ %o, %new.failed ], [ %o, %offered ], [ %o, %apart ],
                   [ %outputs, %constants.start ], [ %outputs, %verdict.code ]
  call void @drop(ptr %made, i64 %count)
  br label %slow
clear:
  call void @PyErr_Clear()
  br label %slow
next:
  %other.answer = call ptr @PyObject_Vectorcall(ptr %next.callable, ptr %args, i64 %nargs,
                                                ptr %names)
  ret ptr %other.answer
slow:
  %answer = call ptr @PyObject_Vectorcall(ptr %slow.callable, ptr %args, i64 %nargs, ptr %names)
  ret ptr %answer
}

; A new array, in a block that is kept when it dies where there are such (see cpu_blocks.py).
define internal ptr @make(ptr %descr, i64 %rank, ptr %dims, i64 %bytes) {
entry:
  %new.array = load ptr, ptr @tx_new_from_descr
  %array.type = load ptr, ptr @tx_array_type
  %handler = load ptr, ptr @tx_handler
  %narrow = trunc i64 %rank to i32
  call void @Py_IncRef(ptr %descr)
  %plain = icmp eq ptr %handler, null
  br i1 %plain, label %ordinary, label %take
ordinary:
  %array = call ptr %new.array(ptr %array.type, ptr %descr, i32 %narrow, ptr %dims,
                               ptr null, ptr null, i32 0, ptr null)
  ret ptr %array
take:
  %block = call ptr @tx_block_take(i64 %bytes)
  %none = icmp eq ptr %block, null
  br i1 %none, label %ordinary, label %wrap
wrap:
  %owner = call ptr %new.array(ptr %array.type, ptr %descr, i32 %narrow, ptr %dims,
                               ptr null, ptr %block, i32 $WRITABLE_FLAGS, ptr null)
  %failed = icmp eq ptr %owner, null
  br i1 %failed, label %give, label %own
give:
  call void @tx_block_free(ptr null, ptr %block, i64 %bytes)
  ret ptr null
own:
  %flags.at = getelementptr i8, ptr %owner, i64 $FLAGS
  %flags = load i32, ptr %flags.at
  %owning = or i32 %flags, $OWN_DATA_FLAG
  store i32 %owning, ptr %flags.at
  call void @Py_IncRef(ptr %handler)
  %handler.at = getelementptr i8, ptr %owner, i64 $HANDLER
  store ptr %handler, ptr %handler.at
  ret ptr %owner
}

declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare float @llvm.fabs.f32(float)
declare i64 @llvm.abs.i64(i64, i1)

define internal void @drop(ptr %arrays, i64 %count) {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %one ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %at = getelementptr ptr, ptr %arrays, i64 %i
  %array = load ptr, ptr %at
  call void @Py_DecRef(ptr %array)
  %i.next = add i64 %i, 1
  br label %next
done:
  ret void
}
"""

# The shared arrays need no references of the call's own: a cell is replaced only under its
# exclusive lock, and the call holds that lock, shared or exclusively, until the code has run.


_WITH_BLOCKS = """
declare ptr @tx_block_take(i64)
declare void @tx_block_free(ptr, ptr, i64)
"""
_WITHOUT_BLOCKS = """
define internal ptr @tx_block_take(i64 %size) { ret ptr null }
define internal void @tx_block_free(ptr %context, ptr %block, i64 %size) { ret void }
"""


def entry_text(has_blocks: bool) -> str:
    """Return the module that defines ``tx_entry``.

    Parameters
    ----------
    has_blocks : bool
        Whether results are made in the blocks of ``cpu_blocks.py``.
    """
    text = re.sub(
        r"\$WORD\(([\w.]+), (\w+), (\w+)\)",
        r"%\1.word.at = getelementptr i64, ptr %d, i64 $\2\n"
        r"  %\1 = load \3, ptr %\1.word.at", cpu_entry_check.TEXT + _ENTRY)
    text = text.replace("$BLOCK_FUNCTIONS", _WITH_BLOCKS if has_blocks else _WITHOUT_BLOCKS)
    text = re.sub(r"\$([A-Z_0-9]+)", lambda match: str(_NAMES[match[1]]), text)
    return text + cpu_entry_sizes.sizes_text() + cpu_locks.TEXT
