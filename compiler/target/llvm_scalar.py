"""The primitive scalar operations in LLVM IR: one emitter for each row of ``scalar.SCALARS``.

Bools are ``i1`` in registers and ``i8`` (0 or 1) in memory.  No operation traps.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ..dtypes import SIZES, is_float
from ..loop.ir import Const, Scalar
from .llvm_writer import FunctionWriter

CONTRACT = "contract"
"""Flag of float additions and products: they may fuse into a multiply-add, which rounds once and so
is never less accurate.  The empty string turns that off."""

Emitter = Callable[[FunctionWriter, Scalar, list[str]], str]


def llvm_type(dtype: str) -> str:
    """Return the LLVM type of a dtype in registers."""
    if dtype == "bool":
        return "i1"
    if is_float(dtype):
        return "float" if dtype == "float32" else "double"
    return f"i{8 * SIZES[dtype]}"


def memory_type(dtype: str) -> str:
    """Return the LLVM type of a dtype in memory."""
    return "i8" if dtype == "bool" else llvm_type(dtype)


def is_signed(dtype: str) -> bool:
    """Return whether ``dtype`` is a signed integer type."""
    return dtype.startswith("int")


def constant(value: bool | int | float, dtype: str) -> str:
    """Return a literal; floats as the bits of a double, which LLVM reads exactly."""
    if dtype == "bool":
        return "true" if value else "false"
    if is_float(dtype):
        if value != value:
            return "0x7FF8000000000000"
        bits, = struct.unpack("<Q", struct.pack("<d", value))
        return f"0x{bits:016X}"
    return str(int(value))


def suffix(dtype: str) -> str:
    """Return how intrinsics name a dtype."""
    return f"f{8 * SIZES[dtype]}" if is_float(dtype) else llvm_type(dtype)


def intrinsic(writer: FunctionWriter, name: str, dtype: str, args: list[str],
              flags: str = "") -> str:
    """Call an intrinsic whose arguments and result are all of ``dtype``."""
    kind = llvm_type(dtype)
    function = writer.module.declare(f"llvm.{name}.{suffix(dtype)}", kind, *[kind] * len(args))
    passed = ", ".join(f"{kind} {arg}" for arg in args)
    return writer.emit(f"call {flags}{' ' if flags else ''}{kind} {function}({passed})")


def combine(writer: FunctionWriter, name: str, dtype: str, left: str, right: str,
            reorder: bool = False) -> str:
    """Emit ``add``, ``mul``, ``minimum``, ``maximum``, ``and`` or ``or`` of two values.

    Parameters
    ----------
    reorder : bool
        Whether a chain of this operation may be combined in any order.
    """
    kind = llvm_type(dtype)
    if name in ("minimum", "maximum"):
        if is_float(dtype):
            # Either zero may be the smaller: NumPy leaves their order open too.
            return intrinsic(writer, name, dtype, [left, right], "nsz")
        sign = "s" if is_signed(dtype) else "u"
        return intrinsic(writer, sign + name[:3], dtype, [left, right])
    if is_float(dtype):
        flags = " ".join(filter(None, ["reassoc" if reorder else "", CONTRACT]))
        return writer.emit(f"f{name} {flags} {kind} {left}, {right}")
    return writer.emit(f"{name} {kind} {left}, {right}")


def _binary(name: str) -> Emitter:
    return lambda writer, node, args: combine(writer, name, node.dtype, *args)


def _subtract(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    operation = f"fsub {CONTRACT}" if is_float(node.dtype) else "sub"
    return writer.emit(f"{operation} {llvm_type(node.dtype)} {args[0]}, {args[1]}")


def _divide(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    return writer.emit(f"fdiv {llvm_type(node.dtype)} {args[0]}, {args[1]}")


def _fma(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    # fmuladd becomes one instruction where the processor has it, else two: never a library call.
    return intrinsic(writer, "fmuladd", node.dtype, args)


def _negate(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    kind = llvm_type(node.dtype)
    return writer.emit(f"fneg {kind} {args[0]}" if is_float(node.dtype)
                       else f"sub {kind} 0, {args[0]}")


def _absolute(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    if is_float(node.dtype):
        return intrinsic(writer, "fabs", node.dtype, args)
    if not is_signed(node.dtype):
        return args[0]
    zero = writer.emit(f"sub {llvm_type(node.dtype)} 0, {args[0]}")
    return intrinsic(writer, "smax", node.dtype, [args[0], zero])


def _float_intrinsic(name: str) -> Emitter:
    return lambda writer, node, args: intrinsic(writer, name, node.dtype, args)


def _quotient_and_rest(writer: FunctionWriter, dtype: str, x: str, y: str,
                       divisor: int | None) -> tuple[str, str]:
    """Return the floored quotient and remainder for any operands, without trapping."""
    kind = llvm_type(dtype)
    divides, remains = ("sdiv", "srem") if is_signed(dtype) else ("udiv", "urem")
    emit = writer.emit
    zero = emit(f"icmp eq {kind} {y}, 0") if divisor is None else "false"
    minus, special = "false", zero
    if divisor is None and is_signed(dtype):
        minus = emit(f"icmp eq {kind} {y}, -1")
        special = emit(f"or i1 {zero}, {minus}")
    safe = emit(f"select i1 {special}, {kind} 1, {kind} {y}") if divisor is None else y
    quotient = emit(f"{divides} {kind} {x}, {safe}")
    rest = emit(f"{remains} {kind} {x}, {safe}")
    if is_signed(dtype):
        uneven = emit(f"icmp ne {kind} {rest}, 0")
        differ = emit(f"icmp slt {kind} {emit(f'xor {kind} {rest}, {safe}')}, 0")
        down = emit(f"and i1 {uneven}, {differ}")
        quotient = emit(f"add {kind} {quotient}, {emit(f'sext i1 {down} to {kind}')}")
        more = emit(f"select i1 {down}, {kind} {safe}, {kind} 0")
        rest = emit(f"add {kind} {rest}, {more}")
    if divisor is None:
        if is_signed(dtype):
            negated = emit(f"sub {kind} 0, {x}")
            quotient = emit(f"select i1 {minus}, {kind} {negated}, {kind} {quotient}")
        quotient = emit(f"select i1 {zero}, {kind} 0, {kind} {quotient}")
        rest = emit(f"select i1 {special}, {kind} 0, {kind} {rest}")
    return quotient, rest


def _literal_divisor(node: Scalar) -> int | None:
    """Return the divisor when it is a literal that needs no special case."""
    divisor = node.args[1]
    if isinstance(divisor, Const) and int(divisor.value) not in (0, -1):
        return int(divisor.value)
    return None


def _floor_divide(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    divisor = _literal_divisor(node)
    if divisor is not None and divisor > 0 and divisor & (divisor - 1) == 0:
        shift = "ashr" if is_signed(node.dtype) else "lshr"
        return writer.emit(f"{shift} {llvm_type(node.dtype)} {args[0]}, {divisor.bit_length() - 1}")
    return _quotient_and_rest(writer, node.dtype, args[0], args[1], divisor)[0]


def _modulo(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    divisor = _literal_divisor(node)
    if divisor is not None and divisor > 0 and divisor & (divisor - 1) == 0:
        return writer.emit(f"and {llvm_type(node.dtype)} {args[0]}, {divisor - 1}")
    return _quotient_and_rest(writer, node.dtype, args[0], args[1], divisor)[1]


def _compare(predicate: str) -> Emitter:
    def emit(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
        dtype = node.args[0].dtype
        kind = llvm_type(dtype)
        if is_float(dtype):
            order = "u" if predicate == "ne" else "o"
            return writer.emit(f"fcmp {order}{predicate} {kind} {args[0]}, {args[1]}")
        if predicate in ("eq", "ne"):
            return writer.emit(f"icmp {predicate} {kind} {args[0]}, {args[1]}")
        sign = "s" if is_signed(dtype) else "u"
        return writer.emit(f"icmp {sign}{predicate} {kind} {args[0]}, {args[1]}")
    return emit


def _exclusive_or(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    return writer.emit(f"xor {llvm_type(node.dtype)} {args[0]}, {args[1]}")


def _complement(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    ones = "true" if node.dtype == "bool" else "-1"
    return writer.emit(f"xor {llvm_type(node.dtype)} {args[0]}, {ones}")


def _shift(left: bool) -> Emitter:
    def emit(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
        kind = llvm_type(node.dtype)
        amount = writer.emit(f"and {kind} {args[1]}, {8 * SIZES[node.dtype] - 1}")
        operation = "shl" if left else "ashr" if is_signed(node.dtype) else "lshr"
        return writer.emit(f"{operation} {kind} {args[0]}, {amount}")
    return emit


def _upper_half(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    left, right = (writer.emit(f"zext i32 {arg} to i64") for arg in args)
    product = writer.emit(f"mul nuw i64 {left}, {right}")
    return writer.emit(f"trunc i64 {writer.emit(f'lshr i64 {product}, 32')} to i32")


def _select(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    kind = llvm_type(node.dtype)
    return writer.emit(f"select i1 {args[0]}, {kind} {args[1]}, {kind} {args[2]}")


def _cast(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    source, target = node.args[0].dtype, node.dtype
    old, new = llvm_type(source), llvm_type(target)
    value = args[0]
    if source == target:
        return value
    if target == "bool":
        if is_float(source):
            return writer.emit(f"fcmp une {old} {value}, 0.0")
        return writer.emit(f"icmp ne {old} {value}, 0")
    if is_float(source):
        if is_float(target):
            step = "fpext" if SIZES[target] > SIZES[source] else "fptrunc"
            return writer.emit(f"{step} {old} {value} to {new}")
        name = "llvm.fptosi.sat" if is_signed(target) else "llvm.fptoui.sat"
        function = writer.module.declare(f"{name}.{new}.{suffix(source)}", new, old)
        return writer.emit(f"call {new} {function}({old} {value})")
    signed = is_signed(source)
    if is_float(target):
        return writer.emit(f"{'sitofp' if signed else 'uitofp'} {old} {value} to {new}")
    if old == new:
        return value
    if source != "bool" and SIZES[target] < SIZES[source]:
        return writer.emit(f"trunc {old} {value} to {new}")
    return writer.emit(f"{'sext' if signed else 'zext'} {old} {value} to {new}")


def _bitcast(writer: FunctionWriter, node: Scalar, args: list[str]) -> str:
    old, new = llvm_type(node.args[0].dtype), llvm_type(node.dtype)
    return args[0] if old == new else writer.emit(f"bitcast {old} {args[0]} to {new}")


EMITTERS: dict[str, Emitter] = {
    "add": _binary("add"), "sub": _subtract, "mul": _binary("mul"), "div": _divide,
    "floordiv": _floor_divide, "mod": _modulo, "fma": _fma, "neg": _negate, "abs": _absolute,
    "minimum": _binary("minimum"), "maximum": _binary("maximum"),
    "sqrt": _float_intrinsic("sqrt"), "floor": _float_intrinsic("floor"),
    "ceil": _float_intrinsic("ceil"), "trunc": _float_intrinsic("trunc"),
    "rint": _float_intrinsic("rint"), "copysign": _float_intrinsic("copysign"),
    "eq": _compare("eq"), "ne": _compare("ne"), "lt": _compare("lt"), "le": _compare("le"),
    "gt": _compare("gt"), "ge": _compare("ge"),
    "and": _binary("and"), "or": _binary("or"), "xor": _exclusive_or, "not": _complement,
    "shl": _shift(True), "shr": _shift(False), "mulhi": _upper_half,
    "select": _select, "cast": _cast, "bitcast": _bitcast,
}
"""How to write each primitive: from the operands' registers to the result's."""
