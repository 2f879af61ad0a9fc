"""The stages that the page computes (look/stages.js) equal the sampler's, stage by stage, to 1e-6.

Both get the same saved logits: real ones, and the same with ties and with masked tokens.
"""

import json
import math
from dataclasses import MISSING, fields

import numpy as np
import pytest

from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.sampler import History, Sampler
from minillm.sampler import sampler as sampler_module
from minillm.sampler.settings import SamplerSettings
from minillm.sampler.stages import ORDERS
from minillm.sampler.trace import Tracer
from minillm.web.page import plain_script
from minillm.web.read.sampler_page import STAGES, saved_text

SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in STAGES)
TOLERANCE = 1e-6
ROUNDS = 12  # random settings for each order
POSITIONS = (3, 77, 140, 199)


def logits_at(position, kind):
    """One row: as saved, rounded so that many are equal, or with every seventh token masked."""
    row = saved_text().logits[position].copy()
    if kind == "ties":
        row = np.round(row)
    if kind == "masked":
        row[::7] = -np.inf
    return row


def random_settings(order, number):
    """Each setting that the order has is given half of the time."""
    numbers = iter(stream("settings", order, number).uniform((100,)).tolist())
    text = saved_text().text

    def some(low, high, kind=float):
        on, value = next(numbers) < 0.45, next(numbers)
        return kind(low + (high - low) * value) if on else None

    def given(name, value):
        return {} if value is None or name not in ORDERS[order] else {name: value}

    settings = {"order": order} | given("temperature", some(0.3, 2))
    cuts = {
        **given("top_k", some(1, 80, int)),
        **given("top_p", some(0.1, 1)),
        **given("min_p", some(0, 0.2)),
        **given("typical_p", some(0.1, 1)),
        **given("epsilon_cutoff", some(0.0005, 0.02)),
        **given("eta_cutoff", some(0.0005, 0.02)),
        **given("top_n_sigma", some(0.5, 3)),
    }
    if cuts.get("top_n_sigma") is None and given("xtc_probability", some(0.3, 1)):
        cuts |= {"xtc_probability": 0.7, "xtc_threshold": 0.03}
    penalties = {
        **given("repetition_penalty", some(0.7, 1.6)),
        **given("presence_penalty", some(-0.5, 1)),
        **given("frequency_penalty", some(-0.1, 0.5)),
        **given("no_repeat_ngram", some(1, 4, int)),
    }
    if given("dry_multiplier", some(0.1, 2)):
        penalties |= {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_breakers": [text[5], 3]}
    if some(0, 1):
        penalties["penalty_window"] = some(5, 100, int) or 0
    constraints = {}
    if some(0, 1):
        constraints["logit_bias"] = {text[3]: 1.5, text[77]: -2.25, text[140]: -math.inf}
    if some(0, 1):
        constraints["banned_tokens"] = [text[4], 60]
    if given("min_tokens", some(1, 200, int)):
        constraints |= {"min_tokens": 100, "end_tokens": [text[77], 61]}
    if given("forced_tokens", some(1, 2)) and number % 4 == 0:
        constraints["forced_tokens"] = {POSITIONS[number % 3]: 70}
    if some(0, 1):
        settings["ties"] = "all" if next(numbers) < 0.5 else "lowest"
    if number % ROUNDS == ROUNDS - 1:
        settings["temperature"] = 0.0
    if "mirostat_tau" in ORDERS[order] and number % 6 == 5:
        return settings | {"mirostat_tau": 3.0, "mirostat_eta": 0.2} | (cuts if order == "minillm" else {})
    return settings | penalties | constraints | cuts


CASES = [(order, number) for order in ORDERS for number in range(ROUNDS)]


class Recorder(Tracer):
    """Keeps the probabilities of all stages, too, for the whole vocabulary."""

    def __init__(self):
        super().__init__()
        self.all = []

    def record(self, name, logits, ids):
        super().record(name, logits, ids)
        p = self._before
        if ids is not None:
            spread = np.zeros((len(p), len(saved_text().logits[0])))
            np.put_along_axis(spread, ids, p, axis=1)
            p = spread
        self.all.append(p[0])


def exact_shares():
    """Four equally likely tokens, and no others: sums of probabilities that reach a threshold exactly."""
    row = np.full(saved_text().logits.shape[1], -np.inf, np.float32)
    row[[2, 9, 70, 400]] = 1.25
    return row


# Settings, logits, prompt and text in which a detail of a definition decides.
DETAILS = [
    (dict(order="llama.cpp", typical_p=0.5), exact_shares, [], []),
    (dict(typical_p=0.5), exact_shares, [], []),
    (dict(typical_p=0.5, ties="all"), exact_shares, [], []),
    (dict(top_p=0.75), exact_shares, [], []),
    (dict(epsilon_cutoff=0.25), exact_shares, [], []),
    (dict(epsilon_cutoff=0.26, ties="all"), exact_shares, [], []),
    (dict(min_p=1.0, top_k=2), exact_shares, [], []),
    (dict(xtc_probability=1.0, xtc_threshold=0.25), exact_shares, [], []),
    (dict(dry_multiplier=0.8, dry_breakers=[8]), lambda: saved_text().logits[0], [5, 8, 6, 7, 5, 8], [6]),
    (dict(dry_multiplier=0.8), lambda: saved_text().logits[0], [5, 8, 6, 7, 5, 8], [6]),
    (dict(no_repeat_ngram=1, order="hf"), lambda: saved_text().logits[0], [5, 8, 6], [7, 5]),
]


def all_cases():
    """(seed, settings, logits, prompt, text) of every comparison."""
    saved = saved_text()
    for number, (order, round_) in enumerate(CASES):
        for kind in ("real", "ties", "masked"):
            position = POSITIONS[(number + len(kind)) % len(POSITIONS)]
            row = logits_at(position, kind)
            yield number, random_settings(order, round_), row, saved.prompt, saved.text[:position]
    for number, (settings, logits, prompt, written) in enumerate(DETAILS):
        yield number, settings, logits(), prompt, written


@pytest.fixture(scope="module")
def expected():
    """What the sampler says in every case, and the arguments that the page gets for it."""
    recorders, cases = [], []
    patch = pytest.MonkeyPatch()
    patch.setattr(sampler_module, "Tracer", lambda: recorders.append(Recorder()) or recorders[-1])
    for seed, settings, row, prompt, written in all_cases():
        sampler, mu = Sampler(seed=seed, **settings), None
        history = History([[*prompt, *written]], [len(prompt)])
        for step in range(2 if sampler.settings.mirostat_tau else 1):
            final = sampler.probabilities(row[None], history)[0]
            [traced] = sampler.trace(row[None], history)
            coin = float(stream(seed, "xtc", step, 0).uniform())
            context = {"prompt": prompt, "written": written, "u": traced.drawn, "coin": coin, "mu": mu}
            mu = None if sampler._mu is None else float(sampler._mu[0])
            arguments = [sendable(row), sendable(settings), context]
            cases.append((arguments, traced, recorders[-1].all, final, mu))
    patch.undo()
    return cases


def sendable(value):
    """As JSON, which has no infinity; stages.js takes "-inf" as a bias."""
    if isinstance(value, np.ndarray):
        return [sendable(x) for x in value.tolist()]
    if isinstance(value, dict):
        return {key: sendable(each) for key, each in value.items()}
    return "-inf" if value == -math.inf else value


RUN = """(cases) => {
const left = (p, isLeft) => [...p.keys()].filter(isLeft).map((id) => [id, Number(p[id].toPrecision(9))]);
return JSON.stringify(JSON.parse(cases).map(([logits, settings, context]) => {
  const row = Float32Array.from(logits, (x) => (x === "-inf" ? -Infinity : x));
  try {
    const { stages, draw } = twin.trace(row, settings, context);
    return {
      stages: stages.map((stage) => ({ ...stage, logits: null, p: left(stage.p, (id) => stage.logits[id] > -Infinity) })),
      draw: { ...draw, probabilities: left(draw.probabilities, (id) => draw.probabilities[id] > 0) },
    };
  } catch (error) {
    if (error instanceof twin.Refused) return { refused: error.message };
    throw error;
  }
}));
}"""


def run(page, cases):
    """The page's answer to each [logits, settings, context]; as texts, which Playwright hands over quickly."""
    return json.loads(page.evaluate(RUN, json.dumps(cases)))


def load(page, source=SOURCE):
    page.goto("about:blank")
    script = plain_script(source) + "\nwindow.twin = { trace, Refused, ORDERS, DEFAULTS };"
    page.add_script_tag(content=script, type="module")
    page.wait_for_function("window.twin !== undefined")


def difference(got, traced, probabilities, final, mu) -> str:
    """The first thing in which the page and the sampler differ, or ""."""
    if "refused" in got:
        return f"the page refuses: {got['refused']}"
    names = [stage["name"] for stage in got["stages"]]
    if names != [stage.name for stage in traced.stages]:
        return f"stages {names}"
    for stage, wanted, p in zip(got["stages"], traced.stages, probabilities):
        if stage["kept"] != wanted.kept:
            return f"{wanted.name} keeps {stage['kept']}, not {wanted.kept}"
        if [token for token, _ in stage["p"]] != np.flatnonzero(p > 0).tolist():
            return f"{wanted.name} keeps other tokens"
        for figure in ("removed", "entropy", "choices"):
            if not close(stage[figure], getattr(wanted, figure), 1 if figure != "choices" else wanted.choices):
                return f"{wanted.name}: {figure} {stage[figure]}, not {getattr(wanted, figure)}"
        if not same(stage["p"], p):
            return f"probabilities after {wanted.name}"
    draw = got["draw"]
    if draw["token"] != traced.token or draw["u"] != traced.drawn:
        return f"token {draw['token']}, not {traced.token}"
    for name, wanted in (("p", traced.probability), ("first", traced.first), ("past", traced.past)):
        if not close(draw[name], wanted):
            return f"draw: {name} {draw[name]}, not {wanted}"
    if mu is not None and not close(draw["mu"], mu):
        return f"mirostat goes on with {draw['mu']}, not {mu}"
    return "" if same(draw["probabilities"], final) else "the last probabilities"


def close(a, b, scale=1.0):
    return abs(a - b) <= TOLERANCE * scale


def same(pairs, p):
    """Whether [id, probability] pairs are the probabilities p (V,)."""
    spread = np.zeros(len(p))
    for token, share in pairs:
        spread[token] = share
    return np.abs(spread - p).max() <= TOLERANCE


def differences(page, expected):
    """The differences, a few cases at a time."""
    for first in range(0, len(expected), 15):
        part = expected[first : first + 15]
        answers = run(page, [arguments for arguments, *_ in part])
        for (arguments, *wanted), answer in zip(part, answers):
            if problem := difference(answer, *wanted):
                yield f"{arguments[1]}: {problem}"


def test_every_stage_is_the_samplers(page, expected):
    """48 random settings, each with real logits, with ties and with masked tokens, in all four orders."""
    assert len(CASES) >= 40 and {stage.name for _, traced, *_ in expected for stage in traced.stages} == {
        "model",
        *(name for order in ORDERS.values() for name in order),
    }
    load(page)
    assert list(differences(page, expected)) == []


FAULTS = {
    "the order": ('"temperature", "min_p", "top_k", "top_p",', '"temperature", "top_k", "min_p", "top_p",'),
    "penalties after the temperature": (
        '"logit_bias", "repetition_penalty", "no_repeat_ngram", "banned_tokens", "min_tokens",\n    "temperature",',
        '"logit_bias", "no_repeat_ngram", "banned_tokens", "min_tokens",\n    "temperature", "repetition_penalty",',
    ),
    "> for >=": ("keepIf(logits, (x) => x >= least) : keepIds", "keepIf(logits, (x) => x > least) : keepIds"),
    "top-p without its last token": ("end < 0 ? ids : ids.slice(0, end + 1)", "end < 0 ? ids : ids.slice(0, end)"),
    "no renormalisation": ("const p = w.map((weight) => weight / total);", "const p = before ? w : w.map((x) => x / total);"),
    "ties to the highest id": ("? a - b : values", "? b - a : values"),
    "typical: p or more in llama.cpp": ("(more ? 2 * ROUNDING : 0)", "0"),
    "negative logits divided": ("logits[id] / penalty : logits[id] * penalty", "logits[id] / penalty : logits[id] / penalty"),
    "presence by count": ("for (const id of new Set(seen)) changed[id] -= Math", "for (const id of seen) changed[id] -= Math"),
    "the prompt is written": ("last(c.written, window))", "seen(c))"),
    "DRY over breakers": (" && !breakers.includes(seen[end - n])", ""),
    "DRY's exponent": ("(length - s.dry_allowed_length)", "length"),
    "the window of llama.cpp": ("const LLAMA_CPP_WINDOW = 64", "const LLAMA_CPP_WINDOW = 65"),
    "XTC keeps the lowest id": ("x <= logits[stays]", "x < logits[stays]"),
    "eta without its root": ("Math.sqrt(epsilon) * Math.exp", "epsilon * Math.exp"),
    "deviation of all": ("Math.sqrt(sum(finite.map((x) => (x - mean) ** 2)) / finite.length)",
                         "Math.sqrt(sum(finite.map((x) => (x - mean) ** 2)) / logits.length)"),
    "mirostat begins at tau": ("2 * s.mirostat_tau }", "s.mirostat_tau }"),
    "surprise in nats": ("-Math.log2(p[token])", "-Math.log(p[token])"),
    "cuts when greedy": ("if (s.temperature === 0 && stage.isCut) continue;", ""),
    "u in an interval's end": ("(past += share) > u", "(past += share) > 1 - u"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(page, expected, name):
    right, wrong = FAULTS[name]
    assert SOURCE.count(right) == 1, name
    load(page, SOURCE.replace(right, wrong))
    assert any(differences(page, expected)), name


def test_orders_and_defaults_are_the_samplers(page):
    load(page)
    assert page.evaluate("twin.ORDERS") == {name: list(order) for name, order in ORDERS.items()}
    defaults = {
        each.name: json.loads(json.dumps(each.default if each.default is not MISSING else {}))
        for each in fields(SamplerSettings)
        if each.name != "seed"
    }
    assert page.evaluate("twin.DEFAULTS") == defaults


REFUSED = [
    {"temperature": -0.1},
    {"top_k": 1.5},
    {"top_k": -1},
    {"top_p": 0},
    {"top_p": 1.01},
    {"typical_p": -1},
    {"min_p": 2},
    {"epsilon_cutoff": -0.5},
    {"eta_cutoff": 1.5},
    {"top_n_sigma": -1},
    {"xtc_probability": 1.5},
    {"xtc_threshold": -0.1},
    {"repetition_penalty": 0},
    {"no_repeat_ngram": -1},
    {"dry_multiplier": -1},
    {"dry_base": 0.5},
    {"dry_allowed_length": 0},
    {"penalty_window": 2.5},
    {"min_tokens": 3},
    {"mirostat_tau": -1},
    {"mirostat_eta": 0},
    {"top_n_sigma": 1.5, "order": "hf"},
    {"typical_p": 0.5, "order": "vllm"},
    {"mirostat_tau": 2, "top_k": 4, "min_p": 0.5, "order": "llama.cpp"},
    {"banned_tokens": [512]},
    {"logit_bias": {"600": 1}},
    {"dry_multiplier": 1, "dry_breakers": [512]},
    {"forced_tokens": {"0": 512}},
    {"min_tokens": 1, "end_tokens": [512]},
    {"logit_bias": {"3": 1e39}},
    {"banned_tokens": list(range(512))},
    {"order": "mine"},
]


def test_the_same_is_refused_in_the_same_words(page):
    row, context = saved_text().logits[0], {"prompt": [], "written": [], "u": 0.5, "coin": 0.5}
    load(page)
    answers = run(page, [[sendable(row), settings, context] for settings in REFUSED])
    for settings, answer in zip(REFUSED, answers):
        ours = {name: by_id(value) if isinstance(value, dict) else value for name, value in settings.items()}
        with pytest.raises(UserError) as refused:
            Sampler(**ours).trace(row[None], History([[]], [0]))
        assert answer == {"refused": str(refused.value)}


def by_id(pairs):
    """JSON has only texts as keys."""
    return {int(key): value for key, value in pairs.items()}
