"""A conversation at the terminal: messages, commands, and what is said of them.

Answers go to standard output, everything else to standard error.
"""

from __future__ import annotations

import difflib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minillm.cli.chat_lines import open_lines
from minillm.cli.chat_sampler import change_sampler, sampler_lines, short_settings
from minillm.cli.generate_output import print_note
from minillm.cli.terminal import fold, terminal_width, waiting
from minillm.errors import UserError
from minillm.files.atomic import describe_os_error
from minillm.generation.conversation import Answer, Conversation
from minillm.generation.messages import read_messages, write_messages
from minillm.profiling.memory_advice import explain_shortly

COMMANDS = {  # name -> (what follows it, what it does)
    "help": ("", "This list."),
    "retry": ("", "Answer the last message once more, with other random numbers."),
    "undo": ("", "Take back the last message and its answer."),
    "reset": ("", "Take back everything; the system message stays."),
    "system": ("[TEXT]", "Set the system message; without TEXT show it, with - remove it."),
    "sampler": ("[NAME=VALUE ...]", "Set how tokens are drawn, as in temperature=0.7 top_k=40; alone: show it all."),
    "save": ("FILE", "Write the messages as JSON; into FILE.jsonl as a line of data for fine-tuning."),
    "load": ("FILE [N]", "Go on with the messages of a file; of JSON lines with those of line N."),
    "exit": ("", "Leave, as Ctrl-D does."),
}
KEYS = (
    "A \\ at the end of a line goes on in the next one; // begins a message with a slash. Ctrl-C ends an answer, Ctrl-D the "
    "conversation."
)
HOW_TO_LEAVE = "/exit or Ctrl-D ends the conversation"
NO_SYSTEM = "the model's template does not show it the system message"
ENDED_BY_SIGNAL = 128  # is added to the signal's number in the exit code, as shells have it
LONGEST_SHOWN = 60  # characters of a message that is taken back


class Session:
    """A conversation, the lines that are typed into it, and the files that are its own."""

    def __init__(self, conversation: Conversation, name: str):
        self.conversation, self.name = conversation, name
        self._lines = open_lines(COMMANDS)
        self._files: set[Path] = set()  # which /save may replace: they hold this conversation alone
        self._over = False

    def run(self) -> None:
        """Read and answer until the lines end, or /exit. SIGTERM ends the process with 143."""
        if self._lines.interactive:
            context = self.conversation.model.config.context_length
            print_note(f"{self.name}, which sees {context:,} tokens; /help lists the commands, Ctrl-D ends it")
        with _handling(signal.SIGTERM, _end):
            while not self._over:
                try:
                    self._take()
                except EOFError:
                    return
                except KeyboardInterrupt:
                    if not self._lines.interactive:
                        raise
                    print_note(HOW_TO_LEAVE)

    def _take(self) -> None:
        """One line: a message or a command. What is wrong with it is said, and changes nothing."""
        try:
            line = self._lines.read()
        except UserError as error:  # a line that is no UTF-8
            _complain(str(error))
            return
        try:
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line.strip():
                self._show(self.conversation.answer(line.removeprefix("/")))
        except UserError as error:
            _complain(str(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            _complain(describe_os_error(error))
        except MemoryError as error:
            _complain(explain_shortly(error))

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, 1)
            advice = f"did you mean /{near[0]}? /help lists them" if near else "/help lists them"
            raise UserError(f"/{name} is no command: {advice}; // begins a message with a slash")
        rest, usage = rest.strip(), COMMANDS[name][0]
        if rest and not usage:
            raise UserError(f"/{name} takes nothing: leave out {rest!r:.40}")
        if usage and not usage.startswith("[") and not rest:
            raise UserError(f"/{name} needs a file: /{name} {usage}")
        commands: dict[str, Callable[[str], None]] = {
            name: getattr(self, f"_{name}") for name in COMMANDS if hasattr(self, f"_{name}")
        }
        commands[name](rest)

    # --------------------------------------------------------------------------------------- answers

    def _show(self, answer: Answer) -> None:
        """Print an answer as it is written; Ctrl-C ends it, and a second one in the middle of a
        pass.
        """
        conversation = self.conversation
        if answer.left:
            turns = "oldest turn has" if answer.left == 1 else f"{answer.left} oldest turns have"
            kept = "; the system message stays" if conversation.system is not None else ""
            print_note(
                f"the context is full: the {turns} left it, and the model no longer sees what was said there{kept}"
            )

        def interrupt(*_) -> None:
            if answer.stopping:
                raise KeyboardInterrupt
            answer.stop()

        with _handling(signal.SIGINT, interrupt):
            with waiting("reading", plain=False):
                piece = next(answer, "")
            try:
                while piece:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                    piece = next(answer, "")
            finally:
                if answer.text or answer.reason not in (None, "stopped"):
                    sys.stdout.write("\n")
                    sys.stdout.flush()
        if note := self._ending(answer):
            print_note(note)

    def _ending(self, answer: Answer) -> str | None:
        """What is to be said of how an answer ended."""
        context = self.conversation.model.config.context_length
        if answer.reason == "stopped":
            return "stopped" if answer.text else "stopped before the answer began: your message is taken back"
        if answer.reason == "length":
            return f"cut after {self.conversation.max_tokens:,} tokens: --max-tokens, or /sampler max_tokens=N, allows more"
        if answer.reason == "context":
            return f"cut: the model sees {context:,} tokens at a time, and they are full"
        return None if answer.text else "an empty answer"

    # -------------------------------------------------------------------------------------- commands

    def _help(self, _: str) -> None:
        _print_table([(f"/{name} {usage}".rstrip(), text) for name, (usage, text) in COMMANDS.items()])
        print(fold(KEYS, terminal_width()), file=sys.stderr)

    def _retry(self, _: str) -> None:
        answer = self.conversation.retry()
        if self.conversation.sampler.settings.temperature == 0:
            print_note("temperature is 0: the same messages have the same answer")
        self._show(answer)

    def _undo(self, _: str) -> None:
        message, *_ = self.conversation.undo()
        text = " ".join(str(message["content"]).split())
        shown = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
        print_note(f"taken back: {shown}")

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        kept = "the system message stays" if self.conversation.system is not None else "nothing was said"
        print_note(f"a new conversation: {kept}")

    def _system(self, text: str) -> None:
        conversation = self.conversation
        if text:
            conversation.set_system(None if text == "-" else text)
        system = conversation.system
        print_note("no system message" if system is None else f"system: {system}")
        if not conversation.shows_system():
            print_note(NO_SYSTEM)

    def _sampler(self, text: str) -> None:
        if not text:
            _print_table(sampler_lines(self.conversation))
            return
        for note in change_sampler(self.conversation, text):
            print_note(note)
        print_note(short_settings(self.conversation))

    def _save(self, text: str) -> None:
        path = Path(text).expanduser()
        if not self.conversation.messages:
            raise UserError("/save: nothing was said yet")
        if path.exists() and path.resolve() not in self._files:
            raise UserError(
                f"/save {text}: the file is there, and holds something else: use another name, or delete it first"
            )
        if not path.parent.is_dir():
            raise UserError(f"/save {text}: there is no folder {path.parent}")
        write_messages(path, self.conversation.messages)
        self._files.add(path.resolve())
        print_note(f"{_messages(self.conversation)} saved: {text}")

    def _load(self, text: str) -> None:
        path, number = Path(text).expanduser(), None
        name, _, last = text.rpartition(" ")
        if name and last.isascii() and last.isdigit() and int(last) and not path.exists():
            path, number = Path(name.rstrip()).expanduser(), int(last)
        loaded = read_messages(path, number or 1)
        self.conversation.load(loaded.messages)
        if loaded.count == 1 and not loaded.unused:
            self._files.add(path.resolve())
        which = f"conversation {number or 1:,} of {loaded.count:,}" if loaded.count > 1 else path
        print_note(f"{_messages(self.conversation)} loaded: {which}")
        if loaded.unused:
            print_note(f"not used: {', '.join(loaded.unused)}")
        if loaded.messages and loaded.messages[-1]["role"] == "user":
            print_note("the last message has no answer yet: /retry answers it")

    def _exit(self, _: str) -> None:
        self._over = True


def _messages(conversation: Conversation) -> str:
    count = len(conversation.messages)
    return "1 message" if count == 1 else f"{count:,} messages"


def _complain(message: str) -> None:
    print(f"minillm: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _print_table(rows: list[tuple[str, str]]) -> None:
    """Two columns, the second one folded."""
    width = min(max(len(left) for left, _ in rows), 32) + 2
    for left, right in rows:
        first, *others = fold(right, max(terminal_width() - width, 20)).split("\n")
        print(f"{left:{width}}{first}", *(" " * width + line for line in others), sep="\n", file=sys.stderr)


@contextmanager
def _handling(number: int, handler: Callable) -> Iterator[None]:
    """Inside, a signal calls `handler`. Only the main thread can have that; elsewhere nothing is
    changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def _end(number: int, _) -> None:
    sys.exit(ENDED_BY_SIGNAL + number)
