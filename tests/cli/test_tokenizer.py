"""minillm tokenizer, and a model that is trained on byte pairs."""

import pytest
from model_files import GPT2 as SMALL_GPT2
from model_files import TOKENIZER, add_byte_pairs, write_gguf, write_llama2c

from minillm import GPT2
from minillm.tokenizers import load_tokenizer
from minillm.tokenizers.byte_pair_files import save_pair_of_files
from minillm.tokenizers.rank_files import save_tiktoken

END = TOKENIZER.special_tokens["<|end|>"]
TEXT = "the quick brown fox jumps over the lazy dog. " * 60
SMALL = (
    "--n-layer 1 --n-head 2 --d-model 16 --context-length 8 --batch-size 4 --eval-interval 5 --eval-windows 4".split()
)


def test_learn_encode_decode(minillm):
    minillm("tokenizer", "train", "text.txt", "text.txt", "--out", "tk", "--vocab-size", 280, "--special", "<|end|>")
    ids = minillm("tokenizer", "encode", "tk", text="the fox, 東京").stdout
    assert len(ids.split()) < len("the fox, 東京".encode())
    assert minillm("tokenizer", "decode", "tk", text=ids).stdout == "the fox, 東京"
    assert minillm("tokenizer", "decode", "tk", *ids.split()).stdout == "the fox, 東京"
    assert minillm("tokenizer", "encode", "tk", "<|end|>", "--allow-special").stdout == "279\n"
    assert len(minillm("tokenizer", "encode", "tk", "<|end|>", "--plain").stdout.split()) > 1


def test_what_cannot_be_done_is_said_in_one_line(minillm, tmp_path):
    minillm("tokenizer", "train", "text.txt", "--out", "tk", "--vocab-size", 280, "--special", "<|end|>")
    assert "special token" in minillm("tokenizer", "encode", "tk", "<|end|>", expect=2).stderr
    assert '"x" is no id' in minillm("tokenizer", "decode", "tk", "x", expect=2).stderr
    assert "outside the vocabulary" in minillm("tokenizer", "decode", "tk", "280", expect=2).stderr
    assert "too small" in minillm("tokenizer", "train", "text.txt", "--out", "t", "--vocab-size", 9, expect=2).stderr
    assert "cannot be read" in minillm("tokenizer", "train", "none.txt", "--out", "t", expect=2).stderr
    (tmp_path / "latin.txt").write_bytes(b"\xe9\xe9")
    assert "not valid UTF-8" in minillm("tokenizer", "train", "latin.txt", "--out", "t", expect=2).stderr
    assert not (tmp_path / "t").exists()
    assert "does not exist" in minillm("tokenizer", "encode", "none", "text", expect=2).stderr


def test_a_model_learns_byte_pairs(minillm):
    arguments = ["train", "--data", "text.txt", "--tokenizer", "bpe", "--vocab-size", 270, "--out", "run"]
    assert "vocabulary 270" in minillm(*arguments, "--max-steps", 5, *SMALL).stderr
    assert minillm("generate", "run", "--prompt", "the ", "--max-tokens", 5).stdout
    assert "bits per byte" in minillm("evaluate", "run").stdout
    assert "has 270" in minillm("train", "--resume", "run", "--vocab-size", 300, expect=2).stderr
    assert (
        "--tokenizer bpe"
        in minillm("train", "--data", "text.txt", "--tokenizer", "char", "--vocab-size", 300, expect=2).stderr
    )
    assert 'unknown tokenizer "words"' in minillm("train", "--tokenizer", "words", expect=2).stderr


def test_special_tokens_that_cannot_be_are_refused_before_anything_is_written(minillm, tmp_path):
    train = ["tokenizer", "train", "text.txt", "--out", "tk", "--vocab-size", 300]
    for names, told in (
        (["a"], "'a' is the token of a byte"),
        ([""], "'' is empty"),
        (["<s>", "<s>"], "'<s>' is named twice"),
        (["Ġfox"], "'Ġfox' is a token that was learned"),
    ):
        options = [word for name in names for word in ("--special", name)]
        assert told in minillm(*train, *options, expect=2).stderr
        assert not (tmp_path / "tk").exists()


def test_files_of_every_kind_are_opened(minillm, tmp_path):
    minillm("tokenizer", "train", "text.txt", "--out", "tk", "--vocab-size", 280)
    tokenizer = load_tokenizer(tmp_path / "tk")
    right = " ".join(map(str, tokenizer.encode("the fox")))
    save_tiktoken(tokenizer, tmp_path / "gpt2.tiktoken")
    save_tiktoken(tokenizer, tmp_path / "tokenizer.model")
    save_pair_of_files(tokenizer, tmp_path)
    for name in ("tk/tokenizer.json", "gpt2.tiktoken", "tokenizer.model", "vocab.json", "merges.txt"):
        assert minillm("tokenizer", "encode", name, "the fox").stdout.strip() == right
    file, _ = write_llama2c(tmp_path)
    assert minillm("tokenizer", "encode", file, "ab").stdout.split()[0] == "1"
    assert minillm("tokenizer", "decode", file, "1 264").stdout
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "m.gguf", GPT2(SMALL_GPT2, seed=1), change=add_byte_pairs)
    assert minillm("tokenizer", "encode", "m.gguf", "the<|end|>", "--allow-special").stdout.split()[-1] == str(END)
