"""Generated from the table of operations: every row, on every dtype, layout and special value.

Values are compared with NumPy's, at each level there is to run: the reference interpreter of the
graph, the expansion of composites, the scalar expressions of the loops, and compiled functions.
Derivatives are compared with central differences, forward mode with reverse mode by the adjoint
identity, and second derivatives with differences of the first.
"""

from __future__ import annotations

import doctest
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

import tetractys
import tetractys.compiler.ops  # noqa: F401  (fills the table)
from tetractys import function as compiled_function, tensor as T
from tetractys.compiler import derivative
from tetractys.compiler.dtypes import is_integer
from tetractys.compiler.graph import Variable, input_variable
from tetractys.compiler.interpret import evaluate
from tetractys.compiler.loop import math, scalar
from tetractys.compiler.loop.ir import Const, Expr, Local
from tetractys.compiler.operators import FUNCTIONS
from tetractys.compiler.ops.op import (
    REGISTRY, Expand, NoDerivative, Op, Sample, ScalarLowering, as_tensor, register)
from tetractys.compiler.ops.public import BUILDERS

# -- cases -----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Case:
    """One row called in one way on one combination of dtypes."""

    row: Op
    number: int
    sample: Sample
    dtypes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.row.name}-{self.number}-{'_'.join(self.dtypes)}"

    @property
    def is_elementwise(self) -> bool:
        """Whether the row works on tensors of any shape, so that it has special values."""
        return bool(self.row.edges)

    def inputs(self, shapes: Sequence[tuple[int, ...]], known: bool = False) -> list[Variable]:
        """Return inputs; sizes other than 1 are unknown unless ``known``."""
        return [input_variable(dtype, [n if known or n == 1 else None for n in shape], f"x{k}")
                for k, (dtype, shape) in enumerate(zip(self.dtypes, shapes))]

    def apply(self, inputs: Sequence[Variable]) -> Variable:
        """Call the public function."""
        call = self.sample.call or (lambda function, *args: function(*args))
        return call(self.row.function, *inputs)

    def expected(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return what NumPy says."""
        with np.errstate(all="ignore"):
            return np.asarray((self.sample.reference or self.row.reference)(*arrays))

    def arrays(self, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Return random arrays from the sample's domain, the same in every run."""
        random = np.random.default_rng(zlib.crc32(str((str(self), shapes)).encode()))
        domain = self.sample.domain * (len(shapes) if len(self.sample.domain) == 1 else 1)
        return [_draw(random, shape, dtype, *bounds)
                for shape, dtype, bounds in zip(shapes, self.dtypes, domain)]


def _draw(random, shape, dtype: str, low: float, high: float) -> np.ndarray:
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.startswith("f"):
        return np.asarray(random.uniform(low, high, shape)).astype(dtype)
    info = np.iinfo(dtype)
    low, high = max(int(np.floor(low)), info.min), min(int(np.ceil(high)), info.max)
    return random.integers(low, high, shape, endpoint=True).astype(dtype)


ROWS = [row for row in REGISTRY.values() if row.samples]
CASES = [Case(row, number, sample, dtypes * (len(sample.shapes) if len(dtypes) == 1 else 1))
         for row in ROWS for number, sample in enumerate(row.samples) for dtypes in sample.dtypes]
SMOOTH = [case for case in CASES
          if case.sample.differentiable and case.dtypes and "float64" in case.dtypes
          and "float32" not in case.dtypes and not isinstance(case.row.derivative, NoDerivative)]


def _over(cases: Sequence[Case]):
    return pytest.mark.parametrize("case", cases, ids=str)


# -- layouts ---------------------------------------------------------------------------------------

def _strided(array: np.ndarray) -> np.ndarray:
    wide = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
    view = wide[tuple(slice(1, 2 * n + 1, 2) for n in array.shape)]
    view[...] = array
    return view


def _reversed(array: np.ndarray) -> np.ndarray:
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    return array[backwards].copy()[backwards]


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.ascontiguousarray, "fortran": np.asfortranarray,
    "strided": _strided, "negative strides": _reversed}


def _special(case: Case) -> list[np.ndarray]:
    """Return every combination of special values of the arguments, as vectors."""
    grid = np.meshgrid(*(_specials_of(case.row.edges, dtype) for dtype in case.dtypes),
                       indexing="ij")
    return [np.ascontiguousarray(axis.ravel()) for axis in grid]


def _specials_of(edges: tuple[float, ...], dtype: str) -> np.ndarray:
    if dtype == "bool":
        return np.array([False, True])
    if dtype.startswith("f"):
        with np.errstate(all="ignore"):
            return np.array(edges).astype(dtype)
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1, 2, 7, max(info.min, -1), max(info.min, -2)], dtype)


def _variants(case: Case) -> Iterator[tuple[str, list[Variable], list[list[np.ndarray]]]]:
    """Yield inputs, and lists of arrays for them in several layouts."""
    shapes = case.sample.shapes
    arrays = case.arrays(shapes)
    yield "sample", case.inputs(shapes), [
        [layout(a) if a.ndim else a for a in arrays]
        for layout in LAYOUTS.values()]
    if not case.is_elementwise:
        return
    for name, shape in (("scalar", ()), ("empty", (0, 3))):
        replaced = [shape] * len(shapes)
        yield name, case.inputs(replaced), [case.arrays(replaced)]
    special = _special(case)
    yield "special", case.inputs([a.shape for a in special]), [special]


# -- backends --------------------------------------------------------------------------------------

def _interpreted(inputs: list[Variable], output: Variable) -> Callable[..., np.ndarray]:
    return lambda *arrays: evaluate([output], dict(zip(inputs, arrays)))[0]


def _compiled(inputs: list[Variable], output: Variable) -> Callable[..., np.ndarray]:
    return compiled_function(inputs, output, on_unused_input="ignore")


BACKENDS = {"interpreted": _interpreted, "compiled": _compiled}


@dataclass(frozen=True)
class Tolerance:
    """So many roundings of each value; of the largest one, or at least of ``floor``, if given."""

    roundings: float
    floor: float = 0.0
    of_largest: bool = False

    def unit(self, expected: np.ndarray) -> np.ndarray:
        """Return the size of one rounding of each finite value."""
        size = np.maximum(np.abs(expected), expected.dtype.type(self.floor))
        return np.spacing(np.full_like(size, size.max()) if self.of_largest else size)


def tolerance(case: Case, dtype: str) -> Tolerance:
    """Return the error allowed: the row's own, and that of NumPy's functions."""
    if not case.is_elementwise:
        return Tolerance(64.0, of_largest=True)
    if isinstance(case.row.lower, Expand):
        return Tolerance(24.0, floor=1.0)
    own = 1.0 if case.row.ulp is None or not dtype.startswith("f") else case.row.ulp[dtype]
    return Tolerance(own + (4.0 if dtype == "float32" else 1.0))


def assert_close(actual, expected, allowed: Tolerance, what: str) -> None:
    """Assert equal dtypes, shapes, NaNs and infinities, and values as close as is allowed."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, what
    assert actual.shape == expected.shape, what
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=what)
    actual, expected = actual[finite], expected[finite]
    if not expected.size:
        return
    apart = np.abs(actual.astype("longdouble") - expected) / allowed.unit(expected)
    worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
    assert apart[worst] <= allowed.roundings, (
        f"{what}: {actual[worst]!r} should be {expected[worst]!r}, {apart[worst]} roundings apart")


# -- values ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
@_over(CASES)
def test_values_are_numpys(case, backend):
    for name, inputs, all_arrays in _variants(case):
        output = case.apply(inputs)
        run = backend(inputs, output)
        for arrays in all_arrays:
            expected = case.expected(arrays)
            assert output.dtype == expected.dtype, name
            assert_close(run(*arrays), expected, tolerance(case, output.dtype), name)


@_over(CASES)
def test_known_sizes_give_known_sizes(case):
    inputs = case.inputs(case.sample.shapes, known=True)
    arrays = case.arrays(case.sample.shapes)
    output = case.apply(inputs)
    (value,) = evaluate([output], dict(zip(inputs, arrays)))
    takes_sizes = any(v.ndim == 0 and is_integer(v.dtype) for v in inputs)
    for known, size in zip(output.type.shape, value.shape):
        assert known == size or (known is None and takes_sizes)


@_over([case for case in CASES if isinstance(case.row.lower, Expand)])
def test_expansion_means_the_same(case):
    for name, inputs, all_arrays in _variants(case):
        node = _node_of(case, inputs)
        expanded = case.row.lower.rule(*node.inputs, **node.params)
        assert expanded.dtype == node.output.dtype
        assert expanded.ndim == node.output.ndim
        for arrays in all_arrays:
            both = evaluate([expanded, node.output], dict(zip(inputs, arrays)))
            assert_close(*both, tolerance(case, expanded.dtype), name)


@_over([case for case in CASES if isinstance(case.row.lower, ScalarLowering)])
def test_scalar_expression_means_the_same(case):
    for name, inputs, all_arrays in _variants(case):
        node = _node_of(case, inputs)
        if node is None:
            assert case.apply(inputs) is inputs[0]
            continue
        arguments = [Local(f"x{k}", v.dtype) for k, v in enumerate(node.inputs)]
        expression = case.row.lower.rule(*arguments, **node.params)
        assert expression.dtype == node.output.dtype
        for arrays in all_arrays:
            *values, expected = evaluate([*node.inputs, node.output], dict(zip(inputs, arrays)))
            result = _run_expression(expression, dict(zip((a.name for a in arguments), values)))
            actual = np.broadcast_to(result, expected.shape).astype(expression.dtype)
            assert_close(actual, expected, tolerance(case, node.output.dtype), name)


def _node_of(case: Case, inputs: Sequence[Variable]):
    """Return the row's own node among those that its public function builds, if it builds one."""
    pending = [case.apply(inputs)]
    while pending:
        node = pending.pop().owner
        if node is not None and node.op is case.row:
            return node
        pending.extend(node.inputs if node is not None else ())
    return None


def _run_expression(root: Expr, values: dict[str, np.ndarray]) -> np.ndarray:
    """Evaluate a scalar expression on whole arrays."""
    known: dict[int, np.ndarray] = {}
    stack = [root]
    while stack:
        expression = stack[-1]
        arguments = getattr(expression, "args", ())
        missing = [a for a in arguments if id(a) not in known]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if isinstance(expression, Const):
            known[id(expression)] = np.asarray(expression.value, expression.dtype)
        elif isinstance(expression, Local):
            known[id(expression)] = values[expression.name]
        else:
            operands = [known[id(a)] for a in arguments]
            known[id(expression)] = _primitive(expression.name, operands, expression.dtype)
    return known[id(root)]


def _primitive(name: str, operands: list[np.ndarray], dtype: str) -> np.ndarray:
    if name in math.FUNCTIONS:
        parameters, body = math.definition(name, dtype, len(operands))
        return _run_expression(body, dict(zip((p.name for p in parameters), operands)))
    if name == "fma":
        with np.errstate(all="ignore"):
            return _fused(*operands).astype(dtype)
    return np.asarray(scalar.evaluate(name, operands, dtype))


@partial(np.vectorize, otypes=["float64"])
def _fused(x: float, y: float, z: float) -> float:
    """Return x*y + z rounded once, as the targets do (NumPy rounds twice)."""
    if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
        return float(x) * float(y) + float(z)
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    if not exact:
        return float(x) * float(y) + float(z)
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


# -- derivatives -----------------------------------------------------------------------------------

STEP = 1e-6


class _Direction:
    """A smooth case: its inputs at a random point, and random directions."""

    def __init__(self, case: Case):
        self.inputs = case.inputs(case.sample.shapes)
        self.arrays = case.arrays(case.sample.shapes)
        self.output = case.apply(self.inputs)
        self.moving = [k for k, v in enumerate(self.inputs) if v.dtype == "float64"]
        self.wrt = [self.inputs[k] for k in self.moving]
        self.random = np.random.default_rng(7)
        self.value = self.at(0.0, self.output)
        self.tangents = [self.random.standard_normal(self.arrays[k].shape) for k in self.moving]
        self.cotangent = self.random.standard_normal(self.value.shape)

    def at(self, step: float, output: Variable) -> np.ndarray:
        """Return ``output`` at the point moved by ``step`` along the tangents."""
        arrays = list(self.arrays)
        for k, tangent in zip(self.moving, self.tangents if step else ()):
            arrays[k] = arrays[k] + step * tangent
        return evaluate([output], dict(zip(self.inputs, arrays)))[0]

    def difference(self, output: Variable) -> np.ndarray:
        """Return the directional derivative of ``output`` by central differences."""
        return (self.at(STEP, output) - self.at(-STEP, output)) / (2 * STEP)

    def forward(self) -> np.ndarray:
        """Return the directional derivative by forward mode."""
        (tangent,) = derivative.jvp([self.output], self.wrt,
                                    [as_tensor(t) for t in self.tangents])
        return np.zeros_like(self.value) if tangent is None else self.at(0.0, tangent)

    def reverse(self) -> list[Variable | None]:
        """Return the cotangents of the inputs."""
        return derivative.vjp([self.output], self.wrt, [as_tensor(self.cotangent)])

    def pair(self, gradients: Sequence[Variable | None]) -> float:
        """Return the inner product of gradients and tangents."""
        return sum(float(np.vdot(self.at(0.0, gradient), tangent))
                   for gradient, tangent in zip(gradients, self.tangents) if gradient is not None)


def _assert_near(actual, expected, relative: float) -> None:
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=relative * scale)


@_over(SMOOTH)
def test_forward_mode_agrees_with_differences(case):
    direction = _Direction(case)
    _assert_near(direction.forward(), direction.difference(direction.output), 1e-7)


@_over(SMOOTH)
def test_reverse_mode_is_the_adjoint_of_forward_mode(case):
    direction = _Direction(case)
    gradients = direction.reverse()
    for gradient, variable in zip(gradients, direction.wrt):
        assert gradient is None or gradient.dtype == variable.dtype
        assert gradient is None or direction.at(0.0, gradient).shape \
            == direction.at(0.0, variable).shape
    _assert_near(direction.pair(gradients), np.vdot(direction.cotangent, direction.forward()),
                 1e-11)


@_over(SMOOTH)
def test_second_derivatives_agree_with_differences(case):
    direction = _Direction(case)
    for gradient in direction.reverse():
        if gradient is None:
            continue
        (tangent,) = derivative.jvp([gradient], direction.wrt,
                                    [as_tensor(t) for t in direction.tangents])
        expected = direction.difference(gradient)
        actual = np.zeros_like(expected) if tangent is None else direction.at(0.0, tangent)
        _assert_near(actual, expected, 1e-6)


# -- completeness ----------------------------------------------------------------------------------

PUBLIC = [row for row in REGISTRY.values() if row.namespace]


@pytest.mark.parametrize("row", PUBLIC, ids=lambda row: row.name)
def test_every_public_row_is_documented_and_found_by_all_its_names(row):
    namespace = {"T": T, "T.nnet": T.nnet}[row.namespace]
    for name in (row.name, *row.aliases):
        assert FUNCTIONS[name] is row.function
        assert getattr(namespace, name) is row.function
    assert row.function.__doc__.strip().splitlines()[0].endswith((".", ":"))
    assert "Parameters\n----------" in row.doc
    assert row.section


@pytest.mark.parametrize("namespace", ["T", "T.nnet"])
def test_every_builder_is_found_by_its_name(namespace):
    module = {"T": T, "T.nnet": T.nnet}[namespace]
    assert BUILDERS[namespace]
    for name, function in BUILDERS[namespace].items():
        assert getattr(module, name) is function


DOCUMENTED = {f"{namespace}.{function.__name__}": function for namespace, functions in (
    *BUILDERS.items(), *((row.namespace, {row.name: row.function}) for row in PUBLIC))
    for function in functions.values() if ">>>" in function.__doc__}


@pytest.mark.parametrize("function", DOCUMENTED.values(), ids=DOCUMENTED)
def test_documented_example_runs(function):
    names = {"T": T, "np": np, "tx": tetractys, function.__name__: function}
    (example,) = doctest.DocTestFinder(recurse=False).find(
        function, function.__name__, module=False, globs=names)
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


NOT_ITS_OWN = {"grad_clip", "grad_scale", "zero_grad", "disconnected_grad"}
"""Rows whose purpose is to have another derivative than their values have."""


@pytest.mark.parametrize("row", PUBLIC, ids=lambda row: row.name)
def test_every_float_row_with_a_derivative_has_it_tested(row):
    takes_floats = any(d.startswith("f") for s in row.samples for ds in s.dtypes for d in ds)
    if takes_floats and not isinstance(row.derivative, NoDerivative) \
            and row.name not in NOT_ITS_OWN:
        assert any(case.row is row for case in SMOOTH)


@pytest.mark.parametrize("row", [r for r in PUBLIC if r.ulp is not None], ids=lambda row: row.name)
def test_stated_accuracy_is_measured_for_both_float_dtypes(row):
    assert set(row.ulp) == {"float32", "float64"}
    assert all(0 < row.ulp[dtype] <= 4 for dtype in row.ulp)


def test_an_incomplete_row_is_refused():
    row = REGISTRY["add"]
    with pytest.raises(AssertionError, match="its name is taken"):
        register(row)
