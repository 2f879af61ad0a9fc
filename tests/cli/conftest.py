"""The command line in a process of its own, away from the checkout."""

import subprocess
import sys

import pytest


@pytest.fixture
def minillm(tmp_path):
    """A function that runs `minillm ...` in tmp_path, which has a text.txt, and returns the finished process."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30, encoding="utf-8")

    def run(*arguments, expect=0, text=None):
        command = [sys.executable, "-m", "minillm", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", input=text, timeout=120)
        assert done.returncode == expect, f"exit code {done.returncode}: {done.stderr}"
        return done

    return run
