"""Races and order: for bytes, for variables of the module, between any two threads; each silent kernel beside a faulty twin."""

import numpy as np
import pytest
from kernel_testing import needs_compiler

from minillm.kernels.simulator import RawModule, SimulatorError, configured

CODE = """
__device__ int counter = 0;
__device__ volatile int shaky = 0;
__device__ unsigned arrived = 0;
__device__ volatile int raised = 0;
struct Pair { float x, v; };

extern "C" __global__ void count_plainly(int* y) {
    counter = counter + 1;
    if (threadIdx.x == 0) y[0] = 1;
}

extern "C" __global__ void count_volatile(int* y) {
    for (int i = 0; i < 3; ++i) shaky = shaky + 1;
    if (threadIdx.x == 0) y[0] = 1;
}

extern "C" __global__ void count_atomically(int* y) {
    int old = atomicAdd(&counter, 1);
    if (threadIdx.x < 2) y[threadIdx.x] = old >= 0;
}

extern "C" __global__ void fields(Pair* p, int* y) {
    if (threadIdx.x < 32) p[threadIdx.x].x = 1;
    else p[threadIdx.x - 32].FIELD = 2;
}

extern "C" __global__ void neighbours(char* bytes, unsigned short* halves, int* y) {
    bytes[threadIdx.x] = 1;
    halves[threadIdx.x] = 2;
}

extern "C" __global__ void overlapping(char* bytes, int* y) {
    if (threadIdx.x == 0) *reinterpret_cast<int*>(bytes) = 1;
    if (threadIdx.x == 32) bytes[2] = 2;
}

extern "C" __global__ void add_by_compare_and_swap(double* sum) {
    unsigned long long* bits = reinterpret_cast<unsigned long long*>(sum);
    unsigned long long old = *bits, assumed;
    do {
        assumed = old;
        OTHER_WRITE;
        old = atomicCAS(bits, assumed, __double_as_longlong(1.5 + __longlong_as_double(assumed)));
    } while (assumed != old);
}

extern "C" __global__ void look_at_a_sum(int* sum, int* y) {
    atomicAdd(sum, 1);
    BETWEEN;
    if (threadIdx.x % 32 == 0) y[threadIdx.x / 32] = *sum;
}

extern "C" __global__ void last_block(volatile float* parts, float* out) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = blockIdx.x + 1;
        FENCE;
        last = TICKET == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float sum = 0;
        for (int b = 0; b < gridDim.x; ++b) sum += parts[b];
        *out = sum;
    }
}

extern "C" __global__ void hand_over(int* data, int* out) {
    __shared__ volatile int flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (threadIdx.x == WRITER) {
        data[0] = 42;
        FENCE;
        flag = 1;
    } else if (threadIdx.x == 32 - WRITER) {
        while (flag == 0) {}
        FENCE;
        out[0] = data[0];
    }
}

extern "C" __global__ void signal_only(volatile int* flag, int* out) {
    if (threadIdx.x == 32 - WRITER) {
        while (*flag == 0) {}
        out[0] = 1;
    } else if (threadIdx.x == WRITER) {
        *flag = 1;
    }
}

extern "C" __global__ void ping_pong(int* data, int rounds) {
    for (int i = 0; i < rounds; ++i) {
        if (threadIdx.x == 0) {
            while (raised != 0) {}
            __threadfence();
            data[0] += 1;
            FENCE;
            raised = 1;
        } else if (threadIdx.x == 32) {
            while (raised != 1) {}
            __threadfence();
            data[0] += 1;
            FENCE;
            raised = 0;
        }
    }
}

extern "C" __global__ void locked(int* lock, int* total) {
    for (bool done = false; !done;)
        if (atomicCAS(lock, 0, 1) == 0) {
            total[0] += 1;
            FENCE;
            atomicExch(lock, 0);
            done = true;
        }
}
"""
DEFAULTS = {
    "OTHER_WRITE": "",
    "BETWEEN": "__syncthreads()",
    "FIELD": "v",
    "FENCE": "__threadfence()",
    "TICKET": "atomicAdd(&arrived, 1)",
    "WRITER": "32",
}


@pytest.fixture(autouse=True)
def check():
    needs_compiler()
    with configured(mode="check"):
        yield


def run(name, *arguments, grid=1, block=64, **words):
    code = CODE
    for key, value in (DEFAULTS | words).items():
        code = code.replace(key, value)
    RawModule(code=code).get_function(name)((grid,), (block,), arguments)


def race(name, *arguments, line, **settings):
    with pytest.raises(SimulatorError, match="data race") as caught:
        run(name, *arguments, **settings)
    number = next(i for i, text in enumerate(CODE.splitlines(), 1) if line in text)
    assert f"kernel.cu:{number}: " in str(caught.value)


def ints(count=4):
    return np.zeros(count, np.int32)


def test_a_counter_of_the_module():
    race("count_plainly", ints(), line="counter = counter + 1")
    race("count_plainly", ints(), grid=3, block=1, line="counter = counter + 1")
    run("count_atomically", ints())
    race("count_volatile", ints(), line="shaky = shaky + 1")


def test_the_unit_is_the_bytes_touched():
    pairs = np.zeros(32, np.dtype([("x", "f4"), ("v", "f4")]))
    run("fields", pairs, ints())
    race("fields", pairs, ints(), FIELD="x", line=".FIELD = 2")
    run("neighbours", np.zeros(64, np.int8), np.zeros(64, np.uint16), ints())
    race("overlapping", np.zeros(64, np.int8), ints(), line="bytes[2] = 2")


def test_the_last_block_adds_up_what_the_others_left():
    def total(**words):
        out = np.zeros(1, np.float32)
        run("last_block", np.zeros(5, np.float32), out, grid=5, **words)
        return out[0]

    assert total() == 15
    arguments = (np.zeros(5, np.float32), np.zeros(1, np.float32))
    for words in ({"FENCE": ""}, {"FENCE": "__threadfence_block()"}, {"TICKET": "blockIdx.x"}):
        race("last_block", *arguments, grid=5, line="sum += parts[b]", **words)


@pytest.mark.parametrize("writer", ["0", "32"])
def test_a_flag_between_warps_of_a_block(writer):
    for fence in ("__threadfence()", "__threadfence_block()"):
        out = ints()
        run("hand_over", ints(), out, WRITER=writer, FENCE=fence)
        assert out[0] == 42
    race("hand_over", ints(), ints(), WRITER=writer, FENCE="", line="out[0] = data[0]")


@pytest.mark.parametrize("writer", ["0", "32"])
def test_a_flag_that_tells_of_nothing_else(writer):
    out = ints()
    run("signal_only", ints(), out, WRITER=writer)
    assert out[0] == 1


def test_two_threads_in_turns():
    data = ints()
    run("ping_pong", data, np.int32(20))
    assert data[0] == 40
    race("ping_pong", ints(), np.int32(3), FENCE="", line="data[0] += 1")


def test_a_lock_of_every_thread():
    total = ints()
    run("locked", ints(), total, block=96, grid=2)
    assert total[0] == 192
    race("locked", ints(), ints(), FENCE="", line="total[0] += 1")


@pytest.mark.parametrize("block, grid", [(64, 1), (48, 3)])
def test_the_first_guess_of_a_compare_and_swap(block, grid):
    """The CUDA guide's addition: what a plain read finds is only believed if atomicCAS finds the same."""
    total = np.zeros(1, np.float64)
    run("add_by_compare_and_swap", total, block=block, grid=grid)
    assert total[0] == 1.5 * block * grid
    unsure = "sum[1] = assumed"
    race("add_by_compare_and_swap", np.zeros(2), OTHER_WRITE=unsure, line="unsigned long long old = *bits")


def test_a_sum_is_not_read_before_all_have_added():
    total, seen = ints(), ints()
    run("look_at_a_sum", total, seen)
    assert total[0] == seen[0] == seen[1] == 64
    race("look_at_a_sum", ints(), ints(), BETWEEN="", line="atomicAdd(sum, 1)")
