"""Reading and generating a text token by token with a cache.

Each layer computes the new tokens in its `decode`, the third direction beside forward and backward;
the cache holds what it needs of earlier tokens (layers/cache.py). A token cannot be generated
faster than the weights can be read from memory: `python -m benchmarks.generate` measures how close
this comes.

A model with a layer that has no `decode` of its own, or with an exchanged `forward`, generates by
its own forward pass over all visible tokens (whole_pass.py). That is slower, and is logged once.
"""

from __future__ import annotations

import logging

import numpy as np

from minillm.backend.arrays import array_module, device_of, to_device, to_host
from minillm.backend.precision import upcast
from minillm.errors import UserError
from minillm.generation.token_graph import TokenGraph
from minillm.generation.whole_pass import WholePass
from minillm.kernels import kernel_for
from minillm.layers.cache import Cache
from minillm.layers.decoding import is_decode_of, products
from minillm.layers.linear import Linear
from minillm.layers.rotary_attention import RotaryPositions
from minillm.models.language_model import LanguageModel

WINDOWS = ("slide", "stop")
_log = logging.getLogger("minillm")
_noted: set[str] = set()


class ContextFull(UserError):
    """The model's context has no room for another token."""


class Decoder:
    """A model that reads a prompt in one pass and then a token at a time; each time it returns the
    next token's logits.

        decoder = Decoder(model)
        logits = decoder.read(ids)              # (B, T) -> (B, V): the prompt
        logits = decoder.read(token[:, None])   # (B, 1) -> (B, V): one more token

    Searches and drafts need more than the last logits, and change their mind:

        x = decoder.hidden(ids)                 # (B, t) -> (B, t, C): as `read`, up to the head
        logits = decoder.logits(x[:, 1])        # (N, C) -> (N, V)
        decoder.truncate(2)                     # the last two columns were never read
        decoder.reorder([0, 0, 1])              # row 0 twice, then row 1

    window: what happens when the context is full, that is, after `context_length` tokens. "stop":
    reading another token raises ContextFull; `remaining` says how many fit. "slide": the oldest
    quarter of the context is forgotten, and the rest is read again in one pass with the new token,
    with positions from 0. The model then sees between three quarters of its context and all of it,
    and `visible` says how much. (Forgetting one token at a time would cost a whole pass for every
    token, because the positions of all others change.) A prompt that is too long loses its
    beginning, or raises ContextFull.

    Where the angles of rotary embedding depend on the length of the text (rotary_scaling.py:
    dynamic beyond the original context, longrope at its border), the cache is forgotten whenever
    they change, and all visible columns are read again: what is written is then what whole passes
    write. dynamic so costs a pass over all visible tokens for each token beyond the original
    context, longrope one such pass in all.

    The weights are those that the model has when the decoder is made: make a new one after a step
    of training.

    why_whole: None where a cache is used; otherwise what of the model cannot use one. Everything
    above then holds, too, at the cost of a pass over all visible tokens for each call. Only
    `hidden` needs a model with a head: it raises UserError for one whose `forward` is overridden.
    """

    def __init__(self, model, window: str = "slide", packed: dict | None = None):
        """packed: what several decoders of one model share, so that its weights are copied once for
        all of them (`Cache.packed`): a dict, empty at first. Raises UserError for an unknown
        `window`.
        """
        if window not in WINDOWS:
            raise UserError(f'window is "{window}": use one of {", ".join(WINDOWS)}')
        self.model, self.window = model, window
        self.why_whole = _why_whole(model)
        self._whole = None
        if self.why_whole is not None:
            self._whole = WholePass(model)
            _note(f"this model generates by its own pass over all visible tokens, without a cache: {self.why_whole}")
        self._cache, self._packed, self._graph = None, packed, None
        if self._whole is None:
            self._like = next(iter(model.parameters().values())).peek()  # where the model is
            if device_of(self._like) == "cuda":
                self._graph = TokenGraph(model)
        self._positions, self._stages = _depending_on_length(model), None  # of what is in the cache, for each row
        self._ids = self._padding = None  # (B, T): what is visible, to read it again after a slide; (B,)

    @property
    def visible(self) -> int:
        """How many columns of tokens the model sees."""
        return 0 if self._ids is None else self._ids.shape[1]

    @property
    def remaining(self) -> int:
        """How many more tokens fit into the context."""
        return self.model.config.context_length - self.visible

    @property
    def cached(self) -> int:
        """How many of the visible columns are in the cache: the others are read again with the next
        ones.
        """
        return self._cache.length if self._cache else 0

    def read(self, ids, padding=None):
        """The next tokens of each row, ids (B, t) int  ->  logits (B, V) of the token after them.

        padding (B,): with the first call, how many ids at the start of each row are none (see
        `left_padded`). Raises UserError for ids outside the vocabulary, ContextFull where the
        window is "stop" and the context is full, ValueError for padding that does not fit ids, or
        that comes with a later call.
        """
        return self.read_last(ids, 1, padding)[:, 0]

    def read_last(self, ids, count: int, padding=None):
        """As `read`, errors included, with logits (B, count, V) of what follows each of the last
        `count` of the columns that are read.
        """
        if count > 1 and self._angles_change(ids.shape[1], count, padding):
            first = ids.shape[1] - count + 1
            each = [ids[:, :first], *(ids[:, i : i + 1] for i in range(first, ids.shape[1]))]
            logits = [self.read_last(part, 1, None if i else padding) for i, part in enumerate(each)]
            return array_module(logits[0]).concatenate(logits, axis=1)
        if self._whole:
            self._append(ids, padding)
            return self._whole.logits(self._ids, self._padding, count)
        x = self._decoded(ids, padding)
        return self.logits(x[:, -count:])  # (B, count, C) @ (C, V)

    def logits(self, x):
        """x (..., C) that `hidden` returned  ->  logits (..., V) of the tokens after them."""
        if self._whole:
            return self._whole.head(x)
        head, cache = self.model.lm_head, self._cache
        if not cache.on_device:
            return head.decode(x, cache)
        x = x if cache.dtype is None else x.astype(cache.dtype, copy=False)
        if is_decode_of(head, Linear):
            return products(x, (head,), cache, dtype=self._like.dtype)[0]
        return head.decode(x, cache).astype(self._like.dtype, copy=False)

    def hidden(self, ids, padding=None):
        """As `read`; returns the input of the head, x (B, n, C), for each column that was computed.

        These are the t columns of ids, or all visible ones where the prompt was cut, the oldest
        slid away, or more was truncated than a windowed layer keeps: n is then equal to `visible`.
        """
        if self._whole:
            new = self._append(ids, padding)
            return self._whole.hidden(self._ids, self._padding)[:, -new:]
        return upcast(self._decoded(ids, padding))

    def _decoded(self, ids, padding):
        """As `hidden`, with a cache; x has the dtype in which it travels between layers."""
        new = self._append(ids, padding)
        stages, before = self._stages_of(self.visible, self._padding), self._stages
        self._stages = stages
        if self._cache is None:
            self._cache = Cache(
                self._like, len(self._ids), self._padding, self._packed, _dtype_between_layers(self.model)
            )
        elif new == self.visible or stages != before:
            self._cache.restart(self._padding)
        cache = self._cache
        ids = self._ids[:, cache.length :]
        try:
            x = self._graph.replayed(ids, cache) if self._graph else None
            if x is None:
                place, ids = _with_place(ids, cache)
                cache.start(ids.shape[1], place)
                x = self.model.body.decode(ids, cache)
                if self._graph:
                    self._graph.note_pass(cache)
        except BaseException:
            cache.restart(self._padding)  # some layers may have appended their columns: the next call reads all again
            raise
        cache.advance()
        return x

    def _append(self, ids, padding) -> int:
        """Make `ids` visible; returns how many of the visible columns are new, the last ones or all
        of them.
        """
        ids = _ids_for(self.model, ids, self._whole is not None)
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
        fits = ids.shape[1] <= self.remaining
        if not fits:
            self._refuse_if_stopping(f"there are {self._ids.shape[1] + ids.shape[1]} tokens, more than")
        self._ids = array_module(ids).concatenate([self._ids, ids], axis=1)
        if fits:
            return ids.shape[1]
        kept = visible_after_slide(context, ids.shape[1])
        if self._padding is not None:
            self._padding = np.maximum(self._padding - (self._ids.shape[1] - kept), 0)
        self._ids = self._ids[:, -kept:]
        return kept

    def truncate(self, count: int) -> None:
        """The last `count` columns count as never read. At least one must stay, and what slid away
        does not return. Raises ValueError for a larger or negative count.
        """
        if not 0 <= count < max(self.visible, 1):
            raise ValueError(f"{count} columns cannot be taken back: {self.visible} are visible, and one must stay")
        if count:
            if self._cache:
                self._cache.truncate(count)
            self._ids = self._ids[:, :-count]

    def reorder(self, rows) -> None:
        """Go on with these rows of the batch, in this order. A row may be kept several times, as a
        beam that forks.
        """
        xp = array_module(self._ids)
        rows = xp.asarray(rows if self._whole or device_of(rows) == "cpu" else to_host(rows))
        padding = None if self._padding is None else self._padding[to_host(rows)]
        before, self._ids = self._ids, self._ids[rows]
        start = None
        if len(rows) == len(before) and (padding is None or (padding == self._padding).all()):
            changed = (self._ids != before).any(axis=0)
            start = int(changed.argmax()) if changed.any() else self.visible
        self._padding = padding
        if self._stages is not None and padding is not None:
            self._stages = [self._stages[row] for row in to_host(rows)]
        if self._cache:
            self._cache.reorder(to_device(rows, device_of(self._like)), start)

    def _stages_of(self, columns: int, padding) -> list | None:
        """For each row of so many columns (one for all, without padding), the stage of its length:
        where it is the same, the angles are. None where they never change.
        """
        if not self._positions:
            return None
        lengths = [columns] if padding is None else (columns - np.asarray(padding)).tolist()
        return [tuple(positions.stage(length) for positions in self._positions) for length in lengths]

    def _angles_change(self, new: int, count: int, padding) -> bool:
        """Whether the last `count` of `new` columns that come differ in their angles."""
        padding = self._padding if self._ids is not None else padding
        last = min(self.visible + new, self.model.config.context_length) if self._positions else 0
        return self._stages_of(last - count + 1, padding) != self._stages_of(last, padding)

    def _refuse_if_stopping(self, what: str) -> None:
        if self.window == "stop":
            raise ContextFull(f"{what} the model's context_length of {self.model.config.context_length}")


def visible_after_slide(context: int, count: int = 1) -> int:
    """How many columns are visible after a slide that makes room for `count` new ones, these
    included.

    >>> visible_after_slide(64), visible_after_slide(64, 40)
    (49, 64)
    """
    return min(context, context - max(1, context // 4) + count)


def reader(model, window: str = "slide"):
    """A Decoder's `read`: from new ids (B, t) to the logits (B, V) of what follows all ids so far.

    For anything else that has `next_token_logits` and a configuration, all visible ids are computed
    at each call: the last ones, as many as the context holds.
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
    """Prompts as one batch: ids (B, T), zeros at the left of shorter rows, and their number (B,).

    Raises UserError for no prompt, or one without tokens.

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


def _depending_on_length(model) -> list[RotaryPositions]:
    """The tables of a model's layers whose angles depend on the length of the text, each once."""
    layers = [layer for _, layer in model.layers()] if isinstance(model, LanguageModel) else []
    tables = [each for layer in layers if isinstance(each := getattr(layer, "positions", None), RotaryPositions)]
    return [each for each in dict.fromkeys(tables) if each.depend_on_length]


def _why_whole(model) -> str | None:
    """Why a model cannot decode with a cache, naming the place; None where it can."""
    if not isinstance(model, LanguageModel):
        return f"{type(model).__name__} is no model of minillm's own"
    if (why := model.decode_problem()) is not None:
        return why
    weights = {name: parameter.value for name, parameter in model.parameters().items()}
    (first, like), *_ = weights.items()
    for name, value in weights.items():
        if value.dtype != like.dtype:
            return f"{name} has another dtype than {first}"
    return None


def _note(message: str) -> None:
    """One line, the first time."""
    if message not in _noted:
        _noted.add(message)
        _log.warning(message)


def _ids_for(model, ids, whole: bool):
    """ids as an array; in host memory where they are for a cache, whose passes take them with their
    place.
    """
    if not isinstance(model, LanguageModel):
        return np.asarray(ids)
    if whole:
        return model._ids_on_device(ids, "ids")
    ids = model.checked_ids(ids if device_of(ids) == "cpu" else to_host(ids), "ids")
    return ids.astype(np.int64, copy=False)  # with uint64 NumPy makes floats of the place and the ids


def _with_place(ids, cache):
    """The place and the ids (B, t) of a pass on the device of a cache, in one copy; the ids alone
    in host memory.
    """
    if not cache.on_device:
        return None, ids
    numbers = cache.to_device(np.concatenate([[cache.length], ids.reshape(-1)]))
    return numbers[:1], numbers[1:].reshape(ids.shape)


def _dtype_between_layers(model):
    """In which dtype x travels on a device, where kernels compute; None: as the weights."""
    body = model.body
    return (
        getattr(body, "activations", None)
        if kernel_for("attention", next(iter(body.parameters().values())).peek())
        else None
    )


def _checked_padding(padding, ids):
    if padding is None:
        return None
    padding = np.asarray(padding)
    if padding.shape != (len(ids),) or padding.dtype.kind not in "iu":
        raise ValueError(f"padding has shape {padding.shape}: expected a whole number for each of {len(ids)} rows")
    if (padding < 0).any() or (padding >= ids.shape[1]).any():
        raise ValueError(f"padding is {padding.tolist()}: each row of {ids.shape[1]} ids needs at least one token")
    return padding
