"""minillm generate with models in single files."""

import json
from functools import partial

import pytest
from model_files import LLAMA, TEMPLATE, TOKENIZER, add_byte_pairs, write_gguf, write_llama2c

from minillm import Llama


@pytest.fixture
def generate(minillm):
    return partial(minillm, "generate")


def test_a_gguf_file_goes_on_and_answers(generate, tmp_path):
    pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    path = write_gguf(tmp_path / "m.gguf", Llama(LLAMA, seed=1), change=add_byte_pairs)
    assert generate(path, "--prompt", "the fox", "--max-tokens", 5).stdout.startswith("the fox")
    answer = generate(path, "--prompt", "the fox", "--max-tokens", 5, "--chat", "--dtype", "float64").stdout
    assert answer and not answer.startswith("the fox")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(path.read_bytes()[:500])
    assert "damaged.gguf is damaged" in generate(damaged, expect=2).stderr


def test_an_answer_is_as_long_as_is_asked_for(generate, tmp_path):
    """What ends an answer may be named by the tokenizer alone: --min-tokens looks at it, too."""
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    Llama(LLAMA, seed=1).save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    path, end = tmp_path / "model" / "tokenizer_config.json", TOKENIZER.special_tokens["<|end|>"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE, "eos_token": "<|end|>"}))
    ask = ("model", "--prompt", "the fox", "--max-tokens", 9, "--chat", "--json", "--logit-bias", f"{end}:100")
    assert json.loads(generate(*ask).stdout)["ids"] == [end]
    assert json.loads(generate(*ask, "--ignore-end").stdout)["ids"] == [end] * 9
    answer = json.loads(generate(*ask, "--min-tokens", 3).stdout)
    assert len(answer["ids"]) == 4 and answer["ids"].index(end) == 3 and answer["reason"] == "end"


def test_a_llama2c_file_goes_on(generate, tmp_path):
    path, _ = write_llama2c(tmp_path)
    assert generate(path, "--prompt", "abc", "--max-tokens", 5).stdout.startswith("abc")
    assert "has no chat template" in generate(path, "--chat", expect=2).stderr
    assert 'unknown dtype "float8"' in generate(path, "--dtype", "float8", expect=2).stderr


def test_a_pickle_is_refused(generate, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    message = generate(tmp_path / "pytorch_model.bin", expect=2).stderr
    assert "is a pickle" in message and "safetensors" in message
