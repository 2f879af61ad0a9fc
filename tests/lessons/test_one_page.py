"""The page against the engine: loss, every gradient, AdamW and sampling; then the lesson's claim."""

import ast
import inspect

import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend.threads import blas_threads
from minillm.lessons import gpt_page, one_page
from minillm.sampler.draw import multinomial

LAYERS, HEADS, V, T, C = 2, 4, 23, 16, 32


def engine_with_weights_of_the_page(page, seed=0):
    """A GPT-2 in float64, and the page's weights: the same numbers, none of them 0 or 1 as they are at the start."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(value, 0.3) for name, value in page.new_weights(V, T, C, LAYERS, rng).items()}
    config = minillm.GPT2Config(vocab_size=V, context_length=T, n_layer=LAYERS, n_head=HEADS, d_model=C)
    model = minillm.GPT2(config, dtype="float64")
    parameters = model.parameters()
    assert {f"transformer.{name}" for name in weights} == set(parameters)
    for name, value in weights.items():
        parameters[f"transformer.{name}"].value = value.copy()
    return model, weights


def ids_and_targets(time, seed=1):
    ids = np.random.default_rng(seed).integers(0, V, (3, time + 1))  # with 23 tokens, many occur more than once
    return ids[:, :-1], ids[:, 1:]


def compare_gradients(page, time=T):
    model, weights = engine_with_weights_of_the_page(page)
    ids, targets = ids_and_targets(time)
    logits, saved = page.forward(weights, ids, HEADS)
    assert_close(logits, model.forward(ids))
    loss, dlogits = page.cross_entropy(logits, targets)
    assert loss == pytest.approx(float(model.loss(ids, targets)), rel=1e-12)
    gradients = page.backward(weights, dlogits, saved)
    model.backward()
    for name, parameter in model.parameters().items():
        assert_close(gradients[name.removeprefix("transformer.")], parameter.grad)


@pytest.mark.parametrize("time", [1, 11, T])
def test_loss_and_every_gradient_are_the_engines(time):
    compare_gradients(gpt_page, time)


FAULTS = {
    "a bias's gradient of one text only": (
        "dbias = dy.sum(axis=(0, 1))\n    return",
        "dbias = dy[0].sum(axis=0)\n    return",
    ),
    "layer norm without its third term": (" - n * (dn * n).mean(axis=-1, keepdims=True)", ""),
    "softmax without its average": ("(dp - (dp * p).sum(axis=-1, keepdims=True))", "dp"),
    "attention that looks ahead": ("np.tri(T, dtype=bool)", "np.tri(T, k=1, dtype=bool)"),
    "keys without the scale": ("ds.swapaxes(2, 3) @ q / np.sqrt(D)", "ds.swapaxes(2, 3) @ q"),
    "GELU as if its gate were constant": ("dy * (gate + x * 2", "dy * (gate + 0 * x * 2"),
    "a mean taken for a sum": ("return loss, p / targets.size", "return loss, p"),
    "the residual branch without the way past it": ('dx = dx + record(f"h.{i}.ln_1"', 'dx = record(f"h.{i}.ln_1"'),
    "embeddings of repeated tokens written over": (
        'np.add.at(g["wte.weight"], ids, dx)',
        'g["wte.weight"][ids] += dx',
    ),
    "the head's share of the tied embedding lost": ('g["wte.weight"] += np.einsum', 'g["unused"] = np.einsum'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_notices(fault):
    with pytest.raises(AssertionError):
        compare_gradients(planted(gpt_page, *FAULTS[fault]))


def compare_steps(page):
    """From the same gradients: that of a key's bias is 0 but for rounding, which Adam would blow up to a step of its own."""
    model, weights = engine_with_weights_of_the_page(page)
    rng = np.random.default_rng(2)
    optimizer = minillm.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    m, v = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in "mv")
    for step in (1, 2, 3):
        gradients = {name: rng.normal(0, 1e-3, value.shape) for name, value in weights.items()}
        for name, gradient in gradients.items():
            model.parameters()[f"transformer.{name}"].grad = gradient.copy()
        page.adamw(weights, gradients, m, v, step, lr=1e-2)
        optimizer.step()
    for name, parameter in model.parameters().items():
        assert_close(weights[name.removeprefix("transformer.")], parameter.value)


def test_three_steps_of_adamw_are_the_engines():
    compare_steps(gpt_page)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("if w[name].ndim == 2 else 0", ""),  # decay on biases and norms
        ("v[name] / (1 - b2**step)", "v[name]"),
        ("np.sqrt(square) + eps", "np.sqrt(square + eps)"),
    ],
)
def test_the_comparison_of_steps_notices(right, wrong):
    with pytest.raises(AssertionError):
        compare_steps(planted(gpt_page, right, wrong))


def test_the_page_writes_what_the_engine_writes():
    model, weights = engine_with_weights_of_the_page(gpt_page)
    model.eval()
    prompt, count, temperature = np.array([3, 1, 4]), T - 3, 0.7
    written = gpt_page.generate(weights, prompt, count, HEADS, np.random.default_rng(5), temperature)
    assert len(written) == T and list(written[:3]) == [3, 1, 4]
    numbers, sampler, ids = np.random.default_rng(5), minillm.Sampler(temperature=temperature), prompt
    for _ in range(count):
        logits = model.next_token_logits(ids[None])
        p = sampler.probabilities(logits)
        np.testing.assert_allclose(gpt_page.softmax(logits / temperature), p, rtol=2e-5, atol=1e-7)  # p is float32
        ids = np.append(ids, multinomial(p, np.array([numbers.random()])))
    assert list(written) == list(ids)


def test_draws_are_the_engines():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(V, 0.3))
    p[4] = 0
    for number in [0.0, np.nextafter(1, 0), *rng.random(200), *np.cumsum(p)[:-1]]:
        assert gpt_page.sample(p, number) == multinomial(p[None], np.array([number]))[0] != 4


def test_a_text_longer_than_the_context_is_continued_from_its_end():
    _, weights = engine_with_weights_of_the_page(gpt_page)
    text = np.arange(2 * T) % V
    whole = gpt_page.generate(weights, text, 1, HEADS, np.random.default_rng(0))
    end = gpt_page.generate(weights, text[-T:], 1, HEADS, np.random.default_rng(0))
    assert whole[-1] == end[-1]


def test_the_page_needs_no_other_file_and_is_one_page():
    source = inspect.getsource(gpt_page)
    imports = [
        ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imports == ["import numpy as np"]
    assert len(source.splitlines()) < 240


def test_it_learns_and_writes(capsys):
    gpt_page.main("to be or not to be, that is the question. " * 30, steps=60, T=16, C=32)
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[3].rstrip(":")) for line in lines if line.startswith("step")]
    assert losses[0] > np.log(15) - 0.5 and losses[-1] < 1.0


def test_what_the_lesson_claims():
    with blas_threads(1):
        measured = one_page.LESSON.measure()
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["loss difference"] <= 1e-12 and figures["gradient difference"] <= 1e-12
    assert figures["first loss"] == pytest.approx(np.log(82), abs=0.5)
    assert figures["end"] < 2 < 3 < figures["start"]
    assert figures["characters alike"] == one_page.WRITTEN
    assert figures["lines"] < 240


def test_the_lesson_notices_a_wrong_gradient(monkeypatch):
    faulty = planted(gpt_page, "ds.swapaxes(2, 3) @ q / np.sqrt(D)", "ds.swapaxes(2, 3) @ q / D")
    monkeypatch.setattr(gpt_page, "attention_backward", faulty.attention_backward)
    monkeypatch.setattr(one_page, "STEPS", 5)
    monkeypatch.setattr(one_page, "WRITTEN", 5)
    monkeypatch.setattr(one_page, "SHOWN", (0, 4))
    holds = [finding.holds for finding in one_page.measure().findings]
    assert holds[:4] == [True, True, False, False]
