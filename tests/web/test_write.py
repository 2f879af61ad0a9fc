"""Write: its numbers are those of `minillm generate --trace --json`, and its view does what it says."""

import itertools
import json
import re

import numpy as np
import pytest
from generated import PROMPT, generated
from planting import planted

pytest.importorskip("starlette", reason="the page needs starlette: pip install -e .[test-web]")

import minillm
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.generation.decoder import Decoder
from minillm.generation.score import score_text
from minillm.models.mistral import Mistral, MistralConfig
from minillm.sampler.settings import SamplerSettings
from minillm.web.play import texts as texts_module
from minillm.web.play import write
from minillm.web.play.choice import SHOWN, choice
from minillm.web.play.opening import open_studio
from minillm.web.play.studio import Studio
from minillm.web.play.texts import MOST_TEXTS, Text, Texts

LONG = 80  # tokens: more than the context of 64, which slides


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return open_studio(None, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def texts(studio):
    return Texts(studio.model)


def request(studio, **arguments):
    prompt = studio.tokenizer.encode(PROMPT)
    return {"session": "one", "prompt": prompt, "written": [], "settings": {"temperature": 0.8}, **arguments}


# -------------------------------------------------------------------------------------------- the numbers of generate

SETTINGS = {
    "--seed 7": dict(temperature=0.8, seed=7),
    "--temperature 0": dict(temperature=0),
    "--top-k 40 --top-p 0.9 --repetition-penalty 1.1": dict(
        temperature=0.8, top_k=40, top_p=0.9, repetition_penalty=1.1
    ),
    "--mirostat 3 --seed 2": dict(temperature=0.8, mirostat_tau=3, seed=2),
    "--order llama.cpp --dry-multiplier 0.8 --xtc-probability 0.5 --min-p 0.02": dict(
        temperature=0.8, order="llama.cpp", dry_multiplier=0.8, xtc_probability=0.5, min_p=0.02
    ),
    "--order hf --top-k 5 --typical-p 0.9 --logit-bias 32:2.5 --ban-token 10": dict(
        temperature=0.8, order="hf", top_k=5, typical_p=0.9, logit_bias={"32": 2.5}, banned_tokens=[10]
    ),
}


@pytest.mark.parametrize("options", SETTINGS)
def test_the_numbers_are_those_of_generate(studio, texts, options):
    """Every figure of every token, to the last bit, also after the context has slid."""
    expected = generated("--trace", "--logprobs", *options.split(), tokens=LONG)
    arguments = request(studio, settings=SETTINGS[options], count=LONG)
    found = list(write.run(studio, texts, arguments))
    found = json.loads(json.dumps(found))  # as the page gets them
    assert [each["trace"] for each in found] == expected["trace"]
    assert [each["trace"]["token"] for each in found] == expected["ids"]
    assert [each["logp"][each["rows"].index(each["trace"]["token"])] for each in found] == expected["logprobs"]


def test_a_token_at_a_time_is_the_same_as_a_run(studio, texts):
    """The page sends mirostat's mu back: it is all that the sampler remembers."""
    settings = dict(temperature=0.8, mirostat_tau=3)
    expected = list(write.run(studio, Texts(studio.model), request(studio, settings=settings, count=10)))
    written, mu = [], None
    for each in expected:
        found = write.next_token(studio, texts, request(studio, settings=settings, written=written, mu=mu))
        assert found == each
        written, mu = [*written, found["trace"]["token"]], found["mu"]


def test_mirostat_switched_off_forgets_what_it_remembered(studio, texts):
    without = write.next_token(studio, texts, request(studio, written=[5]))
    assert write.next_token(studio, texts, request(studio, written=[5], mu=4.5)) == without
    assert without["mu"] is None


def test_every_way_to_a_place_gives_the_same_logits(studio):
    """Back, forth, to another branch, before a slide and after it: as if the text was written plainly."""
    model, numbers = studio.model, stream("test", "places")
    prompt = studio.tokenizer.encode(PROMPT)
    branches = [numbers.integers(512, LONG).tolist() for _ in range(3)]
    branches = [branches[0], branches[0][:20] + branches[1], branches[0][:70] + branches[2]]
    plain = {}
    for branch in branches:
        decoder = Decoder(model)
        logits = decoder.read(np.array([prompt]))
        for count, token in enumerate(branch):
            plain[tuple(branch[:count])] = logits[0]
            logits = decoder.read(np.array([[token]]))
    text, places = Text(model), list(plain)
    for _ in range(60):
        place = places[numbers.integers(len(places))]
        assert (text.logits(prompt, place) == plain[place]).all(), len(place)
        if numbers.integers(2):
            text._logits.clear()  # so that it has to be computed again


def test_what_a_window_forgot_is_read_again():
    config = MistralConfig(vocab_size=50, context_length=512, n_layer=1, n_head=2, d_model=8, sliding_window=3)
    model, written = Mistral(config, seed=0).eval(), stream("test", "window").integers(50, 420).tolist()
    text, again = Text(model), Text(model)
    text.logits([1], written)
    text._logits.clear()
    assert (text.logits([1], written[:200]) == again.logits([1], written[:200])).all()


@pytest.mark.parametrize("fault", ["visible_after_slide(context)", "self._last_pass(len(self._written))[0] > common"])
def test_wrong_places_are_noticed(studio, monkeypatch, fault):
    wrong = {"visible_after_slide(context)": "visible_after_slide(context) - 1"}.get(fault, "False")
    monkeypatch.setitem(globals(), "Text", planted(texts_module, fault, wrong).Text)
    with pytest.raises((AssertionError, ValueError)):
        test_every_way_to_a_place_gives_the_same_logits(studio)


def test_no_place_is_computed_twice(studio, monkeypatch):
    """A slider that moves costs no pass of the model."""
    texts = Texts(studio.model)
    write.next_token(studio, texts, request(studio, written=[5, 6]))
    monkeypatch.setattr(Decoder, "hidden", None)
    found = write.next_token(studio, texts, request(studio, written=[5, 6], settings={"temperature": 2, "top_k": 3}))
    assert [stage["name"] for stage in found["trace"]["stages"]] == ["model", "temperature", "top_k"]


def test_dropped_sessions_are_made_again(studio, texts):
    expected = write.next_token(studio, texts, request(studio, written=[5, 6]))
    for name in range(MOST_TEXTS + 3):
        write.next_token(studio, texts, request(studio, session=str(name)))
    assert len(texts._texts) == MOST_TEXTS and "one" not in texts._texts
    assert write.next_token(studio, texts, request(studio, written=[5, 6])) == expected


def test_decoders_share_their_copies_of_weights():
    config = minillm.LlamaConfig(vocab_size=50, context_length=16, n_layer=1, n_head=2, d_model=8)
    texts = Texts(minillm.Llama(config, seed=0).eval())
    for name in ("a", "b"):
        texts.of(name).logits([1, 2], [3, 4])
    first, second = (text._decoder._cache._packed for text in texts._texts.values())
    assert first and first is second


# ------------------------------------------------------------------------------------------------- what the page draws


def test_intervals_and_shares(studio, texts):
    found = write.next_token(studio, texts, request(studio, settings={"top_k": 12, "temperature": 1.3}))
    trace, last = found["trace"], dict(zip(found["rows"], found["shares"][-1]))
    segments = {token: (first, past) for token, first, past in found["segments"]}
    assert segments[trace["token"]] == (trace["first"], trace["past"])
    assert trace["first"] <= trace["drawn"] < trace["past"]
    ordered = [segments[token] for token in sorted(segments)]
    assert ordered[0][0] == 0 and ordered[-1][1] == 1
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ordered))
    assert sum(p is not None for p in last.values()) == 12 == trace["stages"][-1]["kept"]
    for token, (first, past) in segments.items():
        assert past - first == pytest.approx(last[token], abs=1e-6)
    assert sum(p or 0 for p in last.values()) == pytest.approx(1, abs=1e-12)


def test_a_large_vocabulary_sends_few_tokens():
    logits = np.float32(3 * stream("test", "large").normal(50257))
    for settings in ({}, {"top_k": 40}, {"temperature": 0}, {"banned_tokens": (int(logits.argmax()),)}):
        found = choice(logits, SamplerSettings(**settings), [1], [])
        assert len(found["rows"]) <= 2 * SHOWN + 1 and found["trace"]["token"] in found["rows"]
        assert int(logits.argmax()) in found["rows"] and len(json.dumps(found)) < 12_000


def test_draws_again_until_the_token_is_another(studio, texts):
    first = write.next_token(studio, texts, request(studio))["trace"]["token"]
    found = write.next_token(studio, texts, request(studio, unlike=[first]))
    assert found["trace"]["token"] != first and found["seed"] > 0
    settings = {"temperature": 0.8, "seed": found.pop("seed")}
    assert found == write.next_token(studio, texts, request(studio, settings=settings))
    with pytest.raises(UserError, match="other seeds draw the same here"):
        write.next_token(studio, texts, request(studio, settings={"top_k": 1}, unlike=list(range(512))))


def test_a_text_ends_where_generate_ends_it(studio, texts):
    ends = Studio(studio.model, studio.tokenizer, "a model", studio.runs, end_tokens=(int(b"e"[0]),))
    settings = {"logit_bias": {"101": 100.0}, "min_tokens": 3}
    found = list(write.run(ends, texts, request(studio, settings=settings, count=20)))
    assert [each["ends"] for each in found] == [False] * 3 + [True, True]
    assert len(list(write.run(ends, texts, request(studio, settings=settings, count=20, endless=True)))) == 20


def test_a_prompt_is_read_as_generate_reads_it(studio, texts):
    read = write.start(studio, texts, {"session": "one", "prompt": "The value "})
    assert read["ids"] == studio.tokenizer.encode("The value ") and "".join(read["pieces"]) == "The value "
    assert "ends in a space" in read["notes"][0]
    log_p = score_text(studio.model, read["ids"][:1], read["ids"][1:])[0]
    assert read["logprobs"][0] is None and read["logprobs"][1:] == pytest.approx(log_p, rel=1e-4)
    assert write.start(studio, texts, {"session": "one", "prompt": None})["text"] == "\n"
    long = write.start(studio, texts, {"session": "one", "prompt": "value " * 100})
    assert "the model sees up to 64: its beginning is not seen" in long["notes"][-1]
    assert len(long["logprobs"]) == len(long["ids"]) and long["logprobs"].count(None) == len(long["ids"]) - 63


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(prompt=[]), "the prompt is empty"),
        (dict(prompt="text"), "prompt must be a list"),
        (dict(prompt=[512]), "prompt has 512: the ids of the model's tokens are 0 to 511"),
        (dict(prompt=[True]), "prompt has True"),
        (dict(prompt=[1.0]), "prompt has 1.0"),
        (dict(written=[-1]), "written has -1"),
        (dict(written=[1] * 10_001), "written must be a list of at most 10,000 ids"),
        (dict(session=5), "session is 5: it must be a text"),
        (dict(session="s" * 65), "session has 65 characters"),
        (dict(mu="high"), "mu is 'high': it must be a number"),
        (dict(mu=10**400), "mu is 1000"),
        (dict(settings=[]), "settings that are no object"),
        (dict(settings={"top_p": 7}), "top_p is 7: it must be a number above 0 and at most 1"),
        (dict(settings={"temperature": "hot"}), "temperature is hot: it must be a finite number of at least 0"),
        (dict(settings={"heat": 7}), "'heat', which the sampler does not have"),
        (dict(settings={"banned_tokens": [600]}), "banned_tokens names token 600, but the vocabulary has only 512"),
        (dict(settings={"banned_tokens": list(range(512))}), "no token is left to choose"),
        (dict(settings={"order": "hf", "xtc_probability": 1}), "xtc_probability does not exist in hf"),
        (dict(settings={"min_tokens": 3}), "min_tokens: the model knows no end of text"),
        (dict(count=0), "count is 0: it must be a whole number from 1 to 1,000"),
        (dict(count=10**9), "count is 1000000000"),
        (dict(token=[1, 2]), "token must be a list of at most 1 ids"),
    ],
)
def test_wrong_requests(studio, texts, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        next(write.run(studio, texts, {"count": 1, **request(studio, **arguments)}))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(prompt=""), "the prompt is empty"),
        (dict(prompt=7), "prompt is 7: it must be a text"),
        (dict(prompt="x" * 100_001), "prompt has 100,001 characters: at most 100,000 are read"),
        (dict(prompt="x", special="all"), 'unknown --special "all"'),
    ],
)
def test_wrong_prompts(studio, texts, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        write.start(studio, texts, {"session": "one", **arguments})
