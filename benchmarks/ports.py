"""How fast this processor runs each kind of instruction, alone and beside others, measured.

Loops of instructions that wait for nothing: their operands are never written, what they write is
never read, and what they read from memory is in the first cache.  x86-64 with AVX2 only.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from instructions import assemble
from limits import vector_bytes

from tetractys.runtime.cpu_jit import link

FORMS = {
    "multiply": "vmulps {b}, {a}, {d}", "add": "vaddps {b}, {a}, {d}",
    "compare": "vminps {b}, {a}, {d}", "logic": "vxorps {b}, {a}, {d}",
    "blend": "vblendvps {a}, {b}, {a}, {d}", "shift": "vpsllvd {b}, {a}, {d}",
    "integer": "vpaddd {b}, {a}, {d}", "convert": "vcvtdq2ps {b}, {d}",
    "shuffle": "vshufps $$27, {b}, {a}, {d}", "permute": "vinsertf128 $$1, {h}, {a}, {d}",
    "divide ps": "vdivps {b}, {a}, {d}", "divide pd": "vdivpd {b}, {a}, {d}",
    "divide ss": "vdivss {x}, %xmm0, {dx}", "root ps": "vsqrtps {b}, {d}",
    "root pd": "vsqrtpd {b}, {d}", "root ss": "vsqrtss {x}, %xmm0, {dx}",
    "load": "vmovups {m}, {d}", "store": "vmovups {a}, {s}",
    "masked store": "vmaskmovps %ymm0, %ymm1, {s}",
    "load word": "movq {m}, {g}", "store word": "movq $1, {s}",
    "scalar": "leaq 8($1), {g}", "move": "vmovaps {a}, {d}", "other": "nop"}
"""A representative of each kind, at the full width of vectors."""

WIDE = {"blend": "vblendmps {b}, {a}, {d} {{%k1}}", "permute": "vinsertf64x4 $$1, {h}, {a}, {d}"}
"""Where vectors of 512 bits need another one."""

GENERAL = ("%rax", "%rcx", "%rdx", "%r8", "%r9", "%r10")
CYCLES = 48
"""Length of a loop in which a kind runs alone or beside one other."""

BODY = 600
"""Instructions of a loop with a workload's mix."""

SECONDS, REPEATS = 1e-4, 25


@dataclass(frozen=True, slots=True)
class Ports:
    """What was measured.

    Attributes
    ----------
    clock : float
        Cycles a second: dependent additions.
    alone : dict of str to float
        Seconds of an instruction among others of its kind.
    beside : dict of (str, str) to float
        Time of two kinds together, when each takes a unit of time alone: 1 if they share no more
        than the decoder, 2 if they use the same parts of the processor.
    """

    clock: float
    alone: dict[str, float]
    beside: dict[tuple[str, str], float]

    def parts(self, mix: Mapping[str, float]) -> dict[str, float]:
        """Return the seconds each kind of a mix takes alone, and all take to be decoded."""
        found = dict.fromkeys((part for kind in mix for part in split(kind)), 0.0)
        for kind, count in mix.items():
            for part in split(kind):
                found[part] += count * self.alone[part]
        return {**found, "other": sum(mix.values()) * self.alone["other"]}

    def least(self, mix: Mapping[str, float]) -> float:
        """Return the least seconds of a mix by its kinds and by its pairs of kinds.

        Notes
        -----
        Let ``x >= y`` be the times of two kinds alone, ``f`` that of both.  Running more of the
        second kind afterwards gives ``f(x, x) <= f(x, y) + x - y``, and ``f(x, x) = x beside``, so
        ``f(x, y) >= y + x (beside - 1)``, whatever the ports.
        """
        parts = self.parts(mix)
        least = max(parts.values(), default=0.0)
        for first, second in itertools.combinations(sorted(parts.keys() - {"other"}), 2):
            low, high = sorted((parts[first], parts[second]))
            least = max(least, low + high * (self.beside[first, second] - 1))
        return least


def split(kind: str) -> list[str]:
    """Return the kinds of an instruction and of its operand in memory.

    Examples
    --------
    >>> split("scalar+load"), split("add")
    (['scalar', 'load word'], ['add'])
    """
    kind, _, operand = kind.partition("+")
    kind = kind if kind in FORMS else "other"
    return [kind] + (["load word" if kind == "scalar" else "load"] if operand else [])


def measure() -> Ports:
    """Measure every kind alone, and every pair."""
    cycle = seconds(["addq $$1, %rax"] * 400) / 400
    alone = {}
    for kind in FORMS:
        count = 200 if kind[:4] not in ("divi", "root") else 20
        alone[kind] = seconds(body_of({kind: count}, vector_bytes())) / count
    beside = {}
    for pair in itertools.combinations(sorted(FORMS), 2):
        counts = {kind: max(1, round(CYCLES * cycle / alone[kind])) for kind in pair}
        taken = seconds(body_of(counts, vector_bytes()))
        low, high = sorted(count * alone[kind] for kind, count in counts.items())
        # The inequality of ``least``, read the other way round, for counts that are not balanced.
        # What decoding explains is left to it: an operand in memory is decoded for nothing.
        is_decoding = taken < 1.03 * sum(counts.values()) * alone["other"]
        beside[pair] = 1.0 if is_decoding else min(2.0, max(1.0, 1 + (taken - low) / high))
    return Ports(1 / cycle, alone, beside)


def mix_seconds(mix: Mapping[str, float]) -> float:
    """Return the seconds of so many instructions of each kind, in the best of five orders.

    Counts are scaled to a loop of :data:`BODY` and rounded down, so that they stay a lower bound.
    """
    scale = BODY / sum(mix.values())
    counts = {kind: int(count * scale) for kind, count in mix.items() if count * scale >= 1}
    width = vector_bytes()
    return min(seconds(body_of(counts, width, seed)) for seed in (None, 1, 2, 3, 4)) / scale


def seconds(body: Sequence[str]) -> float:
    """Return the least seconds of one run of a loop's body."""
    library = link([assemble(loop_text(body, vector_bytes()))], {}, ["mix"])
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(library["mix"])
    memory = np.full(4096 + 64, 0x3F, np.uint8)
    start = memory.ctypes.data + -memory.ctypes.data % 64
    count, best = 1, 0.0
    while True:
        begin = time.perf_counter()
        call(start, count)
        best = time.perf_counter() - begin
        if best > SECONDS:
            break
        count *= 2
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call(start, count)
        best = min(best, time.perf_counter() - begin)
    return best / count


def body_of(counts: Mapping[str, int], width: int, seed: int | None = None) -> list[str]:
    """Return instructions on vectors of ``width`` bytes, each kind spread evenly, or shuffled."""
    places = [((k + 0.5) / count, kind) for kind, count in sorted(counts.items())
              for k in range(count)]
    if seed is None:
        places.sort()
    else:
        random.Random(seed).shuffle(places)
    letter, half = {32: "yx", 64: "zy"}[width]
    names = {"a": f"%{letter}mm0", "b": f"%{letter}mm1", "h": f"%{half}mm1", "x": "%xmm1"}
    lines = []
    for number, (_, kind) in enumerate(places):
        kind, _, operand = kind.partition("+")
        memory = f"{number * width % 2048}($1)"
        form = WIDE.get(kind, FORMS.get(kind, "nop")) if width == 64 else FORMS.get(kind, "nop")
        if operand:
            form = "addq {m}, {g}" if kind == "scalar" else form
            for name in ("{b}", "{h}", "{x}"):
                form = form.replace(name, "{m}", 1)
        register = 2 + number % 14
        lines.append(form.format(**names, d=f"%{letter}mm{register}", dx=f"%xmm{register}",
                                 g=GENERAL[number % len(GENERAL)], m=memory,
                                 s=f"{2048 + number * width % 2048}($1)"))
    return lines


def loop_text(body: Sequence[str], width: int) -> str:
    """Return IR of a function of memory and repetitions that runs instructions over and over."""
    letter = {32: "y", 64: "z"}[width]
    lines = [f"vmovups ($1), %{letter}mm0", f"vmovups ($1), %{letter}mm1", "1:", *body,
             "decq $0", "jne 1b", "vzeroupper"]
    used = ",".join([*(f"~{{xmm{k}}}" for k in range(16)), "~{memory}", "~{flags}",
                     *(f"~{{{register[1:]}}}" for register in GENERAL)])
    text = "\\0A".join(lines)
    return f"""define void @mix(ptr %memory, i64 %n) {{
  %left = call i64 asm sideeffect "{text}", "=&r,r,0,{used}"(ptr %memory, i64 %n)
  ret void
}}"""
