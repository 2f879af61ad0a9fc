"""Reading and writing a text token by token with a key/value cache.

What is computed is what the layers compute, in their order; but nothing is remembered for backward, dropout does nothing,
and a step for one token uses few array operations, each of which costs a microsecond of Python. A token cannot be written
faster than the weights can be read from memory, and `python -m benchmarks.generate` says how close this comes.

That holds for the models and layers of this package as they are (structure.py). A model in which anything was changed writes
by its own forward pass over all visible tokens (whole_pass.py), more slowly, and says so once.
"""

from __future__ import annotations

import logging
import math

import numpy as np

from minillm.backend.arrays import array_module, to_host
from minillm.errors import UserError
from minillm.generation.whole_pass import WholePass
from minillm.layers.cached_attention import KeyValueCache, cached_attention
from minillm.layers.gelu import gelu_forward
from minillm.layers.layer_norm import layer_norm_forward
from minillm.layers.packed_linear import PackedLinear
from minillm.layers.rms_norm import rms_norm_forward
from minillm.models.gpt2 import GPT2
from minillm.models.language_model import LanguageModel
from minillm.models.structure import difference

WINDOWS = ("slide", "stop")
_log = logging.getLogger("minillm")
_noted: set[str] = set()


class ContextFull(UserError):
    """The model's context has no room for another token."""


class Decoder:
    """A model that reads a prompt in one pass and then a token at a time; each time it returns the next token's logits.

        decoder = Decoder(model)
        logits = decoder.read(ids)              # (B, T) -> (B, V): the prompt
        logits = decoder.read(token[:, None])   # (B, 1) -> (B, V): one more token

    Searches and drafts need more than the last logits, and change their mind:

        x = decoder.hidden(ids)                 # (B, t) -> (B, t, C): as `read`, up to the head
        logits = decoder.logits(x[:, 1])        # (N, C) -> (N, V)
        decoder.truncate(2)                    # the last two columns were never read
        decoder.select([0, 0, 1])               # row 0 twice, then row 1

    window: what happens when the context is full, that is, after `context_length` tokens. "stop": reading another token
    raises ContextFull; ask `room` before. "slide": the oldest quarter of the context is forgotten, and the rest is read
    again in one pass with the new token, with positions from 0. The model then sees between three quarters of its context
    and all of it, and `visible` says how much. (Forgetting one token at a time would cost a whole pass for every token,
    because the positions of all others change.) A prompt that is too long loses its beginning, or raises ContextFull.

    The weights are those that the model has when the decoder is made: make a new one after a step of training.

    why_whole: None where a key/value cache is used; otherwise what of the model no cache is known for. Everything above then
    holds, too, at the cost of a pass over all visible tokens for each call. Only `hidden` needs a model with a head: it raises
    UserError for one whose `forward` is overridden.
    """

    def __init__(self, model, window: str = "slide"):
        if window not in WINDOWS:
            raise UserError(f'window is "{window}": use one of {", ".join(WINDOWS)}')
        self.model, self.window = model, window
        self.why_whole = _why_whole(model)
        self._whole = None
        if self.why_whole is not None:
            self._whole = WholePass(model)
            _note(f"this model writes by its own pass over all visible tokens, without a cache: {self.why_whole}")
        else:
            self._pass = (GPT2Pass if isinstance(model, GPT2) else LlamaPass)(model)
            self._head = PackedLinear([model.lm_head])
        self._cache = None
        self._ids = self._padding = None  # (B, T): what is visible, to read it again after a slide; (B,)

    @property
    def visible(self) -> int:
        """How many columns of tokens the model sees."""
        return 0 if self._ids is None else self._ids.shape[1]

    @property
    def room(self) -> int:
        """How many more tokens fit into the context."""
        return self.model.config.context_length - self.visible

    def read(self, ids, padding=None):
        """ids (B, t) int, the next tokens of each row  ->  logits (B, V) of the token that follows them.

        padding (B,): with the first call, how many ids at the start of each row are none (see `left_padded`). Raises
        UserError for ids outside the vocabulary.
        """
        if self._whole:
            return self.read_last(ids, 1, padding)[:, 0]
        x = self.hidden(ids, padding)
        head = self._head if x.shape[1] == 1 else self.model.lm_head.product
        return head(x[:, -1])  # (B, C) @ (C, V)

    def read_last(self, ids, count: int, padding=None):
        """As `read`, with logits (B, count, V) of what follows each of the last `count` of the columns that are read."""
        if self._whole:
            self._take_in(ids, padding)
            return self._whole.logits(self._ids, self._padding, count)
        x = self.hidden(ids, padding)[:, -count:]
        logits = self._head(x.reshape(-1, x.shape[-1]))  # (B count, C) @ (C, V)
        return logits.reshape(*x.shape[:2], -1)

    def logits(self, x):
        """x (N, C), vectors that `hidden` returned  ->  logits (N, V) of the tokens that follow them."""
        return self._whole.head(x) if self._whole else self._head(x)  # (N, C) @ (C, V)

    def hidden(self, ids, padding=None):
        """Reads as `read` does; returns what the head sees of each column that was computed, x (B, n, C).

        These are the t columns of ids, or all visible ones where the prompt was cut or the oldest slid away: n is then
        equal to `visible`.
        """
        new = self._take_in(ids, padding)
        if self._whole:
            return self._whole.hidden(self._ids, self._padding)[:, -new:]
        if new == self._ids.shape[1]:
            self._cache = self._new_cache()
        self._cache.reserve(new)
        x = self._pass.hidden(self._ids[:, -new:], self._cache)
        self._cache.advance(new)
        return x

    def _take_in(self, ids, padding) -> int:
        """Make `ids` visible; returns how many of the visible columns are to be computed, the last ones or all of them."""
        ids = _ids_for(self.model, ids)
        context = self.model.config.context_length
        if self._ids is None:
            padding = _checked_padding(padding, ids)
            if ids.shape[1] > context:
                self._refuse_if_stopping(f"the prompt has {ids.shape[1]} tokens, more than")
                padding = None if padding is None else np.maximum(padding - (ids.shape[1] - context), 0)
                ids = ids[:, -context:]
            self._ids, self._padding = ids, padding
            return ids.shape[1]
        if padding is not None:
            raise ValueError("padding belongs to the prompt: give it with the first call of read")
        fits = ids.shape[1] <= self.room
        if not fits:
            self._refuse_if_stopping(f"there are {self._ids.shape[1] + ids.shape[1]} tokens, more than")
        self._ids = array_module(ids).concatenate([self._ids, ids], axis=1)
        if fits:
            return ids.shape[1]
        kept = min(context, context - max(1, context // 4) + ids.shape[1])
        if self._padding is not None:
            self._padding = np.maximum(self._padding - (self._ids.shape[1] - kept), 0)
        self._ids = self._ids[:, -kept:]
        return kept

    def truncate(self, count: int) -> None:
        """The last `count` columns count as never read. At least one must stay, and what slid away does not return."""
        if not 0 <= count < max(self.visible, 1):
            raise ValueError(f"{count} columns cannot be taken back: {self.visible} are visible, and one must stay")
        if count:
            if self._cache:
                self._cache.advance(-count)
            self._ids = self._ids[:, :-count]

    def select(self, rows) -> None:
        """Go on with these rows of the batch, in this order. A row may be kept several times, as a beam that forks."""
        xp = array_module(self._ids)
        rows = xp.asarray(rows)
        padding = None if self._padding is None else self._padding[to_host(rows)]
        before, self._ids = self._ids, self._ids[rows]
        start = None
        if len(rows) == len(before) and (padding is None or (padding == self._padding).all()):
            changed = (self._ids != before).any(axis=0)
            start = int(changed.argmax()) if changed.any() else self.visible
        self._padding = padding
        if self._cache:
            self._cache.select(rows, start)

    def _new_cache(self) -> KeyValueCache:
        like, config = self.model.lm_head.weight.value, self.model.config
        kv_heads = getattr(config, "n_kv_head", config.n_head)
        width = getattr(config, "head_dim", config.d_model // config.n_head)
        return KeyValueCache(config.n_layer, len(self._ids), kv_heads, width, like, self._padding)

    def _refuse_if_stopping(self, what: str) -> None:
        if self.window == "stop":
            raise ContextFull(f"{what} the model's context_length of {self.model.config.context_length}")


def reader(model, window: str = "slide"):
    """A function from new ids (B, t) to the logits (B, V) of what follows all ids so far: a Decoder's `read`.

    For anything else that has `next_token_logits` and a configuration, all visible ids are computed at each call: the last
    ones, as many as the context holds.
    """
    if isinstance(model, LanguageModel):
        return Decoder(model, window).read
    context, whole, seen = model.config.context_length, WholePass(model), []

    def read(ids, padding=None):
        seen.append((np.asarray(ids), padding))
        ids = np.concatenate([each for each, _ in seen], axis=1)
        padding = _checked_padding(seen[0][1], ids)
        if padding is not None:
            padding = np.maximum(padding - max(0, ids.shape[1] - context), 0)
        return whole.logits(ids[:, -context:], padding, 1)[:, 0]

    return read


def left_padded(prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of unequal length as one batch: ids (B, T), zeros at the left of shorter rows, and their number (B,).

    >>> left_padded([[7, 8, 9], [5]])
    (array([[7, 8, 9],
           [0, 0, 5]]), array([0, 2]))
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise UserError("every prompt needs at least one token to continue from")
    longest = max(len(prompt) for prompt in prompts)
    padding = np.array([longest - len(prompt) for prompt in prompts])
    ids = np.zeros((len(prompts), longest), np.int64)
    for row, prompt, first in zip(ids, prompts, padding):
        row[first:] = prompt
    return ids, padding


def _why_whole(model) -> str | None:
    """What of a model is not as its configuration describes it, so that no cache is known for it."""
    if not isinstance(model, LanguageModel):
        return f"{type(model).__name__} is no model of minillm's own"
    if (why := difference(model)) is not None:
        return why
    like = model.lm_head.weight.value.dtype
    names = [name for name, parameter in model.parameters().items() if parameter.value.dtype != like]
    return f"{names[0]} has another dtype than the head" if names else None


def _note(message: str) -> None:
    """One line, the first time."""
    if message not in _noted:
        _noted.add(message)
        _log.warning(message)


def _ids_for(model, ids):
    return model._ids_on_device(ids, "ids") if isinstance(model, LanguageModel) else np.asarray(ids)


def _checked_padding(padding, ids):
    if padding is None:
        return None
    padding = np.asarray(padding)
    if padding.shape != (len(ids),) or padding.dtype.kind not in "iu":
        raise ValueError(f"padding has shape {padding.shape}: expected a whole number for each of {len(ids)} rows")
    if (padding < 0).any() or (padding >= ids.shape[1]).any():
        raise ValueError(f"padding is {padding.tolist()}: each row of {ids.shape[1]} ids needs at least one token")
    return padding


# ------------------------------------------------------------------------------------- the layers, without backward


class GPT2Pass:
    """What GPT2 computes below its head, for tokens that follow those in a cache."""

    def __init__(self, model):
        self.body, self.n_head = model.transformer, model.config.n_head

    def hidden(self, ids, cache):
        """ids (B, t)  ->  x (B, t, C)"""
        body, (batch, time) = self.body, ids.shape
        x = body.wte.weight.value[ids] + body.wpe.weight.value[cache.positions(time)]  # (B, t, C)
        x = x.reshape(batch * time, -1)  # from here on rows, one for each token: N = B t
        heads = (batch, time, 3, self.n_head, x.shape[1] // self.n_head)
        for index, block in enumerate(body.h):
            qkv = block.attn.c_attn.product(_layer_norm(x, block.ln_1), with_bias=True)  # (N, C) @ (C, 3C)
            q, k, v = qkv.reshape(heads).transpose(2, 0, 3, 1, 4)  # 3 times (B, H, t, D)
            y = cached_attention(q, *cache.put(index, k, v), cache.padding)
            x += block.attn.c_proj.product(_side_by_side(y), with_bias=True)
            mlp = block.mlp
            h = mlp.c_fc.product(_layer_norm(x, block.ln_2))  # (N, C) @ (C, F)
            h = gelu_forward(h, mlp.c_fc.bias.value if hasattr(mlp.c_fc, "bias") else None, mlp.approximate)[0]
            x += mlp.c_proj.product(h, with_bias=True)  # (N, F) @ (F, C)
        return _layer_norm(x, body.ln_f).reshape(batch, time, -1)


class LlamaPass:
    """What Llama computes below its head, for tokens that follow those in a cache."""

    def __init__(self, model):
        self.body, self.config = model.model, model.config
        self.blocks = [
            (
                block,
                PackedLinear([getattr(block.self_attn, f"{part}_proj") for part in "qkv"]),
                PackedLinear([block.self_attn.o_proj]),
                PackedLinear([block.mlp.gate_proj, block.mlp.up_proj]),
            )
            for block in self.body.blocks
        ]

    def hidden(self, ids, cache):
        """ids (B, t)  ->  x (B, t, C)"""
        config, (batch, time) = self.config, ids.shape
        x = self.body.embed_tokens.weight.value[ids.reshape(-1)]  # rows, one for each token: (N, C), N = B t
        heads = (batch, time, config.n_head + 2 * config.n_kv_head, config.head_dim)
        turned = config.n_head + config.n_kv_head  # queries and keys; values stay as they are
        turn = self._rotation(cache, time, x)
        for index, (block, qkv_product, o_product, gate_up_product) in enumerate(self.blocks):
            qkv = qkv_product(_rms_norm(x, block.input_layernorm)).reshape(heads)  # (B, t, H + 2 H_kv, D)
            qk = turn(qkv[:, :, :turned]).swapaxes(1, 2)  # (B, H + H_kv, t, D)
            k, v = cache.put(index, qk[:, config.n_head :], qkv[:, :, turned:].swapaxes(1, 2))
            y = cached_attention(qk[:, : config.n_head], k, v, cache.padding)
            x += o_product(_side_by_side(y))
            gate_up = gate_up_product(_rms_norm(x, block.post_attention_layernorm))  # (N, C) @ (C, 2F)
            h = _swiglu(gate_up[:, : config.d_ff], gate_up[:, config.d_ff :])
            x += block.mlp.down_proj.product(h, with_bias=True)  # (N, F) @ (F, C)
        return _rms_norm(x, self.body.norm).reshape(batch, time, -1)

    def _rotation(self, cache, time, like):
        """A function that turns (B, t, heads, D) by the positions of the next `time` columns.

        With the two halves of a pair's plane side by side, y = x (cos, cos) + (x_b, x_a) (-sin, sin): three operations.
        """
        positions = self.body.blocks[0].self_attn.positions
        tables = positions.tables(cache.length + time, like)
        at = slice(cache.length, None) if cache.padding is None else cache.positions(time)
        cos, sin = (table[at][..., None, :] for table in tables)  # (t, 1, D/2); (B, t, 1, D/2) where rows are padded
        xp, axis = array_module(like), -1 if positions.interleaved else -2  # where the two of a pair stand
        cos, sin = xp.stack([cos, cos], axis=axis), xp.stack([-sin, sin], axis=axis)  # (..., 1, 2, D/2)
        pairs, other = sin.shape[-2:], (..., slice(None, None, -1)) + (slice(None),) * (-1 - axis)

        def turn(x):
            p = x.reshape(*x.shape[:-1], *pairs)
            y = p * cos
            y += p[other] * sin
            return y.reshape(x.shape)

        return turn


def _side_by_side(y):
    """(B, H, t, D) -> (N, H D)"""
    batch, heads, time, width = y.shape
    return y.swapaxes(1, 2).reshape(batch * time, heads * width)


def _swiglu(gate, up):
    """g / (1 + exp(-g)) u, as g/2 (1 + tanh(g/2)) u: swiglu.py, without what backward needs."""
    t = gate * gate.dtype.type(0.5)
    h = t * up
    array_module(t).tanh(t, out=t)
    t += 1
    h *= t
    return h


def _rms_norm(x, layer):
    if len(x) > 1 or array_module(x) is not np:
        return rms_norm_forward(x, layer.weight.value, layer.eps)[0]
    row = x[0]  # one token: half of the operations
    y = x * layer.weight.value
    y *= y.dtype.type(1 / math.sqrt(float(row.dot(row)) / row.size + layer.eps))
    return y


def _layer_norm(x, layer):
    bias = layer.bias.value if hasattr(layer, "bias") else None
    if len(x) > 1 or array_module(x) is not np:
        return layer_norm_forward(x, layer.weight.value, bias, layer.eps)[0]
    y = x - x.dtype.type(float(x.sum()) / x.size)
    row = y[0]
    rstd = 1 / math.sqrt(float(row.dot(row)) / row.size + layer.eps)
    y *= layer.weight.value
    y *= y.dtype.type(rstd)
    if bias is not None:
        y += bias
    return y
