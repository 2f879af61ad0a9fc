"""Kernels of NVIDIA's cuda-samples, from the files as they are: they run in check mode without a report, and give what
NumPy gives. The files are not part of this project: MINILLM_CUDA_SAMPLES names a checkout of
https://github.com/NVIDIA/cuda-samples.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from minillm.kernels.simulator import RawModule, SimulatorError, compiler_available, configured

FOLDER = os.environ.get("MINILLM_CUDA_SAMPLES", "")
pytestmark = [
    pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)"),
    pytest.mark.skipif(not FOLDER, reason="MINILLM_CUDA_SAMPLES names no checkout of NVIDIA/cuda-samples"),
]
RNG = np.random.default_rng(5)
F = np.float32


def kernel_of(file, name, options=(), **how):
    path = Path(FOLDER) / "Samples" / file
    module = RawModule(path=path, name_expressions=(name,), options=(f"-I{FOLDER}/Common", *options), **how)
    return module.get_function(name)


def normal(*shape):
    return RNG.standard_normal(shape).astype(F)


def vector_add():
    a, b, c = normal(1000), normal(1000), np.zeros(1000, F)
    kernel_of("0_Introduction/vectorAdd/vectorAdd.cu", "vectorAdd")((4,), (256,), (a, b, c, np.int32(1000)))
    assert (c == a + b).all()


def matrix_product(name="MatrixMulCUDA<16>", file="0_Introduction/matrixMul/matrixMul.cu", block=(16, 16)):
    a, b, c = normal(64, 64), np.full((64, 64), 0.5, F), np.zeros((64, 64), F)
    if "Large" in name:  # they read B where A's index is: the sample's own matrices are constant
        a[:] = 0.25
    elif "Async" not in name:
        b = normal(64, 64)
    kernel_of(file, name)((4, 4), block, (c, a, b, np.int32(64), np.int32(64)))
    np.testing.assert_allclose(c, a.astype(float) @ b, atol=1e-4)


def asynchronous_products():
    file = "3_CUDA_Features/globalToShmemAsyncCopy/globalToShmemAsyncCopy.cu"
    for form in ("MultiStageLargeChunk", "LargeChunk", "SingleStage", "MultiStage"):
        matrix_product(f"MatrixMulAsyncCopy{form}<16>", file)
    matrix_product("MatrixMulAsyncCopyMultiStageSharedState<16>", file, (16, 20))  # with four rows of producers
    with pytest.raises(SimulatorError, match=r"globalToShmemAsyncCopy.cu:278: .*data race: two threads write"):
        matrix_product("MatrixMulAsyncCopyLargeChunkAWBarrier<16>", file)  # 16 threads initialise its barrier


def reductions():
    x = RNG.integers(0, 100, 1024).astype(np.int32)
    file = "2_Concepts_and_Techniques/reduction/reduction_kernel.cu"
    names = [f"reduce{n}<int>" for n in (0, 1, 2, 3)] + ["reduce4<int, 128>", "reduce5<int, 128>"]
    names += [
        "reduce6<int, 128, true>",
        "reduce7<int, 128, true>",
        "cg_reduce<int>",
        "multi_warp_cg_reduce<int, 128, 64>",
    ]
    for name in names:
        y = np.zeros(8, np.int32)
        blocks = 8 if name[6] in "012" and name[:6] == "reduce" else 4
        kernel_of(file, name)((blocks,), (128,), (x, y, np.uint32(1024)), shared_mem=2048)
        assert y.sum() == x.sum(), name


def transposes():
    x = normal(64, 64)
    for name in ("transposeNaive", "transposeCoalesced", "transposeNoBankConflicts", "transposeDiagonal"):
        y = np.zeros((64, 64), F)
        file = "6_Performance/transpose/transpose.cu"
        kernel_of(file, name)((2, 2), (32, 16), (y, x, np.int32(64), np.int32(64)))
        assert (y == x.T).all(), name


def scan():
    x, y = RNG.integers(0, 9, 1024).astype(np.uint32), np.zeros(1024, np.uint32)
    kernel_of("2_Concepts_and_Techniques/scan/scan.cu", "scanExclusiveShared")((1,), (256,), (y, x, np.uint32(1024)))
    assert (y == np.cumsum(x) - x).all()


def scan_by_shuffles():
    x = RNG.integers(0, 9, 512).astype(np.int32)
    y, sums = x.copy(), np.zeros(2, np.int32)
    file = "2_Concepts_and_Techniques/shfl_scan/shfl_scan.cu"
    kernel_of(file, "shfl_scan_test")((2,), (256,), (y, np.int32(32), sums), shared_mem=32)
    assert (y.reshape(2, 256) == x.reshape(2, 256).cumsum(1)).all() and (sums == x.reshape(2, 256).sum(1)).all()


def histogram():
    x, parts, y = RNG.integers(0, 2**32, 1500, np.uint32), np.zeros(4 * 256, np.uint32), np.zeros(256, np.uint32)
    file = "2_Concepts_and_Techniques/histogram/histogram256.cu"
    kernel_of(file, "histogram256Kernel")((4,), (192,), (parts, x, np.uint32(1500)))
    kernel_of(file, "mergeHistogram256Kernel")((256,), (256,), (y, parts, np.uint32(4)))
    assert (y == np.bincount(x.view(np.uint8), minlength=256)).all()


def sorting_network():
    key, value = RNG.permutation(1024).astype(np.uint32), np.arange(1024, dtype=np.uint32)
    keys, values = np.zeros_like(key), np.zeros_like(value)
    file = "2_Concepts_and_Techniques/sortingNetworks/bitonicSort.cu"
    arguments = (keys, values, key, value, np.uint32(1024), np.uint32(1))
    kernel_of(file, "bitonicSortShared")((1,), (512,), arguments)
    assert (keys == np.arange(1024)).all() and (key[values] == keys).all()


def convolution():
    x, y, weights = normal(4, 256), np.zeros((4, 256), F), normal(17)
    file = "2_Concepts_and_Techniques/convolutionSeparable/convolutionSeparable.cu"
    kernel = kernel_of(file, "convolutionRowsKernel")
    kernel.module.get_global("c_Kernel").view(F)[:] = weights
    kernel((2, 1), (16, 4), (y, x, *map(np.int32, (256, 4, 256))))
    expected = [np.convolve(row, weights.astype(float), "same") for row in x]
    np.testing.assert_allclose(y, expected, atol=1e-4)


def whole_grid():
    x, y = normal(5000), np.zeros(8, F)
    file = "2_Concepts_and_Techniques/reductionMultiBlockCG/reductionMultiBlockCG.cu"
    kernel = RawModule(
        path=Path(FOLDER) / "Samples" / file, options=(f"-I{FOLDER}/Common",), enable_cooperative_groups=True
    ).get_function("reduceSinglePassMultiBlockCG")
    kernel((8,), (128,), (x, y, np.uint32(5000)), shared_mem=1024)
    assert abs(y[0] - x.sum(dtype=float)) < 1e-3


def arrive_and_wait():
    a, b = normal(2000), normal(2000)
    before, parts = (a.copy(), b.copy()), np.zeros(4)
    file = "0_Introduction/simpleAWBarrier/simpleAWBarrier.cu"
    kernel = kernel_of(file, "normVecByDotProductAWBarrier", enable_cooperative_groups=True)
    kernel((4,), (128,), (a, b, parts, np.int32(2000)), shared_mem=4 * 8)
    norm = np.sqrt(abs((before[0] * before[1]).sum(dtype=float)))
    assert abs(abs(parts[0]) - norm) < 1e-3 or np.isnan(parts[0])


def partition():
    x, odd, sums = RNG.integers(0, 50, 1000).astype(np.int32), np.zeros(1, np.int32), np.zeros(2, np.int32)
    file = "3_CUDA_Features/binaryPartitionCG/binaryPartitionCG.cu"
    kernel_of(file, "oddEvenCountAndSumCG")((2,), (128,), (x[:768].copy(), odd, sums, np.uint32(768)))
    x = x[:768]
    assert odd[0] == (x % 2).sum() and sums.tolist() == [x[x % 2 == 1].sum(), x[x % 2 == 0].sum()]


def aggregated_atomics():
    file = "3_CUDA_Features/warpAggregatedAtomicsCG/warpAggregatedAtomicsCG.cu"
    x, kept, count = RNG.integers(-5, 5, 1000).astype(np.int32), np.zeros(1000, np.int32), np.zeros(1, np.int32)
    kernel_of(file, "filter_arr")((2,), (128,), (kept, count, x, np.int32(1000)))
    assert sorted(kept[: count[0]]) == sorted(x[x > 0])
    x, places, counts = (
        RNG.integers(0, 5, 512).astype(np.int32),
        np.full(5 * 512, -1, np.int32),
        np.arange(5, dtype=np.int32) * 512,
    )
    kernel_of(file, "mapToBuckets")((2,), (128,), (x, places, counts, np.int32(512), np.int32(5)))
    assert (counts - np.arange(5) * 512 == np.bincount(x, minlength=5)).all()


def tensor_cores():
    a, b, c = normal(64, 32), normal(16, 32), normal(64, 16)
    halves = (a.astype(np.float16), b.astype(np.float16))
    sizes = (*map(np.int32, (64, 16, 32)), F(1.5), F(0.5))
    d = np.zeros_like(c)
    file = "3_CUDA_Features/cudaTensorCoreGemm/cudaTensorCoreGemm.cu"
    kernel_of(file, "simple_wmma_gemm")((1, 1), (128, 1), (*halves, c, d, *sizes))
    expected = 1.5 * halves[0].astype(float) @ halves[1].T.astype(float) + 0.5 * c
    np.testing.assert_allclose(d, expected, atol=1e-3)
    file = "3_CUDA_Features/tf32TensorCoreGemm/tf32TensorCoreGemm.cu"
    kernel_of(file, "simple_wmma_tf32gemm")((1, 1), (128, 1), (a, b, c, d, *sizes))
    np.testing.assert_allclose(d, 1.5 * a.astype(float) @ b.T + 0.5 * c, atol=3e-2)
    # a depth of 16: in a deeper product this sample takes B's rows for its columns
    bits = [(np.ascontiguousarray(each[:, :16]).view(np.uint32) >> 16).astype(np.uint16) for each in (a, b)]
    sizes = (*map(np.int32, (64, 16, 16)), F(1.5), F(0.5))
    file = "3_CUDA_Features/bf16TensorCoreGemm/bf16TensorCoreGemm.cu"
    kernel_of(file, "simple_wmma_bf16gemm")((1, 1), (128, 1), (*bits, c, d, *sizes))
    a, b = ((each.astype(np.uint32) << 16).view(F).astype(float) for each in bits)
    np.testing.assert_allclose(d, 1.5 * a @ b.T + 0.5 * c, atol=1e-3)


def inline_ptx():
    y = np.zeros(80, np.int32)
    file = "2_Concepts_and_Techniques/inlinePTX/inlinePTX.cu"
    kernel_of(file, "sequence_gpu")((1,), (80,), (y, np.int32(80)))
    assert (y == np.arange(80) % 32).all()


def votes():
    x, y = (np.arange(64) == 40).astype(np.uint32), np.zeros(64, np.uint32)
    file = "0_Introduction/simpleVoteIntrinsics/simpleVote_kernel.cuh"
    kernel_of(file, "VoteAnyKernel1")((1,), (64,), (x, y, np.int32(64)))
    assert (y == np.repeat([0, 1], 32)).all()


def walsh_transform():
    x, y = normal(256), np.zeros(256, F)
    file = "5_Domain_Specific/fastWalshTransform/fastWalshTransform_kernel.cuh"
    kernel_of(file, "fwtBatch1Kernel")((1,), (64,), (y, x, np.int32(8)), shared_mem=1024)
    signs = np.array([[(-1) ** bin(i & j).count("1") for j in range(256)] for i in range(256)])
    np.testing.assert_allclose(y, signs @ x.astype(float), atol=1e-3)


def options_priced():
    price, strike, years = (RNG.uniform(1, 30, 256).astype(F) for _ in range(3))
    call, put = np.zeros(256, F), np.zeros(256, F)
    kernel = kernel_of("5_Domain_Specific/BlackScholes/BlackScholes_kernel.cuh", "BlackScholesGPU")
    pairs = [each.view(np.dtype(F)) for each in (call, put, price, strike, years)]
    kernel((1,), (128,), (*pairs, F(0.02), F(0.3), np.int32(256)))
    parity = price - strike * np.exp(-0.02 * years.astype(float))  # of a call and a put
    np.testing.assert_allclose(call.astype(float) - put, parity, atol=1e-3)


def block_in_one_pass():
    x, y = normal(4096), np.zeros(8, F)
    file = "2_Concepts_and_Techniques/threadFenceReduction/threadFenceReduction_kernel.cuh"
    kernel_of(file, "reduceSinglePass<128, true>")((8,), (128,), (x, y, np.uint32(4096)), shared_mem=1024)
    assert abs(y[0] - x.sum(dtype=float)) < 1e-3


SAMPLES = (
    vector_add, matrix_product, asynchronous_products, reductions, transposes, scan, scan_by_shuffles, histogram,
    sorting_network, convolution, whole_grid, arrive_and_wait, partition, aggregated_atomics, tensor_cores, inline_ptx,
    votes, walsh_transform, options_priced, block_in_one_pass,
)  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.__name__)
def test_a_sample_runs_as_it_is(sample):
    with configured(mode="check"):
        sample()
