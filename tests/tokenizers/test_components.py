"""Each part of a tokenizer.json by itself, against the same part in the library `tokenizers`."""

import json

import pytest
from tokenizer_files import BYTE_LEVEL, BYTES_ONLY, SPACE, added, byte_level, llama, sequence, split, template, texts

from minillm.errors import UserError
from minillm.tokenizers import BytePairTokenizer, ScoreTokenizer
from minillm.tokenizers.decoders import read_decoder
from minillm.tokenizers.file_patterns import NotTheSame, translated
from minillm.tokenizers.normalizers import read_normalizer
from minillm.tokenizers.patterns import PATTERNS
from minillm.tokenizers.pre_tokenizers import BEHAVIORS, read_pre_tokenizer
from minillm.tokenizers.tokenizer_json import tokenizer_of_contents

SAMPLES = list(texts({"added_tokens": []}, 150, seed=4)) + ["a-b--c", "--a", "a--", "-", "ab12cd345", "x\ny\n\n", "Ⅷ²3"]


def theirs_with(**parts):
    """A tokenizer of the library with these parts."""
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    contents = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": [], **parts}
    return tokenizers.Tokenizer.from_str(json.dumps(contents))


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
NORMALIZERS = [
    *({"type": form} for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")),
    {"type": "Prepend", "prepend": SPACE},
    REPLACE,
    {"type": "Replace", "pattern": {"Regex": r"\s+|(l)+"}, "content": "_"},
    {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "-"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "-"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {
        "type": "Sequence",
        "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Prepend", "prepend": "a"}],
    },
    {"type": "Sequence", "normalizers": []},
]


@pytest.mark.parametrize("data", NORMALIZERS, ids=str)
def test_normalizers(data):
    theirs, ours = theirs_with(normalizer=data).normalizer, read_normalizer(data, "normalizer")
    for text in SAMPLES:
        assert ours(text, True)[0] == theirs.normalize_str(text), repr(text)


PRE_TOKENIZERS = [
    *(split("-", behavior, invert) for behavior in BEHAVIORS for invert in (False, True)),
    *(split(r"\p{N}{1,2}|\s*", behavior) for behavior in BEHAVIORS),
    {"type": "Split", "pattern": {"String": "-"}, "behavior": "MergedWithNext", "invert": False},
    {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False},
    *(split(expression) for expression in PATTERNS.values()),
    {"type": "Digits", "individual_digits": True},
    {"type": "Digits", "individual_digits": False},
    BYTE_LEVEL,
    BYTES_ONLY | {"add_prefix_space": True},
    {"type": "Whitespace"},
    {"type": "WhitespaceSplit"},
    {"type": "BertPreTokenizer"},
    *({"type": "Punctuation", "behavior": behavior} for behavior in BEHAVIORS),
    {"type": "Punctuation"},
    {"type": "CharDelimiterSplit", "delimiter": "-"},
    *({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": each} for each in ("first", "always", "never")),
    {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": False},
    {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True, "str_rep": SPACE},
    sequence(split("-"), {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first"}),
    sequence(split("-", "Removed"), {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first"}),
    sequence(split("-"), {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"}),
    sequence(sequence(split(r"[\r\n]"), {"type": "Digits", "individual_digits": True}), BYTE_LEVEL),
    sequence(BYTE_LEVEL, split("Ġ", "MergedWithPrevious")),
]


@pytest.mark.parametrize("data", PRE_TOKENIZERS, ids=str)
def test_pre_tokenizers(data):
    theirs, ours = theirs_with(pre_tokenizer=data).pre_tokenizer, read_pre_tokenizer(data, "pre_tokenizer")
    for text in SAMPLES:
        assert ours.pieces(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)], repr(text)


DECODERS = [
    BYTE_LEVEL,
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "Replace", "pattern": {"Regex": "[a-c]+"}, "content": "_"},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": "a", "start": 2, "stop": 0},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0}]},
    {
        "type": "Sequence",
        "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": ""}],
    },
    *({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": each} for each in ("first", "always", "never")),
]
TOKENS = ["▁a", "▁", "▁▁b", "<0xC3>", "<0xA9>", "aab", "Ġa", "a", " ", "  b", "<0x41>", "é", "<0xe6>"]


@pytest.mark.parametrize("data", DECODERS, ids=str)
def test_decoders(data):
    theirs, ours = theirs_with(decoder=data).decoder, read_decoder(data, "decoder")
    for start in range(len(TOKENS)):
        for stop in range(start + 1, len(TOKENS)):
            if TOKENS[start] != "<0xA9>" and TOKENS[stop - 1] != "<0xC3>" and "<0xe6>" not in TOKENS[start:stop]:
                assert ours.decode(TOKENS[start:stop]) == theirs.decode(TOKENS[start:stop])


EXPRESSIONS = [
    *(
        r"\s",
        r"\w+",
        r"\W",
        r"\d+",
        r"\h+",
        r"\H",
        r"[^\w]",
        r"[\h]+",
        r"\bt",
        r"\Bh",
        r"\e|\a|\t",
        r"\x{61}|\x62",
        r"\u0061",
    ),
    *("a{1,2}+", "a{2}?", "a{,2}", "a{,}", "a{x", "a++b|a*+", r"(?:\p{N}{1,3})+", r"(?:a|bc){1,2}+", "(?>a|ab)c"),
    *("^a", "a$", "^|$", ".", r"\A.", r"a\z", r"a\Z", "(?<=a)b", r"(a)|( b)", "[]a]", "[a-c-]+", r"[!-/]\s*"),
    *("(?i:'s|k)", "(?i)HELLO|the", r"\p{^L}+", r"[\p{L}\p{M}]+", r"\p{Han}+|\p{Lu}"),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_match_as_onigurumas_do(expression):
    data = split(expression)
    theirs, ours = theirs_with(pre_tokenizer=data).pre_tokenizer, read_pre_tokenizer(data, "pre_tokenizer")
    more = [
        "a\na\n",
        "aaaaa",
        "abab\n",
        "baac",
        "a_\u200db\u0301-\u203f²Ⓐ",
        "\x1b\x07\t",
        "'S'ſ K\u212a",
        "a{,}a{xa",
        "]]a",
        "漢字Aé",
        "a",
    ]
    for text in SAMPLES + more:
        assert ours.pieces(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)], repr(text)


@pytest.mark.parametrize(
    "expression, named",
    [
        (r"(a)\1", r'"\1"'),
        (r"\Ga", r'"\G"'),
        ("(?m).", "the group '(?m)'"),
        ("(?<n>a)", "the group '(?<n>a)'"),
        ("[a&&b]", '"&&"'),
        ("[[:alpha:]]", '"["'),
        ("(?i:less|ff)", '"ss" where capitals'),
        ("[a", 'a "[" without'),
    ],
)
def test_an_expression_without_an_equal_is_refused_by_the_part(expression, named):
    with pytest.raises(NotTheSame) as error:
        translated(expression)
    assert named in str(error.value)
    with pytest.raises(UserError, match="pre_tokenizer .Sequence. 1 .Split.: the regular expression"):
        read_pre_tokenizer(sequence(split(expression)), "pre_tokenizer")


# ------------------------------------------------------------------------------------ what is not known has its name


def placed(part, data):
    contents = byte_level(BYTE_LEVEL, [])
    contents[part] = data
    return contents


UNKNOWN = [
    (
        "normalizer",
        {"type": "Precompiled", "precompiled_charsmap": ""},
        "normalizer: the type 'Precompiled' is not known",
    ),
    (
        "normalizer",
        {"type": "Sequence", "normalizers": [REPLACE, {"type": "Nmt"}]},
        r"normalizer \(Sequence\) 2: the type 'Nmt'",
    ),
    ("normalizer", {"type": "NFC", "form": 1}, r"normalizer \(NFC\): the option 'form' \(1\) is not known"),
    ("normalizer", {"type": "Prepend"}, r"normalizer \(Prepend\): the option 'prepend' is missing"),
    ("normalizer", {"type": "Strip", "strip_left": 1, "strip_right": True}, "strip_left is 1, which it cannot be"),
    ("normalizer", {"prepend": "x"}, "normalizer: the type None"),
    ("normalizer", {"type": "Replace", "pattern": {"Glob": "x"}, "content": ""}, "neither a String nor a Regex"),
    ("pre_tokenizer", split("a", "Merged"), "the behavior 'Merged' is not one of"),
    ("pre_tokenizer", split("("), "nor a regular expression"),
    (
        "pre_tokenizer",
        sequence(BYTE_LEVEL, {"type": "FixedLength", "length": 3}),
        r"pre_tokenizer \(Sequence\) 2: the type 'FixedLength'",
    ),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "First"}, "prepend_scheme 'First'"),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "_", "add_prefix_space": False}, "add_prefix_space False"),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "__"}, "'__' is not one character"),
    ("post_processor", {"type": "Roberta"}, "post_processor: the type 'Roberta'"),
    ("post_processor", template([("<s>", 999)]), "post_processor adds id 999, outside of the vocabulary"),
    ("post_processor", template([("<s>", 1)]) | {"special_tokens": {}}, "'<s>', of which special_tokens gives no ids"),
    ("post_processor", template() | {"single": []}, "does not have this text, A, once"),
    ("post_processor", template() | {"single": ["$A"]}, "is no part of a template"),
    ("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}, "decoder: the type 'WordPiece'"),
    ("decoder", {"type": "Strip", "content": " ", "start": -1, "stop": 0}, "taken away -1 and 0 times"),
]


@pytest.mark.parametrize("part, data, message", UNKNOWN)
def test_what_is_not_known_is_refused_by_its_name_and_place(part, data, message):
    with pytest.raises(UserError, match=message) as error:
        tokenizer_of_contents(placed(part, data), {}, "x/tokenizer.json")
    assert str(error.value).startswith("x/tokenizer.json: ")


def test_a_post_processor_in_several_steps():
    contents = byte_level(BYTE_LEVEL, [("<s>", True), ("</s>", True)])
    first = len(contents["model"]["vocab"])
    steps = [BYTE_LEVEL, template([("<s>", first)], [("</s>", first + 1), ("</s>", first + 1)])]
    contents["post_processor"] = {"type": "Sequence", "processors": steps}
    theirs = theirs_with(**contents)
    assert tokenizer_of_contents(contents, {}, "x").encode("the") == theirs.encode("the").ids


# --------------------------------------------------------------------------------------- special tokens and the others


def test_added_tokens_that_are_not_special_are_ordinary_vocabulary():
    tokens = [("<|end|>", True), ("<think>", False), ("  ", False, {"normalized": True})]
    ours = tokenizer_of_contents(byte_level(BYTE_LEVEL, tokens), {}, "x")
    end, think, two = range(len(ours.tokens) - 3, len(ours.tokens))
    assert isinstance(ours, BytePairTokenizer) and ours.special_tokens == {"<|end|>": end}
    assert ours.encode("<think>  ") == [think, two]
    with pytest.raises(UserError, match="the special token '<.end.>', at 7: allow it with"):
        ours.encode("<think><|end|>")
    assert ours.encode("<think><|end|>", {"<|end|>"}) == [think, end]
    as_text = ours.encode("<think><|end|>", disallowed_special=())
    assert as_text[0] == think and end not in as_text and ours.decode(as_text) == "<think><|end|>"
    assert ours.encode("<|end|>", disallowed_special={"<think>"}) == as_text[1:]
    with pytest.raises(UserError, match="'<think>', at 0"):
        ours.encode("<think>", disallowed_special={"<think>"})


def test_control_tokens_are_read_refused_or_text_where_characters_are_merged():
    ours = tokenizer_of_contents(llama("first"), {}, "x")
    assert isinstance(ours, ScoreTokenizer)
    assert ours.encode("a</s>")[-1] == 2 and ours.encode("a</s>", "all") == ours.encode("a</s>")
    with pytest.raises(UserError, match="the special token '</s>', at 1"):
        ours.encode("a</s>", ())
    as_text = ours.encode("a</s>", (), ())
    assert 2 not in as_text and ours.decode(as_text) == "a</s>"
    assert ours.encode("a", add_special_tokens=False) == ours.encode("a", with_bos=False) == ours.encode("a")[1:]
    with pytest.raises(UserError, match=r"lone surrogate, U\+D800, at 5"):
        ours.encode("a</s>\ud800")


def test_a_character_that_cannot_be_expressed():
    contents = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    ours = tokenizer_of_contents(contents, {}, "x")
    assert ours.encode("aa") == [0, 0]
    with pytest.raises(UserError, match=r"no token for 'b' \(U\+0062\) or its bytes"):
        ours.encode("ab")


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("fallback", [False, True])
def test_unknown_characters_one_by_one_or_together(fuse, fallback):
    """Bytes are there for "é" alone; an unknown token that waits is put down behind them, as in the library."""
    vocab = {text: index for index, text in enumerate(["?", "a", "<0xC3>", "<0xA9>"])}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "?", "fuse_unk": fuse, "byte_fallback": fallback}
    ours, theirs = tokenizer_of_contents({"model": model}, {}, "x"), theirs_with(model=model)
    for text in ("xyz", "axxa", "xéx", "éxxéa", "xéyéza", "aé", "東x"):
        assert ours.encode(text) == theirs.encode(text).ids, text


@pytest.mark.parametrize("gap", [{"zz": 425}, {"zz": 425, "yy": 430}])
def test_a_vocabulary_with_gaps(gap):
    contents = byte_level(BYTE_LEVEL, [])
    contents["model"]["vocab"] |= gap
    ours, theirs = tokenizer_of_contents(contents, {}, "x"), theirs_with(**contents)
    assert ours.vocab_size == max(gap.values()) + 1 and ours.encode("the dog") == theirs.encode("the dog").ids
    assert ours.decode([422]) == "" and ours.decode([425]) == "zz"


def test_a_merge_that_is_listed_twice_has_its_last_rank():
    vocab = {text: index for index, text in enumerate(["a", "b", "c", "ab", "bc"])}
    contents = {"model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["b", "c"], ["a", "b"]]}}
    assert tokenizer_of_contents(contents, {}, "x").encode("abc") == theirs_with(**contents).encode("abc").ids == [0, 4]
    contents["pre_tokenizer"] = BYTE_LEVEL
    assert tokenizer_of_contents(contents, {}, "x").encode("abc") == [0, 4]


def test_merges_apply_only_where_they_are_listed():
    vocab = {text: index for index, text in enumerate(["a", "b", "c", "ab", "bc", "abc"])}
    contents = {"model": {"type": "BPE", "vocab": vocab, "merges": [["b", "c"], ["a", "b"], ["ab", "c"]]}}
    assert tokenizer_of_contents(contents, {}, "x").encode("abc") == theirs_with(**contents).encode("abc").ids == [0, 4]


def test_two_tokens_of_one_id():
    contents = byte_level(BYTE_LEVEL, [])
    contents["added_tokens"] = [added(420, "x1"), added(420, "x2")]
    with pytest.raises(UserError, match="two added tokens have the id 420"):
        tokenizer_of_contents(contents, {}, "x")


def test_a_long_text_without_spaces_is_encoded_in_steps_that_grow_like_n_log_n():
    """Counted, not timed."""
    ours, counts = tokenizer_of_contents(llama("first"), {}, "x"), []
    merge_of = ours._model.merge_of
    for length in (2000, 20_000):
        calls = []
        ours._model.merge_of = lambda pair, calls=calls: calls.append(0) or merge_of(pair)
        ours.encode("abcdehlost" * (length // 10))
        counts.append(len(calls))
    assert counts[1] < 15 * counts[0]
