"""What a GPU would not forgive: wild pointers, too much stack, tables of pointers, what blocks tell each other."""

import numpy as np
import pytest
from kernel_testing import needs_compiler

from minillm.backend.arrays import to_device
from minillm.kernels.simulator import PointerTable, RawModule, SimulatorError, configured

CODE = """
extern "C" __global__ void wild(float* x, long long n) {
    x[n + threadIdx.x] = 1;
}

extern "C" __global__ void deep(float* x, int n) {
    volatile float large[20000];
    for (int i = 0; i < n; ++i) large[i] = i;
    x[0] = large[n - 1];
}

extern "C" __global__ void early(float* x) {
    if (threadIdx.x < 3) return;
    __syncthreads();
    x[threadIdx.x] = 1;
}

extern "C" __global__ void casts_const_away(const float* x, float* y) {
    ((float*)x)[threadIdx.x] = 1;
    y[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void last_block(const float* x, float* parts, int* count, float* y) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) parts[blockIdx.x] = x[blockIdx.x];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(count, 1) == gridDim.x - 1;
    __syncthreads();
    if (!is_last || threadIdx.x) return;
    float sum = 0;
    for (int i = 0; i < gridDim.x; ++i) sum += parts[i];
    *y = sum;
}

extern "C" __global__ void many(float* const* to, const float* const* from, int n) {
    if (threadIdx.x < n) to[blockIdx.x][threadIdx.x] = 2 * from[blockIdx.x][threadIdx.x];
}

extern "C" __global__ void large_shared(float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = 1;
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void writes_to_null(float* x) {
    *(volatile int*)0 = 1;
    x[threadIdx.x] = 1;
}

extern "C" __global__ void reads_null(float* x) {
    const float* nothing = nullptr;
    x[threadIdx.x] = nothing[3];
}
"""


@pytest.fixture(params=["run", "check"])
def mode(request):
    needs_compiler()
    with configured(mode=request.param):
        yield request.param


@pytest.fixture(params=["x86-64 or ucontext", "ucontext"])
def fibers(request, monkeypatch):
    if request.param == "ucontext":
        monkeypatch.setenv("MINILLM_SIMULATOR_FIBERS", "ucontext")


def run(name, *arguments, grid=(1,), block=(32,), code=CODE, **settings):
    RawModule(code=code).get_function(name)(grid, block, arguments, **settings)


def floats(count):
    return np.zeros(count, np.float32)


def test_a_wild_pointer_is_reported_and_python_lives(mode, fibers):
    with pytest.raises(
        SimulatorError, match=r"kernel.cu:3: wild, block \(0, 0, 0\), thread \(0, 0, 0\): access to address 0x"
    ):
        run("wild", floats(4), np.int64(10**12))
    y = floats(4)
    run("wild", y, np.int64(0), block=(4,))  # and the next launch works
    assert (y == 1).all()


@pytest.mark.parametrize(
    "name, line, address", [("writes_to_null", "*(volatile int*)0 = 1;", "0x0"), ("reads_null", "nothing[3];", "0xc")]
)
def test_null_is_reported_where_it_is_certain(mode, name, line, address):
    """C++ leaves open what follows, and g++ would leave out the whole kernel."""
    number = CODE[: CODE.index(line)].count("\n") + 1
    with pytest.raises(
        SimulatorError, match=f":{number}: {name}, block .*access to address {address}, which belongs to no array"
    ):
        run(name, floats(32))


def test_local_variables_that_do_not_fit_are_reported(mode, fibers):
    with pytest.raises(SimulatorError, match="its local variables take more than 64 KiB of stack"):
        run("deep", floats(1), np.int32(20000), block=(1,))


def test_a_wild_pointer_in_one_of_many_blocks(fibers):
    needs_compiler()
    with configured(threads=2), pytest.raises(SimulatorError, match="belongs to no array"):
        run("wild", floats(4), np.int64(10**12), grid=(50,))


def test_threads_that_return_before_a_barrier_are_counted():
    needs_compiler()
    run("early", floats(32))  # a GPU of today goes on
    with (
        configured(mode="check"),
        pytest.raises(SimulatorError, match="3 threads of the block have returned and never"),
    ):
        run("early", floats(32))


def test_a_write_through_a_const_argument():
    needs_compiler()
    with configured(mode="check"), pytest.raises(SimulatorError, match="kernel.cu:19.* that the kernel takes as const"):
        run("casts_const_away", floats(32), floats(32))


def last_block(code):
    y = floats(1)
    run("last_block", np.arange(5, dtype=np.float32), floats(5), np.zeros(1, np.int32), y, grid=(5,), code=code)
    return y[0]


def test_the_last_block_may_read_what_the_others_announced(mode):
    assert last_block(CODE) == 10


def test_without_the_fence_it_may_not():
    needs_compiler()
    with (
        configured(mode="check"),
        pytest.raises(SimulatorError, match="data race: it reads what another thread writes"),
    ):
        last_block(CODE.replace("__threadfence();", ""))
    with (
        configured(mode="check"),
        pytest.raises(SimulatorError, match="data race: it reads what another thread writes"),
    ):
        last_block(CODE.replace("__threadfence();", "__threadfence_block();"))


def tables(*sizes):
    to, given = [floats(n) for n in sizes], [np.arange(n, dtype=np.float32) for n in sizes]
    return to, given, PointerTable.of([to_device(a, "cudasim") for a in to]), PointerTable.of(given)


def test_arrays_behind_a_table_of_pointers(mode):
    to, given, *pointers = tables(5, 8)
    run("many", *pointers, np.int32(5), grid=(2,))
    np.testing.assert_array_equal(to[0], 2 * given[0])
    np.testing.assert_array_equal(to[1], 2 * np.array([0, 1, 2, 3, 4, 0, 0, 0]))
    assert [*pointers[0]] == [a.ctypes.data for a in to]  # the table itself is as it was


def test_a_write_beyond_an_array_behind_a_table():
    needs_compiler()
    _, _, *pointers = tables(8, 5)
    with pytest.raises(
        SimulatorError, match=r"argument 0 \(to\)\[1\]: the kernel wrote outside of the array, element 5 \(it has 5\)"
    ):
        run("many", *pointers, np.int32(8), grid=(2,))
    with (
        configured(mode="check"),
        pytest.raises(SimulatorError, match=r"write of argument 0\[1\] \(to\), element 5 \(it has 5\)"),
    ):
        run("many", *pointers, np.int32(8), grid=(2,))


def test_more_than_48_kilobytes_have_to_be_asked_for(mode):
    with pytest.raises(ValueError, match="set max_dynamic_shared_size_bytes before the launch"):
        run("large_shared", floats(32), shared_mem=50000)
    function = RawModule(code=CODE).get_function("large_shared")
    function.max_dynamic_shared_size_bytes = 50000
    function((1,), (32,), (floats(32),), shared_mem=50000)
