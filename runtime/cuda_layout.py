"""Where things are in the memory of a call, and which launches it makes, for given sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .artifact import Artifact
from .dtypes import numpy_dtype

ALIGNMENT = 256
"""Bytes: what device memory is aligned to."""

LARGEST = 1 << 62
_ARITHMETIC = {"__builtins__": {}, "min": min, "max": max}


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in bytes in a call's block; None for what lies elsewhere.

    Attributes
    ----------
    inputs, outputs : tuple of (int or None)
    status, arena, extra : int
        The words of the checks, temporaries, and what single steps need beyond those.
    size : int
    """

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    status: int
    arena: int
    extra: int
    size: int


@dataclass(frozen=True, slots=True)
class Places:
    """Addresses: of what is passed and returned, of the arena, of what lies beyond, of status."""

    given: tuple[int, ...]
    arena: int
    extra: int
    status: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel to start."""

    kernel: str
    blocks: int
    threads: tuple[int, int, int]
    arguments: tuple[int, ...]
    scratch: int = 0
    """Bytes of scratch memory a block needs beyond what its code declares."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A batch of matrices in device memory, by rows or (``turned``) by columns.

    ``line`` and ``batch`` count elements from a row (column), and from a matrix, to the next one.
    """

    dtype: str
    pointer: int
    line: int
    batch: int
    turned: bool


@dataclass(frozen=True, slots=True)
class Product:
    """A product for cuBLAS.

    Attributes
    ----------
    sizes : tuple of int
        Matrices of the batch, rows, columns, depth.
    left, right, out : Matrix
    adds : bool
        Whether it is added to what ``out`` holds.
    rounds : bool
        Whether operands of float32 may be rounded to tf32.
    workspace, workspace_size : int
        Address and bytes of memory to use meanwhile.
    """

    sizes: tuple[int, int, int, int]
    left: Matrix
    right: Matrix
    out: Matrix
    adds: bool
    rounds: bool
    workspace: int
    workspace_size: int


class Plan:
    """The code of an artifact, and what it says of sizes.

    Attributes
    ----------
    source : str
    checks : list of int
        The failure code of each word of status.
    """

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        self.code = json.loads(artifact.code[0])
        self.source: str = self.code["source"]
        self.checks: list[int] = self.code["checks"]
        self._compiled: dict[str, object] = {}

    def value(self, text: str, symbols: Sequence[int] | Mapping[int, int]) -> int:
        """Return the value of an expression over sizes."""
        code = self._compiled.get(text)
        if code is None:
            code = self._compiled[text] = compile(text, "<size>", "eval")
        return eval(code, {**_ARITHMETIC, "s": symbols})  # noqa: S307  (our own text)

    def shapes(self, symbols: list[int]) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the outputs."""
        return tuple(tuple(self.value(text, symbols) for text in dims)
                     for dims in self.code["outputs"])

    def negative(self, symbols: list[int]) -> bool:
        """Return whether a size comes out negative."""
        return any(self.value(text, symbols) < 0 for text in self.code["sizes"])

    def layout(self, symbols: list[int], inputs: Sequence[bool], outputs: Sequence[bool]) -> Layout:
        """Return where everything is.

        Parameters
        ----------
        symbols : list of int
        inputs, outputs : sequence of bool
            Which of them lie in the block.

        Raises
        ------
        MemoryError
            For more bytes than there are addresses.
        """
        artifact, offset = self.artifact, 0

        def place(size: int) -> int:
            nonlocal offset
            start, offset = offset, offset + -(-size // ALIGNMENT) * ALIGNMENT
            return start

        places_in = tuple(place(byte_count(argument.dtype, [
            axis if axis >= 0 else symbols[-axis - 1] for axis in argument.axes]))
            if inside else None for argument, inside in zip(artifact.inputs, inputs))
        places_out = tuple(place(byte_count(output.dtype, shape)) if inside else None
                           for output, shape, inside in zip(
                               artifact.outputs, self.shapes(symbols), outputs))
        status = place(8 * len(self.checks))
        arena = place(self.value(self.code["arena"], symbols))
        extra = place(max((self.value(text, symbols) for text in self.code["extra"]), default=0))
        if offset > LARGEST:
            raise MemoryError(f"{artifact.name}: the results would take more than {LARGEST} bytes")
        return Layout(places_in, places_out, status, arena, extra, offset)

    def launches(self, symbols: list[int], places: Places) -> Iterator[Launch | Product]:
        """Yield all launches and products of a call, in order."""
        yield from self._launches(self.code["steps"], dict(enumerate(symbols)), places)

    def _launches(self, steps: list[dict], symbols: dict[int, int],
                  places: Places) -> Iterator[Launch | Product]:
        for step in steps:
            if "body" in step:
                for index in range(self.value(step["extent"], symbols)):
                    symbols[step["index"]] = index
                    yield from self._launches(step["body"], symbols, places)
                continue
            if "matrices" in step:
                yield from self._products(step, symbols, places)
                continue
            blocks = self.value(step["blocks"], symbols)
            if blocks <= 0:
                continue
            arguments = [self._address(place, symbols, places) for place in step["pointers"]]
            arguments += [self.value(text, symbols) for text in step["sizes"]]
            if step["status"]:
                arguments.append(places.status)
            yield Launch(step["kernel"], blocks, tuple(step["threads"]), tuple(arguments),
                         step["scratch"])

    def _address(self, place: list, symbols: dict[int, int], places: Places) -> int:
        where, at = place
        if where == "given":
            return places.given[at]
        return {"arena": places.arena, "extra": places.extra}[where] + self.value(at, symbols)

    def _products(self, step: dict, symbols: dict[int, int], places: Places) -> Iterator[Product]:
        """Yield a product, unless it has no elements."""
        sizes = tuple(self.value(text, symbols) for text in step["sizes"])
        if 0 in sizes[:3]:
            return
        matrices = (
            Matrix(own["dtype"], self._address(own["pointer"], symbols, places)
                   + self.value(own["offset"], symbols), self.value(own["line"], symbols),
                   self.value(own["batch"], symbols), own["turned"]) for own in step["matrices"])
        yield Product(sizes, *matrices, step["adds"], step["rounds"],
                      self._address(step["workspace"], symbols, places), step["workspace_size"])


def byte_count(dtype: str, shape: Sequence[int]) -> int:
    """Return the bytes of an array."""
    size = numpy_dtype(dtype).itemsize
    for extent in shape:
        size *= extent
    return size
