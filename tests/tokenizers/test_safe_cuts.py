"""Where a text can be cut: the pieces of the parts are those of the whole, for each named pattern."""

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planting import planted

from minillm import BytePairTokenizer
from minillm.tokenizers import CharacterTokenizer, safe_cuts
from minillm.tokenizers.added_tokens import AddedToken, AddedTokens
from minillm.tokenizers.normalizers import read_normalizer
from minillm.tokenizers.patterns import PATTERNS, compile_pattern, pieces
from minillm.tokenizers.safe_cuts import SafeCuts
from minillm.tokenizers.surroundings import Surroundings

COMPILED = {name: compile_pattern(name) for name in PATTERNS}
NASTY = st.text(st.sampled_from("sdmtlvreLAÉé東1٣ \n\t\r\u00a0\u2028\u3000\u0301\x1c'’.-/。\U0001f600ſ"), max_size=30)
SHORT = "aB1 \n\r\t./'é"  # each kind that a pattern tells apart, and what is in a rule


def all_cuts(text, module=safe_cuts, whole=()):
    """Every place that is the last one of a beginning of the text."""
    cuts = module.SafeCuts(whole)
    return {cut for end in range(len(text) + 1) if (cut := cuts.last(text[:end]))}


def are_kept(text, cuts):
    """Whether every pattern has the pieces of the whole text after each cut."""
    return all(
        pieces(pattern, text[:cut]) + pieces(pattern, text[cut:]) == pieces(pattern, text)
        for cut in cuts
        for pattern in COMPILED.values()
    )


@given(st.one_of(NASTY, st.text(max_size=30)))
@example("It's 12 o'clock\nwe'll\r\n\r\nsee a  b\n\n1,000 x's\n/y \n z\n'tis")
@settings(max_examples=500, deadline=None)
def test_the_pieces_stay_the_same(text):
    assert are_kept(text, all_cuts(text))


def test_the_pieces_of_every_short_text_stay_the_same():
    found = 0
    for length in (2, 3, 4):
        for text in map("".join, product(SHORT, repeat=length)):
            cuts = all_cuts(text)
            assert are_kept(text, cuts), repr(text)
            found += len(cuts)
    assert found > 4000


FAULTS = {
    "inside of a word": ("(?=[ \\r\\n])|", "|"),
    "after a space": ("(?<=[A-Za-z0-9])(?=[ \\r\\n])", "(?<=[ ])(?=[A-Za-z])"),
    "after punctuation": ("(?<=[A-Za-z0-9])", "(?<=\\S)"),
    "in a run of line ends": ("(?<=\\S\\n)", "(?<=\\n)"),
    "before white space": ("(?=[^\\s/", "(?=[^/"),
    "before a slash": ("(?=[^\\s/", "(?=[^\\s"),
}


@pytest.mark.parametrize("right, wrong", FAULTS.values(), ids=FAULTS.keys())
def test_faults_of_the_rules_are_caught(right, wrong):
    faulty = planted(safe_cuts, right, wrong)
    texts = map("".join, product(SHORT, repeat=4))
    assert any(not are_kept(text, all_cuts(text, faulty)) for text in texts)


def test_both_rules_find_places():
    assert all_cuts("one two\r\nthree\nfour") == {3, 7, 14, 15}
    assert all_cuts("東。\n京。\n\n東。\n\u3000京。\n/京") == {3}
    assert SafeCuts().last("x" * 1000) == SafeCuts().last("") == 0


@given(st.lists(st.sampled_from(["ab cd", "b c", "a", "b", " ", "c", "d", "\n"]), max_size=12).map("".join))
@example("ab cab cd ab cd")
@settings(max_examples=500, deadline=None)
def test_no_added_token_is_cut(text):
    whole = ["ab cd", "b c d", "d\nd"]
    tokens = AddedTokens(AddedToken(number, token) for number, token in enumerate(whole))

    def found(part):
        return [each for each, _ in tokens.split(part, whole)]

    def joined(parts):
        """Texts that follow each other as one."""
        out = []
        for part in parts:
            both_are_texts = out and isinstance(part, str) and isinstance(out[-1], str)
            out[-1:] = [out[-1] + part] if both_are_texts else [*out[-1:], part]
        return out

    for cut in all_cuts(text, whole=whole):
        assert joined(found(text[:cut]) + found(text[cut:])) == found(text)


def test_a_fault_that_cuts_an_added_token_is_caught():
    faulty = planted(safe_cuts, "if not any(self._is_inside", "if True or any(self._is_inside")
    assert all_cuts("x ab cd", whole=["ab cd"]) == {1}
    assert all_cuts("x ab cd", faulty, ["ab cd"]) == {1, 4}
    assert SafeCuts(["ab cd"]).last("x ab ") == 1, "it can still become the token"


def test_what_tokenizers_have_known_places():
    def places(tokenizer):
        return safe_cuts.safe_cuts(tokenizer)

    trained = BytePairTokenizer.train("a b", 257, ["<|end|>"])
    assert places(trained).whole == ["<|end|>"]
    assert all(places(BytePairTokenizer.train("a b", 256, pattern=name)) for name in PATTERNS)
    assert places(CharacterTokenizer("ab")).whole == []
    assert places(BytePairTokenizer.train("a b", 256, pattern=r"\w+|\W+")) is None
    for options in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}):
        added = AddedTokens([AddedToken(256, "<mask>", **options)])
        around = Surroundings(added)
        tokens = [*trained.tokens[:256], b"<mask>"]
        ids = {token: index for index, token in enumerate(tokens[:256])}
        assert places(BytePairTokenizer.from_pipeline(tokens, [], ids, "gpt2", False, around)) is None
    lower = Surroundings(normalizer=read_normalizer({"type": "Lowercase"}, "here"))
    assert places(BytePairTokenizer.from_pipeline(tokens[:256], [], ids, "gpt2", False, lower)) is None
