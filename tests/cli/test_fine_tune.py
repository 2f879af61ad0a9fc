"""A Llama trained, continued and read from the command line."""

import json

import pytest
from safetensors.numpy import load_file

SHAPE = "--n-layer 1 --n-head 2 --n-kv-head 1 --d-model 16 --d-ff 16 --context-length 8".split()
STEPS = "--max-steps 4 --batch-size 4 --eval-interval 2 --eval-windows 4 --sample-tokens 5".split()


def test_train_continue_generate(minillm, tmp_path):
    shown = minillm("train", "--preset", "llama-small", "--data", "text.txt", "--out", "base", *SHAPE, *STEPS).stderr
    assert "Llama with" in shown
    assert json.loads((tmp_path / "base" / "config.json").read_text())["num_key_value_heads"] == 1
    shown = minillm("train", "--init", "base", "--data", "text.txt", "--lora-rank", 2, *STEPS).stderr
    assert "of them learn" in shown and "wrote runs/fine-tune-1" in shown
    assert not (tmp_path / "runs" / "fine-tune-1" / "model.safetensors").exists()
    merged = "--lora-rank 2 --merge --out merged".split()
    minillm("train", "--init", "base", "--data", "text.txt", *merged, *STEPS)
    names = set(load_file(tmp_path / "merged" / "model.safetensors"))
    assert names == set(load_file(tmp_path / "base" / "model.safetensors"))
    texts = [
        minillm("generate", folder, "--prompt", "the", "--max-tokens", 20).stdout
        for folder in ("runs/fine-tune-1", "merged")
    ]
    assert texts[0] == texts[1] and len(texts[0]) > 10


def test_complaints(minillm):
    refused = minillm("train", "--data", "text.txt", "--preset", "llama-small", "--bias", *STEPS, expect=2).stderr
    assert refused.startswith("minillm: a llama model has no bias; it has vocab_size, ")
    minillm("train", "--preset", "llama-small", "--data", "text.txt", "--out", "base", *SHAPE, *STEPS)
    refused = minillm("train", "--resume", "base", "--n-kv-head", 2, "--bias", expect=2).stderr
    assert "--n-kv-head (the run has 1, given 2), --bias (the run has none, given True)" in refused
    refused = minillm("train", "--data", "text.txt", "--lora-rank", 2, expect=2).stderr
    assert "name it with --init" in refused


@pytest.mark.parametrize("preset", ["fine-tune", "preferences"])
def test_a_preset_that_changes_a_model_makes_none(preset, minillm, tmp_path):
    refused = minillm("train", "--data", "text.txt", "--preset", preset, "--out", "run", expect=2).stderr
    assert refused == f"minillm: --preset {preset} changes a model that exists: name it with --init\n"
    assert not (tmp_path / "run").exists()
