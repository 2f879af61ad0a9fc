"""Attention as a ladder of kernels: each rung a file of its own with forward and backward, each adding one idea.

    naive                the formulas, one kernel each, the T x T matrix in memory
    tiled                the products go through shared memory
    flash                online softmax, no T x T matrix
    flash_tensor_cores   matrix instructions, with bfloat16 or TF32 operands

`attention_forward` and `attention_backward` here are those of the best rung for the array at hand (`best_rung`); each
rung can be called by its own name, or chosen for the whole engine with `use_kernels(attention="tiled")`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from minillm.backend import device_of


def rung(name: str):
    """The launcher of a rung: a module with attention_forward and attention_backward."""
    return import_module(f"{__name__}.{name}")


def best_rung(q) -> str:
    """The name of the best rung that takes q (B, H, T, D).

    bfloat16 goes to the tensor cores. float32 goes to "flash", which keeps every bit of float32 (on tensor cores it would
    be rounded to TF32: that has to be asked for); to "tiled" where D is not a width that "flash" has, or where its tiles
    are too large for the shared memory of the GPU.
    """
    if q.dtype.name == "bfloat16":
        return "flash_tensor_cores"
    flash, width = rung("flash"), q.shape[3]
    fits = width in flash.STREAMED and flash.shared_bytes(width) <= _shared_memory_limit(q)
    return "flash" if fits else "tiled"


def attention_forward(q, k, v, causal=True, dropout=0.0, key=None, first_row=0):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved"""
    best = rung(best_rung(q))
    y, saved = best.attention_forward(q, k, v, causal, dropout, key, first_row)
    return y, (best, saved)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    best, saved = saved
    return best.attention_backward(dy, saved)


def _shared_memory_limit(array) -> int:
    """Bytes that a block may ask for on the device of `array`."""
    return _limit_of_gpu(array.device.id) if device_of(array) == "cuda" else 227 * 1024  # the simulator: as on sm_90


@cache
def _limit_of_gpu(number: int) -> int:
    cupy = import_module("cupy")
    return cupy.cuda.Device(number).attributes["MaxSharedMemoryPerBlockOptin"]
