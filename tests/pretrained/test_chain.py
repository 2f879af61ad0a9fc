"""Adapters of adapters, down to a model; and those that never come to one."""

import json

import numpy as np
import pytest

import minillm
from minillm.errors import UserError
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.pretrained import from_pretrained, model_chain, tokenizer_of
from minillm.pretrained.adapter import save_adapter
from minillm.pretrained.chat import chat_of
from minillm.pretrained.end_tokens import end_tokens

CONFIG = minillm.GPT2Config(vocab_size=5, context_length=8, n_layer=1, n_head=1, d_model=8)


def adapter(folder, base, model=None):
    """An adapter in `folder` that changes the model; `base` is what its file names."""
    model = model or minillm.GPT2(CONFIG, seed=1)
    add_lora(model, LoRA(2), seed=3)
    for name, parameter in model.parameters().items():
        if name.endswith(".lora_B"):
            parameter.value[...] = 0.1
    save_adapter(model, folder, str(base))
    return folder


@pytest.mark.parametrize("length", [1, 2, 3, 30])
def test_a_circle_of_any_length_is_named(tmp_path, length):
    for number in range(length):
        adapter(tmp_path / f"a{number}", tmp_path / "." / f"a{(number + 1) % length}" / "") if length > 1 else None
    if length == 1:
        adapter(tmp_path / "a0", tmp_path / "other")
        path = tmp_path / "a0" / "adapter_config.json"
        (tmp_path / "link").symlink_to(tmp_path / "a0")
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(tmp_path / "link")}))
    tokenizer = minillm.CharacterTokenizer("abcde")
    for follow in (from_pretrained, tokenizer_of, chat_of, lambda source: end_tokens(source, tokenizer)):
        with pytest.raises(UserError, match=r"is an adapter of itself \(.*a0 -> "):
            follow(tmp_path / "a0")


def test_an_adapter_of_an_adapter_of_a_model(tmp_path):
    model = minillm.GPT2(CONFIG, seed=1)
    model.save_pretrained(tmp_path / "base")
    minillm.CharacterTokenizer("abcde").save_pretrained(tmp_path / "base")
    adapter(tmp_path / "one", tmp_path / "base")
    adapter(tmp_path / "two", tmp_path / "one")
    assert [path.name for path in model_chain(tmp_path / "two")] == ["two", "one", "base"]
    ids = np.array([[1, 2, 3]])
    logits = [from_pretrained(tmp_path / name).forward(ids) for name in ("base", "one", "two")]
    assert abs(logits[0] - logits[1]).max() > 1e-4 and abs(logits[1] - logits[2]).max() > 1e-4
    assert tokenizer_of(tmp_path / "two").characters == "abcde"


def test_saving_makes_the_folder(tmp_path):
    minillm.GPT2(CONFIG).save_pretrained(tmp_path / "a" / "b")
    for number, tokenizer in enumerate(
        (minillm.CharacterTokenizer("ab"), minillm.BytePairTokenizer.train("abab", vocab_size=257))
    ):
        tokenizer.save_pretrained(tmp_path / "c" / str(number))
        assert (tmp_path / "c" / str(number) / "tokenizer.json").is_file()
