"""Whose memory an access is to: at any distance, in every kind of memory, in check mode and where it would hurt in run mode."""

import numpy as np
import pytest
from kernel_testing import needs_compiler

from minillm.kernels.simulator import RawModule, SimulatorError, configured

CODE = """
#include <string.h>
struct Wide { int part[12]; };
__device__ int table[8];
__device__ int behind[8];
__constant__ int odd[4] = {1, 3, 5, 7};
static __device__ int calls = 0;

extern "C" __global__ void far_write(float* y, long long offset) {
    y[threadIdx.x + offset] = 1.0f;
}

extern "C" __global__ void far_read(const float* x, long long offset, float* y) {
    y[threadIdx.x] = x[threadIdx.x + offset];
}

extern "C" __global__ void run_over(float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = 1.0f;
}

extern "C" __global__ void absolute(float* y, long long address) {
    y[0] = *reinterpret_cast<float*>(address);
}

extern "C" __global__ void of_the_module(int* y, int i) {
    int* at = table;
    at[i + threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = odd[threadIdx.x % 4] + at[threadIdx.x] + (strlen("four") == 4);
    if (threadIdx.x == 0) ++calls;
}

extern "C" __global__ void of_another_thread(int* y) {
    __shared__ int* where;
    int mine[4] = {1, 2, 3, 4};
    if (threadIdx.x == 0) where = mine;
    __syncthreads();
    where[threadIdx.x % 4] = 5;
    __syncthreads();
    y[threadIdx.x] = mine[threadIdx.x % 4];
}

extern "C" __global__ void beyond_a_local(int* y, int i) {
    int mine[4] = {1, 2, 3, 4};
    int* at = mine;
    asm("" : "+r"(at));
    at[i] = 7;
    y[0] = at[0];
}

extern "C" __global__ void in_pieces(char* to, const char* from, int size) {
    memcpy(to, from, size);
    memset(to, 1, size);
}

extern "C" __global__ void struct_copy(Wide* to, const Wide* from, int i) {
    to[0] = from[i];
}

extern "C" __global__ void add_there(int* y, long long offset) {
    atomicAdd(y + offset, 1);
}

extern "C" __global__ void shared_far(float* y, int i) {
    extern __shared__ float tile[];
    tile[i] = 1.0f;
    y[0] = tile[0];
}

extern "C" __global__ void from_one_shared_array(float* y, int i) {
    __shared__ float4 sums[1];
    __shared__ float others[3];
    float* at = &sums[0].x;
    others[threadIdx.x % 3] = 0.0f;
    at[i] = 1.0f;
    y[0] = at[i] + others[0];
}

extern "C" __global__ void say(const char* text, long long offset) {
    printf("%d %.3s %s\\n", 1, "four", text + offset);
}

extern "C" __global__ void by_value(float4 a, Wide b, float* y) {
    y[0] = a.x + a.w + b.part[11];
}
"""


@pytest.fixture(params=["run", "check"])
def mode(request):
    needs_compiler()
    with configured(mode=request.param):
        yield request.param


@pytest.fixture
def check():
    needs_compiler()
    with configured(mode="check"):
        yield


def run(name, *arguments, block=(32,), **settings):
    RawModule(code=CODE).get_function(name)((1,), block, arguments, **settings)


def line_of(text):
    return next(number for number, line in enumerate(CODE.splitlines(), 1) if text in line)


def fault(name, *arguments, line="", **settings):
    """The report of a launch that has to fail, at the line with this text."""
    with pytest.raises(SimulatorError) as caught:
        run(name, *arguments, **settings)
    report = str(caught.value)
    assert not line or f"kernel.cu:{line_of(line)}: {name}, block (0, 0, 0), thread (" in report
    return report


OFFSETS = [1024, 5000, 20000, 50000, 4_000_000, 2**31 - 32, -2000, -(2**31)]


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_write_at_any_distance(mode, offset):
    report = fault("far_write", np.zeros(1024, np.float32), np.int64(offset), line="y[threadIdx.x + offset]")
    assert f"out-of-bounds write of argument 0 (y), element {offset} (it has 1024)" in report


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_read_at_any_distance(mode, offset):
    x, y = np.zeros(1024, np.float32), np.zeros(32, np.float32)
    report = fault("far_read", x, np.int64(offset), y, line="x[threadIdx.x + offset]") if mode == "check" else ""
    assert mode == "run" or f"out-of-bounds read of argument 0 (x), element {offset} (it has 1024)" in report


@pytest.mark.parametrize("count", [1300, 20000, 400_000, 4_000_000])
def test_a_loop_that_runs_over_the_end(mode, count):
    y = np.zeros(1024, np.float32)
    assert "of argument 0 (y), element 1" in fault("run_over", y, np.int32(count), line="y[i] = 1.0f")
    assert not y.any()  # what a faulty kernel wrote is not taken over
    run("run_over", y, np.int32(1024))
    assert y.all()


def test_memory_of_python_is_not_the_kernels(check):
    secret = np.full(1000, 42, np.float32)
    address = np.int64(secret.ctypes.data)
    assert "belongs to no array" in fault("absolute", np.zeros(1, np.float32), address, line="float*>(address)")


@pytest.mark.parametrize("address", [0, 8, 2**46, -1, 2**62])
def test_addresses_that_are_none(mode, address):
    report = fault("absolute", np.zeros(1, np.float32), np.int64(address), line="float*>(address)", block=(1,))
    assert f"access to address 0x{address % 2**64:x}, which belongs to no array" in report


def test_variables_and_constants_of_the_module(mode):
    y = np.zeros(8, np.int32)
    run("of_the_module", y, np.int32(0), block=(8,))
    assert y.tolist() == [i + (1, 3, 5, 7)[i % 4] + 1 for i in range(8)]


def test_beyond_a_variable_of_the_module(check):
    report = fault("of_the_module", np.zeros(8, np.int32), np.int32(4), block=(8,), line="at[i + threadIdx.x]")
    assert "out-of-bounds write of the variable table, byte 32 (it has 32 bytes)" in report


def test_local_variables_of_another_thread(check):
    report = fault("of_another_thread", np.zeros(8, np.int32), block=(8,), line="where[threadIdx.x % 4] = 5")
    assert "belongs to no array: beyond its own local variables" in report


@pytest.mark.parametrize("index", [30_000, 900_000_000, -100_000_000])
def test_beyond_a_local_array(mode, index):
    assert fault("beyond_a_local", np.zeros(1, np.int32), np.int32(index), block=(1,), line="at[i] = 7")


def test_copies_in_one_call(check):
    to, given = np.zeros(100, np.uint8).view(np.int8), np.zeros(60, np.int8)
    run("in_pieces", to, given, np.int32(60), block=(1,))
    report = fault("in_pieces", to, given, np.int32(61), block=(1,), line="memcpy(to")
    assert "out-of-bounds read of argument 1 (from), element 60 (it has 60)" in report
    report = fault("in_pieces", to, np.zeros(200_000, np.int8), np.int32(200_000), block=(1,), line="memcpy(to")
    assert "out-of-bounds write of argument 0 (to), element 100 (it has 100)" in report


def test_structs_are_copied_whole(check):
    wide = np.zeros(4, np.dtype((np.void, 48)))
    run("struct_copy", wide.copy(), wide, np.int32(3), block=(1,))
    assert "out-of-bounds read of argument 1 (from)" in fault("struct_copy", wide.copy(), wide, np.int32(4), block=(1,))


def test_an_atomic_far_away(mode):
    report = fault("add_there", np.zeros(4, np.int32), np.int64(10**8), block=(1,), line="atomicAdd(y")
    assert "out-of-bounds" in report and "element 100000000 (it has 4)" in report


@pytest.mark.parametrize("index", [100_000, 10_000_000, -10_000_000])
def test_far_beyond_shared_memory(mode, index):
    report = fault("shared_far", np.zeros(1, np.float32), np.int32(index), block=(1,), shared_mem=64, line="tile[i] = ")
    assert "out-of-bounds write of shared memory" in report
    assert "of the dynamic part (the launch gave 64 bytes: shared_mem, --shared)" in report


@pytest.mark.parametrize("index", [4, 5, 30, -1])
def test_a_pointer_that_leaves_its_shared_array(check, index):
    run("from_one_shared_array", np.zeros(1, np.float32), np.int32(3), block=(1,))
    report = fault("from_one_shared_array", np.zeros(1, np.float32), np.int32(index), block=(1,), line="at[i] = 1.0f")
    assert f"out-of-bounds write of shared memory, byte {4 * index} of sums, which has 16" in report


def test_a_pointer_far_from_its_shared_array(check):
    report = fault("from_one_shared_array", np.zeros(1, np.float32), np.int32(200), block=(1,), line="at[i] = 1.0f")
    assert "out-of-bounds write of shared memory, in no array" in report


def test_shared_memory_that_was_forgotten(check):
    report = fault("shared_far", np.zeros(1, np.float32), np.int32(0), block=(1,), line="tile[i] = ")
    assert "(the launch gave 0 bytes: shared_mem, --shared)" in report


def test_texts_that_printf_follows(mode, capfd):
    text = np.frombuffer(b"hello\0", np.int8).copy()
    run("say", text, np.int64(0), block=(1,))
    fault("say", text, np.int64(2**40), block=(1,), line="printf(")
    if mode == "check":
        assert "argument 0 (text), element 5 (it has 5)" in fault("say", text[:5].copy(), np.int64(0), block=(1,))


def test_what_is_passed_by_value(mode):
    y = np.zeros(1, np.float32)
    wide = np.arange(12, dtype=np.int32).view(np.dtype((np.void, 48)))[0]
    quad = np.array([1, 2, 3, 4], np.float32).view(np.dtype((np.void, 16)))[0]
    run("by_value", quad, wide, y, block=(1,))
    assert y[0] == 16
