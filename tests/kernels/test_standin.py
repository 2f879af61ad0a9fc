"""What a CuPy program sees of the stand-in for a GPU: the device, memory, streams and events,
launches, errors, records.
"""

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

pytestmark = pytest.mark.gpu
ADD = 'extern "C" __global__ void add(float* x, float by) { x[threadIdx.x] += by; }'


@pytest.fixture
def cupy():
    from minillm.kernels.standin import attach

    if attach.cuda is None:
        pytest.skip("the stand-in is not attached: a real GPU is here")
    return pytest.importorskip("cupy")


@pytest.fixture
def runtime(cupy):
    return cupy.cuda.runtime


@pytest.fixture
def error(runtime):
    return lambda name: pytest.raises(runtime.CUDARuntimeError, match=f"^{name}: ")


@pytest.fixture
def add(cupy):
    return cupy.RawKernel(ADD, "add")


class TestDevice:
    def test_there_is_one(self, cupy, runtime, error, capfd):
        assert runtime.getDeviceCount() == 1 and cupy.cuda.Device().compute_capability == "90"
        with error("cudaErrorInvalidDevice"):
            cupy.cuda.Device(1).use()
        assert "one GPU, device 0" in capfd.readouterr().err
        assert runtime.deviceCanAccessPeer(0, 0) == 0
        with error("cudaErrorInvalidDevice"):
            runtime.memcpyPeer(0, 1, 0, 0, 0)

    def test_its_bus(self, cupy):
        assert cupy.cuda.Device.from_pci_bus_id(cupy.cuda.Device().pci_bus_id) == cupy.cuda.Device(0)

    def test_attributes_and_properties_agree(self, cupy, runtime):
        attributes, properties = cupy.cuda.Device().attributes, runtime.getDeviceProperties(0)
        assert attributes["L2CacheSize"] == properties["l2CacheSize"] == 50 << 20
        assert attributes["MaxSharedMemoryPerBlockOptin"] == 227 << 10
        assert attributes["MultiProcessorCount"] == properties["multiProcessorCount"] == 132
        assert attributes["WarpSize"] == 32 and properties["name"].startswith(b"minillm stand-in")
        assert "ClockRate" not in properties or properties["clockRate"] > 0

    def test_limits_and_profiler(self, cupy, runtime):
        before = runtime.deviceGetLimit(runtime.cudaLimitMallocHeapSize)
        runtime.deviceSetLimit(runtime.cudaLimitMallocHeapSize, 1 << 24)
        assert runtime.deviceGetLimit(runtime.cudaLimitMallocHeapSize) == 1 << 24 != before
        runtime.deviceSetLimit(runtime.cudaLimitMallocHeapSize, before)
        runtime.profilerStart()
        runtime.profilerStop()

    @pytest.mark.parametrize(
        "capability,l2,shared,threads,multiprocessors",
        [
            ("7.5", 4 << 20, 64 << 10, 1024, 40),
            ("8.6", 6 << 20, 99 << 10, 1536, 82),
            ("10.0", 126 << 20, 227 << 10, 2048, 148),
            ("12.0", 96 << 20, 99 << 10, 1536, 170),
        ],
    )
    def test_by_capability(self, runtime, capability, l2, shared, threads, multiprocessors):
        from minillm.kernels.standin.attach import set_capability

        set_capability(capability)
        try:
            found = runtime.getDeviceProperties(0)
            assert f"{found['major']}.{found['minor']}" == capability
            assert (found["l2CacheSize"], found["sharedMemPerBlockOptin"]) == (l2, shared)
            assert (found["maxThreadsPerMultiProcessor"], found["multiProcessorCount"]) == (threads, multiprocessors)
        finally:
            set_capability("9.0")

    def test_textures_and_processes_are_refused_by_name(self, cupy, runtime, error, capfd):
        with error("cudaErrorNotSupported"):
            cupy.cuda.texture.CUDAarray(cupy.cuda.texture.ChannelFormatDescriptor(32, 0, 0, 0, 2), 8)
        assert "cudaMalloc3DArray is not there" in capfd.readouterr().err
        with error("cudaErrorNotSupported"):
            runtime.ipcGetMemHandle(cupy.asarray(np.ones(1)).data.ptr)
        with error("cudaErrorNotSupported"):
            cupy.cuda.Event(disable_timing=True, interprocess=True)
        assert "cudaIpcGetMemHandle is not there" in capfd.readouterr().err


class TestMemory:
    def test_it_is_counted_and_ends(self, cupy, runtime, error):
        free, total = runtime.memGetInfo()
        assert total == 80 << 30
        address = runtime.malloc(10 << 30)
        assert free - runtime.memGetInfo()[0] == 10 << 30
        with error("cudaErrorMemoryAllocation"):
            runtime.malloc(75 << 30)
        runtime.free(address)
        assert runtime.memGetInfo()[0] == free
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            cupy.cuda.alloc(100 << 30)

    def test_what_is_not_allocated_is_not_freed(self, runtime, error, capfd):
        address = runtime.malloc(4096)
        with error("cudaErrorInvalidValue"):
            runtime.free(address + 512)
        runtime.free(address)
        with error("cudaErrorInvalidValue"):
            runtime.free(address)
        assert "nothing is allocated" in capfd.readouterr().err

    def test_copies_stay_within_an_allocation(self, runtime, error, capfd):
        address, host = runtime.malloc(4096), np.ones(1024, np.uint8)
        runtime.memcpy(address + 3072, host.ctypes.data, 1024, runtime.memcpyHostToDevice)
        with error("cudaErrorInvalidValue"):
            runtime.memcpy(address + 3073, host.ctypes.data, 1024, runtime.memcpyHostToDevice)
        with error("cudaErrorInvalidValue"):
            runtime.memset(address + 4000, 0, 97)
        assert "beyond the allocation" in capfd.readouterr().err
        runtime.free(address)
        with error("cudaErrorInvalidValue"):
            runtime.memcpy(host.ctypes.data, address, 1, runtime.memcpyDeviceToHost)

    def test_variables_of_a_module_are_copied_and_filled(self, cupy, runtime, error):
        code = 'extern "C" { __device__ int counter = 5; __constant__ float weights[4]; __global__ void f() {} }'
        module = cupy.RawModule(code=code)
        module.get_function("f")
        counter = cupy.ndarray((1,), cupy.int32, module.get_global("counter"))
        assert counter.get() == [5]
        weights = cupy.ndarray((4,), cupy.float32, module.get_global("weights"))
        weights.set(np.arange(4, dtype=np.float32))
        assert weights.get().tolist() == [0, 1, 2, 3]
        weights.data.memset(0, 8)
        assert weights.get().tolist() == [0, 0, 2, 3]
        assert runtime.pointerGetAttributes(weights.data.ptr).type == 2
        with error("cudaErrorInvalidValue"):
            runtime.memset(weights.data.ptr, 0, 17)
        with error("cudaErrorInvalidValue"):
            runtime.free(weights.data.ptr)

    def test_a_copy_has_a_direction(self, runtime, error):
        address, host = runtime.malloc(512), np.ones(8)
        for to, start, kind in (
            (host.ctypes.data, host.ctypes.data, runtime.memcpyHostToDevice),
            (address, address, runtime.memcpyHostToDevice),
            (host.ctypes.data, address, runtime.memcpyDeviceToDevice),
        ):
            with error("cudaErrorInvalidValue"):
                runtime.memcpy(to, start, 8, kind)
        with error("cudaErrorInvalidMemcpyDirection"):
            runtime.memcpy(address, host.ctypes.data, 8, 9)
        runtime.memcpy(address, host.ctypes.data, 64, runtime.memcpyDefault)
        runtime.free(address)

    def test_fills(self, cupy, runtime):
        address, back = runtime.malloc(1 << 16), np.empty(1 << 16, np.uint8)
        runtime.memset(address, 7, 1 << 16)
        runtime.memset(address + 100, 0, (1 << 16) - 200)  # whole pages of zeros take another way
        runtime.memcpy(back.ctypes.data, address, 1 << 16, runtime.memcpyDeviceToHost)
        assert (back[:100] == 7).all() and (back[-100:] == 7).all() and not back[100:-100].any()
        runtime.free(address)

    def test_rows_with_a_pitch(self, runtime, error):
        address, host, back = (
            runtime.malloc(4096),
            np.arange(12, dtype=np.uint8).reshape(3, 4),
            np.zeros((3, 2), np.uint8),
        )
        runtime.memcpy2D(address, 512, host.ctypes.data, 4, 4, 3, runtime.memcpyHostToDevice)
        runtime.memcpy2D(back.ctypes.data, 2, address + 1, 512, 2, 3, runtime.memcpyDeviceToHost)
        assert back.tolist() == [[1, 2], [5, 6], [9, 10]]
        with error("cudaErrorInvalidPitchValue"):
            runtime.memcpy2D(address, 2, host.ctypes.data, 4, 4, 3, runtime.memcpyHostToDevice)
        runtime.free(address)

    def test_pinned_and_registered_memory(self, cupy, runtime, error):
        pinned, host = cupy.cuda.alloc_pinned_memory(64), np.ones(64)
        assert runtime.pointerGetAttributes(pinned.ptr).type == runtime.memoryTypeHost
        assert runtime.pointerGetAttributes(cupy.asarray(host).data.ptr).type == runtime.memoryTypeDevice
        assert runtime.pointerGetAttributes(host.ctypes.data).type == 0
        runtime.hostRegister(host.ctypes.data, host.nbytes, 0)
        assert runtime.pointerGetAttributes(host.ctypes.data).type == runtime.memoryTypeHost
        with error("cudaErrorHostMemoryAlreadyRegistered"):
            runtime.hostRegister(host.ctypes.data, host.nbytes, 0)
        runtime.hostUnregister(host.ctypes.data)
        with error("cudaErrorHostMemoryNotRegistered"):
            runtime.hostUnregister(host.ctypes.data)

    def test_managed_memory(self, cupy, runtime, add):
        with cupy.cuda.using_allocator(cupy.cuda.malloc_managed):
            x = cupy.asarray(np.ones(4, np.float32))
        assert runtime.pointerGetAttributes(x.data.ptr).type == runtime.memoryTypeManaged
        add((1,), (4,), (x, np.float32(2)))
        assert list((ctypes.c_float * 4).from_address(x.data.ptr)) == [3] * 4
        runtime.memPrefetchAsync(x.data.ptr, 16, 0, 0)

    def test_pools_in_the_order_of_a_stream(self, cupy):
        pool = cupy.cuda.MemoryAsyncPool()
        before = pool.used_bytes()
        memory = pool.malloc(1000)
        assert pool.used_bytes() - before == 1024
        del memory
        assert pool.used_bytes() == before
        pool.set_limit(size=1 << 20)
        assert pool.get_limit() == 1 << 20


class TestStreamsAndEvents:
    def test_a_stream_is_always_done(self, cupy, runtime):
        stream = cupy.cuda.Stream(non_blocking=True, priority=-1)
        assert stream.done and stream.is_non_blocking and stream.priority == -1
        stream.synchronize()
        with cupy.cuda.Stream.ptds:
            assert not cupy.cuda.get_current_stream().is_capturing()

    def test_a_stream_that_is_gone(self, cupy, runtime, error):
        handle = runtime.streamCreate()
        runtime.streamDestroy(handle)
        with error("cudaErrorInvalidResourceHandle"):
            runtime.streamSynchronize(handle)

    def test_events_have_times(self, cupy, error):
        first, second = cupy.cuda.Event(), cupy.cuda.Event()
        first.record()
        second.record()
        assert first.done and 0 <= cupy.cuda.get_elapsed_time(first, second) < 1000
        cupy.cuda.get_current_stream().wait_event(first)
        with error("cudaErrorInvalidResourceHandle"):
            cupy.cuda.get_elapsed_time(first, cupy.cuda.Event())
        without = cupy.cuda.Event(disable_timing=True)
        without.record()
        with error("cudaErrorInvalidResourceHandle"):
            cupy.cuda.get_elapsed_time(first, without)

    def test_host_functions_come_in_their_turn(self, cupy):
        x, seen, stream = cupy.zeros(2, np.float32), [], cupy.cuda.Stream()
        with stream:
            x.data.memset_async(0, 8)
            stream.launch_host_func(seen.append, "host")
            stream.add_callback(lambda stream, status, argument: seen.append((status, argument)), 5)
        assert seen == ["host", (0, 5)]

    def test_cuda_is_not_called_from_a_host_function(self, cupy, runtime):
        codes = []
        cupy.cuda.get_current_stream().launch_host_func(lambda _: codes.append(runtime.streamQuery(0)), None)
        assert codes == [800] and runtime.streamQuery(0) == 0

    def test_captures_in_two_threads(self, cupy, add):
        """Each has its own work."""
        xs = [cupy.zeros(4, np.float32) for _ in range(2)]
        add((1,), (4,), (xs[0], np.float32(0)))
        meeting, graphs = threading.Barrier(2), [None, None]

        def capture(i: int) -> None:
            with cupy.cuda.Stream() as stream:
                stream.begin_capture()
                meeting.wait(60)
                for _ in range(i + 1):
                    add((1,), (4,), (xs[i], np.float32(1)))
                meeting.wait(60)
                graphs[i] = stream.end_capture()

        threads = [threading.Thread(target=capture, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for graph in graphs:
            graph.launch()
        assert [x.get()[0] for x in xs] == [1, 2]


class TestLaunches:
    def test_what_a_driver_refuses(self, cupy, add, capfd):
        x = cupy.zeros(4, np.float32)
        for grid, block, shared in (((1,), (2048,), 0), ((1, 70000), (4,), 0), ((1,), (4,), 60000)):
            with pytest.raises(cupy.cuda.driver.CUDADriverError, match="cudaErrorInvalidValue"):
                add(grid, block, (x, np.float32(1)), shared_mem=shared)
        assert "60000 bytes of dynamic shared memory" in capfd.readouterr().err

    def test_launch_bounds(self, cupy, capfd):
        bounded = cupy.RawKernel('extern "C" __global__ void __launch_bounds__(64) few(float* x) { x[0] = 1; }', "few")
        assert bounded.max_threads_per_block == 64
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="cudaErrorInvalidValue"):
            bounded((1,), (65,), (cupy.zeros(1, np.float32),))
        assert "__launch_bounds__ say 64" in capfd.readouterr().err

    def test_attributes_of_a_kernel(self, cupy, add):
        text = """extern "C" __global__ void own(float* x) {
            __shared__ float y[256];
            y[threadIdx.x] = x[0];
            __syncthreads();
            x[1] = y[5];
        }"""
        kernel = cupy.RawKernel(text, "own")
        assert kernel.shared_size_bytes == 1024 and kernel.num_regs > 0 and kernel.binary_version == 90
        assert kernel.max_dynamic_shared_size_bytes == 47 * 1024
        kernel.max_dynamic_shared_size_bytes = 226 * 1024
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="cudaErrorInvalidValue"):
            kernel.max_dynamic_shared_size_bytes = 226 * 1024 + 1
        assert add.num_regs > 0

    def test_how_many_blocks_are_resident(self, cupy, add):
        from cupy_backends.cuda.api import driver

        function = add.kernel.ptr
        assert driver.occupancyMaxActiveBlocksPerMultiprocessor(function, 1024, 0) == 2
        assert driver.occupancyMaxActiveBlocksPerMultiprocessor(function, 32, 0) == 32
        assert driver.occupancyMaxActiveBlocksPerMultiprocessor(function, 32, 40 * 1024) == 5
        assert driver.occupancyMaxPotentialBlockSize(function, 0, 0) == (2 * 132, 1024)


class TestErrors:
    def test_an_error_is_kept_until_it_is_asked_for(self, runtime, error):
        with error("cudaErrorInvalidValue"):
            runtime.memset(8, 0, 8)
        from minillm.kernels.standin.attach import cuda

        assert runtime.streamQuery(0) == 0
        assert cuda.standin_cudaMemset(ctypes.c_void_p(8), 0, ctypes.c_size_t(8)) == 1
        assert [
            cuda.standin_cudaPeekAtLastError(),
            cuda.standin_cudaGetLastError(),
            cuda.standin_cudaGetLastError(),
        ] == [1, 1, 0]

    def test_a_wild_address_ends_the_context(self, cupy, runtime, add, error):
        """A program that goes on gets the same error from every call, as on a GPU."""
        x = cupy.zeros(4, np.float32)
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="^cudaError"):
            add((1,), (4,), (np.uint64(runtime.malloc(512) - 8), np.float32(1)))
        with pytest.raises(Exception, match="^cudaError"):
            runtime.deviceSynchronize()
        with pytest.raises(Exception, match="^cudaError"):
            add((1,), (4,), (x, np.float32(1)))
        from minillm.kernels.standin.attach import forget_errors

        forget_errors()
        add((1,), (4,), (x, np.float32(1)))
        assert x.get().tolist() == [1] * 4


class TestRecords:
    def test_bytes_of_cupys_own_passes(self, cupy):
        from minillm.kernels.standin.recording import recorded

        x, row = cupy.zeros((6, 8), np.float32), cupy.zeros(8, np.float32)
        with recorded(compute=False) as calls:
            x + x
            x + row
            x.astype(np.float64)
            x.T + 1
        assert [call.elements for call in calls] == [48] * 4
        assert [call.bytes for call in calls] == [48 * 12, 48 * 8 + 8 * 4, 48 * 12, 48 * 8]

    def test_other_kernels_have_none(self, cupy, add):
        from minillm.kernels.standin.recording import recorded

        x = cupy.zeros(4, np.float32)
        with recorded() as calls:
            add((1,), (4,), (x, np.float32(1)))
        (call,) = calls
        assert (call.name, call.threads, call.elements, call.bytes, call.replayed) == ("add", 4, None, None, False)
        assert call.arguments == (np.uint64(x.data.ptr).tobytes(), np.float32(1).tobytes())

    def test_sums_have_elements(self, cupy):
        from minillm.kernels.standin.recording import recorded

        x = cupy.zeros((6, 8), np.float32)
        with recorded(compute=False) as calls:
            x.sum(axis=0)
        assert calls[0].elements == 48

    def test_counts(self, cupy, add):
        from minillm.kernels.standin.recording import COUNTED, counts

        x = cupy.zeros((4, 4), np.float32)
        before = counts()
        add((1,), (4,), (x, np.float32(1)))
        x.get()
        x.data.memset_async(0, 8)
        x @ x
        after = {name: number - before[name] for name, number in counts().items()}
        assert tuple(after) == COUNTED
        assert {name: after[name] for name in ("launches", "products", "to_host", "memsets")} == {
            "launches": 1,
            "products": 1,
            "to_host": 1,
            "memsets": 1,
        }


def test_memory_of_graphs_is_given_back(cupy, runtime):
    """A thousand graphs with megabytes of arguments and allocations leave the process as it was."""
    text = "struct Large { char bytes[4000]; };\n" + 'extern "C" __global__ void large(Large x) {}'
    kernel, stream, large = cupy.RawKernel(text, "large"), cupy.cuda.Stream(), np.zeros(1, np.dtype("V4000"))
    sizes = []
    with stream:
        for _turn in range(2):
            for _ in range(200):
                stream.begin_capture()
                for _ in range(20):
                    kernel((1,), (1,), (large[0],))
                runtime.mallocAsync(1 << 16, stream.ptr)
                stream.end_capture()
            with open("/proc/self/statm", encoding="ascii") as file:
                sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE"))
    assert sizes[1] - sizes[0] < 8 << 20, "16 MB of arguments were noted in each turn"


def test_a_program_gets_one_line_where_cupy_is_imported_first():
    program = "import cupy\nfrom minillm.kernels.standin.attach import attach\nattach()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith("minillm.errors.UserError: the stand-in for a GPU has to be attached before CuPy is imported")
    )
