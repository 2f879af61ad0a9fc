import numpy as np


def layer_norm_forward(x, weight, bias, eps=1e-5):
    """x (N, C), weight (C,), bias (C,)  ->  y (N, C), saved"""
    mean = x.mean(axis=1, keepdims=True)
    variance = np.square(x - mean).mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt(variance + eps)
    normed = (x - mean) * rstd
    return normed * weight + bias, (normed, rstd, weight)


def layer_norm_backward(dy, saved):
    """dy (N, C)  ->  dx (N, C), dweight (C,), dbias (C,). It has two faults."""
    normed, rstd, weight = saved
    dbias = dy.sum(axis=0)
    dweight = (dy * normed).mean(axis=0)
    dnormed = dy * weight
    dx = rstd * (dnormed - dnormed.mean(axis=1, keepdims=True))
    return dx, dweight, dbias
