"""The studio: one model in memory once, and the worker that runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from minillm.models.language_model import LanguageModel
from minillm.tokenizers.tokenizer import Tokenizer


class Worker:
    """A thread that runs one function after another, so that the server can go on answering.

    It is a daemon: the program ends without waiting for it.
    """

    def __init__(self, name: str):
        self._jobs: SimpleQueue = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, function: Callable, *arguments) -> Future:
        """The future result of function(*arguments)."""
        future: Future = Future()
        self._jobs.put((future, function, arguments))
        return future

    def _work(self) -> None:
        while True:
            future, function, arguments = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # the caller gets it with the result
                future.set_exception(error)


@dataclass
class Studio:
    """What the views share.

    model: in evaluation mode; every use of it runs in `worker`. name: as the user gave it. runs:
    the folder of run folders, the only one in which the page can name files. enders: functions of a
    deadline (time.monotonic) that end what a view has running, such as a training run. end_tokens:
    those that end a text.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    name: str
    runs: Path
    worker: Worker = field(default_factory=lambda: Worker("model"))
    end_tokens: tuple[int, ...] = ()
    enders: list[Callable[[float], None]] = field(default_factory=list)

    def end(self, deadline: float) -> None:
        """End what is running, all at the same time; returns at the deadline at the latest.

        The threads are daemons: what has not ended by then ends with the program.
        """
        threads = [threading.Thread(target=ender, args=(deadline,), daemon=True) for ender in self.enders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
