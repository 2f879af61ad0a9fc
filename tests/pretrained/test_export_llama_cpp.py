"""llama.cpp opens what is exported: the same logits, the same tokens, the same greedy text."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import regex
from export_models import CONFIGS, LLAMA, ROUNDED, make
from model_files import TOKENIZER, write_llama2c
from tokenizer_files import KINDS, TEXT

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.layers.rotary_scaling import Llama3Scaling, LongRopeScaling, ProportionalScaling, YarnScaling
from minillm.pretrained import tokenizer_of
from minillm.pretrained.export_tokenizer import TEXTS
from minillm.tokenizers.byte_pair import BytePairTokenizer
from minillm.tokenizers.character import CharacterTokenizer
from minillm.tokenizers.tokenizer_json import tokenizer_of_contents

pytestmark = pytest.mark.peers
llama_cpp = pytest.importorskip("llama_cpp", reason="comparison with llama.cpp (extra test-llama-cpp)")
IDS = np.arange(3, 27)
MARKS = regex.compile(r"\p{M}")
ROTARY = {
    "longrope": LongRopeScaling(tuple(1 + n / 10 for n in range(8)), tuple(2.0 + n for n in range(8)), 16, factor=2.0),
    "yarn": YarnScaling(2.0, 16),
    "yarn with an amplitude": YarnScaling(2.0, 16, attention_factor=1.3),
    "llama3": Llama3Scaling(4.0, 1.0, 4.0, 16),
    "proportional": ProportionalScaling(0.5, 2.0),
}
FLOAT32 = 0  # ggml's number of the type, for the cache of keys and values


@pytest.fixture
def open_llama():
    """A function that opens a file in llama.cpp, which is closed at the end."""
    opened = []

    def open_file(path, **settings):
        usual = dict(n_ctx=64, n_threads=1, logits_all=True, type_k=FLOAT32, type_v=FLOAT32, verbose=False)
        opened.append(llama_cpp.Llama(str(path), **{**usual, **settings}))
        return opened[-1]

    yield open_file
    for each in opened:
        each.close()


def logits_of(llama, ids):
    llama.eval([int(index) for index in ids])
    return np.array(llama.scores[: len(ids)])


@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name, tmp_path, open_llama):
    model = make(name)
    if name == "mistral":  # whose window llama.cpp does not know, as the note says
        model = minillm.Mistral(replace(CONFIGS[name], sliding_window=None), seed=1)
    minillm.export(model, tmp_path / "m.gguf", "f32", TOKENIZER)
    theirs, ours = logits_of(open_llama(tmp_path / "m.gguf"), IDS), model.forward(IDS[None])[0]
    error = 1e-3 if name.startswith("gpt2") else 1e-4  # llama.cpp looks GELU up in a table of float16
    np.testing.assert_allclose(theirs, ours, atol=error * np.abs(ours).max())


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_scaling_beyond_the_original_context(name, tmp_path, open_llama):
    """24 tokens where the model was made for 16; without the scaling other logits would be right."""
    model = randomised(minillm.Llama(replace(LLAMA, rope_scaling=ROTARY[name]), seed=1), 0.2).eval()
    plain = randomised(minillm.Llama(LLAMA, seed=1), 0.2).eval()
    minillm.export(model, tmp_path / "m.gguf", "f32", TOKENIZER)
    theirs, ours = logits_of(open_llama(tmp_path / "m.gguf"), IDS), model.forward(IDS[None])[0]
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())
    assert np.abs(plain.forward(IDS[None])[0] - ours).max() > 0.01 * np.abs(ours).max()


@pytest.mark.parametrize("kind, error", [("f16", 2e-3), ("bf16", 1e-2), ("q8_0", 3e-2)])
@pytest.mark.parametrize("name", ROUNDED)
def test_logits_of_rounded_weights(name, kind, error, tmp_path, open_llama):
    """llama.cpp also rounds what the weights are multiplied with; the error is relative to the largest logit."""
    minillm.export(make(name), tmp_path / "m.gguf", kind, TOKENIZER)
    ours = minillm.from_pretrained(tmp_path / "m.gguf").forward(IDS[None])[0]
    np.testing.assert_allclose(logits_of(open_llama(tmp_path / "m.gguf"), IDS), ours, atol=error * np.abs(ours).max())


@pytest.mark.parametrize("name", ["gpt2", "llama with biases", "qwen2", "qwen3"])
def test_greedy_tokens(name, tmp_path, open_llama):
    model, prompt = make(name), TOKENIZER.encode("the quick fox")
    minillm.export(model, tmp_path / "m.gguf", "f32", TOKENIZER)
    tokens = minillm.generate(model, [prompt], max_new_tokens=12, sampler=minillm.Sampler(temperature=0))
    theirs = open_llama(tmp_path / "m.gguf").generate(prompt, temp=0)
    assert list(islice(theirs, 12)) == [int(token[0]) for token in tokens]


def test_a_real_models_story(real_data, tmp_path, open_llama):
    """stories260K writes in llama.cpp what it writes in llama2.c."""
    minillm.export(real_data / "stories260K" / "stories260K.bin", tmp_path / "m.gguf", "f32")
    story = (real_data / "stories260K" / "expected.txt").read_text(encoding="utf-8")
    answer = open_llama(tmp_path / "m.gguf", n_ctx=256).create_completion([1], max_tokens=150, temperature=0)
    text = answer["choices"][0]["text"].strip()
    assert len(text) > 200 and story.strip().startswith(text)


def tokenizers():
    for kind in ("gpt2 old", "llama 2 old", "llama 3", "mistral v3", "qwen2", "smollm", "phi 2"):
        yield kind, lambda kind=kind: tokenizer_of_contents(KINDS[kind](), {}, kind)
    for pattern in ("gpt2", "cl100k", "smollm", "qwen2", "o200k"):
        yield f"learned, {pattern}", lambda pattern=pattern: BytePairTokenizer.train(TEXT, 400, ["<|end|>"], pattern)
    yield "characters", lambda: CharacterTokenizer.train("".join(TEXTS) + "\\\r")


@pytest.mark.parametrize("make_tokenizer", [make for _, make in tokenizers()], ids=[name for name, _ in tokenizers()])
def test_tokens(make_tokenizer, tmp_path, open_llama):
    tokenizer = make_tokenizer()
    shape = dict(context_length=8, n_layer=1, n_head=1, d_model=32, d_ff=32, tie_embeddings=True)
    model = minillm.Llama(minillm.LlamaConfig(tokenizer.vocab_size + 2, **shape), seed=0)
    notes = minillm.export(model, tmp_path / "m.gguf", "f16", tokenizer)
    llama, compared = open_llama(tmp_path / "m.gguf", vocab_only=True), 0
    marks = MARKS if notes else regex.compile("(?!)")
    shown = [text for text in (*TEXTS, TEXT) if not marks.search(text)]
    special = [f"a {token} b{token}{token}\nc" for token in list(tokenizer.special_tokens)[:8]]
    for text in (*shown, *special):
        try:
            ours = tokenizer.encode(text, "all")
        except UserError:  # a character that the vocabulary lacks
            continue
        assert llama.tokenize(text.encode("utf-8"), add_bos=True, special=True) == ours, text
        compared += 1
    assert compared >= len(TEXTS) - 3


def test_scores(tmp_path, open_llama):
    path, _ = write_llama2c(tmp_path)
    minillm.export(path, tmp_path / "m.gguf", "f32")
    llama, tokenizer = open_llama(tmp_path / "m.gguf", vocab_only=True), tokenizer_of(path)
    for text in ("ab abc", "  a é", "cab\nb", "東 a"):
        assert llama.tokenize(text.encode("utf-8"), add_bos=True, special=True) == tokenizer.encode(text), text


def test_the_chat_template(tmp_path, open_llama):
    from model_files import TEMPLATE

    from minillm.models.carried import Carried

    model = make("llama")
    model.carried = Carried(templates={"default": TEMPLATE})
    minillm.export(model, tmp_path / "m.gguf", "f32", TOKENIZER)
    assert open_llama(tmp_path / "m.gguf").metadata["tokenizer.chat_template"] == TEMPLATE
