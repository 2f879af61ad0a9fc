"""The command line, run in this process: `main()` with arguments, standard streams and a folder of
its own.

What needs a process (closed streams, signals, what is imported at the start) starts one in its own
test.
"""

import io
import shutil
import sys
from types import SimpleNamespace

import pytest

from minillm.cli import main

TEXT = "the quick brown fox jumps over the lazy dog. " * 30


@pytest.fixture
def minillm(tmp_path, monkeypatch):
    """A function that runs `minillm ...` in tmp_path, which has a text.txt; returns its exit code,
    stdout and stderr.
    """
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return _run


def _run(*arguments, expect=0, text=None):
    streams = [io.TextIOWrapper(io.BytesIO(part), "utf-8", newline="") for part in ((text or "").encode(), b"", b"")]
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in zip(("stdin", "stdout", "stderr"), streams):
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["minillm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    for stream in streams[1:]:
        stream.flush()
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in streams[1:])
    code = ended.value.code or 0
    assert code == expect, f"exit code {code}: {stderr}"
    return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)


@pytest.fixture(scope="session")
def _runs(tmp_path_factory):
    """Options of `minillm train` -> a run folder trained with them."""
    return SimpleNamespace(folder=tmp_path_factory.mktemp("runs"), trained={})


@pytest.fixture
def train(minillm, tmp_path, _runs):
    """A function that puts a run of `minillm train --data text.txt OPTIONS` into tmp_path: trained
    once, then copied.
    """

    def make(*options, out="run"):
        if options not in _runs.trained:
            made = _runs.folder / str(len(_runs.trained))
            minillm("train", "--data", "text.txt", *options, "--out", made)
            _runs.trained[options] = made
        shutil.copytree(_runs.trained[options], tmp_path / out)
        return out

    return make
