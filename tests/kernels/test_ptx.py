"""Each instruction of inline PTX that the simulator knows, against what the PTX ISA says of it."""

import struct

import numpy as np
import pytest

from minillm.kernels.simulator import CompileError, RawModule, compiler_available, configured
from minillm.kernels.simulator.ptx_instructions import KNOWN

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")
LANE = 5  # whose results are looked at
TYPES = {"r": "unsigned", "l": "unsigned long long", "f": "float", "d": "double", "h": "unsigned short"}
HALF = 0x3E00  # 1.5
# Instructions, the result's constraint, the operands' constraints and values, the result. Of each lane t is the number; g
# and s are four words of its own in global and shared memory: 7, 8, 9, 10. "|" divides what is done from what is read then.
TABLE = [
    ("add.s32 %0, %1, %2;", "r", "r 5, r -7", -2),
    ("add.u64 %0, %1, %2;", "l", "l 1ull << 40, l 3", 2**40 + 3),
    ("add.f32 %0, %1, %2;", "f", "f 1.5f, f 2", 3.5),
    ("add.rn.f64 %0, %1, 0d4000000000000000;", "d", "d 0.25", 2.25),
    ("add.f16 %0, %1, %1;", "h", f"h {HALF}", 0x4200),
    ("sub.u32 %0, %1, %2;", "r", "r 1, r 2", -1),
    ("mul.lo.u32 %0, %1, %2;", "r", "r 1u << 31, r 3", 2**31),
    ("mul.hi.s32 %0, %1, %2;", "r", "r -2, r 1", -1),
    ("mul.hi.u32 %0, %1, %2;", "r", "r -2, r 2", 1),
    ("mul.wide.s32 %0, %1, %2;", "l", "r -2, r 3", -6),
    ("mul.wide.u16 %0, %1, %2;", "r", "h 65535, h 2", 131070),
    ("mul.f64 %0, %1, %2;", "d", "d 1.5, d 3", 4.5),
    ("mad.lo.s32 %0, %1, %2, %3;", "r", "r -2, r 3, r 1", -5),
    ("mad.wide.u32 %0, %1, %1, %2;", "l", "r -1, l 1", (2**32 - 1) ** 2 + 1),
    ("mad.hi.u32 %0, %1, %1, 5;", "r", "r 1u << 31", 2**30 + 5),
    ("fma.rn.f32 %0, %1, %2, %3;", "f", "f 1.00000012f, f 1.00000012f, f -1", 2.3841858720768255e-07),
    ("div.s32 %0, %1, %2;", "r", "r -7, r 2", -3),
    ("div.full.f32 %0, %1, %2;", "f", "f 7, f 2", 3.5),
    ("rem.s32 %0, %1, %2;", "r", "r -7, r 2", -1),
    ("and.b32 %0, %1, %2;", "r", "r 12, r 10", 8),
    ("or.b64 %0, %1, %2;", "l", "l 1ull << 40, l 1", 2**40 + 1),
    ("xor.b32 %0, %1, %2;", "r", "r 12, r 10", 6),
    ("{ .reg .pred a, b; setp.lt.s32 a, %1, 0; not.pred b, a; selp.u32 %0, 3, 4, b; }", "r", "r 1", 3),
    ("not.b32 %0, %1;", "r", "r 5", -6),
    ("neg.s32 %0, %1;", "r", "r 5", -5),
    ("neg.f32 %0, %1;", "f", "f 0", -0.0),
    ("abs.s32 %0, %1;", "r", "r -5", 5),
    ("abs.f32 %0, %1;", "f", "f -0.0f", 0.0),
    ("min.s32 %0, %1, %2;", "r", "r -1, r 1", -1),
    ("min.u32 %0, %1, %2;", "r", "r -1, r 1", 1),
    ("max.f32 %0, %1, %2;", "f", "f -1, f 2.5f", 2.5),
    ("set.lt.u32.s32 %0, %1, %2;", "r", "r -1, r 1", -1),
    ("set.gt.f32.f32 %0, %1, %2;", "f", "f 2, f 1", 1.0),
    ("{ .reg .pred p, q; setp.ne.u32 p, %1, 1; setp.gt.or.s32 q, %1, 0, p; selp.b32 %0, 3, 4, q; }", "r", "r 1", 3),
    ("{ .reg .pred p; setp.hi.u32 p, %1, 1; selp.b32 %0, 3, 4, p; }", "r", "r -1", 3),
    ("{ .reg .pred p; setp.ltu.f32 p, %1, %1; selp.b32 %0, 3, 4, p; }", "r", "f __int_as_float(0x7fffffff)", 3),
    ("{ .reg .pred p; setp.ne.f32 p, %1, %1; selp.b32 %0, 3, 4, p; }", "r", "f __int_as_float(0x7fffffff)", 4),
    ("{ .reg .pred p; setp.nan.f32 p, %1, %1; selp.b32 %0, 3, 4, p; }", "r", "f __int_as_float(0x7fffffff)", 3),
    ("{ .reg .pred p; setp.eq.s32 p, %1, 5; mov.u32 %0, 1; @p mov.u32 %0, 2; @!p mov.u32 %0, 3; }", "r", "r t", 2),
    ("selp.f32 %0, %1, %2, 1;", "f", "f 2, f 3", 2.0),
    ("shl.b32 %0, %1, %2;", "r", "r 3, r 31", 2**31),
    ("shl.b32 %0, %1, %2;", "r", "r 3, r 33", 0),
    ("shr.s32 %0, %1, %2;", "r", "r -8, r 40", -1),
    ("shr.u64 %0, %1, %2;", "l", "l -1, r 60", 15),
    ("shf.l.wrap.b32 %0, %1, %2, %3;", "r", "r 0xf0000000, r 1, r 36", 0x1F),
    ("shf.r.clamp.b32 %0, %1, %2, %3;", "r", "r 1, r 0xf0, r 36", 0xF0),
    ("ex2.approx.ftz.f32 %0, %1;", "f", "f 3", 8.0),
    ("lg2.approx.f32 %0, %1;", "f", "f 8", 3.0),
    ("sqrt.rn.f64 %0, %1;", "d", "d 2.25", 1.5),
    ("rsqrt.approx.f32 %0, %1;", "f", "f 4", 0.5),
    ("sin.approx.f32 %0, %1;", "f", "f 0.5f", 0.47942553860420301),
    ("cos.approx.f32 %0, %1;", "f", "f 0.5f", 0.87758256189037276),
    ("tanh.approx.f32 %0, %1;", "f", "f 0.5f", 0.46211715726000979),
    ("rcp.rn.f32 %0, %1;", "f", "f 4", 0.25),
    ("popc.b32 %0, %1;", "r", "r 0xf1", 5),
    ("popc.b64 %0, %1;", "r", "l -1", 64),
    ("brev.b32 %0, %1;", "r", "r 1", 2**31),
    ("brev.b64 %0, %1;", "l", "l 2", 2**62),
    ("clz.b32 %0, %1;", "r", "r 0", 32),
    ("clz.b64 %0, %1;", "r", "l 1ull << 40", 23),
    ("bfind.u32 %0, %1;", "r", "r 0", -1),
    ("bfind.s32 %0, %1;", "r", "r -5", 2),
    ("bfind.shiftamt.u64 %0, %1;", "r", "l 1ull << 40", 23),
    ("lop3.b32 %0, %1, %2, %3, 0x96;", "r", "r 12, r 10, r 1", 7),
    ("prmt.b32 %0, %1, %2, 0x7210;", "r", "r 0x33221100, r 0x77665544", 0x77221100),
    ("prmt.b32 %0, %1, 0, 0xba98;", "r", "r 0x80007f80", 0xFF0000FF),
    ("bfe.u32 %0, %1, 4, 8;", "r", "r 0xabcd", 0xBC),
    ("bfe.s32 %0, %1, 4, 8;", "r", "r 0xabcd", 0xBC - 256),
    ("bfe.s64 %0, %1, 60, 8;", "l", "l -1", -1),
    ("bfi.b32 %0, %1, %2, 8, 8;", "r", "r 0xab, r -1", 0xFFFFABFF),
    ("dp4a.s32.s32 %0, %1, %2, %3;", "r", "r 0x010203ff, r 0x01010102, r 10", 14),
    ("dp4a.u32.u32 %0, %1, %2, %3;", "r", "r 0x010203ff, r 0x01010102, r 10", 526),
    ("mov.u32 %0, %%laneid;", "r", "", LANE),
    ("mov.b32 %0, %%lanemask_lt;", "r", "", 31),
    ("mov.u32 %0, %%ntid.x;", "r", "", 32),
    ("mov.b32 %0, 0f3fc00000;", "r", "", 0x3FC00000),
    ("mov.b64 %0, {%1, %2};", "l", "r 1, r 2", 2**33 + 1),
    ("{ .reg .b16 low, high; mov.b32 {low, high}, %1; mov.b32 %0, {high, low}; }", "r", "r 0x12345678", 0x56781234),
    ("cvt.rni.s32.f32 %0, %1;", "r", "f 2.5f", 2),
    ("cvt.rzi.s32.f32 %0, %1;", "r", "f -2.7f", -2),
    ("cvt.rmi.s32.f32 %0, %1;", "r", "f -2.1f", -3),
    ("cvt.rpi.s64.f64 %0, %1;", "l", "d 2.1", 3),
    ("cvt.rzi.s32.f32 %0, %1;", "r", "f 1e10f", 2**31 - 1),
    ("cvt.rzi.u32.f32 %0, %1;", "r", "f -3", 0),
    ("cvt.rzi.s32.f32 %0, %1;", "r", "f __int_as_float(0x7fffffff)", 0),
    ("cvt.s64.s32 %0, %1;", "l", "r -1", -1),
    ("cvt.u64.u32 %0, %1;", "l", "r -1", 2**32 - 1),
    ("cvt.u32.u8 %0, %1;", "r", "r 300", 44),
    ("cvt.s32.s8 %0, %1;", "r", "r 255", -1),
    ("cvt.rn.f32.s32 %0, %1;", "f", "r -3", -3.0),
    ("cvt.rn.f16.f32 %0, %1;", "h", "f 1.5f", HALF),
    ("cvt.f32.f16 %0, %1;", "f", f"h {HALF}", 1.5),
    ("cvt.rn.f16x2.f32 %0, %1, %2;", "r", "f 1.5f, f 1", HALF << 16 | 0x3C00),
    ("cvt.rn.bf16x2.f32 %0, %1, %2;", "r", "f 1.5f, f 1", 0x3FC03F80),
    ("cvt.rna.tf32.f32 %0, %1;", "r", "f 1.00048828125f", 0x3F802000),
    ("cvt.sat.f32.f32 %0, %1;", "f", "f 1.5f", 1.0),
    ("ld.global.u32 %0, [%1 + 8];", "r", "l g", 9),
    ("ld.global.nc.L1::no_allocate.v2.u32 {%0, %0}, [%1];", "r", "l g", 8),
    ("ld.volatile.shared.u32 %0, [%1+4];", "r", "r s", 8),
    ("ldu.global.u32 %0, [%1];", "r", "l g", 7),
    ("ld.acquire.gpu.u32 %0, [%1];", "r", "l g", 7),
    ("st.global.v2.u32 [%1], {%2, %3}; ld.global.u32 %0, [%1+4];", "r", "l g, r 1, r 2", 2),
    ("st.shared.u8 [%1], %2; ld.shared.u32 %0, [%1];", "r", "r s, r 0x1ff", 0xFF),
    ("{ .reg .u64 a; cvta.to.global.u64 a, %1; ld.global.u32 %0, [a]; }", "r", "l g", 7),
    ("{ .reg .u64 a; .reg .u32 b; cvta.shared.u64 a, %1; ld.u32 %0, [a]; }", "r", "l static_cast<size_t>(s)", 7),
    ("{ .reg .pred p; isspacep.shared p, %1; selp.u32 %0, 1, 0, p; }", "r", "l g", 0),
    ("atom.global.add.u32 %0, [%1], 5; ld.global.u32 %0, [%1];", "r", "l g", 12),
    ("atom.shared.cas.b32 %0, [%1], 7, 1; ld.shared.u32 %0, [%1];", "r", "r s", 1),
    ("atom.global.exch.b32 %0, [%1], %2;", "r", "l g, r 3", 7),
    ("atom.global.max.s32 %0, [%1], %2; ld.global.u32 %0, [%1];", "r", "l g, r -3", 7),
    ("atom.global.inc.u32 %0, [%1], 7; ld.global.u32 %0, [%1];", "r", "l g", 0),
    ("red.release.gpu.global.add.u32 [%1], 5; ld.global.u32 %0, [%1];", "r", "l g", 12),
    ("shfl.sync.bfly.b32 %0, %1, 1, 0x1f, 0xffffffff;", "r", "r t", LANE ^ 1),
    ("shfl.sync.up.b32 %0, %1, 2, 0, 0xffffffff;", "r", "r t", LANE - 2),
    ("shfl.sync.idx.b32 %0, %1, 1, 0x1c1f, 0xffffffff;", "r", "r t", LANE // 4 * 4 + 1),
    ("{ .reg .pred p; setp.lt.u32 p, %1, 3; vote.sync.ballot.b32 %0, p, 0xffffffff; }", "r", "r t", 7),
    ("{ .reg .pred p; setp.lt.u32 p, %1, 3; vote.sync.any.pred p, p, -1; selp.u32 %0, 1, 0, p; }", "r", "r t", 1),
    ("redux.sync.add.s32 %0, %1, 0xffffffff;", "r", "r t", 31 * 16),
    ("redux.sync.max.u32 %0, %1, 0xffffffff;", "r", "r t", 31),
    ("match.any.sync.b32 %0, %1, 0xffffffff;", "r", "r t / 4", 0xF0),
    ("activemask.b32 %0;", "r", "", -1),
    ("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;", "r", "r 2 * t | (2 * t + 1) << 16", 0x190011),
    ("bar.warp.sync 0xffffffff; mov.u32 %0, 1;", "r", "", 1),
    ("bar.sync 0; barrier.sync.aligned 0; mov.u32 %0, 1;", "r", "", 1),
    ("membar.gl; fence.acq_rel.gpu; mov.u32 %0, 1;", "r", "", 1),
    ("prefetch.global.L2 [%1]; nanosleep.u32 20; mov.u32 %0, 1;", "r", "l g", 1),
    ("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;", "l", "", 0),
    ("cp.async.ca.shared.global [%1], [%2], 4; cp.async.wait_all; ld.shared.u32 %0, [%1];", "r", "r s, l g + 2", 9),
    ("cp.async.cg.shared.global [%1], [%2], 16, 0; cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %0, [%1];",
     "r", "r s, l g", 0),
    ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];", "r", "r s0 + 16 * (t % 8)", 8),
    ("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%1], {%2}; bar.warp.sync -1; ld.shared.u32 %0, [%3];", "r",
     "r s0 + 16 * (t % 8), r t, r s", 20),
]  # fmt: skip
REFUSED = (
    "add.rz.f32 %0, %1, %1;", "fma.rp.f32 %0, %1, %1, %1;", "add.sat.s32 %0, %1, %1;", "cvt.rz.f16.f32 %0, %1;",
    "fma.rn.relu.f16x2 %0, %1, %1, %1;", "bar.sync 1, 64;", "wgmma.fence.sync.aligned;", "mul24.lo.u32 %0, %1, %1;",
)  # fmt: skip
ELSEWHERE = {"mma", "trap", "discard", "applypriority", "griddepcontrol", "pmevent", "setmaxnreg", "prefetchu"}


def source(rows):
    body = ""
    for number, (code, result, inputs, _) in enumerate(rows):
        given = ", ".join(
            f'"{each.split()[0]}"({each.split(maxsplit=1)[1]})' for each in filter(None, inputs.split(", "))
        )
        body += (
            f"    {{ {TYPES[result]} result = 0;\n      for (int i = 0; i < 4; ++i) g[i] = words[4 * t + i] = 7 + i;\n"
        )
        body += f'      __syncwarp();\n      asm volatile("{code}" : "+{result}"(result) : {given} : "memory");\n'
        body += f"      __syncwarp();\n      if (t == {LANE}) memcpy(&y[{number}], &result, sizeof result); }}\n"
    return (
        'extern "C" __global__ void ptx(unsigned long long* y, unsigned* memory) {\n'
        "    __shared__ alignas(16) unsigned words[128];\n    unsigned t = threadIdx.x, *g = memory + 4 * t;\n"
        "    unsigned s0 = __cvta_generic_to_shared(words), s = s0 + 16 * t;\n" + body + "}\n"
    )


@pytest.mark.parametrize("mode", ["run", "check"])
def test_each_instruction(mode):
    table = [row for row in TABLE if mode == "run" or "[" in row[0] or ".sync" in row[0]]
    y, memory = np.zeros(len(table), np.uint64), np.zeros(128, np.uint32)
    with configured(mode=mode):
        RawModule(code=source(table)).get_function("ptx")((1,), (32,), (y, memory))
    for (code, result, _, expected), bits in zip(table, y):
        if result in "fd":
            found = struct.unpack(
                "<f" if result == "f" else "<d", struct.pack("<Q", bits)[: 4 if result == "f" else 8]
            )[0]
            assert found == pytest.approx(expected, rel=1e-7), code
            assert np.signbit(found) == np.signbit(expected), code
        else:
            assert int(bits) == expected % 2 ** {"h": 16, "r": 32, "l": 64}[result], code


def test_the_table_has_every_instruction():
    words = {word.partition(".")[0] for code, *_ in TABLE for word in code.replace(";", " ").split()}
    assert set(KNOWN) - ELSEWHERE <= words


@pytest.mark.parametrize("code", REFUSED)
def test_what_would_give_another_number_is_refused(code):
    with pytest.raises(CompileError, match="kernel.cu:[0-9]+: .*" + code.split()[0].rstrip(";")):
        RawModule(code=source([(code, "f", "f 1", 0)])).library("run")


def test_other_assembly_brings_no_names_of_its_own():
    code = 'extern "C" __global__ void half(int* y) { asm("" : "+m"(*y)); y[0] = 2; }'
    RawModule(code=code).get_function("half")((1,), (1,), (y := np.zeros(1, np.int32),))
    assert y[0] == 2
