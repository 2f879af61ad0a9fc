"""Standard input, output and error as the world gives them."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest

SMALL = (
    "--n-layer 1 --n-head 1 --d-model 16 --context-length 16 --batch-size 2 --eval-windows 2 --sample-tokens 0".split()
)
posix = pytest.mark.skipif(os.name == "nt", reason="written for the shell of POSIX systems")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
WITHOUT_RIGHTS = "setpriv --bounding-set -dac_override,-dac_read_search" if shutil.which("setpriv") else ""
AS_ANYBODY = WITHOUT_RIGHTS if IS_ROOT else "env"  # how a command runs that may not read everything


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a small model of byte pairs in `run`."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "text.txt").write_text("The quick brown fox — naïve, 日本 😀 — jumps. " * 100, encoding="utf-8")
    arguments = ["train", "--data", "text.txt", *SMALL, "--max-steps", "1", "--warmup-steps", "0", "--out", "run"]
    subprocess.run([sys.executable, "-m", "minillm", *arguments], cwd=folder, check=True, capture_output=True)
    return folder


def shell(here, line, **environment):
    """Runs a line of the shell in which $M is the command; returns the finished process, its output
    as bytes.
    """
    environment = {**os.environ, "M": f"{sys.executable} -m minillm", "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.run(["bash", "-c", line], cwd=here, env=environment, capture_output=True, timeout=120)


def one_line(done, message):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"minillm: ") and done.stderr.count(b"\n") == 1 and message in done.stderr, (
        done.stderr
    )


@posix
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_what_the_output_cannot_show_is_replaced(here, encoding):
    line = "$M generate run --prompt 'é日😀' --max-tokens 1 --trace && $M inspect run --text 'é日'"
    line += " && $M tokenizer decode run 230 231"
    done = shell(here, line, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    start = {"cp1252": b"\xe9??", "latin-1": b"\xe9??", "ascii": b"???", "utf-8": "é日😀".encode()}[encoding]
    assert done.stdout.startswith(start)


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["info", "--version", "generate run --max-tokens 2", "tokenizer encode run abc"])
def test_an_output_that_is_full_or_closed(here, arguments, unbuffered):
    one_line(shell(here, f"$M {arguments} >&-", PYTHONUNBUFFERED=unbuffered), b"standard output: Bad file descriptor")
    if os.path.exists("/dev/full"):
        done = shell(here, f"$M {arguments} > /dev/full", PYTHONUNBUFFERED=unbuffered)
        one_line(done, b"standard output: No space left on device")


@posix
def test_readers_that_go_away(here):
    done = shell(here, "$M info | true; echo ${PIPESTATUS[0]}")
    assert done.stdout == b"1\n" and done.stderr == b""


@posix
def test_training_needs_no_output_and_no_file_gets_its_number(here):
    line = f"$M train --data text.txt {' '.join(SMALL)} --max-steps 1 --warmup-steps 0 --out closed <&- >&- 2>&-"
    assert shell(here, line).returncode == 0
    assert shell(here, "$M generate closed --max-tokens 1 2>&-").returncode == 0
    done = shell(here, "$M generate nothing 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@posix
def test_input_that_is_closed_or_no_text(here):
    one_line(shell(here, "$M tokenizer encode run <&-"), b"standard input: Bad file descriptor")
    one_line(shell(here, r"printf 'a\xff' | $M tokenizer encode run"), b"standard input is not valid UTF-8: byte 0xff")
    one_line(shell(here, r"printf '\xff\xfea\0' | $M tokenizer encode run"), b"standard input is UTF-16 text")
    with_mark, without = (
        shell(here, f"printf '{mark}a\\r\\n' | $M tokenizer encode run") for mark in (r"\xef\xbb\xbf", "")
    )
    assert with_mark.stdout == without.stdout != b""


@posix
def test_what_the_system_refuses_is_one_line(here):
    one_line(shell(here, f"$M train --data text.txt {' '.join(SMALL)} --out text.txt/run"), b"text.txt/run")
    one_line(shell(here, f"$M train --data text.txt {' '.join(SMALL)} --out {'x' * 300}"), b"name too long")
    one_line(shell(here, "$M tokenizer train text.txt --out text.txt"), b"text.txt: File exists")
    (here / "broken").mkdir(exist_ok=True)
    (here / "broken" / "config.json").mkdir(exist_ok=True)
    one_line(shell(here, "$M generate broken"), b"broken")


@posix
@pytest.mark.skipif(not AS_ANYBODY, reason="root may read everything, and there is no setpriv to give that up")
def test_what_may_not_be_read_or_written(here, tmp_path):
    (tmp_path / "secret.txt").write_text("the quick brown fox. " * 100)
    (tmp_path / "secret.txt").chmod(0)
    (tmp_path / "mine").mkdir(mode=0o500)
    shutil.copytree(here / "run", tmp_path / "run")
    (tmp_path / "run" / "config.json").chmod(0)
    small = f"--data {here}/text.txt {' '.join(SMALL)}"
    for arguments, message in (
        ("train --data secret.txt", b"secret.txt cannot be read: Permission denied"),
        (f"train {small} --out mine/run", b"mine/run: Permission denied"),
        ("generate run", b"run/config.json: Permission denied"),
        (f"tokenizer train {here}/text.txt --out mine/new", b"mine/new: Permission denied"),
        (f"tokenizer train {here}/text.txt --out mine", b"mine/tokenizer.json: Permission denied"),
    ):
        one_line(shell(tmp_path, f"{AS_ANYBODY} $M {arguments}"), message)
    assert list((tmp_path / "mine").iterdir()) == []


@posix
def test_ctrl_c_is_reported(here):
    command = [sys.executable, "-m", "minillm", "generate", "run", "--max-tokens", "10000000"]
    heeded = partial(
        signal.signal, signal.SIGINT, signal.default_int_handler
    )  # also where the tests run in the background
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heeded)
    with subprocess.Popen(command, cwd=here, **pipes) as process:
        try:
            assert process.stdout.read(20)  # it writes
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1] == b"\nminillm: stopped\n" and process.returncode == 130
        finally:
            process.kill()


def test_the_command_alone_is_its_help(minillm):
    for arguments in ((), ("tokenizer",)):
        done = minillm(*arguments)
        assert "Usage: minillm" in done.stdout and done.stderr == ""
        assert done.stdout.count("Usage:") == 1
