"""The LLVM text that looks at one argument of a call: is it what the code was compiled for?

``cpu_entry_text.py`` has the entry that calls these functions, and the layout of their rows.
"""

from __future__ import annotations

TEXT = """
; Check one argument against its row, bind its sizes, note where its data is; return its bytes, or
; -1 for any doubt.
define internal i64 @check(ptr %object, ptr %row, ptr %symbols, ptr %slot, ptr %scratch)
    alwaysinline {
entry:
  %type.at = getelementptr i8, ptr %object, i64 8
  %type = load ptr, ptr %type.at
  %array.type = load ptr, ptr @tx_array_type
  %is.array = icmp eq ptr %type, %array.type
  br i1 %is.array, label %dtype, label %scalar
scalar:
  %scalar.bytes = call i64 @scalar(ptr %object, ptr %type, ptr %row, ptr %slot, ptr %scratch)
  ret i64 %scalar.bytes
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
  %data.at = getelementptr i8, ptr %object, i64 $DATA
  %data = load ptr, ptr %data.at
  store ptr %data, ptr %slot
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
  %code.index = add i64 %i, $ROW_AXES
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
  %symbol.at = getelementptr i64, ptr %symbols, i64 %k
  %known = trunc i64 %flipped to i1
  br i1 %known, label %repeat, label %bind
bind:
  store i64 %dim, ptr %symbol.at
  br label %axis.done
repeat:
  %earlier = load i64, ptr %symbol.at
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

; Whether one of the first arrays overlaps one of those from `inputs` on, before `total`.
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

; A Python or NumPy number for a 0-d argument: read in place where its bits are those of the dtype,
; converted into the scratch word where that keeps its value (or rounds a float to float32).
define internal i64 @scalar(ptr %object, ptr %type, ptr %row, ptr %slot, ptr %scratch) {
entry:
  %item.at = getelementptr i64, ptr %row, i64 2
  %item = load i64, ptr %item.at
  %rank.at = getelementptr i64, ptr %row, i64 3
  %rank = load i64, ptr %rank.at
  %is.scalar = icmp eq i64 %rank, 0
  br i1 %is.scalar, label %numpy, label %no
numpy:
  %payload = getelementptr i8, ptr %object, i64 $PAYLOAD
  %want.at = getelementptr i64, ptr %row, i64 $ROW_TYPE
  %want = load ptr, ptr %want.at
  %same = icmp eq ptr %type, %want
  br i1 %same, label %in.place, label %python
in.place:
  store ptr %payload, ptr %slot
  ret i64 %item
python:
  %kind.at = getelementptr i64, ptr %row, i64 $ROW_KIND
  %kind = load i64, ptr %kind.at
  %float.type = load ptr, ptr @tx_float_type
  %is.float = icmp eq ptr %type, %float.type
  br i1 %is.float, label %float, label %integer
float:
  switch i64 %kind, label %no [ i64 $KIND_FLOAT64, label %in.place
                                i64 $KIND_FLOAT32, label %narrow ]
narrow:
  %wide = load double, ptr %payload
  %narrowed = fptrunc double %wide to float
  %magnitude = call float @llvm.fabs.f32(float %narrowed)
  %finite = fcmp olt float %magnitude, 0x7FF0000000000000
  br i1 %finite, label %keep.float, label %no
integer:
  %int.type = load ptr, ptr @tx_int_type
  %is.int = icmp eq ptr %type, %int.type
  %some.kind = icmp ne i64 %kind, 0
  %convertible = and i1 %is.int, %some.kind
  br i1 %convertible, label %convert, label %no
convert:
  %beyond.at = alloca i32
  store i32 0, ptr %beyond.at
  %value = call i64 @PyLong_AsLongLongAndOverflow(ptr %object, ptr %beyond.at)
  %beyond = load i32, ptr %beyond.at
  %fits = icmp eq i32 %beyond, 0
  br i1 %fits, label %choose, label %no
choose:
  ; Integers up to 2**53 (2**24) are exact as float64 (float32).
  %size = call i64 @llvm.abs.i64(i64 %value, i1 false)
  %exact.double = icmp ule i64 %size, 9007199254740992
  %exact.float = icmp ule i64 %size, 16777216
  switch i64 %kind, label %no [ i64 $KIND_INT64, label %keep.int
                                i64 $KIND_FLOAT64, label %to.double
                                i64 $KIND_FLOAT32, label %to.float ]
keep.int:
  store i64 %value, ptr %scratch
  br label %kept
to.double:
  %double = sitofp i64 %value to double
  store double %double, ptr %scratch
  br i1 %exact.double, label %kept, label %no
to.float:
  %float.value = sitofp i64 %value to float
  br i1 %exact.float, label %keep.float, label %no
keep.float:
  %single = phi float [ %narrowed, %narrow ], [ %float.value, %to.float ]
  store float %single, ptr %scratch
  br label %kept
kept:
  store ptr %scratch, ptr %slot
  ret i64 %item
no:
  ret i64 -1
}

; Put arguments in the order of the inputs, fill in defaults, and note the argument `out`.
define internal i1 @order(ptr %args, i64 %nargs, ptr %names, ptr %d, ptr %ordered, ptr %out) {
entry:
  $WORD(inputs, INPUTS, i64)
  $WORD(out.name, OUT_NAME, ptr)
  $WORD(names.word, NAMES, i64)
  $WORD(defaults.word, DEFAULTS, i64)
  %own.names = getelementptr i64, ptr %d, i64 %names.word
  %defaults = getelementptr i64, ptr %d, i64 %defaults.word
  %too.many = icmp sgt i64 %nargs, %inputs
  br i1 %too.many, label %no, label %by.position
by.position:
  %given.bytes = shl i64 %nargs, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %ordered, ptr %args, i64 %given.bytes, i1 false)
  %rest = getelementptr ptr, ptr %ordered, i64 %nargs
  %rest.count = sub i64 %inputs, %nargs
  %rest.bytes = shl i64 %rest.count, 3
  call void @llvm.memset.p0.i64(ptr %rest, i8 0, i64 %rest.bytes, i1 false)
  %none = icmp eq ptr %names, null
  br i1 %none, label %fill.start, label %by.name
by.name:
  %count.at = getelementptr i8, ptr %names, i64 $TUPLE_SIZE
  %count = load i64, ptr %count.at
  %items = getelementptr i8, ptr %names, i64 $TUPLE_ITEMS
  br label %named
named:
  %k = phi i64 [ 0, %by.name ], [ %k.next, %placed ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %look, label %fill.start
look:
  %name.at = getelementptr ptr, ptr %items, i64 %k
  %name = load ptr, ptr %name.at
  %value.index = add i64 %nargs, %k
  %value.at = getelementptr ptr, ptr %args, i64 %value.index
  %value = load ptr, ptr %value.at
  %is.out = icmp eq ptr %name, %out.name
  br i1 %is.out, label %store.out, label %search
store.out:
  store ptr %value, ptr %out
  br label %placed
search:
  %j = phi i64 [ %nargs, %look ], [ %j.next, %other ]
  %some = icmp slt i64 %j, %inputs
  br i1 %some, label %compare, label %no
compare:
  %own.at = getelementptr ptr, ptr %own.names, i64 %j
  %own = load ptr, ptr %own.at
  %found = icmp eq ptr %own, %name
  br i1 %found, label %place, label %other
other:
  %j.next = add i64 %j, 1
  br label %search
place:
  %place.at = getelementptr ptr, ptr %ordered, i64 %j
  %before = load ptr, ptr %place.at
  %free = icmp eq ptr %before, null
  store ptr %value, ptr %place.at
  br i1 %free, label %placed, label %no
placed:
  %k.next = add i64 %k, 1
  br label %named
fill.start:
  br label %fill
fill:
  %i = phi i64 [ %nargs, %fill.start ], [ %i.next, %filled ]
  %unfilled = icmp slt i64 %i, %inputs
  br i1 %unfilled, label %examine, label %yes
examine:
  %slot = getelementptr ptr, ptr %ordered, i64 %i
  %present = load ptr, ptr %slot
  %missing = icmp eq ptr %present, null
  br i1 %missing, label %default, label %filled
default:
  %default.at = getelementptr ptr, ptr %defaults, i64 %i
  %default.value = load ptr, ptr %default.at
  store ptr %default.value, ptr %slot
  %no.default = icmp eq ptr %default.value, null
  br i1 %no.default, label %no, label %filled
filled:
  %i.next = add i64 %i, 1
  br label %fill
yes:
  ret i1 true
no:
  ret i1 false
}

; Whether an object is an array that a result of this dtype, rank and dims can be written into.
define internal i1 @holds(ptr %object, ptr %descr, i64 %rank, ptr %dims) {
entry:
  %type.at = getelementptr i8, ptr %object, i64 8
  %type = load ptr, ptr %type.at
  %array.type = load ptr, ptr @tx_array_type
  %is.array = icmp eq ptr %type, %array.type
  br i1 %is.array, label %layout, label %no
layout:
  %own.descr.at = getelementptr i8, ptr %object, i64 $DESCR
  %own.descr = load ptr, ptr %own.descr.at
  %descr.ok = icmp eq ptr %own.descr, %descr
  %rank.at = getelementptr i8, ptr %object, i64 $RANK
  %own.rank = load i32, ptr %rank.at
  %wide = sext i32 %own.rank to i64
  %rank.ok = icmp eq i64 %wide, %rank
  %flags.at = getelementptr i8, ptr %object, i64 $FLAGS
  %flags = load i32, ptr %flags.at
  %bits = and i32 %flags, $WRITABLE_FLAGS
  %flags.ok = icmp eq i32 %bits, $WRITABLE_FLAGS
  %two = and i1 %descr.ok, %rank.ok
  %all = and i1 %two, %flags.ok
  br i1 %all, label %sizes, label %no
sizes:
  %dims.at = getelementptr i8, ptr %object, i64 $DIMS
  %own.dims = load ptr, ptr %dims.at
  br label %axis
axis:
  %i = phi i64 [ 0, %sizes ], [ %i.next, %size ]
  %more = icmp slt i64 %i, %rank
  br i1 %more, label %size, label %yes
size:
  %own.at = getelementptr i64, ptr %own.dims, i64 %i
  %own = load i64, ptr %own.at
  %want.at = getelementptr i64, ptr %dims, i64 %i
  %want = load i64, ptr %want.at
  %same = icmp eq i64 %own, %want
  %i.next = add i64 %i, 1
  br i1 %same, label %axis, label %no
yes:
  ret i1 true
no:
  ret i1 false
}
"""
