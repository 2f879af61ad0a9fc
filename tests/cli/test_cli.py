"""The command line as a user sees it: in a process of its own, away from the checkout."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from minillm.models.presets import PRESETS

SMALL = "--tokenizer char --n-layer 1 --n-head 2 --d-model 16".split()
SMALL += "--context-length 8 --batch-size 4 --eval-interval 5 --eval-windows 4".split()
COMMANDS = ["train", "generate", "evaluate", "gradcheck", "info", "inspect", "lesson", "simulate", "tokenizer"]


@pytest.fixture
def trained(minillm):
    minillm("train", "--data", "text.txt", "--out", "run", "--max-steps", 10, *SMALL)
    return "run"


def complaint(done):
    """The one line that a failure prints."""
    assert done.stderr.startswith("minillm: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


def test_train_shows_what_it_does(minillm, tmp_path):
    shown = minillm("train", "--data", "text.txt", "--max-steps", 10, *SMALL).stderr
    for step in (0, 5, 10):
        assert f"step     {step}" in shown or f"step    {step}" in shown
    words = [
        "parameters",
        "tokens to learn from",
        "train loss",
        "validation loss",
        "perplexity",
        "gap",
        "tokens/s",
        "best",
    ]
    assert all(word in shown for word in words), shown
    assert "wrote runs/default-1; let it write:\n  minillm generate runs/default-1 --prompt" in shown
    minillm("train", "--data", "text.txt", "--max-steps", 1, *SMALL)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["default-1", "default-2"]


def test_several_files(minillm, tmp_path):
    (tmp_path / "more.txt").write_text("more text")
    minillm("train", "--data", "text.txt", "more.txt", "--max-steps", 1, *SMALL, "--out", "run")
    state = json.loads((tmp_path / "run" / "training" / "state.json").read_text())
    assert state["settings"]["data"] == ["text.txt", "more.txt"]


def test_text_goes_to_standard_output(minillm, trained):
    done = minillm("generate", trained, "--prompt", "the ", "--max-tokens", 20)
    assert done.stdout.startswith("the ") and len(done.stdout) == 25 and done.stdout.endswith("\n")
    assert "up to 8 tokens" in done.stderr
    assert minillm("generate", trained, "--prompt", "the ", "--max-tokens", 20).stdout == done.stdout
    assert minillm("generate", trained, "--prompt", "the ", "--max-tokens", 20, "--seed", 1).stdout != done.stdout
    greedy = [minillm("generate", trained, "--temperature", 0, "--prompt", "t", "--seed", s).stdout for s in (0, 1)]
    assert greedy[0] == greedy[1]


def test_text_is_streamed(minillm, trained, tmp_path):
    command = [sys.executable, "-m", "minillm", "generate", trained, "--prompt", "the ", "--max-tokens", "100000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.read(50).startswith(b"the ")  # there long before the end
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_evaluate(minillm, trained):
    own = minillm("evaluate", trained).stdout
    assert own.startswith("tokens 134  loss ") and "perplexity" in own and "bits per byte" in own
    assert minillm("evaluate", trained, "--data", "text.txt", "--split", "validation").stdout == own
    assert minillm("evaluate", trained, "--data", "text.txt").stdout.startswith("tokens 1,349 ")


def test_gradcheck(minillm):
    shown = minillm("gradcheck", "linear", "softmax").stdout
    assert "linear" in shown and "weight" in shown and "(4, 5)" in shown and "0 checks failed" in shown


def test_gradcheck_fails_with_exit_code_1(tmp_path):
    fault = """
import minillm.layers.softmax as softmax
softmax.softmax_backward = lambda dp, saved: saved * dp
import sys
from minillm.cli import main
sys.argv = ["minillm", "gradcheck", "softmax"]
main()
"""
    done = subprocess.run([sys.executable, "-c", fault], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "FAILED softmax: the gradient of x" in done.stdout


def test_info(minillm):
    shown = minillm("info").stdout
    for name in ("minillm", "python", "numpy", "BLAS", "cores", "devices"):
        assert f"\n{name} " in "\n" + shown


def test_version(minillm):
    assert minillm("--version").stdout == f"minillm {version('minillm')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help(minillm, command):
    assert "Usage: minillm" in minillm(command, "--help").stdout.replace("python -m ", "")


def test_every_setting_has_an_option():
    import inspect
    from dataclasses import fields

    from minillm import GPT2Config, LlamaConfig
    from minillm.cli import train
    from minillm.training import SETTING_NAMES

    options = set(inspect.signature(train.command).parameters)
    model = {field.name for config in (GPT2Config, LlamaConfig) for field in fields(config)}
    model -= {"vocab_size", "rope_scaling"}
    assert set(SETTING_NAMES) | model <= options
    assert options - set(SETTING_NAMES) - model == {
        "context", "files", "preset", "out", "overwrite", "resume", "stop_after", "device", "profile"
    }  # fmt: skip


class TestComplaints:
    """One line, exit code 2, no traceback, nothing written."""

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--data", "nothing.txt"], "nothing.txt is neither a file nor one of the corpora"),
            (["--preset", "gpt5"], 'unknown preset "gpt5": use one of default,'),
            (["--lr", "-1"], "learning rate is -1.0"),
            (["--batch-size", "0"], "batch_size is 0"),
            (["--dropout", "1"], "dropout is 1.0"),
            (["--d-model", "10", "--n-head", "3"], "d_model (10) is not divisible by n_head (3)"),
            (["--context-length", "5000"], "the training text has 271 tokens, one window needs 5001"),
            (["--device", "tpu"], 'unknown device "tpu"'),
            (["--stop-after", "-3"], "--stop-after is -3"),
            (["--resume", "nothing"], "nothing holds no run that could be resumed"),
            (["--max-steps", "many"], "Invalid value for '--max-steps'"),
            (["--colour", "red"], "No such option: --colour"),
        ],
    )
    def test_train(self, minillm, tmp_path, arguments, message):
        data = [] if "--data" in arguments or "--resume" in arguments else ["--data", "text.txt"]
        assert message in complaint(minillm("train", *data, *arguments, expect=2))
        assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]

    def test_invalid_utf8(self, minillm, tmp_path):
        (tmp_path / "bytes").write_bytes(b"abc\xff")
        assert "byte 0xff at offset 3" in complaint(minillm("train", "--data", "bytes", expect=2))

    def test_a_run_that_stands_there(self, minillm, trained):
        message = complaint(minillm("train", "--data", "text.txt", "--out", trained, *SMALL, expect=2))
        assert "run already holds a run: continue it with --resume run, replace it with --overwrite" in message

    def test_resume_with_other_settings(self, minillm, trained):
        message = complaint(minillm("train", "--resume", trained, "--lr", 0.5, expect=2))
        assert f"these differ: lr (the run has {PRESETS['default'].training['lr']}, given 0.5)" in message
        assert "leave out --preset" in complaint(minillm("train", "--resume", trained, "--preset", "default", expect=2))

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--prompt", "été"], "has never seen the character 'é' (U+00E9, at position 0"),
            (["--temperature", "-1"], "temperature is -1.0"),
            (["--top-k", "-1"], "top_k is -1"),
            (["--prompt", ""], "needs at least one token to continue from"),
        ],
    )
    def test_generate(self, minillm, trained, arguments, message):
        assert message in complaint(minillm("generate", trained, *arguments, expect=2))

    @pytest.mark.parametrize("command", ["generate", "evaluate"])
    def test_incomplete_model_folder(self, minillm, trained, tmp_path, command):
        assert "nothing is not a folder" in complaint(minillm(command, "nothing", expect=2))
        (tmp_path / trained / "model.safetensors").unlink()
        assert "model.safetensors is missing" in complaint(minillm(command, trained, expect=2))

    def test_gradcheck(self, minillm):
        assert 'no gradient check is named "relu"' in complaint(minillm("gradcheck", "relu", expect=2))


def test_ctrl_c_saves_and_tells_how_to_go_on(minillm, tmp_path):
    arguments = ["train", "--data", "text.txt", "--out", "run", "--max-steps", "100000", *SMALL, "--sample-tokens", "0"]
    command = [sys.executable, "-m", "minillm", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while (
        not (tmp_path / "run" / "metrics.jsonl").is_file() or (tmp_path / "run" / "metrics.jsonl").stat().st_size < 500
    ):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in shown
    assert "stopped and saved at step" in shown and "  minillm train --resume run\n" in shown
    step = json.loads((tmp_path / "run" / "training" / "state.json").read_text())["step"]
    again = minillm("train", "--resume", "run", "--stop-after", step + 2).stderr
    assert f"resuming run at step {step} of 100000" in again and f"stopped and saved at step {step + 2}" in again


def test_heavy_modules_are_loaded_when_used(tmp_path):
    """What makes start-up slow is not there: no NumPy for `import minillm`, none and no model code for --help."""
    code = "import sys, minillm; print([m for m in ('numpy', 'rich', 'typer', 'safetensors') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout
    assert shown == "[]\n"
    code = "import sys; sys.argv = ['minillm', '--help']\nfrom minillm.cli import main\n"
    code += "try: main()\nfinally: print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout
    modules = shown.split("\n")[-2].split()
    assert "typer" in modules and not {"numpy", "safetensors", "minillm.layers", "matplotlib"} & set(modules)
