"""The LLVM text of the fast call entry, and the layout of the descriptor it reads.

``cpu_entry.py`` fills descriptors and makes callables; here is what they execute.
"""

from __future__ import annotations

import re

from . import cpu_locks, cpu_poll
from .call import ARENA, BUSY, CAPACITY, RELEASE

RELEASE_BYTES = 1 << 20
"""Calls with more bytes of arguments release the GIL, whatever the last one took."""

MAX_ELEMENTS = 1 << 27
"""Results with more elements are allocated by the slow path, which checks the machine's memory."""

RELEASE_TICKS = max(1, cpu_poll.TICKS_PER_MS * 50 // 1000)
"""A call longer than this (about 50 microseconds) makes the next one release the GIL."""

# numpy/ndarraytypes.h: PyArrayObject_fields and PyArray_Descr, after the 16 bytes of PyObject.
DATA, RANK, DIMS, DESCR, FLAGS = 16, 24, 32, 56, 64
DESCR_ORDER, DESCR_NUMBER = 26, 28
CARRAY_FLAGS = 0x0001 | 0x0100  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED

# Words of the descriptor; then rows for inputs and shared (dtype object, its number, item size,
# rank, axes), cells, lock words, rows for outputs (dtype object, rank), addresses of constants.
# An axis is a size, or the complement of 2 k (bind symbol k) or of 2 k + 1 (compare with it).
(SLOW, CONTROL, PLAN, RUN, INPUTS, SHARED, OUTPUTS, CONSTANTS, SYMBOLS, RESULTS, SINGLE, WRITES,
 CELLS, LOCKS, OUTPUT_ROWS, CONSTANT_ROWS, ROWS) = range(17)

_NAMES = {name: value for name, value in globals().items() if isinstance(value, int)}

_CHECK = """
; Check one array against its row, bind its sizes; return its bytes, or -1 for any doubt.
define internal i64 @check(ptr %object, ptr %row, ptr %symbols) alwaysinline {
entry:
  %type.at = getelementptr i8, ptr %object, i64 8
  %type = load ptr, ptr %type.at
  %array.type = load ptr, ptr @tx_array_type
  %is.array = icmp eq ptr %type, %array.type
  br i1 %is.array, label %dtype, label %no
dtype:
  %descr.at = getelementptr i8, ptr %object, i64 $DESCR
  %descr = load ptr, ptr %descr.at
  %want = load ptr, ptr %row
  %same = icmp eq ptr %descr, %want
  br i1 %same, label %layout, label %equal
equal:
  %number.at = getelementptr i8, ptr %descr, i64 $DESCR_NUMBER
  %number = load i32, ptr %number.at
  %order.at = getelementptr i8, ptr %descr, i64 $DESCR_ORDER
  %order = load i8, ptr %order.at
  %want.number.at = getelementptr i64, ptr %row, i64 1
  %want.number = load i32, ptr %want.number.at
  %number.ok = icmp eq i32 %number, %want.number
  %native = icmp eq i8 %order, 61
  %no.order = icmp eq i8 %order, 124
  %order.ok = or i1 %native, %no.order
  %equal.ok = and i1 %number.ok, %order.ok
  br i1 %equal.ok, label %layout, label %no
layout:
  %rank.at = getelementptr i8, ptr %object, i64 $RANK
  %rank = load i32, ptr %rank.at
  %flags.at = getelementptr i8, ptr %object, i64 $FLAGS
  %flags = load i32, ptr %flags.at
  %bits = and i32 %flags, $CARRAY_FLAGS
  %carray = icmp eq i32 %bits, $CARRAY_FLAGS
  %want.rank.at = getelementptr i64, ptr %row, i64 3
  %want.rank = load i64, ptr %want.rank.at
  %rank.wide = sext i32 %rank to i64
  %rank.ok = icmp eq i64 %rank.wide, %want.rank
  %layout.ok = and i1 %carray, %rank.ok
  br i1 %layout.ok, label %sizes, label %no
sizes:
  %item.at = getelementptr i64, ptr %row, i64 2
  %item = load i64, ptr %item.at
  %dims.at = getelementptr i8, ptr %object, i64 $DIMS
  %dims = load ptr, ptr %dims.at
  br label %axis
axis:
  %i = phi i64 [ 0, %sizes ], [ %i.next, %axis.done ]
  %bytes = phi i64 [ %item, %sizes ], [ %bytes.next, %axis.done ]
  %more = icmp slt i64 %i, %want.rank
  br i1 %more, label %size, label %yes
size:
  %dim.at = getelementptr i64, ptr %dims, i64 %i
  %dim = load i64, ptr %dim.at
  %bytes.next = mul i64 %bytes, %dim
  %code.index = add i64 %i, 4
  %code.at = getelementptr i64, ptr %row, i64 %code.index
  %code = load i64, ptr %code.at
  %constant = icmp sge i64 %code, 0
  br i1 %constant, label %compare, label %symbol
compare:
  %code.ok = icmp eq i64 %code, %dim
  br i1 %code.ok, label %axis.done, label %no
symbol:
  %flipped = xor i64 %code, -1
  %k = lshr i64 %flipped, 1
  %slot = getelementptr i64, ptr %symbols, i64 %k
  %known = trunc i64 %flipped to i1
  br i1 %known, label %repeat, label %bind
bind:
  store i64 %dim, ptr %slot
  br label %axis.done
repeat:
  %earlier = load i64, ptr %slot
  %agrees = icmp eq i64 %earlier, %dim
  br i1 %agrees, label %axis.done, label %no
axis.done:
  %i.next = add i64 %i, 1
  br label %axis
yes:
  ret i64 %bytes
no:
  ret i64 -1
}

; Whether one of the inputs overlaps one of the shared arrays.
define internal i1 @overlap(ptr %pointers, ptr %extents, i64 %inputs, i64 %total) {
entry:
  br label %outer
outer:
  %i = phi i64 [ 0, %entry ], [ %i.next, %outer.done ]
  %more = icmp slt i64 %i, %inputs
  br i1 %more, label %input, label %no
input:
  %a.at = getelementptr i64, ptr %pointers, i64 %i
  %a = load i64, ptr %a.at
  %a.bytes.at = getelementptr i64, ptr %extents, i64 %i
  %a.bytes = load i64, ptr %a.bytes.at
  %a.end = add i64 %a, %a.bytes
  br label %inner
inner:
  %j = phi i64 [ %inputs, %input ], [ %j.next, %apart ]
  %another = icmp slt i64 %j, %total
  br i1 %another, label %pair, label %outer.done
pair:
  %b.at = getelementptr i64, ptr %pointers, i64 %j
  %b = load i64, ptr %b.at
  %b.bytes.at = getelementptr i64, ptr %extents, i64 %j
  %b.bytes = load i64, ptr %b.bytes.at
  %b.end = add i64 %b, %b.bytes
  %below = icmp ult i64 %a, %b.end
  %above = icmp ult i64 %b, %a.end
  %both = and i1 %below, %above
  br i1 %both, label %yes, label %apart
apart:
  %j.next = add i64 %j, 1
  br label %inner
outer.done:
  %i.next = add i64 %i, 1
  br label %outer
yes:
  ret i1 true
no:
  ret i1 false
}
"""

_ENTRY = """
@tx_array_type = global ptr null
@tx_new_from_descr = global ptr null

declare i64 @tx_now()
declare ptr @tx_take_interrupt()
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare ptr @PyList_GetItem(ptr, i64)
declare ptr @PyList_New(i64)
declare i32 @PyList_SetItem(ptr, i64, ptr)
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
  $WORD(control, CONTROL, ptr)
  $WORD(plan, PLAN, ptr)
  $WORD(run, RUN, ptr)
  $WORD(inputs, INPUTS, i64)
  $WORD(shared, SHARED, i64)
  $WORD(outputs, OUTPUTS, i64)
  $WORD(constants, CONSTANTS, i64)
  $WORD(symbol.count, SYMBOLS, i64)
  $WORD(result.count, RESULTS, i64)
  $WORD(single, SINGLE, i64)
  $WORD(writes, WRITES, i64)
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
  br i1 %plain, label %prepare, label %slow
prepare:
  %total = add i64 %inputs, %shared
  %with.outputs = add i64 %total, %outputs
  %pointer.count = add i64 %with.outputs, %constants
  %symbols = alloca i64, i64 %symbol.count
  %results = alloca i64, i64 %result.count
  %pointers = alloca ptr, i64 %pointer.count
  %extents = alloca i64, i64 %total
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
  %arg.at = getelementptr ptr, ptr %args, i64 %i
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
  %bytes = call i64 @check(ptr %object, ptr %row, ptr %symbols)
  %refused = icmp slt i64 %bytes, 0
  br i1 %refused, label %slow, label %accept
accept:
  %data.at = getelementptr i8, ptr %object, i64 $DATA
  %data = load ptr, ptr %data.at
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %i
  store ptr %data, ptr %pointer.at
  %extent.at = getelementptr i64, ptr %extents, i64 %i
  store i64 %bytes, ptr %extent.at
  %bytes.next = add i64 %bytes.sum, %bytes
  %rank.at = getelementptr i64, ptr %row, i64 3
  %rank = load i64, ptr %rank.at
  %row.words = add i64 %rank, 4
  %row.next = getelementptr i64, ptr %row, i64 %row.words
  %i.next = add i64 %i, 1
  br label %arguments

checked:
  %writing = icmp ne i64 %writes, 0
  br i1 %writing, label %aliases, label %planning
aliases:
  %aliased = call i1 @overlap(ptr %pointers, ptr %extents, i64 %inputs, i64 %total)
  br i1 %aliased, label %slow, label %planning
planning:
  %verdict = call i64 %plan(ptr %symbols, ptr %results)
  %fits = icmp eq i64 %verdict, 0
  br i1 %fits, label %arena, label %slow
arena:
  %need = load i64, ptr %results
  %any.need = icmp ne i64 %need, 0
  %capacity.at = getelementptr i64, ptr %control, i64 $CAPACITY
  %capacity = load i64, ptr %capacity.at
  %too.large = icmp ugt i64 %need, %capacity
  %busy.at = getelementptr i64, ptr %control, i64 $BUSY
  %busy = load i64, ptr %busy.at
  %is.busy = icmp ne i64 %busy, 0
  %blocked = and i1 %is.busy, %any.need
  %no.arena = or i1 %too.large, %blocked
  br i1 %no.arena, label %slow, label %allocate

allocate:
  %first.dims = getelementptr i64, ptr %results, i64 1
  %first.output = getelementptr ptr, ptr %pointers, i64 %total
  %new.array = load ptr, ptr @tx_new_from_descr
  %array.type = load ptr, ptr @tx_array_type
  br label %outputs.loop
outputs.loop:
  %o = phi i64 [ 0, %allocate ], [ %o.next, %stored ]
  %dims = phi ptr [ %first.dims, %allocate ], [ %dims.next, %stored ]
  %more.outputs = icmp slt i64 %o, %outputs
  br i1 %more.outputs, label %measure, label %constants.start
measure:
  %o.word = shl i64 %o, 1
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
  br i1 %huge, label %discard, label %new
new:
  call void @Py_IncRef(ptr %o.descr)
  %rank.narrow = trunc i64 %o.rank to i32
  %array = call ptr %new.array(ptr %array.type, ptr %o.descr, i32 %rank.narrow, ptr %dims,
                               ptr null, ptr null, i32 0, ptr null)
  %failed = icmp eq ptr %array, null
  br i1 %failed, label %new.failed, label %stored
new.failed:
  call void @PyErr_Clear()
  br label %discard
stored:
  %made.at = getelementptr ptr, ptr %made, i64 %o
  store ptr %array, ptr %made.at
  %array.data.at = getelementptr i8, ptr %array, i64 $DATA
  %array.data = load ptr, ptr %array.data.at
  %output.at = getelementptr ptr, ptr %first.output, i64 %o
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
  %only = icmp ne i64 %single, 0
  br i1 %only, label %one, label %list
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
no.memory:
  call void @drop(ptr %made, i64 %outputs)
  ret ptr null
interrupted:
  call void @drop(ptr %made, i64 %outputs)
  %error = call ptr @tx_take_interrupt()
  ret ptr null

discard:
  ; The number of arrays made: all of them unless the loop above was left early.
  %count = phi i64 [ %o, %create ], [ %o, %new.failed ], [ %outputs, %constants.start ],
                   [ %outputs, %verdict.code ]
  call void @drop(ptr %made, i64 %count)
  br label %slow
clear:
  call void @PyErr_Clear()
  br label %slow
slow:
  %answer = call ptr @PyObject_Vectorcall(ptr %slow.callable, ptr %args, i64 %nargs, ptr %names)
  ret ptr %answer
}

declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

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


def entry_text() -> str:
    """Return the module that defines ``tx_entry``."""
    text = re.sub(
        r"\$WORD\(([\w.]+), (\w+), (\w+)\)",
        r"%\1.word.at = getelementptr i64, ptr %d, i64 $\2\n"
        r"  %\1 = load \3, ptr %\1.word.at", _ENTRY)
    text = re.sub(r"\$([A-Z_]+)", lambda match: str(_NAMES[match[1]]), _CHECK + text)
    return text + cpu_locks.TEXT
