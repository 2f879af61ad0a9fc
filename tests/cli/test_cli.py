"""The command line as a user sees it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from importlib.metadata import version

import pytest
import typer

from minillm.cli import info
from minillm.cli.app import app
from minillm.distributed.launch import launched
from minillm.distributed.machine import MACHINE_NAMES
from minillm.models.architectures import config_classes
from minillm.models.config import option
from minillm.models.presets import PRESETS
from minillm.sampler.settings import SamplerSettings
from minillm.training import SETTING_NAMES

SMALL = "--tokenizer char --n-layer 1 --n-head 2 --d-model 16".split()
SMALL += "--context-length 8 --batch-size 4 --eval-interval 5 --eval-windows 4".split()
COMMANDS = ["train", "generate", "evaluate", "gradcheck", "info", "inspect", "lesson", "plot", "simulate", "tokenizer"]


@pytest.fixture
def trained(train):
    return train("--max-steps", 10, *SMALL)


def complaint(done):
    """The one line that a failure prints."""
    assert done.stderr.startswith("minillm: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


def test_train_shows_what_it_does(minillm, tmp_path):
    shown = minillm("train", "--data", "text.txt", "--max-steps", 10, *SMALL).stderr
    for step in (0, 5, 10):
        assert f"step     {step}" in shown or f"step    {step}" in shown
    words = ["parameters", "tokens to learn from", "loss", "perplexity", " nats", "tokens/s", "best"]
    assert all(word in shown for word in words), shown
    assert shown.count("loss and perplexity: on the training text / on the validation text") == 1
    assert re.search(
        r"\nstep     0  loss \d\.\d{3} / \d\.\d{3}  perplexity \S+ / \S+  gap -?\d\.\d\d nats  best\n", shown
    )
    assert "wrote runs/text-1; let it write:\n  minillm generate runs/text-1 --prompt" in shown
    minillm("train", "--data", "text.txt", "--max-steps", 1, *SMALL)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["text-1", "text-2"]


def test_a_run_is_named_by_its_preset_or_its_text(minillm, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "my letters.txt").write_text((tmp_path / "text.txt").read_text())
    minillm("train", "--data", "folder/my letters.txt", "text.txt", "--max-steps", 1, *SMALL)
    minillm("train", "--data", "text.txt", "--preset", "shakespeare-char-cpu", "--max-steps", 1, *SMALL)
    minillm("train", "--data", "text.txt", "--init", "runs/my letters-1", "--max-steps", 1, "--eval-windows", 4)
    names = ["fine-tune-1", "my letters-1", "shakespeare-char-cpu-1"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names


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
    """A line for each layer, the worst last; with --all one for each tensor."""
    shown = minillm("gradcheck", "mlp", "softmax").stdout.splitlines()
    heading, *layers, counts, last = [line.split() for line in shown]
    assert heading == "layer tensors largest error in at".split()
    errors = [float(re.search(r"\d\.\de-\d\d", line)[0]) for line in shown[1:-2]]
    assert len(layers) == 3 and errors == sorted(errors)
    assert " ".join(counts) == "9 tensors, 0 checks failed, tolerance 1e-06"
    assert last[:4] == f"largest relative error {errors[-1]:.1e}".split() and last[-2].rstrip(",") in shown[-3]
    every = minillm("gradcheck", "mlp", "softmax", "--all").stdout
    assert "weight" in every and "(4, 8)" in every and "0 checks failed" in every
    assert len(every.splitlines()) == 1 + 9 + 2


def test_gradcheck_by_the_complex_step(minillm):
    """Ten digits more; where forward is not analytic, finite differences take over, and it is said."""
    shown = minillm("gradcheck", "linear", "dpo", "--method", "complex").stdout
    assert "0 checks failed, tolerance 1e-11" in shown
    assert "dpo: chosen by finite differences: forward does not take complex numbers" in shown
    lines = {line.partition("  ")[0]: line for line in shown.splitlines()}
    assert {"linear", "linear, no bias", "linear, transposed weight"} <= set(lines)
    largest = [float(re.search(r"\d\.\de-\d\d", line)[0]) for name, line in lines.items() if name.startswith("linear")]
    assert max(largest) < 1e-13


def test_gradcheck_fails_with_exit_code_1(minillm, monkeypatch):
    monkeypatch.setattr("minillm.layers.softmax.softmax_backward", lambda dp, saved: saved * dp)
    shown = minillm("gradcheck", "softmax", "mlp", expect=1).stdout
    assert "FAILED softmax: the gradient of x" in shown
    assert shown.splitlines()[3].startswith("softmax ") and " in softmax, x" in shown.splitlines()[-1]  # the worst


def test_gradcheck_with_mutants(minillm):
    """A line for each name, and with --all those that are the same function, with the reason."""
    shown = minillm("gradcheck", "--mutate", "softmax", "dpo").stdout.splitlines()
    assert shown[0].split() == ["name", "mutants", "caught", "same", "function", "survive"]
    assert re.fullmatch(r"softmax +(\d+) +\1 +0 +0", shown[1]) and re.fullmatch(r"dpo +\d+ +\d+ +1 +0", shown[2])
    assert re.fullmatch(r"\d+ mutants, \d+ caught, 1 the same function, 0 survive", shown[-1])
    every = minillm("gradcheck", "--mutate", "dpo", "--all").stdout
    assert "SAME" in every and " -> return xp.exp(-xp.logaddexp(-z, 0))\n    (the order of the two" in every


def test_gradcheck_names_the_mutants_that_survive(minillm, monkeypatch):
    monkeypatch.setattr("minillm.checks.mutation.equivalent.known_as_equal", dict)
    shown = minillm("gradcheck", "--mutate", "dpo", expect=1).stdout
    assert re.search(r"SURVIVES \S*dpo\.py:\d+: arguments exchanged, in sigmoid\n    return xp", shown)
    assert shown.splitlines()[-1].endswith(" 0 the same function, 1 survive")


def test_ctrl_c_ends_the_mutants(minillm, monkeypatch):
    def interrupted(mutant, check):
        raise KeyboardInterrupt

    monkeypatch.setattr("minillm.checks.mutation.run.noticed_by", interrupted)
    assert minillm("gradcheck", "--mutate", "linear", expect=130).stderr.endswith("minillm: stopped\n")


def test_mutants_of_a_wrong_gradient_are_not_tried(minillm, monkeypatch):
    monkeypatch.setattr("minillm.layers.softmax.softmax_backward", lambda dp, saved: saved * dp)
    shown = minillm("gradcheck", "--mutate", "softmax", expect=1)
    assert "FAILED softmax: the gradient of x is wrong at" in shown.stdout


def test_info(minillm):
    shown = minillm("info").stdout
    for name in ("minillm", "python", "numpy", "BLAS", "cores", "devices", "training", "global lock", "MPI"):
        assert f"\n{name} " in "\n" + shown
    assert "cudasim" in shown and "g++" in shown


def test_info_says_what_would_train_and_why(minillm, monkeypatch):
    monkeypatch.setattr("minillm.backend.threads.cores", lambda: 3)
    monkeypatch.setattr("minillm.distributed.choice.cores", lambda: 3)
    monkeypatch.setattr("minillm.distributed.choice.why_threads", lambda device: "")
    shown = minillm("info").stdout
    assert "training       3 processes, 1 thread each: each has a lock of Python of its own" in shown
    monkeypatch.setattr("minillm.distributed.choice.why_threads", lambda device: "other threads are running")
    assert "training       1 process, 3 threads each: other threads are running" in minillm("info").stdout


def test_info_says_whether_there_is_mpi(minillm, monkeypatch):
    monkeypatch.setattr("minillm.cli.info.find_spec", lambda name: None)
    assert 'MPI            not installed: pip install "minillm[mpi]"' in minillm("info").stdout
    assert info._mpi(launched({"PMI_SIZE": "4", "PMI_RANK": "0"})) == "rank 0 of the 4 that mpiexec started"


def test_version(minillm):
    assert minillm("--version").stdout == f"minillm {version('minillm')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help(minillm, command):
    assert f"Usage: minillm {command}" in minillm(command, "--help").stdout


def test_every_setting_has_an_option():
    options = {parameter.name for parameter in parameters_of("train")}
    model = {field.name for config in config_classes() for field in fields(config)}
    model -= {"vocab_size", "rope_scaling"}
    assert set(SETTING_NAMES) | set(MACHINE_NAMES) | model <= options
    assert options - set(SETTING_NAMES) - set(MACHINE_NAMES) - model == {
        "files", "preset", "out", "overwrite", "resume", "stop_after", "device", "profile", "help", "head_width"
    }  # fmt: skip


def test_every_setting_of_the_sampler_has_an_option():
    options = {parameter.name for parameter in parameters_of("generate")}
    assert {field.name for field in fields(SamplerSettings)} - options == {"ties", "end_tokens"}
    names = {name for parameter in parameters_of("generate") for name in parameter.opts}
    assert {"--mirostat", "--ban-token", "--force-token", "--dry-breaker", "--logit-bias", "--json"} <= names


def test_a_new_architecture_brings_its_options(monkeypatch):
    @dataclass(frozen=True)
    class WindowConfig:
        vocab_size: int = 7
        n_layer: int = option(2, "Transformer blocks.")
        window: int | None = option(None, "Tokens that attention reaches back.")

    monkeypatch.setattr("minillm.models.architectures.config_classes", lambda: [*config_classes(), WindowConfig])
    (window,) = [parameter for parameter in parameters_of("train") if parameter.name == "window"]
    assert window.opts == ["--window"] and window.help == "Tokens that attention reaches back."
    assert window.rich_help_panel == "The model" and window.default is None


def parameters_of(name):
    """The parameters of a command, as its help has them."""
    command = typer.main.get_command(app)
    context = command.make_context("minillm", [], resilient_parsing=True)
    found = command.get_command(context, name)
    return found.get_params(found.make_context(name, [], parent=context, resilient_parsing=True))


def test_the_former_name_of_head_dim(minillm, tmp_path):
    shape = "--preset llama-small --tokenizer char --n-layer 1 --d-model 16 --d-ff 16 --context-length 8 --max-steps 1"
    minillm("train", "--data", "text.txt", *shape.split(), "--head-width", 6, "--eval-windows", 1, "--out", "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["head_dim"] == 6
    assert "--head-width" not in minillm("train", "--help").stdout


class TestComplaints:
    """One line, exit code 2, no traceback, nothing written."""

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--data", "nothing.txt"], "nothing.txt is neither a file nor one of the corpora"),
            (["--preset", "gpt5"], 'unknown preset "gpt5": use one of default,'),
            (["--lr", "-1"], "learning rate is -1.0"),
            (["--batch-size", "0"], "minillm: --batch-size is 0"),
            (["--dropout", "1"], "dropout is 1.0"),
            (["--d-model", "10", "--n-head", "3"], "--d-model (10) is not divisible by --n-head (3)"),
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

    def test_a_run_that_exists(self, minillm, trained):
        message = complaint(minillm("train", "--data", "text.txt", "--out", trained, *SMALL, expect=2))
        assert "run already holds a run: continue it with --resume run, replace it with --overwrite" in message

    def test_resume_with_other_settings(self, minillm, trained):
        message = complaint(minillm("train", "--resume", trained, "--lr", 0.5, expect=2))
        assert f"these differ: --lr (the run has {PRESETS['default'].training['lr']}, given 0.5)" in message
        assert "leave out --preset" in complaint(minillm("train", "--resume", trained, "--preset", "default", expect=2))

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--prompt", "été"], "has never seen the character 'é' (U+00E9, at position 0"),
            (["--temperature", "-1"], "temperature is -1.0"),
            (["--top-k", "-1"], "minillm: --top-k is -1"),
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
    """In a process of its own, which gets the signal."""
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
    """What makes start-up slow is not there: no NumPy for `import minillm`, none and no model code
    for --help.
    """
    code = "import sys, minillm; print([m for m in ('numpy', 'rich', 'typer', 'safetensors') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout
    assert shown == "[]\n"
    code = "import sys; sys.argv = ['minillm', '--help']\nfrom minillm.cli import main\n"
    code += "try: main()\nfinally: print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout
    modules = shown.split("\n")[-2].split()
    assert "typer" in modules and not {"numpy", "safetensors", "minillm.layers", "matplotlib"} & set(modules)


NOT_FOR_WRITING = {
    *("torch", "transformers", "tokenizers", "tiktoken", "matplotlib", "jinja2", "yaml", "gguf", "cupy", "starlette"),
    *("rich", "http.client", "huggingface_hub", "pydantic", "minillm.cli.train", "minillm.cli.chat"),
    *("minillm.generation.beam_search", "minillm.generation.speculative", "minillm.generation.comparison"),
    *("minillm.pretrained.gguf", "minillm.pretrained.llama2c", "minillm.pretrained.adapter"),
    *("minillm.training", "minillm.optim", "minillm.checks", "minillm.web", "minillm.lessons", "minillm.inspection"),
}


def test_what_generate_does_not_load(minillm, tmp_path):
    """Nothing that a text from a run folder does not need: the first token waits for all of it.
    pydantic is what newer versions of typer read values with (plain_values.py).
    """
    minillm(*"train --data text.txt --tokenizer char --max-steps 1 --d-model 32 --n-layer 1 --out run".split())
    code = "import sys; sys.argv = 'minillm generate run --prompt the --max-tokens 2'.split()\n"
    code += "from minillm.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout
    modules = set(shown.split("\n")[-2].split())
    assert {"numpy", "minillm.generation.generate", "minillm.pretrained.hugging_face"} <= modules
    assert not NOT_FOR_WRITING & modules
