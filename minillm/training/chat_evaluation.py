"""The conversations, or pairs of answers, that `minillm evaluate` measures a model on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minillm.errors import UserError
from minillm.models.architectures import config_from_dict
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.training.chat_examples import ChatExamples
from minillm.training.checkpoint import read_state
from minillm.training.example_kinds import kind_of
from minillm.training.settings import TrainingSettings


def conversations_of(model: str | Path, files: Sequence[str], template: str, batch_size: int) -> ChatExamples | None:
    """Those of files, all of them as the validation part; without files those of a run that learned
    from conversations, or from pairs, or None.

    Raises UserError for files that are wrong.
    """
    tokenizer = tokenizer_of(model)
    if files:
        settings = TrainingSettings(
            init=str(model), chat_data=files, chat_validation=files, chat_template=template, batch_size=batch_size
        )
        config = from_pretrained(model).config
        return ChatExamples.encode(ChatExamples.read(settings), settings, config, tokenizer)
    try:
        _, description = read_state(Path(model))
    except UserError:
        return None
    settings = replace(TrainingSettings(**description["settings"]), batch_size=batch_size)
    kind = kind_of(settings)
    if not issubclass(kind, ChatExamples):
        return None
    return kind.open(Path(model), settings, config_from_dict(description["model"]), tokenizer)
