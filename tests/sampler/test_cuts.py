"""The cuts against scalar code written from each definition."""

import numpy as np
import pytest
import scalar_sampler as scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import planted

from minillm.backend.random_streams import stream
from minillm.sampler import Sampler, cuts
from minillm.sampler.mirostat import mirostat_cut


def top_k_all(logits, k, module=cuts):
    return module.top_k_cut(logits, k, "all")


CUTS = {  # name: (cut, the slow one, settings)
    "top_k": (lambda x, k, m=cuts: m.top_k_cut(x, k), scalar.top_k, (1, 2, 5, 50, 300)),
    "top_k all": (top_k_all, lambda row, k: scalar.top_k(row, k, "all"), (1, 2, 5, 50, 300)),
    "top_p": (lambda x, p, m=cuts: m.top_p_cut(x, p), scalar.top_p, (1e-9, 0.05, 0.5, 0.9, 0.999, 1 - 1e-9)),
    "min_p": (lambda x, p, m=cuts: m.min_p_cut(x, p), scalar.min_p, (1e-6, 0.02, 0.3, 1.0)),
    "typical": (lambda x, p, m=cuts: m.typical_cut(x, p), scalar.typical, (1e-9, 0.05, 0.5, 0.95, 0.999)),
    "typical all": (
        lambda x, p, m=cuts: m.typical_cut(x, p, "all"),
        lambda row, p: scalar.typical(row, p, "all"),
        (0.05, 0.5, 0.95),
    ),
    "typical more": (
        lambda x, p, m=cuts: m.typical_cut(x, p, more=True),
        lambda row, p: scalar.typical(row, p, more=True),
        (0.05, 0.5, 0.95),
    ),
    "epsilon": (lambda x, e, m=cuts: m.epsilon_cut(x, e), scalar.epsilon, (1e-4, 0.01, 0.9)),
    "epsilon all": (
        lambda x, e, m=cuts: m.epsilon_cut(x, e, "all"),
        lambda row, e: scalar.epsilon(row, e, "all"),
        (0.01, 0.9),
    ),
    "eta": (lambda x, e, m=cuts: m.eta_cut(x, e), scalar.eta, (1e-4, 0.01, 0.9)),
    "eta all": (lambda x, e, m=cuts: m.eta_cut(x, e, "all"), lambda row, e: scalar.eta(row, e, "all"), (0.01, 0.9)),
    "top_n_sigma": (lambda x, n, m=cuts: m.top_n_sigma_cut(x, n), scalar.top_n_sigma, (0.1, 0.5, 1.0, 3.0)),
    "xtc": (lambda x, t, m=cuts: m.xtc_cut(x, t, [True] * len(x)), scalar.xtc, (0.0, 1e-3, 0.01, 0.1, 0.3)),
}
KINDS = ["plain", "steep", "flat", "masked", "tied", "all equal", "one left", "huge", "nearly equal"]


def logits_of(kind, vocabulary, rows=3):
    x = stream("cuts", kind, vocabulary).normal((rows, vocabulary)).astype(np.float32)
    if kind == "steep":
        x *= 8
    if kind == "flat":
        x *= 0.01
    if kind == "masked" and vocabulary > 2:
        x[:, ::3] = -np.inf
    if kind == "tied":
        x = np.round(2 * x)
    if kind == "all equal":
        x[:] = -3.25
    if kind == "one left":
        x[:, : vocabulary - 1] = -np.inf
    if kind == "huge":
        x *= np.float32(1e30)
    if kind == "nearly equal":
        x = 1000 + np.round(x).astype(np.float32) * np.float32(2.0**-14)  # the next number that float32 has
    return x


def compare(name, logits, module=cuts, settings=None):
    cut, slow, defaults = CUTS[name]
    before = logits.copy()
    for setting in settings or defaults:
        result = cut(logits, setting, module)
        for row, found in zip(logits.tolist(), result.tolist()):
            assert found == slow(row, setting), f"{name} {setting}"
            assert max(found) > scalar.OUT
        assert result.dtype == np.float32
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", [1, 2, 7, 65, 700, 1500])
def test_what_is_kept_is_what_the_definition_says(name, kind, vocabulary):
    compare(name, logits_of(kind, vocabulary, rows=3 if vocabulary < 1000 else 1))


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("kind", ["plain", "steep", "tied"])
def test_a_large_vocabulary(name, kind):
    compare(name, logits_of(kind, 50257, rows=1), settings=CUTS[name][2][-2:-1])


@pytest.mark.parametrize("off", [None, 0])
@pytest.mark.parametrize("cut", [cuts.top_k_cut, cuts.min_p_cut, cuts.epsilon_cut, cuts.eta_cut, cuts.top_n_sigma_cut])
def test_a_cut_that_is_off_changes_nothing(cut, off):
    logits = logits_of("plain", 50)
    assert cut(logits, off) is logits


@pytest.mark.parametrize("off", [None, 1.0])
@pytest.mark.parametrize("cut", [cuts.top_p_cut, cuts.typical_cut])
def test_a_mass_of_one_changes_nothing(cut, off):
    logits = logits_of("plain", 50)
    assert cut(logits, off) is logits


@pytest.mark.parametrize(
    "name, setting",
    [
        ("top_k", 50),
        ("top_k", 51),
        ("min_p", 1e-30),
        ("epsilon", 1e-30),
        ("eta", 1e-30),
        ("top_n_sigma", 100),
        ("xtc", 0.9),
    ],
)
def test_a_cut_that_cuts_nothing_changes_nothing(name, setting):
    logits = logits_of("plain", 50)
    np.testing.assert_array_equal(CUTS[name][0](logits, setting), logits)


def test_ties_go_to_the_lowest_id():
    equal = np.zeros((1, 300), np.float32)
    for cut, setting, count in ((cuts.top_p_cut, 0.5, 150), (cuts.typical_cut, 0.5, 150), (cuts.top_k_cut, 7, 7)):
        assert np.flatnonzero(cut(equal, setting)[0] == 0).tolist() == list(range(count))
    assert np.flatnonzero(cuts.epsilon_cut(equal, 0.5)[0] == 0).tolist() == [0]


@pytest.mark.parametrize("name", [name for name in CUTS if " " not in name])
def test_permuting_the_vocabulary_permutes_the_result(name):
    cut, _, settings = CUTS[name]
    logits = logits_of("plain", 300)  # no ties
    order = np.random.default_rng(0).permutation(300)
    for setting in settings:
        np.testing.assert_array_equal(cut(logits[:, order], setting), cut(logits, setting)[:, order])


def test_xtc_only_where_the_coin_says_so():
    logits = np.log(np.array([[0.5, 0.3, 0.2]] * 3, np.float32))
    found = np.isfinite(cuts.xtc_cut(logits, 0.25, [False, True, False]))
    assert found.tolist() == [[True] * 3, [False, True, True], [True] * 3]


@pytest.mark.parametrize("vocabulary", [1, 3, 50, 5000])
@pytest.mark.parametrize("kind", ["plain", "tied", "masked", "all equal"])
def test_the_largest_are_those_of_a_stable_sort(vocabulary, kind):
    logits = logits_of(kind, vocabulary)
    for k in {1, min(3, vocabulary), min(50, vocabulary), vocabulary}:
        expected = np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :k], axis=1)
        np.testing.assert_array_equal(cuts.top_k_ids(logits, k), expected)


LOGITS = st.lists(
    st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([-np.inf, 0.0, 1.0]), min_size=1, max_size=12
)
SOME = {
    "top_k": st.none() | st.integers(1, 13),
    "ties": st.sampled_from(["lowest", "all"]),
    "top_p": st.none() | st.floats(1e-300, 1),
    "min_p": st.none() | st.floats(0, 1),
    "typical_p": st.none() | st.floats(1e-300, 1),
    "epsilon_cutoff": st.none() | st.floats(0, 1),
    "eta_cutoff": st.none() | st.floats(0, 1),
    "top_n_sigma": st.none() | st.floats(0, 10),
    "xtc_probability": st.sampled_from([0.0, 1.0]),
    "xtc_threshold": st.floats(0, 1),
    "mirostat_tau": st.none() | st.floats(0, 10),
    "temperature": st.floats(0, 1e6) | st.sampled_from([1e-300, 1e-38, 1e300]),
}


@settings(deadline=None, max_examples=150, derandomize=True, database=None)
@given(row=LOGITS.filter(lambda row: max(row) > -np.inf), some=st.fixed_dictionaries(SOME))
def test_at_least_one_token_survives_every_chain(row, some):
    logits = np.array([row], np.float32)
    p = Sampler(**some).probabilities(logits)
    assert (p >= 0).all() and p.sum() == pytest.approx(1, rel=1e-6)
    assert not p[logits == -np.inf].any()
    assert p[0, Sampler(**some).sample(logits)[0]] > 0


def test_cuts_follow_each_other_renormalised():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    p = Sampler(top_k=2, top_p=0.5).probabilities(logits)  # of the two left, the first has 4/7
    np.testing.assert_allclose(p, [[1, 0, 0, 0]])
    p = Sampler(top_p=0.8, min_p=0.5).probabilities(logits)
    np.testing.assert_allclose(p, [[4 / 9, 3 / 9, 2 / 9, 0]], rtol=1e-6)
    p = Sampler(top_p=0.85, epsilon_cutoff=0.11).probabilities(logits * 1.0)  # 0.2 / 0.9 reaches it, as 0.1 would not
    np.testing.assert_allclose(p, [[4 / 9, 3 / 9, 2 / 9, 0]], rtol=1e-6)
    p = Sampler(min_p=0.6, epsilon_cutoff=0.42).probabilities(logits)  # 0.3 / 0.7 reaches it, 0.3 would not
    np.testing.assert_allclose(p, [[4 / 7, 3 / 7, 0, 0]], rtol=1e-6)


FAULTS = [
    ("surplus = np.count_nonzero(reached) - k", "surplus = 0", "top_k"),
    ("reached[tied[len(tied) - surplus :]] = False", "reached[tied[:surplus]] = False", "top_k"),
    ("[blocks - k]\n", "[blocks - k] + 1\n", "top_k"),
    ("logits >= values.min(", "logits > values.min(", "top_k all"),
    ("return _first_up_to(p * total, w, -row,", "return _first_up_to(p * total, w, row,", "top_p"),
    ("mass * (1 - ROUNDING)) + 1]", "mass * (1 - ROUNDING))]", "top_p"),
    (
        "np.searchsorted(np.cumsum(w[ids]), mass * (1 - ROUNDING))",
        "np.searchsorted(np.cumsum(w[ids]), mass * 1.001)",
        "top_p",
    ),
    ("np.cumsum(w[ids])", "np.cumsum(w[ids], dtype=np.float16)", "top_p"),
    ('kind="stable")', 'kind="stable")[::-1]', "typical"),
    ("if w[ids].sum() >= mass:", "if True:", "top_p"),
    ("np.log(p * (1 - ROUNDING))", "np.log(p * (1 + ROUNDING))", "min_p"),
    ("np.log(p * (1 - ROUNDING))", "p", "min_p"),
    ("distance = np.abs(_expected(shifted, w) - shifted)", "distance = _expected(shifted, w) - shifted", "typical"),
    ("2 * ROUNDING * more", "0 * more", "typical more"),
    ("distance <= distance[ids[-1]]", "distance < distance[ids[-1]]", "typical all"),
    ("return np.sum(w * np.maximum(shifted, LEAST_SHIFTED)) / w.sum()", "return shifted.mean()", "typical"),
    ("w >= probability * w.sum() * (1 - ROUNDING)", "w >= probability", "epsilon"),
    ("row.argmax(keepdims=True)", "len(row) - 1 - row[::-1].argmax(keepdims=True)", "epsilon"),
    ("np.sqrt(epsilon) * np.exp(-h)", "np.sqrt(epsilon) * np.exp(h)", "eta"),
    ("np.sqrt(epsilon) * np.exp(-h)", "epsilon * np.exp(-h)", "eta"),
    (
        "row[row > -np.inf].std(dtype=np.float64)",
        "row[row > -np.inf].std(dtype=np.float64, ddof=len(row) > 1)",
        "top_n_sigma",
    ),
    ("np.where(rounded < least, np.nextafter(rounded, np.float32(np.inf)), rounded)", "rounded - 0.01", "top_n_sigma"),
    ("top[top != stays]", "top[top == stays]", "xtc"),
    ("values[top][::-1]", "values[top]", "xtc"),
    ("(softmax(values) >= threshold * (1 - ROUNDING))", "(softmax(values) > 2 * threshold)", "xtc"),
    ("& (values > -np.inf)", "", "xtc"),
]


@pytest.mark.parametrize("right, wrong, name", FAULTS)
def test_faults_are_noticed(right, wrong, name):
    module = planted(cuts, right, wrong)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        for vocabulary in (7, 65, 1500):
            for kind in KINDS:
                compare(name, logits_of(kind, vocabulary, rows=1), module)


def test_mirostat_keeps_what_surprises_less():
    logits = logits_of("plain", 65)
    for mu in (-5.0, 0.0, 1.0, 4.0, 40.0):
        for row, found in zip(logits.tolist(), mirostat_cut(logits, np.full(3, mu)).tolist()):
            assert found == scalar.mirostat(row, mu)
