"""What layers share when they decode on a device: kernels for a few rows.

A token that is generated is one row of numbers in each layer. On a GPU that row is computed in less
time than the host takes to ask for it, so what counts is the number of launches: a product, its
bias and the residual stream are one (kernels/skinny_matmul.cu), and so are the products of several
layers that read the same row.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module, contiguous
from minillm.backend.matmul import matmul
from minillm.backend.precision import downcast
from minillm.kernels import kernel_for
from minillm.kernels.launch import empty
from minillm.layers.dropout import Dropout


def decoded_onto(residual, x, cache, *layers):
    """residual + what the layers decode from x, one after the other: all (B, t, C).

    On a device the addition is left to the first layer (`Layer.decode_onto`), where the others are
    dropout, which does nothing in generation.
    """
    first, *others = layers
    if cache.on_device and all(is_decode_of(each, Dropout) for each in others) and "decode" not in vars(first):
        return first.decode_onto(residual, x, cache)
    for layer in layers:
        x = layer.decode(x, cache)
    return residual + x


def is_decode_of(layer, kind: type) -> bool:
    """Whether a layer decodes as its class `kind` does."""
    return type(layer).decode is kind.decode and "decode" not in vars(layer)


def products(x, linears, cache, with_bias=True, residual=None, dtype=None) -> list:
    """x (..., I)  ->  for each of the plain linear layers its output (..., O), on a device.

    with_bias=False: the biases are left to the caller. residual (..., O): is added to the output,
    of a single layer. dtype: of the outputs, by default that of x.
    """
    rows = contiguous(x.reshape(-1, x.shape[-1]))  # (N, I)
    residual = None if residual is None else contiguous(residual.reshape(len(rows), -1))
    weights = [cache.weight(linear.weight, rows) for linear in linears]
    biases = [contiguous(linear.bias.peek()) if with_bias and hasattr(linear, "bias") else None for linear in linears]
    kernel, transposed = kernel_for("skinny_matmul", rows), linears[0].transposed
    if kernel is not None and len(rows) <= kernel.MAX_ROWS:
        together = kernel.MATRICES if transposed else 1
        found = []
        for start in range(0, len(linears), together):
            part = slice(start, start + together)
            found += kernel.skinny_matmul(rows, weights[part], biases[part], transposed, residual, dtype)
    else:
        found = [_product(rows, *each, transposed, residual, dtype) for each in zip(weights, biases)]
    return [y.reshape(*x.shape[:-1], -1) for y in found]


def _product(rows, weight, bias, transposed, residual, dtype):
    y = matmul(rows, weight.T if transposed else weight, dtype=dtype)  # (N, I) @ (I, O)
    if bias is not None:
        y += downcast(bias, y)
    return y if residual is None else residual + y


# ------------------------------------------------------------------------------------------------------------- kernels


def decode_kernel(x, width: int):
    """The launcher of kernels/attention/decode.cu; None where it does not take the numbers of x, or
    heads of that width.
    """
    if kernel_for("attention", x) is None:
        return None
    from minillm.kernels.attention import decode

    return decode if decode.takes(width) else None


def attention_by_kernels(kernel, layer, q, k, v, width: int, cache, window=None, **rotation):
    """q, k and v of the new tokens, each kernels/attention/decode.py's Heads  ->  y (B, t, H D)

    kernel: what `decode_kernel` gave. layer: whose columns of the cache they are. width: D.
    rotation: arguments of that file's `append`.
    """
    B, t, H = len(q.matrix) // cache.count, cache.count, q.count
    settings = dict(place=cache.place, padding=cache.padding)
    room = cache.reserve(layer, k.count, width, k.matrix.dtype, window)
    if room is None:  # more new columns than a window keeps
        keys, values, first = *(empty((B, k.count, t, width), k.matrix, k.matrix.dtype) for _ in "kv"), cache.length
    else:
        keys, values, first = room
    q = kernel.append(q, k, v, keys, values, first=first, **settings, **rotation)
    if room is None:
        seen = cache.append(layer, keys, values, window=window)
    if not cache.length and t > 1:
        y = _attention_to_prompt(q, keys[:, :, :t], values[:, :, :t], cache, window)
    else:
        if room is None:
            keys, values = map(contiguous, seen)
            first = cache.length + t - keys.shape[2]
        y = kernel.decode_attention(q, keys, values, first=first, window=window, **settings)
    return y.reshape(B, t, H * width)


def _attention_to_prompt(q, k, v, cache, window):
    """Where the new tokens are all that there are: Heads q, k and v (B, H_kv, T, D)  ->  y (B, T,
    H D), by the kernels of forward.
    """
    B, _, T, D = k.shape
    heads = q.matrix[:, q.first : q.first + q.count * D].reshape(B, T, q.count, D).transpose(0, 2, 1, 3)
    starts = None
    if cache.padding is not None:  # a column of padding sees itself alone
        xp = array_module(k)
        starts = xp.minimum(cache.padding[:, None], xp.arange(T)).astype("int32")
    settings = {} if window is None or window >= T else {"window": window}
    forward = kernel_for("attention", k).attention_forward
    y, _ = forward(*map(contiguous, (heads, k, v)), starts=starts, **settings)
    return y.transpose(0, 2, 1, 3).reshape(B, T, q.count * D)
