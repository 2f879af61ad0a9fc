"""A training that the page drives: in a thread of its own, with a model of its own.

The run folder is the record: losses, norms, samples and changes are lines of its metrics.jsonl, as
`minillm train` writes them, and the page draws what is there. A session adds how far the present
step is, and takes orders: pause, one step, go on, stop, change, write a text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from minillm.errors import UserError
from minillm.files.atomic import describe_os_error
from minillm.profiling.memory import workload_of
from minillm.profiling.memory_advice import explain_oom
from minillm.sampler import Sampler
from minillm.training import Control, Evaluation, Reporter, Run, train
from minillm.training.control import CHANGEABLE, Ended, changed
from minillm.training.loop import LOG_INTERVAL, write_sample
from minillm.training.norms import norms_by_layer

PREPARING, RUNNING, EVALUATING, PAUSED = "preparing", "running", "evaluating", "paused"
OVER = ("finished", "stopped", "early stop", "failed")
HOTTEST = 10.0  # a temperature above it draws all tokens alike


class Session(Control, Reporter):
    """One run, from the thread that trains it to what the page is shown of it.

    open_run: makes or opens the run, in the thread. paused: whether to pause before the first step.
    The page's orders come from other threads than the training: they wait for nothing, and take
    effect between two steps.
    """

    def __init__(self, number: int, open_run: Callable[[], Run], paused: bool = False):
        self.number = number
        self._open_run = open_run
        self._turn = threading.Condition()  # guards what follows, and wakes a paused training
        self._run: Run | None = None
        self._state, self._problem = PREPARING, ""
        self._step = 0  # that is taken next
        self._until = 0 if paused else None  # the step to pause before, None for none
        self._orders: list[tuple[str, object]] = []
        self._shown: dict = {"messages": []}
        self.ended = False
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------------------------------- the page's orders

    @property
    def is_over(self) -> bool:
        """Whether the training has ended, in whatever way."""
        return self._state in OVER

    def status(self) -> dict:
        """What the page shows: the state, the last step, the settings that can change."""
        with self._turn:
            if self._run is not None:
                self._look_at(self._run)
            return {"number": self.number, "state": self._state, "problem": self._problem, **self._shown}

    def pause(self) -> None:
        """Pause after the present step, and save."""
        with self._turn:
            if self._until is None:
                self._orders.append(("save", None))
            self._until = 0

    def one_step(self) -> None:
        """Take one step, then pause."""
        with self._turn:
            self._until = self._step + 1
            self._turn.notify_all()

    def go_on(self) -> None:
        """Train on after a pause."""
        with self._turn:
            self._until = None
            self._turn.notify_all()

    def stop(self) -> None:
        """End after the present step, or in the middle of an evaluation, as Ctrl-C does: saved, to
        be resumed.
        """
        with self._turn:
            self.ended = True
            self._turn.notify_all()

    def change(self, changes: Mapping[str, float]) -> None:
        """Change settings before the next step. Raises UserError for values that make no sense."""
        with self._turn:
            changed(*self._settings(), changes)
            self._order("change", dict(changes))

    def write(self, temperature: float) -> None:
        """Write a text before the next step. Raises UserError for an impossible temperature."""
        if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not temperature <= HOTTEST:
            raise UserError(f"temperature is {temperature!r}: it must be a number from 0 to {HOTTEST:g}")
        Sampler(temperature=temperature)
        with self._turn:
            self._settings()
            self._order("write", float(temperature))

    def join(self, seconds: float) -> bool:
        """Wait for the end; whether it has come within this time."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _settings(self) -> tuple:
        if self._run is None:
            raise UserError("no run is training now: start one, or resume one")
        return self._run.settings, self._run.model.config

    def _order(self, *order) -> None:
        self._orders.append(order)
        self._turn.notify_all()

    # ---------------------------------------------------------------------------------------- the training thread

    def _work(self) -> None:
        state, problem = "failed", "it ended by an error of the program, which is in the terminal"
        try:
            run = self._open_run()
            self._begin(run)
            learning = sum(parameter.value.size for parameter in run.model.trainable_parameters().values())
            with explain_oom(workload_of(run.settings, run.model.config, run.model.device, learning)):
                state, problem = train(run, self, control=self), ""
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = describe_os_error(error)
        finally:
            with self._turn:
                if self._run is not None:
                    self._look_at(self._run)
                self._state, self._problem, self._run = state, problem, None

    def _begin(self, run: Run) -> None:
        weights = sum(parameter.value.size for parameter in run.model.parameters().values())
        facts = dict(
            folder=str(run.folder),
            step=run.progress.step,
            max_steps=run.settings.max_steps,
            weights=weights,
            **run.examples.facts(),
        )
        with self._turn:
            self._run, self._state, self._step = run, RUNNING, run.progress.step
            self._shown |= facts

    def _look_at(self, run: Run) -> None:
        values = {**vars(run.settings), "dropout": run.model.config.dropout}
        self._shown["settings"] = {name: values[name] for name in CHANGEABLE}

    # as Control

    def is_due(self, step: int) -> bool:
        """Whether there are orders, or the training is to pause before the step."""
        with self._turn:
            self._step = step
            return bool(self._orders) or self._is_to_pause()

    def _is_to_pause(self) -> bool:
        return not self.ended and self._until is not None and self._until <= self._step < self._shown["max_steps"]

    def between_steps(self, run: Run) -> Mapping[str, float]:
        """Wait in a pause, and obey the next order."""
        with self._turn:
            while not self._orders and self._is_to_pause():
                self._state = PAUSED
                self._turn.wait()
            self._state = RUNNING
            if not self._orders:
                return {}
            what, value = self._orders.pop(0)
        if what == "save":
            run.save()
        if what == "write":
            text = write_sample(run, value)
            run.metrics.write("sample", step=run.progress.step, text=text, temperature=value)
        return value if what == "change" else {}

    def check(self) -> None:
        """In an evaluation: end it if the training is to stop."""
        if self.ended:
            raise Ended
        self._state = EVALUATING

    # as Reporter

    def on_step(self, step: int, loss: float, lr: float, gradient_norm: float, tokens_per_second: float) -> None:
        """Show the numbers of the step."""
        with self._turn:
            self._shown |= dict(step=step, loss=loss, lr=lr, gradient_norm=gradient_norm)
            self._shown["tokens_per_second"] = round(tokens_per_second)

    def before_update(self, step: int, parameters: dict) -> None:
        """Write the norms of each layer: as often as the loss; of a single step always."""
        if step % LOG_INTERVAL == 0 or step == 1 or self._until is not None:
            gradients, weights = norms_by_layer(parameters, self._run.settings.gradient_accumulation)
            self._run.metrics.write("norms", step=step, gradients=gradients, weights=weights)

    def on_evaluation(self, step: int, train: Evaluation, validation: Evaluation, is_best: bool) -> None:
        """The evaluation is over: its numbers are in metrics.jsonl."""
        self._state = RUNNING

    def on_message(self, message: str) -> None:
        """Show a remark."""
        with self._turn:
            self._shown["messages"] = [*self._shown["messages"], message]

    on_advice = on_message
