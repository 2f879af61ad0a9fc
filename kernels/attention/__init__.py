"""Attention as a ladder of kernels: each rung a file of its own with forward and backward, each
adding one idea.

    rung                 idea                                               lines   bytes of global memory
    naive                the formulas, one kernel each                         84               20,635,136
    tiled                products go through shared memory                    134                  753,664
    online               a running softmax: no T x T matrix                   152                  459,264
    flash                register tiling                                      372                  165,888
    flash_tensor_cores   matrix instructions, bfloat16 or TF32 operands       354                  131,584

Lines: of the .cu file with its header. Bytes: forward, one head of 128 tokens, D = 64, causal,
counted by the simulator (`python -m benchmarks.attention --only-simulate`). A test compares both
with the files.

`attention_forward` and `attention_backward` here are those of the best rung for the given array
(`best_rung`), or of the rung that `use_kernels(attention="tiled")` chose. Each rung is a module of
its own, too.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from minillm.backend.arrays import array_module, contiguous, device_of
from minillm.backend.precision import downcast, is_bfloat16, tf32_enabled, upcast
from minillm.kernels import chosen_rung
from minillm.kernels.launch import empty

TENSOR_CORE_WIDTHS = (32, 64, 96, 128)  # of flash_tensor_cores.py
TENSOR_CORE_ARCHITECTURE = 80


@cache
def rung(name: str):
    """The launcher of a rung: a module with attention_forward and attention_backward."""
    return import_module(f"{__name__}.{name}")


def best_rung(q) -> str:
    """The name of the best rung that takes q (B, H, T, D).

    bfloat16 goes to the tensor cores. float32 goes to "flash", which keeps every bit of float32;
    tensor cores round it to TF32, which is a setting of its own (precision.py). "tiled" takes the
    widths that "flash" does not have, and those whose tiles do not fit into the GPU's shared
    memory; bfloat16 of such a width is converted to float32.
    """
    width = q.shape[3]
    if (
        (is_bfloat16(q) or tf32_enabled())
        and width in TENSOR_CORE_WIDTHS
        and _architecture(q) >= TENSOR_CORE_ARCHITECTURE
    ):
        return "flash_tensor_cores"
    flash = rung("flash")
    fits = width in flash.WIDTHS and flash.shared_bytes(width) <= _shared_memory_limit(q)
    return "flash" if fits else "tiled"


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0, window=None, starts=None):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved

    The arguments are those of layers/attention.py; the errors those of `check_forward` in
    arguments.py.
    """
    like, used = q, rung(chosen_rung() or best_rung(q))
    q, k, v = (_as_taken(x, used) for x in (q, k, v))
    y, saved = used.attention_forward(q, k, v, causal, dropout, rng_key, batch_offset, first_keys(q, window, starts))
    return downcast(y, like), (used, saved)


def attention_backward(dy, saved, out=None):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)

    out: arrays or views that they are written to, which the rungs that take views do in place.
    """
    (used, saved), like = saved, dy
    dy = _as_taken(dy, used)
    if out is not None and used in _taking_views() and dy.dtype == out[0].dtype:
        return used.attention_backward(dy, saved, out)
    found = used.attention_backward(dy, saved)
    if out is None:
        return tuple(downcast(gradient, like) for gradient in found)
    for array, gradient in zip(out, found):
        array[...] = gradient
    return out


def first_keys(q, window, starts):
    """(B, T) int32 on the device of q (B, H, T, D): the first key that each query sees, of a window
    and of packed documents (B, T); None where it is key 0.

    A window is the case starts_i = i - window + 1, so that every rung has it. Raises ValueError for
    a window below 1.
    """
    B, _, T, _ = q.shape
    if window is None:
        return starts
    if window < 1:
        raise ValueError(f"window={window}: a window is at least 1 token")
    xp, first = array_module(q), empty((B, T), q, "int32")
    first[...] = xp.maximum(xp.arange(T, dtype="int32") - (window - 1), 0)
    return first if starts is None else xp.maximum(first, starts)


def _taking_views() -> tuple:
    """The rungs whose arrays may be views, with any steps between tokens, heads and rows of the
    batch.
    """
    return rung("flash"), rung("flash_tensor_cores")


def _as_taken(x, used):
    """x as the rung `used` takes it: all but flash_tensor_cores take float32 alone."""
    x = x if used is rung("flash_tensor_cores") else upcast(x)
    return x if used in _taking_views() else contiguous(x)


def _architecture(array) -> int:
    """Compute capability of the device of `array`, such as 90."""
    return int(array.device.compute_capability) if device_of(array) == "cuda" else 90


def _shared_memory_limit(array) -> int:
    """Bytes of shared memory that a block can have on the device of `array`."""
    return _limit_of_gpu(array.device.id) if device_of(array) == "cuda" else 227 * 1024  # the simulator: as on sm_90


@cache
def _limit_of_gpu(number: int) -> int:
    cupy = import_module("cupy")
    return cupy.cuda.Device(number).attributes["MaxSharedMemoryPerBlockOptin"]
