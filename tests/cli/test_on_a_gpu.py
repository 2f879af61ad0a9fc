"""Every command with --device cuda: it says what it says on the CPU."""

import json
import re

import numpy as np
import pytest
from chat_runs import CHARACTERS, conversations, write_lines

from minillm.cli import train_progress
from minillm.optim import OPTIMIZERS

pytestmark = pytest.mark.gpu

# Heads 32 wide, which flash attention takes, with and without tensor cores.
SHAPE = "--n-layer 1 --n-head 2 --d-model 64 --context-length 16".split()
MODELS = {
    "gpt2": "--tokenizer char --dropout 0.1".split(),
    "llama": "--preset llama-small --n-kv-head 1 --d-ff 96".split(),
    "qwen3": "--preset qwen3-small --n-kv-head 1 --d-ff 96 --head-dim 32".split(),
}
STEPS = "--max-steps 3 --batch-size 2 --eval-interval 3 --eval-windows 2 --sample-tokens 0 --warmup-steps 1".split()
TOLERANCES = {"float32": 2e-5, "tf32": 1e-3, "bfloat16": 1e-2}
MEASURED = ("mean", "std", "max_abs", "gradient_norm")
PAIRS = [
    {"prompt": f"the {word}", "chosen": f" {word}.", "rejected": f" no {word}"} for word in ("fox", "dog", "cow") * 4
]


def losses(folder):
    """The losses of all evaluations of a run, on the training and on the validation text."""
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found = [(event["train_loss"], event["val_loss"]) for event in events if event["event"] == "eval"]
    assert len(found) > 1
    return np.array(found)


@pytest.fixture
def on_both(minillm, tmp_path):
    """A function that trains on the CPU and on the GPU, and compares the losses; the runs are in cpu and cuda."""

    def compare(*options, dtype="float32"):
        for device in ("cpu", "cuda"):
            minillm("train", "--device", device, "--out", device, "--dtype", dtype, *options, *STEPS)
        there, here = (losses(tmp_path / device) for device in ("cuda", "cpu"))
        np.testing.assert_allclose(there, here, rtol=0, atol=TOLERANCES[dtype])

    return compare


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_by_every_optimizer(optimizer, on_both):
    on_both("--data", "text.txt", "--optimizer", optimizer, "--lr", 1e-3, *MODELS["gpt2"], *SHAPE)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("way", ["lora", "chat", "preferences"])
def test_a_model_is_changed(way, kind, dtype, on_both, minillm, tmp_path):
    write_lines(tmp_path / "talks.jsonl", conversations(12))
    write_lines(tmp_path / "pairs.jsonl", PAIRS)
    (tmp_path / "letters.txt").write_text(CHARACTERS.decode(range(CHARACTERS.vocab_size)))
    shape = (*SHAPE, "--context-length", 64)
    minillm("train", "--data", "text.txt", "--data", "letters.txt", "--out", "base", *MODELS[kind], *shape, *STEPS)
    options = {
        "lora": "--data text.txt --lora-rank 2",
        "chat": "--chat-data talks.jsonl",
        "preferences": "--preference-data pairs.jsonl",
    }
    on_both("--init", "base", *options[way].split(), dtype=dtype)


@pytest.fixture
def run(minillm, tmp_path):
    """A run of two steps out of three on the GPU, in the folder run."""
    minillm(
        "train",
        "--data",
        "text.txt",
        "--device",
        "cuda",
        "--out",
        "run",
        "--stop-after",
        2,
        *MODELS["gpt2"],
        *SHAPE,
        *STEPS,
    )
    return tmp_path / "run"


def test_a_run_goes_on(run, minillm, monkeypatch):
    """And its best model is evaluated on the GPU at the end."""
    seen, evaluate = [], train_progress.evaluate_whole
    monkeypatch.setattr(
        train_progress, "evaluate_whole", lambda model, *rest: (seen.append(model.device), evaluate(model, *rest))[1]
    )
    shown = minillm("train", "--resume", "run", "--device", "cuda").stderr
    assert "resuming run at step 2 of 3" in shown and "best model: step 3" in shown
    assert seen == ["cuda"]


def test_what_reads_a_model(run, minillm):
    """generate, evaluate and inspect give on the GPU what they give on the CPU."""
    for command in (
        "generate run --prompt the --max-tokens 20 --temperature 0.8 --top-k 5",
        "generate run --prompt the --max-tokens 8 --beams 2",
        "evaluate run --data text.txt",
    ):
        here, there = (minillm(*command.split(), "--device", device).stdout for device in ("cpu", "cuda"))
        assert _without_times(here) == _without_times(there), command
    here, there = (_tensors(minillm(*"inspect run --text quick --json --device".split(), d)) for d in ("cpu", "cuda"))
    assert here.keys() == there.keys() and len(here) > 20
    for name in here:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-3, atol=1e-6, err_msg=str(name))


def _without_times(text):
    return re.sub(r"[\d.,]+ (?:ms|s|tokens/s)\b", "", text)


def _tensors(done):
    """Tensor and shape -> what is measured of it and of its gradient; bytes are those of the device."""
    rows = [row for row in map(json.loads, done.stdout.splitlines()) if "shape" in row]
    return {(row["tensor"], *row["shape"]): [row[name] for name in MEASURED if row[name] is not None] for row in rows}


def test_a_profile(minillm):
    shown = minillm(
        *("train --data text.txt --device cuda --out run --profile --max-steps 16 --batch-size 2 --sample-tokens 0").split(),
        *("--eval-interval 16 --eval-windows 2 --optimizer adamw").split(), *MODELS["gpt2"], *SHAPE,
    ).stderr  # fmt: skip
    assert "flash_forward" in shown and "adamw" in shown and "launch gap" in shown and "best model: step" in shown


def test_info_names_the_gpu(minillm):
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    assert f"cuda ({name})" in " ".join(minillm("info").stdout.split())
    shown = " ".join(minillm("info", "--model", "gpt2", "--device", "cuda").stdout.split())
    assert "float32, on cuda" in shown and "Free on this GPU now: " in shown


def test_what_does_not_fit_is_refused(minillm):
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before, _ = pool.get_limit(), pool.set_limit(size=pool.used_bytes() + 100_000)
    try:
        said = minillm(
            "train", "--data", "text.txt", "--device", "cuda", *MODELS["gpt2"], *SHAPE, *STEPS, expect=2
        ).stderr
    finally:
        pool.set_limit(size=before)
    assert said.splitlines()[-1].startswith("minillm: out of memory on cuda: out of memory allocating ")
    assert "This run takes about " in said and "Traceback" not in said
