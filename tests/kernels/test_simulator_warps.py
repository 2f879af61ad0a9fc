"""Shuffles from lanes that take no part: what they give is undefined, and check mode says so."""

import numpy as np
import pytest
from kernel_testing import needs_compiler

from minillm.kernels.simulator import RawModule, SimulatorError, configured

CODE = """
extern "C" __global__ void down(int* y, unsigned mask, int offset, int width) {
    if (mask >> threadIdx.x % 32 & 1) y[threadIdx.x] = __shfl_down_sync(mask, 1, offset, width);
}
extern "C" __global__ void from(int* y, unsigned mask, int source, int width) {
    if (mask >> threadIdx.x % 32 & 1) y[threadIdx.x] = __shfl_sync(mask, int(threadIdx.x), source, width);
}
extern "C" __global__ void across(int* y, int lane_mask) { y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, lane_mask); }
extern "C" __global__ void after_return(int* y) {
    if (threadIdx.x >= 16) return;
    __syncwarp();
    unsigned all = __ballot_sync(0xffffffffu, 1);
    if (threadIdx.x == 0) y[32] = all;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 16);
}
extern "C" __global__ void not_named(int* y) { y[threadIdx.x] = __ballot_sync(0x0000ffffu, 1); }
"""


def run(name, *arguments, block=32, mode="check"):
    needs_compiler()
    y = np.zeros(64, np.int32)
    with configured(mode=mode):
        RawModule(code=CODE).get_function(name)((1,), (block,), (y, *arguments))
    return y


def absent(lane, source, name, *arguments, **settings):
    with pytest.raises(SimulatorError) as caught:
        run(name, *arguments, **settings)
    assert f"lane {lane} reads lane {source}, which takes no part" in str(caught.value)
    assert "kernel.cu:" in str(caught.value) and "cuda_warp.h" not in str(caught.value)
    return str(caught.value)


FULL = np.uint32(0xFFFFFFFF)


def test_lanes_that_a_short_warp_does_not_have():
    report = absent(0, 16, "down", FULL, np.int32(16), np.int32(32), block=48)
    assert "thread (32, 0, 0)" in report and "kernel.cu:3:" in report
    run("down", FULL, np.int32(8), np.int32(16), block=48)  # in segments of 16 lanes nothing is missing
    run("down", FULL, np.int32(16), np.int32(32), block=64)


def test_lanes_outside_of_the_mask():
    assert "the mask does not name it" in absent(12, 16, "down", np.uint32(0xFFFF), np.int32(4), np.int32(32))
    run("down", np.uint32(0xFFFF), np.int32(4), np.int32(16))
    absent(0, 20, "from", np.uint32(0xFF), np.int32(20), np.int32(32))


def test_a_source_beyond_the_width_is_taken_modulo():
    y = run("from", FULL, np.int32(19), np.int32(8))
    assert y[:32].tolist() == [i // 8 * 8 + 3 for i in range(32)]
    with pytest.raises(SimulatorError, match="the width of a shuffle has to be 1, 2, 4, 8, 16 or 32"):
        run("from", FULL, np.int32(0), np.int32(12))


def test_lanes_that_have_returned():
    report = absent(0, 16, "after_return")
    assert report.count("kernel.cu:") == 1  # __syncwarp and votes may name them


def test_butterflies_stay_in_the_warp():
    assert run("across", np.int32(5))[:32].tolist() == [1] * 32
    absent(0, -1, "across", np.int32(-1))


def test_a_lane_that_its_own_mask_does_not_name():
    with pytest.raises(SimulatorError, match="the mask of a warp operation does not name the lane that calls it"):
        run("not_named")
