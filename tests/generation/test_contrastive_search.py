"""Contrastive search against a slow scalar twin written from equation 5."""

import math

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation import contrastive_search as contrastive
from minillm.generation.contrastive_search import contrastive_search
from minillm.generation.decoder import left_padded
from minillm.generation.generate import FINISHED
from minillm.sampler import Sampler

CONTEXT, V = 12, 9
PROMPTS = [[1, 2, 3], [4, 5, 6], [8, 8, 8]]
KINDS = [minillm.GPT2, minillm.Llama]


def small(kind, scale=0.5, dtype="float64", **shape):
    config = minillm.GPT2Config if kind is minillm.GPT2 else minillm.LlamaConfig
    fields = dict(vocab_size=V, context_length=CONTEXT, n_layer=1, n_head=2, d_model=8) | shape
    return randomised(kind(config(**fields), seed=0, dtype=dtype), scale).eval()


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b)) / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def slow_contrastive_search(model, prompt, count, k, alpha, padding=0):
    """One row, a whole pass for every token that is tried, and every number on its own."""
    context = model.config.context_length
    text, visible, written = list(prompt), min(len(prompt) + padding, context), []  # columns that are visible
    for _ in range(count):
        logits = model.next_token_logits(np.array([text[-visible:]]))[0].tolist()
        total = math.fsum(math.exp(x - max(logits)) for x in logits)
        visible = visible + 1 if visible < context else context - max(1, context // 4) + 1
        scores = {}
        for v in sorted(range(len(logits)), key=lambda v: -logits[v])[:k]:
            *before, h = model.body.forward(np.array([(text + [v])[-visible:]]), None)[0].tolist()
            alike = max((cosine(h, other) for other in before), default=-1)
            scores[v] = (1 - alpha) * math.exp(logits[v] - max(logits)) / total - alpha * alike
        written.append(max(scores, key=scores.get))
        text.append(written[-1])
    return written


def texts(model, ids, count, module=contrastive, **settings):
    return np.stack(list(module.contrastive_search(model, ids, count, **settings)), axis=1).tolist()


def compare_with_the_twin(kind, k, alpha, count, module=contrastive, padded=False):
    model = small(kind)
    prompts = [[1, 2, 3, 4, 5], [6], [3, 2]] if padded else PROMPTS
    ids, padding = left_padded(prompts)
    rows = [(prompt, count, k, alpha) for prompt in prompts]
    written = texts(model, ids, count, module, top_k=k, penalty_alpha=alpha, padding=padding if padded else None)
    expected = [slow_contrastive_search(model, *row, padding=pad) for row, pad in zip(rows, padding)]
    assert written == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 4, V])
@pytest.mark.parametrize("alpha", [0, 0.1, 0.6, 1])
def test_the_slow_twin_writes_the_same(kind, k, alpha):
    compare_with_the_twin(kind, k, alpha, CONTEXT - 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_over_the_end_of_the_context(kind, padded):
    """Rows of unequal length slide together."""
    compare_with_the_twin(kind, 3, 0.5, 2 * CONTEXT, padded=padded)


FAULTS = [
    ("before = _unit(x[::k, :-1])", "pass"),
    ("decoder.reorder(np.repeat(rows * k + chosen, k))", "pass"),
    ("xp.asarray(chosen)]", "0]"),
    ("_unit(last)[:, None]], axis=1)", "_unit(last)[:, None]][:1], axis=1)"),
    ("(1 - alpha) * p_tried", "p_tried"),
    ("- alpha * alike", "+ alpha * alike"),
    ("cosine = np.where(hidden[:, None], -1, cosine)", "pass"),
    ("np.asarray(padding)[:, None] - forgotten", "np.asarray(padding)[:, None]"),
    ("return x / xp", "return x + 0 * xp"),
    ("cosine.max(axis=-1, initial=-1)", "cosine.mean(axis=-1)"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    module = planted(contrastive, *fault)
    with pytest.raises(AssertionError):
        for kind in KINDS:
            compare_with_the_twin(kind, 3, 0.5, 2 * CONTEXT, module)
            compare_with_the_twin(kind, V, 0.9, 2 * CONTEXT, module, padded=True)


@pytest.mark.parametrize("settings", [dict(top_k=1), dict(penalty_alpha=0), dict(top_k=100, penalty_alpha=0.0)])
def test_greedy_limits(settings):
    model, ids = small(minillm.GPT2), np.array(PROMPTS)
    greedy = np.stack(list(minillm.generate(model, ids, 30, Sampler(temperature=0))), axis=1)
    assert texts(model, ids, 30, **settings) == greedy.tolist()


def test_rows_that_are_over():
    """By an end token, or because the caller says so."""
    model, ids = small(minillm.GPT2), np.array(PROMPTS)
    free = np.array(texts(model, ids, 20)).T  # (20, B)
    end = int(free[4, 0])
    ended = [free[:, row].tolist().index(end) if end in free[:, row] else 19 for row in range(3)]
    over = np.array([False, False, True])
    for step, token in enumerate(contrastive_search(model, ids, 20, eos_ids=[end], over=over)):
        for row in range(3):
            expected = free[step, row] if step <= ended[row] and row != 2 else FINISHED
            assert token[row] == expected
    assert step == max(ended[:2]) and over[0]


def test_a_context_of_one_token():
    model = small(minillm.GPT2, context_length=1)
    assert texts(model, np.array([[1]]), 5) == [slow_contrastive_search(model, [1], 5, 4, 0.6)]


def test_on_the_simulated_device():
    model, ids = small(minillm.GPT2, dtype="float32"), np.array(PROMPTS)
    expected = texts(model, ids, 9)
    assert texts(model.to("cudasim"), ids, 9) == expected


def test_a_model_of_zeros_takes_the_lowest_id():
    model = small(minillm.GPT2)
    for parameter in model.parameters().values():
        parameter.value = np.zeros_like(parameter.value)
    assert texts(model, np.array([[1]]), 3) == [[0, 0, 0]]


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(top_k=0), "top_k is 0"),
        (dict(top_k=2.5), "top_k is 2.5"),
        (dict(penalty_alpha=1.1), "penalty_alpha is 1.1"),
        (dict(penalty_alpha=math.nan), "penalty_alpha is nan"),
        (dict(ids=np.zeros((1, 0), int)), "at least one token is needed"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(UserError, match=message):
        contrastive_search(small(minillm.GPT2), **{"ids": np.array([[1]]), "max_new_tokens": 3, **settings})


@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_scores_the_likelier_token_is_written(kind):
    """Nothing is visible in a context of one but the token that is tried, so that all are equally unlike what was before."""
    model = small(kind, context_length=1)
    greedy = [int(token[0]) for token in minillm.generate(model, [[3]], 9, Sampler(0))]
    assert texts(model, [[3]], 9, top_k=V, penalty_alpha=1.0) == [greedy] and any(greedy)
