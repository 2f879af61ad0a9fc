"""Lesson: the whole thing on one page.

The subject is gpt_page.py: a GPT with its gradients, AdamW and sampling, written to be read. This
lesson compares it with the engine, which is written for speed and memory: with the same weights and
tokens, both compute the loss and every gradient, take the same steps on the same text, and write
with the same random numbers. All of it is in float64, where they differ by rounding alone: sums in
another order, about 1e-16 of their size.

One gradient is nothing but rounding: that of the keys' bias. q_i . (k_j + b) = q_i . k_j + q_i . b
adds the same number to all scores of a row, which softmax ignores. Adam divides this noise by its
own size, so these biases move differently in the page and in the engine. Nothing depends on them.
"""

from __future__ import annotations

import ast
import inspect
import re
from functools import partial

import numpy as np

from minillm.lessons import gpt_page
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.optim import AdamW
from minillm.sampler import Sampler
from minillm.sampler.draw import multinomial

BATCH, T, C, LAYERS, HEADS = 16, 32, 64, 2, 4
STEPS, LR, WRITTEN, TEMPERATURE = 300, 5e-3, 160, 0.7
SHOWN = (0, 1, 10, 100, STEPS - 1)
TOLERANCE = 1e-12


def measure() -> Measured:
    """Compare loss, gradients, steps and written text of the page and the engine; the data is the
    page itself.
    """
    source = inspect.getsource(gpt_page)
    alphabet, ids = np.unique(list(source), return_inverse=True)
    weights = gpt_page.new_weights(len(alphabet), T, C, LAYERS, np.random.default_rng(0))
    model = engine_with(weights)
    texts = {0: gpt_page.generate(weights, ids[:1], WRITTEN, HEADS, np.random.default_rng(2), TEMPERATURE)}

    losses, gradients = first_step(model, weights, ids)
    page_losses = np.array([*gpt_page.train(weights, ids, STEPS, HEADS, np.random.default_rng(1), BATCH, LR)])
    engine_losses = np.array([*train_engine(model, ids, np.random.default_rng(1))])
    texts[STEPS] = gpt_page.generate(weights, ids[:1], WRITTEN, HEADS, np.random.default_rng(2), TEMPERATURE)
    engine_text = write_with_engine(model, ids[:1], np.random.default_rng(2))
    figures = {
        "lines": float(len(source.splitlines())),
        "code lines": float(_code_lines(source)),
        "imports besides NumPy": float(_imports(source) != ["import numpy as np"]),
        "gradients": float(sum(value.size for value in weights.values())),
        "tensors": float(len(weights)),
        "loss difference": _relative(*losses),
        "gradient difference": float(np.max([_relative(*pair) for pair in gradients.values()])),
        "losses apart": float(np.abs(page_losses - engine_losses).max()),
        "characters alike": float(np.cumprod(texts[STEPS] == engine_text)[1:].sum()),
        "first loss": float(page_losses[0]),
        "start": float(page_losses[:10].mean()),
        "end": float(page_losses[-10:].mean()),
    }
    return Measured(
        tables=[
            loss_table(len(source), page_losses, engine_losses),
            gradient_table(gradients),
            Table(
                f"Text written by the page, temperature {TEMPERATURE}",
                ("after", "text"),
                [(f"{steps} steps", repr("".join(alphabet[text[1:]]))) for steps, text in texts.items()],
            ),
        ],
        findings=findings_of(figures),
        draw=partial(
            _draw,
            page_losses=page_losses,
            engine_losses=engine_losses,
            vocabulary=len(alphabet),
            gradients=gradients,
        ),
        figures=figures,
    )


def findings_of(figures) -> list[Finding]:
    start, end, alike = figures["start"], figures["end"], figures["characters alike"]
    return [
        Finding(
            f"{figures['lines']:.0f} lines, of which {figures['code lines']:.0f} are code, import NumPy and nothing "
            "else",
            not figures["imports besides NumPy"],
        ),
        Finding(
            f"the loss is the engine's (relative difference {figures['loss difference']:.1e})",
            figures["loss difference"] <= TOLERANCE,
        ),
        Finding(
            f"so are all {figures['gradients']:,.0f} gradients in {figures['tensors']:.0f} tensors (relative "
            f"difference of a tensor at most {figures['gradient difference']:.1e})",
            figures["gradient difference"] <= TOLERANCE,
        ),
        Finding(
            f"over {STEPS} steps of AdamW the two losses differ by at most {figures['losses apart']:.1e} nats",
            figures["losses apart"] <= 1e-9,
        ),
        Finding(
            f"with the same random numbers both write the same {WRITTEN} characters (equal: {alike:.0f})",
            alike == WRITTEN,
        ),
        Finding(
            f"it learns: the loss falls from {start:.2f}, as unsure as between {np.exp(start):.0f} equally likely "
            f"characters, to {end:.2f}, as between {np.exp(end):.1f}",
            end < start / 2,
        ),
    ]


def engine_with(weights) -> GPT2:
    """The engine's model in float64 with the page's weights."""
    vocabulary, width = weights["wte.weight"].shape
    config = GPT2Config(
        vocab_size=vocabulary, context_length=len(weights["wpe.weight"]), n_layer=LAYERS, n_head=HEADS, d_model=width
    )
    model = GPT2(config, seed=None, dtype="float64")
    for name, parameter in model.parameters().items():
        parameter.value = weights[name.removeprefix("transformer.")].copy()
    return model


def first_step(model, weights, ids):
    """(loss of the page, of the engine), and for each tensor (gradient of the page, of the engine),
    for one batch.
    """
    inputs, targets = gpt_page.get_batch(ids, BATCH, T, np.random.default_rng(1))
    logits, saved = gpt_page.forward(weights, inputs, HEADS)
    loss, dlogits = gpt_page.cross_entropy(logits, targets)
    gradients = gpt_page.backward(weights, dlogits, saved)
    engine_loss = float(model.loss(inputs, targets))
    model.backward()
    engine = {name.removeprefix("transformer."): parameter.grad for name, parameter in model.parameters().items()}
    model.zero_grad()
    return (loss, engine_loss), {name: (gradients[name], engine[name].copy()) for name in weights}


def train_engine(model, ids, rng):
    """`gpt_page.train` with the engine: same batches, same settings; yields the loss before each
    step.
    """
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for step in range(1, STEPS + 1):
        loss = model.loss(*gpt_page.get_batch(ids, BATCH, T, rng))
        model.backward()
        optimizer.lr = gpt_page.lr_at(LR, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss)


def write_with_engine(model, ids, rng):
    """`gpt_page.generate` with the engine's model and sampler."""
    model.eval()
    sampler = Sampler(temperature=TEMPERATURE)
    for _ in range(WRITTEN):
        p = sampler.probabilities(model.next_token_logits(ids[None, -T:]))
        ids = np.append(ids, multinomial(p, np.array([rng.random()])))
    return ids


def _relative(actual, expected) -> float:
    """|actual - expected| / |expected|, norms of tensors."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def _imports(source: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]


def _code_lines(source: str) -> int:
    """Lines that are neither empty, nor comment, nor docstring."""
    without = re.sub(r'""".*?"""', "", source, flags=re.DOTALL)
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in without.splitlines())


def loss_table(characters, page_losses, engine_losses) -> Table:
    rows = [
        (f"{step}", f"{page_losses[step]:.12f}", f"{engine_losses[step]:.12f}", f"{np.exp(page_losses[step]):.2f}")
        for step in SHOWN
    ]
    columns = ("step", "loss of the page", "of the engine", "perplexity")
    return Table(f"Training on the page's own {characters:,} characters", columns, rows)


def gradient_table(gradients) -> Table:
    """A row for each kind of tensor: the largest norm and difference over all blocks."""
    kinds: dict[str, list[str]] = {}
    for name in gradients:
        kind = re.sub(r"^h\.\d+\.|\.(weight|bias)$", "", name)
        kinds.setdefault(re.sub(r"ln_\d", "ln_*", kind), []).append(name)
    rows = []
    for kind, names in kinds.items():
        pairs = [gradients[name] for name in names]
        numbers = sum(page.size for page, _ in pairs)
        norm = max(np.linalg.norm(page) for page, _ in pairs)
        difference = max(_relative(*pair) for pair in pairs)
        rows.append((kind, f"{len(names)}", f"{numbers:,}", f"{norm:.4f}", f"{difference:.1e}"))
    columns = ("weights", "tensors", "numbers", "norm", "relative difference")
    return Table("Gradients in the first step, the largest of each kind of weight", columns, rows)


def _draw(figure, page_losses, engine_losses, vocabulary, gradients) -> None:
    left, right = figure.subplots(1, 2)
    left.plot(page_losses, color="tab:orange", linewidth=4, alpha=0.6, label="the page")
    left.plot(engine_losses, color="black", linewidth=0.8, label="the engine")
    left.axhline(np.log(vocabulary), color="0.6", linestyle="--")
    knows_nothing = f"all {vocabulary} characters equally likely"
    above = dict(xytext=(0, 3), textcoords="offset points", ha="right", va="bottom")
    left.annotate(knows_nothing, (STEPS, np.log(vocabulary)), color="0.4", **above)
    left.set(xlabel="step", ylabel="loss (nats)", title="it learns to write itself", ylim=(0, np.log(vocabulary) + 0.5))
    left.legend(loc="lower left")

    page, engine = (np.concatenate([pair[i].ravel() for pair in gradients.values()]) for i in (0, 1))
    some = slice(None, None, max(1, page.size // 8000))
    size, difference = np.abs(engine)[some], np.abs(page - engine)[some]
    seen = (size > 1e-10) & (difference > 0)
    right.loglog(size[seen], difference[seen], ".", markersize=2, color="tab:orange", alpha=0.5)
    ends = np.array([1e-7, 1.0])
    for digits in (12, 16):
        right.loglog(ends, ends * 10.0**-digits, color="0.4", linewidth=0.8)
        right.annotate(f"{digits} equal digits", (ends[0] * 2, ends[0] * 10.0**-digits * 6), color="0.4", rotation=27)
    right.set(
        xlabel="a weight's gradient (size)", ylabel="page - engine (size)", title="the difference of every gradient"
    )
    right.set(xlim=(5e-8, 2), ylim=(1e-23, 1e-11))


LESSON = Lesson(
    title="The whole thing on one page",
    claim="A GPT, its loss, the gradient of every weight, AdamW and sampling fit on one page of NumPy. It learns, and "
    "what it computes is what the engine computes: loss and gradients to 12 digits, the same steps, the same text.",
    idea="A language model turns the tokens so far into a probability for each token that may come next. The loss is "
    "how surprised it was by the one that came. The gradient says for each weight whether the loss rises or falls with "
    "it, and by how much. Training moves every weight a little against its gradient, some hundred times. "
    "That is all, and gpt_page.py has all of it, to be read from top to bottom. Here it learns its own source text, "
    "character by character.",
    measure=measure,
    commands=(
        "python -m minillm.lessons.gpt_page     # learns the page and writes",
        "python -c \"from minillm.lessons import gpt_page; gpt_page.main('to be or not to be, that is the question. ' "
        '* 50)"',
        "minillm train --tokenizer char         # the engine, on a larger text",
    ),
    seconds=10,
    read=("minillm/lessons/gpt_page.py", "tests/lessons/test_one_page.py", "minillm/models/gpt2.py"),
)
