"""llama2.c's files: a small one made here, and a real one."""

import math
import struct

import numpy as np
import pytest
from model_files import WORDS, write_llama2c

import minillm
from minillm.errors import UserError
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.tokenizers import ScoreTokenizer, load_tokenizer


@pytest.mark.parametrize("shared", [True, False])
def test_every_array_becomes_the_right_parameter(shared, tmp_path):
    path, arrays = write_llama2c(tmp_path, shared=shared)
    model = from_pretrained(path)
    parameters = {name: parameter.value for name, parameter in model.parameters().items()}
    assert model.config.rope_interleaved and model.config.tie_embeddings == shared
    np.testing.assert_array_equal(parameters["model.embed_tokens.weight"], arrays["embedding"])
    for theirs, ours in (
        ("rms_att", "input_layernorm"), ("wq", "self_attn.q_proj"), ("wk", "self_attn.k_proj"), ("wv", "self_attn.v_proj"),
        ("wo", "self_attn.o_proj"), ("rms_ffn", "post_attention_layernorm"), ("w1", "mlp.gate_proj"), ("w2", "mlp.down_proj"),
        ("w3", "mlp.up_proj"),
    ):  # fmt: skip
        np.testing.assert_array_equal(parameters[f"model.layers.1.{ours}.weight"], arrays[theirs][1], err_msg=ours)
    if not shared:
        np.testing.assert_array_equal(parameters["lm_head.weight"], arrays["wcls"])


def test_what_is_written_to_the_weights_does_not_reach_the_file(tmp_path):
    path, _ = write_llama2c(tmp_path)
    before = path.read_bytes()
    model = from_pretrained(path)
    model.parameters()["model.norm.weight"].value[...] = 7
    assert path.read_bytes() == before


def test_scores_decide_what_is_merged(tmp_path):
    tokenizer = tokenizer_of(write_llama2c(tmp_path)[0])
    ids = {word: WORDS.index(word) for word in WORDS}
    assert tokenizer.encode("ab") == [1, ids[" ab"]]
    assert tokenizer.encode("abc") == [1, ids[" ab"], ids["c"]]
    assert tokenizer.encode("cab a") == [1, ids[" "], ids["c"], ids["ab"], ids[" a"]]
    assert tokenizer.encode("é") == [1, ids[" "], 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode("") == [1] and tokenizer.encode("", add_special_tokens=False) == []
    for text in ("ab", "abc abc", "é 東 a\n", " a"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(UserError, match="lone surrogate"):
        tokenizer.encode("\ud800")
    with pytest.raises(UserError, match="outside the vocabulary"):
        tokenizer.decode([len(WORDS)])
    with pytest.raises(UserError, match="no UTF-8 text"):
        tokenizer.decode([3 + 0xC3], errors="strict")


def slow_encode(tokens, scores, text):
    """llama2.c's loop: of all neighbours the pair with the best score, the first of several, until there is none."""
    ids = [tokens.index(character) for character in text]
    while True:
        best = None
        for at in range(len(ids) - 1):
            joined = tokens[ids[at]] + tokens[ids[at + 1]]
            if joined in tokens and (best is None or scores[tokens.index(joined)] > best[0]):
                best = scores[tokens.index(joined)], at, tokens.index(joined)
        if best is None:
            return ids
        ids[best[1] : best[1] + 2] = [best[2]]


@pytest.mark.parametrize("ties", [False, True])
def test_merging_is_that_of_llama2c(ties):
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        " ",
        "a",
        "b",
        "c",
        "  ",
        "a b",
        " a",
        "ab",
        "bc",
        "abc",
        "ca",
        "aa",
        "aaa",
        "b c",
        " ab",
    ]
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores = [0.0] * 7 + (rng.integers(3, size=11) if ties else rng.permutation(11)).astype(float).tolist()
        tokenizer = ScoreTokenizer(tokens, scores)
        for _ in range(20):
            text = "".join(rng.choice(list(" abc"), rng.integers(1, 40)))
            assert tokenizer.encode(text) == [1, *slow_encode(tokens, scores, " " + text)]


def test_tokenizer_json_there_and_back_and_in_tokenizers(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    tokenizer = tokenizer_of(write_llama2c(tmp_path)[0])
    tokenizer.save_pretrained(tmp_path)
    opened, theirs = load_tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert isinstance(opened, ScoreTokenizer) and (opened.bos, opened.eos) == (1, 2)
    for text in ("ab", "abc cab", "é 東 a\n", "a b c  ab", "b"):
        ids = tokenizer.encode(text)
        assert opened.encode(text) == ids == theirs.encode(text).ids
        assert opened.decode(ids) == text == theirs.decode(ids)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:20], lambda b: b"", lambda b: b"\0" * 400]
)
def test_a_file_whose_size_does_not_fit(change, tmp_path):
    path, _ = write_llama2c(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="no model file that minillm knows"):
        from_pretrained(path)


def test_a_weight_that_is_not_finite(tmp_path):
    path, _ = write_llama2c(tmp_path)
    data = bytearray(path.read_bytes())
    data[28:32] = struct.pack("<f", math.nan)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"model.embed_tokens.weight is not finite: nan at \(0, 0\)"):
        from_pretrained(path)


def test_a_tokenizer_that_is_missing_or_damaged(tmp_path):
    path, _ = write_llama2c(tmp_path)
    tokenizer = tmp_path / "tokenizer.bin"
    whole = tokenizer.read_bytes()
    tokenizer.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="tokenizer.bin: token 266 should have 3 bytes|ends after"):
        tokenizer_of(path)
    tokenizer.write_bytes(whole[:100])
    with pytest.raises(UserError, match="ends after|should have"):
        tokenizer_of(path)
    tokenizer.unlink()
    with pytest.raises(UserError, match=r"its tokenizer, tok267.bin or tokenizer.bin, is not beside it"):
        tokenizer_of(path)


# ------------------------------------------------------------------------------------------------- the real thing


def test_stories260k_writes_what_llama2c_writes(real_data):
    path = real_data / "stories260K" / "stories260K.bin"
    model, tokenizer = from_pretrained(path), tokenizer_of(path)
    logits = model.next_token_logits(np.array([[1]]))[0]
    np.testing.assert_allclose(logits[:5], [-6.22291, 8.40434, -6.22374, -6.22254, -6.22195], atol=1e-5)
    assert logits.argmax() == 403 and abs(logits[403] - 17.02352) < 1e-5
    assert tokenizer.encode("Once upon a time") == [1, 403, 407, 261, 378]
    stream = tokenizer.stream()
    greedy = minillm.generate(model, np.array([[1]]), max_new_tokens=200, sampler=minillm.Sampler(temperature=0))
    text = "".join(stream.push(int(token[0])) for token in greedy) + stream.finish()
    assert (text + "\n").encode() == (real_data / "stories260K" / "expected.txt").read_bytes()
