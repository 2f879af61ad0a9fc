"""minillm tokenizer, and a model that is trained on byte pairs."""

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
