"""The primitive scalar operations in CUDA C, and the few functions they need.

Each row of ``scalar.SCALARS`` is an expression over its operands' texts, which are in parentheses
where they need to be.  Integers wrap and nothing traps, as on the CPU: C leaves the overflow of
signed integers undefined, so sums and products of those are taken of unsigned ones.  Halves are
their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...runtime.artifact import numpy_dtype
from ..dtypes import HALVES, SIZES, is_float
from ..loop.ir import Const, Scalar
from ..loop.scalar import CHOICES

C_TYPES = {
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int",
    "uint64": "unsigned long long", "float32": "float", "float64": "double",
    "float16": "unsigned short", "bfloat16": "unsigned short",
}

NATIVE_CONVERSIONS = {
    ("float16", "float32"): 'asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));',
    ("float32", "float16"): 'asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));',
    ("float32", "bfloat16"): 'asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));',
}
"""Conversions of halves that GPUs have instructions for, from compute capability 8.0 on.  CUDA's
own functions are in headers, which need not be there."""

PRELUDE = """\
#define INF_F32 __int_as_float(0x7f800000)
#define NAN_F32 __int_as_float(0x7fc00000)
#define INF_F64 __longlong_as_double(0x7ff0000000000000ll)
#define NAN_F64 __longlong_as_double(0x7ff8000000000000ll)

// The smaller and the larger of two values; NaN if either is.
template <typename T> __device__ __forceinline__ T minimum(T x, T y) {
    return x < y || x != x ? x : y;
}
template <typename T> __device__ __forceinline__ T maximum(T x, T y) {
    return x > y || x != x ? x : y;
}

// Python's // and %: rounded down, 0 where the divisor is 0, wrapping where the quotient overflows.
template <typename T> __device__ __forceinline__ T floor_divide(T x, T y) {
    const bool is_signed = T(-1) < T(0);
    if (y == 0) return 0;
    if (is_signed && y == T(-1)) return T(0ull - (unsigned long long)x);
    const T quotient = x / y;
    return T(quotient - (is_signed && x % y != 0 && ((x % y < 0) != (y < 0)) ? 1 : 0));
}
template <typename T> __device__ __forceinline__ T modulo(T x, T y) {
    const bool is_signed = T(-1) < T(0);
    if (y == 0 || (is_signed && y == T(-1))) return 0;
    const T rest = x % y;
    return T(rest + (is_signed && rest != 0 && ((rest < 0) != (y < 0)) ? y : T(0)));
}

// A float as an integer: truncated, saturated, NaN as 0.
template <typename T, typename F> __device__ __forceinline__ T to_integer(F x, T least, T most) {
    if (x != x) return 0;
    if (x <= F(least)) return least;
    if (x >= F(most)) return most;
    return T(x);
}
"""
"""Functions that kernels use; written without any header, so that none has to be installed."""

_BITS = {("float32", "int32"): "__float_as_int", ("float32", "uint32"): "__float_as_uint",
         ("int32", "float32"): "__int_as_float", ("uint32", "float32"): "__uint_as_float",
         ("float64", "int64"): "__double_as_longlong", ("int64", "float64"): "__longlong_as_double"}


def unsigned(dtype: str) -> str:
    """Return the C type in which integers of ``dtype`` are added and multiplied."""
    return "unsigned long long" if SIZES[dtype] == 8 else "unsigned int"


def literal(const: Const) -> str:
    """Return a literal, exactly."""
    value, dtype = const.value, const.dtype
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in HALVES:
        return f"(unsigned short){np.asarray(value, numpy_dtype(dtype)).view('uint16')}"
    if is_float(dtype):
        return _float_literal(float(value), dtype)
    value = int(value)
    suffix = {"int64": "ll", "uint64": "ull", "uint32": "u"}.get(dtype, "")
    if dtype in ("int32", "int64") and value == np.iinfo(dtype).min:
        return f"({value + 1}{suffix} - 1)"
    return f"({value}{suffix})" if value < 0 else f"{value}{suffix}"


def _float_literal(value: float, dtype: str) -> str:
    bits = "F32" if dtype == "float32" else "F64"
    if value != value:
        return f"NAN_{bits}"
    if value in (float("inf"), float("-inf")):
        return f"INF_{bits}" if value > 0 else f"(-INF_{bits})"
    text = str(np.dtype(dtype).type(value))
    if "e" not in text and "." not in text:
        text += ".0"
    text += "f" if dtype == "float32" else ""
    return f"({text})" if text.startswith("-") else text


def combined(name: str, dtype: str, left: str, right: str) -> str:
    """Return ``add``, ``mul``, ``minimum``, ``maximum``, ``and`` or ``or`` of two values."""
    kind = C_TYPES[dtype]
    if name in ("minimum", "maximum"):
        return f"{name}<{kind}>({left}, {right})"
    sign = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}[name]
    if is_float(dtype):
        return f"({left} {sign} {right})"
    if dtype == "bool":
        return f"bool({left} {sign} {right})"
    if name in ("add", "sub", "mul") and dtype not in ("uint32", "uint64"):
        wide = unsigned(dtype)
        return f"({kind})(({wide}){left} {sign} ({wide}){right})"
    return f"({left} {sign} {right})" if SIZES[dtype] >= 4 else f"({kind})({left} {sign} {right})"


Printer = Callable[[Scalar, Sequence[str]], str]


def _binary(name: str) -> Printer:
    return lambda node, args: combined(name, node.dtype, *args)


def _compare(sign: str) -> Printer:
    return lambda node, args: f"({args[0]} {sign} {args[1]})"


def _function(name: str) -> Printer:
    """Return the printer of one of C's functions of floats."""
    return lambda node, args: \
        f"{name}{'f' if node.dtype == 'float32' else ''}({', '.join(args)})"


def _negate(node: Scalar, args: Sequence[str]) -> str:
    if is_float(node.dtype):
        return f"(-{args[0]})"
    return f"({C_TYPES[node.dtype]})(0 - ({unsigned(node.dtype)}){args[0]})"


def _absolute(node: Scalar, args: Sequence[str]) -> str:
    if is_float(node.dtype):
        return _function("fabs")(node, args)
    if node.dtype.startswith("u"):
        return args[0]
    return f"({args[0]} < 0 ? {_negate(node, args)} : {args[0]})"


def _template(name: str) -> Printer:
    return lambda node, args: f"{name}<{C_TYPES[node.dtype]}>({args[0]}, {args[1]})"


def _complement(node: Scalar, args: Sequence[str]) -> str:
    return f"(!{args[0]})" if node.dtype == "bool" else f"({C_TYPES[node.dtype]})(~{args[0]})"


def _shift(node: Scalar, args: Sequence[str], sign: str, kind: str) -> str:
    amount = f"({args[1]} & {8 * SIZES[node.dtype] - 1})"
    return f"({C_TYPES[node.dtype]})(({kind}){args[0]} {sign} {amount})"


def _cast(node: Scalar, args: Sequence[str]) -> str:
    source, target = node.args[0].dtype, node.dtype
    if target == "bool":
        return f"({args[0]} != 0)"
    if is_float(source) and not is_float(target):
        info = np.iinfo(target)
        least, most = (literal(Const(int(end), target)) for end in (info.min, info.max))
        return f"to_integer<{C_TYPES[target]}>({args[0]}, {least}, {most})"
    return f"({C_TYPES[target]}){args[0]}"


def _bitcast(node: Scalar, args: Sequence[str]) -> str:
    source, target = node.args[0].dtype, node.dtype
    function = _BITS.get((source, target))
    if function is not None:
        return f"{function}({args[0]})"
    if source == "uint64":
        return f"__longlong_as_double((long long){args[0]})" if is_float(target) \
            else f"({C_TYPES[target]}){args[0]}"
    if target == "uint64" and is_float(source):
        return f"(unsigned long long)__double_as_longlong({args[0]})"
    return f"({C_TYPES[target]}){args[0]}"


def _rounded_difference(node: Scalar, args: Sequence[str]) -> str:
    return f"__{'f' if node.dtype == 'float32' else 'd'}sub_rn({args[0]}, {args[1]})"


PRINTERS: dict[str, Printer] = {
    "add": _binary("add"), "sub": _binary("sub"),
    "sub_rounded": _rounded_difference, "mul": _binary("mul"), "div": _compare("/"),
    "floordiv": _template("floor_divide"), "mod": _template("modulo"), "fma": _function("fma"),
    "neg": _negate, "abs": _absolute, "minimum": _binary("minimum"),
    "maximum": _binary("maximum"), "sqrt": _function("sqrt"), "floor": _function("floor"),
    "ceil": _function("ceil"), "trunc": _function("trunc"), "rint": _function("rint"),
    "copysign": _function("copysign"),
    "eq": _compare("=="), "ne": _compare("!="), "lt": _compare("<"), "le": _compare("<="),
    "gt": _compare(">"), "ge": _compare(">="),
    "and": _binary("and"), "or": _binary("or"), "xor": _binary("xor"), "not": _complement,
    "shl": lambda node, args: _shift(node, args, "<<", unsigned(node.dtype)),
    "shr": lambda node, args: _shift(node, args, ">>", C_TYPES[node.dtype]),
    "mulhi": lambda node, args: f"__umulhi({args[0]}, {args[1]})",
    **dict.fromkeys(CHOICES, lambda node, args: f"({args[0]} ? {args[1]} : {args[2]})"),
    "cast": _cast, "bitcast": _bitcast,
}
"""How to write each primitive: from the operands' texts to the result's."""
