"""Small matrices that the threads of a warp hold together: who holds which element.

The kinds of ``Multiply``, each an instruction of GPUs, whose documents give these layouts.  A warp
has 32 threads; with ``g = thread // 4`` and ``t = thread % 4``, the left operand of ``tf32``, for
example, is a 16 x 8 matrix of which a thread holds the elements (g, t), (g + 8, t), (g, t + 4) and
(g + 8, t + 4), in this order.

References
----------
PTX ISA 8.5, "Matrix multiply-accumulate operation using mma instruction" (2024), 9.7.13.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GROUP, _PLACE = np.arange(32) // 4, np.arange(32) % 4


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of product of an ``m x k`` and a ``k x n`` matrix.

    Attributes
    ----------
    m, n, k : int
    operand, total : str
        dtypes of the registers that hold parts of the operands and of the total.
    per_register : int
        Elements of an operand in a register.
    needs : int
        The least compute capability, times ten.
    """

    m: int
    n: int
    k: int
    operand: str
    total: str
    per_register: int = 1
    needs: int = 80

    def registers(self) -> tuple[int, int, int]:
        """Return how many registers a thread holds of the total, the left and the right operand."""
        held = 32 * self.per_register
        return self.m * self.n // 32, self.m * self.k // held, self.k * self.n // held

    def total_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the column of each thread's elements of the total: (32, count)."""
        column = np.arange(2) + 2 * _PLACE[:, None]
        rows, columns = [], []
        for eighth in range(self.m // 8):
            rows.append(np.broadcast_to(_GROUP[:, None] + 8 * eighth, (32, 2)))
            columns.append(column)
        return np.concatenate(rows, axis=1), np.concatenate(columns, axis=1)

    def left_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the column of each thread's elements of the left operand."""
        width = self.per_register
        along = np.arange(width) + width * _PLACE[:, None]
        rows, columns = [], []
        for part in range(self.k // (4 * width)):
            for eighth in range(self.m // 8):
                rows.append(np.broadcast_to(_GROUP[:, None] + 8 * eighth, (32, width)))
                columns.append(along + 4 * width * part)
        return np.concatenate(rows, axis=1), np.concatenate(columns, axis=1)

    def right_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the column of each thread's elements of the right operand."""
        width = self.per_register
        along = np.arange(width) + width * _PLACE[:, None]
        rows = [along + 4 * width * part for part in range(self.k // (4 * width))]
        columns = [np.broadcast_to(_GROUP[:, None], (32, width))] * len(rows)
        return np.concatenate(rows, axis=1), np.concatenate(columns, axis=1)


KINDS = {
    "tf32": Kind(16, 8, 8, "float32", "float32"),
    "float16": Kind(16, 8, 16, "uint32", "float32", per_register=2),
    "bfloat16": Kind(16, 8, 16, "uint32", "float32", per_register=2),
    "float64": Kind(8, 8, 4, "float64", "float64"),
}
"""``tf32`` rounds float32 operands to 10 bits of mantissa, ties away from zero; ``float16`` and
``bfloat16`` are exact products of those, of which a register holds two; all add up in float32.
``float64`` is as exact as a chain of fused multiplications and additions."""


def elements(kind: str, registers: np.ndarray) -> np.ndarray:
    """Return the values of the elements of an operand that registers hold, in float64.

    Parameters
    ----------
    kind : str
    registers : (..., count) array
        Of the kind's ``operand`` dtype.

    Returns
    -------
    (..., count * per_register) array of float64

    Examples
    --------
    >>> float(elements("tf32", np.array([1 + 2**-11 + 2**-20], np.float32))[0])
    1.0009765625
    """
    if kind == "float64":
        return registers
    if kind == "tf32":
        bits = np.ascontiguousarray(registers, np.float32).view(np.uint32)
        rounded = ((bits.astype(np.uint64) + 0x1000) & 0xffffe000).astype(np.uint32)
        kept = np.where(np.isfinite(registers), rounded, bits)
        return kept.view(np.float32).astype(np.float64)
    halves = np.ascontiguousarray(registers, np.uint32).view(np.uint16)
    if kind == "float16":
        return halves.view(np.float16).astype(np.float64)
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
