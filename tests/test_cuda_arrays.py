"""Arrays that are on the GPU already: as arguments, as ``out=``, in shared variables, exchanged.

The fake driver does nothing before somebody waits for it, so each test also shows that the right
things wait for each other.
"""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from cuda_fake import fake_gpu

import tetractys as tx
from tetractys import tensor as T
from tetractys.runtime.cuda_array import DeviceArray, to_device
from tetractys.runtime.cuda_driver import LEGACY_STREAM, driver
from tetractys.runtime.cuda_memory import Memory, Stream
from tetractys.runtime.errors import CallError, DtypeError, ShapeError

X, Y = T.fmatrix("x"), T.fmatrix("y")
A = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(params=[False, True], ids=["late", "at once"])
def gpu(request):
    with fake_gpu(eager=request.param) as fake:
        yield fake


class Interface:
    """Another library's array, which speaks ``__cuda_array_interface__`` only."""

    def __init__(self, array: DeviceArray, stream: int | None = None, offset: int = 0,
                 shape: tuple | None = None, strides: tuple | None = None, read_only: bool = False):
        self.array = array
        self.facts = {"shape": array.shape if shape is None else shape, "version": 3,
                      "typestr": array.dtype.str, "strides": strides,
                      "data": (array.pointer + offset, read_only), "stream": stream}

    @property
    def __cuda_array_interface__(self) -> dict:
        return self.facts


class Pack:
    """Another library's array, which speaks DLPack only, and whose values come late."""

    def __init__(self, array: DeviceArray, versions: bool = False):
        self.array, self.versions, self.asked = array, versions, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream: int, **options: object) -> object:
        if options and not self.versions:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked.append(stream)
        return self.array.__dlpack__(stream=stream)


def filled(values: np.ndarray, device: int = 0) -> tuple[DeviceArray, int]:
    """Return an array whose values another library's stream brings, and that stream."""
    array = to_device(np.zeros_like(values), device)
    stream = driver().stream()
    driver().to_device(array.pointer, values.ctypes.data, values.nbytes, stream)
    return array, stream


def test_results_of_one_function_feed_another_on_the_device(gpu):
    double = tx.function([X], X * 2, device="cuda", on_device=True)
    total = tx.function([X], X.sum(), device="cuda")
    first = double(A)
    before = dict(gpu.moved)
    second = double(first)
    waited = gpu.waited
    third = double(second)
    assert gpu.waited == waited, "a call that has nothing to do with the host does not wait for it"
    assert gpu.moved == before
    assert float(total(third)) == 8 * A.sum()
    np.testing.assert_array_equal(third.numpy(), 8 * A)


@pytest.mark.parametrize("speaks", [Interface, Pack, lambda array: Pack(array, True)])
def test_arrays_of_other_libraries_are_used_where_they_are(gpu, speaks):
    f = tx.function([X, Y], X + Y, device="cuda")
    other = speaks(to_device(A, 0))
    f(A, A)
    before = dict(gpu.moved)
    np.testing.assert_array_equal(f(other, A), 2 * A)
    assert gpu.moved["in"] - before["in"] == A.nbytes and gpu.moved["within"] == before["within"]


def test_what_comes_in_waits_for_the_stream_it_names(gpu):
    f = tx.function([X], X + 1, device="cuda")
    array, stream = filled(A)
    np.testing.assert_array_equal(f(Interface(array, stream)), A + 1)
    array, stream = filled(A)
    driver().stream()
    packed = Pack(array)
    writer = Stream(0)
    driver().record(writer.event, stream)
    array.memory.writer = writer
    np.testing.assert_array_equal(f(packed), A + 1)
    assert packed.asked[0] > LEGACY_STREAM


def test_what_the_default_stream_does_comes_before_and_after(gpu):
    f = tx.function([X], X + 1, device="cuda", on_device=True)
    array = to_device(np.zeros_like(A), 0)
    driver().to_device(array.pointer, A.ctypes.data, A.nbytes, LEGACY_STREAM)
    out = f(Interface(array))
    zeros = np.zeros_like(A)
    driver().to_device(array.pointer, zeros.ctypes.data, zeros.nbytes, LEGACY_STREAM)
    driver().synchronize(LEGACY_STREAM)
    np.testing.assert_array_equal(out.numpy(), A + 1)


def test_layouts_and_dtypes_that_differ_are_converted_as_on_the_cpu(gpu):
    f = tx.function([X], X * 2, device="cuda")
    wide = to_device(np.arange(40, dtype=np.float32).reshape(5, 8), 0)
    host = wide.numpy()
    view = Interface(wide, shape=(4, 3), strides=(32, 8), offset=36)
    np.testing.assert_array_equal(f(view), 2 * host[1:, 1::2][:, :3])
    turned = Interface(wide, shape=(8, 5), strides=(4, 32))
    np.testing.assert_array_equal(f(turned), 2 * host.T)
    backwards = Interface(wide, shape=(5, 8), strides=(-32, 4), offset=4 * 32)
    np.testing.assert_array_equal(f(backwards), 2 * host[::-1])
    unaligned = Interface(wide, shape=(4, 8), offset=4)
    np.testing.assert_array_equal(f(unaligned), 2 * host.ravel()[1:33].reshape(4, 8))
    small = Interface(to_device(A.astype(np.int16), 0))
    np.testing.assert_array_equal(f(small), 2 * A)
    empty = Interface(to_device(np.empty((0, 3), np.float32), 0))
    assert f(empty).shape == (0, 3)


@pytest.mark.parametrize("value", [A.astype(np.float64), A[0], A.astype(np.complex64)])
def test_arrays_that_do_not_fit_are_refused_in_the_cpus_words(gpu, value):
    messages = []
    for device, given in (("cpu", value), ("cuda", Interface(to_device(value, 0)))):
        with pytest.raises(CallError) as caught:
            tx.function([X], X * 2, device=device)(given)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_sizes_that_disagree_are_refused_in_the_cpus_words(gpu):
    messages = []
    for device, given in (("cpu", A[:2]), ("cuda", to_device(A[:2], 0))):
        with pytest.raises(ShapeError) as caught:
            tx.function([X, Y], X + Y, device=device)(A, given)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_an_array_on_another_gpu_is_refused(gpu):
    f = tx.function([X], X * 2, device="cuda:1")
    with pytest.raises(CallError, match="on another device .*runs on cuda:1"):
        f(to_device(A, 0))
    with pytest.raises(CallError, match="on another device"):
        f(Interface(to_device(A, 0)))
    with pytest.raises(CallError, match="given an array on cuda:0; the function runs on cuda:1"):
        f(A, out=to_device(A, 0))
    np.testing.assert_array_equal(f(to_device(A, 1)), A * 2)


def test_a_library_that_does_not_give_its_array_is_quoted(gpu):
    class Stubborn(Pack):
        def __dlpack__(self, **options: object) -> object:
            raise BufferError("cannot export tensors that require a gradient")

    with pytest.raises(CallError, match="x does not fit: cannot export tensors that require"):
        tx.function([X], X * 2, device="cuda")(Stubborn(to_device(A, 0)))


def test_memory_of_others_lives_until_the_work_is_done():
    with fake_gpu() as gpu:
        f = tx.function([X], X + 1, device="cuda", on_device=True)
        f(A)
        other = Interface(to_device(A, 0))
        alive = weakref.ref(other.array)
        out = f(other)
        del other
        gc.collect()
        assert alive() is not None
        np.testing.assert_array_equal(out.numpy(), A + 1)
        f(A)
        gc.collect()
        assert alive() is None


def test_memory_is_freed_after_its_readers(gpu):
    f = tx.function([X], X + 1, device="cuda", on_device=True)
    g = tx.function([X], X * 3, device="cuda", on_device=True)
    first = f(A)
    out = g(first)
    del first
    gc.collect()
    assert f(A).pointer
    np.testing.assert_array_equal(out.numpy(), 3 * (A + 1))
    gpu.finish()


def test_a_capsule_nobody_takes_frees_its_memory(gpu):
    f = tx.function([X], X + 1, device="cuda", on_device=True)
    out = f(A)
    held = weakref.ref(out)
    capsule = out.__dlpack__()
    count = len(gpu.blocks)
    del out, capsule
    gpu.finish()
    assert held() is None and len(gpu.blocks) == count - 1


def test_capsules_give_shape_type_and_values(gpu):
    for dtype in ("bool", "int8", "uint16", "int64", "float32", "float64"):
        values = np.arange(6).reshape(2, 3).astype(dtype)
        taken = tx.runtime.cuda_exchange.import_array(Pack(to_device(values, 0)))
        assert taken.dtype == dtype and taken.is_contiguous
        np.testing.assert_array_equal(taken.numpy(), values)
    with pytest.raises(BufferError):
        to_device(A, 0).__dlpack__(copy=True)
    with pytest.raises(BufferError):
        to_device(A, 0).__dlpack__(dl_device=(1, 0))


# -- out -------------------------------------------------------------------------------------------

def test_out_on_the_device_is_written_in_place(gpu):
    f = tx.function([X], X + 1, device="cuda")
    for place in (to_device(A, 0), Interface(to_device(A, 0)), Pack(to_device(A, 0))):
        f(A, out=np.empty_like(A))
        before = dict(gpu.moved)
        assert f(A, out=place) is place
        assert gpu.moved["out"] == before["out"] and gpu.moved["within"] == before["within"]
        array = place if isinstance(place, DeviceArray) else place.array
        np.testing.assert_array_equal(array.numpy(), A + 1)


def test_out_on_the_host_is_filled(gpu):
    f = tx.function([X], [X + 1, X.sum()], device="cuda")
    place = np.empty_like(A)
    first, second = f(A, out=[place, None])
    assert first is place and float(second) == A.sum()
    np.testing.assert_array_equal(place, A + 1)
    named = tx.function([X], {"twice": X * 2}, device="cuda")
    place = np.empty_like(A)
    assert named(A, out={"twice": place})["twice"] is place
    np.testing.assert_array_equal(place, A * 2)


def test_out_may_be_an_argument_or_unaligned(gpu):
    f = tx.function([X], X.T + 1, device="cuda")
    square = np.arange(1600, dtype=np.float32).reshape(40, 40)
    both = to_device(square, 0)
    f(both, out=both)
    np.testing.assert_array_equal(both.numpy(), square.T + 1)
    room = to_device(np.zeros(1700, np.float32), 0)
    f(square, out=Interface(room, shape=(40, 40), offset=4))
    np.testing.assert_array_equal(room.numpy()[1:1601].reshape(40, 40), square.T + 1)
    assert room.numpy()[0] == 0 and not room.numpy()[1601:].any()


@pytest.mark.parametrize("kind", ["dtype", "shape", "layout", "read-only", "object", "structure"])
def test_bad_out_gets_the_cpus_words(gpu, kind):
    wide = np.zeros((4, 6), np.float32)
    read_only = np.zeros_like(A)
    read_only.flags.writeable = False
    on_host = {"dtype": A.astype(np.float64), "shape": A[:2].copy(), "layout": wide[:, ::2],
               "read-only": read_only, "object": "no", "structure": [A]}[kind]
    on_device = on_host
    if kind in ("dtype", "shape"):
        on_device = to_device(on_host, 0)
    elif kind in ("layout", "read-only"):
        held = to_device(wide, 0)
        on_device = Interface(held, shape=(4, 3), strides=(24, 8) if kind == "layout" else None,
                              read_only=kind == "read-only")
    messages = []
    for device, out in (("cpu", on_host), ("cuda", on_host), ("cuda", on_device)):
        with pytest.raises((CallError, ShapeError)) as caught:
            tx.function([X], X * 2, device=device)(A, out=out)
        messages.append(str(caught.value).replace(" and arrays on the GPU only", " only"))
    assert messages[0] == messages[1] == messages[2]


def test_two_outputs_cannot_go_to_one_array(gpu):
    f = tx.function([X], [X + 1, X + 2], device="cuda")
    place = to_device(A, 0)
    with pytest.raises(CallError, match="shares memory"):
        f(A, out=[place, place])
    with pytest.raises(CallError, match="shares memory"):
        f(A, out=[Interface(place), Interface(place)])


def test_a_read_only_argument_is_as_good_as_any(gpu):
    f = tx.function([X], X * 2, device="cuda")
    other = Interface(to_device(A, 0), read_only=True)
    np.testing.assert_array_equal(f(other), A * 2)


@pytest.mark.parametrize("on_device", [False, True])
def test_borrowed_outputs_are_written_again(gpu, on_device):
    f = tx.function([X], tx.Out(X * 2, borrow=True), device="cuda", on_device=on_device)
    first = f(A)
    second = f(A + 1)
    assert second is first
    np.testing.assert_array_equal(np.asarray(first), 2 * (A + 1))
    other = f(A[:2])
    assert other is not first and other.shape == (2, 3)
    again = f(other)
    assert again is not other, "never an argument of the same call"
    np.testing.assert_array_equal(np.asarray(again), 4 * A[:2])


# -- shared variables ------------------------------------------------------------------------------

def test_shared_variables_take_arrays_on_the_device(gpu):
    w = tx.shared(np.zeros((4, 3), np.float32), name="w")
    f = tx.function([], w + 1, updates={w: w * 2}, device="cuda")
    source = to_device(A, 0)
    before = dict(gpu.moved)
    for value in (source, Interface(source), Pack(source)):
        w.set_value(value)
        assert w.storage.cell[0].pointer != source.pointer, "a copy"
    assert (gpu.moved["in"], gpu.moved["out"]) == (before["in"], before["out"])
    np.testing.assert_array_equal(f(), A + 1)
    np.testing.assert_array_equal(w.get_value(), A * 2)
    np.testing.assert_array_equal(source.numpy(), A)
    with pytest.raises(ShapeError):
        w.set_value(to_device(A[0], 0))
    with pytest.raises(DtypeError):
        w.set_value(to_device(A.astype(np.float64), 0))
    w.set_value(to_device(A.astype(np.int8), 0))
    np.testing.assert_array_equal(w.get_value(), A)
    v = tx.shared(to_device(A.astype(np.float64), 0))
    assert v.dtype == "float64"
    np.testing.assert_array_equal(tx.function([], v * 2, device="cpu")(), 2.0 * A)


def test_memory_of_a_stream_that_never_ran_is_no_trap(gpu):
    with driver().at(0):
        array = DeviceArray(Memory(A.nbytes, Stream(0)), A.shape, A.dtype)
    tx.function([X], X * 2, device="cuda")(A, out=array)
    np.testing.assert_array_equal(array.numpy(), A * 2)
