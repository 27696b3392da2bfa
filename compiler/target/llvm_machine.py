"""What code generation needs to know of where code runs: vectors, registers, libraries."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.binding as llvm

from ..dtypes import SIZES
from .llvm_host import COMMON_LAST_CACHE


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor and its libraries, as far as code is shaped for them.

    Attributes
    ----------
    vector_bytes : int
        Of a vector register.
    masked_sizes : frozenset of int
        Element sizes, in bytes, of which there are masked loads and stores.
    registers : int
        Number of vector registers.
    has_blas : bool
        Whether CBLAS can be called.
    cpus : int
        CPUs for which its calls are cut.
    is_optimised : bool
        Whether LLVM optimises the code; what is not is slow.
    has_float16 : bool
        Whether there are instructions that convert between float16 and float32.
    is_x86 : bool
        Whether it has the instructions of all x86 processors of 64 bits.
    last_cache : int
        Bytes of the last cache.
    """

    vector_bytes: int = 16
    masked_sizes: frozenset[int] = frozenset()
    registers: int = 16
    has_blas: bool = False
    cpus: int = 1
    is_optimised: bool = True
    has_float16: bool = False
    is_x86: bool = False
    last_cache: int = COMMON_LAST_CACHE

    def lanes(self, dtype: str) -> int:
        """Return how many elements of a dtype a vector register holds."""
        return self.vector_bytes // SIZES[dtype]


_PROBE = """
declare void @llvm.masked.store.v8f32.p0(<8 x float>, ptr, i32, <8 x i1>)
declare void @llvm.masked.store.v16i8.p0(<16 x i8>, ptr, i32, <16 x i1>)
define void @probe(ptr %at, <8 x i1> %eight, <16 x i1> %sixteen) {
  %wide = load <16 x float>, ptr %at, align 4
  %sum = fadd <16 x float> %wide, %wide
  store <16 x float> %sum, ptr %at, align 4
  call void @llvm.masked.store.v8f32.p0(<8 x float> zeroinitializer, ptr %at, i32 4,
                                        <8 x i1> %eight)
  call void @llvm.masked.store.v16i8.p0(<16 x i8> zeroinitializer, ptr %at, i32 1,
                                        <16 x i1> %sixteen)
  %half = load <8 x half>, ptr %at, align 2
  %single = fpext <8 x half> %half to <8 x float>
  store <8 x float> %single, ptr %at, align 4
  ret void
}"""


def probe(target: llvm.TargetMachine) -> Machine:
    """Return a processor's vector unit, from the code LLVM makes for it.

    LLVM has no question to ask it by; the instructions it chooses are the answer, whatever mixture
    of processor's name and features the target was made from.
    """
    if not target.triple.startswith(("x86_64", "i386", "i686")):
        is_arm = target.triple.startswith(("aarch64", "arm64"))
        return Machine(registers=32 if is_arm else 16, has_float16=is_arm)
    text = target.emit_assembly(llvm.parse_assembly(_PROBE))
    width = 64 if "zmm" in text else 32 if "ymm" in text else 16
    sizes: tuple[int, ...] = ()
    if "{%k" in text:
        sizes = (1, 2, 4, 8)
    elif "vmaskmov" in text:
        sizes = (4, 8)
    return Machine(width, frozenset(sizes), registers=32 if width == 64 else 16,
                   has_float16="vcvtph2ps" in text,
                   is_x86=target.triple.startswith("x86_64"))
