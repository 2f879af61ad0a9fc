"""Programs in the style of NVIDIA's samples: wmma, inline PTX, asynchronous copies, cooperative groups, constant memory,
and the limits of a launch.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.simulator import (
    CompileError,
    RawModule,
    SimulatorError,
    compiler_available,
    configured,
    toolchain,
)
from minillm.kernels.simulator.ptx import unknown_instruction, with_ptx_as_cpp

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")
HERE = Path(__file__).parent / "cuda_samples"
F = np.float32
TILES = ("transpose", "scan", "histogram", "convolve")
GROUPS = ("sum_of_grid", "count", "largest_of_64", "reverse", "by_stages", "by_roles")
BY_MMA = ("by_wmma", "by_mma")


def module_of(file, names, options=(), **how):
    return RawModule(path=HERE / file, name_expressions=names, options=options, **how)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("mode", ["run", "check"])
def test_a_tutorials_program(mode, rng):
    module = module_of("tiles.cu", TILES, mode=mode)
    x, y = rng.standard_normal((20, 35)).astype(F), np.zeros((35, 20), F)
    module.get_function("transpose")((3, 2), (16, 16), (x, y, np.int32(20), np.int32(35)))
    assert (y == x.T).all()
    counts, sums = rng.integers(0, 9, 100).astype(np.int32), np.zeros(100, np.int32)
    module.get_function("scan")((1,), (128,), (counts, sums, np.int32(100)))
    assert (sums == counts.cumsum()).all()
    letters, bins = rng.integers(0, 256, 2000).astype(np.uint8), np.zeros(256, np.uint32)
    module.get_function("histogram")((3,), (64,), (letters, bins, np.int32(2000)))
    assert (bins == np.bincount(letters, minlength=256)).all()
    weights = module.get_global("weights").view(F)
    weights[:] = rng.standard_normal(7)
    signal, smooth = rng.standard_normal(200).astype(F), np.zeros(200, F)
    module.get_function("convolve")((4,), (64,), (signal, smooth, np.int32(200)), shared_mem=70 * 4)
    np.testing.assert_allclose(smooth, np.convolve(signal, weights[::-1].astype(float), "same"), atol=1e-5)


@pytest.mark.parametrize("mode", ["run", "check", "profile"])
def test_tensor_cores(mode, rng):
    module = module_of("tensor_cores.cu", BY_MMA, ("-DMISSING_WAIT=1",), mode=mode)
    a, b = (rng.standard_normal((32, 32)).astype(np.float16) for _ in range(2))
    expected = a.astype(float) @ b
    for name, factor, grid in (("by_wmma", b, (2, 2)), ("by_mma", np.ascontiguousarray(b.T), (4, 2))):
        c = np.zeros((32, 32), F)
        module.get_function(name)(grid, (32,), (a, factor, c, np.int32(32), np.int32(32)))
        np.testing.assert_allclose(c, expected, atol=1e-4)
    if mode == "profile":  # 2 blocks read each row of A by wmma, 4 by mma; B the other way round; C is written once
        line = {each.number: each for each in module.profile.lines if each.kernel == "by_wmma"}
        assert line[18].actual == line[18].ideal == 2 * 32 * 32 * 2 // 32


def test_an_asynchronous_copy_that_is_not_waited_for(rng):
    module = module_of("tensor_cores.cu", BY_MMA, ("-DMISSING_WAIT=2",), mode="check")
    a = rng.standard_normal((32, 32)).astype(np.float16)
    with pytest.raises(SimulatorError, match=r"tensor_cores.cu:44: .*an asynchronous copy is still to write"):
        module.get_function("by_mma")((4, 2), (32,), (a, a, np.zeros((32, 32), F), np.int32(32), np.int32(32)))


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
@pytest.mark.parametrize("mode", ["run", "check"])
def test_cooperative_groups(mode, order, rng):
    module = module_of("groups.cu", GROUPS, mode=mode, enable_cooperative_groups=True)
    with configured(order=order):
        x, parts = rng.standard_normal(3000).astype(F), np.zeros(4)
        module.get_function("sum_of_grid")((4,), (96,), (x, parts, np.int32(3000)))
        assert abs(parts[0] - x.sum(dtype=float)) < 1e-9
        label, counts = rng.integers(0, 5, 200).astype(np.int32), np.zeros(5, np.int32)
        module.get_function("count")((2,), (128,), (label, counts, np.int32(200)))
        assert (counts == np.bincount(label, minlength=5)).all()
        numbers, largest = rng.integers(0, 999, 128).astype(np.int32), np.zeros(2, np.int32)
        module.get_function("largest_of_64")((1,), (128,), (numbers, largest))
        assert (largest == numbers.reshape(2, 64).max(1)).all()
        y = np.zeros(100, F)
        module.get_function("reverse")((1,), (64,), (x[:100].copy(), y, np.int32(100)), shared_mem=400)
        assert (y == x[99::-1]).all()
        y = np.zeros(64, F)
        module.get_function("by_stages")((1,), (64,), (x[:256].copy(), y))
        np.testing.assert_allclose(y, x[:256].reshape(4, 64).sum(0)[::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_a_pipeline_with_producers_and_consumers(order, rng):
    code, x, y = (HERE / "groups.cu").read_text(encoding="utf-8"), rng.standard_normal(256).astype(F), np.zeros(32, F)

    def launch(code, mode):
        module = RawModule(code=code, name_expressions=("by_roles",), mode=mode)
        with configured(order=order):
            module.get_function("by_roles")((1,), (64,), (x, y, np.int32(8)))

    for mode in ("run", "check"):
        launch(code, mode)
        np.testing.assert_allclose(y, x.reshape(8, 32).sum(0)[::-1], rtol=1e-5, atol=1e-5)
    for missing, line, found in (
        ("consumer_release", 89, "deadlock: it waits in a loop for a value that no thread writes"),
        ("producer_commit", 93, "deadlock: it waits in a loop for a value that no thread writes"),
        ("consumer_wait", 94, "shared memory|data race"),
    ):
        before, _, after = code.rpartition(f"pipe.{missing}();")
        with pytest.raises(SimulatorError, match=rf"kernel.cu:{line}: .*({found})"):
            launch(before + after, "check")


def test_a_barrier_of_the_grid(rng):
    x, parts = rng.standard_normal(300).astype(F), np.zeros(2)
    plain = module_of("groups.cu", GROUPS).get_function("sum_of_grid")
    with pytest.raises(SimulatorError, match=r"groups.cu:26: .*enable_cooperative_groups=True"):
        plain((2,), (32,), (x, parts, np.int32(300)))
    code = (HERE / "groups.cu").read_text(encoding="utf-8")
    missing = RawModule(
        code=code.replace("    grid.sync();", "    block.sync();"),
        name_expressions=("sum_of_grid",),
        mode="check",
        enable_cooperative_groups=True,
    )
    with pytest.raises(SimulatorError, match=r"kernel.cu:23: .*data race: .* \(kernel.cu:28"):
        missing.get_function("sum_of_grid")((2,), (32,), (x, parts, np.int32(300)))
    early = RawModule(
        code=code.replace("    grid.sync();", "    if (blockIdx.x) return;\n    grid.sync();"),
        name_expressions=("sum_of_grid",),
        enable_cooperative_groups=True,
    )
    with pytest.raises(SimulatorError, match="kernel.cu:27: .*deadlock: it waits for the whole grid"):
        early.get_function("sum_of_grid")((2,), (32,), (x, parts, np.int32(300)))
    with pytest.raises(ValueError, match="room for 16384"):
        module_of("groups.cu", GROUPS, enable_cooperative_groups=True).get_function("sum_of_grid")(
            (1000,), (32,), (x, parts, np.int32(300))
        )


def test_limits_of_a_launch():
    code = """
namespace my {
template <int kBlock, class T = float> __global__ void __launch_bounds__(kBlock * 2, 1) scale(T* x) {
    __shared__ T most[10000];
    most[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = 2 * most[threadIdx.x];
}
}
extern "C" __global__ void plain(float* x) {
    extern __shared__ float s[];
    s[threadIdx.x] = 1;
    x[threadIdx.x] = s[threadIdx.x];
}
"""
    module, x = RawModule(code=code, name_expressions=("my::scale<32>",)), np.ones(64, F)
    scale, plain = module.get_function("my::scale<32>"), module.get_function("plain")
    scale((1,), (64,), (x,))
    assert (x == 2).all()
    with pytest.raises(ValueError, match="a block of 65 threads, and its __launch_bounds__ say 64 at most"):
        scale((1,), (65,), (x,))
    with pytest.raises(ValueError, match="10000 bytes of dynamic shared memory are more than 9152"):
        scale((1,), (64,), (x,), shared_mem=10000)
    with pytest.raises(ValueError, match="beyond CUDA's limit of 1024"):
        plain((1,), (33, 32), (x,))
    with pytest.raises(ValueError, match="set max_dynamic_shared_size_bytes before the launch"):
        plain((1,), (64,), (x,), shared_mem=50000)
    plain.max_dynamic_shared_size_bytes = 50000
    plain((1,), (64,), (x,), shared_mem=50000)
    much = code.replace("10000", "12289").replace("extern", "extern")
    with pytest.raises(CompileError, match="scale has 49156 bytes of static shared memory, and a GPU grants 49152"):
        RawModule(code=much, name_expressions=("my::scale<32>",)).library("run")


PTX = r"""
#define GUARDED(to, value, condition) \
    asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %2, 0;\n" \
                 " @p st.global.u32 [%0], %1;\n}\n" ::"l"(to), "r"(value), "r"(condition) : "memory")
extern "C" __global__ void ptx(unsigned* y, float* f, unsigned a, unsigned b, float x) {
    unsigned r[8];
    asm("mov.u32 %0, %%laneid;" : "=r"(r[0]));
    asm("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(r[1]) : "r"(a), "r"(b), "r"(0xff00ff00u));
    asm("{ .reg .u64 wide; mul.wide.u32 wide, %1, %2; shr.u64 wide, wide, 32; cvt.u32.u64 %0, wide; }"
        : "=r"(r[2]) : "r"(a), "r"(b));
    asm("bfe.u32 %0, %1, 4, 8; \n bfi.b32 %2, %1, 0, 8, 8;" : "=r"(r[3]), "+r"(a), "=r"(r[4]));
    asm("prmt.b32 %[d], %[x], 0, 0x0123;" : [d] "=r"(r[5]) : [x] "r"(b));
    asm volatile("atom.global.add.u32 %0, [%1 + 4], %2;" : "=r"(r[6]) : "l"(y + 8), "r"(5u));
    asm volatile("shfl.sync.down.b32 %0, %1, 1, 0x1f, 0xffffffff;" : "=r"(r[7]) : "r"(r[0]));
    if (threadIdx.x == 3)
        for (int i = 0; i < 8; ++i) GUARDED(y + i, r[i], i != 6);
    float e, h;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x));
    asm("fma.rn.f32 %0, %1, 0f40000000, %2;" : "=f"(h) : "f"(x), "f"(1.0f));
    if (threadIdx.x == 0) f[0] = e, f[1] = h;
}
"""


def test_inline_ptx():
    y, f = np.zeros(10, np.uint32), np.zeros(2, F)
    a, b = 0x12345678, 0x9ABCDEF0
    with configured(mode="check"):
        RawModule(code=PTX).get_function("ptx")((1,), (32,), (y, f, np.uint32(a), np.uint32(b), F(1.5)))
    c = 0xFF00FF00
    middle = [(a & b) | (a & c) | (b & c), a * b >> 32, a >> 4 & 0xFF, (a & 0xFF) << 8, 0xF0DEBC9A]
    assert y[:6].tolist() == [3, *middle] and y[6] == 0 and y[7] == 4 and y[9] == 32 * 5
    np.testing.assert_allclose(f, [2**1.5, 4.0], rtol=1e-6)


def test_ptx_that_is_not_known_is_named():
    code = 'extern "C" __global__ void k(float* y) {\n    asm volatile("wgmma.fence.sync.aligned;");\n}\n'
    assert with_ptx_as_cpp(code) == code and unknown_instruction(code)[1] == "wgmma.fence.sync.aligned"
    with pytest.raises(CompileError, match="kernel.cu:2: .*wgmma.fence.sync.aligned"):
        RawModule(code=code).library("run")


PROGRAM = """
import numpy as np
from minillm.kernels.simulator import RawModule, SimulatorError
code = open({file!r}).read()
x, y = np.arange(400, dtype=np.float32), np.zeros(400, np.float32)
for mode in ("run", "check", "profile"):
    for source in (code, code.replace("    cg::wait(block);", "")):
        kernel = RawModule(code=source, name_expressions=("reverse",), mode=mode).get_function("reverse")
        try:
            kernel((1,), (64,), (x, y, np.int32(400)), shared_mem=1600)
            print(mode, (y == x[::-1]).all())
        except SimulatorError as error:
            print(mode, str(error).splitlines()[0])
"""


@pytest.mark.skipif(not shutil.which("clang++"), reason="no clang++ (apt install clang)")
def test_clang_in_the_place_of_gcc():
    program = PROGRAM.format(file=str(HERE / "groups.cu"))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "CXX": "clang++"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[:3] == ["run True", "run False", "check True"] and told[-2:] == ["profile True", "profile False"]
    assert "kernel.cu:51: reverse" in told[3] and "shared memory" in told[3]


def test_another_system_is_named(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    toolchain.toolchain.cache_clear()
    assert not compiler_available()
    with pytest.raises(UserError, match="on Linux only"):
        RawModule(code=PTX).library("run")
