"""A small model that talks, for the tests of `minillm chat`, and a terminal to talk to it in."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time

import minillm
from minillm.tokenizers import BytePairTokenizer

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
TOKENIZER = BytePairTokenizer.train("the user asks and the fox says " * 9, 280, ["<|im_start|>", "<|im_end|>"])
END = TOKENIZER.special_tokens["<|im_end|>"]
(LETTER,) = TOKENIZER.encode("q")
ONLY_Q = ("--logit-bias", f"{LETTER}:1000")  # an answer is then qqqq, up to --max-tokens
TIMEOUT = 60  # seconds, for what takes one at most
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[=>]|\r")
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def make_model(folder, context_length=256, template=CHATML):
    """A model folder with a chat template; None: without."""
    config = minillm.LlamaConfig(
        vocab_size=TOKENIZER.vocab_size, context_length=context_length, n_layer=1, n_head=2, d_model=16
    )
    minillm.Llama(config, seed=1).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    if template:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return folder


class Terminal:
    """`minillm chat MODEL ...` at a terminal of its own, as one that a person types into."""

    def __init__(self, folder, *arguments, environment=(), stdout=None):
        self.master, slave = os.openpty()
        self.attributes = termios.tcgetattr(slave)
        self.slave = slave
        command = [sys.executable, "-m", "minillm", "chat", *map(str, arguments)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            cwd=folder,
            start_new_session=True,
            env={
                **os.environ,
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",  # there is no terminal that would answer where its cursor is
                "OPENBLAS_NUM_THREADS": "1",
                "COLUMNS": "80",
                **dict(environment),
            },
        )
        self.output, self._seen = "", 0

    def send(self, text):
        os.write(self.master, text.encode())

    def expect(self, text):
        """Wait until the terminal shows a text behind the last one that was waited for."""
        started = time.monotonic()
        while (at := self.plain().find(text, self._seen)) < 0:
            over = self.process.poll() is not None or time.monotonic() - started > TIMEOUT
            assert self._read(0.1) or not over, f"no {text!r} in {self.plain()[self._seen :]!r}"
        self._seen = at + len(text)

    def prompt(self):
        """Wait for the prompt."""
        self.expect(">")

    def interrupt(self, text):
        """Type Ctrl-C until the terminal shows a text: one that is typed in the moment before Python's `input` waits for
        a line is noticed there with the next one.
        """
        started, seen = time.monotonic(), self._seen
        while self.plain().find(text, seen) < 0 and time.monotonic() - started < TIMEOUT:
            self.send("\x03")
            tried = time.monotonic()
            while self.plain().find(text, seen) < 0 and time.monotonic() - tried < 2:
                self._read(0.1)
        self.expect(text)

    def terminate(self):
        """Send SIGTERM until the process ends: one that arrives in the moment before Python's `input` waits for a line is
        noticed there with the next signal.
        """
        started = time.monotonic()
        while self.process.poll() is None and time.monotonic() - started < TIMEOUT:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)

    def end(self):
        """Wait for the end; returns the exit code. The terminal has to be as it was."""
        started = time.monotonic()
        while self.process.poll() is None:
            assert time.monotonic() - started < TIMEOUT, f"it goes on: {self.plain()[self._seen :]!r}"
            self._read(0.05)
        while self._read(0):
            pass
        assert termios.tcgetattr(self.slave) == self.attributes, "the terminal is left in another mode"
        return self.process.returncode

    def plain(self):
        """What was shown, without control sequences."""
        return CONTROL.sub("", self.output)

    def _read(self, seconds):
        if not select.select([self.master], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)

    def close(self):
        self.process.kill()
        self.process.wait()
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)
