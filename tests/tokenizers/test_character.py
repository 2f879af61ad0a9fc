import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.errors import UserError
from minillm.tokenizers import CharacterTokenizer, load_tokenizer

TEXT = "line\none\r\ttwo  spaces é é 😀 \u2028 \u00a0 \0 ß中"


def test_ids_are_places_among_the_sorted_characters():
    tokenizer = CharacterTokenizer.train("hello")
    assert tokenizer.characters == "ehlo" and tokenizer.vocab_size == 4
    assert tokenizer.encode("hello") == [1, 0, 2, 2, 3] and tokenizer.decode([3, 0]) == "oe"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_decoding_undoes_encoding(text):
    tokenizer = CharacterTokenizer.train(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_streaming_gives_the_text():
    tokenizer = CharacterTokenizer.train(TEXT)
    decoder = tokenizer.stream()
    assert "".join(decoder.push(i) for i in tokenizer.encode(TEXT)) + decoder.finish() == TEXT


def test_unknown_character_is_named():
    with pytest.raises(UserError, match=r"has never seen the character 'é' \(U\+00E9, at position 2 of the text\)"):
        CharacterTokenizer.train("abc").encode("abéc")


def test_lone_surrogate():
    with pytest.raises(UserError, match=r"lone surrogate, U\+D800, at 1"):
        CharacterTokenizer.train("abc").encode("a\ud800")


@pytest.mark.parametrize("index", [-1, 3])
def test_id_outside_the_vocabulary(index):
    with pytest.raises(UserError, match=f"id {index} is outside the vocabulary of 3"):
        CharacterTokenizer.train("abc").decode([0, index])


def test_saved_and_opened(tmp_path):
    tokenizer = CharacterTokenizer.train(TEXT)
    tokenizer.save_pretrained(tmp_path)
    opened = load_tokenizer(tmp_path)
    assert isinstance(opened, CharacterTokenizer) and opened.characters == tokenizer.characters


def test_the_tokenizers_library_gives_the_same_ids(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = CharacterTokenizer.train(TEXT)
    tokenizer.save_pretrained(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (TEXT, TEXT[::-1], "  \n\n", "ee", ""):
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert theirs.decode(theirs.encode(text).ids) == text
    assert theirs.get_vocab_size() == tokenizer.vocab_size


@pytest.mark.peers
def test_transformers_opens_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = CharacterTokenizer.train(TEXT)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT) and theirs.decode(theirs(TEXT)["input_ids"]) == TEXT


def broken(change):
    vocabulary = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}}}
    change(vocabulary["model"])
    return json.dumps(vocabulary)


@pytest.mark.parametrize(
    "contents, message",
    [
        ("{", "is not valid JSON"),
        ("{}", "model type None is not one of WordLevel"),
        (broken(lambda m: m.update(type="Unigram")), "model type 'Unigram'"),
        (broken(lambda m: m.pop("vocab")), "is not the tokenizer of a character model"),
        (broken(lambda m: m["vocab"].update(c=5)), "are not 0 to 2, each once"),
        (broken(lambda m: m["vocab"].update(c="2")), "are not 0 to 2, each once"),
        (broken(lambda m: m["vocab"].update(cd=2)), "'cd' is not a single character"),
    ],
)
def test_unusable_files(tmp_path, contents, message):
    (tmp_path / "tokenizer.json").write_text(contents)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="tokenizer.json is missing"):
        load_tokenizer(tmp_path)
