"""Stream capture and graphs on the stand-in for a GPU: what is noted, what is replayed, and CUDA's
errors.

The rules: CUDA C++ Programming Guide, "CUDA Graphs", "Stream capture".
"""

import ctypes

import numpy as np
import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture
def cupy():
    from minillm.kernels.standin import attach

    if attach.cuda is None:
        pytest.skip("the stand-in is not attached: a real GPU is here")
    return pytest.importorskip("cupy")


@pytest.fixture
def stream(cupy):
    stream = cupy.cuda.Stream()
    with stream:
        yield stream
    if stream.is_capturing():
        stream.end_capture()


def error(cupy, name: str):
    return pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match=f"^{name}: ")


def invalidated(cupy, stream) -> None:
    """An error has ended the capture, and the next one is as if it had not been."""
    with error(cupy, "cudaErrorStreamCaptureInvalidated"):
        stream.end_capture()
    stream.begin_capture()
    assert stream.end_capture()


def test_launches_copies_fills_sorts_and_host_functions_are_noted_and_replayed(cupy, stream):
    x, y, order, called = cupy.arange(4.0), cupy.empty(4), cupy.empty(4, np.int64), []
    x + 1, cupy.argsort(-x), order.fill(0)  # compiled
    stream.begin_capture()
    x += 1
    y[...] = x
    order[...] = cupy.argsort(-x)
    x.data.memset_async(0, 8)
    stream.launch_host_func(called.append, "done")
    graph = stream.end_capture()
    assert x.get().tolist() == [0, 1, 2, 3] and not called
    graph.upload()
    graph.launch()
    assert y.get().tolist() == [1, 2, 3, 4] and order.get().tolist() == [3, 2, 1, 0]
    graph.launch(stream)
    assert y.get().tolist() == [1, 3, 4, 5] and x.get().tolist() == [0, 3, 4, 5]
    assert called == ["done", "done"]


def test_arguments_are_those_of_the_capture(cupy, stream):
    add = cupy.RawKernel('extern "C" __global__ void add(double* x, double by) { x[threadIdx.x] += by; }', "add")
    x = cupy.zeros(2)
    add((1,), (2,), (x, 0.0))
    arguments = [x, np.float64(5)]
    stream.begin_capture()
    add((1,), (2,), tuple(arguments))
    graph = stream.end_capture()
    arguments[1] = np.float64(100)
    add((1,), (2,), (x, 1.0))
    graph.launch()
    graph.launch()
    assert x.get().tolist() == [11, 11]


def test_products_are_replayed_with_the_numbers_of_then(cupy, stream):
    """CuPy lets no product into a capture; cuBLAS itself does."""
    a, b = cupy.asarray(np.arange(4.0).reshape(2, 2)), cupy.zeros((2, 2))
    with pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
        stream.begin_capture()
        a @ a
    assert stream.end_capture()
    handle, one, zero = ctypes.c_void_p(cupy.cuda.device.get_cublas_handle()), ctypes.c_double(2), ctypes.c_double(0)
    from minillm.kernels.standin.libraries import cublas

    cublas.cublasSetStream_v2(handle, ctypes.c_void_p(stream.ptr))
    a_, b_ = ctypes.c_void_p(a.data.ptr), ctypes.c_void_p(b.data.ptr)
    stream.begin_capture()
    arguments = (0, 0, 2, 2, 2, ctypes.byref(one), a_, 2, a_, 2, ctypes.byref(zero), b_, 2)
    assert cublas.cublasDgemm_v2(handle, *arguments) == 0
    graph = stream.end_capture()
    assert not b.get().any()
    one.value = 100
    graph.launch()
    assert b.get().tolist() == [[4, 6], [12, 22]]


def test_recording_shows_a_graph_when_it_is_launched(cupy, stream):
    from minillm.kernels.standin.recording import GraphLaunch, counts, recorded

    x = cupy.zeros(8, np.float32)
    x += 1
    before = counts()
    with recorded() as calls:
        stream.begin_capture()
        x += 1
        x += 1
        graph = stream.end_capture()
        assert calls == []
        graph.launch()
    after = counts()
    assert calls[0] == GraphLaunch("cudaGraphLaunch", 2)
    assert [call.replayed for call in calls[1:]] == [True, True]
    assert [after[name] - before[name] for name in ("launches", "graph_launches", "graph_nodes")] == [2, 1, 2]


def test_nothing_is_replayed_where_nothing_is_computed(cupy, stream):
    from minillm.kernels.standin.recording import recorded

    x = cupy.zeros(8, np.float32)
    x += 1
    stream.begin_capture()
    x += 1
    graph = stream.end_capture()
    before = x.get().tolist()
    with recorded(compute=False) as calls:
        graph.launch()
    assert x.get().tolist() == before and len(calls) == 2


@pytest.mark.parametrize(
    "forbidden",
    [lambda cupy, stream: stream.synchronize(), lambda cupy, stream: cupy.cuda.Device().synchronize()],
    ids=["stream", "device"],
)
def test_a_wait_during_capture(cupy, stream, forbidden, capfd):
    stream.begin_capture()
    with error(cupy, "cudaErrorStreamCaptureUnsupported"):
        forbidden(cupy, stream)
    invalidated(cupy, stream)
    assert "stand-in: cuda" in capfd.readouterr().err


def test_copies_to_and_from_memory_that_is_not_pinned(cupy, stream):
    x, host = cupy.zeros(4), np.ones(4)
    stream.begin_capture()
    with pytest.raises(RuntimeError, match="capturing"):
        x.get()
    with error(cupy, "cudaErrorStreamCaptureUnsupported"):
        cupy.cuda.runtime.memcpyAsync(host.ctypes.data, x.data.ptr, 32, 2, stream.ptr)
    invalidated(cupy, stream)


def test_copies_from_pinned_memory_read_it_at_each_launch(cupy, stream):
    x, pinned = cupy.zeros(4), cupy.cuda.alloc_pinned_memory(32)
    host = np.frombuffer(pinned, np.float64, 4)
    stream.begin_capture()
    cupy.cuda.runtime.memcpyAsync(x.data.ptr, pinned.ptr, 32, 1, stream.ptr)
    graph = stream.end_capture()
    for value in (3, 4):
        host[...] = value
        graph.launch()
        assert x.get().tolist() == [value] * 4


def test_the_legacy_stream_while_a_blocking_stream_is_captured(cupy, stream):
    x = cupy.zeros(4)
    stream.begin_capture()
    with cupy.cuda.Stream.null, error(cupy, "cudaErrorStreamCaptureImplicit"):
        cupy.cuda.runtime.memsetAsync(x.data.ptr, 0, 8, 0)
    invalidated(cupy, stream)


def test_the_legacy_stream_beside_a_stream_that_does_not_block(cupy):
    x, stream = cupy.zeros(4), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        x.data.memset_async(0, 8)
    cupy.cuda.runtime.memsetAsync(x.data.ptr, 255, 8, 0)
    graph = stream.end_capture()
    assert np.isnan(x.get()[0])
    graph.launch(stream)
    assert x.get()[0] == 0


def test_allocations_are_unsafe_unless_the_mode_is_relaxed(cupy, stream):
    runtime = cupy.cuda.runtime
    stream.begin_capture(runtime.streamCaptureModeGlobal)
    with error(cupy, "cudaErrorStreamCaptureUnsupported"):
        runtime.malloc(512)
    invalidated(cupy, stream)
    stream.begin_capture()
    runtime.free(runtime.malloc(512))
    assert stream.end_capture()


def test_work_forks_and_joins_by_events(cupy, stream):
    x, other, fork, join = cupy.zeros(4), cupy.cuda.Stream(), cupy.cuda.Event(), cupy.cuda.Event()
    x += 1
    stream.begin_capture()
    fork.record(stream)
    other.wait_event(fork)
    with other:
        assert other.is_capturing()
        x += 1
    join.record(other)
    stream.wait_event(join)
    graph = stream.end_capture()
    assert not other.is_capturing()
    graph.launch()
    assert x.get().tolist() == [2] * 4
    with error(cupy, "cudaErrorCapturedEvent"):
        fork.synchronize()


def test_work_that_was_not_joined(cupy, stream):
    x, other, fork = cupy.zeros(4), cupy.cuda.Stream(), cupy.cuda.Event()
    x += 1
    stream.begin_capture()
    fork.record(stream)
    other.wait_event(fork)
    with other:
        x += 1
    with error(cupy, "cudaErrorStreamCaptureUnjoined"):
        stream.end_capture()
    assert not other.is_capturing()


def test_an_event_from_outside(cupy, stream):
    event = cupy.cuda.Event()
    event.record(cupy.cuda.Stream.null)
    stream.begin_capture()
    with error(cupy, "cudaErrorStreamCaptureIsolation"):
        stream.wait_event(event)
    invalidated(cupy, stream)


def test_two_captures_do_not_merge(cupy, stream):
    other, event = cupy.cuda.Stream(), cupy.cuda.Event()
    stream.begin_capture()
    other.begin_capture()
    event.record(stream)
    with error(cupy, "cudaErrorStreamCaptureMerge"):
        other.wait_event(event)
    with error(cupy, "cudaErrorStreamCaptureInvalidated"):
        other.end_capture()
    assert stream.end_capture()


def test_begin_twice_and_end_without(cupy, stream):
    with error(cupy, "cudaErrorIllegalState"):
        stream.end_capture()
    stream.begin_capture()
    with error(cupy, "cudaErrorIllegalState"):
        stream.begin_capture()
    assert stream.end_capture()


def test_a_graph_within_a_graph_outlives_the_object(cupy, stream):
    x = cupy.zeros(4)
    x += 1
    stream.begin_capture()
    x += 1
    inner = stream.end_capture()
    stream.begin_capture()
    inner.launch()
    inner.launch()
    outer = stream.end_capture()
    del inner
    outer.launch()
    assert x.get().tolist() == [3] * 4


def test_memory_that_is_allocated_in_a_capture_belongs_to_the_graph(cupy, stream):
    runtime = cupy.cuda.runtime
    stream.begin_capture()
    address = runtime.mallocAsync(1 << 20, stream.ptr)
    runtime.memsetAsync(address, 1, 1 << 20, stream.ptr)
    runtime.freeAsync(address, stream.ptr)
    graph = stream.end_capture()
    graph.launch()
    assert ctypes.c_ubyte.from_address(address).value == 1
    free = runtime.memGetInfo()[0]
    del graph
    assert runtime.memGetInfo()[0] - free == 1 << 20


def test_the_drawing_of_a_graph(cupy, stream):
    x = cupy.zeros(4, np.float32)
    stream.begin_capture()
    x.data.memset_async(0, 8)
    x.data.memset_async(0, 8)
    drawing = stream.end_capture().debug_dot_str()
    assert drawing.startswith("digraph") and drawing.count("cudaMemsetAsync") == 2 and "node_0 -> node_1" in drawing
