"""With what a text begins, and what is proposed to begin one with."""

import pytest

from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer
from minillm.tokenizers.start import first_prompt, start_of_text

END = "<|endoftext|>"


class WithBos(CharacterTokenizer):
    """A tokenizer that begins every text with a token of its own."""

    def encode(self, text):
        return [2, *super().encode(text)]


@pytest.mark.parametrize(
    "tokenizer, start",
    [
        (CharacterTokenizer("\nab"), ([0], "\n")),
        (CharacterTokenizer("ab"), ([0], "a")),
        (CharacterTokenizer("\t\u200b b"), ([3], "b")),
        (CharacterTokenizer(" \t"), ([0], " ")),
        (WithBos("abc"), ([2], "")),
        (BytePairTokenizer.train("the the", vocab_size=257), ([10], "\n")),
        (BytePairTokenizer.train("the the", vocab_size=258, special_tokens=[END]), ([257], "")),
    ],
)
def test_start_of_text(tokenizer, start):
    assert start_of_text(tokenizer) == start


def test_a_bos_that_the_files_name_comes_before_an_end_of_text():
    class Named(BytePairTokenizer):
        bos_token = "<s>"

    tokenizer = Named.train("the the", vocab_size=259, special_tokens=[END, "<s>"])
    assert start_of_text(tokenizer) == ([tokenizer.special_tokens["<s>"]], "")


@pytest.mark.parametrize(
    "text, prompt",
    [
        ("abab" * 10, "abababababab"),
        ("ew of The best", "The"),
        ("ing is as it was", "is"),
        ("\u200b\n\t", None),
        ("d 'quoted' $HOME", "'quoted'"),
        ("日本語のテキスト" * 3, "日本語のテキスト日本語の"),
    ],
)
def test_first_prompt(text, prompt):
    tokenizer = CharacterTokenizer.train(text)
    assert first_prompt(tokenizer, text) == prompt
    assert prompt is None or tokenizer.encode(prompt)


def test_the_usual_prompt_is_not_for_a_text_without_it():
    assert first_prompt(BytePairTokenizer.train("la la", vocab_size=256), "la maison") == "maison"
