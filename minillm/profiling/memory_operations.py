"""What each layer of a training step holds, in bytes, from shapes alone.

An `Operation` is a layer, or a part of one, at its place in the step. With n = B*T rows and e bytes
a number, one array of the residual stream is S = n C e, one of the MLP F = n d_ff e, one of the
queries of all heads Q = n H D e, one of the keys K = n H_kv D e. Counted are

    saved       what forward leaves for backward
    forward     what exists beyond that while forward runs: results on their way, and scratch
    backward    the same while backward runs, without the gradients of weights
    gradient    the gradients of its weights, which backward makes

A block of a GPT-2 keeps, on the two engines (P: the attention probabilities, where they exist):

                    NumPy                          kernels
    norms           normed              2 S        the input            2 S
    c_attn          (made again)          0        its input              S
    attention       q, k, v, y, P   4 S + P        q, k, v, y           4 S
    c_proj          (y itself)            0        y, heads in a row      S
    c_fc            (made again)          0        its input              S
    gelu            x, gate             2 F        z                      F
    mlp.c_proj      (made again)          0        gelu's result          F

With F = 4 S that is 14 S + P, and 17 S; layers/made_again.py has what backward makes again. NumPy
keeps the causal half of P: a block of t queries that ends at row r has t r numbers a head. Dropout
keeps a factor for each element on NumPy; the kernels draw it again.

In backward a block's parts go one after the other. A part needs its arguments and results, and what
its callers hold until they return: the gradient of the loss head, the one that entered the block,
and in the attention half a third (`outer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from minillm.kernels.columns import grid_of
from minillm.kernels.vectors import BYTES as BYTES_OF_VECTOR
from minillm.kernels.vectors import blocks_of_rows
from minillm.layers.attention import QUERY_BLOCK, CausalSelfAttention
from minillm.layers.dropout import Dropout
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.linear_cross_entropy import STRIP_ROWS, rows_of_chunk
from minillm.layers.mlp import MLP
from minillm.layers.parameter import ROW_MULTIPLE
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary_attention import RotarySelfAttention
from minillm.layers.swiglu import SwiGLU
from minillm.models.architectures import make_model
from minillm.models.language_model import LanguageModel

BYTES = {"float32": (4, 4), "tf32": (4, 4), "bfloat16": (2, 4), "float64": (8, 8)}  # of an activation, of a weight
INTEGER = 8  # bytes of a token
FLASH_WIDTHS = (32, 64, 96, 128)  # of a head; for others the kernel with the T x T matrix is taken
EMBEDDING_WINDOW = 32  # of whose tokens the kernel's backward leaves partial sums


@lru_cache(maxsize=16)
def model_of(config) -> LanguageModel:
    """The model of a configuration, without memory for its weights: what is counted here is read
    off its layers.
    """
    return make_model(config, seed=None)


class Operation(NamedTuple):
    """A layer at its place in the step; all but the name are bytes, as the module says."""

    name: str
    saved: int = 0
    forward: int = 0
    backward: int = 0
    gradient: int = 0


@dataclass(frozen=True)
class Shapes:
    """The sizes of one pass: config of the model, B windows of T tokens, and how it is computed.

    dtype: as in precision.py. device: "cpu", "cuda" or "cudasim". recompute: blocks keep their
    input alone.
    """

    config: object
    batch: int
    time: int
    dtype: str = "float32"
    device: str = "cpu"
    recompute: bool = False

    @property
    def number(self) -> int:
        """e: bytes of what travels between layers."""
        return BYTES[self.dtype][0]

    @property
    def weight(self) -> int:
        """Bytes of a weight, of its gradient, and of a number inside a layer that NumPy
        computes.
        """
        return BYTES[self.dtype][1]

    @property
    def kernels(self) -> bool:
        """Whether CUDA kernels compute it, and not NumPy alone."""
        return self.device != "cpu"

    @property
    def has_copies(self) -> bool:
        """Whether weights that are operands of products have a copy in bfloat16."""
        return self.kernels and self.dtype == "bfloat16"

    @property
    def rows(self) -> int:
        """n = B T."""
        return self.batch * self.time

    @property
    def stream(self) -> int:
        """S: one array of the residual stream (B, T, C)."""
        return self.rows * self.config.d_model * self.number

    @property
    def inner(self) -> int:
        """F: one array inside the MLP (B, T, d_ff)."""
        return self.rows * self.config.d_ff * self.number

    @property
    def head_dim(self) -> int:
        """D."""
        return getattr(self.config, "head_dim", self.config.d_model // self.config.n_head)

    @property
    def kv_heads(self) -> int:
        return getattr(self.config, "n_kv_head", self.config.n_head)

    @property
    def queries(self) -> int:
        """Q: the queries of all heads (B, H, T, D)."""
        return self.rows * self.config.n_head * self.head_dim * self.number

    @property
    def keys(self) -> int:
        """K: the keys, or the values, of all key/value heads (B, H_kv, T, D)."""
        return self.rows * self.kv_heads * self.head_dim * self.number

    def inside(self, size: int) -> int:
        """An array of `size` bytes as it is inside a layer: NumPy computes bfloat16 in float32,
        kernels keep it as it is.
        """
        return size if self.kernels else size * self.weight // self.number

    def widened(self, size: int) -> int:
        """The wider copy of an array of `size` bytes that such a layer makes; 0 where there is none
        to make.
        """
        return 0 if self.inside(size) == size else self.inside(size)

    def product(self, inputs: int, outputs: int) -> int:
        """Scratch of x (n, I) @ w (I, O), or of one of its two gradients: operands rounded to the
        precision of products.

        cuBLAS gets the weight's copy in bfloat16; the host widens rounded operands again, and
        rounds the result.
        """
        x, w, y = self.rows * inputs, inputs * outputs, self.rows * outputs
        if self.device == "cuda":
            return 0
        return {"bfloat16": 4 * (x + w + y), "tf32": 4 * (x + w)}.get(self.dtype, 0)

    @property
    def flash(self) -> bool:
        """Whether a flash kernel computes attention."""
        return self.kernels and self.head_dim in FLASH_WIDTHS

    def column_sums(self, width: int) -> int:
        """Partial sums of a kernel that adds up the rows of a matrix (columns.cuh)."""
        return grid_of(self.rows, width, BYTES_OF_VECTOR // self.number)[0] * width * 4 if self.kernels else 0

    @property
    def makes_again(self) -> bool:
        """Whether inputs of products are made again in backward (layers/made_again.py)."""
        return not self.kernels

    @property
    def normed(self) -> int:
        """A norm's result beside what is saved, while its readers run, forward and backward."""
        return self.stream if self.makes_again else 0

    @property
    def held_input(self) -> int:
        """The block's input while its forward runs, unless something of the block keeps
        it anyway.
        """
        return 0 if self.kernels or self.recompute else self.stream

    def gradient(self, *layers: Layer) -> int:
        """Bytes of the gradients of all weights of these layers."""
        return sum(p.value.size for layer in layers for p in layer.parameters().values()) * self.weight


# ----------------------------------------------------------------------------------------------------- parts of a block


def norm(name: str, s: Shapes, layer: LayerNorm | RMSNorm, held: int, outer: int) -> Operation:
    """Layer norm and RMS norm of the stream.

    held: arrays of callers in forward, outer: in backward.

    forward: the result, S. backward: dy, dx, and on NumPy dy * normed, or a row of partial sums for
    each block: of dweight, dbias, and of the bias of the branch that a fused block adds.
    """
    width, stream, widened, bias = s.config.d_model, s.stream, s.widened(s.stream), hasattr(layer, "bias")
    sums = 1 + bias + (bias and name == "norm_2")
    scratch = sums * blocks_of_rows(s.rows, width) * width * 4 if s.kernels else s.inside(stream)
    # The kernel keeps the norm's input, which a recomputed block has saved already.
    saved = 0 if s.kernels and s.recompute and name.endswith("1") else s.inside(stream)
    statistics = s.rows * 4 * (1 + s.kernels)
    backward = outer + stream + s.inside(stream) + scratch + widened
    return Operation(name, saved + statistics, held + stream + 2 * widened, backward, s.gradient(layer))


def branch_dropout(name: str, s: Shapes, held: int, outer: int) -> list[Operation]:
    """Dropout of a branch (B, T, C): NumPy keeps a factor for each element; to draw it takes the
    words and a mask.
    """
    if not s.config.dropout:
        return []
    if s.kernels:
        return [Operation(name, 0, held + 2 * s.stream, outer + s.stream)]
    stream, widened = s.stream, 2 * s.widened(s.stream)
    drawing = stream + widened // 2 + stream // s.number * (4 + 1 + s.weight)
    return [Operation(name, s.inside(stream), held + max(2 * stream + widened, drawing), outer + stream + widened)]


def attention(
    s: Shapes, held: int, outer: int, in_forward: int, keys: int, gradients: int, window: int | None = None
) -> Operation:
    """softmax(q k^T) v of all heads, by rows of 64 queries (NumPy), by tiles (flash), or with T x
    T matrices.

    in_forward: what the layer around it holds meanwhile; keys: bytes of k, and of v, as they are
    saved; gradients: bytes of dk, and of dv, as they come out.
    """
    q, matrix = s.queries, s.batch * s.config.n_head * s.time**2  # numbers in (B, H, T, T)
    drops, windowed = bool(s.config.dropout), window is not None and window < s.time
    if not s.kernels:
        return _numpy_attention(s, held + in_forward, outer, s.inside(keys), matrix, window if windowed else None)
    first_keys = s.rows * 4 * windowed  # the first key that each query sees
    if s.flash:
        log_sum_exp = s.batch * s.config.n_head * s.time * 4
        saved = 2 * q + 2 * keys + log_sum_exp + first_keys
        return Operation("attention", saved, held + in_forward, outer + 2 * q + 2 * gradients + log_sum_exp)
    # the kernel with the matrix takes float32: bfloat16 is widened before, and narrowed after
    saved = (2 * q + 2 * keys) * s.weight // s.number + (1 + drops) * matrix * s.weight + first_keys
    results = (2 * q + 2 * gradients) * s.weight // s.number
    return Operation("attention", saved, held + in_forward, outer + results + matrix * s.weight)


def _numpy_attention(s: Shapes, held: int, outer: int, keys: int, matrix: int, window: int | None) -> Operation:
    q, raw = s.inside(s.queries), 3 * s.queries if s.widened(s.queries) else 0  # q, k and v before they were widened
    probabilities = s.batch * s.config.n_head * causal_numbers(s.time, window) * s.weight
    saved = 2 * q + 2 * keys + probabilities
    forward = held + raw + q  # k transposed
    seen = s.time if window is None else min(s.time, QUERY_BLOCK + window - 1)
    block = s.batch * s.config.n_head * min(s.time, QUERY_BLOCK) * seen * s.weight
    added = q if s.time > QUERY_BLOCK else 0
    if s.config.dropout:
        saved += matrix * s.weight
        # The mask is drawn before y and the probabilities exist. They are dropped a block at a
        # time.
        drawing = 3 * q + matrix * (4 + 1 + 2 * s.weight)
        forward += max(block, drawing - saved)
        added *= 2
    return Operation("attention", saved, forward, outer + s.queries + s.widened(s.queries) + 4 * q + block + added)


def causal_numbers(time: int, window: int | None = None) -> int:
    """Numbers of a (T, T) matrix that `attention_forward` computes: for each block of rows those up
    to its end, and with a window none before the first that one of its rows sees.

    >>> causal_numbers(128), causal_numbers(256), causal_numbers(256, window=65)
    (12288, 40960, 28672)
    """
    total = 0
    for start in range(0, time, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, time)
        first = 0 if window is None else max(0, start - window + 1)
        total += (stop - start) * (stop - first)
    return total


def head_norms(s: Shapes, layer: RotarySelfAttention, held: int, outer: int) -> list[Operation]:
    """RMS norms of each head's queries and keys, where the layer has them.

    They save a normed array each.
    """
    if layer.q_norm is None:
        return []
    q, k = s.queries, s.keys
    rows = s.rows * (s.config.n_head + s.kv_heads)
    saved = s.inside(q + k) + rows * 4 * (1 + s.kernels)
    scratch = s.inside(q) if not s.kernels else blocks_of_rows(rows, s.head_dim) * s.head_dim * 4
    backward = outer + 2 * q + 2 * k + s.inside(q) + scratch
    return [Operation("head norms", saved, held + 2 * q + 2 * k, backward, s.gradient(layer.q_norm, layer.k_norm))]


# -------------------------------------------------------------------------------------------------------- whole blocks


def block(s: Shapes) -> list[Operation]:
    """x = x + attention(norm(x));  x = x + mlp(norm(x)), with the layers that the model's blocks have."""
    layers = [layer for _, layer in model_of(s.config).blocks[0].children() if not isinstance(layer, Dropout)]
    first_norm, attention_layer, second_norm, mlp = layers
    outer = 3 * s.stream  # the head's dx, dy, and dx of the attention half
    half, held = ATTENTION_HALVES[type(attention_layer)](s, attention_layer, outer)
    return [
        norm("norm_1", s, first_norm, s.held_input, outer),
        *half,
        norm("norm_2", s, second_norm, held, 2 * s.stream),
        # A fused block lets go of what the attention half gave.
        *MLP_HALVES[type(mlp)](s, mlp, s.held_input if s.kernels else held, 2 * s.stream),
    ]


def packed_attention(s: Shapes, layer: CausalSelfAttention, outer: int) -> tuple[list[Operation], int]:
    """dropout(attn(x)), q, k and v of one product; and the bytes that are held while the rest of
    the block runs.

    The flash kernels read q, k and v, and write their gradients, side by side; others get copies.
    """
    c, stream, n = s.config.d_model, s.stream, s.normed
    outer, held = outer + n, s.held_input + n
    copied = stream if s.widened(stream) or s.kernels and not s.flash else 0  # of y, with a token's heads side by side
    qkv = 3 * copied if s.kernels else 0  # the product stays until the layer returns
    core = attention(s, held, outer, qkv, stream, stream)
    # the gradients once more, side by side, unless they are written there; dy for the kernel
    placed = (0 if s.flash else 3 * stream) + (copied if s.kernels else 0)
    c_attn, c_proj = ("c_attn", s, [layer.c_attn]), ("attn.c_proj", s, [layer.c_proj])
    # dy, the three gradients side by side, dx; the attention's arrays are held until it returns
    gradients = 5 * stream + core.saved
    sums = s.column_sums(3 * c) * hasattr(layer.c_attn, "bias")
    operations = [
        _product(*c_attn, (c, 3 * c), stream - n, held + 3 * stream, outer + gradients + sums),
        core._replace(backward=core.backward + placed),
        _product(*c_proj, (c, c), copied, held + qkv + stream, outer + 2 * stream),
        *branch_dropout("attn.dropout", s, held, outer - n),
    ]
    # What the attention half gave stays for the sum with x, and both on NumPy until the block
    # returns.
    return operations, held + (stream if s.kernels else 2 * stream)


def rotary_attention(s: Shapes, layer: RotarySelfAttention, outer: int) -> tuple[list[Operation], int]:
    """self_attn(x); and the bytes that are held while the rest of the block runs."""
    config, stream, q, k, n = s.config, s.stream, s.queries, s.keys, s.normed
    outer, held = outer + n, s.held_input + n
    c, width = config.d_model, config.n_head * s.head_dim
    repeated = not s.kernels and s.kv_heads != config.n_head  # NumPy gives each query head its own k and v
    kept_keys = k if s.kernels else q
    core = attention(s, held, outer, 2 * k * repeated, kept_keys, kept_keys, layer.window)
    # backward of the projections: dy, dq, dk, dv; one of them turned back and laid side by side, or
    # products and their sum
    turning = (2 * q) if s.kernels else (2 * q + 3 * s.inside(q) // 4)
    projections = outer + core.saved + 2 * q + 2 * k + max(turning, q + stream, 2 * stream + k)
    side_by_side = q if s.widened(q) or s.kernels and not s.flash else 0
    q_k_v, o = ("q, k, v", s, [layer.q_proj, layer.k_proj, layer.v_proj]), ("o_proj", s, [layer.o_proj])
    operations = [
        _product(*q_k_v, (c, width), stream - n, held + 2 * q + 2 * k, projections),
        *head_norms(s, layer, held, outer + core.saved),
        core,
        _product(*o, (width, c), side_by_side, held + 2 * k * repeated + stream, outer + 2 * q),
    ]
    return operations, held + stream  # x + attention, or attention alone in a fused block


def gelu_mlp(s: Shapes, layer: MLP, held: int, outer: int) -> list[Operation]:
    """h = gelu(x W + b);  y = dropout(h W + b)"""
    c, f, stream, inner, bias = s.config.d_model, s.config.d_ff, s.stream, s.inner, hasattr(layer.c_fc, "bias")
    n, h = s.normed, inner if s.makes_again else 0  # made again in backward
    held, outer = held + n, outer + n
    dropped = stream if s.config.dropout else 0
    outer += dropped
    if s.kernels:
        gelu = Operation("gelu", inner, held + inner, outer + 2 * inner + s.column_sums(f) * bias)
    else:
        exact = layer.approximate == "none"  # the error function's series: seven arrays beside x
        within, widened = s.inside(inner), s.widened(inner)
        forward = held + (inner if bias or widened else 0) + (5 * within if exact else inner) + widened
        gelu = Operation("gelu", 2 * within, forward, outer + inner + widened + (1 if exact else 2) * within)
    c_fc, c_proj = ("c_fc", s, [layer.c_fc]), ("mlp.c_proj", s, [layer.c_proj])
    return [
        # backward: dh, dz, dx; the layer holds what GELU saved until it returns
        _product(*c_fc, (c, f), stream - n, held + inner, outer + 2 * inner + gelu.saved + stream),
        gelu,
        _product(*c_proj, (f, c), inner - h, held + 2 * stream + h, outer + inner + h),
        *branch_dropout("mlp.dropout", s, held, outer - dropped - n),
    ]


def swiglu_mlp(s: Shapes, layer: SwiGLU, held: int, outer: int) -> list[Operation]:
    """h = silu(x W_gate) * (x W_up);  y = h W_down. NumPy keeps gate, up and the sigmoid of gate, the kernel the first two."""
    c, f, stream, inner = s.config.d_model, s.config.d_ff, s.stream, s.inner
    n, h = s.normed, inner if s.makes_again else 0  # made again in backward
    held, outer = held + n, outer + n
    within, widened = s.inside(inner), s.widened(inner)
    saved, raw = (2 if s.kernels else 3) * within, 2 * inner if widened else 0  # gate and up before they were widened
    in_place = s.device == "cuda"
    gates, down = ("gate, up", s, [layer.gate_proj, layer.up_proj]), ("down", s, [layer.down_proj])
    return [
        # backward: dgate, dup, dx, and the product that is added to it, by cuBLAS in place; what
        # SwiGLU saved is held until the layer returns
        _product(*gates, (c, f), stream - n, held + 2 * inner, outer + 2 * inner + saved + (2 - in_place) * stream),
        Operation("swiglu", saved, held + raw + inner + widened, outer + inner + widened + 2 * within),
        _product(*down, (f, c), inner - h, held + raw + 2 * stream + h, outer + inner + h),
    ]


def _product(
    name: str, s: Shapes, linears: list[Linear], shape: tuple[int, int], saved: int, forward: int, backward: int
):
    """Linear layers of the same x, one after the other: scratch of a product by a weight (I, O),
    and their gradients.
    """
    scratch = s.product(*shape)
    return Operation(name, saved, forward + scratch, backward + scratch, s.gradient(*linears))


ATTENTION_HALVES = {CausalSelfAttention: packed_attention, RotarySelfAttention: rotary_attention}
MLP_HALVES = {MLP: gelu_mlp, SwiGLU: swiglu_mlp}


# --------------------------------------------------------------------------------------------- below and above the blocks


def embedding(s: Shapes) -> list[Operation]:
    """Tokens to vectors.

    Backward sorts dy by token (S); each of u different tokens has its sum, its old and its new row.
    """
    ids = s.rows * INTEGER
    different = min(s.rows, s.config.vocab_size) * s.config.d_model * s.weight
    if s.kernels:
        partials = -(-s.rows // EMBEDDING_WINDOW) * 2 * s.config.d_model * 4
        sorting = 4 * ids + partials
    else:
        sorting = s.widened(s.stream) + s.inside(s.stream) + 2 * different + 3 * ids
    operations = [Operation("embedding", 2 * ids, 2 * s.stream, 2 * s.stream + sorting)]
    if _of_kind(s.config, Dropout):  # of the body itself: GPT-2 has one, Llama has not
        operations += branch_dropout("embd.dropout", s, s.stream, 2 * s.stream)
    return operations


def head(s: Shapes) -> list[Operation]:
    """The last norm, and the loss: a chunk of logits, and a strip of dW, at a time. dx is all that
    is saved.
    """
    config = s.config
    (last_norm,) = _of_kind(config, (LayerNorm, RMSNorm))
    chunk = min(s.rows, rows_of_chunk(s.rows, config.vocab_size, s.device, s.number))
    per_row = 5 * chunk * 8  # targets, maxima, sums
    workspace = _head_workspace(s, chunk, several=chunk < s.rows)
    return [
        norm("last norm", s, last_norm, s.held_input, -s.stream),  # its dy is the head's dx, which is counted as saved
        Operation("head and loss", s.stream, s.stream + workspace + per_row, 0),
    ]


def _of_kind(config, kind) -> list[Layer]:
    """Layers of the body, outside of its blocks."""
    return [layer for _, layer in model_of(config).body.children() if isinstance(layer, kind)]


def _head_workspace(s: Shapes, chunk: int, several: bool) -> int:
    """Logits of a chunk, and what the head's products take beside them.

    several: whether there are more chunks than one: from the second on a strip of dW is added to
    what is there, which cuBLAS does itself.
    """
    c, v = s.config.d_model, s.config.vocab_size
    width = padded_rows(v) if s.kernels else v  # a row of logits
    rows = padded_rows(v) if s.has_copies else v  # of the weight
    logits = chunk * width * (s.number if s.kernels else s.weight)
    if s.device == "cuda":
        return logits
    strip = min(v, STRIP_ROWS) * c * s.weight * several
    if s.dtype == "bfloat16" and s.kernels:  # operands widened; the product in float32, and rounded
        return logits + 6 * chunk * rows + 4 * (rows * c + chunk * c)
    rounded = {"bfloat16": 6 * chunk * v + 4 * v * c, "tf32": 4 * (chunk * v + v * c)}.get(s.dtype, 0)
    return logits + max(strip, rounded)


def padded_rows(rows: int) -> int:
    """Rows of a weight's copy in bfloat16, and numbers in a row of logits on a device."""
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


def copies(config) -> int:
    """Bytes of the copies in bfloat16 of all weights that are operands of products."""
    layers = [layer for _, layer in model_of(config).layers() if isinstance(layer, Linear)]
    shapes = {id(layer.weight): layer.weight.peek().shape for layer in layers}
    return sum(2 * padded_rows(rows) * columns for rows, columns in shapes.values())
