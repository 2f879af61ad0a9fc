"""What `minillm generate` can be asked for, and what it refuses."""

import numpy as np
import pytest

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation.beam_search import beam_search
from minillm.generation.comparison import compare, draw, strategies, table
from minillm.generation.diversity import distinct
from minillm.generation.score import score_text
from minillm.generation.speculative import PromptLookup
from minillm.generation.strategy import Strategy
from minillm.sampler import Sampler
from minillm.tokenizers import BytePairTokenizer

TOKENIZER = BytePairTokenizer.train("the cat sat on the mat", vocab_size=262)
CONFIG = minillm.GPT2Config(vocab_size=262, context_length=24, n_layer=1, n_head=2, d_model=8)
PROMPT = TOKENIZER.encode("the cat")


@pytest.fixture(scope="module")
def model():
    return randomised(minillm.GPT2(CONFIG, seed=0))


def last(strategy, model, tokens=8, **settings):
    *_, completions = strategy.write(model, TOKENIZER, PROMPT, tokens, **settings)
    return completions


def test_samples_of_one_prompt_differ_and_repeat_with_the_seed(model):
    completions = last(Strategy(Sampler(seed=4)), model, samples=3)
    assert len({tuple(w.ids) for w in completions}) == 3
    assert [w.ids for w in last(Strategy(Sampler(seed=4)), model, samples=3)] == [w.ids for w in completions]


def test_a_beam_search_shows_its_best(model):
    completions = last(Strategy(beams=3, n_best=2), model, logprobs=True)
    found = beam_search(model, [PROMPT], 8, beams=3, n_best=2)[0]
    assert [(w.ids, w.score) for w in completions] == [(h.ids, h.score) for h in found]
    assert completions[0].score == pytest.approx(np.mean(completions[0].logprobs), abs=1e-5)  # length penalty 1


@pytest.mark.parametrize("settings", [dict(contrastive_alpha=0.0), dict(draft=PromptLookup())])
def test_without_a_penalty_or_a_temperature_it_is_greedy(model, settings):
    greedy = last(Strategy(Sampler(0)), model, logprobs=True)
    (writing,) = last(Strategy(Sampler(0), **settings), model, logprobs=True)
    assert writing.ids == greedy[0].ids and writing.text == greedy[0].text and writing.reason == "length"
    np.testing.assert_allclose(writing.logprobs, greedy[0].logprobs, rtol=1e-3)
    assert (writing.speculation is not None) == ("draft" in settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(beams=2, contrastive_alpha=0.5), "beams and contrastive search cannot go together"),
        (dict(beams=2, draft=PromptLookup()), "beams and a draft"),
        (
            dict(beams=2, sampler=Sampler(0.5, top_p=0.9)),
            "beams uses the model's own probabilities: leave out top_p",
        ),
        (dict(contrastive_alpha=0.5, sampler=Sampler(top_k=5, banned_tokens=(3,))), "leave out banned_tokens"),
        (dict(n_best=2), "n_best needs a beam search"),
        (dict(beams=0), "beams is 0: it must be a whole number of at least 1"),
        (dict(beams=2.5), "beams is 2.5"),
    ],
)
def test_strategies_that_exclude_each_other(settings, message):
    with pytest.raises(UserError, match=message):
        Strategy(**settings)


@pytest.mark.parametrize(
    "asked, message",
    [
        (dict(samples=2), "several samples"),
        (dict(trace=True), "a trace records"),
        (dict(max_time=1.0), "leave out max_time"),
    ],
)
def test_what_a_search_cannot_do(model, asked, message):
    with pytest.raises(UserError, match=message):
        last(Strategy(beams=2), model, **asked)


@pytest.mark.parametrize("settings", [dict(top_k=0), dict(top_p=1.0, min_p=0), dict(banned_tokens=[], logit_bias={})])
def test_a_search_does_not_mind_what_is_off(settings):
    Strategy(Sampler(0.8, **settings), beams=2)


@pytest.mark.parametrize(
    "settings",
    [dict(sampler=Sampler(seed=4, mirostat_tau=2.0)), dict(draft=PromptLookup()), dict(contrastive_alpha=0.5)],
)
def test_a_strategy_remembers_nothing(model, settings):
    strategy = Strategy(**settings)
    assert last(strategy, model)[0].ids == last(strategy, model)[0].ids


@pytest.mark.parametrize("settings", [dict(beams=2), dict(draft=PromptLookup()), dict(contrastive_alpha=0.5)])
def test_what_cannot_be_done_is_refused_before_anything_is_written(model, settings):
    """By the call, not by the first step: a text of a hundred tokens is not thrown away in the end."""
    room = CONFIG.context_length - len(PROMPT) + 1
    with pytest.raises(UserError, match=f"at most {room} tokens can be written"):
        Strategy(**settings).write(model, TOKENIZER, PROMPT, room + 1, logprobs=True)
    assert len(last(Strategy(**settings), model, room, logprobs=True)[0].logprobs) == room
    assert len(last(Strategy(**settings), model, room + 1)[0].ids) == room + 1
    for stop, message in (([""], "stop string is empty"), ("END", "letter by letter")):
        with pytest.raises(UserError, match=message):
            Strategy(**settings).write(model, TOKENIZER, PROMPT, 5, stop=stop)
    with pytest.raises(UserError, match="mirostat_tau is set"):
        Strategy(Sampler(mirostat_tau=2.0), draft=PromptLookup()).write(model, TOKENIZER, PROMPT, 5)


def test_comparison(model, tmp_path):
    results = compare(model, TOKENIZER, PROMPT, 12, seed=1)
    assert [r.name for r in results] == list(strategies(1))
    by_name = {r.name: r for r in results}
    ids = last(Strategy(Sampler(0)), model, 12)[0].ids
    greedy = by_name["greedy"]
    assert greedy.distinct_2 == distinct(ids, 2)
    assert greedy.log_probability == pytest.approx(score_text(model, PROMPT, ids)[0].mean())
    assert by_name["beams 4"].log_probability >= greedy.log_probability - 1e-6  # it found a likelier text, or the same
    assert by_name["no 3-gram twice, greedy"].distinct_3 == 1
    heads, rows = table(results)
    assert all(len(row) == len(heads) for row in rows)
    pytest.importorskip("matplotlib", reason="the chart needs the extra plots")
    draw(results, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="cannot be written"):
        draw(results, tmp_path / "no" / "compare.png")


def test_a_comparison_must_fit_into_the_context(model):
    with pytest.raises(UserError, match="at most 22 can be written"):
        compare(model, TOKENIZER, PROMPT[:3], 23)


def test_a_comparison_of_several_texts_has_their_means(model):
    """By the strategies that draw; the others write one text, which is always the same."""
    one, three = ({r.name: r for r in compare(model, TOKENIZER, PROMPT, 8, 3, samples)} for samples in (1, 3))
    writings = last(strategies(3)["top-k 40"], model, samples=3)
    scores = [score_text(model, PROMPT, writing.ids) for writing in writings]
    assert three["top-k 40"].log_probability == pytest.approx(np.mean([log_p.mean() for log_p, _ in scores]), abs=1e-6)
    assert three["top-k 40"].text == writings[0].text == one["top-k 40"].text
    for name in ("greedy", "beams 4", "contrastive 0.6", "repetition 1.3, greedy"):
        assert three[name] == one[name]
