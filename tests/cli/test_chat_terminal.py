"""`minillm chat` at a terminal: editing, pasting, Ctrl-C, Ctrl-D and SIGTERM, with prompt_toolkit and without."""

import importlib.util
import json
import os
import signal

import pytest

pytest.importorskip("jinja2", reason="chat templates need jinja2")
pytest.importorskip("pty", reason="written for the terminals of POSIX systems")
from talking import ONLY_Q, Terminal, make_model  # noqa: E402

HAS_EDITOR = importlib.util.find_spec("prompt_toolkit") is not None
EDITED = pytest.param(
    "edited", marks=pytest.mark.skipif(not HAS_EDITOR, reason="prompt_toolkit, extra chat, is not installed")
)
KINDS = [EDITED, "readline", "plain"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose context is never full, and packages that cannot be imported."""
    folder = tmp_path_factory.mktemp("terminal")
    make_model(folder / "model", context_length=100_000)
    for kind, missing in (("readline", ["prompt_toolkit"]), ("plain", ["prompt_toolkit", "readline"])):
        (folder / kind).mkdir()
        for name in missing:
            (folder / kind / f"{name}.py").write_text("raise ImportError")
    return folder


@pytest.fixture
def terminal(folder, tmp_path):
    """Starts a chat of a kind, and ends what is left of it."""
    started = []

    def start(kind, *arguments, stdout=None):
        path = os.pathsep.join(filter(None, [str(folder / kind), os.environ.get("PYTHONPATH")]))
        arguments, environment = (folder / "model", *ONLY_Q, *arguments), {"PYTHONPATH": path}
        started.append(Terminal(tmp_path, *arguments, environment=environment, stdout=stdout))
        return started[-1]

    yield start
    for each in started:
        each.close()


def saved(path):
    return [message["content"] for message in json.loads((path / "talk.json").read_text(encoding="utf-8"))]


def say(chat, text, answer):
    chat.send(text + "\r")
    chat.expect(answer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation(terminal, tmp_path, kind):
    """One for each way of reading lines, since a process takes a second to start."""
    chat = terminal(kind, "--max-tokens", 90_000)
    chat.expect("/help lists the commands")
    chat.prompt()
    say(chat, "hé", "qqqq")
    chat.send("\x03")  # ends an answer, and not the chat
    chat.expect("(stopped)")
    chat.prompt()
    chat.interrupt("(/exit or Ctrl-D ends the conversation)")  # at an empty prompt
    chat.prompt()
    say(chat, "/sampler max_tokens=2", "(temperature=0.8")
    chat.prompt()
    paste = "\x1b[200~one\rtwo\r\rthree\x1b[201~\r" if kind == "edited" else "one\ntwo\n\nthree\n"
    chat.send(paste)  # several lines are one message
    chat.expect("(cut after 2 tokens")
    chat.prompt()
    say(chat, "four \\", "...")
    say(chat, "five", "(cut after")
    chat.prompt()
    say(chat, "/save talk.json", "(6 messages saved: talk.json)")
    chat.prompt()
    chat.send("\x04")
    assert chat.end() == 0 and "Traceback" not in chat.output
    question, first, *others = saved(tmp_path)
    assert question == "hé" and set(first) == {"q"} and len(first) >= 4
    assert others == ["one\ntwo\n\nthree", "qq", "four \nfive", "qq"]


@pytest.mark.skipif(not HAS_EDITOR, reason="prompt_toolkit, extra chat, is not installed")
def test_the_edited_line(terminal, tmp_path):
    """Alt-Enter begins a line, the arrows go through what was said, tab completes, Ctrl-C takes back what is typed."""
    chat = terminal("edited", "--max-tokens", 2)
    chat.prompt()
    chat.send("one\x1b\rtwo\r")
    chat.expect("(cut after")
    chat.prompt()
    chat.send("\x1b[A\x1b[A!\r")  # up, in a message of two lines, and to its first line
    chat.expect("(cut after")
    chat.prompt()
    chat.send("nothing of this\x03/und")
    chat.expect("/undo")  # in the menu
    say(chat, "\t", "(taken back: one")
    chat.prompt()
    chat.send("/save talk.json\r")
    chat.expect("(2 messages saved")
    chat.prompt()
    chat.send("\x04")
    assert chat.end() == 0 and saved(tmp_path) == ["one\ntwo", "qq"]


@pytest.mark.parametrize(
    "kind, while_it", [pytest.param("edited", "waits", marks=EDITED.marks), ("readline", "waits"), ("plain", "answers")]
)
def test_sigterm_ends_cleanly(terminal, kind, while_it):
    chat = terminal(kind, "--max-tokens", 90_000)
    chat.prompt()
    if while_it == "answers":
        chat.send("one\r")
        chat.expect("qqqq")
    chat.terminate()
    assert chat.end() == 128 + signal.SIGTERM and "Traceback" not in chat.output


@pytest.mark.parametrize("kind", [EDITED, "readline"])
def test_answers_can_go_elsewhere(terminal, tmp_path, kind):
    """With standard output in a file, the prompt and the notes stay at the terminal."""
    with (tmp_path / "answers").open("wb") as file:
        chat = terminal(kind, "--max-tokens", 2, stdout=file)
        chat.prompt()
        chat.send("one\r")
        chat.expect("(cut after 2 tokens")
        chat.prompt()
        chat.send("\x04")
        assert chat.end() == 0
    assert (tmp_path / "answers").read_bytes() == b"qq\n" and "qq" not in chat.output
