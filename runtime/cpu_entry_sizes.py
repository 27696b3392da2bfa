"""The part of the call entry that computes sizes which are values, such as the ``n`` of ``x[:n]``.

A *prologue*, a small function of the same arguments, returns them as int64 scalars; the entry lets
it write them behind the sizes that axes bind.  Its words lie in the descriptor of the function, and
what it needs beside arguments and constants (an arena, much time, a prologue of its own) is left to
the slow path.
"""

from __future__ import annotations

import re

from .call import RELEASE_WORK, Executable

PLAN, RUN, COUNT, FIRST, RESULTS, CONSTANTS, ROWS = range(7)
"""Its two functions, the number of sizes, the first one's place among the symbols, the words that
its plan fills, the number of its constants; then their addresses."""

_NAMES = {name: value for name, value in globals().items() if isinstance(value, int)}

_SIZES = """
define internal i1 @sizes(ptr %words, ptr %symbols, ptr %arguments, i64 %total) {
entry:
  $PART(plan, PLAN, ptr)
  $PART(run, RUN, ptr)
  $PART(count, COUNT, i64)
  $PART(first, FIRST, i64)
  $PART(result.count, RESULTS, i64)
  $PART(constants, CONSTANTS, i64)
  %results = alloca i64, i64 %result.count
  %verdict = call i64 %plan(ptr %symbols, ptr %results)
  %arena = load i64, ptr %results
  %either = or i64 %verdict, %arena
  %fits = icmp eq i64 %either, 0
  br i1 %fits, label %gather, label %no
gather:
  %with.sizes = add i64 %total, %count
  %pointer.count = add i64 %with.sizes, %constants
  %pointers = alloca ptr, i64 %pointer.count
  %status = alloca [2 x i64]
  store [2 x i64] zeroinitializer, ptr %status
  %argument.bytes = shl i64 %total, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %pointers, ptr %arguments, i64 %argument.bytes, i1 false)
  %first.constant = getelementptr ptr, ptr %pointers, i64 %with.sizes
  %constant.rows = getelementptr i64, ptr %words, i64 $ROWS
  %constant.bytes = shl i64 %constants, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %first.constant, ptr %constant.rows, i64 %constant.bytes,
                                   i1 false)
  br label %size
size:
  %i = phi i64 [ 0, %gather ], [ %i.next, %place ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %place, label %compute
place:
  %symbol = add i64 %first, %i
  %symbol.at = getelementptr i64, ptr %symbols, i64 %symbol
  %pointer = add i64 %total, %i
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %pointer
  store ptr %symbol.at, ptr %pointer.at
  %i.next = add i64 %i, 1
  br label %size
compute:
  %code = call i64 %run(ptr %symbols, ptr %pointers, ptr null, ptr %status)
  %done = icmp eq i64 %code, 0
  ret i1 %done
no:
  ret i1 false
}
"""


def sizes_text() -> str:
    """Return the text of ``sizes``, which tells whether it could compute them."""
    text = re.sub(r"\$PART\(([\w.]+), (\w+), (\w+)\)",
                  r"%\1.at = getelementptr i64, ptr %words, i64 $\2\n"
                  r"  %\1 = load \3, ptr %\1.at", _SIZES)
    return re.sub(r"\$([A-Z]+)", lambda match: str(_NAMES[match[1]]), text)


def prologue_words(executable: Executable) -> list[int] | None:
    """Return the words of an executable's prologue: none if it has none; None when the entry cannot
    run it."""
    prologue = executable.prologue
    if prologue is None:
        return []
    artifact, whole = prologue.artifact, executable.artifact
    first = whole.symbol_count - len(artifact.outputs)
    axes = [[row.axes for row in (*each.inputs, *each.shared)] for each in (artifact, whole)]
    if prologue.prologue is not None or artifact.symbol_count != first or axes[0] != axes[1] \
            or artifact.updates_in_place or not artifact.work.isdecimal() \
            or int(artifact.work) >= RELEASE_WORK \
            or any((output.dtype, output.rank) != ("int64", 0) for output in artifact.outputs):
        return None
    constants = [array.ctypes.data for array in prologue.constants]
    return [prologue.code.plan, prologue.code.run, len(artifact.outputs), first, 1, len(constants),
            *constants]
