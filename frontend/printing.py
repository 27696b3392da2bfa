"""Graphs as text: a tree with :func:`debugprint`, one line of mathematics with :func:`pp`.

Both are iterative and linear in what they print, however deep the graph is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

from .compiler.graph import Apply, Constant, Variable, describe, toposort
from .compiler.ops.control import Body

FOLD_LEVEL = 40
"""Subtrees deeper than this are continued at the left margin, so that lines stay short."""

FULL_TEXT_LIMIT = 100_000
"""Most parts :func:`pp` writes out before it names shared subexpressions instead."""


def debugprint(x: Any, file: IO[str] | str | None = None, depth: int = -1,
               print_type: bool = False) -> str | IO[str]:
    """Print a graph as an indented tree, one variable a line, inputs below what reads them.

    Parameters
    ----------
    x : Variable, list or tuple of Variable, or compiled function
    file : file, 'str' or None
        Where to print; ``'str'`` returns the text; None is standard output.
    depth : int
        How many levels to show; -1 for all.
    print_type : bool
        Show dtype and shape.

    Returns
    -------
    str or file
        What was given as ``file``; the text if that was ``'str'``.

    Notes
    -----
    ``[id A]`` marks a node.  What was printed before is not repeated: its line ends in ``...``.
    Graphs inside loops follow at the end.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.dvector('x')
    >>> print(debugprint(T.exp(x) + x, file='str'), end='')
    add [id A]
     |exp [id B]
     | |x [id C]
     |x [id C]
    """
    lines = _Tree(depth, print_type).lines(_roots(x))
    if file == "str":
        return "".join(f"{line}\n" for line in lines)
    out = sys.stdout if file is None else file
    for line in lines:
        out.write(f"{line}\n")
    return out


def _roots(x: Any) -> list[Variable]:
    if isinstance(x, Variable):
        return [x]
    if isinstance(x, Apply):
        return list(x.outputs)
    if isinstance(x, (list, tuple)):
        return [root for item in x for root in _roots(item)]
    if hasattr(x, "outputs"):
        return _roots(list(x.outputs))
    raise TypeError(f"cannot print a {type(x).__name__}; give a variable, a list of variables "
                    "or a compiled function")


class _Tree:
    """The lines of one ``debugprint``."""

    def __init__(self, depth: int, print_type: bool):
        self.depth, self.print_type = depth, print_type
        self.ids: dict[int, str] = {}
        self.expanded: set[int] = set()
        self.bodies: list[tuple[str, Body]] = []

    def lines(self, roots: Sequence[Variable]) -> Iterator[str]:
        """Generate the text of the roots, then of the bodies of loops met on the way."""
        yield from self._trees(roots)
        for label, body in self.bodies:
            yield ""
            captured = ", ".join(f"{describe(v)} [id {self._id(v)}]" for v in body.captured)
            yield f"inside {label}, for each {body.index.name}; given {captured or 'nothing'}:"
            self.expanded.update(self._key(v) for v in body.captured)
            yield from self._trees(body.outputs)

    def _trees(self, roots: Sequence[Variable]) -> Iterator[str]:
        waiting = list(roots)[::-1]
        while waiting:
            folded: list[Variable] = []
            yield from self._tree(waiting.pop(), folded)
            waiting += folded[::-1]

    def _tree(self, root: Variable, folded: list[Variable]) -> Iterator[str]:
        """Generate one tree; subtrees too deep for it are added to ``folded``."""
        stack = [(root, "", 0, True)]
        while stack:
            variable, indent, level, is_last = stack.pop()
            node, key = variable.owner, self._key(variable)
            line = f"{indent}{'|' if level else ''}{self._label(variable)}"
            if node is None or not node.inputs or self.depth == level + 1:
                yield line
            elif key in self.expanded:
                yield f"{line} ..."
            elif level == FOLD_LEVEL:
                yield f"{line} continued below"
                folded.append(variable)
            else:
                self.expanded.add(key)
                yield line
                inner = indent + ("  " if is_last else "| ") if level else " "
                last = len(node.inputs) - 1
                stack += [(source, inner, level + 1, k == last)
                          for k, source in enumerate(node.inputs)][::-1]

    @staticmethod
    def _key(variable: Variable) -> int:
        return id(variable.owner or variable)

    def _id(self, variable: Variable) -> str:
        key = self._key(variable)
        if key not in self.ids:
            self.ids[key] = _letters(len(self.ids))
        return self.ids[key]

    def _label(self, variable: Variable) -> str:
        node, is_new = variable.owner, self._key(variable) not in self.ids
        mark = f"[id {self._id(variable)}]"
        if node is None:
            text = f"{describe(variable)} {mark}"
        else:
            body = node.params.get("body")
            if isinstance(body, Body) and is_new:
                self.bodies.append((f"{node.op.name} {mark}", body))
            params = ", ".join(f"{name}={value}" for name, value in node.params.items()
                               if not isinstance(value, Body))
            output = f".{variable.index}" if len(node.outputs) > 1 else ""
            text = f"{node.op.name}{f'{{{params}}}' if params else ''}{output} {mark}"
            if variable.name:
                text += f" '{variable.name}'"
        return f"{text} <{variable.type}>" if self.print_type else text


def _letters(number: int) -> str:
    """Return A ... Z, AA, AB ... for 0, 1, 2 ..."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("A") + digit) + text
    return text


# -- one line --------------------------------------------------------------------------------------

_INFIX = {"add": "+", "sub": "-", "mul": "*", "true_div": "/", "floordiv": "//", "mod": "%",
          "pow": "**", "eq": "==", "neq": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
          "and_": "&", "or_": "|", "xor": "^", "left_shift": "<<", "right_shift": ">>"}

_PREFIX = {"neg": "-", "invert": "~"}


def pp(x: Any) -> str:
    """Return a graph as one line of mathematics for each of its outputs.

    Parameters
    ----------
    x : Variable, list or tuple of Variable, or compiled function

    Returns
    -------
    str
        Names stand for inputs; a subexpression that occurs several times is written out each time,
        unless that would be very long: then its first occurrence is ``(_1 := ...)``, later ``_1``.

    Examples
    --------
    >>> from tetractys import tensor as T
    >>> x = T.dvector('x')
    >>> pp(T.log(1 + T.exp(x)))
    'log((1 + exp(x)))'
    """
    return "\n".join(map(_one_line, _roots(x)))


def _one_line(root: Variable) -> str:
    shared = _shared(root)
    names: dict[int, str] = {}
    parts: list[str] = []
    stack: list[str | Variable] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
        elif id(item) in names:
            parts.append(names[id(item)])
        elif id(item) in shared:
            names[id(item)] = f"_{len(names) + 1}"
            stack += [")", *_pieces(item)[::-1], f"({names[id(item)]} := "]
        else:
            stack += _pieces(item)[::-1]
    return "".join(parts)


def _shared(root: Variable) -> set[int]:
    """Return the computed variables to be named: those read twice, if the full text is too long."""
    lengths: dict[int, int] = {}
    order = toposort([root])
    uses: dict[int, int] = {}
    for node in order:
        total = 1
        for source in node.inputs:
            total += lengths.get(id(source), 1)
            uses[id(source)] = uses.get(id(source), 0) + 1
        for output in node.outputs:
            lengths[id(output)] = min(total, FULL_TEXT_LIMIT + len(order) * 4)
    if lengths.get(id(root), 1) < FULL_TEXT_LIMIT + len(order) * 4:
        return set()
    return {id(output) for node in order for output in node.outputs if uses.get(id(output), 0) > 1}


def _pieces(variable: Variable) -> list[str | Variable]:
    """Return the text of a variable, with its inputs as variables in it."""
    node = variable.owner
    if node is None:
        return [_scalar(variable) if isinstance(variable, Constant) and variable.ndim == 0
                else describe(variable)]
    name, inputs, params = node.op.name, node.inputs, dict(node.params)
    if name in _INFIX and len(inputs) == 2:
        return ["(", inputs[0], f" {_INFIX[name]} ", inputs[1], ")"]
    if name in _PREFIX:
        return [f"({_PREFIX[name]}", inputs[0], ")"]
    if name == "cast":
        return [f"{params['dtype']}(", inputs[0], ")"]
    if name == "axis_size":
        return [inputs[0], f".shape[{params['axis']}]"]
    if name == "size":
        return [str(params["dim"])]
    if name == "dimshuffle" and params["pattern"] == tuple(range(inputs[0].ndim))[::-1]:
        return [inputs[0], ".T"]
    if name in ("subtensor", "advanced_subtensor"):
        return [inputs[0], "[", *_index_pieces(params["spec"], inputs[1:]), "]"]
    if params.get("axes") == tuple(range(inputs[0].ndim) if inputs else ()):
        del params["axes"]
    pieces: list[str | Variable] = [f"{name}("]
    for source in inputs:
        pieces += [source, ", "]
    for key, value in params.items():
        pieces += ["<body>" if isinstance(value, Body) else f"{key}={value}", ", "]
    if pieces[-1] == ", ":
        pieces.pop()
    return [*pieces, ")" if len(node.outputs) == 1 else f").{variable.index}"]


def _index_pieces(spec: tuple, operands: Sequence[Variable]) -> list[str | Variable]:
    """Return the text between the brackets of an indexing."""
    rest = iter(operands)
    while len(spec) > 1 and spec[-1] == (False, False, 1):
        spec = spec[:-1]
    pieces: list[str | Variable] = []
    for entry in spec:
        if entry == "new":
            pieces.append("None")
        elif isinstance(entry, str):
            pieces.append(next(rest))
        else:
            has_start, has_stop, step = entry
            pieces += [next(rest)] if has_start else []
            pieces.append(":")
            pieces += [next(rest)] if has_stop else []
            pieces += [f":{step}"] if step != 1 else []
        pieces.append(", ")
    return pieces[:-1]


def _scalar(constant: Constant) -> str:
    if constant.name:
        return constant.name
    value = constant.data.item()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if constant.dtype != "float32" else f"{value:.9g}"
