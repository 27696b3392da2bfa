"""Attach kernels to the products they follow: program -> program.

A kernel that runs over the rows of a product, and needs of each only that row (bias and activation,
softmax, the derivative of an activation, the update of a parameter with its gradient), becomes the
product's *epilogue*: it is run on some rows as soon as they are complete, while they are in the
cache, by the thread that computed them.

Either the kernel moves up to the product or the product down to the kernel, past steps that touch
nothing the moved step reads or writes.  Updates of shared variables stay behind ``commit``; a
product goes there with them only if it is short, since no call can be interrupted there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .dims import DimLike, as_dim, prod, proves_equal
from .loop.ir import Buffer, Check, For
from .loop.walk import loads, operands, statements, target_access
from .program import Contract, Kernel, Program, Step, Trace, roots, writes_of

LONGEST_LATE = 1 << 29
"""Floating-point operations that a product may take behind ``commit``: some milliseconds."""

WIDEST = 1024
"""An epilogue keeps whole rows of a product together; when they are long and few, all of a
product would be one thread's work."""

FEWEST_ROWS = 32


def attach_epilogues(program: Program, for_cores: bool = True) -> Program:
    """Return the program with kernels attached to products, where that is possible.

    Parameters
    ----------
    program : Program
    for_cores : bool
        Whether rows are shared out between a few threads, which a user may interrupt.
    """
    steps, commit = list(program.steps), program.commit
    place = 0
    while place < len(steps):
        kernel = steps[place]
        found = None
        if isinstance(kernel, Kernel):
            found = _product_for(steps, place, commit, for_cores)
        if found is None:
            place += 1
            continue
        product = steps[found]
        target = place if place >= commit > found else found
        joined = replace(product, epilogue=kernel)
        del steps[place], steps[found]
        commit -= (found < commit) + (place < commit)
        target -= (found < target) + (place < target)
        steps.insert(target, joined)
        commit += target < commit
        place = found if target < place else place
    return program.with_steps(tuple(steps), commit=commit)


def _product_for(steps: list[Step], place: int, commit: int, for_cores: bool) -> int | None:
    """Return the latest product that the kernel at ``place`` can be the epilogue of."""
    kernel = steps[place]
    missing = {root for root in roots(kernel.reads) if root.role in ("temporary", "output")}
    for number in range(place - 1, -1, -1):
        if not missing:
            return None
        product = steps[number]
        written = missing.intersection(roots(writes_of(product)))
        if not written:
            continue
        crosses = number < commit <= place
        if isinstance(product, Contract) and product.epilogue is None \
                and is_row_wise(product, kernel) and not (for_cores and _is_one_task(product)):
            between = steps[number + 1:place]
            if Trace(*between).commutes(product if crosses else kernel) \
                    and not (for_cores and crosses and _is_long(product)):
                return number
            return None
        if place < commit:
            return None
        missing -= written  # an update stays where it is: a product would come to it
    return None


def is_row_wise(product: Contract, kernel: Kernel) -> bool:
    """Return whether a kernel can be a product's epilogue: it needs only its own row, of a product
    that fills a buffer of its own, and writes none of the operands."""
    batch, m, n, _ = product.sizes
    out = product.out.buffer.root()
    if batch != 1 or product.out.offset != 0 or not _is_contiguous(product):
        return False
    if out not in roots(kernel.reads) or out in roots(kernel.writes) \
            or {product.left.buffer.root(), product.right.buffer.root()} & roots(kernel.writes):
        return False
    loop = kernel.nest.body[0] if len(kernel.nest.body) == 1 else None
    if not isinstance(loop, For) or loop.mark != "parallel" \
            or any(isinstance(stmt, Check) for stmt in statements(kernel.nest.body)):
        return False
    is_flat = proves_equal(loop.extent, m * n)
    if not is_flat and not proves_equal(loop.extent, m):
        return False
    return all(_is_own_row(buffer, position, as_dim(loop.index), is_flat, n)
               for buffer, position in _accesses(kernel) if buffer.root() is out)


def _is_own_row(buffer: Buffer, position: tuple[DimLike, ...], index: DimLike, is_flat: bool,
                n: DimLike) -> bool:
    if is_flat:
        return len(position) == 1 and position[0] == index
    return len(position) == 2 and position[0] == index and buffer.dims[1] == n


def _accesses(kernel: Kernel) -> Iterator[tuple[Buffer, tuple[DimLike, ...]]]:
    """Yield every access to memory in a kernel."""
    for stmt in statements(kernel.nest.body):
        for load in loads(*operands(stmt)):
            yield load.buffer, load.position
        access = target_access(stmt)
        if access is not None:
            yield access


def _is_contiguous(product: Contract) -> bool:
    """Return whether a product fills a whole buffer, row after row."""
    _, m, n, _ = product.sizes
    return product.out.strides[-2:] == (n, 1) \
        and proves_equal(prod(product.out.buffer.dims), m * n)


def _is_one_task(product: Contract) -> bool:
    """Return whether whole rows would leave a large product to one thread."""
    _, m, n, _ = product.sizes
    return isinstance(m, int) and m < FEWEST_ROWS and not (isinstance(n, int) and n <= WIDEST)


def _is_long(product: Contract) -> bool:
    flops = 2 * prod(product.sizes)
    return not isinstance(flops, int) or flops > LONGEST_LATE
