"""tokenizer.json files in the styles of well-known repositories: the ids and texts are those of the library `tokenizers`."""

import json
from functools import cache

import pytest
from tokenizer_files import KINDS, texts

from minillm.tokenizers import BytePairTokenizer, load_tokenizer
from minillm.tokenizers.tokenizer_json import tokenizer_of_contents

FEW = 250


@cache
def pair(kind):
    """(contents, our tokenizer, theirs)."""
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    contents = KINDS[kind]()
    return contents, tokenizer_of_contents(contents, {}, kind), tokenizers.Tokenizer.from_str(json.dumps(contents))


def compare(ours, theirs, samples, all_else_each=1):
    """Ids of all texts; of each n-th ids without BOS, and texts of these ids, whole and as a stream."""
    silent = set() if isinstance(ours, BytePairTokenizer) else ours._silent
    for number, text in enumerate(samples):
        right = theirs.encode(text).ids
        ids = ours.encode(text, allowed_special="all")
        assert ids == right, repr(text)
        if number % all_else_each:
            continue
        shown = [index for index in ids if index not in silent]
        shown = theirs.decode(shown, skip_special_tokens=False)
        if "\ufffd" not in shown:  # of bytes that are no character, they show less
            assert ours.decode(ids) == shown, repr(text)
        stream = ours.stream()
        assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids), repr(text)
        assert ours.encode(text, "all", add_special_tokens=False) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_tokenizers(kind):
    contents, ours, theirs = pair(kind)
    compare(ours, theirs, texts(contents, FEW))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_tokenizers_for_2000_texts(kind):
    contents, ours, theirs = pair(kind)
    compare(ours, theirs, texts(contents, 2000, seed=1), all_else_each=4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_was_read(kind, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    contents, ours, _ = pair(kind)
    ours.save_pretrained(tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "tokenizer.json"
    assert json.loads(path.read_text(encoding="utf-8")) == contents
    opened, theirs = load_tokenizer(path.parent), tokenizers.Tokenizer.from_file(str(path))
    assert type(opened) is type(ours) and opened.special_tokens == ours.special_tokens
    compare(opened, theirs, texts(contents, 20, seed=2))
