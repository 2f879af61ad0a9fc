"""The sampler as a whole: its contract, what it draws, and what it refuses."""

import json
import math
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import scalar_sampler as scalar
from planting import planted

from benchmarks import sampler as benchmark
from minillm.backend.arrays import to_device
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.sampler import History, InvalidLogits, Sampler
from minillm.sampler import draw as choice
from minillm.sampler import sampler as sampler_module
from minillm.sampler.draw import multinomial
from minillm.sampler.stages import ORDERS

CASES = [
    dict(),
    dict(temperature=0),
    dict(temperature=0.7),
    dict(top_k=5),
    dict(top_k=5, top_p=0.8),
    dict(temperature=1.5, top_k=20, top_p=0.9, min_p=0.05),
    dict(top_p=0.6),
    dict(typical_p=0.6, top_k=40),
    dict(epsilon_cutoff=0.02),
    dict(eta_cutoff=0.05),
    dict(top_n_sigma=1.0),
    dict(xtc_probability=0.5, xtc_threshold=0.05),
    dict(mirostat_tau=2.0, mirostat_eta=0.5),
    dict(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, no_repeat_ngram=2, dry_multiplier=0.8),
    dict(logit_bias={3: 2.0}, banned_tokens=(1, 2), min_tokens=9, end_tokens=(0,)),
    dict(order="hf", top_k=5, repetition_penalty=1.2),
    dict(order="vllm", top_k=5, min_p=0.1, presence_penalty=0.5),
    dict(order="llama.cpp", top_k=5, temperature=0.5, dry_multiplier=1.0),
]


def logits_of(*key, rows=4, vocabulary=100):
    return (3 * stream("sampler", *key).normal((rows, vocabulary))).astype(np.float32)


def history_of(rows=4, vocabulary=100):
    texts = stream("sampler", "texts").integers(vocabulary, (rows, 30))
    texts[:, -4:] = texts[:, 5:9]
    return History(texts.tolist(), [20] * rows)


def slow_probabilities(row, temperature, k):
    return scalar.softmax(scalar.top_k(scalar.temperature(row, temperature), k))


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 10.0])
@pytest.mark.parametrize("k", [None, 0, 1, 3, 7, 8, 100])
@pytest.mark.parametrize("ties", [False, True])
def test_probabilities_are_those_of_the_definition(temperature, k, ties):
    logits = stream("sampler", 1).normal((5, 8))
    logits = (np.round(logits) if ties else logits).astype(np.float32)
    expected = [slow_probabilities(row, temperature, k) for row in logits.tolist()]
    np.testing.assert_allclose(Sampler(temperature, k).probabilities(logits), expected, rtol=1e-5)


@pytest.mark.parametrize("k", [50257, 50, 1000, None])
def test_a_large_vocabulary(k):
    logits = logits_of("large", rows=1, vocabulary=50257)
    expected = slow_probabilities(logits[0].tolist(), 0.8, k)
    np.testing.assert_allclose(Sampler(0.8, k).probabilities(logits)[0], expected, rtol=2e-5, atol=1e-12)


def test_k_of_one_and_temperature_zero_are_greedy():
    logits = np.round(stream("sampler", 3).normal((50, 30)) * 2)
    expected = logits.argmax(axis=-1)
    for order in ORDERS:
        assert (Sampler(temperature=0, order=order).sample(logits) == expected).all()
        assert (Sampler(temperature=1, top_k=1, ties="lowest", order=order).sample(logits) == expected).all()
    assert (Sampler(temperature=0).probabilities(logits).argmax(axis=-1) == expected).all()
    assert (Sampler(temperature=0, xtc_probability=1.0, top_k=3).sample(logits) == expected).all()


def test_greedy_probabilities_of_a_large_vocabulary_take_no_square_of_memory():
    tracemalloc.start()
    p = Sampler(temperature=0).probabilities(np.arange(50257.0)[None])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert p[0, -1] == p.sum() == 1 and peak < 5e6


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-45, 1e-300])
@pytest.mark.parametrize("order", ORDERS)
def test_tiny_temperatures_do_not_overflow(temperature, order):
    p = Sampler(temperature, order=order, top_p=0.9).probabilities(np.array([[1e4, -1e4, 9.999e3], [3e38, -3e38, 0.0]]))
    assert p.tolist() == [[1, 0, 0]] * 2


@pytest.mark.parametrize("temperature", [1e30, 1e38, 1e300])
def test_huge_temperatures_make_all_that_is_left_equal(temperature):
    p = Sampler(temperature).probabilities(np.array([[1.0, -np.inf, 2.0]]))
    np.testing.assert_allclose(p, [[0.5, 0, 0.5]])


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_permuting_the_vocabulary_permutes_the_probabilities(settings):
    if {"logit_bias", "banned_tokens"} & set(settings):
        return  # certain tokens are meant
    logits, history, order = logits_of("permuted"), history_of(), np.random.default_rng(0).permutation(100)
    places = np.argsort(order)
    renamed = History([places[ids].tolist() for ids in history.ids], history.prompt_lengths)
    expected = Sampler(**settings).probabilities(logits, history)[:, order]
    found = Sampler(**settings).probabilities(logits[:, order], renamed)
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------- drawing


def unlikely(counts, p) -> bool:
    """Chi-squared, beyond what one fair draw in 1,000 reaches (by Wilson and Hilferty, 1931), or a token of probability 0."""
    counts, p = np.asarray(counts), np.asarray(p, np.float64)
    if counts[p == 0].any():
        return True
    expected = counts.sum() * p[p > 0]
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    k = np.count_nonzero(p) - 1
    return statistic > k * (1 - 2 / (9 * k) + 3.09 * math.sqrt(2 / (9 * k))) ** 3


def counted(sampler, row, steps=8, rows=1000):
    logits = np.repeat(np.array([row], np.float32), rows, axis=0)
    return np.bincount(np.concatenate([sampler.sample(logits) for _ in range(steps)]), minlength=len(row))


ROW = np.log([0.02, 0.3, 0.05, 0.2, 0.1, 0.15, 0.18])
DRAWS = [
    dict(seed=1),
    dict(seed=2, temperature=0.5),
    dict(seed=3, temperature=2.0),
    dict(seed=4, top_k=4),
    dict(seed=5, top_p=0.7),
    dict(seed=6, min_p=0.4),
    dict(seed=7, typical_p=0.6),
    dict(seed=8, logit_bias={0: 2.0}, banned_tokens=(3,)),
    dict(seed=9, top_k=5, top_p=0.9, temperature=0.7, order="llama.cpp"),
]


@pytest.mark.parametrize("settings", DRAWS, ids=str)
def test_frequencies_are_the_probabilities(settings):
    p = Sampler(**settings).probabilities(ROW[None])[0]
    assert not unlikely(counted(Sampler(**settings), ROW), p)


def test_xtc_tosses_a_coin_for_each_row():
    logits = np.log(np.tile([0.5, 0.3, 0.2], (64, 1)))
    p = Sampler(xtc_probability=0.5, xtc_threshold=0.25).probabilities(logits)
    acted = int((p[:, 0] == 0).sum())
    assert 16 < acted < 48  # of 64; what is less likely than 1 in 10,000 lies outside


def test_xtc_acts_as_often_as_its_probability_says():
    """Half of the draws come from all tokens, the other half from what XTC leaves."""
    p = np.exp(ROW)
    left = np.where(p >= 0.15 * (1 - 1e-7), 0, p)
    left[5] = p[5]  # the least likely one that reaches the threshold
    expected = 0.5 * p + 0.5 * left / left.sum()
    assert not unlikely(counted(Sampler(seed=1, xtc_probability=0.5, xtc_threshold=0.15), ROW), expected)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("number * ends[-1]", "number**1.2 * ends[-1]"),
        ("number * ends[-1]", "0.97 * number * ends[-1]"),
        ("start + np.cumsum(inside, dtype=np.float64)", "start + np.cumsum(inside[::-1], dtype=np.float64)"),
    ],
)
def test_an_unfair_draw_is_noticed(right, wrong, monkeypatch):
    monkeypatch.setattr(sampler_module, "multinomial", planted(choice, right, wrong).multinomial)
    assert unlikely(counted(Sampler(seed=1), ROW), np.exp(ROW))


def test_the_seed_and_the_step_decide():
    logits = np.zeros((3, 1000))
    first, second = Sampler(seed=5), Sampler(seed=5)
    draws = [first.sample(logits).tolist() for _ in range(4)]
    assert draws == [second.sample(logits).tolist() for _ in range(4)]
    assert len({tuple(draw) for draw in draws}) == 4 and len(set(draws[0])) == 3
    assert Sampler(seed=6).sample(logits).tolist() != draws[0]
    first.reset()
    assert first.sample(logits).tolist() == draws[0]
    assert second.with_settings(seed=6).sample(logits).tolist() == Sampler(seed=6).sample(logits).tolist()


def slow_draw(p, number):
    """The first token whose share of [0, total) ends beyond the number's place in it."""
    point, total = number * math.fsum(p), 0.0
    for token, share in enumerate(p):
        total += share
        if total > point:
            return token


def check_draws(module=choice):
    for vocabulary in (1, 2, 255, 256, 257, 512, 700, 5000):
        p = stream("draws", vocabulary).uniform((3, vocabulary)).astype(np.float32)
        p[1] = np.where(p[1] < 0.9, 0, p[1])
        p[1, vocabulary // 2] = 0.5
        p[2, : vocabulary - 1] = 0  # whole blocks of nothing
        for number in (0.0, 0.123, 0.5, 0.77, 0.999, 1 - 2.0**-53):
            found = module.multinomial(p, np.full(3, number))
            assert found.tolist() == [slow_draw(row, number) for row in p.astype(np.float64).tolist()]
    assert module.greedy(np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])).tolist() == [1, 0]
    quarters = np.array([[0.25, 0, 0.25, 0.5]])
    for number, token in ((0.25, 2), (0.5, 3), (0.0, 0)):  # each share is [first, past)
        assert module.multinomial(quarters, np.array([number])) == [token]
    p = stream("draws", "large").uniform((1, 50257)).astype(np.float32)
    ends = np.cumsum(p[0], dtype=np.float64)
    for token in range(1, 50257, 997):  # just inside of each share
        for point in (ends[token - 1] + 0.001 * p[0, token], ends[token] - 0.001 * p[0, token]):
            assert module.multinomial(p, np.array([point / ends[-1]])) == [token]


def test_draws_are_those_of_the_definition():
    check_draws()


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("np.argmax(logits, axis=-1)", "logits.shape[-1] - 1 - np.argmax(logits[:, ::-1], axis=-1)"),
        ('side="right"', 'side="left"'),
        ("len(p), BLOCK), dtype=np.float64)", "len(p), BLOCK), dtype=np.float32)"),
        ("np.cumsum(sums)", "np.cumsum(sums, dtype=np.float32)"),
        ("start = ends[block - 1] if block else 0.0", "start = 0.0"),
        ("first = block * BLOCK", "first = block * (BLOCK - 1)"),
        ("number * ends[-1]", "number"),
        ("return first + _right_of", "return _right_of"),
    ],
)
def test_faults_of_a_draw_are_noticed(right, wrong):
    with pytest.raises((AssertionError, IndexError)):
        check_draws(planted(choice, right, wrong))


def test_a_cumulative_sum_in_float32_ends_away_from_1():
    """By 4.5e-6 for the softmax of normal logits, by 3.6e-4 for equal ones: 18 tokens' worth, which would never be drawn."""
    w = np.exp(np.random.default_rng(0).standard_normal(50257))
    assert float(np.cumsum((w / w.sum()).astype(np.float32))[-1]) == pytest.approx(1.0000045, abs=2e-7)
    equal = np.full((1, 50257), 1 / 50257, np.float32)
    assert float(np.cumsum(equal)[-1]) == pytest.approx(1.000364, abs=1e-6)
    assert multinomial(equal, np.array([1 - 2.0**-53])) == [50256]
    assert multinomial(equal, np.array([0.0])) == [0]


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    p = np.array([[0, 0.25, 0, 0.5, 0.25, 0]])
    assert p[0, multinomial(p, np.array([uniform]))[0]] > 0


# ------------------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_the_same_ids_whatever_holds_the_logits(settings):
    bfloat16 = logits_of("devices").astype(ml_dtypes.bfloat16)
    logits = bfloat16.astype(np.float32)
    before, history = logits.copy(), history_of()
    given = [logits, to_device(logits, "cudasim"), logits.astype(np.float64), bfloat16, np.asfortranarray(logits)]
    samplers = [Sampler(**settings, seed=3) for _ in given]
    for _ in range(3):
        ids = [sampler.sample(x, history).tolist() for sampler, x in zip(samplers, given)]
        assert all(found == ids[0] for found in ids)
    for x in given:
        np.testing.assert_array_equal(np.asarray(x).astype(np.float32), before)


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_row_does_not_depend_on_the_others(settings):
    logits, history = logits_of("rows"), history_of()
    whole = Sampler(**settings).probabilities(logits, history)
    for row in range(4):
        alone = History(history.ids[row : row + 1], history.prompt_lengths[row : row + 1])
        if "xtc_probability" not in settings:  # whose coin is the row's
            np.testing.assert_array_equal(
                Sampler(**settings).probabilities(logits[row : row + 1], alone)[0], whole[row]
            )


# --------------------------------------------------------------------------------------------------- what makes no sense


@pytest.mark.parametrize(
    "row, message",
    [
        ([0, np.nan], r"logits\[1, 1\] is nan"),
        ([np.inf, 0], r"logits\[1, 0\] is inf"),
        ([1e300, 0], r"logits\[1, 0\] is inf"),
        ([-np.inf, -np.inf], "row 1 of the logits is -inf everywhere"),
        ([-np.inf, np.nan], r"logits\[1, 1\] is nan"),
    ],
)
@pytest.mark.parametrize("settings", CASES[:7], ids=str)
def test_invalid_logits(row, message, settings):
    with pytest.raises(InvalidLogits, match=message):
        Sampler(**settings).sample(np.array([[0.0, 1.0], row]))


@pytest.mark.parametrize("logits", [np.zeros(3), np.zeros((1, 0)), np.zeros((1, 2, 3))])
def test_logits_of_another_shape(logits):
    with pytest.raises(ValueError, match=r"logits have shape .*, expected \(B, V\)"):
        Sampler().sample(logits)


NUMBERS = [-0.1, math.nan, math.inf, 10**400, "x", None, True]
WRONG = {
    "temperature": (NUMBERS, "a finite number of at least 0"),
    "top_k": ([-1, 2.5, "x", True], "a whole number of at least 0"),
    "seed": ([1.5, None, "x"], "a whole number"),
    "top_p": ([0, -0.5, 1.1, math.nan, "x", True], "a number above 0 and at most 1"),
    "typical_p": ([0, -0.5, 1.1, math.nan, "x"], "a number above 0 and at most 1"),
    "min_p": ([-0.5, 1.1, math.nan, "x"], "a number from 0"),
    "epsilon_cutoff": ([-0.5, 1.1, math.nan, "x"], "a number from 0"),
    "eta_cutoff": ([-0.5, 1.1, math.nan, "x"], "a number from 0"),
    "top_n_sigma": ([-1, math.inf, "x"], "a finite number of at least 0"),
    "xtc_probability": ([-0.5, 1.1, math.nan, "x"], "a number from 0"),
    "xtc_threshold": ([-0.5, 1.1, math.nan, "x", None], "a number from 0 to 1"),
    "repetition_penalty": ([0, *NUMBERS], "a finite number above 0"),
    "presence_penalty": ([math.nan, math.inf, "x", None], "a finite number"),
    "frequency_penalty": ([math.nan, math.inf, "x", None], "a finite number"),
    "no_repeat_ngram": ([-1, 1.5, "x", None], "a whole number of at least 0"),
    "dry_multiplier": ([-1, math.inf, "x"], "a finite number of at least 0"),
    "dry_base": ([0.9, math.inf, "x", None], "a finite number of at least 1"),
    "dry_allowed_length": ([0, 1.5, None], "a whole number of at least 1"),
    "dry_breakers": ([(-1,), (1.5,), None, 3, "ab"], "a list of ids of tokens"),
    "penalty_window": ([-1, 1.5, "x"], "a whole number of at least 0"),
    "logit_bias": ([{-1: 0}, {1.5: 0}, {0: math.nan}, {0: math.inf}, (1,), None], "ids of tokens, each with a number"),
    "banned_tokens": ([(-1,), (0.5,), None, 3], "a list of ids of tokens"),
    "forced_tokens": ([{-1: 0}, {0: -1}, {0: 1.5}, [3], None], "positions from 0 on"),
    "min_tokens": ([-1, 1.5, None], "a whole number of at least 0"),
    "end_tokens": ([(-1,), (1.5,), 0], "a list of ids of tokens"),
    "mirostat_tau": ([-1, math.inf, "x"], "a finite number of at least 0"),
    "mirostat_eta": ([0, *NUMBERS], "a finite number above 0"),
    "ties": (["first", 1], "one of lowest, all"),
    "order": ([["hf"], None], "a name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_make_no_sense(name):
    values, message = WRONG[name]
    for value in values:
        with pytest.raises(UserError, match=rf"^{name} is .*: it must be {message}"):
            Sampler(**{name: value})
        with pytest.raises(ValueError):
            Sampler(**{name: value})


def test_every_setting_is_checked():
    assert set(WRONG) == set(vars(Sampler().settings))
    with pytest.raises(UserError, match="min_tokens needs end_tokens"):
        Sampler(min_tokens=3)


def test_numbers_of_any_type_are_as_good_as_pythons():
    """Small types of NumPy overflow in the arithmetic that follows, and warn or raise, if they stay what they are."""
    logits, texts = logits_of("types", vocabulary=1000), History([list(range(200))] * 4, [0] * 4)
    settings = dict(temperature=0.5, top_k=40, top_p=0.75, min_p=0.125, penalty_window=100, presence_penalty=0.5)
    settings |= dict(no_repeat_ngram=3, dry_multiplier=0.5, banned_tokens=(3, 4), logit_bias={7: 2.0})
    small = {name: np.int8(value) if isinstance(value, int) else value for name, value in settings.items()}
    small = {name: np.float16(value) if isinstance(value, float) else value for name, value in small.items()}
    small |= dict(banned_tokens=np.arange(3, 5, dtype=np.int8).tolist(), logit_bias={np.uint8(7): np.float16(2)})
    assert vars(Sampler(**small).settings) == vars(Sampler(**settings).settings)
    for name in small:
        given = {"dry_multiplier": 0.5} | {name: small[name]}
        expected = Sampler(**{"dry_multiplier": 0.5} | {name: settings[name]}).probabilities(logits, texts)
        np.testing.assert_array_equal(Sampler(**given).probabilities(logits, texts), expected, name)


def test_what_was_checked_cannot_change():
    bias, banned = {1: 5.0}, [2]
    sampler = Sampler(logit_bias=bias, banned_tokens=banned)
    before = sampler.probabilities(np.zeros((1, 4)))
    bias[0] = math.nan
    banned.append(3)
    np.testing.assert_array_equal(sampler.probabilities(np.zeros((1, 4))), before)


def test_settings_as_large_as_floats_are():
    """They do not overflow: a warning would be an error here."""
    logits = 100 * logits_of("large")
    np.testing.assert_array_equal(
        Sampler(top_n_sigma=sys.float_info.max).probabilities(logits), Sampler().probabilities(logits)
    )
    p = Sampler(dry_multiplier=1e300, dry_base=1).probabilities(np.zeros((1, 5)), History([[1, 2, 3, 1, 2]], [0]))
    np.testing.assert_allclose(p, [[0.25, 0.25, 0.25, 0, 0.25]])


@pytest.mark.parametrize("settings", [dict(), dict(temperature=0), dict(top_k=5), dict(top_p=0.5, min_p=0.1)], ids=str)
def test_no_rows_are_no_tokens(settings):
    assert Sampler(**settings).sample(np.zeros((0, 100))).shape == (0,)


FAULTS = [
    ('"sample", step, row).uniform', '"sample", 0, row).uniform'),
    ('"sample", step, row).uniform', '"sample", step, 0).uniform'),
    ("tokens = places if ids is None", "tokens = places if True"),
    (
        "logits = stage.apply(logits, context)",  # each cut looks at the whole row
        "whole = logits if stage is self._stages[0] else whole; logits = np.minimum(logits, stage.apply(whole, context))",
    ),
    ("if is_greedy and stage.is_cut", "if False and stage.is_cut"),
    ("logits - logits.max(axis=-1, keepdims=True)", "logits - logits.max()"),
    ("np.isfinite(largest_of_rows).all()", "np.isfinite(largest_of_rows).any()"),
    ("dtype=np.float32)\n    if logits.ndim", "dtype=np.float16)\n    if logits.ndim"),
]


@pytest.mark.parametrize("right, wrong", FAULTS)
def test_faults_of_the_sampler_are_noticed(right, wrong):
    """By the checks above, put together."""
    module = planted(sampler_module, right, wrong)

    def checks(module):
        logits = np.zeros((3, 1000))
        sampler = module.Sampler(seed=5)
        draws = [sampler.sample(logits).tolist() for _ in range(4)]
        assert len({tuple(draw) for draw in draws}) == 4 and len(set(draws[0])) == 3
        logits = logits_of("faults", rows=50, vocabulary=30)
        assert (module.Sampler(temperature=0, xtc_probability=1.0).sample(logits) == logits.argmax(axis=-1)).all()
        assert (module.Sampler(top_k=1).sample(logits) == logits.argmax(axis=-1)).all()
        logits = np.log([[0.4, 0.3, 0.2, 0.1]])
        p = module.Sampler(min_p=0.6, epsilon_cutoff=0.42).probabilities(logits)
        np.testing.assert_allclose(p, [[4 / 7, 3 / 7, 0, 0]], rtol=1e-6)
        far = np.array([[1e4, 1e4 - 1.0], [-1e4, -1e4 - 1.0]])
        expected = [scalar.softmax(row) for row in far.tolist()]
        np.testing.assert_allclose(module.Sampler().probabilities(far), expected, rtol=1e-5)
        with pytest.raises(module.InvalidLogits):
            module.Sampler().sample(np.array([[0.0, 1.0], [np.nan, 0.0]]))

    checks(sampler_module)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, pytest.fail.Exception, IndexError)):
        checks(module)


def test_the_benchmark_runs(monkeypatch, capsys, tmp_path):
    """On little, without transformers; no time is judged."""
    monkeypatch.setattr(benchmark, "VOCABULARY", 600)
    monkeypatch.setattr(benchmark, "HISTORY", 130)
    monkeypatch.setattr(benchmark.common, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(sys, "argv", ["benchmarks.sampler", "--rounds", "1", "--without-peers", "--write"])
    benchmark.main()
    written = json.loads((tmp_path / "benchmarks" / "results" / "sampler.json").read_text())
    for batch in ("batch 1", "batch 64"):
        assert written[batch].keys() == benchmark.STRATEGIES.keys()
        assert all(row["minillm"] > 0 for row in written[batch].values())
    assert "numpy.argpartition" in capsys.readouterr().out
