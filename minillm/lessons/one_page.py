"""Lesson: the whole thing on one page.

gpt_page.py is the subject: a GPT with its gradients, AdamW and sampling, written to be read. Here it is set beside the engine,
which does the same with care for speed and memory: with the same weights and tokens both compute the loss and the gradient of
every weight, both take the same steps on the same text, and both write with the same random numbers. All in float64, where what
they may differ by is rounding: sums taken in another order, 1e-16 of what is summed.

One gradient is nothing but rounding: that of the keys' bias. q_i . (k_j + b) = q_i . k_j + q_i . b adds the same number to all
scores of a row, and softmax takes it off again. Adam divides this noise by its own size, so these biases take steps of their
own in each of the two. Nothing depends on them.
"""

from __future__ import annotations

import ast
import inspect
import re

import numpy as np

from minillm.lessons import gpt_page
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.optim import AdamW
from minillm.sampler import Sampler
from minillm.sampler.choice import multinomial

BATCH, T, C, LAYERS, HEADS = 16, 32, 64, 2, 4
STEPS, LR, WRITTEN, TEMPERATURE = 300, 5e-3, 160, 0.7
SHOWN = (0, 1, 10, 100, STEPS - 1)
TOLERANCE = 1e-12


def measure() -> Measured:
    """The page's loss, gradients, steps and text beside the engine's, on the text of the page."""
    source = inspect.getsource(gpt_page)
    alphabet, ids = np.unique(list(source), return_inverse=True)
    weights = gpt_page.new_weights(len(alphabet), T, C, LAYERS, np.random.default_rng(0))
    model = engine_with(weights)
    untrained = gpt_page.write(weights, ids[:1], WRITTEN, HEADS, np.random.default_rng(2), TEMPERATURE)

    losses, gradients = first_step(model, weights, ids)
    differences = {name: _relative(*pair) for name, pair in gradients.items()}
    worst = max(differences, key=differences.get)
    page_losses = np.array([*gpt_page.train(weights, ids, STEPS, HEADS, np.random.default_rng(1), BATCH, LR)])
    engine_losses = np.array([*train_engine(model, ids, np.random.default_rng(1))])
    apart = float(np.abs(page_losses - engine_losses).max())
    page_ids = gpt_page.write(weights, ids[:1], WRITTEN, HEADS, np.random.default_rng(2), TEMPERATURE)
    engine_ids = write_with_engine(model, ids[:1], np.random.default_rng(2))
    alike = int(np.cumprod(page_ids == engine_ids)[1:].sum())
    start, end = page_losses[:10].mean(), page_losses[-10:].mean()
    count = sum(value.size for value in weights.values())
    return Measured(
        tables=[
            Table(
                f"Training on the page's own {len(source):,} characters",
                ("step", "loss of the page", "of the engine", "perplexity"),
                [
                    (
                        f"{step}",
                        f"{page_losses[step]:.12f}",
                        f"{engine_losses[step]:.12f}",
                        f"{np.exp(page_losses[step]):.2f}",
                    )
                    for step in SHOWN
                ],
            ),
            Table(
                "Gradients in the first step, the largest of each kind of weight",
                ("weights", "tensors", "numbers", "norm", "relative difference"),
                _gradient_rows(gradients, differences),
            ),
            Table(
                f"What the page writes, temperature {TEMPERATURE}",
                ("after", "text"),
                [
                    (f"{steps} steps", repr("".join(alphabet[text[1:]])))
                    for steps, text in ((0, untrained), (STEPS, page_ids))
                ],
            ),
        ],
        findings=[
            Finding(
                f"{len(source.splitlines())} lines, of which {_code_lines(source)} are code, import NumPy and nothing else",
                _imports(source) == ["import numpy as np"],
            ),
            Finding(
                f"the loss is the engine's (relative difference {_relative(*losses):.1e})",
                _relative(*losses) <= TOLERANCE,
            ),
            Finding(
                f"so are all {count:,} gradients in {len(weights)} tensors (at most {differences[worst]:.1e}, {worst})",
                differences[worst] <= TOLERANCE,
            ),
            Finding(
                f"over {STEPS} steps of AdamW the two losses are never further apart than {apart:.1e} nats",
                apart <= 1e-9,
            ),
            Finding(
                f"from the same random numbers both write the same {WRITTEN} characters (alike: {alike})",
                alike == WRITTEN,
            ),
            Finding(
                f"it learns: from a loss of {start:.2f}, as unsure as between {np.exp(start):.0f} equally likely characters, "
                f"to {end:.2f}, as between {np.exp(end):.1f}",
                end < start / 2,
            ),
        ],
        draw=lambda figure: _draw(figure, page_losses, engine_losses, len(alphabet), gradients),
        figures={
            "lines": float(len(source.splitlines())),
            "loss difference": _relative(*losses),
            "gradient difference": differences[worst],
            "losses apart": apart,
            "characters alike": float(alike),
            "first loss": float(page_losses[0]),
            "start": float(start),
            "end": float(end),
        },
    )


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
    """(loss of the page, of the engine), and for each tensor (gradient of the page, of the engine), for one batch."""
    inputs, targets = gpt_page.pick(ids, BATCH, T, np.random.default_rng(1))
    logits, saved = gpt_page.forward(weights, inputs, HEADS)
    loss, dlogits = gpt_page.cross_entropy(logits, targets)
    gradients = gpt_page.backward(weights, dlogits, saved)
    engine_loss = float(model.loss(inputs, targets))
    model.backward()
    engine = {name.removeprefix("transformer."): parameter.grad for name, parameter in model.parameters().items()}
    model.zero_grad()
    return (loss, engine_loss), {name: (gradients[name], engine[name].copy()) for name in weights}


def train_engine(model, ids, rng):
    """`gpt_page.train` with the engine: the same pieces of text, the same settings; yields the loss before each step."""
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for step in range(1, STEPS + 1):
        loss = model.loss(*gpt_page.pick(ids, BATCH, T, rng))
        model.backward()
        optimizer.lr = gpt_page.speed(LR, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss)


def write_with_engine(model, ids, rng):
    """`gpt_page.write` with the engine's model and sampler."""
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


def _gradient_rows(gradients, differences) -> list[tuple[str, ...]]:
    """A row for each kind of tensor, over all blocks."""
    kinds: dict[str, list[str]] = {}
    for name in gradients:
        kinds.setdefault(
            re.sub(r"^h\.\d+\.|\.(weight|bias)$", "", name).replace("ln_1", "ln_*").replace("ln_2", "ln_*"), []
        ).append(name)
    rows = []
    for kind, names in kinds.items():
        numbers = sum(gradients[name][0].size for name in names)
        norm = max(np.linalg.norm(gradients[name][0]) for name in names)
        rows.append((kind, f"{len(names)}", f"{numbers:,}", f"{norm:.4f}", f"{max(differences[n] for n in names):.1e}"))
    return rows


def _draw(figure, page_losses, engine_losses, vocabulary, gradients) -> None:
    left, right = figure.subplots(1, 2)
    left.plot(page_losses, color="tab:orange", linewidth=4, alpha=0.6, label="the page")
    left.plot(engine_losses, color="black", linewidth=0.8, label="the engine")
    left.axhline(np.log(vocabulary), color="0.6", linestyle="--")
    knows_nothing = f"no idea: all {vocabulary} characters equally likely"
    left.annotate(knows_nothing, (STEPS, np.log(vocabulary)), ha="right", va="bottom", color="0.4")
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
        right.annotate(f"{digits} digits alike", (ends[0] * 2, ends[0] * 10.0**-digits * 6), color="0.4", rotation=27)
    right.set(xlabel="a weight's gradient (size)", ylabel="page - engine (size)", title="every gradient, in two ways")
    right.set(xlim=(5e-8, 2), ylim=(1e-23, 1e-11))


LESSON = Lesson(
    title="The whole thing on one page",
    claim="A GPT, its loss, the gradient of every weight, AdamW and sampling fit on one page of NumPy. It learns, and what it "
    "computes is what the engine computes: loss and gradients to 12 digits, the same steps, the same text.",
    idea="A language model turns the tokens so far into a probability for each token that may come next. The loss is how "
    "surprised it was by the one that came. The gradient says for each weight whether the loss rises or falls with it, "
    "and by how much; training moves every weight a little against its gradient, some hundred times over. "
    "That is all there is, and gpt_page.py has all of it, to be read from top to bottom. Here it learns its own text, "
    "character by character.",
    measure=measure,
    commands=(
        "python -m minillm.lessons.gpt_page     # learns the page and writes",
        "python -c \"from minillm.lessons import gpt_page; gpt_page.main('to be or not to be, that is the question. ' * 50)\"",
        "minillm train --tokenizer char         # the engine, on a larger text",
    ),
    read=("minillm/lessons/gpt_page.py", "tests/lessons/test_one_page.py", "minillm/models/gpt2.py"),
)
