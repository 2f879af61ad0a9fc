"""Which tokens end a text."""

import json

import pytest
from model_files import LLAMA, add_byte_pairs, write_gguf, write_llama2c

import minillm
from minillm.errors import UserError
from minillm.pretrained import tokenizer_of
from minillm.pretrained.chat import Chat, chat_of
from minillm.pretrained.end_tokens import end_tokens
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer


@pytest.fixture
def folder(tmp_path):
    minillm.Llama(LLAMA, seed=1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_of_a_folder(folder):
    characters = CharacterTokenizer("abc")
    assert end_tokens(folder, characters) == ()
    change(folder / "config.json", eos_token_id=5)
    assert end_tokens(folder, characters) == (5,)
    change(folder / "generation_config.json", eos_token_id=[7, 8])  # what is meant for generation goes first
    assert end_tokens(folder, characters) == (7, 8)


def test_of_a_folder_whose_tokenizer_has_an_end(folder):
    byte_pairs = BytePairTokenizer.train("the cat", vocab_size=260, special_tokens=["<|x|>", "<|endoftext|>"])
    assert end_tokens(folder, byte_pairs) == (byte_pairs.special_tokens["<|endoftext|>"],)


def test_of_a_folder_whose_tokenizer_names_its_end(folder):
    class Named(BytePairTokenizer):
        eos_token = "<|x|>"

    byte_pairs = Named([bytes([b]) for b in range(256)] + [b"<|x|>"], [], special_tokens={"<|x|>": 256})
    assert end_tokens(folder, byte_pairs) == (256,)


def test_of_an_adapter(folder, tmp_path):
    """Its own files say nothing: it ends where its model does, and asks as its model is asked."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    change(folder / "generation_config.json", eos_token_id=7)
    assert end_tokens(adapter, CharacterTokenizer("abc")) == (7,)
    with pytest.raises(UserError, match="has no chat template"):
        chat_of(adapter)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x", "eos_token": "<e>"}))
    assert chat_of(adapter) == Chat("x", "", "<e>")


@pytest.mark.parametrize("wrong", ["</s>", [1, "2"], True, 1.5])
def test_what_is_no_id_is_refused(folder, wrong):
    change(folder / "generation_config.json", eos_token_id=wrong)
    with pytest.raises(UserError, match="generation_config.json: eos_token_id is"):
        end_tokens(folder, CharacterTokenizer("abc"))


def test_of_files(tmp_path):
    path, *_ = write_llama2c(tmp_path)
    tokenizer = tokenizer_of(path)
    assert end_tokens(path, tokenizer) == (tokenizer.bos, tokenizer.eos) == (1, 2)
    pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    path = write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add_byte_pairs)
    tokenizer = tokenizer_of(path)
    assert end_tokens(path, tokenizer) == (tokenizer.special_tokens["<|end|>"],)

    def add_end_of_turn(writer):
        add_byte_pairs(writer)
        writer.add_eot_token_id(7)
        writer.add_eom_token_id(8)

    path = write_gguf(tmp_path / "turn.gguf", minillm.Llama(LLAMA, seed=1), change=add_end_of_turn)
    assert end_tokens(path, tokenizer) == (7, 8, tokenizer.special_tokens["<|end|>"])

    def add_what_is_no_id(writer):
        add_byte_pairs(writer)
        writer.add_string("tokenizer.ggml.eot_token_id", "<|end|>")

    path = write_gguf(tmp_path / "wrong.gguf", minillm.Llama(LLAMA, seed=1), change=add_what_is_no_id)
    with pytest.raises(UserError, match="tokenizer.ggml.eot_token_id is '<|end|>', expected int"):
        end_tokens(path, tokenizer)
