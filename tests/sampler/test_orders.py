"""The four orders: chains of stages against scalar chains, and against the libraries whose orders they are.

transformers is asked itself. vLLM and llama.cpp need a compiler or a GPU, so that their definitions are written down here
once more, as they are in vllm/v1/sample (sampler.py, ops/topk_topp_sampler.py, logits_processor/builtin.py,
model_executor/layers/utils.py) and in llama.cpp's src/llama-sampler.cpp and common/sampling.cpp.
"""

import math

import numpy as np
import pytest
import scalar_sampler as scalar
from planting import planted

from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.sampler import History, Sampler, stages

VOCABULARY = 40
ROWS = 3
PROMPT = 60


def logits_of(*key):
    """Some plain, some with ties, some with masked tokens."""
    x = 2.5 * stream("orders", *key).normal((ROWS, VOCABULARY))
    x[1] = np.round(x[1])
    x[2, ::7] = -np.inf
    return x.astype(np.float32)


def texts_of(*key):
    """A prompt of 60 tokens and 30 more; the last six are further back than llama.cpp's penalties look."""
    texts = stream("texts", *key).integers(VOCABULARY // 2, (ROWS, 90))
    texts[:, -6:] = texts[:, 12:18]
    return History(texts.tolist(), [PROMPT] * ROWS)


def choose(*key):
    """A function that draws settings: some(low, high) is a number or None, half of the time each."""
    numbers = iter(stream("settings", *key).uniform((200,)).tolist())

    def some(low, high):
        on, value = next(numbers) < 0.5, next(numbers)
        return low + (high - low) * value if on else None

    return some


def whole(x):
    return None if x is None else int(x)


def given(**settings):
    return {name: value for name, value in settings.items() if value is not None}


def memory(some, prefix=()):
    return given(
        logit_bias=None if some(0, 1) is None else {3: 1.5, 8: -2.0, 11: -math.inf},
        banned_tokens=None if some(0, 1) is None else (2, 9),
        repetition_penalty=some(0.7, 1.6),
        presence_penalty=some(-0.5, 1),
        frequency_penalty=some(-0.1, 0.5),
    )


SETTINGS = {
    "minillm": lambda some: (
        memory(some)
        | given(
            no_repeat_ngram=whole(some(1, 5)),
            dry_multiplier=some(0.1, 2),
            temperature=some(0.3, 2),
            top_k=whole(some(1, 30)),
            top_p=some(0.1, 1),
            min_p=some(0, 0.3),
            typical_p=some(0.1, 1),
            epsilon_cutoff=some(0, 0.1),
            eta_cutoff=some(0, 0.1),
            top_n_sigma=some(0.5, 2),
            xtc_probability=some(0.2, 1),
            penalty_window=whole(some(5, 60)),
        )
        | (dict(min_tokens=35, end_tokens=(0, 4)) if some(0, 1) is None else {})
    ),
    "hf": lambda some: (
        given(
            logit_bias=None if some(0, 1) is None else {3: 1.5, 8: -2.0},
            banned_tokens=None if some(0, 1) is None else (2, 9),
            repetition_penalty=some(0.7, 1.6),
            no_repeat_ngram=whole(some(1, 5)),
            temperature=some(0.3, 2),
            top_k=whole(some(1, 30)),
            top_p=some(0.1, 1),
            min_p=some(0, 0.3),
            typical_p=some(0.1, 1),
            epsilon_cutoff=some(0.001, 0.1),
            eta_cutoff=some(0.001, 0.1),
        )
        | (dict(min_tokens=35, end_tokens=(0, 4)) if some(0, 1) is None else {})
    ),
    "vllm": lambda some: (
        memory(some)
        | given(temperature=some(0.3, 2), min_p=some(0, 0.3), top_k=whole(some(1, 30)), top_p=some(0.1, 1))
        | (dict(min_tokens=35, end_tokens=(0, 4)) if some(0, 1) is None else {})
    ),
    "llama.cpp": lambda some: (
        memory(some)
        | given(
            dry_multiplier=some(0.1, 2),
            dry_breakers=None if some(0, 1) is None else (5, 6),
            top_n_sigma=some(0.5, 2),
            top_k=whole(some(1, 30)),
            typical_p=some(0.1, 1),
            top_p=some(0.1, 1),
            min_p=some(0, 0.3),
            xtc_probability=None if some(0, 1) is None else 1.0,
            temperature=some(0.3, 2),
            penalty_window=whole(some(5, 80)),
        )
    ),
}


# ------------------------------------------------------------------------------------------------------- scalar chains


def slow_chain(s, row, text, prompt_length, coin):
    """One row of logits to probabilities, with the settings s, in the order that they ask for."""
    order, written = s.get("order", "minillm"), text[prompt_length:]
    ties = "all" if order in ("hf", "vllm") else "lowest"
    window = s.get("penalty_window") or (64 if order == "llama.cpp" else len(text))
    seen, late = text[-window:], (text if order == "llama.cpp" else written)[-window:]
    everything = text[-(s.get("penalty_window") or len(text)) :]
    ends = s.get("end_tokens", ()) if len(written) < s.get("min_tokens", 0) else ()
    do = {
        "bias": lambda x: scalar.logit_bias(x, s.get("logit_bias", {})),
        "bans": lambda x: scalar.ban(x, s.get("banned_tokens", ())),
        "ends": lambda x: scalar.ban(x, ends),
        "repetition": lambda x: scalar.repetition_penalty(x, seen, s.get("repetition_penalty", 1)),
        "presence": lambda x: scalar.presence_penalty(x, late, s.get("presence_penalty", 0)),
        "frequency": lambda x: scalar.frequency_penalty(x, late, s.get("frequency_penalty", 0)),
        "ngram": lambda x: scalar.no_repeat_ngram(x, seen, s["no_repeat_ngram"]) if "no_repeat_ngram" in s else x,
        "dry": lambda x: (
            scalar.dry_penalty(x, everything, s["dry_multiplier"], breakers=s.get("dry_breakers", ()))
            if "dry_multiplier" in s
            else x
        ),
        "temperature": lambda x: scalar.temperature(x, s["temperature"]) if s.get("temperature", 1) != 1 else x,
        "top_k": lambda x: scalar.top_k(x, s.get("top_k"), ties),
        "top_p": lambda x: scalar.top_p(x, s["top_p"]) if "top_p" in s else x,
        "min_p": lambda x: scalar.min_p(x, s.get("min_p", 0)),
        "typical": lambda x: scalar.typical(x, s["typical_p"], ties, order == "llama.cpp") if "typical_p" in s else x,
        "epsilon": lambda x: scalar.epsilon(x, s.get("epsilon_cutoff", 0), ties),
        "eta": lambda x: scalar.eta(x, s["eta_cutoff"], ties) if "eta_cutoff" in s else x,
        "sigma": lambda x: scalar.top_n_sigma(x, s.get("top_n_sigma", 1e9)),
        "xtc": lambda x: scalar.xtc(x, 0.1, coin < s.get("xtc_probability", 0)),
    }
    for step in {
        "minillm": "bias bans ends repetition presence frequency ngram dry temperature "
        "top_k top_p min_p typical epsilon eta sigma xtc",
        "hf": "bias repetition ngram bans ends temperature top_k top_p min_p typical epsilon eta",
        "vllm": "bans ends bias repetition frequency presence temperature min_p top_k top_p",
        "llama.cpp": "bias bans repetition frequency presence dry sigma top_k typical top_p min_p xtc temperature",
    }[order].split():
        row = do[step](row)
    return scalar.softmax(row)


def compare_with_the_chain(order, case, module=None):
    settings = SETTINGS[order](choose(order, case)) | {"order": order}
    sampler, logits, history = Sampler(**settings, seed=case), logits_of(order, case), texts_of(order, case)
    if module:
        sampler._stages = module.stages_of(sampler.settings)
    found = sampler.probabilities(logits, history)
    for row, (values, text) in enumerate(zip(logits.tolist(), history.ids)):
        coin = stream(case, "xtc", 0, row).uniform()
        expected = slow_chain(settings, values, text, PROMPT, coin)
        assert np.flatnonzero(found[row]).tolist() == np.flatnonzero(expected).tolist(), settings
        np.testing.assert_allclose(found[row], expected, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("order", SETTINGS)
@pytest.mark.parametrize("case", range(40))
def test_whole_chains(order, case):
    compare_with_the_chain(order, case)


FAULTS = [
    (
        '*("logit_bias", "repetition_penalty", "no_repeat_ngram"',
        '*("repetition_penalty", "logit_bias", "no_repeat_ngram"',
        "hf",
    ),
    ('*("temperature", "min_p", "top_k", "top_p"),', '*("temperature", "top_k", "top_p", "min_p"),', "vllm"),
    ('*("top_n_sigma", "top_k", "typical_p", "top_p"', '*("top_n_sigma", "top_k", "top_p", "typical_p"', "llama.cpp"),
    ('*("temperature", "mirostat_tau"),\n', '"mirostat_tau",\n', "llama.cpp"),
    ("LLAMA_CPP_WINDOW = 64", "LLAMA_CPP_WINDOW = 63", "llama.cpp"),
    ("seen(c, s.penalty_window or None)", "seen(c)", "llama.cpp"),
    ('if s.order == "llama.cpp":  # its window', "if False:  # its window", "llama.cpp"),
    ('s.order in ("hf", "vllm")', 's.order in ("hf",)', "vllm"),
    ('s.order in ("hf", "vllm")', 's.order in ("vllm",)', "hf"),
    ("context.history.written(row), window", "context.history.ids[row], window", "minillm"),
    ("count < s.min_tokens", "count < s.min_tokens - 5", "minillm"),
    ("c.coins() < s.xtc_probability", "c.coins() > s.xtc_probability", "minillm"),
    ("ids[max(len(ids) - window, 0) :]", "ids[:window]", "minillm"),
]


@pytest.mark.parametrize("right, wrong, order", FAULTS)
def test_faults_are_noticed(right, wrong, order):
    module = planted(stages, right, wrong)
    with pytest.raises((AssertionError, UserError)):
        for case in range(40):
            compare_with_the_chain(order, case, module)


# ---------------------------------------------------------------------------------------- the libraries' own definitions


def transformers_probabilities(model, settings, logits, history):
    import torch
    from transformers import GenerationConfig

    same = ("repetition_penalty", "temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
    ends = list(settings.get("end_tokens", [0]))
    config = GenerationConfig(
        do_sample=True,
        top_k=settings.get("top_k", 0),
        eos_token_id=ends,
        **{name: settings[name] for name in same if name in settings},
    )
    config.no_repeat_ngram_size = settings.get("no_repeat_ngram")
    if "logit_bias" in settings:
        config.sequence_bias = [[[token], bias] for token, bias in settings["logit_bias"].items()]
    if "banned_tokens" in settings:
        config.bad_words_ids = [[token] for token in settings["banned_tokens"]]
    config.min_new_tokens = settings.get("min_tokens")
    config._eos_token_tensor = torch.tensor(ends)
    processors = model._get_logits_processor(config, input_ids_seq_length=PROMPT, device="cpu")
    assert len(processors) == len(set(settings) - {"order", "end_tokens"})
    return torch.softmax(processors(torch.tensor(history.ids), torch.tensor(logits)), dim=-1).numpy()


@pytest.mark.peers
def test_transformers_chooses_with_the_same_probabilities():
    pytest.importorskip("torch", reason="comparison with torch (extra test-peers)")
    transformers = pytest.importorskip("transformers", reason="comparison with transformers (extra test-peers)")
    shape = dict(n_layer=1, n_head=1, n_embd=8, n_positions=8, vocab_size=8, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    used = set()
    for case in range(150):
        settings = SETTINGS["hf"](choose("peer", case)) | {"order": "hf"}
        logits, history = logits_of("peer", case), texts_of("peer", case)
        if "top_p" in settings:  # which of several equal tokens it leaves out hangs on a sort that is not stable
            logits[1] += 0.01 * stream("untied", case).normal((VOCABULARY,)).astype(np.float32)
        theirs = transformers_probabilities(model, settings, logits, history)
        ours = Sampler(**settings).probabilities(logits, history)
        np.testing.assert_array_equal(ours > 0, theirs > 0, err_msg=str(settings))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7, err_msg=str(settings))
        used |= set(settings)
    assert len(used) == 14  # every setting that transformers has


def vllm(s, row, prompt, output):
    """float32 logits of one sequence to probabilities."""
    x = np.array(row, np.float64)
    x[list(s.get("banned_tokens", ()))] = -np.inf
    if len(output) < s.get("min_tokens", 0):
        x[list(s["end_tokens"])] = -np.inf
    for token, bias in s.get("logit_bias", {}).items():
        x[token] += bias
    in_either = np.isin(np.arange(len(x)), prompt + output)
    penalties = np.where(in_either, s.get("repetition_penalty", 1.0), 1.0)
    x *= np.where(x > 0, 1 / penalties, penalties)
    counts = np.bincount(output, minlength=len(x))
    x -= s.get("frequency_penalty", 0.0) * counts
    x -= s.get("presence_penalty", 0.0) * (counts > 0)
    x /= s.get("temperature", 1.0)
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    x[p < s.get("min_p", 0.0) * p.max()] = -np.inf
    order = np.argsort(x, kind="stable")  # rising
    x = x[order]
    x[x < x[len(x) - s.get("top_k", len(x))]] = -np.inf
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    removed = np.cumsum(p) <= 1 - s.get("top_p", 1.0)
    removed[-1] = False
    p[removed] = 0
    return dict(zip(order.tolist(), (p / p.sum()).tolist()))


def llama_cpp(s, row, text):
    """Candidates (token, logit) of one sequence, as the default chain sees them, to probabilities."""
    n = len(row)
    bias = {**s.get("logit_bias", {}), **dict.fromkeys(s.get("banned_tokens", ()), -math.inf)}
    candidates = [[token, logit + bias.get(token, 0.0)] for token, logit in enumerate(row)]
    last = text[-(s.get("penalty_window") or 64) :]
    for candidate in candidates:
        count = last.count(candidate[0])
        if count:
            candidate[1] *= (
                s.get("repetition_penalty", 1.0) if candidate[1] <= 0 else 1 / s.get("repetition_penalty", 1.0)
            )
            candidate[1] -= count * s.get("frequency_penalty", 0.0) + s.get("presence_penalty", 0.0)
    if "dry_multiplier" in s:
        last, breakers = text[-(s.get("penalty_window") or len(text)) :], s.get("dry_breakers", ())
        limit = next((i for i, token in enumerate(reversed(last)) if token in breakers), len(last))
        longest = {}
        for k in range(1, len(last)):  # the copy ends k tokens before the last one
            length = 0
            while length + k < len(last) and last[-1 - length] == last[-1 - length - k]:
                length += 1
            length = min(length, limit)
            if length >= 2:
                longest[last[-k]] = max(longest.get(last[-k], 0), length)
        for candidate in candidates:
            if candidate[0] in longest and candidate[0] not in breakers:
                candidate[1] -= s["dry_multiplier"] * 1.75 ** (longest[candidate[0]] - 2)

    def p():
        largest = max(logit for _, logit in candidates)
        weights = [math.exp(logit - largest) for _, logit in candidates]
        return [w / sum(weights) for w in weights]

    if "top_n_sigma" in s:
        valid = [logit for _, logit in candidates if logit > -math.inf]
        mean = sum(valid) / len(valid)
        deviation = math.sqrt(sum((logit - mean) ** 2 for logit in valid) / len(valid))
        for candidate in candidates:
            if candidate[1] < max(valid) - s["top_n_sigma"] * deviation:
                candidate[1] = -math.inf
    candidates.sort(key=lambda candidate: -candidate[1])  # and it stays sorted, but for typical
    candidates = candidates[: s.get("top_k", n)]
    if s.get("typical_p", 1) < 1:
        shares = p()
        entropy = -sum(x * math.log(x) for x in shares if x > 0)
        score = [abs(-math.log(x) - entropy) if x > 0 else math.inf for x in shares]
        indices = sorted(range(len(candidates)), key=lambda i: (score[i], candidates[i][0]))
        total, count = 0.0, 0
        for i in indices:
            total, count = total + shares[i], count + 1
            if total > s["typical_p"]:
                break
        candidates = sorted(
            (candidates[i] for i in indices[:count]), key=lambda candidate: (-candidate[1], candidate[0])
        )
    if s.get("top_p", 1) < 1:
        total, count = 0.0, 0
        for share in p():
            total, count = total + share, count + 1
            if total >= s["top_p"]:
                break
        candidates = candidates[:count]
    if s.get("min_p"):
        least = candidates[0][1] + math.log(s["min_p"])
        candidates = [candidate for i, candidate in enumerate(candidates) if i == 0 or candidate[1] >= least]
    if "xtc_probability" in s and len(candidates) >= 2:
        reaching = [i for i, share in enumerate(p()) if share >= 0.1]
        candidates = candidates[reaching[-1] if reaching else 0 :]
    for candidate in candidates:
        candidate[1] /= s.get("temperature", 1.0)
    return dict(zip((token for token, _ in candidates), p()))


@pytest.mark.parametrize("order", ["vllm", "llama.cpp"])
def test_the_definitions_of_vllm_and_llama_cpp(order):
    for case in range(150):
        settings = SETTINGS[order](choose("definitions", order, case)) | {"order": order}
        logits, history = logits_of("definitions", case), texts_of("definitions", case)
        if order == "vllm":  # whose top-p leaves out one of equal tokens as its sort has it
            logits[1] = logits_of("untied", case)[0]
        found = Sampler(**settings).probabilities(logits, history)
        for row, text in enumerate(history.ids):
            if order == "vllm":
                expected = vllm(settings, logits[row].tolist(), text[:PROMPT], text[PROMPT:])
            else:
                expected = llama_cpp(settings, logits[row].tolist(), text)
            spread = np.zeros(VOCABULARY)
            spread[list(expected)] = list(expected.values())
            np.testing.assert_array_equal(found[row] > 0, spread > 0, err_msg=str(settings))
            np.testing.assert_allclose(found[row], spread, rtol=2e-5, err_msg=str(settings))


def test_llama_cpp_takes_more_than_the_typical_mass():
    equal = np.zeros((1, 4))
    assert np.flatnonzero(Sampler(typical_p=0.5).probabilities(equal)).tolist() == [0, 1]
    assert np.flatnonzero(Sampler(typical_p=0.5, order="llama.cpp").probabilities(equal)).tolist() == [0, 1, 2]


def test_ties_as_the_libraries_keep_them():
    tied = np.array([[1.0, 0.0, 0.0, 0.0]])
    for order, count in (("minillm", 2), ("hf", 4), ("vllm", 4), ("llama.cpp", 2)):
        assert np.count_nonzero(Sampler(top_k=2, order=order).probabilities(tied)) == count
    assert np.count_nonzero(Sampler(top_k=2, ties="all").probabilities(tied)) == 4
    assert np.count_nonzero(Sampler(top_k=2, ties="lowest", order="hf").probabilities(tied)) == 2
    equal = np.zeros((1, 5))
    for settings in (dict(epsilon_cutoff=0.5), dict(eta_cutoff=1.0)):
        assert np.count_nonzero(Sampler(**settings, order="hf").probabilities(equal)) == 5
    assert np.count_nonzero(Sampler(epsilon_cutoff=0.5).probabilities(equal)) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(order="other"), 'order is "other": use one of minillm, hf, vllm, llama.cpp'),
        (dict(order="hf", dry_multiplier=1.0), "dry_multiplier does not exist in hf: leave it out"),
        (dict(order="hf", mirostat_tau=5.0), "mirostat_tau does not exist in hf"),
        (dict(order="vllm", typical_p=0.5), "typical_p does not exist in vllm"),
        (dict(order="llama.cpp", eta_cutoff=0.5), "eta_cutoff does not exist in llama.cpp"),
        (dict(order="llama.cpp", mirostat_tau=5.0, top_k=3), "llama.cpp runs mirostat alone: leave out top_k"),
    ],
)
def test_what_an_order_does_not_have(settings, message):
    with pytest.raises(UserError, match=message):
        Sampler(**settings)


def test_llama_cpp_looks_at_all_tokens_where_the_window_is_turned_off():
    logits, history = np.zeros((1, 5)), History([[1] + [2] * 100], [0])
    for window, changed in ((None, {2}), (0, {1, 2}), (101, {1, 2}), (100, {2})):
        p = Sampler(order="llama.cpp", presence_penalty=1.0, penalty_window=window).probabilities(logits, history)[0]
        assert {token for token in range(5) if p[token] < 0.2} == changed
