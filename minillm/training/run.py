"""A run and its folder: creating, checking and resuming it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from minillm.backend.arrays import to_device
from minillm.backend.matmul import check_gpu
from minillm.backend.precision import weight_dtype
from minillm.backend.threads import default_workers
from minillm.data.encode_files import ALONE, Reading
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.model_sections import layout_for
from minillm.distributed.sharding import Held, Sharded, held_by
from minillm.distributed.together import text_of_rank_0, together
from minillm.errors import UserError
from minillm.files.atomic import remove_leftovers
from minillm.files.model_folder import WEIGHTS_FILE
from minillm.models.architectures import architecture_of, config_from_dict, config_to_dict, make_model
from minillm.models.carried import NOTHING
from minillm.models.fine_tuning import LoRA, add_lora, freeze, with_settings
from minillm.models.language_model import LanguageModel
from minillm.models.structure import refuse_changed
from minillm.models.whole import gathered
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.pretrained.adapter import save_adapter
from minillm.pretrained.carried import carried_from
from minillm.profiling.memory import workload_of
from minillm.profiling.memory_advice import explain_oom
from minillm.tokenizers import load_tokenizer
from minillm.training.checkpoint import (
    TRAINING_FOLDER,
    Progress,
    check_is_run,
    check_same_state,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from minillm.training.claim import Claim
from minillm.training.example_kinds import kind_of
from minillm.training.examples import Examples
from minillm.training.metrics import METRICS_FILE, MetricsLog
from minillm.training.needed import check_not_needed
from minillm.training.run_folder import check_free, claim_new_folder, put_in_place, recover
from minillm.training.settings import TrainingSettings
from minillm.training.shared_run import whole_run


@dataclass
class Run:
    """A run in its folder: model, examples, settings, optimizer and progress."""

    folder: Path
    settings: TrainingSettings
    model: LanguageModel
    optimizer: object
    tokenizer: object
    examples: Examples
    progress: Progress
    metrics: MetricsLog
    claim: Claim | None = None
    communicator: Communicator = field(default_factory=Alone)  # the ranks that train it together
    zero: int = 1  # what they share (Machine.zero)
    sharded: Sharded | None = None  # the optimizer among ranks and threads, while it trains

    def hold(self) -> None:
        """Claim the folder for this process, or for the ranks of the run by its first one.

        Raises UserError if another process has trained in it since.
        """
        with together(self.communicator):
            if self.claim is None and self.communicator.rank == 0:
                self.claim = Claim(self.folder)
                reached = read_state(self.folder)[0].step
                if reached > self.progress.step:
                    self.release()
                    raise UserError(
                        f"{self.folder} has come to step {reached} meanwhile: open it again with resume_run"
                    )

    def release(self) -> None:
        """Release the folder for other processes."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None

    def save(self) -> None:
        """Write a checkpoint: all ranks of the run together. Raises UserError for a changed model,
        which could not be resumed.
        """
        self.refuse_changed_model()
        with self.communicator.during("writing a checkpoint"):
            self._save()
        self.communicator.barrier()

    def _save(self) -> None:
        if self.communicator.rank == 0:
            self.progress.metrics_size = self.metrics.size
        description = {"settings": asdict(self.settings), "model": config_to_dict(self.model.config)}
        if self.model.sharing is not None:
            model, optimizer, held = *whole_run(self), None
        else:
            model, optimizer = self.model, self.optimizer
            is_sharded = self.sharded is not None and self.sharded.communicator is self.communicator
            held = self.sharded.held() if is_sharded else _held(self)
        save_checkpoint(self.folder, model, optimizer, self.progress, description, self.communicator, held)

    def refuse_changed_model(self) -> None:
        """Raises UserError if the model differs from the run's configuration: a resumed run would
        not have the change.
        """
        refuse_changed(self.model, "be trained as a run, which is resumed from its configuration", training=True)

    def save_config(self) -> None:
        """Write config.json and what belongs to it again, for a configuration that has changed."""
        architecture_of(self.model.config).save_config(self.model.config, self.folder, carried_from(self.folder))

    def save_model(self) -> None:
        """Save the present weights as the folder's model. All ranks have them, or a part of each
        (then they gather them); the first writes.
        """
        with self.communicator.during("writing the model"), together(self.communicator):
            model = gathered(self.model)
            if self.communicator.rank == 0:
                _save_as_model(model, self.settings, self.folder)

    def load_model(self) -> LanguageModel:
        """The folder's model: the best by validation loss so far, in its stored precision."""
        return from_pretrained(self.folder, weight_dtype(self.settings.dtype).name)


# ----------------------------------------------------------------------------------------------------------- a new run


def start_run(
    settings: TrainingSettings,
    model_fields: dict,
    folder: str | Path,
    overwrite: bool = False,
    device: str = "cpu",
    numbered: bool = False,
    workers: int = 1,
    communicator: Communicator | None = None,
    zero: int = 1,
    reading: Reading = ALONE,
) -> Run:
    """Create a run folder with a first checkpoint, and open it.

    model_fields: fields of the model's configuration, and model_type (by default that of the preset
    "default"); the size of the vocabulary comes from the text. The folder is created completely or
    not at all. numbered: use FOLDER-1, or the first free number. workers: batches get at least so
    many parts where the settings do not say. communicator: of several ranks, which all call this,
    the first one creates the folder, and all open it; zero: see `resume_run`. reading: of a large
    text. Raises UserError,
    before anything is written, for invalid settings, texts or folders, for a folder in which
    another process trains, and for one that the run needs as an input (needed.py).
    """
    ranks = communicator or Alone()
    with ExitStack() as creating:
        with together(ranks):
            if ranks.rank == 0:
                new = _new_folder(settings, model_fields, Path(folder), overwrite, device, numbered, workers, reading)
                folder = creating.enter_context(new)
        return resume_run(text_of_rank_0(ranks, str(folder)), device, ranks, zero)


@contextmanager
def _new_folder(
    settings: TrainingSettings,
    model_fields: dict,
    folder: Path,
    overwrite: bool,
    device: str,
    numbered: bool,
    workers: int,
    reading: Reading,
) -> Iterator[Path]:
    """Yields the folder of a new run, which is claimed inside."""
    if not numbered:
        recover(folder)
        check_free(folder, overwrite)
    check_not_needed(folder, settings, numbered)
    check_gpu(to_device(np.zeros(1), device), settings.dtype)  # raises UserError where there is no such device
    kind = kind_of(settings)
    source = kind.read(settings, reading)
    model = None
    if settings.init:
        model, tokenizer = _open_initial_model(settings, model_fields)
        config = model.config
    else:
        architecture = architecture_of(config_from_dict(model_fields))
        tokenizer = kind.make_tokenizer(settings, source, architecture)
        config = config_from_dict({**model_fields, "vocab_size": tokenizer.vocab_size})
    examples = kind.encode(source, settings, config, tokenizer)
    if not settings.batch_parts:
        workers = max(workers, default_workers(settings.batch_size, config.context_length, device))
        settings = replace(settings, batch_parts=workers)
    with claim_new_folder(folder, numbered) as (folder, partial):
        if folder.exists():
            check_free(folder, overwrite)  # another process may have created it meanwhile
        with explain_oom(workload_of(settings, config, device)):
            _write_new_run(partial, folder, settings, config, model, tokenizer, examples)
        yield folder


def _write_new_run(partial, folder: Path, settings: TrainingSettings, config, model, tokenizer, examples) -> None:
    """Write a run at step 0 into `partial`, and rename it to `folder`.

    model: None for a new one.
    """
    if model is None:
        model = make_model(config, seed=settings.seed, dtype=settings.dtype)
    _choose_what_learns(model, settings)
    for left in partial.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    (partial / TRAINING_FOLDER).mkdir()
    tokenizer.save_pretrained(partial)
    carried = carried_from(settings.init) if settings.init else NOTHING
    carried.write_tokenizer_config(partial)
    architecture_of(config).save_config(config, partial, carried)
    examples.write(partial)
    _save_as_model(model, settings, partial)
    (partial / METRICS_FILE).touch()
    description = {"settings": asdict(settings), "model": config_to_dict(config)}
    save_checkpoint(partial, model, settings.make_optimizer(model.trainable_parameters()), Progress(), description)
    put_in_place(partial, folder)


def _open_initial_model(settings: TrainingSettings, model_fields: dict):
    """(model, tokenizer) to continue from; only context_length and dropout of its shape may be
    changed.
    """
    changes = {name: model_fields[name] for name in ("context_length", "dropout") if name in model_fields}
    if settings.tokenizer != TrainingSettings.tokenizer or settings.vocab_size:
        raise UserError("--tokenizer: a model that is continued from keeps its tokenizer; leave it out")
    if fixed := sorted(set(model_fields) - set(changes)):
        option = "--" + fixed[0].replace("_", "-")
        raise UserError(f"{option}: the shape of a model that is continued from stays as it is; leave it out")
    model, tokenizer = from_pretrained(settings.init, settings.dtype), tokenizer_of(settings.init)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{settings.init}: its tokenizer has {tokenizer.vocab_size} tokens, its model has {model.config.vocab_size}"
        )
    return with_settings(model, settings.extend_with, **changes), tokenizer


def _choose_what_learns(model: LanguageModel, settings: TrainingSettings) -> None:
    if settings.lora_rank:
        add_lora(model, LoRA(settings.lora_rank), settings.seed)
    freeze(model, settings.freeze)


def _save_as_model(model: LanguageModel, settings: TrainingSettings, folder: Path) -> None:
    """Write the weights, or the adapter of the initial model, beside config.json."""
    if settings.lora_rank and not settings.merge:
        base = Path(settings.init)
        save_adapter(model, folder, str(base.resolve()) if base.exists() else settings.init)
    else:
        model.save_weights(folder / WEIGHTS_FILE)


# ------------------------------------------------------------------------------------------------------ an existing run


def resume_run(folder: str | Path, device: str = "cpu", communicator: Communicator | None = None, zero: int = 1) -> Run:
    """Open a run folder at its last checkpoint.

    The folder is claimed for this process until `train` returns, or the run is deleted.
    communicator: of several ranks, which all call this and open the folder; the first one claims it
    for all. zero: what they share (Machine.zero): it says which part of the optimizer's state a
    rank reads. Raises UserError, in all ranks, if it is incomplete, or another one for one of them;
    FolderInUse if another process trains in it.
    """
    folder, ranks, claim = Path(folder), communicator or Alone(), None
    try:
        with together(ranks):
            if ranks.rank == 0:
                recover(folder)
                check_is_run(folder)
                claim = Claim(folder)
                for written_to in (folder, folder / TRAINING_FOLDER):
                    remove_leftovers(written_to)
        return _open_run(folder, device, claim, ranks, zero)
    except BaseException:
        if claim is not None:
            claim.release()
        raise


def _open_run(folder: Path, device: str, claim: Claim | None, ranks: Communicator, zero: int) -> Run:
    """A run as a rank opens it: each reads all files, and of the checkpoint what it needs."""
    check_same_state(folder, ranks)
    with together(ranks):
        run = _read_run(folder, device, claim, ranks)
        run.zero = zero
    with explain_oom(workload_of(run.settings, run.model.config, device)):
        load_checkpoint(folder, run.model, run.optimizer, run.progress.step, ranks, _held(run))
    return run


def _held(run: Run) -> list[Held] | None:
    """What this rank has of the optimizer of a run that does not train yet; None: all of it."""
    ranks = run.communicator
    if ranks.size == 1:
        return None
    return held_by(run.optimizer, layout_for(run.model, run.optimizer, run.zero), ranks.rank, ranks.size)


def _read_run(folder: Path, device: str, claim: Claim | None, ranks: Communicator) -> Run:
    """The run, without the numbers of its checkpoint."""
    progress, description = read_state(folder)
    try:
        settings, config = TrainingSettings(**description["settings"]), config_from_dict(description["model"])
    except TypeError as error:
        raise UserError(f"{folder / TRAINING_FOLDER}: the stored settings are not of this version: {error}") from None
    if not settings.batch_parts:  # of a run that an older version began
        workers = default_workers(settings.batch_size, config.context_length, device)
        settings = replace(settings, batch_parts=workers)
    with explain_oom(workload_of(settings, config, device)):
        model, optimizer = _made(settings, config, device)
    tokenizer = load_tokenizer(folder)
    return Run(
        folder=folder,
        settings=settings,
        model=model,
        optimizer=optimizer,
        tokenizer=tokenizer,
        examples=kind_of(settings).open(folder, settings, config, tokenizer),
        progress=progress,
        metrics=MetricsLog(folder),
        claim=claim,
        communicator=ranks,
    )


def _made(settings: TrainingSettings, config, device: str):
    """(model, optimizer) on the device, to be filled from a checkpoint."""
    model = make_model(config, seed=None, dtype=settings.dtype)
    for parameter in model.parameters().values():
        parameter.value = np.empty(parameter.value.shape, parameter.value.dtype)
    _choose_what_learns(model, settings)
    model.loss_head.label_smoothing = settings.label_smoothing
    model.body.recompute = settings.checkpoint_activations
    model.to(device)
    return model, settings.make_optimizer(model.trainable_parameters())


def check_same_settings(run: Run, given: dict) -> None:
    """Raises UserError, naming them all, if settings given to a resumed run differ."""
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
