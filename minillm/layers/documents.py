"""Packed rows: several documents lie one after the other in a row of the batch, and none of them
sees another.

Short conversations that are padded to one length waste the padding. Packed into rows they fill the
context. What a row then needs is the border between its documents:

    starts[b, i]     the place in row b at which the document of token i begins; int32 (B, T)

>>> packed_starts([2, 3], 6)          # documents of 2 and 3 tokens, and 1 token of padding
array([0, 0, 2, 2, 2, 5], dtype=int32)

Token i sees the tokens j with starts[b, i] <= j <= i (attention.py), and its position in its
document is i - starts[b, i]. GPT-2 adds a learned vector of that position. Rotary embedding needs
no other position: a score depends on the difference of two positions alone, and that is the same in
a packed row (rotary.py).

All layers but attention compute each token independently of the others. So a packed row has the
losses and the gradients of its documents, each run alone.
"""

from __future__ import annotations

import inspect
from functools import lru_cache

import numpy as np

from minillm.backend.arrays import device_of
from minillm.errors import UserError
from minillm.layers.layer import Layer, is_per_token

MEANING = "starts[b, i] is the place in row b at which the document of token i begins"


def packed_starts(lengths, time: int) -> np.ndarray:
    """The starts (T,) of one row, int32: documents of these lengths, then one of padding up to
    `time`.
    """
    lengths = [*lengths, time - sum(lengths)]
    return np.repeat(np.cumsum([0, *lengths[:-1]]), lengths).astype(np.int32)


def check_starts(starts, shape: tuple[int, int]):
    """starts (B, T) as int32. Those of the host are checked, those of a device by their shape.

    shape: of the ids. Raises UserError for what are no starts of documents, naming the place.
    """
    if device_of(starts) == "cpu":
        starts = np.asarray(starts)
    if starts.shape != tuple(shape) or starts.dtype.kind not in "iu":
        raise UserError(
            f"starts must be whole numbers of the shape of the ids, {tuple(shape)}, not {starts.dtype} of shape "
            f"{starts.shape}: {MEANING}"
        )
    if device_of(starts) == "cpu":
        _check_documents(starts)
    return starts.astype(np.int32, copy=False)


def _check_documents(starts) -> None:
    """A token begins a document of its own, or belongs to that of the token before it."""
    place = np.arange(starts.shape[1])
    before = np.concatenate([np.zeros_like(starts[:, :1]), starts[:, :-1]], axis=1)
    wrong = (starts != place) & (starts != before)
    if not wrong.any():
        return
    row, i = (int(number) for number in np.argwhere(wrong)[0])
    found, last = int(starts[row, i]), int(before[row, i])
    if found > i or found < 0:
        why = f"a document that has token {i} begins at one of the tokens 0 to {i}"
    elif found < last:
        why = f"the document before it begins at {last}, and documents follow each other"
    else:
        why = f"a document that begins at token {found} has this number from token {found} on, and here it was {last}"
    raise UserError(f"starts[{row}, {i}] is {found}: {why}; {MEANING}")


# ------------------------------------------------------------------------------------------------- layers and starts


def forward_with(layer, x, rng_key, starts):
    """layer.forward(x, rng_key), and the starts of documents where there are any and the layer
    takes them: one that computes each token independently does not need them.

    `starts_problem` refuses all others beforehand.
    """
    if starts is None or not _takes_starts(layer):
        return layer.forward(x, rng_key)
    return layer.forward(x, rng_key, starts=starts)


def starts_problem(layer: Layer, path: str) -> str | None:
    """Why packed documents might see each other in a layer or below it, naming the first such
    layer; None where they do not.

    The layers of minillm hand starts on. A layer of your own has to take them, and then answers for
    what lies below it, or it has `per_token`.
    """
    if is_per_token(layer) or (not _is_ours(layer) and _takes_starts(layer)):
        return None
    if not _is_ours(layer):
        return (
            f"{path} is a {type(layer).__name__}, whose forward takes no starts: packed documents might see each other in it. "
            "Define forward(self, x, rng_key=None, starts=None), or set per_token = True in its class if forward computes "
            "each token independently (minillm/layers/documents.py)"
        )
    return next((why for name, child in layer.children() if (why := starts_problem(child, f"{path}.{name}"))), None)


def _is_ours(layer: Layer) -> bool:
    """Whether forward is a function of this package, also where it is observed."""
    return _package_of(_function_of(layer)) == "minillm"


def _takes_starts(layer: Layer) -> bool:
    return "starts" in _parameters_of(_function_of(layer))


def _function_of(layer: Layer):
    """Layers of a class share the function of forward; one exchanged in a layer is its own."""
    return getattr(layer.forward, "__func__", layer.forward)


@lru_cache(maxsize=256)
def _package_of(function) -> str:
    return (getattr(inspect.unwrap(function), "__module__", None) or "").partition(".")[0]


@lru_cache(maxsize=256)
def _parameters_of(function) -> frozenset[str]:
    """Their names. A step asks for them in every layer, and `inspect.signature` is slow."""
    return frozenset(inspect.signature(function).parameters)
