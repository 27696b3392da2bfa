"""Kernels that run together: one parallel region whose tasks range over all of them.

A *table* on the stack has five words for each kernel: its task function, the frame with its
arguments, the iterations of its parallel loop, how many of them make one of the group's tasks, and
the number of the first task that is no longer its own.  ``tx.group`` is the body of the region: it
finds the kernel of its first task, and calls a task function once for all tasks of a kernel.

Flat kernels that differ in their number of iterations only (the updates of parameters of different
shapes) are one function, compiled once: the range is an argument anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

from ..dims import Symbol, as_dim
from ..loop.ir import For, Nest
from ..loop.rewrite import Rewriter
from ..loop.text import Signature, nest_signature
from ..loop.walk import statements
from .llvm_kernel import FLAT_UNIT, parallel_loop

ENTRY_WORDS = 5

GROUP_DECLARATION = "declare void @tx.group(ptr, i64, i64)"
GROUP = """
define void @tx.group(ptr %table, i64 %begin, i64 %end) noinline nounwind {
entry:
  br label %look
look:
  %number = phi i64 [ 0, %entry ], [ %following, %pass ], [ %number, %called ]
  %first = phi i64 [ 0, %entry ], [ %last, %pass ], [ %first, %called ]
  %task = phi i64 [ %begin, %entry ], [ %task, %pass ], [ %stop, %called ]
  %some = icmp slt i64 %task, %end
  br i1 %some, label %read, label %done
read:
  %at = mul nuw nsw i64 %number, 5
  %place = getelementptr inbounds i64, ptr %table, i64 %at
  %last.at = getelementptr inbounds i64, ptr %place, i64 4
  %last = load i64, ptr %last.at, align 8
  %own = icmp slt i64 %task, %last
  br i1 %own, label %call, label %pass
pass:
  %following = add nuw nsw i64 %number, 1
  br label %look
call:
  %frame.at = getelementptr inbounds i64, ptr %place, i64 1
  %extent.at = getelementptr inbounds i64, ptr %place, i64 2
  %chunk.at = getelementptr inbounds i64, ptr %place, i64 3
  %function = load ptr, ptr %place, align 8
  %frame = load ptr, ptr %frame.at, align 8
  %extent = load i64, ptr %extent.at, align 8
  %chunk = load i64, ptr %chunk.at, align 8
  %stop = call i64 @llvm.smin.i64(i64 %end, i64 %last)
  %lower = sub nsw i64 %task, %first
  %upper = sub nsw i64 %stop, %first
  %from = mul nsw i64 %lower, %chunk
  %whole = mul nsw i64 %upper, %chunk
  %to = call i64 @llvm.smin.i64(i64 %whole, i64 %extent)
  call void %function(ptr %frame, i64 %from, i64 %to)
  br label %called
called:
  br label %look
done:
  ret void
}"""


@dataclass(frozen=True, slots=True)
class Generic:
    """A nest without the extent of its parallel loop.

    Attributes
    ----------
    nest : Nest
    signature : Signature
        Of this form.
    extent : Symbol
        Stands for the number of iterations.
    value : int
        That number.
    multiple : int
        All nests that share the code have a multiple of so many iterations.
    """

    nest: Nest
    signature: Signature
    extent: Symbol
    value: int
    multiple: int


def generic_nests(nests: Sequence[Nest]) -> list[Generic | None]:
    """Return, of each nest that differs from another one in its number of iterations only, the
    form they share."""
    extents: dict[str, set[int]] = {}
    for nest in nests:
        if _is_flat(nest):
            extents.setdefault(nest.name, set()).add(nest.body[0].extent)
    # Nests with one name may be alike; it takes their texts to know.
    forms = [_without_extent(nest) if len(extents.get(nest.name, ())) > 1 and _is_flat(nest)
             else None for nest in nests]
    alike: dict[str, list[int]] = {}
    for number, form in enumerate(forms):
        if form is not None:
            alike.setdefault(form.signature.key, []).append(number)
    result: list[Generic | None] = [None] * len(nests)
    for numbers in alike.values():
        values = {forms[number].value for number in numbers}
        if len(values) > 1:
            multiple = gcd(FLAT_UNIT, *values)
            for number in numbers:
                result[number] = replace(forms[number], multiple=multiple)
    return result


def _is_flat(nest: Nest) -> bool:
    """Return whether a nest is one parallel loop of known extent without loops inside."""
    loop = parallel_loop(nest)
    return loop is not None and isinstance(loop.extent, int) \
        and not any(isinstance(stmt, For) for stmt in statements(loop.body))


def _without_extent(nest: Nest) -> Generic:
    """Return a flat nest whose number of iterations is a symbol."""
    (loop,) = nest.body
    extent = Symbol("n")
    index = Symbol(loop.index.name, extent=as_dim(extent))
    body = Rewriter({loop.index: as_dim(index)}).body(loop.body)
    form = replace(nest, body=(For(index, as_dim(extent), body, loop.mark),))
    return Generic(form, nest_signature(form), extent, loop.extent, 1)
