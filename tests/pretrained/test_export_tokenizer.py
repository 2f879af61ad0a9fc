"""Tokenizers in GGUF files: every kind, written and read back, and those that a GGUF file cannot hold."""

from pathlib import Path

import pytest
from model_files import SCORES, WORDS
from tokenizer_files import KINDS, TEXT, texts

import minillm
from minillm.errors import UserError
from minillm.pretrained import tokenizer_of
from minillm.pretrained.export_tokenizer import TEXTS, tokenizer_settings
from minillm.pretrained.gguf import NO_TOKEN, Settings
from minillm.pretrained.gguf_tokenizer import tokenizer_of_settings
from minillm.tokenizers.byte_pair import BytePairTokenizer
from minillm.tokenizers.character import CharacterTokenizer
from minillm.tokenizers.sentencepiece import ScoreTokenizer
from minillm.tokenizers.tokenizer_json import tokenizer_of_contents

# kind of tokenizer.json -> tokenizer.ggml.pre, and words of a note
WRITTEN = {
    "gpt2 old": ("gpt-2", None),
    "gpt2 as a split": ("gpt-2", None),
    "llama 2 old": ("default", None),
    "llama 2 new": ("default", "begins with a space"),
    "llama always": ("default", "begins with a space"),
    "llama 3": ("llama-bpe", None),
    "mistral v1": ("default", "around '[TOOL]'"),
    "mistral v3": ("tekken", "cuts words with combining marks"),
    "qwen2": ("qwen2", "does not compose characters"),
    "smollm": ("smollm", None),
    "phi 2": ("gpt-2", None),
    "phi 3": ("default", "'<|assistant|>' takes in the spaces beside it"),
}
REFUSED = {
    "deepseek": "cuts text in several steps, for which llama.cpp has no name",
    "digits in groups": "cuts text in several steps",
    "a space in front": "cuts text in several steps",
    "words": r"would be \[.*\] in place of \[.*export it to a folder",
    "every flag": "in place of",
    "metaspace, split": "in place of",
    "gemma": "'one  two   three",
}


def settings_of(tokenizer, ids=None, size=None):
    return tokenizer_settings(tokenizer, size or tokenizer.vocab_size, ids or {})


def reopened(settings):
    return tokenizer_of_settings(Settings(Path("m.gguf"), settings))


@pytest.mark.parametrize("kind", WRITTEN)
def test_tokenizers_of_well_known_repositories(kind):
    contents, (name, note) = KINDS[kind](), WRITTEN[kind]
    tokenizer = tokenizer_of_contents(contents, {}, "tokenizer.json")
    settings, notes = settings_of(tokenizer, size=tokenizer.vocab_size + 3)
    assert settings["tokenizer.ggml.pre"] == name
    assert len(settings["tokenizer.ggml.tokens"]) == tokenizer.vocab_size + 3
    assert bool(notes) == bool(note) and any(note in each for each in notes) == bool(note)
    opened = reopened(settings)
    assert opened.vocab_size == tokenizer.vocab_size
    for text in [*texts(contents, 100), TEXT, *TEXTS] if not note or "llama.cpp" in notes[0] else TEXTS:
        assert opened.encode(text, "all") == tokenizer.encode(text, "all"), text


@pytest.mark.parametrize("kind", REFUSED)
def test_tokenizers_that_a_file_cannot_hold(kind):
    tokenizer = tokenizer_of_contents(KINDS[kind](), {}, "tokenizer.json")
    with pytest.raises(UserError, match=REFUSED[kind]):
        settings_of(tokenizer)


def test_merges_that_are_not_those_of_scores():
    """A listed merge may leave out a pair that a score would join: "ab" of "a" and "b" is made from "a" + "b" alone."""
    contents = KINDS["llama 2 old"]()
    merges = contents["model"]["merges"]
    whole = tokenizer_of_contents(contents, {}, "tokenizer.json")
    made = next(m for m in reversed(merges) if len(m[0]) > 1 and len(m[1]) == 1)
    others = [
        m for m in merges if m[0] + m[1] != made[0] + made[1]
    ]  # the token is in the vocabulary, and is never made
    changed = tokenizer_of_contents(contents | {"model": {**contents["model"], "merges": others}}, {}, "tokenizer.json")
    settings_of(whole)
    with pytest.raises(UserError, match="in place of"):
        settings_of(changed)


@pytest.mark.parametrize(
    "pattern, name",
    [("gpt2", "gpt-2"), ("smollm", "smollm"), ("cl100k", "dbrx"), ("qwen2", "qwen2"), ("o200k", "gpt-4o")],
)
def test_vocabularies_that_were_learned_here(pattern, name):
    tokenizer = BytePairTokenizer.train(TEXT, 400, ["<|endoftext|>", "<|im_end|>"], pattern)
    settings, notes = settings_of(tokenizer, {"eos_token_id": [399, 398]})
    assert settings["tokenizer.ggml.pre"] == name and bool(notes) == (pattern == "o200k")
    assert settings["tokenizer.ggml.eos_token_id"] == tokenizer.special_tokens["<|endoftext|>"] == 398
    assert settings["tokenizer.ggml.eot_token_id"] == 399
    opened = reopened(settings)
    for text in (TEXT, *TEXTS, "a<|im_end|>\nb"):  # e + U+0301 stays two characters, though Qwen's own files compose it
        assert opened.encode(text, "all") == tokenizer.encode(text, "all")


def test_ignored_merges_that_make_no_difference():
    """A tokenizer that ignores merges, and whose merges make every token, is the same as one that does not."""
    plain = BytePairTokenizer.train(TEXT, 400)
    ignoring = BytePairTokenizer(plain.tokens, plain.merges, "gpt2", ignore_merges=True)
    assert settings_of(ignoring)[0]["tokenizer.ggml.pre"] == "gpt-2"
    lacking = BytePairTokenizer(plain.tokens, plain.merges[:-5], "gpt2", ignore_merges=True)
    with pytest.raises(UserError, match="for which llama.cpp has no name"):
        settings_of(lacking)


def test_a_model_without_an_end_names_a_byte_that_no_text_has(tmp_path):
    """Else llama.cpp would take id 11 for the end of a text, an ordinary byte."""
    tokenizer = BytePairTokenizer.train(TEXT, 300)
    settings, _ = settings_of(tokenizer)
    assert tokenizer.tokens[settings["tokenizer.ggml.eos_token_id"]] == b"\xff"
    assert settings["tokenizer.ggml.tokens"][settings["tokenizer.ggml.bos_token_id"]] == NO_TOKEN
    assert not settings["tokenizer.ggml.add_bos_token"]
    opened = reopened(settings)
    assert opened.eos_token is None and opened.bos_token is None
    minillm.export(
        minillm.GPT2(minillm.GPT2Config(tokenizer.vocab_size, 8, 1, 1, 32), seed=0),
        tmp_path / "m.gguf",
        tokenizer=tokenizer,
    )
    assert minillm.from_pretrained(tmp_path / "m.gguf").carried.ids == {}


def test_scores_as_llama2c_has_them():
    tokenizer = ScoreTokenizer(WORDS, SCORES)
    settings, notes = settings_of(tokenizer)
    assert notes == [] and settings["tokenizer.ggml.scores"] == SCORES
    assert settings["tokenizer.ggml.token_type"] == [2, 3, 3, *[6] * 256, *[1] * 8]
    opened = reopened(settings)
    for text in ("ab abc", "ab é", "  a", "cab\n"):
        assert opened.encode(text) == tokenizer.encode(text) and opened.decode(opened.encode(text)) == text


def test_unused_tokens_stay_unused():
    first, _ = settings_of(ScoreTokenizer(WORDS, SCORES))
    first["tokenizer.ggml.token_type"][-1] = 5  # "abc"
    second, notes = settings_of(reopened(first))
    assert notes == [] and second["tokenizer.ggml.token_type"] == first["tokenizer.ggml.token_type"]
    assert reopened(second).encode("abc") == [1, WORDS.index(" ab"), WORDS.index("c")]


def test_characters(tmp_path):
    tokenizer = CharacterTokenizer.train("a\\ b\n\t\r\0é東🚀▁[PAD3]")
    settings, (note,) = settings_of(tokenizer, size=tokenizer.vocab_size + 2)
    assert "è beside é" in note and settings["tokenizer.ggml.model"] == "rwkv"
    assert settings_of(CharacterTokenizer("ab"))[1] == []
    opened = reopened(settings)
    assert type(opened) is CharacterTokenizer and opened.characters == tokenizer.characters
    with pytest.raises(UserError, match="is no single character"):
        reopened({**settings, "tokenizer.ggml.tokens": ["ab"], "tokenizer.ggml.token_type": [1]})
    with pytest.raises(UserError, match="is no single character"):
        reopened({**settings, "tokenizer.ggml.tokens": ["\\xff"], "tokenizer.ggml.token_type": [1]})


def test_a_tokenizer_of_another_model():
    with pytest.raises(UserError, match="the tokenizer has 5 tokens, the model only 4"):
        settings_of(CharacterTokenizer("abcde"), size=4)


def test_two_tokens_of_the_same_text():
    with pytest.raises(UserError, match="the tokens 261 and 267 are both 'b', which llama.cpp refuses"):
        settings_of(ScoreTokenizer([*WORDS, "b"], [*SCORES, -50.0]))


def test_gpt2s_own_vocabulary(real_data, tmp_path):
    tokenizer = BytePairTokenizer.from_pretrained(real_data / "gpt2")
    opened = reopened(settings_of(tokenizer)[0])
    text = (real_data / "the-verdict.txt").read_text(encoding="utf-8")
    assert opened.encode(text) == tokenizer.encode(text)
    assert opened.special_tokens == tokenizer.special_tokens == {"<|endoftext|>": 50256}


def test_a_real_llama(real_data, tmp_path):
    source = real_data / "stories260K" / "stories260K.bin"
    minillm.export(source, tmp_path / "m.gguf", "f32")
    tokenizer, opened = tokenizer_of(source), tokenizer_of(tmp_path / "m.gguf")
    story = (real_data / "stories260K" / "expected.txt").read_text(encoding="utf-8")
    assert opened.encode(story) == tokenizer.encode(story)
    model, ids = minillm.from_pretrained(tmp_path / "m.gguf"), [1]
    for token in minillm.generate(model, [ids], max_new_tokens=60, sampler=minillm.Sampler(temperature=0)):
        ids.append(int(token[0]))
    assert story.startswith(opened.decode(ids))
