"""Programs as text, for ``explain``, golden tests and the cache: equal text means equal code.

The contents of constants are data, not code: they are not in the text.
"""

from __future__ import annotations

from collections.abc import Iterator

from .loop.text import Names, body_text, buffer_text, dim_text
from .program import Contract, Copy, For, Group, Kernel, Program, Step, View, inner_steps


def program_text(program: Program) -> str:
    """Return a program for people to read: its buffers, then one step (or statement) a line."""
    names = Names(canonical=False)
    lines = [f"program {program.name}"]
    for symbol in program.symbols:
        lower = "" if symbol.lower is None else f" >= {symbol.lower}"
        lines.append(f"  size {names(symbol)}{lower}")
    declared = dict.fromkeys((*program.inputs, *program.shared, *program.outputs,
                              *program.constants))
    lines += ["  " + buffer_text(buffer, names) for buffer in declared]
    for guard in program.guards:
        left, right = dim_text(guard.left, names), dim_text(guard.right, names)
        lines.append(f"  guard {left} == {right}: {guard.message!r}")
    for code, failure in enumerate(program.failures, 1):
        lines.append(f"  failure {code}: {failure.kind} {failure.message!r}")
    for buffer, offset in program.offsets.items():
        lines.append(f"  {buffer_text(buffer, names)} at {dim_text(offset, names)}")
    lines.append(f"  arena {dim_text(program.arena, names)}")
    for number, step in enumerate(program.steps):
        if number == program.commit:
            lines.append("  commit")
        lines += ["  " + line for line in _step_lines(step, names)]
    return "\n".join(lines)


def _step_lines(step: Step, names: Names) -> Iterator[str]:
    if isinstance(step, Kernel):
        reads = ", ".join(map(names, step.reads))
        writes = ", ".join(map(names, step.writes))
        yield f"kernel {step.nest.name} ({reads}) -> ({writes}) cost {step.nest.cost!r}"
        yield from body_text(step.nest, names)
    elif isinstance(step, Contract):
        sign = "+=" if step.add else "="
        out, left, right = (_view_text(view, names) for view in (step.out, step.left, step.right))
        yield f"contract {out} {sign} {left} @ {right}"
        if step.epilogue is not None:
            for line in _step_lines(step.epilogue, names):
                yield "  " + line
    elif isinstance(step, Copy):
        yield f"copy {names(step.target)} = {names(step.source)}"
    else:
        assert isinstance(step, (For, Group))
        yield "together:" if isinstance(step, Group) else \
            f"for {names(step.index)} < {dim_text(step.extent, names)}:"
        for inner in inner_steps(step):
            for line in _step_lines(inner, names):
                yield "  " + line


def _view_text(view: View, names: Names) -> str:
    dims = ", ".join(dim_text(dim, names) for dim in view.dims)
    strides = ", ".join(dim_text(stride, names) for stride in view.strides)
    return f"{names(view.buffer)}+{dim_text(view.offset, names)}[{dims}; strides {strides}]"


def step_text(step: Step) -> str:
    """Return one step in a line, for messages."""
    return next(_step_lines(step, Names(canonical=False)))
