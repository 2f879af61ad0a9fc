"""`minillm inspect` as a user sees it."""

import json
import math

import pytest
from model_files import GPT2, TOKENIZER, write_gguf, write_llama2c

import minillm as package
from minillm.layers import mlp

TEXT = "the quick brown fox"


@pytest.fixture
def run_folder(tmp_path):
    """A folder as a training run leaves it."""
    package.GPT2(GPT2, seed=0).save_pretrained(tmp_path / "run")
    TOKENIZER.save_pretrained(tmp_path / "run")
    return "run"


def test_table(minillm, run_folder):
    shown = minillm("inspect", run_folder, "--text", TEXT).stdout
    lines = shown.splitlines()
    assert lines[0].startswith("GPT2, ") and "parameters, float32 on cpu" in lines[0]
    assert lines[1] == "3 tokens, each to predict the next: the ·quick ·brown ·fox"
    names = [line.split()[0] for line in lines[3:] if line]
    assert names.index("wte") < names.index("h.0.ln_1") < names.index("h.1.mlp.gelu") < names.index("logits")
    assert names.index("loss") < names.index("parameters") < names.index("wte.weight") < names.index("total")
    loss = float(lines[-1].split()[1])
    assert loss == pytest.approx(math.log(GPT2.vocab_size), rel=0.05)  # untrained: all tokens alike
    assert f"perplexity {math.exp(loss):.1f}"[:-1] in lines[-1]


def test_options(minillm, run_folder):
    folded = minillm("inspect", run_folder, "--text", TEXT, "--layer", 1).stdout
    assert "\nh.0 +" in folded and "\nh.1.ln_1 " in folded and "1 of 2" in folded
    whole = minillm("inspect", run_folder, "--text", TEXT, "--all", "--dtype", "float64").stdout
    assert "parameters, float64 on cpu" in whole and " + " not in whole
    rows = [json.loads(line) for line in minillm("inspect", run_folder, "--text", TEXT, "--json").stdout.splitlines()]
    assert rows[0]["tensor"] == "wte" and rows[0]["shape"] == [1, 3, 64] and rows[0]["saved_bytes"] == 24
    assert rows[-1]["loss"] == pytest.approx(math.log(rows[-1]["perplexity"]))


def test_tensor(minillm, run_folder):
    shown = minillm("inspect", run_folder, "--text", TEXT, "--tensor", "transformer.h.1.attn.c_attn.weight").stdout
    assert shown.startswith("h.1.attn.c_attn.weight (64, 192), learned")
    assert "read by minillm/layers/linear.py:" in shown and "def linear_backward(dy, saved" in shown
    assert any(line.startswith(">") and "dweight = " in line for line in shown.splitlines())
    assert "\npassed: the largest relative error is " in shown and "FAILED" not in shown


def test_a_wrong_gradient_is_exit_code_1(minillm, run_folder, monkeypatch):
    """The fault is a function without a source file."""
    fault = "lambda dy, saved: (right(dy, saved)[0] * 1.001, right(dy, saved)[1])"
    monkeypatch.setattr(mlp, "gelu_backward", eval(fault, {"right": mlp.gelu_backward}))
    for tensor, code in (
        ("h.1.mlp.c_fc", 1),
        ("h.0.mlp.c_fc.weight", 1),
        ("h.1.mlp.gelu", 0),
        ("h.1.mlp.c_fc.bias", 0),
    ):
        done = minillm("inspect", run_folder, "--text", TEXT, "--tensor", tensor, expect=code)
        assert (f"FAILED {tensor}: its gradient is wrong at (" in done.stdout) == bool(code)
        assert ("passed: " in done.stdout) != bool(code)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--text", TEXT, "--tensor", "h.0.mlp.relu"], 'no tensor is named "h.0.mlp.relu"; there are h.0.mlp.gelu, '),
        (["--text", TEXT, "--tensor", "wte", "--json"], "--tensor shows one tensor: leave out"),
        (["--text", TEXT, "--layer", 2], "--layer 2: the model has the blocks 0 to 1"),
        (["--text", "the"], "the text has 1 token, at least 2 are needed"),
        (["--text", TEXT * 20], "tokens, this model takes 33 at most: give it a shorter --text"),
        ([], "what is to be looked at is --text, or a conversation of --chat-data: give one of them"),
    ],
)
def test_complaints(minillm, run_folder, arguments, message):
    done = minillm("inspect", run_folder, *arguments, expect=2)
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_files_of_others(minillm, tmp_path):
    """GGUF, where views of a mapped file are weights, and llama2.c."""
    from model_files import add_byte_pairs

    model = package.Llama(package.LlamaConfig(vocab_size=290, context_length=32, n_layer=1, n_head=2, d_model=32))
    write_gguf(tmp_path / "model.gguf", model, change=add_byte_pairs)
    shown = minillm("inspect", "model.gguf", "--text", TEXT).stdout
    assert shown.startswith("Llama, ") and "layers.0.mlp.swiglu" in shown
    assert "\npassed: " in minillm("inspect", "model.gguf", "--text", TEXT, "--tensor", "embed_tokens").stdout
    write_llama2c(tmp_path)
    shown = minillm("inspect", "model.bin", "--text", "ab abc").stdout
    assert "layers.1.self_attn.attention" in shown
