"""The emulator finds what a GPU would do at random: faults planted in schedules are caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

import tetractys as tx
from tetractys import tensor as T
from tetractys.compiler.dims import Symbol, as_dim
from tetractys.compiler.loop.ir import (
    Accumulate, Barrier, Buffer, Check, For, If, Let, Load, Local, Nest, Shuffle, Stmt, Store)
from tetractys.compiler.loop.scalar import apply, const, index
from tetractys.compiler.loop.text import nest_text
from tetractys.compiler.loop.verify import verify_nest
from tetractys.compiler.loop.walk import buffers_read, buffers_written
from tetractys.compiler.pipeline import Options, compile_signature
from tetractys.compiler.target.cuda import scheduled
from tetractys.compiler.target.cuda_emulate import run_scheduled
from tetractys.runtime.errors import InternalError

SIZE = 64
X, Y = Buffer("x", "float32", (SIZE,), "input"), Buffer("y", "float32", (SIZE,), "output")
TILE = Buffer("tile", "float32", (SIZE,), "scratch")


def small(body: Callable[..., tuple[Stmt, ...]]) -> Nest:
    """Return the nest of one block of two warps that runs ``body(thread, lane)``."""
    block, warp, lane = Symbol("block"), Symbol("warp", extent=2), Symbol("lane", extent=32)
    thread = as_dim(warp) * 32 + as_dim(lane)
    inner = For(lane, 32, body(thread, as_dim(lane)), "thread")
    return Nest("small", (For(block, 1, (For(warp, 2, (inner,), "thread"),), "block"),))


def run(nest: Nest) -> np.ndarray:
    """Run a small nest on 0, 1, 2 ..."""
    verify_nest(nest)
    arrays = {X: np.arange(SIZE, dtype=np.float32), Y: np.zeros(SIZE, np.float32)}
    run_scheduled(nest, arrays, {}, [])
    return arrays[Y]


def reversal(*between: Stmt, reach: int = SIZE - 1) -> Nest:
    """Return the nest that reverses through scratch memory."""
    return small(lambda thread, lane: (
        Store(TILE, (thread,), Load(X, (thread,))), *between,
        Store(Y, (thread,), Load(TILE, (reach - thread,)))))


def test_threads_exchange_through_scratch_memory():
    assert (run(reversal(Barrier("block"))) == np.arange(SIZE)[::-1]).all()


@pytest.mark.parametrize("nest, message", [
    (reversal(), "no barrier between"),
    (reversal(Barrier("warp")), "no barrier between"),
    (reversal(Barrier("block"), reach=SIZE), "index 64 of axis 0"),
    (small(lambda thread, lane: (Store(Y, (thread,), Load(TILE, (thread,))),)),
     "read before it is written"),
    (small(lambda thread, lane: (Store(Y, (lane,), Load(X, (thread,))),)),
     "several threads write"),
    (small(lambda thread, lane: (
        If(apply("lt", index(thread), index(40)), (Barrier("block"),)),)), "only some of 64"),
    (small(lambda thread, lane: (
        If(apply("eq", index(lane), index(0)), (Barrier("warp"),)),)), "only some of 32"),
    (small(lambda thread, lane: (
        Let(Local("a", "float32"), const(1.0, "float32")),
        Store(Y, (0 * thread,), const(1.0, "float32")))), "several threads write"),
], ids=["no barrier", "weak barrier", "off by one", "no value", "race", "part of a block",
        "part of a warp", "one element"])
def test_a_broken_nest_is_refused(nest, message):
    with pytest.raises(InternalError, match=message):
        arrays = {X: np.zeros(SIZE, np.float32), Y: np.zeros(SIZE, np.float32)}
        run_scheduled(nest, arrays, {}, [])


def test_blocks_do_not_wait_for_each_other():
    block, thread = Symbol("block"), Symbol("thread", extent=1)
    body = (Store(Y, (as_dim(block),), const(1.0, "float32")), Barrier("block"),
            Store(Y, (63 - as_dim(block),), const(2.0, "float32")))
    nest = Nest("blocks", (For(block, SIZE, (For(thread, 1, body, "thread"),), "block"),))
    with pytest.raises(InternalError, match="which another thread uses"):
        run(nest)


def test_a_shuffle_gives_the_other_threads_value():
    own, other = Local("own", "float32"), Local("other", "float32")
    nest = small(lambda thread, lane: (
        Let(own, Load(X, (thread,))), Shuffle(other, own, 4), Store(Y, (thread,), other)))
    assert (run(nest) == (np.arange(SIZE) ^ 4)).all()
    assert "let other: float32 = own of thread ^ 4" in nest_text(nest)


def test_the_largest_offending_value_is_reported():
    nest = small(lambda thread, lane: (
        Check(apply("lt", index(thread), index(50)), 3, index(thread)),))
    failures: list[tuple[int, int]] = []
    run_scheduled(nest, {}, {}, failures)
    assert failures == [(3, 63)]


@pytest.mark.parametrize("nest, message", [
    (small(lambda thread, lane: (Shuffle(Local("b", "float32"), Local("a", "float32"), 1),)),
     "local a is not bound"),
    (small(lambda thread, lane: (Let(Local("a", "int32"), const(1, "int32")), Barrier("grid"))),
     "unknown scope"),
    (Nest("bare", (Barrier("block"),)), "outside of thread loops"),
], ids=["unbound", "scope", "place"])
def test_an_ill_formed_exchange_is_refused(nest, message):
    with pytest.raises(InternalError, match=message):
        verify_nest(nest)


def test_a_shuffle_needs_a_warp():
    own = Local("own", "float32")
    nest = small(lambda thread, lane: (
        Let(own, Load(X, (thread,))), Shuffle(Local("other", "float32"), own, 32)))
    with pytest.raises(InternalError, match="no thread 32 apart"):
        verify_nest(nest)


# -- faults planted in the schedules of real expressions -------------------------------------------

def kernels() -> Iterator[tuple[str, Nest]]:
    """Yield scheduled nests that use barriers."""
    x, y = T.fmatrix("x"), T.fmatrix("y")
    cases = {"row": (x.sum(axis=1), (3, 1500)), "column": (x.sum(axis=0), (70, 40)),
             "transpose": (x.T + 1, (40, 50)), "product": (T.dot(x, y), (20, 20))}
    for name, (output, shape) in cases.items():
        f = tx.function([x, y], output, on_unused_input="ignore")
        sizes = f._sizes([np.zeros(shape), np.zeros(shape)])
        _, stages = compile_signature(f.signature, sizes, Options(device="cuda"))
        for step in stages.program.steps:
            for nest in scheduled(step):
                yield name, nest


NESTS = {name: nest for name, nest in kernels()}


def changed(body: tuple[Stmt, ...], change: Callable[[Stmt], tuple[Stmt, ...]]
            ) -> tuple[Stmt, ...]:
    """Return statements with each one replaced by what ``change`` returns."""
    result: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, (For, If)):
            stmt = replace(stmt, body=changed(stmt.body, change))
        result += change(stmt)
    return tuple(result)


def emulate(nest: Nest) -> dict[str, np.ndarray]:
    """Run a nest on random arrays; return what it wrote."""
    random = np.random.default_rng(1)
    arrays = {}
    for buffer in (*buffers_read(nest), *buffers_written(nest)):
        if buffer.root().role not in ("scratch", "register"):
            arrays.setdefault(buffer.root(), random.random(buffer.root().dims).astype(
                buffer.dtype))
    run_scheduled(nest, arrays, {}, [])
    return {root.name: array for root, array in arrays.items()}


@pytest.mark.parametrize("name", NESTS)
def test_the_schedules_themselves_are_sound(name):
    verify_nest(NESTS[name])
    emulate(NESTS[name])


@pytest.mark.parametrize("name", NESTS)
def test_a_dropped_barrier_is_caught(name):
    def drop(stmt: Stmt) -> tuple[Stmt, ...]:
        return () if isinstance(stmt, Barrier) else (stmt,)

    with pytest.raises(InternalError, match="no barrier between"):
        emulate(replace(NESTS[name], body=changed(NESTS[name].body, drop)))


@pytest.mark.parametrize("name", NESTS)
def test_a_store_off_by_one_is_caught(name):
    def shift(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Store) and stmt.buffer.role == "output":
            stmt = replace(stmt, position=(*stmt.position[:-1], stmt.position[-1] + 1))
        return (stmt,)

    with pytest.raises(InternalError, match="is used at index"):
        emulate(replace(NESTS[name], body=changed(NESTS[name].body, shift)))


@pytest.mark.parametrize("name", ["transpose", "product"])
def test_a_dropped_guard_is_caught(name):
    def open_(stmt: Stmt) -> tuple[Stmt, ...]:
        return stmt.body if isinstance(stmt, If) else (stmt,)

    with pytest.raises(InternalError, match="is used at index"):
        emulate(replace(NESTS[name], body=changed(NESTS[name].body, open_)))


def test_a_store_by_all_threads_is_caught():
    def open_(stmt: Stmt) -> tuple[Stmt, ...]:
        return stmt.body if isinstance(stmt, If) and any(
            isinstance(inner, Store) for inner in stmt.body) else (stmt,)

    with pytest.raises(InternalError, match="several threads write"):
        emulate(replace(NESTS["row"], body=changed(NESTS["row"].body, open_)))


def test_an_accumulation_without_its_exchange_gives_another_value():
    def drop(stmt: Stmt) -> tuple[Stmt, ...]:
        is_exchange = isinstance(stmt, Shuffle) or (
            isinstance(stmt, Accumulate) and isinstance(stmt.value, Local)
            and stmt.value.name.startswith("other"))
        return () if is_exchange else (stmt,)

    nest = NESTS["row"]
    right, wrong = emulate(nest), emulate(replace(nest, body=changed(nest.body, drop)))
    assert not np.allclose(right["output0"], wrong["output0"])
