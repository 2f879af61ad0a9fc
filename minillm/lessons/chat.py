"""Lesson: fine-tuning for chat.

A language model continues texts; an assistant ends its answer and leaves the next word to the user.
Three things are added to training, and none to the model: a template, which turns messages into one
text; a mask, by which only the assistant's tokens have a target; and rows in which several
conversations lie side by side, without attention between them (minillm/layers/documents.py).

The lessons' small model learns a small language of questions with one right answer each
(counting.py), so that right answers can be counted, on questions that it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import encode_data, load_text, split_text
from minillm.data.packing import pack, packed_row
from minillm.generation.text import write
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.lessons import counting
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import CORPUS, small_model
from minillm.lessons.small_training import training
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.optim import AdamW, make_schedule
from minillm.pretrained import from_pretrained
from minillm.pretrained.chat_mask import examples_of
from minillm.pretrained.plain_template import plain_chat
from minillm.sampler import Sampler
from minillm.training.evaluation import evaluate

STEPS, WARMUP_STEPS, ROWS = 200, 20, 16  # rows in a batch
LEARNING_RATES = {"all weights": 2e-3, "LoRA": 1e-2}
RANK = 8
EVERY = 50  # steps between two measurements
LONGEST = 12  # tokens of an answer
TEXT = 60_000  # characters of the validation text


class Rows(NamedTuple):
    """Packed conversations: ids, targets, starts (N, T); for each row, how many share it."""

    ids: np.ndarray
    targets: np.ndarray
    starts: np.ndarray
    shared_by: list[int]


class Progress(NamedTuple):
    """By step: the shares of right answers, and the loss on the text learned before."""

    seen: dict[int, float]
    held_out: dict[int, float]
    follow_ups: dict[int, float]
    text_loss: dict[int, float]


def measure() -> Measured:
    """Fine-tune the small model, whole and with LoRA, and count right answers on the way."""
    learned, held_out = counting.questions()
    rows = packed(counting.conversations(learned))
    runs = {name: Progress({}, {}, {}, {}) for name in LEARNING_RATES}
    for name, run in runs.items():
        for step, model in fine_tuned(rows, name):
            if step % EVERY == 0:
                _measure(run, step, model, learned, held_out)
    leak, other = of_one_row(rows, starts=True), of_one_row(rows, starts=False)
    whole, lora = runs["all weights"], runs["LoRA"]
    figures = {
        "before": max(whole.seen[0], whole.held_out[0]),
        "held out": whole.held_out[STEPS],
        "follow-ups": whole.follow_ups[STEPS],
        "held out, LoRA": lora.held_out[STEPS],
        "text before": whole.text_loss[0],
        "text after": whole.text_loss[STEPS],
        "text after, LoRA": lora.text_loss[STEPS],
        "share learned": float((rows.targets != IGNORE_INDEX).mean()),
        "conversations a row": float(np.mean(rows.shared_by)),
        "change across the border": leak,
        "change without the border": other,
    }
    return Measured(
        tables=[_table_of_mask(), _table_of_progress(runs)],
        findings=_findings(figures),
        draw=lambda figure: _draw(figure, runs),
        figures=figures,
    )


# ------------------------------------------------------------------------------------------------------ measurements


def packed(conversations) -> Rows:
    """The conversations in the plain template, packed into rows of the small model's context."""
    tokenizer, length = small_model().tokenizer, small_model().model.config.context_length
    chat = plain_chat(tokenizer)
    examples = [example for each in conversations for example in examples_of(chat, tokenizer, each)]
    texts = [(np.array(example.ids), example.learned) for example in examples if len(example.ids) <= length + 1]
    numbers = pack([len(ids) - 1 for ids, _ in texts], length)
    rows = [packed_row([texts[number] for number in row], length) for row in numbers]
    return Rows(*(np.stack(arrays) for arrays in zip(*rows)), [len(row) for row in numbers])


def fine_tuned(rows: Rows, name: str, steps: int = STEPS) -> Iterator[tuple[int, object]]:
    """Train the small model on packed rows; yields (steps done, model) before each step and at the
    end.
    """
    model, lr = from_pretrained(small_model().folder), LEARNING_RATES[name]
    if name == "LoRA":
        add_lora(model, LoRA(RANK), seed=0)
    optimizer = AdamW(model.trainable_parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)

    def batch(step):
        chosen = stream(0, "rows", step).integers(len(rows.ids), ROWS)
        return dict(ids=rows.ids[chosen], targets=rows.targets[chosen], starts=rows.starts[chosen])

    for step in training(model, optimizer, batch, make_schedule("cosine", lr, steps, WARMUP_STEPS, lr / 10), steps):
        yield step, model


def _measure(run: Progress, step: int, model, learned, held_out) -> None:
    model.eval()
    run.seen[step] = right_answers(model, [(question,) for question in learned[::4]])
    run.held_out[step] = right_answers(model, [(question,) for question in held_out])
    follow_ups = [(question, each) for question in held_out for each in counting.follow_ups(question)]
    run.follow_ups[step] = right_answers(model, follow_ups)
    run.text_loss[step] = text_loss(model)


def right_answers(model, turns: list[tuple[counting.Question, ...]], manners=(counting.PLAIN,)) -> float:
    """The share of conversations whose last question is answered rightly, to the letter, and ended
    there. The questions before it have their right answers. Greedily: the most probable tokens.
    """
    written = answers(model, turns)
    right = [text in [each[-1].answer(manner) for manner in manners] for text, each in zip(written, turns)]
    return float(np.mean(right))


def answers(model, turns, manner: str = counting.PLAIN) -> list[str]:
    """What the model says to the last question of each conversation; what it did not end, with '
    ...'.
    """
    tokenizer = small_model().tokenizer
    chat = plain_chat(tokenizer)
    prompts = [chat.encode(tokenizer, counting.messages(*each, manner=manner)[:-1])[0] for each in turns]
    *_, written = write(model, tokenizer, prompts, LONGEST, Sampler(temperature=0), stop=["\n\n"])
    return [each.text + ("" if each.reason == "stop" else " ...") for each in written]


def text_loss(model) -> float:
    """Nats a token on the text that the small model was made from."""
    ids = encode_data(small_model().tokenizer, split_text(load_text([CORPUS]))[1][:TEXT], "")
    return evaluate(model.loss, np.asarray(ids), 64, model.config.context_length, 64).loss


def of_one_row(rows: Rows, starts: bool) -> float:
    """How much the logits of a second conversation change, at most, when the first one of its row
    is replaced by other tokens; with `starts`, or as one text."""
    row = next(number for number, shared_by in enumerate(rows.shared_by) if shared_by > 1)
    ids, begins = rows.ids[row : row + 1], rows.starts[row : row + 1]
    second = int(begins[begins > 0].min())
    others = ids.copy()
    others[:, :second] = (others[:, :second] + 1) % small_model().model.config.vocab_size
    given = {"starts": begins} if starts else {}
    a, b = (small_model().model.forward(each, **given)[:, second:] for each in (ids, others))
    return float(np.abs(a - b).max())


# ------------------------------------------------------------------------------------------------------- what is shown


def _findings(figures: dict[str, float]) -> list[Finding]:
    return [
        Finding(
            f"before, {figures['before']:.0%} of the answers are right; after {STEPS} steps {figures['held out']:.0%}, on "
            "questions that were in no conversation",
            figures["before"] < 0.05 and figures["held out"] >= 0.7,
        ),
        Finding(
            f"{figures['follow-ups']:.0%} of the second questions, which only the first answer makes clear, are "
            "answered rightly",
            figures["follow-ups"] >= 0.6,
        ),
        Finding(
            f"{figures['share learned']:.0%} of the places have a target: what the user says is read, not learned",
            0 < figures["share learned"] < 0.5,
        ),
        Finding(
            f"{figures['conversations a row']:.1f} conversations share a row; other tokens in the first change the logits of "
            f"the second by {figures['change across the border']:g}, and by {figures['change without the border']:.1f} "
            "if the row is read as one text",
            figures["change across the border"] == 0 < figures["change without the border"],
        ),
        Finding(
            f"what is not practised is forgotten: on the text learned before, the loss rises from {figures['text before']:.2f} "
            f"to {figures['text after']:.2f} nats, with LoRA to {figures['text after, LoRA']:.2f}",
            figures["text before"] + 1 < min(figures["text after"], figures["text after, LoRA"]),
        ),
    ]


def _table_of_mask() -> Table:
    """A conversation, token by token."""
    question = counting.questions()[0][0]
    (conversation,) = counting.conversations([question])[:1]
    tokenizer = small_model().tokenizer
    (example,) = examples_of(plain_chat(tokenizer), tokenizer, conversation)
    rows = [
        (repr(tokenizer.decode([token])), "learned" if learned else "")
        for token, learned in zip(example.ids, example.learned)
    ]
    return Table("A conversation in the plain template, and which tokens are learned", ("token", ""), rows)


def _table_of_progress(runs: dict[str, Progress]) -> Table:
    rows = [
        (
            name,
            str(step),
            *(f"{shares[step]:.0%}" for shares in (run.seen, run.held_out, run.follow_ups)),
            f"{run.text_loss[step]:.2f}",
        )
        for name, run in runs.items()
        for step in run.seen
    ]
    columns = ("fine-tuned", "step", "learned questions", "held out", "second questions", "loss on the old text")
    return Table("Right answers, and what is forgotten", columns, rows)


def _draw(figure, runs: dict[str, Progress]) -> None:
    left, right = figure.subplots(1, 2)
    for name, style in zip(runs, ("-", "--")):
        run = runs[name]
        left.plot(list(run.held_out), list(run.held_out.values()), f"C0{style}", label=f"held out, {name}")
        left.plot(list(run.follow_ups), list(run.follow_ups.values()), f"C1{style}", label=f"second questions, {name}")
        right.plot(list(run.text_loss), list(run.text_loss.values()), f"C3{style}", label=name)
    left.set(xlabel="step", ylabel="share of right answers", ylim=(-0.03, 1.03))
    right.set(xlabel="step", ylabel="loss on the text learned before (nats a token)")
    left.legend()
    right.legend()


LESSON = Lesson(
    title="Chat: a template, a mask, and rows that are shared",
    claim="A model of texts becomes one that answers when it learns the assistant's tokens of conversations: it answers "
    "questions that it has never seen, and ends its answers. What it does not practise, it forgets.",
    idea="To a model a conversation is one text: a template writes who speaks before each message. Trained on all of it, "
    "the model would learn to ask as well as to answer, so only the assistant's tokens have a target, with the token that "
    "ends an answer. Short conversations lie side by side in a row; none sees the others.",
    measure=measure,
    commands=(
        "minillm train --init MODEL --chat-data conversations.jsonl --out runs/chat",
        "minillm chat runs/chat",
    ),
    read=("minillm/pretrained/chat_mask.py", "minillm/data/packing.py", "minillm/layers/documents.py"),
    seconds=45,
)
