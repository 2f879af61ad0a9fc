"""The training loop: draw a batch, compute the loss, backpropagate, update, evaluate every
eval_interval steps.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from minillm.backend.async_read import AsyncRead
from minillm.distributed.communicator import Communicator
from minillm.distributed.machine import Machine
from minillm.distributed.watch import Watch
from minillm.errors import MissingExtra
from minillm.profiling.profile import Profiler, StepProfile
from minillm.sampler import Sampler
from minillm.training.agreed import agree_on_run
from minillm.training.control import Control, Ended, change
from minillm.training.data_parallel import DataParallel
from minillm.training.evaluation import Evaluation, evaluate_examples
from minillm.training.examples import PARTS
from minillm.training.overfitting import overfitting_since, remedies
from minillm.training.plot import plot_losses
from minillm.training.prefetch import BatchPrefetcher
from minillm.training.ranks import ranks_of
from minillm.training.run import Run
from minillm.training.sharded_parallel import among_ranks
from minillm.training.shared_run import share_run, unshare_run
from minillm.training.step import Diverged, check_finite, describe_divergence, repeat_gradients, train_step

SPEED_STEPS = 10  # over which speed is measured on a device
LOG_INTERVAL = 10  # steps between two "step" lines in metrics.jsonl


class Reporter:
    """Called by `train` while it works. Every method does nothing here; the command line prints.

    With several processes that of the first one is called, and in the others one that does nothing.
    """

    def on_start(self, processes: int, threads: int) -> None:
        """When all processes are there. Whatever has a thread of its own starts here: a process
        with several threads cannot be forked.
        """

    def on_step(self, step: int, loss: float, lr: float, gradient_norm: float, tokens_per_second: float) -> None:
        """After each step, on a device after the next one; `step` counts the steps done."""

    def before_update(self, step: int, parameters: dict) -> None:
        """In each step, counted from 1, when all gradients are there and no weight has changed.

        parameters: name -> Parameter, of those that learn. The gradients are the sums over
        `gradient_accumulation` batches, before clipping.
        """

    def on_figures(self, figures: dict[str, float]) -> None:
        """Before `on_step`: what the step measured beside its loss, of a loss that measures
        something.
        """

    def on_preparation(self, what: str, done: int, total: int) -> None:
        """While something is computed before the first step, such as what a reference model says:
        what, and how much of it is done.
        """

    def on_evaluation(self, step: int, train: Evaluation, validation: Evaluation, is_best: bool) -> None:
        """After each evaluation."""

    def on_sample(self, step: int, text: str) -> None:
        """A text that the model wrote, after each evaluation."""

    def on_profile(self, profile: StepProfile) -> None:
        """Where the time of a step went, once, if `train` was called with profile."""

    def on_message(self, message: str) -> None:
        """A remark or a warning, in one line."""

    def on_advice(self, message: str) -> None:
        """What helps against the last warning, in one line."""


def train(
    run: Run,
    reporter: Reporter | None = None,
    stop_after: int | None = None,
    profile: bool = False,
    control: Control | None = None,
    machine: Machine | None = None,
) -> str:
    """Train from the run's last checkpoint to its last step.

    Returns why it ended: "finished", "stopped" or "early stop". stop_after: an earlier step to stop
    at. Ctrl-C (SIGINT) and SIGTERM stop after the current step as well. In each case the run is
    saved and can be resumed. profile: profile one of the first steps and report it (profile.py).
    control: pauses, ends and changes the training between two steps (control.py). machine: how many
    processes and threads compute; no number depends on it (distributed/machine.py).

    Raises Diverged (on a device a step later) and leaves the last good checkpoint; FolderInUse if
    another process trains in the run's folder; UserError for a changed model; RankLost if one of
    several processes ends or hangs (distributed/watch.py). When it returns, the
    folder is free for other processes.
    """
    run.refuse_changed_model()
    reporter, machine = reporter or Reporter(), machine or Machine()
    run.hold()
    launched = run.communicator
    try:
        alone = control is not None or type(reporter).before_update is not Reporter.before_update
        with ranks_of(run, machine, alone) as (communicator, threads):
            reason = _train(run, reporter, stop_after, profile, control or Control(), communicator, threads, machine)
        if launched.rank == 0:
            _finish(run, reporter)
        return reason
    finally:
        run.communicator = launched
        run.release()


def _train(
    run: Run,
    reporter: Reporter,
    stop_after: int | None,
    profile: bool,
    control: Control,
    communicator: Communicator,
    threads: int,
    machine: Machine,
) -> str:
    """What every rank does. The first one alone prints and writes."""
    settings, progress = run.settings, run.progress
    model = run.model.train()
    zero = run.zero if communicator is run.communicator else machine.zero  # with which it was opened
    parts = settings.batch_parts if model.device == "cpu" else communicator.size
    shared_by, accumulates = machine.tensor_parallel, settings.gradient_accumulation > 1
    if shared_by > 1:
        communicator.start()  # which part of the model a rank has is known afterwards
        parallel, run.sharded = share_run(run, communicator, shared_by, parts)
    else:
        parallel, run.sharded = among_ranks(model, run.optimizer, parts, threads, communicator, zero, accumulates)
    parallel.prepare()
    if shared_by == 1:
        communicator.start()
    run.communicator, run.metrics.writes = communicator, communicator.rank == 0
    if communicator.rank > 0:
        reporter = Reporter()
    reporter.on_start(communicator.size, threads)
    if not communicator.same_bits:
        reporter.on_message(
            f"{communicator.where} adds in an order of its own: another number of ranks gives the same to 1e-6"
        )
    schedule = settings.make_schedule()
    with (
        Watch(communicator, machine.deadline, f"continue with --resume {run.folder}") as watch,
        parallel,
        BatchPrefetcher(run, ahead=model.device != "cpu") as batches,
        _interruptible(reporter) as interrupted,
        np.errstate(over="ignore", invalid="ignore", divide="ignore"),  # checked by value: see step.py
    ):
        given = {"--stop-after": stop_after, "--zero": zero, "--tensor-parallel": machine.tensor_parallel}
        for note in (*watch.notes(), *agree_on_run(run, communicator, given)):
            reporter.on_message(note)
        run.metrics.cut(progress.metrics_size)
        report = partial(reporter.on_preparation, run.examples.preparing)
        with parallel.all_weights():
            if not run.examples.prepare(run, parallel, lambda: interrupted.is_set() or control.ended, report):
                return "stopped"
        follower = MetricsReader(run, parallel, batches, reporter)
        take_step = partial(_profiler(run, parallel, reporter), train_step) if profile else train_step
        while True:
            step = communicator.step = progress.step
            if step % settings.eval_interval == 0 or step == settings.max_steps:
                follower.catch_up()
                if not _evaluate_and_save(run, parallel, reporter, control):
                    reason = "stopped"
                    break
                follower.start_clock()
            while control.is_due(step):
                follower.catch_up()
                change(run, parallel.models, control.between_steps(run))
                schedule = run.settings.make_schedule()
                follower.start_clock()
            parallel.stop = interrupted.is_set() or control.ended
            if communicator.size == 1:
                parallel.stopping = parallel.stop
            reason = _reason_to_end(run, stop_after, parallel.stopping)
            if reason:
                break
            follower.begin()
            lr = schedule(step)
            loss, norm = take_step(run, parallel, batches, lr, reporter.before_update)
            progress.step = step + 1
            follower.follow(step, lr, loss, norm)
        follower.catch_up()
        with parallel.all_weights(keep=True):
            run.save()
        if shared_by > 1:
            unshare_run(run)
    return reason


def _profiler(run: Run, parallel: DataParallel, reporter: Reporter) -> Profiler:
    tokens = round(run.examples.tokens_of_a_batch() * run.settings.gradient_accumulation)
    time, done = run.model.config.context_length, reporter.on_profile
    return Profiler(parallel.models, run.optimizer, tokens, time, done, run.sharded, run.communicator)


class MetricsReader:
    """Reads, checks and reports the numbers of each step.

    On a device the numbers of a step are read during the next step: they have arrived by then, so
    that the host does not wait.

    Speed: on the CPU that of the step. On a device the host knows when a step was queued, but not
    when it began, and steps overlap. So the speed is measured over the last SPEED_STEPS steps
    together (fewer after an evaluation), from the time when the first was queued. It is never too
    high, and too low by at most one step in SPEED_STEPS.
    """

    def __init__(self, run: Run, parallel: DataParallel, batches: BatchPrefetcher, reporter: Reporter):
        self._run, self._parallel, self._batches, self._reporter = run, parallel, batches, reporter
        self._outstanding = None  # a step, its learning rate, and its numbers on their way
        self._tokens = run.examples.tokens_of_a_batch() * run.settings.gradient_accumulation
        self._steps_timed = 1 if run.model.device == "cpu" else SPEED_STEPS
        self.start_clock()

    def start_clock(self) -> None:
        """Start timing anew, for example after an evaluation. Nothing may be outstanding."""
        self._begun: deque[float] = deque()  # start times of the steps: those reported, and the present one
        self._reported = 0  # number of reported steps
        self._done_by: float | None = None  # end time of the step that is read next, if known

    def begin(self) -> None:
        """Before each step."""
        now = time.perf_counter()
        if self._outstanding is not None and self._outstanding[-1].arrived():
            self._done_by = now  # the numbers are read later
        self._begun.append(now)

    def follow(self, step: int, lr: float, loss, norm) -> None:
        """After each step, which counts from 0."""
        later = AsyncRead(loss, norm, *self._run.examples.objective.take_figures())
        self.catch_up()
        self._outstanding = step, lr, later
        if self._run.model.device == "cpu":
            self.catch_up()

    def catch_up(self) -> None:
        """Read the outstanding numbers. Raises Diverged; call it before saving."""
        if self._outstanding is None:
            return
        step, lr, later = self._outstanding
        self._outstanding = None
        loss, norm, *figures = later.numbers()
        self._reported += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            repeat_gradients(self._run, self._parallel, self._batches, step)
            check_finite(self._run, step, loss, norm)
        self._report(step + 1, loss, norm, lr, dict(zip(self._run.examples.objective.figures, figures)))

    def _report(self, steps_done: int, loss: float, norm: float, lr: float, figures: dict[str, float]) -> None:
        speed = self._speed()
        if steps_done % LOG_INTERVAL == 0 or steps_done == self._run.settings.max_steps:
            values = dict(loss=loss, lr=lr, gradient_norm=norm, tokens_per_second=round(speed))
            self._run.metrics.write("step", step=steps_done, **values, **figures)
        if figures:
            self._reporter.on_figures(figures)
        self._reporter.on_step(steps_done, loss, lr, norm, speed)

    def _speed(self) -> float:
        """Tokens a second, now that one more step is done."""
        while self._reported > self._steps_timed:
            self._begun.popleft()
            self._reported -= 1
        done_by = self._done_by or time.perf_counter()
        self._done_by = None
        return self._tokens * self._reported / (done_by - self._begun[0])


# --------------------------------------------------------------------------------------------------- evaluation


def _evaluate_and_save(run: Run, parallel: DataParallel, reporter: Reporter, control: Control) -> bool:
    """Evaluate, keep the model if it is the best so far, write a sample, save: once per step, also
    after a resume. False, with nothing done, if `control` ended it.
    """
    settings, progress = run.settings, run.progress
    if progress.history and progress.history[-1][0] == progress.step:
        return True
    limit = settings.eval_windows or None
    try:
        train, validation = (evaluate_examples(parallel, run.examples, part, limit, control.check) for part in PARTS)
    except Ended:
        return False
    if not (math.isfinite(train.loss) and math.isfinite(validation.loss)):
        raise Diverged(describe_divergence(run, progress.step, validation.loss, 0.0))
    is_best = progress.best_val_loss is None or validation.loss < progress.best_val_loss
    progress.history.append((progress.step, train.loss, validation.loss))
    with parallel.all_weights():
        _keep_and_save(run, reporter, train, validation, is_best)
    return True


def _keep_and_save(run: Run, reporter: Reporter, train: Evaluation, validation: Evaluation, is_best: bool) -> None:
    """What follows an evaluation: keep the best model, report, write a sample, save."""
    settings, progress = run.settings, run.progress
    if is_best:
        progress.best_step, progress.best_val_loss = progress.step, validation.loss
        run.save_model()
    run.metrics.write(
        "eval",
        step=progress.step,
        **_measured("train", train),
        **_measured("val", validation),
        best=is_best,
    )
    reporter.on_evaluation(progress.step, train, validation, is_best)
    _warn_of_overfitting(run, reporter)
    if settings.sample_tokens and (run.communicator.rank == 0 or run.model.sharing is not None):
        with run.communicator.during("writing a sample"):
            text = write_sample(run)
        run.metrics.write("sample", step=progress.step, text=text)
        reporter.on_sample(progress.step, text)
    run.save()


def _measured(part: str, evaluation: Evaluation) -> dict[str, float]:
    """The fields of an evaluation in metrics.jsonl. A perplexity is that of a loss in nats a
    token.
    """
    figures = evaluation.figures or {"perplexity": evaluation.perplexity}
    return {f"{part}_{name}": value for name, value in {"loss": evaluation.loss, **figures}.items()}


def write_sample(run: Run, temperature: float = 0.8) -> str:
    """What the model writes, as the run's kind of examples lets it."""
    settings = run.settings
    sampler = Sampler(temperature=temperature, top_k=40, seed=settings.seed + run.progress.step)
    text = run.examples.sample(run.model, run.tokenizer, sampler, settings.sample_tokens)
    run.model.train()
    return text


def _warn_of_overfitting(run: Run, reporter: Reporter) -> None:
    progress = run.progress
    since = overfitting_since(progress.history)
    if since is not None and progress.overfitting_since is None:
        message = f"overfitting since step {since}; the best model is step {progress.best_step}"
        run.metrics.write("warning", step=progress.step, message=message)
        reporter.on_message(message)
        reporter.on_advice(remedies(run.settings, run.model.config.dropout))
    progress.overfitting_since = since


# ------------------------------------------------------------------------------------------------------- the end


def _reason_to_end(run: Run, stop_after: int | None, interrupted: bool) -> str | None:
    settings, progress = run.settings, run.progress
    if progress.step >= settings.max_steps:
        return "finished"
    if settings.early_stop:
        since_best = sum(step > progress.best_step for step, _, _ in progress.history)
        if since_best >= settings.early_stop:
            return "early stop"
    if interrupted or (stop_after is not None and progress.step >= stop_after):
        return "stopped"
    return None


def _finish(run: Run, reporter: Reporter) -> None:
    """Draw the losses; without the extra `plots`, report how to install it."""
    try:
        plot_losses(run.folder)
    except MissingExtra as error:
        reporter.on_message(str(error))


@contextmanager
def _interruptible(reporter: Reporter) -> Iterator[threading.Event]:
    """Turns the first SIGINT or SIGTERM into an event; the second one acts as always."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(number, frame):
        interrupted.set()
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)
        reporter.on_message("ending after this step; once more to stop at once")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
