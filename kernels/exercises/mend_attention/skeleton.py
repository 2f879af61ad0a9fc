import numpy as np


def attention_forward(q, k, v):
    """q, k, v (B, H, T, D)  ->  y (B, H, T, D), saved"""
    T, D = q.shape[-2:]
    s = q @ k.swapaxes(-1, -2) / np.sqrt(D)  # (B, H, T, D) @ (B, H, D, T) -> (B, H, T, T)
    s = np.where(np.tri(T, dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p @ v, (q, k, v, p)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq, dk, dv (B, H, T, D). It has three faults."""
    q, k, v, p = saved
    scale = 1 / np.sqrt(q.shape[-1])
    dv = p @ dy
    dp = dy @ v.swapaxes(-1, -2)
    ds = p * (dp - dp.sum(axis=-1, keepdims=True))
    dq = ds @ k
    dk = ds.swapaxes(-1, -2) @ q * scale
    return dq, dk, dv
