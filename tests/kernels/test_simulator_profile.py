"""Profile mode: the sectors and wavefronts of accesses whose figures can be counted by hand."""

import numpy as np
import pytest

from minillm.kernels.simulator import RawModule, configured

CODE = """
__global__ void global_reads(const float* x, float* y, int stride, int offset) {
    float value = x[threadIdx.x * stride + offset];
    y[threadIdx.x] = value;
}

__global__ void shared_reads(float* y, int stride) {
    __shared__ float tile[1024];
    for (int i = threadIdx.x; i < 1024; i += 32) tile[i] = i;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x * stride % 1024];
}

__global__ void shared_vectors(float4* y, int rows) {
    __shared__ float4 tile[32];
    tile[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x % rows];
}

__global__ void uneven_loops(const float* x, float* y) {
    float sum = 0;
    for (int i = 0; i <= threadIdx.x % 2; ++i) sum += x[32 * i + threadIdx.x];
    y[threadIdx.x] = __shfl_sync(0xffffffffu, sum, 0);
}

__global__ void adds(float* y) {
    atomicAdd(&y[0], 1.0f);
}
"""


@pytest.fixture(scope="module")
def module():
    from kernel_testing import needs_compiler

    needs_compiler()
    names = ("global_reads", "shared_reads", "shared_vectors", "uneven_loops", "adds")
    return RawModule(code=CODE, name_expressions=names)


def profile(module, name, *arguments, block=(32,), grid=(1,)):
    with configured(mode="profile") as found:
        module.get_function(name)(grid, block, arguments)
    return found


def line(found, space, kind, text=None):
    lines = [each for each in found.lines if (each.space, each.kind) == (space, kind)]
    if text:
        lines = [each for each in lines if text in CODE.splitlines()[each.number - 1]]
    (only,) = lines
    return only


def floats(count):
    return np.zeros(count, np.float32)


@pytest.mark.parametrize(
    "stride, offset, sectors, ideal",
    [(1, 0, 4, 4), (1, 1, 5, 4), (2, 0, 8, 4), (8, 0, 32, 4), (100, 0, 32, 4), (0, 7, 1, 1)],
)
def test_global_sectors(module, stride, offset, sectors, ideal):
    found = profile(module, "global_reads", floats(4000), floats(32), np.int32(stride), np.int32(offset))
    load = line(found, "global", "load")
    assert (load.instructions, load.actual, load.ideal) == (1, sectors, ideal)
    assert load.bytes == (128 if stride else 4)
    store = line(found, "global", "store")
    assert (store.actual, store.ideal) == (4, 4)


@pytest.mark.parametrize("stride, wavefronts", [(1, 1), (2, 2), (3, 1), (4, 4), (32, 32), (33, 1), (0, 1)])
def test_shared_wavefronts(module, stride, wavefronts):
    found = profile(module, "shared_reads", floats(32), np.int32(stride))
    load = line(found, "shared", "load", "% 1024")
    assert (load.actual, load.ideal) == (wavefronts, 1)
    assert line(found, "shared", "store").actual == 32


def test_vectors_are_served_by_quarter_warps(module):
    load = line(profile(module, "shared_vectors", floats((32, 4)), np.int32(32)), "shared", "load", "% rows")
    assert (load.bytes, load.actual, load.ideal) == (512, 4, 4)
    load = line(profile(module, "shared_vectors", floats((32, 4)), np.int32(2)), "shared", "load", "% rows")
    assert (load.bytes, load.actual, load.ideal) == (32, 1, 1)


def test_lanes_that_go_round_a_loop_again_are_an_instruction_of_their_own(module):
    load = line(profile(module, "uneven_loops", floats(64), floats(32)), "global", "load")
    assert (load.instructions, load.bytes, load.actual) == (2, 128 + 64, 4 + 4)


def test_atomics_are_distinguished(module):
    found = line(profile(module, "adds", floats(1), block=(64,), grid=(3,)), "global", "atomic")
    assert (found.instructions, found.actual, found.ideal) == (6, 6, 6)


def test_launches_add_up_and_results_are_right(module):
    x, y = np.arange(64, dtype=np.float32), floats(32)
    with configured(mode="profile") as found:
        for _ in range(3):
            module.get_function("global_reads")((1,), (32,), (x, y, np.int32(2), np.int32(0)))
    assert (y == x[::2]).all()
    assert line(found, "global", "load").actual == 3 * 8
    assert found.total("global").actual == 3 * (8 + 4)


def test_a_module_made_for_profiling_keeps_the_sum():
    module = RawModule(code=CODE, name_expressions=("adds",), mode="profile")
    module.get_function("adds")((1,), (32,), (floats(1),))
    assert module.profile.total("global").actual == 1


def test_the_source_is_printed_with_its_figures(module):
    text = profile(module, "global_reads", floats(4000), floats(32), np.int32(100), np.int32(0)).annotated()
    assert text.splitlines()[0] == "global_reads (kernel.cu)"
    assert (
        "    3      float value = x[threadIdx.x * stride + offset];\n!            global: 32 sectors, ideal 4\n" in text
    )
    assert "global memory: 36 sectors (1,152 bytes), 4.50 times the ideal" in text


def test_the_text_fits_and_names_each_kernel(module):
    with configured(mode="profile") as found:
        module.get_function("adds")((1,), (32,), (floats(1),))
        module.get_function("shared_vectors")((1,), (32,), (floats((32, 4)), np.int32(32)))
    text = found.annotated(width=40)
    assert "adds (kernel.cu)\n" in text and "shared_vectors (kernel.cu)\n" in text
    assert "   18      y[threadIdx.x] =\n               tile[threadIdx.x % rows];\n" in text
    assert f"{'adds':<38} {32:>12} {'1.00':>8} {0:>10} {'n/a':>8}" in text


def test_our_flash_attention_has_no_bank_conflict_and_reads_whole_sectors(simulator):
    from minillm.backend.arrays import to_device
    from minillm.kernels.attention import flash

    q = to_device(np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32), "cudasim")
    with configured(mode="profile") as found:
        y, saved = flash.attention_forward(q, q, q)
        flash.attention_backward(y, saved)
    for space in ("global", "shared"):
        total = found.total(space)
        assert total.actual == total.ideal > 0
