"""Evaluation of a model on a text: `minillm evaluate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minillm.data import encode_data, load_text, split_text
from minillm.errors import UserError
from minillm.training.checkpoint import read_state
from minillm.training.evaluation import Evaluation, evaluate_model


def run_text(sources: list[str], model_folder: Path, split: str) -> str:
    """The text of `sources`, names or files; if empty, the data of the run in `model_folder`.

    split: "all" of it, the part for "train" or the part for "validation".
    """
    if not sources:
        try:
            _, description = read_state(Path(model_folder))
        except UserError as error:
            raise UserError(f"name a text with --data ({error})") from None
        sources = list(description["settings"]["data"])
    text = load_text(sources)
    train, validation = split_text(text)
    return {"all": text, "train": train, "validation": validation}[split]


def run_special(model_folder: Path) -> str:
    """The run's setting `special`; "" (the default for data) for a model that is not a run."""
    try:
        _, description = read_state(Path(model_folder))
    except UserError:
        return ""
    return description["settings"].get("special", "")


def evaluate_text(
    model, tokenizer, text: str, batch_size: int, special: str = "", noted=lambda ids: None
) -> tuple[Evaluation, float]:
    """(evaluation of every token but the first, bits per byte of the predicted text).

    special: how special tokens in the text are read (data/special.py). noted: called with the ids
    before the evaluation begins.
    """
    ids = np.array(encode_data(tokenizer, text, special))
    noted(ids)
    if len(ids) < 2:
        raise UserError(f"the text has {len(ids)} token, at least 2 are needed: the second is predicted from the first")
    result = evaluate_model(model, ids, batch_size)
    first = tokenizer.decode([int(ids[0])])  # part of the text, or the BOS that was added
    predicted_bytes = len(text.encode("utf-8")) - (len(first.encode("utf-8")) if text.startswith(first) else 0)
    return result, result.bits_per_byte(predicted_bytes)
