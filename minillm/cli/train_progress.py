"""What `minillm train` shows while it works."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from minillm.cli.terminal import waiting
from minillm.cli.text_progress import say_if_alone, text_progress
from minillm.cli.train_notes import notes
from minillm.data.encode_files import Reading
from minillm.data.text_files import large_files
from minillm.distributed.launch import cores_of, world
from minillm.distributed.machine import Machine
from minillm.errors import UserError
from minillm.files.atomic import describe_os_error
from minillm.kernels.simulator.toolchain import seconds_compiling
from minillm.profiling.memory import workload_of
from minillm.profiling.memory_advice import explain_oom
from minillm.profiling.profile import WARM_UP_STEPS, StepProfile
from minillm.profiling.profile_table import profile_table
from minillm.training import (
    Evaluation,
    Reporter,
    Run,
    check_same_settings,
    resume_run,
    start_run,
    train,
)
from minillm.training.evaluation import evaluate_whole
from minillm.training.examples import VALIDATION
from minillm.training.from_preset import check_model_of_preset, settings_from
from minillm.training.overfitting import remedies

RUNS = "runs"  # the folder of runs without --out
WIDE = 100  # columns from which on the progress bar is longer and has the gradient's norm
HEADING = "loss and {beside}: on the {training} / on the {validation}"
OF_PAIRS = "accuracy and margin of the rewards"


def train_and_show(
    given: dict,
    preset_name: str | None,
    out: Path | None,
    overwrite: bool,
    resume: Path | None,
    stop_after: int | None,
    device: str,
    profile: bool = False,
    machine: Machine | None = None,
) -> None:
    """Start or resume a run with the settings given at the command line, train it, and say what
    came of it.
    """
    if stop_after is not None and stop_after < 0:
        raise UserError(f"--stop-after is {stop_after}: it must be a step, 0 or later")
    console = Console(stderr=True, highlight=False)
    machine, communicator = machine or Machine(), world(device)
    with _reading_the_text(given, machine, communicator, console) as reading:
        run = _open_run(given, preset_name, out, overwrite, resume, device, machine, communicator, reading)
    _describe(run, console)
    options = dict(preset=preset_name, out=out, overwrite=overwrite, stop_after=stop_after, resume=resume)
    for note in notes(run, {**given, **{name: value for name, value in options.items() if value not in (None, False)}}):
        console.print(f"[yellow]{escape(note)}[/]")
    reporter = ProgressReporter(run, console)
    learning = sum(parameter.value.size for parameter in run.model.trainable_parameters().values())
    try:
        with closing(reporter), explain_oom(workload_of(run.settings, run.model.config, device, learning)):
            reason = train(run, reporter, stop_after, profile, machine=machine)
    except BrokenPipeError:  # standard error was closed by its reader
        raise
    except OSError as error:
        raise UserError(
            f"{describe_os_error(error)}; the run is kept as it was saved last: then continue with "
            f"minillm train --resume {shlex.quote(str(run.folder))}"
        ) from None
    if communicator.rank == 0:
        _say_what_came_of_it(run, reason, profile and not reporter.has_profiled, console)
    communicator.close()


@contextmanager
def _reading_the_text(given: dict, machine: Machine, communicator, console: Console) -> Iterator[Reading]:
    """How a large text is read, with what is shown meanwhile. Ranks that a launcher has started
    have the cores: one of them reads.
    """
    workers = machine.workers if communicator.size == 1 else 1
    if large_files(given.get("data", ())):
        say_if_alone(workers)
        with text_progress(console) as report:
            yield Reading(workers, report)
    else:
        with waiting("reading the text", plain=False):
            yield Reading(workers)


def _say_what_came_of_it(run: Run, reason: str, lacks_profile: bool, console: Console) -> None:
    if lacks_profile:
        console.print(
            f"--profile: no step was taken apart: that takes {WARM_UP_STEPS + 2} steps, and some more on a GPU"
        )
    if reason == "stopped":
        console.print(f"stopped and saved at step {run.progress.step}; continue with:")
        console.print(f"  minillm train --resume {shlex.quote(str(run.folder))}", soft_wrap=True)
        return
    _conclude(run, reason, console)


def _open_run(given, preset_name, out, overwrite, resume, device, machine: Machine, communicator, reading) -> Run:
    if resume is not None:
        if preset_name or out or overwrite:
            name = "--preset" if preset_name else "--out" if out else "--overwrite"
            raise UserError(f"--resume continues a run with the settings that it has: leave out {name}")
        run = resume_run(resume, device, communicator, machine.zero)
        check_same_settings(run, given)
        return run
    check_model_of_preset(given, preset_name)
    settings, model, name = settings_from(given, preset_name)
    workers = machine.threads_in_all
    if communicator.size > 1:
        workers = min(settings.batch_size, communicator.size * (machine.threads or cores_of(communicator)))
    ranks = dict(workers=workers, communicator=communicator, zero=machine.zero, reading=reading)
    return start_run(settings, model, out or Path(RUNS) / name, overwrite, device, out is None, **ranks)


def _describe(run: Run, console: Console) -> None:
    config, settings = run.model.config, run.settings
    count = sum(parameter.value.size for parameter in run.model.parameters().values())
    layers = "1 layer" if config.n_layer == 1 else f"{config.n_layer} layers"
    console.print(
        f"{type(run.model).__name__} with {count:,} parameters:\n{layers}, {config.n_head} heads, "
        f"d_model {config.d_model}, context {config.context_length}, vocabulary {config.vocab_size}"
    )
    if (scaling := getattr(config, "rope_scaling", None)) is not None:
        console.print(f"rotary scaling: {scaling.title}")
    learning = sum(parameter.value.size for parameter in run.model.trainable_parameters().values())
    if learning < count:
        console.print(f"{learning:,} of them learn")
    for line in run.examples.summary(settings, run.tokenizer):
        console.print(line, markup=False)
    if run.progress.step:
        console.print(f"resuming {run.folder} at step {run.progress.step} of {settings.max_steps}")


def _conclude(run: Run, reason: str, console: Console) -> None:
    """The end of training: the folder's model on the whole validation text, where it is, and how to
    let it write.
    """
    progress = run.progress
    model = run.load_model().to("cuda" if run.model.device == "cuda" else "cpu")  # the simulator would take too long
    whole = run.examples.whole_validation
    with waiting(f"evaluating the best model on {whole}"):
        validation = evaluate_whole(model, run.examples, VALIDATION)
    if reason == "early stop":
        console.print(
            f"stopped early at step {progress.step}: no better validation loss since step {progress.best_step}"
        )
    counted = f"{validation.tokens:,} {run.examples.objective.counted}"
    console.print(
        f"[bold]best model: step {progress.best_step}[/], on {whole} ({counted}):\n"
        f"loss {validation.loss:.4f}, {_beside(validation)}"
    )
    if progress.overfitting_since is not None:
        advice = remedies(run.settings, run.model.config.dropout)
        console.print(f"[yellow]overfitting since step {progress.overfitting_since}; {advice}[/]")
    console.print(f"wrote {run.folder}; let it write:")
    options = run.examples.options_to_try(run.tokenizer, partial(_can_be_shown, console))
    console.print(Text(f"  minillm generate {shlex.quote(str(run.folder))} {options}".rstrip()), soft_wrap=True)


def _can_be_shown(console: Console, text: str) -> bool:
    """Whether the terminal has all characters of a text; it would show "?" for the others."""
    return text.encode(console.encoding, "replace").decode(console.encoding) == text


def simulator_estimate(seconds: float, steps: int, compiling: float = 0.0) -> str:
    """A line on how long a training on the simulator will take.

    seconds: of the first step, without those of `compiling` its kernels. steps: still to come.
    """
    left = seconds * steps
    total = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.0f} h"
    shorter = "; --preset simulator takes some seconds" if left > 600 else ""
    once = f", and {compiling:.1f} s to compile its kernels" if compiling >= 0.05 else ""
    return f"the first step took {seconds:.1f} s in the simulator{once}: {steps:,} more take at most about {total}{shorter}"


class ProgressReporter(Reporter):
    """A progress bar with a line for each evaluation above it, all on standard error."""

    has_profiled = False

    def __init__(self, run: Run, console: Console):
        self._estimates = run.model.device == "cudasim"
        self._compiled_before = seconds_compiling()
        self._tokens = run.examples.tokens_of_a_batch() * run.settings.gradient_accumulation
        self._console = console
        self._run, self._has_heading, self._preparation = run, False, None
        figures = "{task.fields[speed]} tokens/s  loss {task.fields[loss]}  lr {task.fields[lr]}"
        is_wide = console.width >= WIDE
        self.bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=20 if is_wide else 6),
            TextColumn(figures + "{task.fields[accuracy]}" + ("  grad {task.fields[norm]}" if is_wide else "")),
            TimeRemainingColumn(compact=True),
            console=console,
            speed_estimate_period=30,
        )
        fields = dict(speed="-", loss="-", lr="-", norm="-", accuracy="")
        self._task = self.bar.add_task("", total=run.settings.max_steps, completed=run.progress.step, **fields)

    def on_start(self, processes: int, threads: int) -> None:
        self.bar.start()

    def close(self) -> None:
        """Take the bar away."""
        self.bar.stop()

    def on_step(self, step: int, loss: float, lr: float, gradient_norm: float, tokens_per_second: float) -> None:
        self.bar.update(
            self._task,
            completed=step,
            loss=f"{loss:.4f}",
            lr=f"{lr:.1e}",
            norm=f"{gradient_norm:.2f}",
            speed=f"{tokens_per_second:,.0f}",
        )
        if self._estimates:
            self._estimates = False
            seconds, total = self._tokens / tokens_per_second, self.bar.tasks[self._task].total
            compiling = min(seconds, seconds_compiling() - self._compiled_before)
            text = simulator_estimate(seconds - compiling, int(total) - step, compiling)
            self._console.print(escape(text), soft_wrap=True)

    def on_figures(self, figures: dict[str, float]) -> None:
        self.bar.update(self._task, accuracy=f"  acc {figures['accuracy']:.2f}  margin {figures['margin']:.2f}")

    def on_preparation(self, what: str, done: int, total: int) -> None:
        if self._preparation is None:
            self._preparation = self.bar.add_task("", total=total, **self.bar.tasks[self._task].fields)
            self._console.print(f"[dim]{escape(what)}, once: {total:,}[/]")
        self.bar.update(self._preparation, completed=done, visible=done < total)

    def on_evaluation(self, step: int, train: Evaluation, validation: Evaluation, is_best: bool) -> None:
        self._compiled_before = seconds_compiling()
        if not self._has_heading:
            beside = OF_PAIRS if train.figures else "perplexity"
            self._console.print(f"[dim]{HEADING.format(beside=beside, **self._run.examples.names)}[/]")
            self._has_heading = True
        both = zip(_measured(train), _measured(validation))
        self._console.print(
            f"[bold]step {step:>5}[/]  loss {train.loss:.3f} / {validation.loss:.3f}  "
            f"{'  '.join(f'{name} {one} / {other}' for (name, one), (_, other) in both)}  "
            f"gap {round(validation.loss - train.loss, 2) + 0.0:.2f} nats{'  [green]best[/]' if is_best else ''}",
            soft_wrap=True,
        )

    def on_sample(self, step: int, text: str) -> None:
        self._compiled_before = seconds_compiling()
        heading = self._run.examples.sample_heading(self._run.tokenizer)
        self._console.print(f"[dim]{escape(heading)}:\n{escape(text)}[/]")

    def on_profile(self, profile: StepProfile) -> None:
        self.has_profiled = True
        self._console.print(escape(profile_table(profile, self._console.width)), soft_wrap=True)

    def on_message(self, message: str) -> None:
        self._console.print(f"[yellow]{escape(message)}[/]")

    on_advice = on_message


def _measured(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What is shown beside a loss: (name, number)."""
    if not evaluation.figures:
        return [("perplexity", _short(evaluation.perplexity))]
    return [(name, f"{round(evaluation.figures[name], 3) + 0.0:.3f}") for name in ("accuracy", "margin")]


def _beside(evaluation: Evaluation) -> str:
    if not evaluation.figures:
        return f"perplexity {evaluation.perplexity:.3f}"
    return ", ".join(f"{name} {number}" for name, number in _measured(evaluation))


def _short(perplexity: float) -> str:
    """A perplexity in few characters.

    >>> _short(4.1183), _short(65.63), _short(811.4), _short(50257.3)
    ('4.118', '65.63', '811.4', '50,257')
    """
    digits = next((digits for digits, below in ((3, 10), (2, 100), (1, 10_000)) if perplexity < below), 0)
    return f"{perplexity:,.{digits}f}" if digits == 0 else f"{perplexity:.{digits}f}"
