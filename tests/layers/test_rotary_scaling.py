"""Rotary scaling: each kind by its formula, its gradients, faults that are caught, fields that cannot be."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from planting import assert_caught, assert_close, planted

import minillm
from minillm.checks.cases import array, randomised
from minillm.checks.gradcheck import gradcheck
from minillm.errors import UserError
from minillm.layers import rotary, rotary_scaling
from minillm.layers.rotary import rotary_backward, rotary_forward, rotary_tables
from minillm.layers.rotary_attention import RotaryPositions
from minillm.layers.rotary_scaling import (
    KINDS,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    TableScaling,
    YarnScaling,
    scaling_from_fields,
    yarn_amplitude,
)

BASE, D, P = 100.0, 16, 32
THETA = BASE ** (-2 * np.arange(D // 2) / D)
SHORT, LONG = (1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.8, 2.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0)
EXAMPLES = {
    "linear": LinearScaling(4.0),
    "dynamic": DynamicScaling(4.0, P),
    "yarn": YarnScaling(4.0, P, beta_fast=4.0),
    "llama3": Llama3Scaling(4.0, 1.0, 4.0, P),
    "longrope": LongRopeScaling(SHORT, LONG, P, 4.0),
    "proportional": ProportionalScaling(0.5, 2.0),
    "table": TableScaling(LONG, 1.3),
}
each_kind = pytest.mark.parametrize("kind", EXAMPLES)


# -------------------------------------------------------------------------- the formulas, a pair at a time


def turns(i):
    """Of pair i in the original context."""
    return P * BASE ** (-2 * i / D) / (2 * math.pi)


def divisor(kind, i, T):
    """theta_i / theta_i' by the text of the sources, for EXAMPLES."""
    if kind == "linear":
        return 4.0
    if kind == "dynamic":  # the quotient of powers on the old base and on the new one
        base = BASE * (4.0 * max(T, P) / P - 3.0) ** (D / (D - 2))
        return BASE ** (-2 * i / D) / base ** (-2 * i / D)
    if kind == "yarn":
        low = math.floor(D * math.log(P / (2 * math.pi * 4.0)) / (2 * math.log(BASE)))
        high = math.ceil(D * math.log(P / (2 * math.pi * 1.0)) / (2 * math.log(BASE)))
        ramp = min(1, max(0, (i - low) / (high - low)))
        return 1 / (ramp / 4.0 + (1 - ramp))
    if kind == "llama3":
        n = turns(i)
        return 1.0 if n > 4 else 4.0 if n < 1 else 1 / ((1 - (n - 1) / 3) / 4.0 + (n - 1) / 3)
    if kind == "longrope":
        return (LONG if T > P else SHORT)[i]
    if kind == "proportional":
        return 2.0 if i < 4 else math.inf
    return LONG[i]


@each_kind
@pytest.mark.parametrize("T", [1, P, P + 1, 3 * P])
def test_angles_are_the_formula(kind, T):
    expected = [theta / divisor(kind, i, T) for i, theta in enumerate(THETA)]
    assert_close(EXAMPLES[kind].stretched(THETA, BASE, T), expected, 1e-14)


def test_amplitudes():
    assert YarnScaling(4.0, P).amplitude == 0.1 * math.log(4) + 1 == yarn_amplitude(4.0)
    assert YarnScaling(4.0, P, 1.5).amplitude == 1.5 and YarnScaling(1.0, P).amplitude == 1
    assert LongRopeScaling(SHORT, LONG, P, 4.0).amplitude == math.sqrt(1 + math.log(4) / math.log(P))
    assert LongRopeScaling(SHORT, LONG, P, 4.0, 1.5).amplitude == 1.5
    assert LongRopeScaling(SHORT, LONG, P).amplitude == 1
    assert [EXAMPLES[kind].amplitude for kind in ("linear", "dynamic", "llama3", "proportional")] == [1] * 4


def test_a_factor_counts_positions_in_larger_steps():
    cos, sin = rotary_tables(9, 16, scaling=LinearScaling(4.0))
    plain_cos, plain_sin = rotary_tables(3, 16)
    np.testing.assert_allclose((cos[::4], sin[::4]), (plain_cos, plain_sin), atol=1e-6)


def test_dynamic_keeps_the_first_pair_and_divides_the_last():
    """By s T/P - s + 1: all between both ends of the text as it was and a plain interpolation."""
    theta = DynamicScaling(4.0, P).stretched(THETA, BASE, 2 * P)
    assert theta[0] == THETA[0] and theta[-1] == pytest.approx(THETA[-1] / (4.0 * 2 - 3), rel=1e-14)
    assert (DynamicScaling(4.0, P).stretched(THETA, BASE, P // 2) == THETA).all()


def test_yarn_rounds_the_ends_of_its_ramp_or_not():
    """gpt-oss and others do not: then the ramp is that between real numbers of pairs."""
    exact = YarnScaling(4.0, P, beta_fast=4.0, truncate=False).stretched(THETA, BASE, P)
    low, high = (D * math.log(P / (2 * math.pi * n)) / (2 * math.log(BASE)) for n in (4.0, 1.0))
    ramp = np.clip((np.arange(D // 2) - low) / (high - low), 0, 1)
    assert_close(exact, THETA * (1 - ramp + ramp / 4), 1e-14)
    assert np.abs(exact - EXAMPLES["yarn"].stretched(THETA, BASE, P)).max() > 1e-3
    sharp = YarnScaling(4.0, 1, beta_fast=1.0001).stretched(THETA, BASE, 1)  # both ends are below pair 0
    assert np.isfinite(sharp).all()


def test_published_llama_3():
    """Fast pairs keep their angle, slow ones get 1/8 of it, and the change between is monotonic."""
    theta = 500_000.0 ** (-2 * np.arange(64) / 128)
    ratio = Llama3Scaling(8.0, 1.0, 4.0, 8192).stretched(theta, 500_000.0, 1) / theta
    n = 8192 * theta / (2 * np.pi)
    assert (ratio[n >= 4] == 1).all() and (ratio[n <= 1] == 1 / 8).all()
    between = (n > 1) & (n < 4)
    assert between.sum() > 3 and (np.diff(ratio[between]) < 0).all()


# ------------------------------------------------------------------------------------------------ tables


@each_kind
def test_tables_hold_the_amplitude(kind):
    scaling = EXAMPLES[kind]
    cos, sin = rotary_tables(5, D, BASE, "float64", scaling, 2 * P)
    angle = np.arange(5)[:, None] * scaling.stretched(THETA, BASE, 2 * P)
    assert_close(cos, scaling.amplitude * np.cos(angle))
    assert_close(sin, scaling.amplitude * np.sin(angle))
    assert_close(cos**2 + sin**2, np.full((5, D // 2), scaling.amplitude**2))


@each_kind
def test_tables_that_grow_are_those_of_the_length(kind):
    """In any order of lengths; one table a time where they depend on the length."""
    scaling, x = EXAMPLES[kind], np.zeros(1)
    positions = RotaryPositions(D, BASE, scaling)
    for T in (3, P, P + 1, 2 * P, P + 2, 5):
        for got, expected in zip(positions.tables(T, x), rotary_tables(T, D, BASE, "float64", scaling)):
            np.testing.assert_array_equal(got, expected)
    assert len(positions._tables) == 1


# --------------------------------------------------------------------------------------------- gradients


def pair_of(scaling, T, module=rotary, interleaved=False):
    """The rotation of a text of T tokens by a module, forward and backward."""
    cos, sin = module.rotary_tables(T, D, BASE, "float64", scaling)
    return lambda x: module.rotary_forward(x, cos, sin, interleaved), module.rotary_backward


@each_kind
@pytest.mark.parametrize("T", [3, P + 1])
def test_gradients(kind, T):
    report = gradcheck(pair_of(EXAMPLES[kind], T, interleaved=T == 3), array("x", 1, 1, T, D))
    assert report.worst.error <= 1e-6


@pytest.mark.parametrize("kind", ["yarn", "longrope", "dynamic"])
def test_gradients_of_a_model(kind):
    """Beyond the original context of 4 tokens."""
    scaling = {"yarn": YarnScaling(2.0, 4), "dynamic": DynamicScaling(2.0, 4)}.get(kind)
    scaling = scaling or LongRopeScaling((1.0, 1.0), (2.0, 3.0), 4, 2.0)
    shape = dict(vocab_size=5, context_length=8, n_layer=1, n_head=2, n_kv_head=1, d_model=8, d_ff=4)
    config = minillm.LlamaConfig(**shape, rope_theta=50.0, rope_scaling=scaling)
    model = randomised(minillm.Llama(config, seed=0, dtype="float64"))
    ids = np.arange(12).reshape(2, 6) % 5
    assert gradcheck(model, ids, (ids + 2) % 5).worst.error <= 1e-6


def test_backward_multiplies_by_the_amplitude_once():
    """dx = a R^T dy: back through a rotation, the length of a gradient is a times what it was."""
    dy = array("dy", 1, 1, 5, D)
    cos, sin = rotary_tables(5, D, BASE, "float64", EXAMPLES["yarn"])
    _, saved = rotary_forward(dy, cos, sin)
    ratio = np.linalg.norm(rotary_backward(dy, saved), axis=-1) / np.linalg.norm(dy, axis=-1)
    assert_close(ratio, np.full((1, 1, 5), yarn_amplitude(4.0)))


AMPLITUDE = "math.hypot(cos[0, 0], sin[0, 0])"
BACKWARD_FAULTS = {
    "amplitude left out in backward": ("cos, -sin, interleaved), dy)", f"cos, -sin, interleaved) / {AMPLITUDE}, dy)"),
    "amplitude squared in backward": ("cos, -sin, interleaved), dy)", f"cos, -sin, interleaved) * {AMPLITUDE}, dy)"),
    "amplitude on the sines alone": ("cos, -sin, interleaved), dy)", f"cos / {AMPLITUDE}, -sin, interleaved), dy)"),
}


@pytest.mark.parametrize("kind", ["yarn", "longrope", "table"])
@pytest.mark.parametrize("fault", BACKWARD_FAULTS)
def test_faults_in_backward_are_caught(fault, kind):
    right, wrong = BACKWARD_FAULTS[fault]

    def subject(module):
        vars(module).setdefault("math", math)
        return pair_of(EXAMPLES[kind], 4, module)

    assert_caught(rotary, right, wrong, subject, array("x", 1, 1, 4, D))


# kind and fault: a text of the module, what is put in its place. The angles or the amplitude are then not the formula's.
FORMULA_FAULTS = {
    "linear: factor inverted": (
        "return theta / self.factor\n\n\n@dataclass(frozen=True)\nclass DynamicScaling",
        "return theta * self.factor\n\n\n@dataclass(frozen=True)\nclass DynamicScaling",
    ),
    "dynamic: the exponent of the base": ("(-2 * i / (D - 2))", "(-2 * i / D)"),
    "dynamic: scaled below the original context": ("return max(T, self.original_max_position_embeddings)", "return T"),
    "dynamic: original context ignored": (
        "self.factor * self.stage(T) / self.original_max_position_embeddings - self.factor + 1",
        "self.factor",
    ),
    "yarn: ramp swapped": ("(1 - r) * theta + r * theta / self.factor", "r * theta + (1 - r) * theta / self.factor"),
    "yarn: ends exchanged": ("self._pair_with_turns(self.beta_fast", "self._pair_with_turns(self.beta_slow"),
    "yarn: another logarithm of the base": ("(2 * math.log(base))", "(2 * math.log2(base))"),
    "yarn: original context ignored": ("math.log(self.original_max_position_embeddings / (", "math.log(2048 / ("),
    "yarn: ends not rounded": ("if self.truncate:", "if not self.truncate:"),
    "yarn: another logarithm in the amplitude": (
        "multiplier * math.log(factor) + 1.0",
        "multiplier * math.log2(factor) + 1.0",
    ),
    "yarn: amplitude left out": (
        "return yarn_amplitude(self.factor) if self.attention_factor is None",
        "return 1.0 if self.attention_factor is None",
    ),
    "llama3: mixture swapped": (
        "(1 - m) * theta / self.factor + m * theta",
        "m * theta / self.factor + (1 - m) * theta",
    ),
    "llama3: turns in radians": (
        "self.original_max_position_embeddings * theta / (2 * np.pi)",
        "self.original_max_position_embeddings * theta",
    ),
    "longrope: short for long": (
        "self.long_factor if self.stage(T) else self.short_factor",
        "self.short_factor if self.stage(T) else self.long_factor",
    ),
    "longrope: long at the border": (
        "return T > self.original_max_position_embeddings",
        "return T >= self.original_max_position_embeddings",
    ),
    "longrope: amplitude not the root": (
        "return math.sqrt(1 + math.log(self.factor)",
        "return (1 + math.log(self.factor)",
    ),
    "proportional: all pairs turn": ("self.partial_rotary_factor * 2 * pairs // 2", "2 * pairs // 2"),
}


@pytest.mark.parametrize("fault", FORMULA_FAULTS)
def test_faults_in_the_formulas_are_noticed(fault):
    scaling = EXAMPLES[fault.partition(":")[0]]
    fields = {name: value for name, value in asdict(scaling).items() if name != "rope_type"}
    changed = getattr(planted(rotary_scaling, *FORMULA_FAULTS[fault]), type(scaling).__name__)(**fields)
    with np.errstate(invalid="ignore"):  # a power of a negative number is noticed as well
        same = [
            np.allclose(changed.stretched(THETA, BASE, T), scaling.stretched(THETA, BASE, T), rtol=0, atol=1e-4)
            for T in (P // 2, P, P + 1, 3 * P)
        ]
    assert not all(same) or abs(changed.amplitude - scaling.amplitude) > 1e-4


# ------------------------------------------------------------------------------------------------ fields


@each_kind
def test_fields_say_which_it_is(kind):
    scaling = EXAMPLES[kind]
    fields = asdict(scaling)
    assert fields["rope_type"] == kind and KINDS[kind] is type(scaling)
    assert scaling_from_fields(fields) == scaling


def test_fields_of_older_run_folders():
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    assert scaling_from_fields({"factor": 2.0}) == LinearScaling(2.0)
    assert scaling_from_fields({"factors": [1.0, 2.0]}) == TableScaling((1.0, 2.0))
    assert scaling_from_fields(llama3) == Llama3Scaling(**llama3)


YARN, LLAMA3 = dict(rope_type="yarn", factor=4.0), dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LONGROPE = dict(rope_type="longrope", short_factor=[1.0, 2.0], long_factor=[2.0, 3.0])
ORIGINAL = dict(original_max_position_embeddings=64)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "rope_type is None: minillm computes linear, dynamic, yarn"),
        (dict(rope_type="su", factor=2.0), "rope_type is 'su'"),
        (dict(rope_type=["yarn"]), "rope_type is"),
        (dict(rope_type="yarn", factor=2.0), "original_max_position_embeddings is missing, which yarn needs"),
        (dict(rope_type="linear"), "factor is missing, which linear needs"),
        (dict(rope_type="linear", factor=2.0, beta_fast=32), "has beta_fast, which linear does not know"),
        *(
            (dict(rope_type=kind, factor=factor, **ORIGINAL), "factor is .* expected a finite number of at least 1")
            for kind in ("dynamic", "yarn")
            for factor in (0.5, 0, -1.0, math.inf, math.nan, True, "2", [1.0], 10**400)
        ),
        (YARN | dict(original_max_position_embeddings="64"), "is '64', expected the number of tokens"),
        (YARN | dict(original_max_position_embeddings=64.5), "is 64.5, expected the number of tokens"),
        (YARN | ORIGINAL | dict(attention_factor=0), "attention_factor is 0, expected a finite number above 0"),
        (YARN | ORIGINAL | dict(beta_fast=math.nan), "beta_fast is nan"),
        (YARN | ORIGINAL | dict(beta_fast=1.0), "beta_fast .1.0. must be above beta_slow .1.0.: usual are 32 and 1"),
        (YARN | ORIGINAL | dict(truncate="no"), "truncate is 'no', expected true or false"),
        (LLAMA3 | ORIGINAL | dict(high_freq_factor=1.0), "must be above low_freq_factor .1.0.: usual are 4 and 1"),
        (LONGROPE | ORIGINAL | dict(short_factor=1.0), "short_factor is 1.0, expected a list"),
        (LONGROPE | ORIGINAL | dict(long_factor=[1.0, "2"]), r"long_factor\[1\] is '2'"),
        (LONGROPE | dict(original_max_position_embeddings=1, factor=2.0), "divides by its logarithm"),
        (dict(rope_type="proportional", partial_rotary_factor=1.5), "expected a finite number from 0 to 1"),
        (dict(factors=[]), "factors is .., expected a list"),
        (dict(factors=[1.0, 0]), r"factors\[1\] is 0, expected a finite number above 0"),
    ],
)
def test_fields_that_cannot_be(fields, message):
    with pytest.raises(UserError, match=f"rope_scaling:? .*{message}"):
        scaling_from_fields(fields)


@pytest.mark.parametrize(
    "scaling, width, base, message",
    [
        (TableScaling((1.0, 2.0)), 8, 10.0, "factors has 2 factors, a head of 8 channels has 4 pairs"),
        (LongRopeScaling((1.0,), (2.0, 3.0), 8), 4, 10.0, "short_factor has 1 factors, a head of 4 channels has 2"),
        (LongRopeScaling((1.0, 2.0), (2.0,), 8), 4, 10.0, "long_factor has 1 factors, a head of 4 channels has 2"),
        (DynamicScaling(2.0, 8), 2, 10.0, "dynamic needs heads of at least 4 channels"),
        (YarnScaling(2.0, 8), 8, 1.0, "yarn needs a rope_theta above 1"),
    ],
)
def test_heads_that_cannot_be_scaled_so(scaling, width, base, message):
    with pytest.raises(UserError, match=message):
        scaling.check_head(width, base)
