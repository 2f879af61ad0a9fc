"""Special tokens in a text."""

import pytest

from minillm.data import split_text
from minillm.data.special import doubles_bos, encode_data, encode_prompt, end_of_text
from minillm.errors import UserError
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer

TOKENIZER = BytePairTokenizer.train("one two three " * 9, 290, ["<|endoftext|>", "<|x|>", "<|end_of_text|>", "<e>"])
END, OTHER = (TOKENIZER.special_tokens[token] for token in ("<|endoftext|>", "<|x|>"))


class BosFirst(BytePairTokenizer):
    """A tokenizer whose files say that a text begins with <|x|>, and ends by <e>."""

    bos_token, eos_token = "<|x|>", "<e>"

    def encode(self, text, allowed_special=(), disallowed_special="all", add_special_tokens=True):
        ids = super().encode(text, allowed_special, disallowed_special)
        return [OTHER, *ids] if add_special_tokens else ids


BOS_FIRST = BosFirst(TOKENIZER.tokens, TOKENIZER.merges, special_tokens=TOKENIZER.special_tokens)


def letters(text):
    return TOKENIZER.encode(text, disallowed_special=())


def test_the_end_of_text_is_a_token_in_data():
    text = "one<|endoftext|>two"
    assert encode_data(TOKENIZER, text) == [*letters("one"), END, *letters("two")]
    assert encode_data(TOKENIZER, text, "text") == letters(text)
    with pytest.raises(UserError, match=r"'<\|endoftext\|>', at 3: --special allow .* --special text"):
        encode_data(TOKENIZER, text, "refuse")


def test_others_are_refused_in_data_unless_they_are_asked_for():
    text = "one<|x|><|endoftext|>"
    with pytest.raises(UserError, match=r"'<\|x\|>', at 3: --special allow"):
        encode_data(TOKENIZER, text)
    assert encode_data(TOKENIZER, text, "allow") == [*letters("one"), OTHER, END]
    assert encode_data(TOKENIZER, text, "text") == letters(text)
    with pytest.raises(UserError, match='unknown --special "some"'):
        encode_data(TOKENIZER, text, "some")


def test_which_tokens_end_a_text():
    names = ["<|end_of_text|>", "<|endoftext|>"]
    assert sorted(end_of_text(TOKENIZER)) == names
    assert sorted(end_of_text(BOS_FIRST)) == ["<e>", *names]
    assert end_of_text(CharacterTokenizer("ab")) == {}


def test_prompts_are_text():
    assert encode_prompt(TOKENIZER, "<|endoftext|>one") == letters("<|endoftext|>one")
    assert encode_prompt(TOKENIZER, "<|endoftext|>one", "allow") == [END, *letters("one")]
    with pytest.raises(UserError, match="--special"):
        encode_prompt(TOKENIZER, "<|endoftext|>", "refuse")


def test_bos_is_never_there_twice():
    one = letters("one")
    assert encode_prompt(BOS_FIRST, "one", "allow") == encode_prompt(BOS_FIRST, "<|x|>one", "allow") == [OTHER, *one]
    assert encode_prompt(BOS_FIRST, "<|x|><|x|>one", "allow") == [OTHER, OTHER, *one], "as it was asked for"
    assert encode_prompt(BOS_FIRST, "<|x|>one") == [OTHER, *letters("<|x|>one")]
    assert doubles_bos(BOS_FIRST, "<|x|>", "allow") and not doubles_bos(BOS_FIRST, "<|x|>", "text")
    assert not doubles_bos(TOKENIZER, "<|x|>", "allow")


def test_a_vocabulary_of_characters_has_no_special_tokens():
    tokenizer = CharacterTokenizer.train("<|endoftext|>")
    for special in ("", "allow", "text", "refuse"):
        assert tokenizer.decode(encode_data(tokenizer, "<|endoftext|>", special)) == "<|endoftext|>"


def test_a_tokenizer_of_the_users_own():
    class Ordinals:
        def encode(self, text):
            return list(map(ord, text))

    assert encode_data(Ordinals(), "ab") == encode_prompt(Ordinals(), "ab", "allow") == [97, 98]


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|end_of_text|>"])
def test_a_text_is_not_cut_inside_of_an_end_of_text(token):
    for length in range(40):
        text = "ab" * 60 + token + "c" * length
        train, validation = split_text(text)
        cut = int(len(text) * 0.9)
        assert train + validation == text and len(train) == (120 if 120 < cut < 120 + len(token) else cut)
