"""Byte-level BPE against slow code written from the definitions, against tiktoken and against Hugging Face's tokenizers."""

import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import planted

from minillm import BytePairTokenizer
from minillm.errors import UserError
from minillm.tokenizers import load_tokenizer, piece_cache
from minillm.tokenizers.byte_pair_batch import merge_words
from minillm.tokenizers.byte_pair_training import count_pieces, learn_merges
from minillm.tokenizers.patterns import CL100K, GPT2, PATTERNS, compile_pattern, pieces

TEXT = (
    "The quick brown fox jumps over the lazy dog; the dogs don't care. "
    "Number 2026, 3.14159 and 1,000,000!\n\n\tIndented\r\n  twice  as   much \n"
    "Grüße aus Köln — 東京は日本の首都です。 नमस्ते दुनिया 👩‍👩‍👧‍👦 e\u0301 ﬁn\u00a0nbsp\u2003em\u3000wide\x85next\x1cfs\n"
) * 4


# ---------------------------------------------------------------------------------- slow code from the definitions


def slow_merges(counts, merges):
    """Every pair counted anew for each merge."""
    words = {piece: [bytes([value]) for value in piece] for piece in counts}
    made = []
    for _ in range(merges):
        pairs = Counter()
        for piece, word in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += counts[piece]
        pairs = {pair: count for pair, count in pairs.items() if pair[0] + pair[1] not in made}
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        made.append(best[0] + best[1])
        words = {piece: merged(word, best, best[0] + best[1]) for piece, word in words.items()}
    return made


def merged(word, pair, new):
    result, at = [], 0
    while at < len(word):
        if tuple(word[at : at + 2]) == pair:
            result.append(new)
            at += 2
        else:
            result.append(word[at])
            at += 1
    return result


def slow_encode(tokenizer, text):
    """The pattern over the whole text, then merge after merge in the order in which they were learned."""
    ids = []
    for piece in pieces(compile_pattern(tokenizer.pattern), text):
        word = [tokenizer.tokens.index(bytes([value])) for value in piece.encode("utf-8")]
        for a, b, token in tokenizer.merges:
            if len(word) > 1:
                word = merged(word, (a, b), token)
        ids += word
    return ids


# ------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\S+|\s+"])
def test_merges_are_those_of_counting_anew(pattern):
    counts = count_pieces([TEXT], pattern)
    tokens = BytePairTokenizer.train(TEXT, 256 + 120, pattern=pattern).tokens
    assert tokens[256:] == slow_merges(counts, 120)


@given(st.text(alphabet="ab c", min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_merges_of_repetitive_texts(text):
    counts = count_pieces([text], "gpt2")
    tokens = BytePairTokenizer.train(text, 256 + 20).tokens
    assert tokens[256:] == slow_merges(counts, 20)


def test_the_order_of_the_text_does_not_matter():
    words = TEXT.split(" ")
    shuffled = [words[i] for i in np.random.default_rng(0).permutation(len(words))]
    tokenizers = [BytePairTokenizer.train((" " + word for word in order), 400) for order in (words, shuffled)]
    assert tokenizers[0].tokens == tokenizers[1].tokens


def test_texts_one_by_one_and_progress():
    seen = []
    whole = BytePairTokenizer.train(TEXT, 400, progress=seen.append)
    lines = BytePairTokenizer.train(iter(TEXT.splitlines(keepends=True)), 400)
    assert seen[-1] == 144 and len(lines.tokens) == len(whole.tokens) == 400


def test_a_text_with_few_pairs_gives_a_small_vocabulary():
    assert BytePairTokenizer.train("aaaa", 1000).tokens[256:] == [b"aa", b"aaaa"]


def test_a_vocabulary_that_is_too_small_or_a_pattern_that_is_none():
    with pytest.raises(UserError, match="256 bytes and special tokens make 257"):
        BytePairTokenizer.train("a", 256, special_tokens=["<|end|>"])
    with pytest.raises(UserError, match=r"neither a pattern's name \(gpt2, cl100k, smollm, qwen2"):
        BytePairTokenizer.train("a", 300, pattern="(")
    with pytest.raises(UserError, match="has groups"):
        BytePairTokenizer.train("a", 300, pattern="(a)|b")


# ------------------------------------------------------------------------------------------------------- encoding


@pytest.fixture(scope="module", params=[*PATTERNS, r"\p{L}+"])
def trained(request):
    return BytePairTokenizer.train(TEXT, 420, special_tokens=["<|endoftext|>"], pattern=request.param)


def test_encoding_is_that_of_the_definition(trained):
    ids = trained.encode(TEXT)
    assert ids == trained.encode_plainly(TEXT) == slow_encode(trained, TEXT)
    assert trained.decode(ids) == TEXT


EDGES = st.text(alphabet=st.sampled_from("ab1é東 \n\t\r\u00a0\u3000'.,s"), max_size=30)


@given(st.one_of(st.text(max_size=40), EDGES))
@settings(max_examples=400, deadline=None)
def test_any_text_comes_back_and_is_cut_as_the_pattern_says(text):
    for pattern in PATTERNS:
        tokenizer = TRAINED[pattern]
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert ids == tokenizer.encode_plainly(text) == slow_encode(tokenizer, text)


TRAINED = {pattern: BytePairTokenizer.train(TEXT, 300, pattern=pattern) for pattern in PATTERNS}


def test_long_pieces_and_short_ones_are_merged_alike(monkeypatch):
    tokenizer = TRAINED["gpt2"]
    texts = ["the" * 100, "".join(np.random.default_rng(1).choice(list("thequickbrown"), 500)), "a" * 999]
    expected = [slow_encode(tokenizer, text) for text in texts]
    for short in (0, 10**6):  # all with a heap, all without
        monkeypatch.setattr(piece_cache, "SHORT", short)
        tokenizer.pattern = "gpt2"  # forgets what it remembers
        assert [tokenizer.encode(text) for text in texts] == expected


def test_a_full_cache_is_emptied(monkeypatch):
    monkeypatch.setattr(piece_cache, "CACHED_PIECES", 50)
    tokenizer = BytePairTokenizer.train(TEXT, 300)
    text = " ".join(str(number) for number in range(3000))
    assert tokenizer.encode(text) == slow_encode(tokenizer, text)
    assert len(tokenizer._cache._pretokens) <= 50 and len(tokenizer._cache._words) <= 50


def test_setting_the_pattern_rebuilds_what_depends_on_it():
    tokenizer = BytePairTokenizer.train(TEXT, 400)
    before = tokenizer.encode("Number 2026 and 2027")
    tokenizer.pattern = "smollm"
    assert tokenizer.encode("Number 2026 and 2027") == slow_encode(tokenizer, "Number 2026 and 2027") != before


def test_a_lone_surrogate_is_named():
    with pytest.raises(UserError, match=r"lone surrogate, U\+D800, at 6"):
        TRAINED["gpt2"].encode("hello \ud800 there")
    with pytest.raises(UserError, match=r"lone surrogate, U\+DFFF"):
        BytePairTokenizer.train("\udfff", 300)


# ------------------------------------------------------------------------------------------------- special tokens


def test_special_tokens_follow_the_rules_of_tiktoken():
    tokenizer = BytePairTokenizer.train(TEXT, 400, special_tokens=["<|endoftext|>", "<|end|>"])
    text = "the<|endoftext|>dog"
    plain, special = TRAINED["gpt2"], tokenizer.special_tokens["<|endoftext|>"]
    with pytest.raises(UserError, match=r"special token '<\|endoftext\|>', at 3: allow it with"):
        tokenizer.encode(text)
    assert special not in tokenizer.encode(text, disallowed_special=())
    assert tokenizer.decode(tokenizer.encode(text, disallowed_special=())) == text
    allowed = tokenizer.encode(text, allowed_special={"<|endoftext|>"})
    assert allowed == [*tokenizer.encode("the"), special, *tokenizer.encode("dog")]
    assert tokenizer.encode(text, allowed_special="all") == allowed
    with pytest.raises(UserError, match=r"<\|end\|>"):
        tokenizer.encode("<|end|>", allowed_special={"<|endoftext|>"})
    assert tokenizer.decode(allowed) == text
    assert plain.encode(text)  # a vocabulary without special tokens takes any text


# ------------------------------------------------------------------------------------------------------- decoding


def test_bytes_that_are_no_text():
    tokenizer = TRAINED["gpt2"]
    broken = tokenizer.encode("é")[:1] if len(tokenizer.encode("é")) > 1 else [0xC3]
    assert tokenizer.decode(broken) == "\ufffd"
    with pytest.raises(UserError, match="no UTF-8 text: unexpected end of data at byte 0"):
        tokenizer.decode(broken, errors="strict")
    with pytest.raises(UserError, match="id 300 is outside the vocabulary of 300 tokens"):
        tokenizer.decode([300])


def test_a_stream_never_prints_half_a_character():
    tokenizer = TRAINED["cl100k"]
    text = "né 👩‍👩‍👧‍👦 東京"
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(parts) + stream.finish() == text
    assert not any("\ufffd" in part for part in parts)
    stream = tokenizer.stream()
    assert stream.push(0xF0) == "" and stream.finish() == "\ufffd"


# ------------------------------------------------------------------------------------------------- the real thing


@pytest.fixture(scope="module")
def gpt2(real_data):
    return BytePairTokenizer.from_pretrained(real_data / "gpt2")


def tiktoken_of(tokenizer):
    tiktoken = pytest.importorskip("tiktoken", reason="comparison with the package tiktoken")
    pattern = {"gpt2": GPT2, "cl100k": CL100K}.get(tokenizer.pattern, tokenizer.pattern)
    special = set(tokenizer.special_tokens.values())
    ranks = {token: index for index, token in enumerate(tokenizer.tokens) if index not in special}
    return tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens)


def test_tiny_shakespeare_has_338025_tokens(gpt2, real_data):
    text = (real_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    ids = gpt2.encode(text)
    assert len(ids) == 338_025 and gpt2.decode(ids) == text


def test_every_token_of_gpt2_is_what_its_bytes_become(gpt2):
    for index, token in enumerate(gpt2.tokens):
        try:
            text = token.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(pieces(compile_pattern("gpt2"), text)) == 1 and text not in gpt2.special_tokens:
            assert gpt2.encode(text) == [index]


def unicode_texts(count):
    """Random text of every plane, white space and line ends of every kind, emoji, combining marks, digits."""
    rng = np.random.default_rng(7)
    planes = [chr(c) for c in rng.integers(0, sys.maxunicode + 1, 4000) if not 0xD800 <= c < 0xE000]
    spaces = [chr(c) for c in range(0x3001) if chr(c).isspace() or unicodedata.category(chr(c)).startswith("Z")]
    marks = [chr(c) for c in range(0x300, 0x370)] + ["\u200d", "\ufe0f"]
    emoji = [chr(c) for c in range(0x1F300, 0x1F700)]
    digits = [chr(c) for c in range(0x3000) if chr(c).isnumeric()]
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ'sdmtll.,;!?-_()[]{}\"#")
    kinds = [planes, spaces, marks, emoji, digits, letters, letters, ["\n", "\r\n", "\t", " ", " ", "  "]]
    for _ in range(count):
        yield "".join(str(rng.choice(kinds[rng.integers(len(kinds))])) for _ in range(rng.integers(1, 60)))


def test_the_same_ids_as_tiktoken_on_unicode_of_every_kind(gpt2):
    other = tiktoken_of(gpt2)
    for text in unicode_texts(2000):
        assert gpt2.encode(text) == other.encode(text), repr(text)


def test_the_same_ids_as_tiktoken_on_10000_texts(gpt2):
    other = tiktoken_of(gpt2)

    @given(st.text(max_size=50))
    @settings(max_examples=10_000, deadline=None, database=None)
    def check(text):
        ids = gpt2.encode(text, disallowed_special=())
        assert ids == other.encode(text, disallowed_special=())
        assert gpt2.decode(ids) == text

    check()


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_what_we_train_gives_the_same_ids_in_tokenizers_and_tiktoken(pattern, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    text = "".join(unicode_texts(300)) + TEXT
    ours = BytePairTokenizer.train(text, 900, special_tokens=["<|endoftext|>"], pattern=pattern)
    ours.save_pretrained(tmp_path)
    theirs, other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), tiktoken_of(ours)
    for sample in [TEXT, *unicode_texts(300)]:
        ids = ours.encode(sample)
        assert theirs.encode(sample).ids == ids == other.encode(sample)
        assert theirs.decode(ids) == sample
    assert theirs.encode("a<|endoftext|>b").ids == ours.encode("a<|endoftext|>b", allowed_special="all")


def test_smollm_cuts_as_its_tokenizer_json_does(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    ours = BytePairTokenizer.train(TEXT, 400, pattern="smollm")
    ours.save_pretrained(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for sample in [TEXT, "a  1", "x 12 y", "\n\n3", *unicode_texts(400)]:
        assert theirs.encode(sample).ids == ours.encode(sample), repr(sample)
    assert load_tokenizer(tmp_path).pattern == "smollm"


def test_a_megabyte_without_a_space_does_not_take_quadratic_time(gpt2):
    """Counted, not timed: comparisons in the heap grow like n log n."""
    steps = []
    for length in (2000, 20_000):
        text = "".join(np.random.default_rng(0).choice(list("abcdefgh"), length))
        profiler, count = sys.getprofile(), Counter()
        sys.setprofile(lambda frame, event, arg, count=count: count.update([event == "c_call"]))
        try:
            gpt2._cache._encode_pretoken(text)
        finally:
            sys.setprofile(profiler)
        steps.append(count[True])
    assert steps[1] < 15 * steps[0]


def test_pieces_between_matches_are_kept():
    assert pieces(regex.compile(r"\p{L}+"), "ab, cd!") == ["ab", ", ", "cd", "!"]


def test_learn_merges_stops_when_nothing_is_left():
    assert learn_merges(Counter({b"ab": 1}), 10) == [(97, 98)]


def test_many_pieces_at_once_are_merged_as_one_by_one():
    tokenizer = TRAINED["gpt2"]
    rng = np.random.default_rng(5)
    longest = rng.choice([8, 20, 100, 300], 500)  # more than the highest matrix as well
    new = ["".join(rng.choice(list("thequickbrown é"), rng.integers(1, longest[i]))).encode() for i in range(500)]
    expected = [tokenizer.merged(piece) for piece in new]
    lengths = np.array(list(map(len, new)))
    data, starts = np.frombuffer(b"".join(new), np.uint8), np.cumsum(lengths) - lengths
    ids, counts = merge_words(data, starts, lengths, tokenizer._cache._pair_table, tokenizer.merged)
    assert counts.tolist() == list(map(len, expected)) and ids.tolist() == sum(expected, [])


CACHE_FAULTS = {
    "the largest rank first": ("best := min(merges)", "best := max(merges)"),
    "the pair on the left not looked at again": ("if at:\n", "if False:\n"),
    "the pair on the right not looked at again": ("if at < len(merges):", "if False:"),
    "a word without its space": ('self._encode_pretokens(" " + word)', "self._encode_pretokens(word)"),
    "whole tokens merged all the same": ("if self._whole is not None and data in self._whole:", "if False:"),
}


@pytest.mark.parametrize("right, wrong", CACHE_FAULTS.values(), ids=CACHE_FAULTS.keys())
def test_faults_of_the_cache_are_caught(right, wrong, monkeypatch):
    """The plain algorithm notices each of them."""
    tokens = [*(bytes([value]) for value in range(256)), b"lo", b"ow", b"low", b"whole"]
    merges = [(108, 111, 256), (111, 119, 257), (256, 119, 258)]
    texts = ["low  lower \n lowest", "the whole  of it", "wholow \t low", "whole"]

    def differences():
        made = [BytePairTokenizer(tokens, merges, ignore_merges=whole) for whole in (False, True)]
        made.append(BytePairTokenizer.train(TEXT, 400))
        return sum(each.encode(text) != each.encode_plainly(text) for each in made for text in (*texts, TEXT))

    assert differences() == 0
    monkeypatch.setattr("minillm.tokenizers.byte_pair.PieceCache", planted(piece_cache, right, wrong).PieceCache)
    assert differences() > 0
