"""tokenizer.model files learned here by the package sentencepiece: the ids and texts are its own."""

import json
import struct

import pytest
from tokenizer_files import TEXT, texts

from minillm.errors import UserError
from minillm.tokenizers import ScoreTokenizer, load_tokenizer


def learn(folder, **options):
    """A tokenizer.model as Llama 2's, learned from TEXT; returns sentencepiece's own processor."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="comparison with the package sentencepiece")
    lines = folder / "lines.txt"
    lines.write_text(TEXT, encoding="utf-8")
    usual = dict(model_type="bpe", vocab_size=420, byte_fallback=True, normalization_rule_name="identity")
    usual |= dict(remove_extra_whitespaces=False, character_coverage=0.98, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(folder / "tokenizer"), **{**usual, **options}
    )
    (folder / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize(
    "options", [{}, {"add_dummy_prefix": False}, {"user_defined_symbols": ["<think>", "▁▁", "▁▁▁▁"]}]
)
def test_ids_and_texts_are_those_of_sentencepiece(options, tmp_path):
    theirs = learn(tmp_path, **options)
    ours = load_tokenizer(tmp_path)
    assert isinstance(ours, ScoreTokenizer) and ours.vocab_size == theirs.vocab_size()
    assert (ours.bos_token, ours.eos_token) == ("<s>", "</s>")
    control = ("<s>", "</s>", "<unk>", "<th", "nk>")
    for text in texts({"added_tokens": []}, 400):
        if any(token in text for token in control) or "\x00" in text:  # it ends C's strings
            continue
        ids = ours.encode(text)
        assert ids == [theirs.bos_id(), *theirs.encode(text)], repr(text)
        assert ours.decode(ids) == theirs.decode(ids), repr(text)


def test_control_tokens_and_tokens_that_were_added(tmp_path):
    theirs = learn(tmp_path, user_defined_symbols=["<think>"])
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": theirs.vocab_size()}))
    config = {"add_bos_token": False, "add_eos_token": True, "bos_token": {"content": "<s>"}, "chat_template": "x"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = load_tokenizer(tmp_path)
    think = theirs.piece_to_id("<think>")
    start = theirs.encode("the")
    assert ours.encode("the</s>") == [*start, 2, 2]
    assert ours.encode("the<think>", add_special_tokens=False) == [*start, think]
    assert ours.encode("<|im_start|>the") == [theirs.vocab_size(), *start, 2]
    ours.save_pretrained(tmp_path / "saved")
    opened = load_tokenizer(tmp_path / "saved")
    for text in ("the<think></s><|im_start|>", "once upon  a time", TEXT):
        assert opened.encode(text) == ours.encode(text)
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["chat_template"] == "x"


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"model_type": "unigram", "vocab_size": 350},
            "a SentencePiece model of the type Unigram, minillm reads BPE: convert it",
        ),
        ({"normalization_rule_name": "nmt_nfkc"}, "its normalizer changes texts"),
        ({"remove_extra_whitespaces": True}, "its normalizer changes texts"),
    ],
)
def test_a_kind_that_is_not_read_is_named(options, message, tmp_path):
    learn(tmp_path, **options)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("cut", [1, 40, 500])
def test_a_damaged_file(cut, tmp_path):
    learn(tmp_path)
    path = tmp_path / "tokenizer.model"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut] + struct.pack("<B", 0xFF) * 4)
    with pytest.raises(UserError, match="tokenizer.model"):
        load_tokenizer(path)
