"""The accesses of one block, lane by lane: those that follow from the source."""

import numpy as np
import pytest

from minillm.kernels.simulator import Profile, RawModule, configured

CODE = """
__global__ void transpose(const float* x, float* y, int width) {
    __shared__ float tile[32][32];
    tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * width + threadIdx.x];
    __syncthreads();
    y[threadIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

__global__ void some(const float* x, float* y) {
    for (int i = 0; i < 3; ++i)
        if (threadIdx.x % 4 == i) y[blockIdx.x * 64 + threadIdx.x] = x[2 * threadIdx.x];
}
"""


@pytest.fixture(scope="module")
def module():
    from kernel_testing import needs_compiler

    needs_compiler()
    return RawModule(code=CODE, name_expressions=("transpose", "some"))


def watched(module, name, *arguments, block, grid=(1,), watch=0, launches=1):
    profile = Profile(watch)
    with configured(mode="profile", profile=profile):
        for _ in range(launches):
            module.get_function(name)(grid, block, arguments)
    return profile, profile.blocks[name]


def floats(count):
    return np.zeros(count, np.float32)


def test_lanes_elements_and_sectors(module):
    profile, block = watched(module, "transpose", floats(4096), floats(1024), np.int32(100), block=(32, 32))
    assert (block.grid, block.dimensions, block.block, block.complete) == ((1, 1, 1), (32, 32, 1), 0, True)
    loads = [each for each in block.accesses if (each.space, each.kind) == ("global", "load")]
    assert [each.warp for each in loads] == list(range(32))
    third = loads[3]
    assert third.lanes == third.ever == tuple(range(32)) and third.size == 4 and third.number == 4
    assert third.arrays == ("x",) * 32
    assert third.elements == tuple(range(300, 332))
    assert third.units == tuple(4 * element // 32 for element in range(300, 332))
    assert (third.actual, third.ideal) == (5, 4)
    line = next(each for each in profile.lines if (each.space, each.kind) == ("global", "load"))
    assert line.actual == sum(each.actual for each in loads)


def test_banks(module):
    _, block = watched(module, "transpose", floats(1024), floats(1024), np.int32(32), block=(32, 32))
    store, load = ([each for each in block.accesses if (each.space, each.kind) == ("shared", kind)][5]
                   for kind in ("store", "load"))  # fmt: skip
    assert store.units == tuple(range(32)) and store.actual == 1
    assert load.units == (5,) * 32 and load.actual == 32
    assert load.arrays == ("tile",) * 32 and load.elements == tuple(32 * lane + 5 for lane in range(32))


def test_a_part_of_the_lanes_first_and_others_later(module):
    _, block = watched(module, "some", floats(128), floats(640), block=(48,), grid=(10,), watch=7)
    store = [each for each in block.accesses if each.kind == "store"]
    assert [each.warp for each in store] == [0, 1]
    assert store[0].elements[0] == 7 * 64
    assert store[0].ever == tuple(lane for lane in range(32) if lane % 4 != 3)
    assert store[1].ever == tuple(lane for lane in range(16) if lane % 4 != 3)
    assert set(store[0].lanes) <= set(store[0].ever)


def test_only_the_first_launch_is_kept(module):
    profile, once = watched(module, "some", floats(128), floats(64), block=(32,), launches=1)
    again_profile, again = watched(module, "some", floats(128), floats(64), block=(32,), launches=3)
    assert again.accesses == once.accesses
    assert again_profile.total("global").actual == 3 * profile.total("global").actual


def test_a_block_that_the_launch_does_not_have_has_no_accesses(module):
    _, block = watched(module, "some", floats(128), floats(64), block=(32,), watch=1)
    assert block.accesses == []


def test_nothing_is_kept_unless_it_is_wanted(module):
    with configured(mode="profile") as profile:
        module.get_function("some")((1,), (32,), (floats(128), floats(64)))
    assert profile.blocks == {}
