"""Generate ``compiler/loop/coefficients.py``: run this file and its output is that module's text.

A fit is the polynomial that minimises ``max |weight(x) * (polynomial(x) - target(x))|`` over an
interval.  Least squares with 50 digits comes near it; a linear program, whose unknowns are only
the small corrections and so need no more than double precision, makes it minimax.  Coefficients
are rounded to the dtype from the lowest order up, each followed by a fit of the remaining ones, so
that the higher orders make up for the rounding of the lower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpmath as mp
import numpy as np
from scipy.optimize import linprog

Function = Callable[[mp.mpf], mp.mpf]


@dataclass(frozen=True)
class Fit:
    """One polynomial: ``target`` on [low, high], errors multiplied by ``weight``."""

    name: str
    dtype: str
    degree: int
    low: mp.mpf
    high: mp.mpf
    target: Function
    weight: Function


def chebyshev_in_powers(count: int, low: mp.mpf, high: mp.mpf) -> list[list[mp.mpf]]:
    """Return the Chebyshev polynomials of [low, high] as lists of coefficients of powers."""
    slope, offset = 2 / (high - low), -(low + high) / (high - low)
    rows = [[mp.mpf(1)], [offset, slope]]
    while len(rows) < count:
        row = [mp.mpf(0)] * (len(rows) + 1)
        for power, value in enumerate(rows[-1]):
            row[power] += 2 * offset * value
            row[power + 1] += 2 * slope * value
        for power, value in enumerate(rows[-2]):
            row[power] -= value
        rows.append(row)
    return rows[:count]


def minimax(points, residuals, weights, first: int, count: int, low, high) -> list[mp.mpf]:
    """Return coefficients of powers ``first ... first+count-1`` of the best fit to residuals."""
    basis, right = mp.matrix(len(points), count), mp.matrix(len(points), 1)
    for i, x in enumerate(points):
        u = (2 * x - low - high) / (high - low)
        before, term = u, mp.mpf(1)
        for j in range(count):
            basis[i, j] = term * x ** first * weights[i]
            before, term = term, (u if j == 0 else 2 * u * term - before)
        right[i] = residuals[i] * weights[i]
    some = range(0, len(points), max(1, len(points) // (4 * count)))
    start = mp.lu_solve(mp.matrix([[basis[i, j] for j in range(count)] for i in some]),
                        mp.matrix([right[i] for i in some]))
    errors = right - basis * start
    size = max(abs(error) for error in errors)
    matrix = np.array([[float(basis[i, j]) for j in range(count)] for i in range(len(points))])
    columns = np.abs(matrix).max(axis=0)
    matrix, bound = matrix / columns, np.ones((len(points), 1))
    scaled = np.array([float(error / size) for error in errors])
    solution = linprog(
        [0] * count + [1], method="highs-ds",
        A_ub=np.vstack([np.hstack([matrix, -bound]), np.hstack([-matrix, -bound])]),
        b_ub=np.concatenate([scaled, -scaled]), bounds=[(None, None)] * count + [(0, None)])
    powers = [mp.mpf(0)] * count
    for j, row in enumerate(chebyshev_in_powers(count, low, high)):
        factor = start[j] + mp.mpf(float(solution.x[j] / columns[j])) * size
        for power, value in enumerate(row):
            powers[power] += factor * value
    return powers


def solve(fit: Fit) -> tuple[list[float], float]:
    """Return the rounded coefficients and log2 of the weighted error they leave."""
    low, high, grid = mp.mpf(fit.low), mp.mpf(fit.high), 16 * (fit.degree + 2)
    points = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / grid)
              for i in range(grid + 1)]
    targets, weights = [fit.target(x) for x in points], [fit.weight(x) for x in points]
    found: list[float] = []

    def residual(i: int) -> mp.mpf:
        return targets[i] - mp.fsum(mp.mpf(c) * points[i] ** k for k, c in enumerate(found))

    for order in range(fit.degree + 1):
        best = minimax(points, [residual(i) for i in range(len(points))], weights, order,
                       fit.degree + 1 - order, low, high)
        found.append(float(np.dtype(fit.dtype).type(float(best[0]))))
    error = max(weights[i] * abs(residual(i)) for i in range(len(points)))
    return found, float(mp.log(error, 2))


def removable(function: Function, at_zero) -> Function:
    """Return ``function`` with digits to spare for its cancellation, and its limit at zero."""
    def extended(x: mp.mpf) -> mp.mpf:
        if x == 0:
            return mp.mpf(at_zero)
        with mp.workdps(110):
            return +function(x)
    return extended


def odd(function: Function, order: int, at_zero) -> tuple[Function, Function]:
    """Return target and weight, in z = x*x, of ``function(x) = x + x**order * polynomial(z)``."""
    return (removable(lambda z: (function(mp.sqrt(z)) - mp.sqrt(z)) / mp.sqrt(z) ** order, at_zero),
            removable(lambda z: mp.sqrt(z) ** order / function(mp.sqrt(z)), 1 if order == 1 else 0))


def scaled_erfc(centre: int) -> tuple[Function, Function]:
    """Return target and weight of ``(1+2a) exp(a*a) erfc(a)`` in ``t = (a-centre)/(a+centre)``."""
    def target(t: mp.mpf) -> mp.mpf:
        if t == 1:
            return 2 / mp.sqrt(mp.pi)
        a = centre * (1 + t) / (1 - t)
        with mp.workdps(80):
            return +((1 + 2 * a) * mp.exp(a * a) * mp.erfc(a))
    return target, lambda t: 1 / target(t)


def fits() -> list[Fit]:
    """Return all fits, on intervals a little wider than the reductions' to cover rounding."""
    one, two = "float32", "float64"
    ln2, half = mp.log(2) / 2 * mp.mpf("1.001"), mp.mpf("0.5005")
    exponential = (removable(lambda r: (mp.expm1(r) - r) / r ** 2, 0.5),
                   removable(lambda r: abs(r ** 2 / mp.expm1(r)), 0))
    binary = (removable(lambda r: mp.expm1(r * mp.log(2)) / r, mp.log(2)),
              lambda r: abs(r) / mp.mpf(2) ** r + mp.mpf(10) ** -30)
    logarithm = (removable(lambda f: (mp.log1p(f) - f) / f ** 2, -mp.mpf(1) / 2),
                 removable(lambda f: abs(f ** 2 / mp.log1p(f)), 0))
    root, thin = mp.sqrt(2), mp.mpf("1e-6")
    atanh = removable(lambda z: 2 * (mp.atanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, mp.mpf(2) / 3)
    tail = removable(lambda z: (atanh(z) - mp.mpf(2) / 3) / z, mp.mpf(2) / 5)
    z_log = ((root - 1) / (root + 1)) ** 2 * mp.mpf("1.0001")
    z_trig, quarter = (mp.pi / 4) ** 2 * mp.mpf("1.001"), mp.mpf("0.2503")
    sine, arctan = odd(mp.sin, 3, -mp.mpf(1) / 6), odd(mp.atan, 3, -mp.mpf(1) / 3)
    arcsin, erf = odd(mp.asin, 3, mp.mpf(1) / 6), odd(mp.erf, 1, 2 / mp.sqrt(mp.pi) - 1)
    cosine = (removable(lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z ** 2, mp.mpf(1) / 24),
              lambda z: z ** 2 / mp.cos(mp.sqrt(z)))
    sinh = odd(mp.sinh, 3, mp.mpf(1) / 6)
    exponent = (removable(lambda a: -mp.log(mp.erfc(a)) / a - 1, 2 / mp.sqrt(mp.pi) - 1),
                removable(lambda a: a * mp.erfc(a) / mp.erf(a), mp.sqrt(mp.pi) / 2))
    log_erfc = (lambda a: mp.log(mp.erfc(a)), lambda a: mp.erfc(a) / mp.erf(a))
    return [
        Fit("EXP", one, 4, -ln2, ln2, *exponential), Fit("EXP", two, 9, -ln2, ln2, *exponential),
        Fit("EXP2", one, 5, -half, half, *binary), Fit("EXP2", two, 10, -half, half, *binary),
        Fit("EXP2_SHORT", two, 5, -half, half, *binary),
        Fit("LOG", one, 8, 1 / root - 1 - thin, root - 1 + thin, *logarithm),
        Fit("LOG1P", one, 8, mp.mpf(0), mp.mpf(1), *logarithm),
        Fit("LOG_ATANH", two, 6, 0, z_log, atanh, lambda z: z),
        Fit("LOG_ATANH_SHORT", two, 3, 0, z_log, atanh, lambda z: z),
        Fit("LOG_ATANH_TAIL", two, 7, 0, z_log, tail, lambda z: z * z),
        Fit("SIN", one, 2, 0, z_trig, *sine), Fit("SIN", two, 5, 0, z_trig, *sine),
        Fit("COS", one, 2, 0, z_trig, *cosine), Fit("COS", two, 5, 0, z_trig, *cosine),
        Fit("ARCTAN", one, 5, 0, quarter, *arctan), Fit("ARCTAN", two, 11, 0, quarter, *arctan),
        Fit("ARCSIN", one, 4, 0, quarter, *arcsin), Fit("ARCSIN", two, 12, 0, quarter, *arcsin),
        Fit("SINH", one, 3, 0, mp.mpf("1.002"), *sinh),
        Fit("SINH", two, 7, 0, mp.mpf("1.002"), *sinh),
        Fit("ERF", two, 11, 0, mp.mpf("1.002"), *erf),
        Fit("ERF_EXPONENT", one, 8, 0, mp.mpf("3.95"), *exponent),
        Fit("LOG_ERFC", two, 17, mp.mpf("0.997"), 6, *log_erfc),
        Fit("ERFC_SINGLE", two, 9, -1, mp.mpf(9) / 13, *scaled_erfc(2)),
        Fit("ERFC_DOUBLE", two, 22, -1, mp.mpf(24) / 32, *scaled_erfc(4)),
    ]


FORMULAS = {
    "EXP": "exp(r) = 1 + r + r*r*EXP(r), |r| <= log(2)/2",
    "EXP2": "2**r = 1 + r*EXP2(r), |r| <= 1/2",
    "EXP2_SHORT": "the same, for results that are rounded to float32",
    "LOG": "log(1+f) = f + f*f*LOG(f), sqrt(1/2) <= 1+f <= sqrt(2)",
    "LOG1P": "log(1+x) = x + x*x*LOG1P(x), 0 <= x <= 1",
    "LOG_ATANH": "log(1+f) = 2*s + s*z*LOG_ATANH(z), s = f/(2+f), z = s*s",
    "LOG_ATANH_SHORT": "the same, for results that are rounded to float32",
    "LOG_ATANH_TAIL": "LOG_ATANH(z) = 2/3 + z*LOG_ATANH_TAIL(z), to more than double precision",
    "SIN": "sin(r) = r + r*z*SIN(z), z = r*r, |r| <= pi/4",
    "COS": "cos(r) = 1 - z/2 + z*z*COS(z), z = r*r, |r| <= pi/4",
    "ARCTAN": "arctan(t) = t + t*z*ARCTAN(z), z = t*t <= 1/4",
    "ARCSIN": "arcsin(x) = x + x*z*ARCSIN(z), z = x*x <= 1/4",
    "SINH": "sinh(x) = x + x*z*SINH(z), z = x*x <= 1",
    "ERF": "erf(x) = x + x*ERF(z), z = x*x <= 1",
    "ERF_EXPONENT": "erf(a) = 1 - exp(-a - a*ERF_EXPONENT(a)), 0 <= a <= 3.95",
    "LOG_ERFC": "log(erfc(a)) = LOG_ERFC(a), 1 <= a <= 6,\n"
                "# its absolute error times erfc(a)/erf(a)",
    "ERFC_SINGLE": "erfc(a) = exp(-a*a)/(1+2*a) * ERFC_SINGLE((a-2)/(a+2)), 0 <= a <= 11,\n"
                   "# for results that are rounded to float32",
    "ERFC_DOUBLE": "erfc(a) = exp(-a*a)/(1+2*a) * ERFC_DOUBLE((a-4)/(a+4)), 0 <= a <= 28",
}

HEADER = '''"""Polynomial coefficients of the scalar mathematics, lowest order first.

Written by ``tests/fit_coefficients.py``: minimax fits of the formula above each table, whose error
is relative to the function on the left (2**-n in the comments), with the coefficients rounded to
the dtype.
"""

from __future__ import annotations
'''


def literals(values: list[float], dtype: str, indent: str) -> str:
    """Return the numbers as lines of Python."""
    lines, line = [], indent
    for value in values:
        text = (str(np.float32(value)) if dtype == "float32" else repr(value)) + ","
        if len(line) + len(text) + 1 > 100:
            lines.append(line)
            line = indent
        line += text if line == indent else " " + text
    return "\n".join([*lines, line])


def module_text() -> str:
    """Return the text of ``compiler/loop/coefficients.py``."""
    mp.mp.dps = 50
    parts, all_fits = [HEADER], fits()
    for name in dict.fromkeys(fit.name for fit in all_fits):
        mine = [(fit, *solve(fit)) for fit in all_fits if fit.name == name]
        errors = ", ".join(f"2**{error:.1f}" for _, _, error in mine)
        parts.append(f"\n# {FORMULAS[name]}  [{errors}]")
        if name in ("EXP", "EXP2", "SIN", "COS", "ARCTAN", "ARCSIN", "SINH"):
            parts.append(f"{name} = {{")
            for fit, values, _ in mine:
                lines = literals(values, fit.dtype, " " * 8)
                parts.append(f'    "{fit.dtype}": (\n{lines}\n    ),')
            parts.append("}")
        else:
            parts.append(f"{name} = (\n{literals(mine[0][1], mine[0][0].dtype, '    ')}\n)")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "compiler" / "loop" / "coefficients.py"
    path.write_text(module_text(), encoding="utf-8")
