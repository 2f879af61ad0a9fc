"""The results behind `minillm inspect`: a model's pass over a text, and one tensor of it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from minillm.data import encode_prompt
from minillm.errors import UserError
from minillm.inspection.checking import Check, check_tensor
from minillm.inspection.recording import Record, See, Tensor, record
from minillm.inspection.source_lines import Passage, forward_passages, gradient_passages
from minillm.layers.dropout import Dropout


@dataclass(frozen=True)
class Inspection:
    """A model, the tokens of a text, and the record of the pass that predicts all but the first."""

    model: object
    tokens: list[str]
    record: Record


@dataclass(frozen=True)
class Closer:
    """One tensor: its row, the code of forward and backward, and its check."""

    tensor: Tensor
    forward: list[Passage]
    backward: list[Passage]
    check: Check


def inspect_text(model, tokenizer, text: str, special: str = "text", see: See | None = None) -> Inspection:
    """One forward and one backward pass over a text, as in training, but with dropout off.

    special: how special tokens in the text are read (data/special.py). see: is given all arrays of
    the pass (recording.py).
    """
    ids = encoded_text(model, tokenizer, text, special)
    turn_dropout_off(model)
    tokens = [tokenizer.decode([token]) for token in ids]
    return Inspection(model, tokens, record(model, *shifted(ids), see=see))


def inspect_tensor(model, tokenizer, text: str, name: str, special: str = "text") -> Closer:
    """One tensor of that pass, in float64 on the CPU, where finite differences are precise enough.

    name: as in the record, or a parameter's name in a model folder. Raises UserError for any other
    name, and for a frozen parameter.
    """
    ids = encoded_text(model, tokenizer, text, special)
    model, tensor, gradient = gradient_in_float64(model, ids, name)
    check = check_tensor(model, *shifted(ids), tensor, gradient)
    return Closer(tensor, forward_passages(tensor), gradient_passages(tensor), check)


def gradient_in_float64(model, ids: list[int], name: str) -> tuple[object, Tensor, np.ndarray]:
    """A copy of the model in float64, and a tensor of its pass over a text with its whole gradient.

    Raises UserError as `inspect_tensor`.
    """
    name, model = name.removeprefix(f"{model.body_name}."), model.replica("float64")
    turn_dropout_off(model)
    recorded = record(model, *shifted(ids), keep=name)
    tensor = named(recorded, name)
    if name not in recorded.gradients:
        raise UserError(f"{name} is frozen: no gradient is computed for it")
    return model, tensor, recorded.gradients[name]


def encoded_text(model, tokenizer, text: str, special: str = "text") -> list[int]:
    """The ids of a text that a pass can be made over.

    Raises UserError for one token, from which none is predicted, and for more than the model's
    context.
    """
    ids, longest = encode_prompt(tokenizer, text, special), model.config.context_length + 1
    if len(ids) < 2:
        raise UserError(f"the text has {len(ids)} token, at least 2 are needed: the second is predicted from the first")
    if len(ids) > longest:
        raise UserError(f"the text has {len(ids)} tokens, this model takes {longest} at most: give it a shorter --text")
    return ids


def shifted(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """ids (1, T) and the tokens that follow them (1, T)"""
    row = np.array([ids])
    return row[:, :-1].copy(), row[:, 1:].copy()


def turn_dropout_off(model) -> None:
    """Set the probability of every dropout of a model to 0."""
    for _, layer in model.layers():
        if isinstance(layer, Dropout):
            layer.p = 0.0


def named(recorded: Record, name: str) -> Tensor:
    """The tensor of that name. Raises UserError, with names like it, where there is none."""
    tensors = {tensor.name: tensor for tensor in recorded.tensors}
    if name not in tensors:
        close = difflib.get_close_matches(name, tensors, n=4, cutoff=0.4) or list(tensors)[:4]
        raise UserError(f'no tensor is named "{name}"; there are {", ".join(close)}; the table has all')
    return tensors[name]
