"""Beam search against a slow scalar twin, against all texts there are, and against transformers."""

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation import beam_search as beam
from minillm.generation.beam_search import beam_search
from minillm.generation.decoder import left_padded
from minillm.sampler import InvalidLogits, Sampler

CONTEXT = 12
PENALTIES = [1.0, 0.0, 0.6, 3.0, -1.0]
EARLY = [True, False, "never"]


def small(kind=minillm.GPT2, vocab_size=7, scale=0.5, dtype="float64", **shape):
    config = minillm.GPT2Config if kind is minillm.GPT2 else minillm.LlamaConfig
    fields = dict(vocab_size=vocab_size, context_length=CONTEXT, n_layer=1, n_head=2, d_model=8) | shape
    return randomised(kind(config(**fields), seed=0, dtype=dtype), scale).eval()


class Chances:
    """log p of a text's next token, by a pass over the columns that are visible, `padding` of which hold nothing at first."""

    def __init__(self, model, prompt, padding=0):
        self.model, self.prompt, self.padding, self.known = model, tuple(prompt), padding, {}

    def __call__(self, text):
        if text not in self.known:
            ids = self.prompt + text
            row = self.model.next_token_logits(np.array([ids[-self.visible(len(ids)) :]]))[0].tolist()
            total = max(row) + math.log(math.fsum(math.exp(x - max(row)) for x in row))
            self.known[text] = [x - total for x in row]
        return self.known[text]

    def visible(self, length):
        context = self.model.config.context_length
        seen = min(len(self.prompt) + self.padding, context)
        for _ in range(length - len(self.prompt)):
            seen = seen + 1 if seen < context else context - context // 4 + 1
        return seen

    def of(self, text):
        return math.fsum(self(text[:i])[token] for i, token in enumerate(text))


def slow_beam_search(model, prompt, longest, beams, penalty, early, ends, padding=0):
    """For one row, straight from the definition."""
    chances, growing, finished = Chances(model, prompt, padding), [()], {}
    for length in range(1, longest + 1):
        longer = [text + (token,) for text in growing for token in range(model.config.vocab_size)]
        longer.sort(key=chances.of, reverse=True)
        growing = []
        for rank, text in enumerate(longer[: beams * max(2, 1 + len(ends))]):
            if length == longest or text[-1] in ends:
                if rank < beams:
                    finished[text] = chances.of(text) / length**penalty
            elif len(growing) < beams:
                growing.append(text)
        finished = dict(sorted(finished.items(), key=lambda pair: -pair[1])[:beams])
        if len(finished) == beams and growing:
            furthest = longest if early == "never" and penalty > 0 else length
            hope = chances.of(growing[0]) / furthest**penalty
            if early is True or hope <= min(finished.values()):
                break
        if not growing:
            break
    return list(finished.items())


def assert_same(hypotheses, expected):
    assert [tuple(ids) for ids, _ in hypotheses] == [tuple(ids) for ids, _ in expected]
    assert [score for _, score in hypotheses] == pytest.approx([score for _, score in expected], rel=1e-9)


PROMPTS = [[1, 2, 3], [4, 5, 6], [6, 6, 6]]


@lru_cache
def by_the_twin(kind, scale, prompt, *settings):
    return slow_beam_search(small(kind, scale=scale), prompt, *settings)


def compare_with_the_twin(early, penalty, beams, ends, module=beam, kind=minillm.GPT2, scale=0.5, longest=6):
    found = module.beam_search(
        small(kind, scale=scale),
        np.array(PROMPTS),
        longest,
        beams=beams,
        n_best=beams,
        length_penalty=penalty,
        early_stopping=early,
        eos_ids=ends,
    )
    for prompt, hypotheses in zip(PROMPTS, found):
        assert_same(hypotheses, by_the_twin(kind, scale, tuple(prompt), longest, beams, penalty, early, ends))


@pytest.mark.parametrize("scale", [0.5, 2.0])  # of the weights: flat and sharp probabilities
@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("early", EARLY)
def test_the_slow_twin_finds_the_same(early, penalty, beams, scale):
    compare_with_the_twin(early, penalty, beams, (0, 1), scale=scale)


@pytest.mark.parametrize("ends", [(), (3,), (0, 1, 2)])
def test_no_end_and_several(ends):
    compare_with_the_twin(False, 1.0, 3, ends, kind=minillm.Llama)


def test_over_the_end_of_the_context():
    compare_with_the_twin("never", 1.0, 2, (), longest=2 * CONTEXT)


def steps_lead_to_the_texts(module=beam):
    """Every candidate has the probability of its text; what is found is finished there, with its score."""
    for early, penalty, ends in itertools.product(EARLY, [1.0, -1.0], [(), (3,), (0, 1)]):
        model, settings = small(scale=2.0), dict(beams=3, length_penalty=penalty, early_stopping=early, n_best=3)
        *steps, found = module.beam_search_steps(model, np.array([PROMPTS[0]]), 6, eos_ids=ends, **settings)
        assert found == module.beam_search(model, np.array([PROMPTS[0]]), 6, eos_ids=ends, **settings)[0]
        chances, growing, finished = Chances(model, PROMPTS[0]), [()], {}
        for length, step in enumerate(steps, start=1):
            assert [each.log_p for each in step] == sorted((each.log_p for each in step), reverse=True)
            texts = [growing[each.parent] + (each.token,) for each in step]
            for text, each in zip(texts, step):
                assert each.log_p == pytest.approx(chances.of(text), rel=1e-9)
                assert each.score == each.log_p / length**penalty
                if each.fate == "finished":
                    finished[text] = each.score
            growing = [text for text, each in zip(texts, step) if each.fate == "kept"]
            assert len(growing) == (3 if length < 6 else 0)
        assert [finished[tuple(text.ids)] for text in found] == [text.score for text in found]


def test_a_search_step_by_step():
    steps_lead_to_the_texts()
    with pytest.raises(UserError, match="followed for one text"):
        next(beam.beam_search_steps(small(), np.array(PROMPTS), 3))


@pytest.mark.parametrize(
    "fault",
    [
        ('fate = "finished"', "pass"),
        ('fate = "kept"', "pass"),
        ("Candidate(parent, token, total, total /", "Candidate(0, token, total, total /"),
        ("total / length**self.length_penalty, fate)", "total, fate)"),
    ],
)
def test_wrong_steps_are_noticed(fault):
    with pytest.raises((AssertionError, IndexError, KeyError)):
        steps_lead_to_the_texts(planted(beam, *fault))


FAULTS = [
    ("if rank < self.beams:", "if True:"),
    ("if self.early_stopping is True:", "if self.early_stopping:"),
    ("if self.early_stopping is True:", "if False:"),
    ("at = self.longest if", "at = length if"),
    ("and self.length_penalty > 0 else length", "else length"),
    ("/ length**self.length_penalty))", "/ (length - 1 or 1)**self.length_penalty))"),
    ("decoder.reorder(parents)", "decoder.reorder(sorted(parents))"),
    ("first + parent for parent", "parent for parent"),
    ("kept.append(totals[place])", "kept.append(log_p[parent, token])"),
    ("self.beams * max(2, 1 + len(self.eos_ids))", "self.beams"),
    ("<= self.finished[-1].score", "<= self.finished[0].score"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    module = planted(beam, *fault)
    with pytest.raises((AssertionError, IndexError)):
        for early, penalty, beams, scale in itertools.product(EARLY, PENALTIES, [2, 3], [0.5, 2.0]):
            compare_with_the_twin(early, penalty, beams, (0, 1), module, scale=scale)


# ------------------------------------------------------------------------------------------------------- all there are


def every_text(vocabulary, longest, end):
    others = [token for token in range(vocabulary) if token != end]
    for length in range(1, longest + 1):
        for begin in itertools.product(others, repeat=length - 1):
            yield from ((*begin, token) for token in (range(vocabulary) if length == longest else [end]))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("vocabulary, longest", [(3, 4), (4, 3), (1, 5), (2, 6)])
def test_with_enough_beams_the_best_of_all_texts_are_found(vocabulary, longest, penalty):
    model, beams = small(vocab_size=vocabulary), max(vocabulary - 1, 1) ** (longest - 1) * vocabulary
    chances = Chances(model, [0])
    expected = [(text, chances.of(text) / len(text) ** penalty) for text in every_text(vocabulary, longest, 0)]
    expected.sort(key=lambda pair: -pair[1])
    [found] = beam_search(
        model,
        np.array([[0]]),
        longest,
        beams=beams,
        n_best=beams,
        length_penalty=penalty,
        early_stopping="never",
        eos_ids=0,
    )
    assert_same(found, expected[:beams])


def test_no_text_is_likelier_than_the_best_found_without_an_end():
    model = small(vocab_size=3)
    chances = Chances(model, [1, 2])
    [[best]] = beam_search(model, np.array([[1, 2]]), 5, beams=81, length_penalty=0.0)
    assert best.score == pytest.approx(max(chances.of(text) for text in itertools.product(range(3), repeat=5)))


# ------------------------------------------------------------------------------------------------------- and the rest


def test_one_beam_is_greedy():
    model, ids = small(), np.array(PROMPTS)
    written = np.stack(list(minillm.generate(model, ids, 20, Sampler(temperature=0))), axis=1)
    found = beam_search(model, ids, 20, beams=1)
    assert [best.ids for [best] in found] == written.tolist()


@pytest.mark.parametrize("kind", [minillm.GPT2, minillm.Llama])
def test_rows_of_unequal_length(kind):
    """Also where they slide together; rows that are done early leave the batch."""
    model, prompts = small(kind), [[1, 2, 3, 4, 5], [6], [3, 2]]
    ids, padding = left_padded(prompts)
    for longest, ends in ((7, (0, 1)), (CONTEXT, (0,)), (CONTEXT, ())):
        found = beam_search(model, ids, longest, beams=2, n_best=2, early_stopping=True, eos_ids=ends, padding=padding)
        for prompt, skipped, hypotheses in zip(prompts, padding, found):
            assert_same(hypotheses, slow_beam_search(model, prompt, longest, 2, 1.0, True, ends, skipped))


def test_ties_go_to_the_better_beam_and_the_lowest_id():
    model = small()
    for parameter in model.parameters().values():
        parameter.value = np.zeros_like(parameter.value)
    [found] = beam_search(model, np.array([[1]]), 2, beams=3, n_best=3)
    assert [hypothesis.ids for hypothesis in found] == [[0, 0], [0, 1], [0, 2]]
    assert found[0].score == pytest.approx(-math.log(7))


def test_fewer_results_where_no_more_exist():
    [found] = beam_search(small(vocab_size=2), np.array([[1]]), 2, beams=8, n_best=8, eos_ids=0, early_stopping="never")
    assert sorted(hypothesis.ids for hypothesis in found) == [[0], [1, 0], [1, 1]]


def test_on_the_simulated_device():
    expected = beam_search(small(), np.array(PROMPTS), 5, n_best=2, eos_ids=0)
    found = beam_search(small().to("cudasim"), np.array(PROMPTS), 5, n_best=2, eos_ids=0)
    for hypotheses, others in zip(found, expected):
        assert_same(hypotheses, others)


@pytest.mark.peers
@pytest.mark.parametrize("kind", [minillm.GPT2, minillm.Llama])
def test_transformers_finds_the_same(tmp_path, kind):
    torch = pytest.importorskip("torch", reason="comparison with torch (extra test-peers)")
    transformers = pytest.importorskip("transformers", reason="comparison with transformers (extra test-peers)")
    small(kind, vocab_size=29, context_length=32, n_layer=2, scale=0.3, dtype="float32").save_pretrained(tmp_path)
    model = minillm.from_pretrained(tmp_path)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompts = np.array([[1, 2, 3, 4], [9, 8, 7, 6], [5, 5, 5, 5]])
    peer.generation_config.max_length = None
    cases = [
        *itertools.product(EARLY, [1.0, -0.5], [3, [3, 11, 20]]),
        (False, 1.0, None),
        ("never", 2.0, 3),
        (False, 0.0, 3),
    ]
    for early, penalty, end in cases:
        output = peer.generate(
            torch.from_numpy(prompts),
            attention_mask=torch.ones(prompts.shape),
            max_new_tokens=12,
            num_beams=4,
            num_return_sequences=3,
            do_sample=False,
            early_stopping=early,
            length_penalty=penalty,
            eos_token_id=end,
            pad_token_id=28,
            return_dict_in_generate=True,
            output_scores=True,
        )
        settings = dict(beams=4, n_best=3, early_stopping=early, length_penalty=penalty, eos_ids=end)
        found = [found for row in beam_search(model, prompts, 12, **settings) for found in row]
        for hypothesis, ids in zip(found, output.sequences[:, prompts.shape[1] :].tolist()):
            length = len(hypothesis.ids)
            assert hypothesis.ids == ids[:length] and set(ids[length:]) <= {28}  # which pads the shorter ones
        assert [found.score for found in found] == pytest.approx(output.sequences_scores.tolist(), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(beams=0), "beams is 0"),
        (dict(beams=2.5), "beams is 2.5"),
        (dict(n_best=5), "n_best is 5, more than the 4 beams"),
        (dict(max_new_tokens=0), "max_new_tokens is 0"),
        (dict(length_penalty=math.nan), "length_penalty is nan"),
        (dict(early_stopping="always"), "early_stopping is always"),
        (dict(early_stopping=1), "early_stopping is 1"),
        (dict(ids=np.zeros((1, 0), int)), "at least one token is needed"),
        (dict(ids=np.array([[7]])), "outside the vocabulary"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(UserError, match=message):
        beam_search(small(), **{"ids": np.array([[1]]), "max_new_tokens": 3, **settings})


def test_broken_weights():
    model = small()
    model.parameters()["transformer.wte.weight"].value[:] = np.nan
    with pytest.raises(InvalidLogits, match=r"logits\[0, \d+\] is nan"):
        beam_search(model, np.array([[1]]), 3)
