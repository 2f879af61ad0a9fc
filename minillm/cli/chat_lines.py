"""The lines of a conversation: edited at a terminal, or read from a pipe.

At a terminal the package prompt_toolkit (extra `chat`) edits them: several lines, history, what
completes a command, and a paste of several lines is one message in every terminal. Without it the
line is Python's own, edited by the readline library where Python has it: which library that is,
GNU's or BSD's, depends on how Python was built, and BSD's takes each line of a paste for a line of
its own. Here lines that arrive together are one message, then.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Collection
from contextlib import suppress

from minillm.files.atomic import decode_text, naming

PROMPT, GO_ON = "> ", "... "
CONTINUED = "\\"  # at the end of a line: the message goes on in the next one
FILE_COMMANDS = ("/save ", "/load ")


def open_lines(commands: Collection[str]) -> Lines:
    """The lines of standard input. commands: their names, to complete them."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return PipedLines()
    if os.environ.get("TERM", "dumb") != "dumb":
        with suppress(ImportError):
            return EditedLines(commands)
    return PlainLines()


class Lines:
    """interactive: whether a person types them."""

    interactive = True

    def read(self) -> str:
        """The next message or command; lines that go on are one. Raises EOFError at the end,
        KeyboardInterrupt for Ctrl-C.
        """
        text = self._read(PROMPT)
        while text.endswith(CONTINUED):
            text = text.removesuffix(CONTINUED) + "\n" + self._read(GO_ON)
        return text

    def _read(self, prompt: str) -> str:
        raise NotImplementedError


class PipedLines(Lines):
    """Lines of UTF-8 from a pipe or a file."""

    interactive = False

    def __init__(self):
        self._number = 0

    def _read(self, prompt: str) -> str:
        self._number += 1
        with naming("standard input"):
            line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        return decode_text(line, f"standard input, line {self._number:,}").rstrip("\r\n")


class PlainLines(Lines):
    """Lines as Python's `input` reads them."""

    def __init__(self):
        with suppress(ImportError):
            import readline  # noqa: F401 (`input` uses it once it is imported)
        self._waiting: str | None = None  # a command that arrived together with a message

    def _read(self, prompt: str) -> str:
        if self._waiting is not None:
            text, self._waiting = self._waiting, None
            return text
        text = self._input(prompt)
        while not text.startswith("/") and select.select([sys.stdin], [], [], 0)[0]:
            more = self._input("")
            if more.startswith("/"):
                self._waiting = more
                break
            text += "\n" + more
        return text

    def _input(self, prompt: str) -> str:
        if not sys.stdout.isatty():  # `input` would write the prompt between the answers
            print(prompt, end="", file=sys.stderr, flush=True)
            prompt = ""
        try:
            return input(prompt)
        except EOFError:
            print(file=sys.stderr)
            raise


class EditedLines(Lines):
    """Lines edited by prompt_toolkit. Raises ImportError without it."""

    def __init__(self, commands: Collection[str]):
        from prompt_toolkit import PromptSession
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.output import create_output

        self._session = PromptSession(
            multiline=True,
            key_bindings=_keys(),
            completer=_completer(commands),
            complete_while_typing=Condition(lambda: self._session.default_buffer.text.startswith("/")),
            reserve_space_for_menu=4,
            prompt_continuation=GO_ON,
            output=create_output(stdout=sys.stderr),
        )

    def _read(self, prompt: str) -> str:
        return self._session.prompt(prompt)


def _keys():
    """Enter sends what is typed, Alt-Enter begins a new line; Ctrl-C takes back what is typed."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear(event) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys


def _completer(commands: Collection[str]):
    """Names of commands after a slash, of settings after /sampler, of files after /save and
    /load.
    """
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    from minillm.cli.chat_sampler import setting_names

    files = PathCompleter(expanduser=True)

    class Commands(Completer):
        def get_completions(self, document, event):
            text = document.text_before_cursor
            word = text.rpartition(" ")[2]
            if text.startswith(FILE_COMMANDS):
                typed = text.partition(" ")[2].lstrip()
                yield from files.get_completions(Document(typed, len(typed)), event)
                return
            if text.startswith("/sampler "):
                found = [f"{name}=" for name in setting_names()]
            else:
                found = [f"/{name}" for name in commands] if text.startswith("/") and " " not in text else []
            yield from (Completion(name, -len(word)) for name in found if name.startswith(word))

    return Commands()
