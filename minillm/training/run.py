"""A run folder: how it is made, checked and opened again."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minillm.backend import to_device
from minillm.data import encode_data, load_text, open_tokens, split_text, write_tokens
from minillm.data.special import END_OF_TEXT
from minillm.errors import UserError
from minillm.matmul import check_gpu
from minillm.models.adapter_files import save_adapter
from minillm.models.fine_tuning import LoRA, add_lora, freeze, with_settings
from minillm.models.folder import (
    WEIGHTS_FILE,
    config_from_dict,
    config_to_dict,
    make_model,
    save_config,
    save_weights,
)
from minillm.models.language_model import LanguageModel
from minillm.precision import weight_dtype
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer, load_tokenizer
from minillm.training.checkpoint import TRAINING_FOLDER, Progress, load_checkpoint, read_state, save_checkpoint
from minillm.training.memory import workload_of
from minillm.training.memory_advice import explained
from minillm.training.metrics import METRICS_FILE, MetricsLog
from minillm.training.settings import TrainingSettings

DEFAULT_BYTE_PAIRS = 1024  # tokens, if no number is given
TRAIN_TOKENS, VALIDATION_TOKENS = "train.npy", "validation.npy"


@dataclass
class Run:
    """A run in its folder: what is trained, on what, how, and how far it has come."""

    folder: Path
    settings: TrainingSettings
    model: LanguageModel
    optimizer: object
    tokenizer: object
    train_tokens: np.ndarray
    validation_tokens: np.ndarray
    progress: Progress
    metrics: MetricsLog

    def save(self) -> None:
        """Write a checkpoint of where the run stands."""
        self.progress.metrics_size = self.metrics.size
        description = {"settings": asdict(self.settings), "model": config_to_dict(self.model.config)}
        save_checkpoint(self.folder, self.model, self.optimizer, self.progress, description)

    def save_model(self) -> None:
        """Make the present weights the folder's model."""
        _save_as_model(self.model, self.settings, self.folder)

    def load_model(self) -> LanguageModel:
        """The folder's model, the best by validation loss so far, in the precision of its weights."""
        return from_pretrained(self.folder, weight_dtype(self.settings.dtype).name)


# ----------------------------------------------------------------------------------------------------------- a new run


def start_run(
    settings: TrainingSettings,
    model_fields: dict,
    folder: str | Path,
    overwrite: bool = False,
    device: str = "cpu",
) -> Run:
    """Make a run folder with a first checkpoint, and open it.

    model_fields: fields of the model's configuration, and model_type ("gpt2" if not given); the vocabulary's size comes from
    the text. The folder appears whole or not at all.
    Raises UserError, before anything is written, for settings, texts or folders that cannot be used.
    """
    folder = Path(folder)
    _check_free(folder, overwrite)
    check_gpu(to_device(np.zeros(1), device), settings.dtype)  # raises UserError where there is no such device
    text = load_text(list(settings.data))
    model = None
    if settings.init:
        model, tokenizer = _open_initial_model(settings, model_fields)
        config = model.config
    else:
        tokenizer = _make_tokenizer(settings, text)
        config = config_from_dict({**model_fields, "vocab_size": tokenizer.vocab_size})
    splits = [encode_data(tokenizer, part, settings.special) for part in split_text(text)]
    for name, ids, least in zip(("training", "validation"), splits, (config.context_length + 1, 2)):
        if len(ids) < least:
            raise UserError(
                f"the {name} text has {len(ids)} tokens, one window needs {least}: "
                f"use a longer text or a smaller --context-length (now {config.context_length})"
            )
    with explained(workload_of(settings, config, device)):
        _write_new_run(folder, settings, config, model, tokenizer, splits)
    return resume_run(folder, device)


def _write_new_run(folder: Path, settings: TrainingSettings, config, model, tokenizer, splits) -> None:
    """Put the folder of a run at step 0 in place. model: None for a new one."""
    if model is None:
        model = make_model(config, seed=settings.seed, dtype=settings.dtype)
    _choose_what_learns(model, settings)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / TRAINING_FOLDER).mkdir(parents=True)
        for name, ids in zip((TRAIN_TOKENS, VALIDATION_TOKENS), splits):
            write_tokens(partial / TRAINING_FOLDER / name, ids)
        tokenizer.save_pretrained(partial)
        save_config(config, partial)
        _save_as_model(model, settings, partial)
        (partial / METRICS_FILE).touch()
        description = {"settings": asdict(settings), "model": config_to_dict(config)}
        save_checkpoint(partial, model, settings.make_optimizer(model.trained_parameters()), Progress(), description)
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_tokenizer(settings: TrainingSettings, text: str) -> Tokenizer:
    """A new tokenizer, of the characters of the whole text or of the byte pairs of its training part.

    Where documents are separated by <|endoftext|> that is a token of its own, and nothing is learned from its letters.
    """
    if settings.tokenizer == "char":
        return CharacterTokenizer.train(text)
    separators = [token for token in END_OF_TEXT if token in text and settings.special != "text"][:1]
    training = split_text(text)[0]
    documents = training.split(separators[0]) if separators else training
    return BytePairTokenizer.train(documents, settings.vocab_size or DEFAULT_BYTE_PAIRS, separators)


def _open_initial_model(settings: TrainingSettings, model_fields: dict):
    """(model, tokenizer) to continue from; of the model's shape only context_length and dropout may be changed."""
    changes = {name: model_fields[name] for name in ("context_length", "dropout") if name in model_fields}
    if settings.tokenizer != TrainingSettings.tokenizer or settings.vocab_size:
        raise UserError("--tokenizer: a model that is continued from keeps its tokenizer; leave it out")
    if fixed := sorted(set(model_fields) - set(changes)):
        option = "--" + fixed[0].replace("_", "-")
        raise UserError(f"{option}: the shape of a model that is continued from stays as it is; leave it out")
    model, tokenizer = from_pretrained(settings.init, settings.dtype), tokenizer_of(settings.init)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{settings.init}: its tokenizer has {tokenizer.vocab_size} tokens, its model knows {model.config.vocab_size}"
        )
    return with_settings(model, **changes), tokenizer


def _choose_what_learns(model: LanguageModel, settings: TrainingSettings) -> None:
    if settings.lora_rank:
        add_lora(model, LoRA(settings.lora_rank), settings.seed)
    freeze(model, settings.freeze)


def _save_as_model(model: LanguageModel, settings: TrainingSettings, folder: Path) -> None:
    """Write what makes the folder a model beside its config.json: weights, or the adapter of the model it continues from."""
    if settings.lora_rank and not settings.merge:
        base = Path(settings.init)
        save_adapter(model, folder, str(base.resolve()) if base.exists() else settings.init)
    else:
        save_weights(model, folder / WEIGHTS_FILE)


def next_free_folder(name: str, parent: str | Path = "runs") -> Path:
    """runs/NAME-1, or the first number that is free."""
    number = 1
    while (Path(parent) / f"{name}-{number}").exists():
        number += 1
    return Path(parent) / f"{name}-{number}"


def _check_free(folder: Path, overwrite: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder: name another one with --out")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / METRICS_FILE).is_file():
        raise UserError(f"{folder} is not empty and holds no run: name another folder with --out")
    if not overwrite:
        raise UserError(
            f"{folder} already holds a run: continue it with --resume {folder}, replace it with --overwrite, "
            "or name another folder with --out"
        )


def _put_in_place(partial: Path, folder: Path) -> None:
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)
    else:
        os.replace(partial, folder)


# ------------------------------------------------------------------------------------------------------ an existing run


def resume_run(folder: str | Path, device: str = "cpu") -> Run:
    """Open a run folder at its last checkpoint. Raises UserError if it is incomplete."""
    folder = Path(folder)
    progress, description = read_state(folder)
    try:
        settings, config = TrainingSettings(**description["settings"]), config_from_dict(description["model"])
    except TypeError as error:
        raise UserError(f"{folder / TRAINING_FOLDER}: the stored settings are not of this version: {error}") from None
    with explained(workload_of(settings, config, device)):
        model, optimizer = _restore(folder, settings, config, progress, device)
    return Run(
        folder=folder,
        settings=settings,
        model=model,
        optimizer=optimizer,
        tokenizer=load_tokenizer(folder),
        train_tokens=open_tokens(folder / TRAINING_FOLDER / TRAIN_TOKENS, config.vocab_size),
        validation_tokens=open_tokens(folder / TRAINING_FOLDER / VALIDATION_TOKENS, config.vocab_size),
        progress=progress,
        metrics=MetricsLog(folder),
    )


def _restore(folder: Path, settings: TrainingSettings, config, progress: Progress, device: str):
    """(model, optimizer) with the weights and moments of the checkpoint, on the device."""
    model = make_model(config, seed=None, dtype=settings.dtype)
    for parameter in model.parameters().values():  # to be filled from the checkpoint
        parameter.value = np.empty(parameter.value.shape, parameter.value.dtype)
    _choose_what_learns(model, settings)
    model.loss_head.label_smoothing = settings.label_smoothing
    model.body.recompute = settings.checkpoint_activations
    model.to(device)
    optimizer = settings.make_optimizer(model.trained_parameters())
    load_checkpoint(folder, model, optimizer, progress.step)
    return model, optimizer


def check_same_settings(run: Run, given: dict) -> None:
    """Raises UserError if settings given for a resumed run differ from those that it has, naming all that do."""
    stored = {**asdict(run.model.config), **asdict(run.settings)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    differing = [
        f"{name} (the run has {stored.get(name, 'none')}, given {value})"
        for name, value in given.items()
        if name not in stored or stored[name] != value
    ]
    if differing:
        raise UserError(
            f"a resumed run keeps its settings, but these differ: {', '.join(differing)}; "
            f"leave them out, or continue from its model in a new run: --init {run.folder}"
        )
