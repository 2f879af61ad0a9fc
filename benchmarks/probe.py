"""python -m benchmarks.probe: what a GPU takes for each piece of a GPT-2 124M step in bfloat16, B 16, T 1024, and for what
could be in its place.

Times are the device's, without launch gaps (gpu_timing.py), the median of 7. At the end: the sum of what a step calls, to be
compared with what `python -m benchmarks.train_step` measures for the whole.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import cupy
import numpy as np

from benchmarks.gpu_timing import device_seconds
from minillm.backend import matmul as mm
from minillm.backend.precision import bfloat16, matmul_precision
from minillm.kernels import (
    adamw,
    bias,
    cross_entropy,
    embedding,
    gelu,
    global_norm,
    layer_norm,
    residual_bias,
    residual_layer_norm,
)
from minillm.kernels.attention import flash, flash_tensor_cores

BF, F32 = bfloat16(), np.dtype("float32")
N, C, F, H, T, V, L = 16384, 768, 3072, 12, 1024, 50257, 12
REPEATS = 7
rows = []


NUMBERS = cupy.asarray(0.1 * np.random.default_rng(0).standard_normal((1 << 22) + 9, dtype="float32"))


def rand(*shape, dtype=BF):
    return cupy.resize(NUMBERS, shape).astype(dtype, copy=False)


def show(name, work, calls=0, flop=0, moved=0, inner=10):
    """A line: the device's time of `work`, its rate, and what `calls` of it take in a step."""
    try:
        us = 1e6 * median(device_seconds(lambda number: work(), inner) for _ in range(REPEATS))
    except (
        cupy.cuda.memory.OutOfMemoryError,
        cupy.cuda.driver.CUDADriverError,
        cupy.cuda.runtime.CUDARuntimeError,
    ) as error:
        print(f"{name:52s} FAILED {type(error).__name__}: {str(error)[:90]}")
        return
    rows.append((name, us, calls))
    rate = f"{flop / us / 1e6:8.1f} TFLOP/s" if flop else f"{moved / us / 1e3:8.1f} GB/s" if moved else ""
    print(f"{name:52s} {us:10.1f} us {rate:18s} x {calls:4d} = {us * calls / 1e3:7.2f} ms")


def product(name, a, b, out, calls, add=False, inner=10):
    show(name, lambda: mm.gemm(a, b, out, add), calls, flop=2 * a.shape[0] * a.shape[1] * b.shape[1], inner=inner)


def ceilings():
    """What no piece can beat: the memory's rate and the tensor cores'."""
    big = cupy.zeros(1 << 28, F32)
    other = cupy.empty_like(big)
    show("copy of 1 GiB float32 (ceiling)", lambda: cupy.copyto(other, big), moved=2 * big.nbytes)
    a = rand(8192, 8192)
    product("8192^3 bfloat16 (ceiling)", a, a, cupy.empty((8192, 8192), BF), 0)


def main():
    ceilings()
    linear_layers()
    head()
    bias_gradients()
    elementwise()
    norms_and_gelu()
    attention()
    loss_and_update()
    other_precisions()
    print(f"{'sum of what a step calls':52s} {'':34s} = {sum(us * calls for _, us, calls in rows) / 1e3:7.2f} ms")


def linear_layers():
    """Products of the blocks: forward, dx, dw."""
    x, h, y, dh = rand(N, C), rand(N, F), cupy.empty((N, C), BF), cupy.empty((N, F), BF)
    dqkv = cupy.empty((N, 3 * C), BF)
    linears = (("c_attn", x, 3 * C, dqkv), ("attn.c_proj", x, C, y), ("c_fc", x, F, dh), ("mlp.c_proj", h, C, y))
    for name, left, width, out in linears:
        k = left.shape[1]
        w, dy, dw, dx = rand(k, width), rand(N, width), cupy.empty((k, width), F32), cupy.empty((N, k), BF)
        product(f"{name} forward", left, w, out, L)
        product(f"{name} dx", dy, w.T, dx, L)
        product(f"{name} dw, float32", left.T, dy, dw, L)


def head():
    """Products of the head, by the number of rows of a chunk and by the layout of the logits."""
    x, w = rand(N, C), rand(50304, C)
    dw = cupy.zeros((50304, C), F32)
    for n, calls in ((2730, 0), (4096, 0), (8192, 2)):
        logits, padded = cupy.empty((n, V), F32), cupy.empty((n, 50304), F32)
        grad = rand(n, 50304)
        product(f"head: logits of {n}, float32, rows of 50,257", x[:n], w[:V].T, logits, 0, inner=3)
        product(f"head: logits of {n}, float32, rows of 50,304", x[:n], w[:V].T, padded[:, :V], 0, inner=3)
        product(f"head: logits of {n}, bfloat16, rows of 50,304", x[:n], w[:V].T, grad[:, :V], 0, inner=3)
        product(f"head: logits of {n}, bfloat16, 50,304 columns", x[:n], w.T, grad, calls, inner=3)
        product(f"head: dx of {n}, 50,257 columns", grad[:, :V], w[:V], cupy.empty((n, C), BF), 0, inner=3)
        product(f"head: dx of {n}, 50,304 columns", grad, w, cupy.empty((n, C), BF), calls, inner=3)
        product(f"head: dw of {n}, 50,257 rows, added", grad[:, :V].T, x[:n], dw[:V], 0, add=True, inner=3)
        product(f"head: dw of {n}, 50,304 rows, added", grad.T, x[:n], dw, calls, add=True, inner=3)
        del logits, padded, grad


def bias_gradients():
    """Sums of rows: by our kernel, as products with ones, by CuPy. Added, with and without the residual."""
    x, qkv = rand(N, C), rand(N, 3 * C)
    wide = cupy.zeros((N, 8), BF)
    wide[:, 0] = 1
    ones, narrow = wide[:, :1].T, cupy.ones((1, N), BF)
    for dy, width, calls in ((qkv, 3 * C, L), (x, C, L)):
        db = cupy.empty((1, width), F32)
        _, saved = bias.bias_forward(dy, cupy.zeros(width, F32))
        show(f"bias gradient of {width}, kernel", partial(bias.bias_backward, dy, saved), calls, moved=dy.nbytes)
        product(f"bias gradient of {width}, ones 16 bytes apart", ones, dy, db, 0)
        product(f"bias gradient of {width}, ones side by side", narrow, dy, db, 0)
        show(f"bias gradient of {width}, CuPy sum", lambda dy=dy: dy.sum(axis=0, dtype="float32"), 0, moved=dy.nbytes)


def elementwise():
    """What could be between the products: CuPy's own additions, copies, casts. A step has none of them."""
    x, y, qkv, dqkv = rand(N, C), cupy.empty((N, C), BF), rand(N, 3 * C), cupy.empty((N, 3 * C), BF)
    w32 = rand(V, C, dtype=F32)
    b3, b1 = rand(3 * C), rand(C)
    show("CuPy: qkv += bias", lambda: cupy.add(qkv, b3, out=qkv), 0, moved=2 * qkv.nbytes)
    show("CuPy: y += bias", lambda: cupy.add(y, b1, out=y), 0, moved=2 * y.nbytes)
    show("CuPy: residual x + y", lambda: cupy.add(x, y, out=y), 0, moved=3 * x.nbytes)
    q = qkv.reshape(16, T, 3, H, 64)[:, :, 0].transpose(0, 2, 1, 3)
    show("CuPy: copy of q to (B, H, T, D)", lambda: q.copy(), 0, moved=2 * x.nbytes)
    dq = dqkv.reshape(16, T, 3, H, 64)[:, :, 0]
    show("CuPy: dq into dqkv", lambda: cupy.copyto(dq, q.transpose(0, 2, 1, 3)), 0, moved=2 * x.nbytes)
    show("CuPy: wte to bfloat16", lambda: w32.astype(BF), 0, moved=6 * w32.size)
    w2 = rand(C, F, dtype=F32)
    # 96 weights of 4 sizes have as many numbers as 72 of this one
    show("CuPy: a weight of 768 x 3072 to bfloat16", lambda: w2.astype(BF), 0, moved=6 * w2.size)


def norms_and_gelu():
    x, y, h, dh = rand(N, C), cupy.empty((N, C), BF), rand(N, F), cupy.empty((N, F), BF)
    g, g32 = rand(C, dtype=F32), rand(F, dtype=F32)
    _, saved = layer_norm.layer_norm_forward(x, g, g)
    show("layer norm forward", lambda: layer_norm.layer_norm_forward(x, g, g), L + 1, moved=2 * x.nbytes)
    show("layer norm backward", lambda: layer_norm.layer_norm_backward(y, saved), L + 1, moved=3 * x.nbytes)
    fused = residual_layer_norm
    _, saved_sum = fused.residual_layer_norm_forward(x, y, g, g, delta_bias=g)
    show(
        "bias + residual + layer norm",
        partial(fused.residual_layer_norm_forward, x, y, g, g, delta_bias=g),
        L,
        moved=4 * x.nbytes,
    )
    show("  backward", partial(fused.residual_layer_norm_backward, x, y, saved_sum), L, moved=4 * x.nbytes)
    show("bias + residual", lambda: residual_bias.residual_bias_forward(x, y, g), L, moved=3 * x.nbytes)
    _, saved_gelu = gelu.gelu_forward(h, g32)
    show("GELU forward", lambda: gelu.gelu_forward(h, g32), L, moved=2 * h.nbytes)
    show("GELU backward", lambda: gelu.gelu_backward(dh, saved_gelu), L, moved=3 * h.nbytes)


def attention():
    # heads as the projections write them: views of (B, T, heads, D)
    qkv, dy = rand(16, T, 3, H, 64), rand(16, T, H, 64)
    q4, k4, v4, dy4 = (x.transpose(0, 2, 1, 3) for x in (qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], dy))
    flop = 4 * 16 * H * T * T * 64 / 2
    dqkv = tuple(cupy.empty_like(qkv)[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
    _, saved4 = flash_tensor_cores.attention_forward(q4, k4, v4)
    show("flash bf16 forward (causal FLOP)", lambda: flash_tensor_cores.attention_forward(q4, k4, v4), L, flop=flop)
    show(
        "flash bf16 backward (2.5 x)",
        partial(flash_tensor_cores.attention_backward, dy4, saved4, dqkv),
        L,
        flop=2.5 * flop,
    )
    f4 = [t.astype("float32") for t in (q4, k4, v4, dy4)]
    for name, rung in (("flash float32", flash), ("flash TF32", flash_tensor_cores)):
        _, saved_f = rung.attention_forward(*f4[:3])
        show(f"{name} forward", partial(rung.attention_forward, *f4[:3]), 0, flop=flop)
        show(f"{name} backward", partial(rung.attention_backward, f4[3], saved_f), 0, flop=2.5 * flop)


def loss_and_update():
    """Cross-entropy, embedding, AdamW, and the norm that clips."""
    x, dw = rand(N, C), cupy.zeros((V, C), F32)
    logits, t = rand(8192, 50304)[:, :V], cupy.zeros(8192, "int64")
    loss = partial(cross_entropy.cross_entropy_forward, logits, t, count=N)
    show("cross-entropy of 8192 rows, bf16", loss, 2, moved=logits.size * 4, inner=3)
    ids = cupy.asarray(np.random.default_rng(0).integers(0, V, (16, T)))
    scattered = partial(embedding.embedding_backward, x.reshape(16, T, C), (ids, (V, C)), dw)
    show("embedding backward (sort included)", scattered, 1)
    ps = [cupy.zeros((1 << 20,), F32) for _ in range(119)]
    sets = [[cupy.zeros_like(p) for p in ps] for _ in range(3)]
    one = cupy.ones((), F32)
    update = partial(adamw.adamw_update, ps, *sets, 1e-3, (0.9, 0.95), 1e-8, [0.1] * 119, 1, one)
    show("AdamW of 124.8 M", update, 0, moved=28 * 119 << 20)
    copies = [cupy.empty(p.shape, BF) for p in ps]
    show("AdamW of 124.8 M, with copies in bf16", partial(update, copies=copies), 1, moved=30 * 119 << 20)
    show("norm of 124.8 M", lambda: global_norm.clipped_norm(sets[0], 1.0), 1, moved=4 * 119 << 20)


def other_precisions():
    x = rand(N, C)
    with matmul_precision("tf32"):
        product("c_fc forward, TF32", x.astype(F32), rand(C, F, dtype=F32), cupy.empty((N, F), F32), 0)
    product("c_fc forward, float32", x.astype(F32), rand(C, F, dtype=F32), cupy.empty((N, F), F32), 0, inner=3)


if __name__ == "__main__":
    main()
