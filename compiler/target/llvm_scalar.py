"""The primitive scalar operations in LLVM IR: one emitter for each row of ``scalar.SCALARS``.

Each is written on one element, or on ``lanes`` of them side by side in a vector ``<lanes x T>``.
Bools are ``i1`` in registers and ``i8`` (0 or 1) in memory, halves ``i16`` in both.  No operation
traps, and none becomes a call of a library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from ...runtime.artifact import numpy_dtype
from ..dtypes import FLOATS, HALVES, SIZES, is_float
from ..loop.half import conversion
from ..loop.ir import Const, Scalar
from ..loop.scalar import CHOICES
from ..loop.walk import postorder
from .llvm_writer import FunctionWriter

CONTRACT = "contract"
"""Flag of float additions and products: they may fuse into a multiply-add, which rounds once and so
is never less accurate.  The empty string turns that off."""

Emitter = Callable[[FunctionWriter, Scalar, list[str], int], str]
"""Takes the writer, the node, its operands' registers and the lanes; returns the result's."""


def llvm_type(dtype: str, lanes: int = 1) -> str:
    """Return the LLVM type of a dtype, or of a vector of it, in registers."""
    if dtype == "bool":
        kind = "i1"
    elif dtype in FLOATS:
        kind = "float" if dtype == "float32" else "double"
    else:
        kind = f"i{8 * SIZES[dtype]}"
    return vector_of(kind, lanes)


def memory_type(dtype: str, lanes: int = 1) -> str:
    """Return the LLVM type of a dtype, or of a vector of it, in memory."""
    return llvm_type("int8" if dtype == "bool" else dtype, lanes)


def vector_of(kind: str, lanes: int) -> str:
    """Return the LLVM type of ``lanes`` elements of an LLVM type."""
    return kind if lanes == 1 else f"<{lanes} x {kind}>"


def is_signed(dtype: str) -> bool:
    """Return whether ``dtype`` is a signed integer type."""
    return dtype.startswith("int")


def constant(value: bool | int | float, dtype: str, lanes: int = 1) -> str:
    """Return a literal, in every lane; floats as the bits of a double, which LLVM reads exactly."""
    if dtype == "bool":
        text = "true" if value else "false"
    elif dtype in HALVES:
        text = str(int(np.asarray(value, numpy_dtype(dtype)).view("uint16")))
    elif not is_float(dtype):
        text = str(int(value))
    elif value != value:
        text = "0x7FF8000000000000"
    else:
        bits, = struct.unpack("<Q", struct.pack("<d", value))
        text = f"0x{bits:016X}"
    return text if lanes == 1 else f"splat ({llvm_type(dtype)} {text})"


def identity(combine: str, dtype: str, lanes: int = 1) -> str:
    """Return the literal that an accumulation leaves any value unchanged with."""
    if combine in ("minimum", "maximum"):
        sign = 1 if combine == "minimum" else -1
        if is_float(dtype):
            return constant(sign * float("inf"), dtype, lanes)
        info = np.iinfo(dtype)
        return constant(int(info.max if sign > 0 else info.min), dtype, lanes)
    if combine == "add":
        # -0.0 + x is x, whatever the sign of a zero.
        return constant(-0.0 if is_float(dtype) else 0, dtype, lanes)
    if combine == "and" and dtype != "bool":
        return constant(-1, dtype, lanes)
    return constant(0 if combine == "or" else 1, dtype, lanes)


def suffix(dtype: str, lanes: int = 1) -> str:
    """Return how intrinsics name a dtype, or a vector of it."""
    name = f"f{8 * SIZES[dtype]}" if dtype in FLOATS else llvm_type(dtype)
    return name if lanes == 1 else f"v{lanes}{name}"


def intrinsic(writer: FunctionWriter, name: str, dtype: str, args: list[str],
              flags: str = "", lanes: int = 1) -> str:
    """Call an intrinsic whose arguments and result are all of ``dtype``."""
    kind = llvm_type(dtype, lanes)
    function = writer.module.declare(
        f"llvm.{name}.{suffix(dtype, lanes)}", kind, *[kind] * len(args))
    passed = ", ".join(f"{kind} {arg}" for arg in args)
    return writer.emit(f"call {flags}{' ' if flags else ''}{kind} {function}({passed})")


def combine(writer: FunctionWriter, name: str, dtype: str, left: str, right: str,
            lanes: int = 1) -> str:
    """Emit ``add``, ``mul``, ``minimum``, ``maximum``, ``and`` or ``or`` of two values."""
    kind = llvm_type(dtype, lanes)
    if name in ("minimum", "maximum"):
        if is_float(dtype):
            # Either zero may be the smaller: NumPy leaves their order open too.
            return intrinsic(writer, name, dtype, [left, right], "nsz", lanes)
        sign = "s" if is_signed(dtype) else "u"
        return intrinsic(writer, sign + name[:3], dtype, [left, right], lanes=lanes)
    if is_float(dtype):
        return writer.emit(f"f{name} {CONTRACT} {kind} {left}, {right}")
    return writer.emit(f"{name} {kind} {left}, {right}")


def _binary(name: str) -> Emitter:
    return lambda writer, node, args, lanes: combine(
        writer, name, node.dtype, *args, lanes)


def _subtract(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    operation = "sub" if not is_float(node.dtype) else \
        f"fsub {CONTRACT}" if node.name == "sub" else "fsub"
    return writer.emit(f"{operation} {llvm_type(node.dtype, lanes)} {args[0]}, {args[1]}")


def _divide(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    return writer.emit(f"fdiv {llvm_type(node.dtype, lanes)} {args[0]}, {args[1]}")


def _fma(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    # fmuladd becomes one instruction where the processor has it, else two: never a library call.
    return intrinsic(writer, "fmuladd", node.dtype, args, lanes=lanes)


def _negate(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    kind = llvm_type(node.dtype, lanes)
    return writer.emit(f"fneg {kind} {args[0]}" if is_float(node.dtype)
                       else f"sub {kind} {constant(0, node.dtype, lanes)}, {args[0]}")


def _absolute(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    if is_float(node.dtype):
        return intrinsic(writer, "fabs", node.dtype, args, lanes=lanes)
    if not is_signed(node.dtype):
        return args[0]
    kind = llvm_type(node.dtype, lanes)
    negated = writer.emit(f"sub {kind} {constant(0, node.dtype, lanes)}, {args[0]}")
    return intrinsic(writer, "smax", node.dtype, [args[0], negated], lanes=lanes)


def _float_intrinsic(name: str) -> Emitter:
    return lambda writer, node, args, lanes: intrinsic(
        writer, name, node.dtype, args, lanes=lanes)


def _quotient_and_rest(writer: FunctionWriter, dtype: str, x: str, y: str,
                       divisor: int | None, lanes: int) -> tuple[str, str]:
    """Return the floored quotient and remainder for any operands, without trapping."""
    kind, flag = llvm_type(dtype, lanes), llvm_type("bool", lanes)
    nought, one = constant(0, dtype, lanes), constant(1, dtype, lanes)
    divides, remains = ("sdiv", "srem") if is_signed(dtype) else ("udiv", "urem")
    emit = writer.emit
    zero = emit(f"icmp eq {kind} {y}, {nought}") if divisor is None else ""
    minus, special = "", zero
    if divisor is None and is_signed(dtype):
        minus = emit(f"icmp eq {kind} {y}, {constant(-1, dtype, lanes)}")
        special = emit(f"or {flag} {zero}, {minus}")
    safe = emit(f"select {flag} {special}, {kind} {one}, {kind} {y}") if divisor is None else y
    quotient = emit(f"{divides} {kind} {x}, {safe}")
    rest = emit(f"{remains} {kind} {x}, {safe}")
    if is_signed(dtype):
        uneven = emit(f"icmp ne {kind} {rest}, {nought}")
        differ = emit(f"icmp slt {kind} {emit(f'xor {kind} {rest}, {safe}')}, {nought}")
        down = emit(f"and {flag} {uneven}, {differ}")
        quotient = emit(f"add {kind} {quotient}, {emit(f'sext {flag} {down} to {kind}')}")
        more = emit(f"select {flag} {down}, {kind} {safe}, {kind} {nought}")
        rest = emit(f"add {kind} {rest}, {more}")
    if divisor is None:
        if is_signed(dtype):
            negated = emit(f"sub {kind} {nought}, {x}")
            quotient = emit(f"select {flag} {minus}, {kind} {negated}, {kind} {quotient}")
        quotient = emit(f"select {flag} {zero}, {kind} {nought}, {kind} {quotient}")
        rest = emit(f"select {flag} {special}, {kind} {nought}, {kind} {rest}")
    return quotient, rest


def _literal_divisor(node: Scalar) -> int | None:
    """Return the divisor when it is a literal that needs no special case."""
    divisor = node.args[1]
    if isinstance(divisor, Const) and int(divisor.value) not in (0, -1):
        return int(divisor.value)
    return None


def _floor_divide(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    divisor = _literal_divisor(node)
    if divisor is not None and divisor > 0 and divisor & (divisor - 1) == 0:
        shift = "ashr" if is_signed(node.dtype) else "lshr"
        places = constant(divisor.bit_length() - 1, node.dtype, lanes)
        return writer.emit(f"{shift} {llvm_type(node.dtype, lanes)} {args[0]}, {places}")
    return _quotient_and_rest(writer, node.dtype, args[0], args[1], divisor, lanes)[0]


def _modulo(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    divisor = _literal_divisor(node)
    if divisor is not None and divisor > 0 and divisor & (divisor - 1) == 0:
        mask = constant(divisor - 1, node.dtype, lanes)
        return writer.emit(f"and {llvm_type(node.dtype, lanes)} {args[0]}, {mask}")
    return _quotient_and_rest(writer, node.dtype, args[0], args[1], divisor, lanes)[1]


def _compare(predicate: str) -> Emitter:
    def emit(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
        dtype = node.args[0].dtype
        kind = llvm_type(dtype, lanes)
        if is_float(dtype):
            order = "u" if predicate == "ne" else "o"
            return writer.emit(f"fcmp {order}{predicate} {kind} {args[0]}, {args[1]}")
        if predicate in ("eq", "ne"):
            return writer.emit(f"icmp {predicate} {kind} {args[0]}, {args[1]}")
        sign = "s" if is_signed(dtype) else "u"
        return writer.emit(f"icmp {sign}{predicate} {kind} {args[0]}, {args[1]}")
    return emit


def _exclusive_or(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    return writer.emit(f"xor {llvm_type(node.dtype, lanes)} {args[0]}, {args[1]}")


def _complement(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    ones = constant(True if node.dtype == "bool" else -1, node.dtype, lanes)
    return writer.emit(f"xor {llvm_type(node.dtype, lanes)} {args[0]}, {ones}")


def _shift(left: bool) -> Emitter:
    def emit(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
        kind = llvm_type(node.dtype, lanes)
        highest = constant(8 * SIZES[node.dtype] - 1, node.dtype, lanes)
        amount = writer.emit(f"and {kind} {args[1]}, {highest}")
        operation = "shl" if left else "ashr" if is_signed(node.dtype) else "lshr"
        return writer.emit(f"{operation} {kind} {args[0]}, {amount}")
    return emit


def _upper_half(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    half, whole = llvm_type("uint32", lanes), llvm_type("uint64", lanes)
    left, right = (writer.emit(f"zext {half} {arg} to {whole}") for arg in args)
    product = writer.emit(f"mul nuw {whole} {left}, {right}")
    upper = writer.emit(f"lshr {whole} {product}, {constant(32, 'uint64', lanes)}")
    return writer.emit(f"trunc {whole} {upper} to {half}")


def _select(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    kind = llvm_type(node.dtype, lanes)
    flag = llvm_type("bool", lanes)
    return writer.emit(f"select {flag} {args[0]}, {kind} {args[1]}, {kind} {args[2]}")


def _cast(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    source, target = node.args[0].dtype, node.dtype
    old, new = llvm_type(source, lanes), llvm_type(target, lanes)
    value = args[0]
    if source == target:
        return value
    if source in HALVES or target in HALVES:
        return cast_half(writer, source, target, value, lanes)
    if target == "bool":
        if is_float(source):
            return writer.emit(f"fcmp une {old} {value}, {constant(0.0, source, lanes)}")
        return writer.emit(f"icmp ne {old} {value}, {constant(0, source, lanes)}")
    if is_float(source):
        if is_float(target):
            step = "fpext" if SIZES[target] > SIZES[source] else "fptrunc"
            return writer.emit(f"{step} {old} {value} to {new}")
        name = "llvm.fptosi.sat" if is_signed(target) else "llvm.fptoui.sat"
        function = writer.module.declare(
            f"{name}.{suffix(target, lanes)}.{suffix(source, lanes)}", new, old)
        return writer.emit(f"call {new} {function}({old} {value})")
    signed = is_signed(source)
    if is_float(target):
        return writer.emit(f"{'sitofp' if signed else 'uitofp'} {old} {value} to {new}")
    if old == new:
        return value
    if source != "bool" and SIZES[target] < SIZES[source]:
        return writer.emit(f"trunc {old} {value} to {new}")
    return writer.emit(f"{'sext' if signed else 'zext'} {old} {value} to {new}")


def cast_half(writer: FunctionWriter, source: str, target: str, value: str, lanes: int) -> str:
    """Write a conversion between float32 and a half: an instruction, or integer arithmetic.

    LLVM rounds to bfloat16 by calling a library, which is not there, or by instructions that take
    denormal numbers for zero.
    """
    bits, half, single = (vector_of(kind, lanes) for kind in ("i16", "half", "float"))
    if "bfloat16" not in (source, target) and writer.module.machine.has_float16:
        if target == "float32":
            return writer.emit(f"fpext {half} {writer.emit(f'bitcast {bits} {value} to {half}')} "
                               f"to {single}")
        return writer.emit(f"bitcast {half} {writer.emit(f'fptrunc {single} {value} to {half}')} "
                           f"to {bits}")
    parameter, root = conversion(source, target)
    values = {id(parameter): value}
    for node in postorder(root):
        if isinstance(node, Const):
            values[id(node)] = constant(node.value, node.dtype, lanes)
        elif isinstance(node, Scalar):
            args = [values[id(arg)] for arg in node.args]
            values[id(node)] = EMITTERS[node.name](writer, node, args, lanes)
    return values[id(root)]


def _bitcast(writer: FunctionWriter, node: Scalar, args: list[str], lanes: int) -> str:
    old, new = llvm_type(node.args[0].dtype, lanes), llvm_type(node.dtype, lanes)
    return args[0] if old == new else writer.emit(f"bitcast {old} {args[0]} to {new}")


EMITTERS: dict[str, Emitter] = {
    "add": _binary("add"), "sub": _subtract,
    "sub_rounded": _subtract, "mul": _binary("mul"), "div": _divide,
    "floordiv": _floor_divide, "mod": _modulo, "fma": _fma, "neg": _negate, "abs": _absolute,
    "minimum": _binary("minimum"), "maximum": _binary("maximum"),
    "sqrt": _float_intrinsic("sqrt"), "floor": _float_intrinsic("floor"),
    "ceil": _float_intrinsic("ceil"), "trunc": _float_intrinsic("trunc"),
    "rint": _float_intrinsic("rint"), "copysign": _float_intrinsic("copysign"),
    "eq": _compare("eq"), "ne": _compare("ne"), "lt": _compare("lt"), "le": _compare("le"),
    "gt": _compare("gt"), "ge": _compare("ge"),
    "and": _binary("and"), "or": _binary("or"), "xor": _exclusive_or, "not": _complement,
    "shl": _shift(True), "shr": _shift(False), "mulhi": _upper_half,
    **dict.fromkeys(CHOICES, _select), "cast": _cast, "bitcast": _bitcast,
}
"""How to write each primitive: from the operands' registers to the result's."""
