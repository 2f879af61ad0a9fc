"""The view train: one run at a time, driven from the page, and the records of all of them.

What the page may name are corpora, and places inside the folder of run folders (places.py).
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path

from starlette.routing import Route

from minillm.errors import UserError
from minillm.training import resume_run
from minillm.web.play.answers import answer
from minillm.web.play.arguments import choice
from minillm.web.play.places import inside
from minillm.web.play.studio import Studio, Worker
from minillm.web.play.training_form import describe_form, read_form
from minillm.web.play.training_record import list_runs, new_events
from minillm.web.play.training_session import Session

MOST_OVERLAID = 12  # runs that the page draws at the same time


def routes(studio: Studio) -> list[Route]:
    """POST /train/...; they are answered by a thread of their own, while the model is busy."""
    training, worker = Training(), Worker("train view")
    studio.enders.append(training.end)
    answers = {
        "form": lambda studio, arguments: describe_form(studio.runs),
        "runs": lambda studio, arguments: {"runs": list_runs(studio.runs)},
        "now": training.now,
        "start": training.start,
        "resume": training.resume,
        "order": training.order,
        "change": training.change,
        "write": training.write,
    }
    return [answer(f"/train/{name}", studio, function, worker) for name, function in answers.items()]


class Training:
    """The session of the page, if there is one; its methods answer requests."""

    def __init__(self):
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._number = 0

    def now(self, studio: Studio, arguments: dict) -> dict:
        """{"runs": name -> offset} -> the session's state, and what is new in these records."""
        offsets = arguments.get("runs", {})
        if not isinstance(offsets, dict) or len(offsets) > MOST_OVERLAID:
            raise UserError(f"the page draws up to {MOST_OVERLAID} runs at the same time")
        session = self._session
        return {
            "session": session and self._shown(studio, session.status()),
            "runs": {name: new_events(studio.runs, name, offset) for name, offset in offsets.items()},
        }

    def start(self, studio: Studio, arguments: dict) -> dict:
        """A new run by the form (training_form.py), paused before its first step if "paused"."""
        plan = read_form(studio.runs, arguments)
        return self._begin(studio, plan.start, arguments)

    def resume(self, studio: Studio, arguments: dict) -> dict:
        """{"run": name}: go on with a run that was stopped."""
        folder = inside(studio.runs, arguments.get("run"))
        return self._begin(studio, lambda: resume_run(folder), arguments)

    def order(self, studio: Studio, arguments: dict) -> dict:
        """{"order": "pause", "step", "continue" or "stop"}"""
        session = self._current()
        orders = dict(pause=session.pause, step=session.one_step, stop=session.stop)
        orders["continue"] = session.go_on
        orders[choice(arguments, "order", list(orders))]()
        return self._shown(studio, session.status())

    def change(self, studio: Studio, arguments: dict) -> dict:
        """{"lr", "weight_decay", "dropout"}, each if it is to change before the next step."""
        session = self._current()
        session.change(arguments)
        return self._shown(studio, session.status())

    def write(self, studio: Studio, arguments: dict) -> dict:
        """{"temperature"}: a text of the model as it is now, which comes as an event of the run."""
        session = self._current()
        session.write(arguments.get("temperature"))
        return self._shown(studio, session.status())

    def end(self, deadline: float) -> None:
        """End the training, saved, by the deadline (time.monotonic).

        If it is late it ends with the program, and its folder keeps the last checkpoint.
        """
        if self._session is not None:
            self._session.stop()
            self._session.join(deadline - time.monotonic())

    def _begin(self, studio: Studio, open_run: Callable, arguments: dict) -> dict:
        with self._lock:
            if self._session is not None and not self._session.is_over:
                raise UserError("a run is training already: stop it first")
            self._number += 1
            self._session = Session(self._number, open_run, arguments.get("paused") is True)
            return self._shown(studio, self._session.status())

    def _current(self) -> Session:
        if self._session is None or self._session.is_over:
            raise UserError("no run is training now: start one, or resume one")
        return self._session

    def _shown(self, studio: Studio, status: dict) -> dict:
        """A session's status, with the run's name among the folders, and commands to type."""
        if "folder" not in status:
            return status
        folder = status.pop("folder")
        commands = {what: f"minillm {what} {shlex.quote(folder)}" for what in ("play", "generate")}
        commands["resume"] = f"minillm train --resume {shlex.quote(folder)}"
        return {**status, "run": Path(folder).relative_to(studio.runs).as_posix(), "commands": commands}
