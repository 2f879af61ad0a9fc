# 8: g[0] is
import numpy as np


def adamw(w, g, m, v, lr, betas, eps, decay, t):
    """w, g, m, v of one shape, at step t = 1, 2, ...  ->  the new w, m, v"""
    b1, b2 = betas
    g = g + decay * w
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    w = w - lr * (m_hat / (np.sqrt(v_hat) + eps))
    return w, m, v
