"""What a compiled function executes: its machine instructions by kind, counted loop by loop.

The compiler's assembly is cut into basic blocks and assembled once more with a counter at the head
of each; one call then tells exactly how often each block runs.  x86-64 only.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import llvmlite.binding as llvm
import numpy as np

import tetractys as tx
from tetractys.compiler.pipeline import compile_signature
from tetractys.compiler.target.llvm import LlvmOptions, compile_module
from tetractys.runtime.call import Executable

WINDOW = 512
"""Instructions a processor may have under way at once: shorter runs of a loop overlap with what is
around them, and count as a part of it."""

_KINDS = tuple((re.compile(pattern), kind) for pattern, kind in (
    (r"vfn?m(add|sub)|vmul[ps]", "multiply"),
    (r"v(add|sub)[ps][sd]", "add"),
    (r"v(min|max|cmp\w*)[ps][sd]$", "compare"),
    (r"vdivps", "divide ps"), (r"vdivpd", "divide pd"), (r"vdivs", "divide ss"),
    (r"vsqrtps", "root ps"), (r"vsqrtpd", "root pd"), (r"vsqrts", "root ss"),
    (r"vp?blend(v|m)", "blend"),
    (r"v(and|andn|or|xor)p[sd]|vp(andn?|x?or)[dq]?$|vpternlog|vp?blend", "logic"),
    (r"vps(ll|rl|ra)", "shift"),
    (r"vp(add|sub|cmp|min|max|abs)", "integer"),
    (r"vcvt|vround|vrndscale", "convert"),
    (r"vpermil|vp?shuf|vp?unpck|vmov(sh|sl|d)dup|v(insert|extract)ps|vp(extr|insr|align|ack)"
     r"|vmov[lh]", "shuffle"),
    (r"vperm|v(extract|insert)[fi]\d|vp?broadcast|vpmov[sz]x", "permute"),
    (r"vmaskmov|vmov(a|u|nt|dq|s[sd]|[dq]$)", "vector move"),
    (r"lea|add|sub|i?mul|and|or|xor|sh[lr]|sa[lr]|ro[lr]|inc|dec|neg|not|cmp|test|cmov|set|bextr"
     r"|b[lz]s|tzcnt|lzcnt|popcnt|xadd|lock|mulx", "scalar"),
    (r"movnt|mov", "scalar move"), (r"push", "store word"), (r"pop$|popq", "load word"),
    (r"prefetch", "load word"),
    # Ports of the simplest instruction count, which keeps the bound a bound.
    (r"j|call|ret|nop|vzeroupper|cq|cl|cd|i?div|[sml]fence|vu?comis|vp?test|vp?mov(msk|[dq]$)"
     r"|vpmul|k[a-z]+[bwdq]$|ud2|xchg|bt", "other")))


@dataclass(slots=True)
class Block:
    """Instructions that run one after the other.

    Attributes
    ----------
    function : str
    label : str
        Empty where the block is only reached from the one before it.
    lines : list of str
    """

    function: str
    label: str
    lines: list[str]


def classify(line: str) -> str:
    """Return an instruction's kind, with ``+load`` for an operand read from memory.

    Returns
    -------
    str
        Empty for a conditional jump, which is one operation with the comparison before it, and
        ``unknown`` for what this table lacks.

    Examples
    --------
    >>> classify("vfmadd213ps 32(%rax), %ymm1, %ymm2"), classify("vmovups %ymm0, (%rdi,%rax,4)")
    ('multiply+load', 'store')
    """
    mnemonic, _, rest = line.strip().partition("\t")
    if not rest:
        mnemonic, _, rest = line.strip().partition(" ")
    if mnemonic[0] == "j" and mnemonic != "jmp" and mnemonic != "jmpq":
        return ""
    kind = next((kind for pattern, kind in _KINDS if pattern.match(mnemonic)), "unknown")
    operands = [operand for operand in re.split(r",\s*(?![^()]*\))", rest) if operand]
    in_memory = [("(" in operand) for operand in operands] or [False]
    if kind in ("vector move", "scalar move"):
        suffix = " word" * (kind == "scalar move")
        prefix = "masked " * mnemonic.startswith("vmaskmov")
        return prefix + "store" + suffix if in_memory[-1] \
            else "load" + suffix if any(in_memory) else "move"
    if "xor" in mnemonic and len(set(operands)) == 1:
        return "move"  # zero: only a name for the register
    if mnemonic.startswith("lea") or kind in ("other", "unknown", "load word", "store word"):
        return kind
    if in_memory[-1] and not mnemonic.startswith(("cmp", "test")):
        return "store" if mnemonic[0] == "v" else "store word"
    if "broadcast" in mnemonic and any(in_memory):
        return "load"
    return kind + "+load" if any(in_memory) else kind


def parse(text: str) -> list[Block]:
    """Return the basic blocks of assembly, in order.

    A label begins one, and so does the line after a jump: an empty block between a conditional
    jump and a label has as many runs as the jump was not taken.
    """
    return [block for block, _ in _cut(text)]


def _cut(text: str) -> list[tuple[Block, list[str]]]:
    """Return blocks with the lines of text from the head of each to the next one's.

    What precedes the first block, and data, stands before a head; a block of data has no lines.
    """
    found: list[tuple[Block, list[str]]] = [(Block("", "", []), [])]
    is_code, function = False, ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith((".text", ".section")):
            is_code = ".text" in stripped
        label = re.match(r'("?[^\s#"]+"?):', line)
        if label and is_code:
            name = label[1].strip('"')
            function = function if re.match(r"\.?L", name) else name
            found.append((Block(function, name, []), [line]))
            continue
        found[-1][1].append(line)
        if is_code and function and stripped and stripped[0] not in ".#" and not label:
            found[-1][0].lines.append(stripped.partition("#")[0].strip())
            if stripped[0] == "j":
                found.append((Block(function, "", []), []))
    return found


def counted(text: str, counters: int) -> bytes:
    """Return object code of assembly that counts the runs of its blocks.

    Parameters
    ----------
    text : str
    counters : int
        Address of one 64-bit number a block of ``parse(text)``, and one more.  Counting leaves
        flags and registers as they are, and is for one thread.
    """
    blocks = _cut(text)
    saved = counters + 8 * len(blocks)
    lines: list[str] = []
    for number, (block, own) in enumerate(blocks):
        lines += own[:1] if block.label else []
        if block.function:
            place = counters + 8 * number
            lines += [f"movabsq %rax, {saved}", f"movabsq {place}, %rax", "leaq 1(%rax), %rax",
                      f"movabsq %rax, {place}", f"movabsq {saved}, %rax"]
        lines += own[1:] if block.label else own
    quoted = (line.replace("\\", "\\5C").replace('"', "\\22") for line in lines)
    return assemble("\n".join(f'module asm "{line}"' for line in quoted))


def assemble(text: str, options: LlvmOptions = LlvmOptions(speed_level=1)) -> bytes:
    """Return object code of LLVM IR that holds assembly."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmparser()
    code, _ = compile_module(text, options)
    return code


def executed(function: tx.Function, arguments: Sequence[np.ndarray]) -> dict[str, Counter[str]]:
    """Return what a call of a function executes on one thread, by loop and kind.

    The function has been called with these arguments before.

    Raises
    ------
    ValueError
        If the function calls a BLAS, whose instructions are not known.
    """
    variant = function.variants[-1]
    artifact, _ = compile_signature(function.signature, variant.fixed,
                                    replace(function.options, keep_text=True))
    if any(name.startswith("cblas") for name in artifact.externals):
        raise ValueError("calls a BLAS")
    text = _joined(artifact.notes["assembly"])
    blocks = parse(text)
    counters = np.zeros(len(blocks) + 1, np.int64)
    machine = Executable(replace(artifact, code=(counted(text, counters.ctypes.data),)),
                         variant.executable.storages)
    before = tx.get_num_threads()
    tx.set_num_threads(1)
    try:
        machine.call(*arguments)
    finally:
        tx.set_num_threads(before)
    return by_loop(blocks, counters[:-1])


def _joined(text: str) -> str:
    """Return assembly of several modules as that of one: no two have a local label in common."""
    first, *others = re.split(r"(?m)^(?=\t\.file\b)", text)
    return first + "".join(re.sub(r"\.L(?=\w)", f".L{number or ''}", module)
                           for number, module in enumerate(others))


def by_loop(blocks: Sequence[Block], runs: Sequence[int]) -> dict[str, Counter[str]]:
    """Return the instructions executed, by kind, for each innermost loop and function.

    Parameters
    ----------
    blocks : sequence of Block
    runs : sequence of int
        Of each block.

    Notes
    -----
    What a function executes outside its loops counts where it is called from.
    """
    place = {block.label: number for number, block in enumerate(blocks) if block.label}
    group = _groups(blocks, runs, place)
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number, block in enumerate(blocks):
        if not runs[number]:
            continue
        for line in block.lines:
            kind = classify(line)
            if kind:
                totals[group[number]][kind] += int(runs[number])
            callee = re.match(r'(?:call|jmp)q?\s+"?([^*"@]+)', line)
            if callee and callee[1] in place and blocks[place[callee[1]]].function == callee[1]:
                calls[callee[1]][group[number]] += int(runs[number])

    @cache
    def depth(name: str) -> int:
        """Calls between a function and whatever has no caller."""
        return 1 + max((depth(g.partition(", ")[0]) for g in calls[name]), default=-1)

    for name in sorted(calls, key=depth, reverse=True):
        own, times = totals.pop(name, Counter()), sum(calls[name].values())
        for caller, share in calls[name].items():
            for kind, count in own.items():
                totals[caller][kind] += count * share // times
    return dict(totals)


def _groups(blocks: Sequence[Block], runs: Sequence[int], place: dict[str, int]) -> list[str]:
    """Return the name of the innermost loop, or else the function, around each block."""
    back: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, block in enumerate(blocks):
        jump = re.match(r"(j\w+)\s+(\S+)", block.lines[-1]) if block.lines else None
        target = place.get(jump[2], number + 1) if jump else number + 1
        if target <= number and blocks[target].function == block.function:
            passed = 0 if jump[1].startswith("jmp") else int(runs[number + 1])
            back[target].append((number, int(runs[number]) - passed))
    names = [block.function for block in blocks]
    sizes = [int(count) * len(block.lines) for count, block in zip(runs, blocks)]
    for head, ends in sorted(back.items()):
        last = max(number for number, _ in ends)
        entries = int(runs[head]) - sum(taken for _, taken in ends)
        if sum(sizes[head:last + 1]) >= WINDOW * max(1, entries):
            names[head:last + 1] = [f"{blocks[head].function}, {blocks[head].label}"] \
                * (last + 1 - head)
    return names
