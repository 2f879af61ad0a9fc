"""Lesson: preferences.

To write a good answer to every question is much work. It is easier to say which of two answers is
better. DPO (minillm/layers/dpo.py) learns from such pairs: the reward of an answer is
beta log(p / p_reference), and the loss is low where the chosen answer has the higher reward.

The lessons' small model first learns to count in conversation (counting.py), in two manners:
"five." and "it is five.", half of the answers each. Then it is shown pairs in which the manner that
it uses less is chosen. Nothing in them says which number is right: both answers of a pair have the
same one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data.packing import padded_rows
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.layers.softmax import softmax_forward
from minillm.lessons import chat, counting
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import small_model
from minillm.lessons.small_training import training
from minillm.models.preference import PreferenceModel, read_figures
from minillm.optim import AdamW, make_schedule
from minillm.pretrained.chat_mask import examples_of
from minillm.pretrained.plain_template import plain_chat

LEARNED_STEPS = 300  # of the conversations
PAIRS, STEPS, WARMUP_STEPS = 16, 60, 5  # pairs in a batch
EVERY = 5  # steps between two measurements of the loss
LEARNING_RATE = 1e-4
BETAS = 0.05, 0.5, 5.0
USUAL, LARGE = 0.5, 5.0
MANNERS = counting.PLAIN, counting.POLITE


class Pairs(NamedTuple):
    """ids and targets (N, 2, T), chosen before rejected; reference (N, 2), their
    log-probabilities.
    """

    ids: np.ndarray
    targets: np.ndarray
    reference: np.ndarray


class Result(NamedTuple):
    """After DPO with one beta, on questions held out."""

    preferred: float  # the share of answers in the preferred manner
    right: float  # the share of right ones, in either manner
    ordered: float  # the share of pairs whose chosen answer has the higher reward
    divergence: float  # nats, from the reference, over the tokens of a chosen answer
    losses: list[float]


def measure() -> Measured:
    """Fine-tune in both manners, then learn the preference for one, with three betas."""
    learned, held_out = counting.questions()
    both = [each for manner in MANNERS for each in counting.conversations(learned, manner)]
    *_, (_, model) = chat.fine_tuned(chat.packed(both), "all weights", LEARNED_STEPS)
    reference = model.replica()
    reference.eval()
    preferred = min(MANNERS, key=lambda manner: share_of(reference, held_out, manner))
    before = share_of(reference, held_out, preferred), _right(reference, held_out)
    pairs, unseen = (pairs_of(reference, questions, preferred) for questions in (learned, held_out))
    results = {beta: prefer(reference, beta, pairs, unseen, held_out, preferred) for beta in BETAS}
    figures = {"preferred before": before[0], "right before": before[1], "first loss": results[USUAL].losses[0]}
    for beta, result in results.items():
        figures |= {f"{name}, beta {beta}": value for name, value in result._asdict().items() if name != "losses"}
    return Measured(
        tables=[_table_of_answers(reference, held_out), _table_of_betas(before, results)],
        findings=_findings(figures, preferred),
        draw=lambda figure: _draw(figure, results),
        figures=figures,
    )


# ------------------------------------------------------------------------------------------------------ measurements


def pairs_of(reference, questions, preferred: str) -> Pairs:
    """For each question the right answer in the preferred manner, chosen, and in the other one."""
    tokenizer = small_model().tokenizer
    template, texts = plain_chat(tokenizer), []
    for question in questions:
        for manner in sorted(MANNERS, key=lambda manner: manner != preferred):
            texts += examples_of(template, tokenizer, counting.conversations([question], manner)[0])
    ids, targets = padded_rows([(np.array(example.ids), example.learned) for example in texts])
    logp, _ = reference.log_probabilities(ids, targets)
    shape = -1, 2, ids.shape[1]
    return Pairs(ids.reshape(shape), targets.reshape(shape), logp.reshape(-1, 2))


def prefer(reference, beta: float, pairs: Pairs, unseen: Pairs, held_out, preferred: str) -> Result:
    """DPO from the reference on."""
    learner = PreferenceModel(reference.replica("float32"), beta)
    optimizer, losses = AdamW(learner.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0), []

    def batch(step):
        chosen = stream(0, "pairs", step).integers(len(pairs.ids), PAIRS)
        return {name: array[chosen] for name, array in pairs._asdict().items()}

    schedule = make_schedule("cosine", LEARNING_RATE, STEPS, WARMUP_STEPS, LEARNING_RATE / 10)
    for step in training(learner, optimizer, batch, schedule, STEPS):
        if step % EVERY == 0:
            learner.eval()
            losses.append(float(learner.loss(*unseen)))
    figures, model = read_figures(learner.figures, len(unseen.ids)), learner.model
    shares = share_of(model, held_out, preferred), _right(model, held_out), figures.accuracy
    return Result(*shares, divergence(model, reference, unseen), losses)


def share_of(model, questions, manner: str) -> float:
    """The share of answers in a manner, among the most probable ones."""
    begin = counting.POLITE.split("{")[0]
    polite = [text.startswith(begin) for text in chat.answers(model, [(question,) for question in questions])]
    return float(np.mean(polite)) if manner == counting.POLITE else 1 - float(np.mean(polite))


def _right(model, questions) -> float:
    return chat.right_answers(model, [(question,) for question in questions], MANNERS)


def divergence(model, reference, pairs: Pairs) -> float:
    """The sum of KL(model, reference) = sum_v p_v log(p_v / r_v) over the tokens of a chosen
    answer, in nats; the mean over the pairs.
    """
    ids, counted = pairs.ids[:, 0], pairs.targets[:, 0] != IGNORE_INDEX
    p, r = (softmax_forward(each.forward(ids).astype(float))[0][counted] for each in (model, reference))
    return float((p * np.log(p / r)).sum() / len(ids))


# ------------------------------------------------------------------------------------------------------- what is shown


def _findings(figures: dict[str, float], preferred: str) -> list[Finding]:
    divergences, right = ([figures[f"{name}, beta {beta}"] for beta in BETAS] for name in ("divergence", "right"))
    manner = preferred.format("five")
    return [
        Finding(
            f'{figures["preferred before"]:.0%} of the answers are as "{manner}" before, '
            f"{figures[f'preferred, beta {USUAL}']:.0%} after {STEPS} steps with beta {USUAL}, to questions that no pair has",
            figures["preferred before"] <= 0.5 < 0.9 < figures[f"preferred, beta {USUAL}"],
        ),
        Finding(
            f"of {figures[f'ordered, beta {USUAL}']:.0%} of the pairs held out the chosen answer has the higher reward",
            figures[f"ordered, beta {USUAL}"] > 0.9,
        ),
        Finding(
            f"the loss begins at log 2: {figures['first loss']:.4f}, where the model is its own reference",
            abs(figures["first loss"] - np.log(2)) < 1e-4,
        ),
        Finding(
            "the smaller beta, the farther from the reference: "
            + ", ".join(f"{nats:.2f} nats for {beta}" for beta, nats in zip(BETAS, divergences)),
            divergences[0] > divergences[1] > divergences[2],
        ),
        Finding(
            f"{right[-1]:.0%} of the answers are right with beta {LARGE}, {figures['right before']:.0%} were before; with "
            + ", ".join(f"{beta} {share:.0%}" for beta, share in zip(BETAS[:-1], right)),
            right[-1] > figures["right before"] - 0.15,
        ),
    ]


def _table_of_answers(reference, held_out) -> Table:
    some = held_out[:6]
    written = chat.answers(reference, [(question,) for question in some])
    rows = [(question.text, text) for question, text in zip(some, written)]
    return Table("Answers before the preference is learned", ("question", "answer"), rows)


def _table_of_betas(before: tuple[float, float], results: dict[float, Result]) -> Table:
    rows = [("before", f"{before[0]:.0%}", f"{before[1]:.0%}", "", "0")]
    for beta, result in results.items():
        shares = (f"{share:.0%}" for share in (result.preferred, result.right, result.ordered))
        rows.append((f"beta {beta}", *shares, f"{result.divergence:.3f}"))
    columns = ("", "as preferred", "right", "pairs in order", "nats from the reference")
    return Table("Questions held out", columns, rows)


def _draw(figure, results: dict[float, Result]) -> None:
    left, right = figure.subplots(1, 2)
    for beta, result in results.items():
        left.plot(range(0, STEPS + 1, EVERY), result.losses, label=f"beta {beta}")
    left.axhline(np.log(2), color="grey", linestyle=":", label="log 2")
    left.set(xlabel="step", ylabel="DPO loss of pairs held out")
    right.semilogx(list(results), [result.divergence for result in results.values()], "o-")
    right.set(xlabel="beta", ylabel="nats from the reference")
    left.legend()


LESSON = Lesson(
    title="Preferences: which of two answers is better",
    claim="From pairs of answers alone a model learns to prefer one manner of answering, on questions that no pair has, and "
    "keeps what it knows. beta holds it near the model that it was.",
    idea="A reward for answers could be learned from pairs, and then a model from the reward. DPO needs no second model: "
    "how much more probable an answer is than it was before is its reward, up to a factor beta. The loss compares "
    "the rewards of the two answers of a pair, and pairs that are in order already hardly count.",
    measure=measure,
    commands=(
        "minillm train --init runs/chat --preference-data pairs.jsonl --dpo-beta 0.2 --out runs/preferred",
        "minillm chat runs/preferred",
    ),
    read=("minillm/layers/dpo.py", "minillm/layers/sequence_log_probability.py", "minillm/models/preference.py"),
    seconds=45,
)
