"""What code generation needs to know of where code runs: vectors, registers, libraries."""

from __future__ import annotations

from dataclasses import dataclass

from ..dtypes import SIZES


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor and its libraries, as far as loops are shaped for them.

    Attributes
    ----------
    vector_bytes : int
        Of one vector register.
    registers : int
        Number of vector registers.
    has_blas : bool
        Whether CBLAS can be called.
    """

    vector_bytes: int = 16
    registers: int = 16
    has_blas: bool = False

    def lanes(self, dtype: str) -> int:
        """Return how many elements of a dtype a vector register holds."""
        return self.vector_bytes // SIZES[dtype]


def machine_of(triple: str, features: str, has_blas: bool = False) -> Machine:
    """Return what LLVM's triple and feature string say of a processor."""
    present = set(features.split(","))
    if "+avx512f" in present:
        return Machine(64, 32, has_blas)
    if "+avx" in present:
        return Machine(32, 16, has_blas)
    is_arm = triple.startswith(("aarch64", "arm64"))
    return Machine(16, 32 if is_arm else 16, has_blas)
