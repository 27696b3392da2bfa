"""Elementwise rows: what the generated table test does not say about each of them."""

from __future__ import annotations

import numpy as np
import pytest

import tetractys.compiler.ops.comparison as comparison
from tetractys.compiler.derivative import jvp, vjp
from tetractys.compiler.graph import Constant, Variable, input_variable
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.loop import modulo, scalar
from tetractys.compiler.loop.ir import Const, Expr, Local
from tetractys.compiler.operators import FUNCTIONS as F
from tetractys.compiler.ops import transcendental
from tetractys.compiler.ops.op import as_tensor
from tetractys.runtime.errors import DtypeError, ShapeError

FLOATS = ("float32", "float64")
INF, NAN = float("inf"), float("nan")


def value_of(output: Variable, values: dict | None = None) -> np.ndarray:
    return evaluate([output], values or {})[0]


def gradient_of(function, *points: float) -> list[float]:
    """Return the derivatives of a scalar function by reverse mode."""
    inputs = [input_variable("float64", ()) for _ in points]
    gradients = vjp([function(*inputs)], inputs, [as_tensor(1.0)])
    values = dict(zip(inputs, map(np.float64, points)))
    return [0.0 if g is None else float(value_of(g, values)) for g in gradients]


def vector(dtype: str = "float64", size: int | None = None) -> Variable:
    return input_variable(dtype, (size,), "x")


# -- dtypes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, dtypes, expected", [
    ("add", ("bool", "bool"), "bool"), ("add", ("int8", "uint8"), "int16"),
    ("add", ("int32", "float32"), "float64"), ("mul", ("bool", "bool"), "bool"),
    ("true_div", ("int8", "int8"), "float64"), ("true_div", ("bool", "bool"), "float64"),
    ("true_div", ("float32", "float32"), "float32"), ("floordiv", ("bool", "bool"), "int8"),
    ("floordiv", ("uint8", "int8"), "int16"), ("mod", ("int16", "int16"), "int16"),
    ("pow", ("bool", "bool"), "int8"), ("left_shift", ("bool", "bool"), "int8"),
    ("maximum", ("bool", "bool"), "bool"), ("eq", ("int8", "float64"), "bool"),
    ("and_", ("bool", "int8"), "int8"), ("sqr", ("bool",), "int8"), ("abs_", ("bool",), "bool"),
    ("floor", ("int8",), "int8"), ("ceil", ("bool",), "bool"), ("invert", ("bool",), "bool"),
    ("exp", ("bool",), "float32"), ("exp", ("int8",), "float32"), ("exp", ("uint16",), "float32"),
    ("exp", ("int32",), "float64"), ("sqrt", ("uint64",), "float64"),
    ("inv", ("int8",), "float32"), ("isnan", ("int8",), "bool")])
def test_dtype_of_the_result(name, dtypes, expected):
    assert F[name](*(vector(dtype) for dtype in dtypes)).dtype == expected


@pytest.mark.parametrize("number, dtype, expected", [
    (2, "int8", "int8"), (2.5, "float32", "float32"), (2.5, "int8", "float64"),
    (True, "int8", "int8"), (1, "bool", "int64"), (np.float64(2.5), "float32", "float64")])
def test_python_numbers_are_weak(number, dtype, expected):
    assert F["add"](vector(dtype), number).dtype == expected
    assert F["add"](number, vector(dtype)).dtype == expected


@pytest.mark.parametrize("call", [
    lambda: F["sub"](vector("bool"), vector("bool")), lambda: F["neg"](vector("bool")),
    lambda: F["sgn"](vector("bool")), lambda: F["and_"](vector(), vector()),
    lambda: F["invert"](vector("float32")), lambda: F["left_shift"](vector(), 1)])
def test_kinds_that_an_op_does_not_take_are_refused(call):
    with pytest.raises(DtypeError) as error:
        call()
    message = str(error.value)
    assert "takes tensors of" in message
    assert "x bool (x.shape[0],)" in message or "x float" in message
    assert "test_ops_elementwise.py" in message
    assert "remedy" in message


@pytest.mark.parametrize("dtype, number", [("int8", 300), ("uint8", -1), ("int32", 2**40)])
def test_integers_of_any_size_are_compared_and_divided(dtype, number):
    x, value = vector(dtype), np.array([0, 1, 7], dtype)
    wanted = value.astype("int64")
    for name, function in (("lt", np.less), ("ge", np.greater_equal), ("eq", np.equal)):
        np.testing.assert_array_equal(F[name](x, number).eval({x: value}), function(wanted, number))
        np.testing.assert_array_equal(F[name](number, x).eval({x: value}), function(number, wanted))
    quotient = (x / number).eval({x: value})
    assert quotient.dtype == "float64"
    np.testing.assert_array_equal(quotient, wanted / number)


def test_integer_that_does_not_fit_is_refused():
    with pytest.raises(DtypeError, match="300 does not fit in int8"):
        F["add"](vector("int8"), 300)


def test_sizes_known_to_differ_are_refused():
    with pytest.raises(ShapeError, match=r"3 on axis 0(.|\n)*4 on axis 0"):
        F["add"](vector(size=3), vector(size=4))


def test_sizes_that_differ_at_run_time_are_refused():
    x, y = vector(), vector()
    with pytest.raises(ShapeError):
        value_of(F["add"](x, y), {x: np.zeros(3), y: np.zeros(4)})


def test_wrong_number_of_arguments_is_a_type_error():
    with pytest.raises(TypeError, match="exp takes 1 argument, not 2"):
        F["exp"](1.0, 2.0)
    with pytest.raises(TypeError, match="exp does not take out"):
        F["exp"](1.0, out=2.0)


def test_arguments_may_be_named():
    assert value_of(F["clip"](5.0, min=0.0, max=1.0)) == 1.0
    assert value_of(F["sub"](y=1.0, x=3.0)) == 2.0


def test_sum_and_product_of_several():
    assert value_of(F["add"](1, 2, 3, 4)) == 10
    assert value_of(F["mul"](1.0, 2.0, 3.0)) == 6.0


# -- powers ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("power", [-1, np.array([2, -1])])
def test_constant_negative_power_of_integers_is_refused(power):
    with pytest.raises(DtypeError, match="negative integer powers"):
        vector("int64") ** power


def test_variable_negative_power_of_integers_is_the_integer_part():
    x, y = vector("int64"), vector("int64")
    bases = np.array([0, 1, -1, -1, 2, -3])
    powers = np.array([-1, -5, -2, -3, -1, -2])
    np.testing.assert_array_equal(value_of(x ** y, {x: bases, y: powers}), [0, 1, 1, -1, 0, 0])


def test_negative_power_of_a_float_is_taken():
    np.testing.assert_allclose(value_of(as_tensor([2.0, 4.0]) ** -1), [0.5, 0.25])


@pytest.mark.parametrize("x, y, by_x, by_y", [
    (0.0, 2.0, 0.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0), (3.0, 0.0, 0.0, np.log(3.0)),
    (-2.0, 3.0, 12.0, NAN), (2.0, 3.0, 12.0, 8 * np.log(2.0))])
def test_derivative_of_a_power(x, y, by_x, by_y):
    np.testing.assert_allclose(gradient_of(F["pow"], x, y), [by_x, by_y], rtol=1e-14)


@pytest.mark.parametrize("power, expected", [(0, 0.0), (1, 0.0), (2, 2.0), (3, 0.0)])
def test_second_derivative_of_an_integer_power_at_zero(power, expected):
    def slope(x):
        return vjp([x ** power], [x], [as_tensor(1.0)])[0]
    assert gradient_of(slope, 0.0) == [expected]


# -- remainders ------------------------------------------------------------------------------------

def run(expression: Expr, values: dict[str, np.ndarray], known: dict | None = None) -> np.ndarray:
    """Evaluate a scalar expression on arrays."""
    known = {} if known is None else known
    if id(expression) not in known:
        if isinstance(expression, Const):
            known[id(expression)] = np.asarray(expression.value, expression.dtype)
        elif isinstance(expression, Local):
            known[id(expression)] = values[expression.name]
        else:
            arguments = [run(a, values, known) for a in expression.args]
            known[id(expression)] = scalar.evaluate(expression.name, arguments, expression.dtype)
    return known[id(expression)]


def remainder_operands(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs: special values, near multiples, and quotients of many magnitudes."""
    random = np.random.default_rng(3)
    special = np.array([0, -0.0, 1, -1, 0.5, INF, -INF, NAN, 1e30, 1e-30, 5e-324, 1e-45, 3, -7, 2.5,
                        1e308, 1e38, 2.2250738585072014e-308])
    pairs = [np.array(np.meshgrid(special, special)).reshape(2, -1)]
    for span in (1, 10, 60):
        pairs.append(random.standard_normal((2, 20000))
                     * np.exp(random.uniform(-span, span, (2, 20000))))
    divisor = random.standard_normal(20000)
    for bound in (1000, 2 ** 60):
        pairs.append(np.array([random.integers(-bound, bound, 20000) * divisor, divisor]))
    with np.errstate(over="ignore"):
        return tuple(np.concatenate(pairs, axis=1).astype(dtype))


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    bits = f"uint{8 * expected.dtype.itemsize}"
    same = (actual.view(bits) == expected.view(bits)) | (np.isnan(actual) & np.isnan(expected))
    assert same.all(), (actual[~same][:5], expected[~same][:5])


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_remainder_has_numpys_bits(dtype):
    x, y = remainder_operands(dtype)
    expression = modulo.modulo(Local("x", dtype), Local("y", dtype))
    with np.errstate(all="ignore"):
        quotient = np.abs(x.astype("float64") / y.astype("float64"))
        expected = np.mod(x, y)
    result = run(expression, {"x": x, "y": y})
    is_huge = quotient >= modulo.LARGEST_QUOTIENT
    assert is_huge.any()
    assert_same_bits(result[~is_huge], expected[~is_huge])
    assert np.isnan(result[is_huge]).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_floored_quotient_has_numpys_bits(dtype):
    x, y = remainder_operands(dtype)
    with np.errstate(all="ignore"):
        expected = np.floor_divide(x, y)
    result = run(modulo.floor_quotient(Local("x", dtype), Local("y", dtype)), {"x": x, "y": y})
    assert_same_bits(result, expected)


def test_integer_division_by_zero_is_zero():
    x = as_tensor(np.array([5, -5]))
    assert value_of(x // 0).tolist() == [0, 0]
    assert value_of(x % 0).tolist() == [0, 0]


# -- signs, rounding, choices ----------------------------------------------------------------------

def test_sign_of_special_values():
    values = value_of(F["sgn"]([NAN, 0.0, -0.0, INF, -2.0]))
    np.testing.assert_array_equal(values, [NAN, 0.0, 0.0, 1.0, -1.0])


def test_halves_round_to_even():
    np.testing.assert_array_equal(value_of(F["round"]([0.5, 1.5, -2.5])), [0.0, 2.0, -2.0])


@pytest.mark.parametrize("x, y, by_x, by_y", [(2.0, 1.0, 1, 0), (1.0, 2.0, 0, 1), (1.0, 1.0, 1, 0)])
def test_derivative_of_maximum_belongs_to_one_argument(x, y, by_x, by_y):
    assert gradient_of(F["maximum"], x, y) == [by_x, by_y]
    assert gradient_of(F["minimum"], -x, -y) == [by_x, by_y]


@pytest.mark.parametrize("x, expected", [
    (-2.0, [0, 1, 0]), (0.0, [1, 0, 0]), (2.0, [0, 0, 1]), (1.0, [1, 0, 0]), (-1.0, [1, 0, 0])])
def test_derivative_of_clip_belongs_to_one_argument(x, expected):
    assert gradient_of(F["clip"], x, -1.0, 1.0) == expected


def test_clip_with_crossed_bounds_gives_the_upper_one():
    assert value_of(F["clip"](0.0, 3.0, 1.0)) == 1.0
    assert gradient_of(F["clip"], 0.0, 3.0, 1.0) == [0, 0, 1]


def test_derivative_does_not_leak_through_the_branch_not_taken():
    def safe_log(x):
        return F["switch"](F["gt"](x, 0), F["log"](x), 0.0)
    assert gradient_of(safe_log, 2.0) == [0.5]
    x = input_variable("float64", ())
    (g,) = vjp([F["switch"](F["gt"](x, 0), x, 0.0)], [x], [as_tensor(INF)])
    assert value_of(g, {x: np.float64(-1.0)}) == 0.0


def test_condition_of_switch_may_be_a_number():
    c = vector("int32")
    np.testing.assert_array_equal(
        value_of(F["switch"](c, 1.0, 2.0), {c: np.array([0, 5], "int32")}), [2.0, 1.0])


def test_switch_node_refuses_a_condition_that_is_not_bool():
    x = vector()
    with pytest.raises(DtypeError, match="bool condition"):
        comparison._SWITCH(x, x, x)


@pytest.mark.parametrize("function, at, expected", [
    ("abs_", 0.0, 0.0), ("abs_", -3.0, -1.0), ("tanh", 1e4, 0.0), ("sigmoid", -1e4, 0.0),
    ("softplus", 1e4, 1.0), ("softplus", -1e4, 0.0), ("exp", -INF, 0.0), ("log", INF, 0.0),
    ("sqrt", 4.0, 0.25), ("arcsin", 1.0, INF), ("floor", 0.5, 0.0), ("round", 0.5, 0.0)])
def test_derivative_at_special_points(function, at, expected):
    assert gradient_of(F[function], at) == [expected]


def test_slope_of_arcsin_near_one_has_no_cancellation():
    x = 1 - 2.0 ** -52
    expected = 1 / np.sqrt(np.longdouble(2.0 ** -52) * (1 + np.longdouble(x)))
    assert gradient_of(F["arcsin"], x)[0] == pytest.approx(float(expected), rel=1e-15)


def test_quotient_derivative_does_not_overflow():
    assert gradient_of(F["true_div"], 1e200, 1e200) == [1e-200, -1e-200]


# -- bits ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_shifts_beyond_the_width_shift_everything_out(dtype):
    values = np.array([1, 77, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    counts = np.array([0, 1, 7, 8, 63, 64, 100, np.iinfo(dtype).min], dtype)
    x, y = (a.ravel() for a in np.meshgrid(values, counts))
    for name, reference in (("left_shift", np.left_shift), ("right_shift", np.right_shift)):
        rule = comparison._shift("shl" if name[0] == "l" else "shr")
        result = run(rule(Local("x", dtype), Local("y", dtype)), {"x": x, "y": y})
        np.testing.assert_array_equal(result, reference(x, y))


def test_logic_of_bool_and_bits_of_integers():
    assert value_of(F["invert"](as_tensor(np.array([True, False])))).tolist() == [False, True]
    assert value_of(F["invert"](as_tensor(np.int8(5)))) == -6
    assert value_of(F["xor"](as_tensor(6), 3)) == 5


# -- conversion ------------------------------------------------------------------------------------

def test_cast_to_the_same_dtype_is_the_variable_itself():
    x = vector()
    assert F["cast"](x, "float64") is x
    assert F["cast"](x, np.float64) is x


def test_cast_of_a_scalar_constant_is_a_constant():
    c = F["cast"](as_tensor(3), "float32")
    assert isinstance(c, Constant) and c.dtype == "float32" and c.data == 3.0


def test_cast_to_floatX_follows_the_setting():
    assert F["cast"](vector("int8"), "floatX").dtype == "float64"


@pytest.mark.parametrize("dtype", ["float128", "complex128", "no such", None])
def test_cast_to_an_unknown_dtype_is_refused(dtype):
    with pytest.raises(DtypeError, match="There is no dtype"):
        F["cast"](vector(), dtype)


def test_derivative_passes_through_casts_between_floats_only():
    x = vector()
    single = F["cast"](x, "float32")
    (g,) = vjp([single], [x], [as_tensor(np.array([1, 2], "float32"))])
    assert g.dtype == "float64"
    assert value_of(g, {x: np.zeros(2)}).tolist() == [1.0, 2.0]
    (t,) = jvp([single], [x], [as_tensor(np.array([1.0, 2.0]))])
    assert t.dtype == "float32"
    through_int = F["cast"](F["cast"](x, "int32"), "float64")
    assert vjp([through_int], [x], [as_tensor(np.ones(2))]) == [None]
    assert jvp([through_int], [x], [as_tensor(np.ones(2))]) == [None]


def test_fill_takes_shape_from_one_and_value_from_the_other():
    shape = as_tensor(np.full((2, 3), NAN))
    filled = F["fill"](shape, as_tensor(np.int8(7)))
    assert filled.dtype == "int8"
    assert value_of(filled).tolist() == [[7, 7, 7], [7, 7, 7]]


# -- the graphs they make --------------------------------------------------------------------------

def test_nodes_have_inputs_of_one_dtype():
    node = F["add"](vector("int8"), vector("float32")).owner
    assert {v.dtype for v in node.inputs} == {"float32"}
    assert node.inputs[1].owner is None


def test_unknown_size_meets_broadcast_axis():
    x, row = input_variable("float64", (None, None)), input_variable("float64", (1, None))
    output = F["mul"](x, row)
    assert output.type.dims[0] is x.type.dims[0]
    assert len(output.owner.guards) == 1


def test_special_functions_agree_with_their_definitions():
    x = np.array([-700.0, -1.0, 0.0, 1.0, 700.0])
    expected = np.array([0.5 * (1 + np.tanh(0.5 * v)) for v in x])
    reference = transcendental._sigmoid(x)
    np.testing.assert_allclose(reference[1:], expected[1:], rtol=1e-15)
    assert 0 < reference[0] < 1e-303
