"""llama2.c's files: a small one made here, and a real one."""

import math
import struct

import numpy as np
import pytest
from model_files import WORDS, write_llama2c

import minillm
from minillm.errors import UserError
from minillm.layers.rotary import rotary_tables
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
    with pytest.raises(UserError, match="not a model file that minillm can open"):
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


def of_version_1(tmp_path, shared=True, version=1, extra=b""):
    """The model of `write_llama2c` with the header and the order of version 1."""
    path, arrays = write_llama2c(tmp_path, shared=shared)
    numbers = list(struct.unpack_from("<7i", path.read_bytes()))
    numbers[5] = abs(numbers[5])
    header = b"24ka" + struct.pack("<i7iB", version, *numbers, shared)
    order = ["rms_att", "rms_ffn", "rms_final", "embedding", "wq", "wk", "wv", "wo", "w1", "w2", "w3"]
    order += [] if shared else ["wcls"]
    newer = tmp_path / "newer.bin"
    newer.write_bytes(header.ljust(256, b"\0") + b"".join(arrays[name].tobytes() for name in order) + extra)
    return path, newer


@pytest.mark.parametrize("shared", [True, False])
def test_version_1_is_the_same_model(tmp_path, shared):
    old, newer = of_version_1(tmp_path, shared)
    models = from_pretrained(old), from_pretrained(newer)
    ids = np.arange(20)[None]
    assert models[0].config == models[1].config
    np.testing.assert_array_equal(models[0].forward(ids), models[1].forward(ids))
    assert tokenizer_of(newer).encode("ab") == tokenizer_of(old).encode("ab")


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(version=2), "of version 2 .weights in int8.: minillm opens versions 0 and 1"),
        (dict(version=7), "of version 7 .not known here."),
        (dict(extra=b"12345678"), "of version 1 that is damaged"),
    ],
)
def test_versions_that_are_not_opened(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        from_pretrained(of_version_1(tmp_path, **settings)[1])


def test_a_header_that_ends(tmp_path):
    _, newer = of_version_1(tmp_path)
    newer.write_bytes(newer.read_bytes()[:100])
    with pytest.raises(UserError, match="ends in its header"):
        from_pretrained(newer)


def with_tables(tmp_path, tables):
    """A file of `write_llama2c` with other rotary tables, the last arrays of the file."""
    path, arrays = write_llama2c(tmp_path)
    data = b"".join(np.asarray(table, "<f4").tobytes() for table in tables)
    path.write_bytes(path.read_bytes()[: -len(data)] + data)
    return path, arrays["cos"].shape


def test_the_base_of_the_angles_is_found_in_the_tables(tmp_path):
    path, (time, pairs) = with_tables(tmp_path, rotary_tables(32, 4, 500_000.0))
    assert (time, 2 * pairs) == (32, 4) and from_pretrained(path).config.rope_theta == 500_000.0
    path, _ = with_tables(tmp_path, np.zeros((2, 32, 2)))
    assert from_pretrained(path).config.rope_theta == 10000.0
    path, _ = with_tables(tmp_path, np.random.default_rng(0).normal(size=(2, 32, 2)))
    with pytest.raises(UserError, match="rotary tables are those of no base"):
        from_pretrained(path)
