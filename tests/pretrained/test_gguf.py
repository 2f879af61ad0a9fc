"""GGUF files made here with the package gguf: both architectures, types of weights, both kinds of tokenizer, and damage."""

import struct

import numpy as np
import pytest
from model_files import GPT2, LLAMA, TOKENIZER, add_byte_pairs, halves_to_interleaved, write_gguf

import minillm
from minillm.errors import UserError
from minillm.layers.rotary import interleaved_to_halves
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.pretrained.chat import Chat, chat_of
from minillm.pretrained.gguf_check import read_header

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")


def test_rows_are_moved_and_moved_back():
    weight = np.arange(8 * 3).reshape(8, 3)
    np.testing.assert_array_equal(interleaved_to_halves(halves_to_interleaved(weight, 2), 2), weight)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_the_model_is_the_one_that_was_written(config, tmp_path):
    model = (minillm.Llama if config is LLAMA else minillm.GPT2)(config, seed=1)
    opened = from_pretrained(write_gguf(tmp_path / "m.gguf", model))
    assert opened.config == config
    ids = np.arange(20).reshape(2, 10)
    np.testing.assert_array_equal(opened.forward(ids), model.eval().forward(ids))


@pytest.mark.parametrize("kind, error", [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 2e-2), ("Q4_1", 0.3), ("Q5_0", 0.15)])
def test_types_of_weights(kind, error, tmp_path):
    model = minillm.Llama(LLAMA, seed=1)
    opened = from_pretrained(write_gguf(tmp_path / "m.gguf", model, gguf.GGMLQuantizationType[kind]))
    for name, parameter in model.parameters().items():
        found = opened.parameters()[name].value
        assert np.linalg.norm(found - parameter.value) <= error * np.linalg.norm(parameter.value), name


def test_the_byte_level_tokenizer_inside(tmp_path):
    opened = tokenizer_of(write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add_byte_pairs))
    text = "the lazy fox, über 12<|end|>"
    assert opened.encode(text, allowed_special="all") == TOKENIZER.encode(text, allowed_special="all")


def test_the_score_driven_tokenizer_inside(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab"]

    def add(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 259 + [-5.0, -4.0, -3.0, -2.0, -1.0])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 5)

    opened = tokenizer_of(write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add))
    assert opened.encode("ab b") == [1, tokens.index("▁ab"), tokens.index("▁"), tokens.index("b")]
    assert opened.decode(opened.encode("ab é")) == "ab é"


def test_a_conversation(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add_byte_pairs)
    chat = chat_of(path)
    assert chat.prompt([{"role": "user", "content": "hello"}]) == "<|user|>hello<|bot|>"
    ids, end = chat.encode(tokenizer_of(path), [{"role": "user", "content": "hello"}])
    assert end == TOKENIZER.special_tokens["<|end|>"] and tokenizer_of(path).decode(ids) == "<|user|>hello<|bot|>"
    with pytest.raises(UserError, match="has no chat template"):
        chat_of(write_gguf(tmp_path / "plain.gguf", minillm.Llama(LLAMA, seed=1)))
    with pytest.raises(UserError, match="cannot be used: no system"):
        Chat("{{ raise_exception('no system') }}", "", "").prompt([])
    with pytest.raises(UserError, match="cannot be used"):
        Chat("{{ ().__class__.__base__.__subclasses__() }}", "", "").prompt([])  # the sandbox holds


def test_transformers_opens_what_was_saved(tmp_path):
    transformers = pytest.importorskip("transformers", reason="comparison with transformers (extra test-peers)")
    torch = pytest.importorskip("torch", reason="comparison with torch (extra test-peers)")
    opened = from_pretrained(
        write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), gguf.GGMLQuantizationType.Q8_0)
    )
    opened.save_pretrained(tmp_path / "saved")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = np.arange(20).reshape(2, 10)
    with torch.no_grad():
        np.testing.assert_allclose(opened.forward(ids), theirs(torch.tensor(ids)).logits.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.add_string("llama.rope.scaling.type", "dynamic"), "rotary scaling"),
        (lambda w: w.add_uint32("llama.rope.dimension_count", 8), "only part of each head"),
        (
            lambda w: w.add_tensor("rope_freqs.weight", np.ones(7, np.float32)),
            "rope_freqs.weight should hold 8 factors",
        ),
    ],
)
def test_what_is_not_computed_here_is_said(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        from_pretrained(write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=change))


def test_a_tokenizer_that_cuts_in_an_unknown_way(tmp_path):
    def add(writer):
        add_byte_pairs(writer)
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "bloom"

    with pytest.raises(UserError, match='cuts text as "bloom"'):
        tokenizer_of(write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add))


# --------------------------------------------------------------------------------------------------- files that lie


def header(keys=0, tensors=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is empty"),
        (b"GGUX" + b"\0" * 100, "does not begin with GGUF"),
        (header()[:10], "in the middle of its header"),
        (header(version=9), "version 9 of GGUF"),
        (header(keys=1 << 60), "1152921504606846976 keys, more than fit"),
        (header(tensors=1 << 60), "tensors, more than fit"),
        (header(keys=1) + struct.pack("<Q", 1 << 60) + b"\0" * 40, "should be 1152921504606846976 bytes long"),
        (
            header(keys=1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, 1 << 59) + b"\0" * 9,
            "values of b'k'",
        ),
        (header(keys=1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99) + b"\0" * 30, "unknown type 99"),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 9) + b"\0" * 40, "9 dimensions"),
        (
            header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1 << 39, 0, 0) + b"\0" * 40,
            "of shape",
        ),
        (
            header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 4, 0, 1 << 40) + b"\0" * 40,
            "outside the file",
        ),
    ],
)
def test_a_header_that_cannot_be_true(data, message, tmp_path):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_header(tmp_path / "m.gguf")
