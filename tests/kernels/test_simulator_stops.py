"""What a CPU traps and a GPU does not, loops that never end, and Ctrl-C: a report, and Python lives."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from kernel_testing import needs_compiler

from minillm.kernels.simulator import RawModule, SimulatorError, configured

CODE = """
#include <assert.h>
extern "C" void abort();
extern "C" void exit(int);

extern "C" __global__ void divide(int* y, int by) { y[threadIdx.x] = 7 / (by + (threadIdx.x != 5)); }
extern "C" __global__ void remain(long long* y, long long by) { y[threadIdx.x] = 7 % (by + (threadIdx.x != 5)); }
extern "C" __global__ void claim(int* y) { assert(threadIdx.x < 5); y[threadIdx.x] = 1; }
extern "C" __global__ void give_up(int* y) { if (threadIdx.x == 5) abort(); y[threadIdx.x] = 1; }
extern "C" __global__ void leave(int* y) { if (threadIdx.x == 5) exit(3); y[threadIdx.x] = 1; }
extern "C" __global__ void toss(int* y) { if (threadIdx.x == 5) throw 1; y[threadIdx.x] = 1; }
extern "C" __global__ void trap(int* y) { if (threadIdx.x == 5) __trap(); y[threadIdx.x] = 1; }
extern "C" __global__ void breakpoint(int* y) { if (threadIdx.x == 5) asm volatile("int3"); y[threadIdx.x] = 1; }
extern "C" __global__ void call_nothing(int* y, long long at) { y[threadIdx.x] = 1; ((void (*)(int*))at)(y); y[0] = 2; }
__device__ __noinline__ int deeper(volatile int* y, int n) { volatile int here[100]; here[n % 100] = y[0];
    return n < 0 ? here[n % 7] : deeper(y, n + 1) + here[n % 100]; }
extern "C" __global__ void recurse(int* y) { y[0] = deeper(y, 1); }
extern "C" __global__ void unaligned(int* y, long long* z) { z[threadIdx.x] = *(long long*)(y + 1 + 2 * threadIdx.x); }
extern "C" __global__ void quarter(float* y, float4* z) { z[0] = *(float4*)(y + 1); }

extern "C" __global__ void for_ever(int* y) { if (threadIdx.x == 5) for (;;) {} y[threadIdx.x] = 1; }
extern "C" __global__ void never_set(volatile int* y) { while (y[0] == 0) {} y[1] = 1; }
extern "C" __global__ void never_added(int* y) { while (atomicAdd(y, 0) == 0) {} y[1] = 1; }
extern "C" __global__ void never_unlocked(int* y) { while (atomicCAS(y, 0, 1) != 0) {} y[1 + threadIdx.x] = 1; }
extern "C" __global__ void set_by_a_warp(volatile int* y, int setter) {
    if (threadIdx.x == 32 - setter) { while (y[0] == 0) {} y[1] = 1; }
    if (threadIdx.x == setter) y[0] = 1;
}
extern "C" __global__ void long_sum(float* y, int n) {
    float x = 0;
    for (int i = 0; i < n; ++i) x = x * 0.5f + 1.0f;
    y[threadIdx.x] = x;
}
extern "C" __global__ void count_on(unsigned long long* y) {
    unsigned long long x = y[0] + 1;
    while (x != 0) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;  // comes to 0 after centuries, and never repeats itself
        asm volatile("" : "+r"(x));
    }
    y[0] = x;
}
extern "C" __global__ void count_in_memory(volatile int* y) { while (y[0] >= 0) y[0] = (y[0] + 1) & 0xffffff; }
"""


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C is an exception, also where the tests were started in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["run", "check"])
def mode(request):
    needs_compiler()
    with configured(mode=request.param):
        yield request.param


def run(name, *arguments, grid=1, block=32):
    RawModule(code=CODE).get_function(name)((grid,), (block,), arguments)


def fault(name, *arguments, thread=5, **settings):
    with pytest.raises(SimulatorError) as caught:
        run(name, *arguments, **settings)
    number = next(i for i, text in enumerate(CODE.splitlines(), 1) if f" {name}(" in text)
    place = f"kernel.cu:{number}: {name}, block (0, 0, 0), thread ({thread}, 0, 0): "
    assert place in str(caught.value)
    return str(caught.value)


def ints(count=64):
    return np.zeros(count, np.int32)


@pytest.mark.parametrize(
    "name, words",
    [
        ("claim", "assertion failed: threadIdx.x < 5"),
        ("give_up", "abort() was called"),
        ("leave", "exit() was called"),
        ("toss", "an exception was thrown"),
        ("trap", "__trap() was called"),
        ("breakpoint", "a breakpoint"),
    ],
)
def test_what_would_end_the_process(mode, name, words):
    assert words in fault(name, ints())


def test_division_by_zero(mode):
    assert "integer division by zero" in fault("divide", ints(), np.int32(0))
    assert "integer division by zero" in fault("remain", np.zeros(32, np.int64), np.int64(0))
    run("divide", ints(), np.int32(1))


@pytest.mark.parametrize("address", [0, 12345, 2**50])
def test_a_call_of_what_is_no_function(mode, address):
    assert "function" in fault("call_nothing", ints(), np.int64(address), thread=0) or address == 2**50


def test_endless_recursion(mode):
    with pytest.raises(SimulatorError, match="its local variables take more than 64 KiB of stack"):
        run("recurse", ints(), block=1)


def test_misaligned_vectors(mode):
    y, z = np.zeros(64, np.float32), np.zeros(4, np.float32)
    assert "misaligned" in fault("quarter", y, z, block=1, thread=0)
    if mode == "check":
        assert "misaligned" in fault("unaligned", ints(128), np.zeros(32, np.int64), thread=0)


@pytest.mark.parametrize("name, thread", [("for_ever", 5), ("never_set", 0), ("never_added", 0), ("never_unlocked", 1)])
def test_loops_that_wait_for_ever(mode, name, thread):
    block = 2 if name in ("never_added", "never_unlocked") else 32
    assert "it waits in a loop for a value that no thread writes" in fault(name, ints(), thread=thread, block=block)


@pytest.mark.parametrize("setter", [0, 32])
def test_waiting_for_another_warp(mode, setter):
    y = ints()
    run("set_by_a_warp", y, np.int32(setter), block=64)
    assert y[1] == 1


def test_a_thread_that_is_interrupted_computes_the_same():
    needs_compiler()
    y = np.zeros(2, np.float32)
    run("long_sum", y, np.int32(200_000_000), block=2)  # more than one period of the timer
    assert (y == 2).all()


@pytest.mark.parametrize("name", ["count_on", "count_in_memory"])
@pytest.mark.parametrize("grid", [1, 3])
def test_control_c_ends_a_kernel(mode, name, grid):
    y = np.zeros(4, np.uint64) if name == "count_on" else ints()
    run("divide", ints(), np.int32(1))  # compiled
    control_c = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    control_c.start()
    try:
        with pytest.raises(KeyboardInterrupt), configured(mode=mode, threads=2):
            run(name, y, grid=grid, block=2 if name == "count_on" else 1)
    finally:
        control_c.cancel()  # a kernel that ended before must not end the tests
    run("divide", ints(), np.int32(1))


def test_a_handler_of_ones_own_runs_meanwhile(mode):
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(time.monotonic()))
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        y = np.zeros(1, np.float32)
        run("long_sum", y, np.int32(200_000_000), block=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen and y[0] == 2


def test_a_limit_of_time_names_the_line(mode):
    line = 1 + next(i for i, text in enumerate(CODE.splitlines()) if "x = x * 6364136223846793005" in text)
    with (
        configured(mode=mode, seconds=0.2),
        pytest.raises(SimulatorError, match="still runs after 0.2 seconds") as caught,
    ):
        run("count_on", np.zeros(4, np.uint64), block=2)
    assert abs(caught.value.faults[0].number - line) <= 2
    with configured(mode=mode, seconds=0.2):
        run("divide", ints(), np.int32(1))
