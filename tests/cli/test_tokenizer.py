"""minillm tokenizer, and a model that is trained on byte pairs."""

import numpy as np
import pytest
from model_files import GPT2 as SMALL_GPT2
from model_files import TOKENIZER, add_byte_pairs, write_gguf, write_llama2c

from minillm import GPT2, BytePairTokenizer
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
    assert "neither a file" in minillm("tokenizer", "train", "none.txt", "--out", "t", expect=2).stderr
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


def test_a_file_is_encoded_part_by_part(minillm, tmp_path):
    minillm("tokenizer", "train", "text.txt", "--out", "tk", "--vocab-size", 280, "--special", "<|end|>")
    ids = list(map(int, minillm("tokenizer", "encode", "tk", text=(tmp_path / "text.txt").read_text()).stdout.split()))
    for workers in (0, 2):
        ended = minillm("tokenizer", "encode", "tk", "--file", "text.txt", "--out", "ids.npy", "--workers", workers)
        assert f"wrote ids.npy: {len(ids):,} tokens" in ended.stderr and "\r" not in ended.stderr
        assert np.load("ids.npy").tolist() == ids and np.load("ids.npy").dtype == np.uint16
    minillm("tokenizer", "train", "text.txt", "--out", "own", "--pattern", r"\S+|\s+")
    assert (
        "the file is read whole" in minillm("tokenizer", "encode", "own", "--file", "text.txt", "--out", "i.npy").stderr
    )


def test_workers_that_cannot_be_had_are_said_in_one_line(minillm, monkeypatch):
    train = "tokenizer train text.txt --out tk --vocab-size 280 --workers".split()
    monkeypatch.setattr("minillm.backend.forked.sys.platform", "win32")
    assert "--workers 2: one process reads the text: processes are forked on Linux only" in minillm(*train, 2).stderr
    assert "--workers" not in minillm(*train, 1).stderr + minillm(*train, 0).stderr


def test_what_cannot_be_encoded_leaves_no_file(minillm, tmp_path):
    minillm("tokenizer", "train", "text.txt", "--out", "tk", "--vocab-size", 280, "--special", "<|end|>")
    encode = ["tokenizer", "encode", "tk", "--file", "text.txt", "--out"]
    assert "give both" in minillm(*encode[:-1], expect=2).stderr
    assert "written over" in minillm(*encode, "text.txt", expect=2).stderr
    assert "two texts" in minillm(*encode, "ids.npy", "the fox", expect=2).stderr
    assert (
        "none.txt does not exist"
        in minillm("tokenizer", "encode", "tk", "--file", "none.txt", "--out", "ids.npy", expect=2).stderr
    )
    (tmp_path / "text.txt").write_text("the fox <|end|>")
    assert "'<|end|>', at 8: --special allow" in minillm(*encode, "ids.npy", "--workers", 2, expect=2).stderr
    assert not list(tmp_path.glob("*ids*"))
    minillm(*encode, "ids.npy", "--special", "allow")
    assert np.load("ids.npy")[-1] == 279


def test_several_workers_learn_the_same_vocabulary(minillm, tmp_path, monkeypatch):
    monkeypatch.setattr("minillm.data.text_files.PART", 300)
    made = set()
    for workers in (1, 2, 3):
        minillm("tokenizer", "train", "text.txt", "--out", "tk", "--vocab-size", 300, "--workers", workers)
        made.add((tmp_path / "tk" / "tokenizer.json").read_text())
    whole = BytePairTokenizer.train((tmp_path / "text.txt").read_text(), 300)
    whole.save_pretrained(tmp_path / "whole")
    assert made == {(tmp_path / "whole" / "tokenizer.json").read_text()}
    minillm("tokenizer", "train", "text.txt", "--out", "tk", "--vocab-size", 300, "--keep", 5)
    assert len(load_tokenizer(tmp_path / "tk").merges) < len(whole.merges)
