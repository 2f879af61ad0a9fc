"""`minillm train --preference-data`: what it prints, what its folder can do, and what it refuses."""

import json

import pytest
from chat_runs import CHARACTERS, save_base

from minillm.pretrained.plain_template import plain_chat

STEPS = "--max-steps 4 --batch-size 4 --eval-interval 2 --eval-windows 4 --sample-tokens 5 --lr 1e-3".split()
PLAIN = plain_chat(CHARACTERS)
PAIRS = [
    {"prompt": f"say {word}", "chosen": f" {word}.", "rejected": f" no {word}"} for word in ("red", "blue", "green") * 4
]


@pytest.fixture
def pairs(tmp_path):
    """A model in tmp_path/base and pairs in tmp_path/pairs.jsonl."""
    save_base(tmp_path / "base")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))


def flat(text):
    """The words of a text, however it is folded."""
    return " ".join(text.split())


def test_train_and_what_its_folder_can_do(minillm, pairs, tmp_path):
    arguments = (
        "train",
        "--init",
        "base",
        "--preference-data",
        "pairs.jsonl",
        "--dpo-beta",
        0.5,
        "--out",
        "run",
        *STEPS,
    )
    shown = flat(minillm(*arguments).stderr)
    for text in (
        "pairs.jsonl: 11 pairs, ",
        " of answers, to learn from 1 pair, ",
        "to validate on (every 10th)",
        "the reference model reads the pairs, once: 12",
        "loss and accuracy and margin of the rewards: on the training pairs / on the validation pairs",
        "step 0 loss 0.693 / 0.693 accuracy 0.500 / 0.500 margin 0.000 / 0.000",
        "the prompt of a validation pair, and the model's answer: say red",
        "on all validation pairs (1 pairs): loss ",
        "minillm generate run --prompt 'say red'",
    ):
        assert text in shown
    assert "perplexity" not in shown
    minillm("generate", "run", "--prompt", "say red", "--max-tokens", 5)
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = min((event for event in events if event["event"] == "eval"), key=lambda event: event["val_loss"])
    measured = minillm("evaluate", "run").stdout
    assert (
        measured
        == f"pairs 1  loss {best['val_loss']:.4f}  accuracy {best['val_accuracy']:.4f}  margin {best['val_margin']:.4f}\n"
    )
    assert minillm("evaluate", "run", "--split", "train").stdout.startswith("pairs 11  loss ")
    assert "this run is over since step 4" in flat(minillm("train", "--resume", "run").stderr)
    changed = minillm("train", "--resume", "run", "--dpo-beta", 0.2, expect=2).stderr
    assert "--dpo-beta (the run has 0.5, given 0.2)" in flat(changed)


@pytest.mark.parametrize(
    "chat, option", [((), "run --prompt 'say red'"), (("--chat-template", "plain"), "run --chat --prompt")]
)
def test_pairs_of_texts_are_tried_as_texts_though_the_model_has_a_template(chat, option, minillm, pairs, tmp_path):
    (tmp_path / "base" / "chat_template.jinja").write_text(PLAIN.template)
    done = minillm("train", "--init", "base", "--preference-data", "pairs.jsonl", *chat, "--out", "run", *STEPS)
    assert f"minillm generate {option}" in flat(done.stderr)


def test_the_preset_is_taken_by_itself(minillm, pairs, tmp_path):
    """Its learning rate is small, and the run has its name."""
    minillm("train", "--init", "base", "--preference-data", "pairs.jsonl", *STEPS[:-2])
    state = json.loads((tmp_path / "runs" / "preferences-1" / "training" / "state.json").read_text())
    assert state["settings"]["lr"] == 1e-5 and state["settings"]["dpo_beta"] == 0.1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--preference-data pairs.jsonl", "--preference-data changes a model that can write: name it with --init"),
        ("--init base --preference-data none.jsonl", "none.jsonl does not exist: name a file of JSON lines"),
        (
            "--init base --preference-data wrong.jsonl",
            "wrong.jsonl, line 2: rejected is missing: a pair has two answers",
        ),
        ("--init base --preference-data pairs.jsonl --chat-data pairs.jsonl", "a run learns from one of them"),
        ("--init base --preference-data pairs.jsonl --data pairs.jsonl", "a run learns from one of them"),
        ("--init base --preference-data pairs.jsonl --dpo-beta -1", "--dpo-beta is -1.0: it must be a finite number"),
        ("--init base --dpo-beta 0.2", "--dpo-beta is of preferences: name them with --preference-data"),
    ],
)
def test_wrong_arguments_are_one_line(minillm, pairs, tmp_path, arguments, message):
    (tmp_path / "wrong.jsonl").write_text(json.dumps(PAIRS[0]) + '\n{"prompt": "say", "chosen": "red"}\n')
    shown = minillm("train", *arguments.split(), "--out", "run", expect=2).stderr
    assert message in flat(shown) and "Traceback" not in shown
    assert not (tmp_path / "run").exists()
