"""Stop strings, half characters, lengths, times, log-probabilities; a scripted sampler says what is drawn."""

import numpy as np
import pytest

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation.score import score_text
from minillm.generation.text import TextStream, write
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, ScoreTokenizer
from minillm.tokenizers.sentencepiece import _Whole

TOKENIZER = BytePairTokenizer.train("ab", vocab_size=256)  # every byte a token
CONFIG = minillm.GPT2Config(vocab_size=256, context_length=16, n_layer=1, n_head=2, d_model=8)


def byte_ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


class Scripted:
    """Draws what a script says, for each row."""

    def __init__(self, *texts):
        self.rows, self.at = [byte_ids(text) for text in texts], 0

    def sample(self, logits, history):
        drawn = [row[self.at % len(row)] for row in self.rows]
        self.at += 1
        return np.array(drawn)


@pytest.fixture(scope="module")
def model():
    return randomised(minillm.GPT2(CONFIG, seed=0))


def written(model, texts, max_tokens=40, **settings):
    states = []
    for completions in write(model, TOKENIZER, [byte_ids("x")] * len(texts), max_tokens, Scripted(*texts), **settings):
        states.append([completion.text for completion in completions])
    return states, completions


@pytest.mark.parametrize("stop, expected", [(["END"], "the "), (["e E", "zzz"], "th"), (["D", "N"], "the E")])
def test_stop_strings_span_tokens_and_are_not_shown(model, stop, expected):
    states, (completion,) = written(model, ["the END, and so on"], stop=stop)
    assert completion.text == expected and completion.reason == "stop"
    shown = [texts[0] for texts in states]
    assert all(later.startswith(earlier) for earlier, later in zip(shown, shown[1:]))  # nothing is taken back
    assert all(expected.startswith(text) for text in shown)


def test_what_only_looked_like_a_stop_string_is_shown_in_the_end(model):
    states, (completion,) = written(model, ["aENDx"], max_tokens=3, stop=["ENDE"])
    assert states[-2] == ["a"] and completion.text == "aEN" and completion.reason == "length"


def slow_stream(text: str, stops: list[str]) -> str:
    """Up to the earliest end of a stop string, cut where the earliest of those begins."""
    for end in range(len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)]
    return text


def test_streams_of_random_texts():
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(rng.choice(list("ab"), 12))
        stops = ["".join(rng.choice(list("ab"), rng.integers(2, 5))) for _ in range(rng.integers(0, 3))]
        stream = TextStream(TOKENIZER, stops)
        shown = ""
        for token in byte_ids(text):
            shown += stream.push(token)
            if stream.stopped:
                break
        else:
            shown += stream.finish()
        assert shown == slow_stream(text, stops), (text, stops)


def test_no_half_character_is_shown(model):
    text = "Grüße, 東京 🙂"
    states, (completion,) = written(model, [text], max_tokens=len(text.encode()))
    for texts in states:
        assert text.startswith(texts[0]) and "\N{REPLACEMENT CHARACTER}" not in texts[0]
    assert completion.text == text


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SCORED = ["<unk>", "<s>", "</s>", *BYTES, " ", "a", "b", "ab", " a", " ab"]
TEXT = "ab ab a b"


class Whole(ScoreTokenizer):
    """As one whose decoder needs the whole text."""

    def stream(self):
        return _Whole(self)


TOKENIZERS = {
    "bytes": BytePairTokenizer.train("ab ab", vocab_size=258),
    "characters": CharacterTokenizer("ab 東🙂"),
    "scores": ScoreTokenizer(SCORED, [float(len(token)) for token in SCORED]),
    "scores, decoded as a whole": Whole(SCORED, [float(len(token)) for token in SCORED]),
    "scores, no space before the text": ScoreTokenizer(SCORED, [0.0] * len(SCORED), prefix_space=False),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompt_and_stream_are_the_whole_text(kind):
    """Wherever the text is parted: a SentencePiece text loses a space at its beginning, but not the word that follows."""
    tokenizer = TOKENIZERS[kind]
    for text in (TEXT, TEXT.replace("b", "東🙂")):
        ids = list(tokenizer.encode(text))
        for first in range(1, len(ids)):
            stream = TextStream(tokenizer, (), ids[:first])
            shown = "".join(stream.push(token) for token in ids[first:]) + stream.finish()
            before = tokenizer.decode(ids[:first]).rstrip("\N{REPLACEMENT CHARACTER}")  # of half a character
            assert before + shown == text


def test_a_stop_string_that_begins_with_a_space():
    tokenizer = TOKENIZERS["scores"]
    prompt, new = tokenizer.encode("ab"), tokenizer.encode("ab", add_special_tokens=False)
    stream = TextStream(tokenizer, [" ab"], prompt)
    assert "".join(stream.push(token) for token in new) == "" and stream.stopped


def test_an_id_without_a_token_has_no_text():
    stream = TextStream(TOKENIZER)
    assert [stream.push(token) for token in (97, 256, 300, 98)] == ["a", "", "", "b"]
    with pytest.raises(UserError, match="outside the vocabulary"):
        TOKENIZER.decode([300])


def test_the_end_of_the_ids_can_complete_a_stop_string(model):
    """Half a character becomes U+FFFD when no more bytes come."""
    half = TOKENIZER.encode("東")[:2]
    stream = TextStream(TOKENIZER, ["\N{REPLACEMENT CHARACTER}"])
    assert [stream.push(token) for token in half] == ["", ""] and stream.finish() == "" and stream.stopped
    _, (completion,) = written(model, ["a東"], max_tokens=3, stop=["\N{REPLACEMENT CHARACTER}"])
    assert completion.text == "a" and completion.reason == "stop"


def test_a_stop_string_of_several_bytes(model):
    _, (completion,) = written(model, ["ab東c東京d"], stop=["東京"])
    assert completion.text == "ab東c" and completion.reason == "stop"


def test_rows_end_each_in_its_own_way(model):
    end = byte_ids("!")
    _, completions = written(model, ["ab!cd", "abcde", "aSTOP"], max_tokens=7, eos_ids=end, stop=["STOP"])
    assert [w.reason for w in completions] == ["end", "length", "stop"]
    assert [w.text for w in completions] == ["ab", "abcdeab", "a"]
    assert completions[0].ids[-1] == end[0] and len(completions[0].ids) == 3


def test_every_row_has_a_length_of_its_own(model):
    _, completions = written(model, ["abcdef", "abcdef", "abcSTOP"], max_tokens=[5, 2, 9], stop=["STOP"])
    assert [w.text for w in completions] == ["abcde", "ab", "abc"]
    assert [w.reason for w in completions] == ["length", "length", "stop"]


def test_time_is_up(model):
    seconds = iter(range(100))
    _, (completion,) = written(model, ["abcdef"], max_time=3, clock=lambda: next(seconds))
    assert completion.text == "abc" and completion.reason == "time"


def test_log_probabilities_are_the_models(model):
    sampler = minillm.Sampler(temperature=0.5, top_k=5, seed=2)
    *_, (completion,) = write(model, TOKENIZER, [[1, 2]], 9, sampler, logprobs=True, trace=True)
    expected, unsure = score_text(model, [1, 2], completion.ids)
    np.testing.assert_allclose(completion.logprobs, expected, rtol=1e-4)
    assert [trace.token for trace in completion.traces] == completion.ids
    np.testing.assert_allclose([trace.stages[0].entropy for trace in completion.traces], unsure, rtol=1e-4)


def test_scores_are_those_of_single_steps(model):
    ids = [3, 4, 5, 6]
    log_p, unsure = score_text(model.train(), ids[:1], ids[1:])
    assert model.training  # as before
    model.eval()
    for at in range(1, 4):
        logits = model.forward(np.array([ids[:at]]))[0, -1].astype(np.float64)
        p = np.exp(logits) / np.exp(logits).sum()
        assert log_p[at - 1] == pytest.approx(np.log(p[ids[at]]), abs=1e-5)
        assert unsure[at - 1] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)
    model.train()


def test_what_cannot_be_used(model):
    with pytest.raises(UserError, match="stop string is empty"):
        written(model, ["a"], stop=[""])
    with pytest.raises(UserError, match="18 tokens, the model reads 16"):
        score_text(model, [1], list(range(17)))
