"""The studio: one model in memory once, and the worker that runs it."""

from __future__ import annotations

import threading
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
            except BaseException as error:  # whoever waits for the result gets it
                future.set_exception(error)


@dataclass
class Studio:
    """What the views share. model: in evaluation mode; every use of it runs in `worker`.

    name: as the user gave it. runs: the folder of run folders, the only one that a page can name
    files of. end_tokens: those that end a text.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    name: str
    runs: Path
    worker: Worker = field(default_factory=lambda: Worker("model"))
    end_tokens: tuple[int, ...] = ()
