"""That the text is the target's, whatever the draft: computed exactly, counted, and compared with greedy generation."""

import itertools
import math

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation import speculative
from minillm.generation.speculative import PromptLookup, speculative_generate
from minillm.sampler import Sampler
from minillm.sampler.draw import multinomial
from minillm.sampler.history import History

V = 3
GRID = (np.arange(12) + 0.5) / 12  # the middles of twelfths: exact for thresholds that are multiples of 1/12

FAULTS = {
    "accepts always": ("if not uniform[i] * q[i, token] < p[i, token]:", "if False:"),
    "accepts by p alone": ("if not uniform[i] * q[i, token] < p[i, token]:", "if not uniform[i] < p[i, token]:"),
    "accepts by the next place": ("* q[i, token] < p[i, token]:", "* q[i, token] < p[i + 1, token]:"),
    "replaces from p": ("rest = residual_distribution(p[i], q[i])", "rest = p[i]"),
    "replaces from the next place": (
        "rest = residual_distribution(p[i], q[i])",
        "rest = residual_distribution(p[i + 1], q[i])",
    ),
    "replaces by the number that judged": ("np.asarray(uniform[len(proposals)])", "np.asarray(uniform[i - 1])"),
    "ends with the first place": ("i, rest = len(proposals), p[-1]", "i, rest = len(proposals), p[0]"),
}


def faulty(name):
    return planted(speculative, *FAULTS[name])


# ------------------------------------------------------------------------------------------------ computed exactly


def quarters(key):
    """A distribution in multiples of 1/4 for every text, and often with zeros: {text: (V,)}."""
    draw, table = stream("speculative", key), {}
    for length in range(3):
        for text in itertools.product(range(V), repeat=length):
            table[text] = np.bincount(draw.integers(V, 4), minlength=V) / 4
    return table


TARGETS = [quarters("target"), quarters("other")]
DRAFTS = {
    "another": quarters("draft"),
    "the target's own": TARGETS[0],
    "certain": {text: np.eye(V)[len(text)] for text in TARGETS[0]},
    "opposed": {text: np.eye(V)[p.argmin()] for text, p in TARGETS[0].items()},  # often what p never writes
}


def distribution_written(p, q, module, count):
    """{text of count + 1 tokens: probability}: all numbers that may be drawn are tried, each as often as the others.

    p and q: {text: (V,)}. Where fewer tokens are written, the target is asked for the rest.
    """
    total = dict.fromkeys(itertools.product(range(V), repeat=count + 1), 0.0)
    for proposals, chance in proposed(q, count).items():
        rows = [p[proposals[:i]] for i in range(count + 1)], [q[proposals[:i]] for i in range(count)]
        for uniform in itertools.product(GRID, repeat=count + 1):
            written = tuple(module.verify(*map(np.array, rows), list(proposals), uniform))
            for rest in itertools.product(range(V), repeat=count + 1 - len(written)):
                text = written + rest
                more = math.prod(p[text[:i]][text[i]] for i in range(len(written), count + 1))
                total[text] += chance * more / len(GRID) ** (count + 1)
    return total


def proposed(q, count):
    """{proposals: probability}, drawn token by token as DraftModel draws."""
    chances = {(): 1.0}
    for _ in range(count):
        longer = {}
        for text, chance in chances.items():
            for number in GRID:
                key = (*text, int(multinomial(q[text][None], np.array([number]))[0]))
                longer[key] = longer.get(key, 0.0) + chance / len(GRID)
        chances = longer
    return chances


def assert_written_as_the_target_would(p, q, module=speculative, count=2):
    for text, chance in distribution_written(p, q, module, count).items():
        assert chance == pytest.approx(math.prod(p[text[:i]][text[i]] for i in range(count + 1)), abs=1e-12)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("target", [0, 1])
def test_the_distribution_is_the_targets(target, draft):
    assert_written_as_the_target_would(TARGETS[target], DRAFTS[draft])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_distribution_is_noticed(fault):
    with pytest.raises(AssertionError):
        assert_written_as_the_target_would(TARGETS[0], DRAFTS["another"], faulty(fault))
        assert_written_as_the_target_would(TARGETS[1], DRAFTS["another"], faulty(fault))


@pytest.mark.parametrize("size", [1, 2, 7, 50])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 20.0])
def test_any_two_distributions(size, sharpness):
    """The two ways in which a token is written, added: with real numbers, in place of a grid."""
    for i in range(20):
        p, q = np.exp(sharpness * stream("speculative", size, i).normal((2, size)))
        p, q = p / p.sum(), q / q.sum()
        q = np.where(q < np.median(q), 0, q) if i % 2 else q
        q /= q.sum()
        accepted = np.minimum(1, p / np.where(q > 0, q, 1))
        for token in np.flatnonzero(q):  # that this is what is accepted
            for number, expected in ((accepted[token] * (1 - 1e-9), [int(token)]), (accepted[token] * (1 + 1e-9), [])):
                if number < 1:
                    written = speculative.verify(np.array([p, p]), q[None], [int(token)], [number, 0.5])
                    assert written[:-1] == expected
        rest = speculative.residual_distribution(p, q)
        both = q * accepted + (1 - (q * accepted).sum()) * rest / rest.sum()
        assert np.abs(both - p).max() < 1e-12


def test_rounding_alone_rejects_nothing_for_ever():
    p = np.full((2, 3), np.float32(1 / 3))
    q = p[:1] * np.float32(1.0001)  # not of the sum 1, as probabilities in float32 are not
    assert speculative.verify(p, q, [1], [1 - 2**-53, 0.5]) == [1, 1]
    assert speculative.residual_distribution(p[0], p[0]).tolist() == p[0].tolist()


# --------------------------------------------------------------------------------------------------- counted draws


def small(kind, vocab_size=4, context_length=12, seed=0, scale=1.0, **shape):
    config = minillm.GPT2Config if kind is minillm.GPT2 else minillm.LlamaConfig
    fields = dict(vocab_size=vocab_size, context_length=context_length, n_layer=1, n_head=2, d_model=8) | shape
    return randomised(kind(config(**fields), seed=seed), scale).eval()


TARGET, DRAFT = small(minillm.GPT2, scale=0.7), small(minillm.Llama, d_model=4, scale=0.7)
SETTINGS = [
    dict(),
    dict(temperature=0.6, top_k=3),
    dict(temperature=1.7, top_p=0.8),
    dict(repetition_penalty=1.5, frequency_penalty=1.5),
]
PROMPT = np.array([[1, 2, 1]])


def exact(sampler, length):
    """{text: probability} of all continuations of the prompt by the target."""
    chances = {}
    for text in itertools.product(range(4), repeat=length):
        logits = TARGET.forward(np.concatenate([PROMPT, np.array([text], int)], axis=1))[0, PROMPT.shape[1] - 1 : -1]
        history = History([[*PROMPT[0], *text[:i]] for i in range(length)], [PROMPT.shape[1]] * length)
        chances[text] = math.prod(row[token] for row, token in zip(sampler.probabilities(logits, history), text))
    return chances


def chi_squared(generate, setting, draft, length=3, draws=800):
    """Pearson's statistic of the texts drawn, and how many degrees of freedom it has; infinite for what cannot be."""
    counts = dict.fromkeys(itertools.product(range(4), repeat=length), 0)
    for seed in range(draws):
        run = generate(TARGET, PROMPT, length, draft=draft, lookahead=2, sampler=Sampler(**setting, seed=seed))
        counts[tuple(int(token[0]) for token in run)] += 1
    statistic, freedom, rest, rest_count = 0.0, -1, 0.0, 0
    for text, chance in exact(Sampler(**setting), length).items():
        if draws * chance >= 5:
            statistic, freedom = statistic + (counts[text] - draws * chance) ** 2 / (draws * chance), freedom + 1
        else:  # rare ones are counted together
            rest, rest_count = rest + draws * chance, rest_count + counts[text]
    if rest > 1e-6 * draws:
        return statistic + (rest_count - rest) ** 2 / rest, freedom + 1
    return (math.inf if rest_count else statistic), freedom


def limit(freedom, sigmas=4.0):
    """Wilson and Hilferty's (1931) quantile of chi-squared: a right program passes it in three of 100,000 cases."""
    return freedom * (1 - 2 / (9 * freedom) + sigmas * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("draft", [DRAFT, PromptLookup(shortest=1)], ids=["model", "look-up"])
def test_texts_are_as_frequent_as_the_target_makes_them(setting, draft):
    statistic, freedom = chi_squared(speculative_generate, setting, draft)
    assert freedom > 5 and statistic < limit(freedom)


@pytest.mark.parametrize(
    "fault", ["accepts always", "replaces from p", "replaces by the number that judged", "ends with the first place"]
)
def test_wrong_frequencies_are_noticed(fault):
    statistic, freedom = chi_squared(faulty(fault).speculative_generate, {}, DRAFT)
    assert statistic > limit(freedom)


@pytest.mark.parametrize(
    "right, wrong",
    [  # drawn with the numbers that judge, proposals would be accepted by how they were drawn
        ("verify(p, q, proposals, uniform[count:])", "verify(p, q, proposals, uniform[: count + 1])"),
        ("[text + proposals[:i] for i in range(len(proposals) + 1)]", "[text] * (len(proposals) + 1)"),
        ("[self.prompt_length] * len(texts)", "[0] * len(texts)"),
    ],
)
def test_wrong_numbers_and_histories_are_noticed(right, wrong):
    module = planted(speculative, right, wrong)
    statistic, freedom = chi_squared(module.speculative_generate, SETTINGS[3], DRAFT)
    assert statistic > limit(freedom)


# ---------------------------------------------------------------------------------------------------------- greedy


KINDS = [minillm.GPT2, minillm.Llama]
GREEDY = Sampler(temperature=0)


def greedy_texts(kind, draft, lookahead, prompt, module=speculative, tokens=40):
    """(plain, speculative, statistics) of a text that runs over the end of the context several times."""
    model = small(kind, vocab_size=11, context_length=12, n_layer=2)
    plain = [int(token[0]) for token in minillm.generate(model, prompt, tokens, GREEDY)]
    run = module.speculative_generate(model, prompt, tokens, draft=draft, lookahead=lookahead, sampler=GREEDY)
    return plain, [int(token[0]) for token in run], run.statistics


GREEDY_DRAFTS = {
    "another": small(minillm.GPT2, vocab_size=11, seed=1),
    "a short context": small(minillm.Llama, vocab_size=11, context_length=5, seed=2),
    "a context of one": small(minillm.GPT2, vocab_size=11, context_length=1, seed=2),
    "the target": small(minillm.GPT2, vocab_size=11, n_layer=2),
    "look-up": PromptLookup(),
    "look-up of single tokens": PromptLookup(shortest=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draft", GREEDY_DRAFTS)
@pytest.mark.parametrize("lookahead, prompt", [(1, 7), (4, 1), (4, 12), (9, 30)])
def test_greedy_text_is_that_of_plain_generation(kind, draft, lookahead, prompt):
    ids = stream("speculative", prompt).integers(11, (1, prompt))
    plain, written, statistics = greedy_texts(kind, GREEDY_DRAFTS[draft], lookahead, ids)
    assert written == plain
    assert statistics.written == len(plain) <= statistics.passes * (lookahead + 1)
    assert statistics.written == statistics.passes + statistics.accepted


def test_the_target_as_its_own_draft_is_always_right():
    _, _, statistics = greedy_texts(minillm.GPT2, GREEDY_DRAFTS["the target"], 4, np.array([[1, 2]]), tokens=10)
    assert statistics.accepted == statistics.proposed == 8 and statistics.passes == 2
    assert statistics.accepted_share == 1 and statistics.tokens_per_pass == 5


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("self._decoder.truncate(len(proposals) - (len(written) - 1))", "pass"),
        ("self._decoder.truncate(len(self._seen) - common)", "pass"),
        ("left - 1, self._decoder.remaining - unread", "left - 1"),
        ("text[-unread:] + proposals", "proposals + text[-unread:]"),
    ],
)
def test_faults_of_the_loop_are_noticed(right, wrong):
    module = planted(speculative, right, wrong)
    with pytest.raises((AssertionError, ValueError)):
        for draft, prompt in itertools.product(GREEDY_DRAFTS, [3, 7]):
            ids = stream("speculative", prompt).integers(11, (1, prompt))
            lookup = isinstance(GREEDY_DRAFTS[draft], PromptLookup)
            subject = module.PromptLookup(shortest=1) if lookup else GREEDY_DRAFTS[draft]
            plain, written, statistics = greedy_texts(minillm.GPT2, subject, 4, ids, module)
            assert written == plain
            assert draft != "the target" or statistics.accepted_share > 0.9


def rounds_say_what_happened(module=speculative):
    """With the sampler's own probabilities and the stream's own numbers."""
    for draft, seed in itertools.product((DRAFT, module.PromptLookup(shortest=1)), range(4)):
        sampler = Sampler(temperature=1.5, top_k=4, seed=seed)
        run = module.speculative_generate(TARGET, PROMPT, 9, draft=draft, sampler=sampler)
        run.rounds, text = [], PROMPT[0].tolist()
        written = [int(token[0]) for token in run]
        plain = module.speculative_generate(TARGET, PROMPT, 9, draft=draft, sampler=sampler)
        assert written == [int(token[0]) for token in plain] and plain.rounds is None
        assert len(run.rounds) == run.statistics.passes
        for each in run.rounds:
            count, accepted = len(each.proposals), len(each.written) - 1
            assert each.written[:accepted] == each.proposals[:accepted]
            for at, token in enumerate(each.proposals):
                ids = text + each.proposals[:at]
                logits = TARGET.next_token_logits(np.array([ids]))
                history = History([ids], [PROMPT.shape[1]])
                assert each.p[at] == pytest.approx(sampler.probabilities(logits, history)[0, token], rel=1e-4)
                if at <= accepted:
                    assert (each.numbers[at] * each.q[at] < each.p[at]) == (at < accepted)
            assert isinstance(draft, module.PromptLookup) <= (each.q == [1.0] * count)
            text += each.written
        assert text == PROMPT[0].tolist() + written


def test_the_rounds_of_speculation():
    rounds_say_what_happened()


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("round_of(p, q, proposals, uniform[count:], written)", "round_of(p, q, proposals, uniform, written)"),
        ("shares = p[places, proposals].tolist(), q[", "shares = p[places, proposals].tolist(), p["),
        ("_normalised(p[: len(proposals)])", "_normalised(p[1:])"),
    ],
)
def test_wrong_rounds_are_noticed(right, wrong):
    with pytest.raises(AssertionError):
        rounds_say_what_happened(planted(speculative, right, wrong))


# ------------------------------------------------------------------------------------------------------- and the rest


def test_the_same_seed_writes_the_same():
    def text(seed, draft):
        run = speculative_generate(TARGET, PROMPT, 30, draft=draft, sampler=Sampler(temperature=2, seed=seed))
        return [int(token[0]) for token in run]

    for draft in (DRAFT, PromptLookup()):
        assert text(1, draft) == text(1, draft) != text(2, draft)
        assert len(text(1, draft)) == 30


def test_look_up():
    lookup = PromptLookup(ngram=2, shortest=1)
    assert lookup.continuation([5, 1, 2, 3, 1, 2, 4, 9, 1, 2], 2) == [4, 9]  # the last time
    assert lookup.continuation([5, 5, 7, 8, 5, 6, 5], 3) == [6, 5, 6]  # a single token, and into itself
    assert lookup.continuation([1, 2, 3], 3) == lookup.continuation([1], 3) == []
    assert PromptLookup(ngram=1, shortest=1).continuation([1, 2, 3, 9, 2, 7, 1, 2], 1) == [7]
    assert PromptLookup(ngram=3).continuation([1, 2, 3, 9, 2, 7, 1, 2], 1) == [3]  # the longer match goes first
    assert PromptLookup().continuation([1, 2, 3, 2], 2) == []  # a single token says too little


def test_look_up_follows_a_circle_to_the_end():
    """A model that writes 0, 1, ... 10 and begins again: all is right that is proposed after the first round."""
    model = small(minillm.GPT2, vocab_size=11, context_length=64, d_model=12, tie_embeddings=False)
    for name, parameter in model.parameters().items():
        parameter.value = np.zeros_like(parameter.value) + ("ln_f.weight" in name)
    model.parameters()["transformer.wte.weight"].value = np.eye(11, 12, dtype=np.float32)
    model.parameters()["lm_head.weight"].value = np.roll(np.eye(11, 12, dtype=np.float32), 1, axis=0)
    run = speculative_generate(model, np.array([[0, 1]]), 11 + 5 * 5, draft=PromptLookup(), sampler=GREEDY)
    assert [int(token[0]) for token in run] == [(2 + i) % 11 for i in range(36)]
    assert run.statistics == speculative.Statistics(passes=16, proposed=20, accepted=20, written=36)


def test_a_text_ends_where_it_ends():
    """At an end token, also in the middle of what was accepted, or when the caller says so."""
    model, draft, ids = small(minillm.GPT2, vocab_size=11), small(minillm.GPT2, vocab_size=11), np.array([[1, 2]])
    free = [int(token[0]) for token in speculative_generate(model, ids, 30, draft=draft, lookahead=5, sampler=GREEDY)]
    for end in set(free):
        run = speculative_generate(model, ids, 30, draft=draft, lookahead=5, sampler=GREEDY, eos_ids=[end])
        assert [int(token[0]) for token in run] == free[: free.index(end) + 1]
        assert run.statistics.written == free.index(end) + 1
    over = np.zeros(1, bool)
    for count, _ in enumerate(speculative_generate(model, ids, 30, draft=draft, sampler=GREEDY, over=over), 1):
        over[0] = count == 3
    assert count == 3


def test_nothing_to_write():
    run = speculative_generate(TARGET, PROMPT, 0, draft=PromptLookup())
    assert list(run) == [] and run.statistics.tokens_per_pass == run.statistics.accepted_share == 0


def test_on_the_simulated_device():
    target, draft = small(minillm.GPT2).to("cudasim"), small(minillm.Llama, d_model=4).to("cudasim")
    plain = [int(token[0]) for token in minillm.generate(small(minillm.GPT2), PROMPT, 12, GREEDY)]
    run = speculative_generate(target, PROMPT, 12, draft=draft, sampler=GREEDY)
    assert [int(token[0]) for token in run] == plain


@pytest.mark.parametrize(
    "ids, settings, message",
    [
        ([[1], [2]], {}, "one text at a time, not 2"),
        ([[]], {}, "at least one token is needed"),
        ([[1]], dict(lookahead=0), "lookahead is 0"),
        ([[1]], dict(lookahead=True), "lookahead is True"),
        ([[1]], dict(sampler=Sampler(mirostat_tau=3.0)), "mirostat_tau is set"),
        ([[1]], dict(sampler=Sampler(xtc_probability=0.5)), "xtc_probability is set"),
        ([[1]], dict(draft=small(minillm.GPT2, vocab_size=5)), "the draft has 5 tokens .* the model 4"),
    ],
)
def test_wrong_arguments(ids, settings, message):
    with pytest.raises(UserError, match=message):
        speculative_generate(TARGET, np.array(ids, int), 3, **{"draft": DRAFT, **settings})


@pytest.mark.parametrize("length", [0, -1, 1.5, True])
def test_wrong_lengths_of_look_up(length):
    with pytest.raises(UserError, match="ngram is"):
        PromptLookup(length)
    with pytest.raises(UserError, match="shortest is"):
        PromptLookup(shortest=length)
    with pytest.raises(UserError, match="shortest is 4, more than ngram, 3"):
        PromptLookup(shortest=4)
