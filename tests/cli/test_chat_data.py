"""`minillm train --chat-data`, and what shows its result: inspect, evaluate, generate --chat."""

import json

import pytest
from chat_runs import CHARACTERS, conversations, save_base, write_lines

from minillm import BytePairTokenizer, from_pretrained

STEPS = "--max-steps 4 --batch-size 4 --eval-interval 2 --eval-windows 4 --sample-tokens 5".split()


@pytest.fixture
def talks(tmp_path):
    """A model in tmp_path/base and conversations in tmp_path/talks.jsonl."""
    save_base(tmp_path / "base")
    write_lines(tmp_path / "talks.jsonl", conversations(12))


def flat(text):
    """The words of a text, however it is folded."""
    return " ".join(text.split())


def test_train_and_what_its_folder_can_do(minillm, talks, tmp_path):
    shown = flat(minillm("train", "--init", "base", "--chat-data", "talks.jsonl", "--out", "chat", *STEPS).stderr)
    assert "talks.jsonl: 11 conversations, " in shown and " of the assistant, in " in shown
    assert "1 conversation, " in shown and "to validate on (every 10th)" in shown
    assert "loss and perplexity: on the training conversations / on the validation conversations" in shown
    assert "a validation conversation, and the model's answer:" in shown
    assert "on all validation conversations (" in shown
    assert "minillm generate chat --chat --prompt 'say " in shown
    minillm("generate", "chat", "--chat", "--prompt", "say red", "--max-tokens", 5)
    measured = minillm("evaluate", "chat").stdout
    assert measured.startswith("tokens ") and "bits" not in measured
    events = [json.loads(line) for line in (tmp_path / "chat" / "metrics.jsonl").read_text().splitlines()]
    best = min(event["val_loss"] for event in events if event["event"] == "eval")
    assert float(measured.split()[3]) == pytest.approx(best, abs=1e-4)  # four digits of it
    both = [minillm("evaluate", "chat", *more).stdout.split()[1] for more in ([], ["--split", "train"])]
    every = minillm("evaluate", "chat", "--chat-data", "talks.jsonl").stdout.split()[1]
    assert sum(int(count.replace(",", "")) for count in both) == int(every.replace(",", ""))
    shown = minillm("train", "--resume", "chat").stderr
    assert "this run is over since step 4" in flat(shown)


def test_an_answer_ends_at_a_blank_line(minillm, talks, tmp_path):
    """A vocabulary of characters has no end of text: the plain template's end of a turn is a text."""
    minillm("train", "--init", "base", "--chat-data", "talks.jsonl", "--out", "chat", *STEPS)
    options = ("--chat", "--prompt", "say red", "--temperature", 0, "--max-tokens", 40, "--force-token")
    forced = [f"{place}:{index}" for place, index in enumerate(CHARACTERS.encode("red.\n\nUser"))]
    options = [*options[:-1], *(word for pair in forced for word in ("--force-token", pair))]
    assert minillm("generate", "chat", *options).stdout.strip() == "red."
    assert "User" in minillm("generate", "chat", *options, "--ignore-end").stdout


def test_inspect_shows_what_is_learned(minillm, talks):
    shown = minillm("inspect", "base", "--chat-data", "talks.jsonl", "--line", 2).stdout
    lines = shown.splitlines()
    assert lines[0].startswith("talks.jsonl, line 2: ") and lines[0].endswith("of them learned (>)")
    learned = [line.split(">", 1)[1] for line in lines if line.startswith("assistant >")]
    said = [m["content"] for m in conversations(12)[1]["messages"] if m["role"] == "assistant"]
    assert ["".join(line.split()).replace("·", " ") for line in learned] == [f"{text}\\n\\n" for text in said]
    assert "all 12 examples of the file in " in shown and "\nrow 1: line " in shown
    rows = [
        json.loads(line)
        for line in minillm("inspect", "base", "--chat-data", "talks.jsonl", "--json").stdout.splitlines()
    ]
    tokens = [row for row in rows if "token" in row]
    assert "".join(row["token"] for row in tokens if row["learned"]) == "red.\n\n"
    assert {row["role"] for row in tokens} == {"user", "assistant"}
    assert sum(len(row["examples"]) for row in rows if "row" in row) == 12


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            "train --chat-data talks.jsonl",
            "--chat-data teaches a model to answer: name the model that it continues from",
        ),
        ("train --init base --chat-data none.jsonl", "none.jsonl does not exist: name a file of JSON lines"),
        ("train --init base --chat-data text.txt", "text.txt, line 1: no JSON at column 1, 'the quick brown fox '"),
        (
            "train --init base --chat-data talks.jsonl --data text.txt",
            "--data is a text and --chat-data are conversations",
        ),
        (
            "train --init base --chat-data talks.jsonl --chat-template a.jinja",
            "--chat-template: a.jinja cannot be read",
        ),
        ("train --init base --chat-data talks.jsonl --chat-template own", "base has no chat template"),
        ("inspect base --chat-data talks.jsonl --line 99", "talks.jsonl has no conversation in line 99"),
        ("inspect base --chat-data talks.jsonl --tensor wte", "--chat-data shows tokens, not tensors"),
        ("inspect base", "what is to be looked at is --text, or a conversation of --chat-data"),
        ("inspect base --text say --line 2", "--line and --chat-template belong to a file of conversations"),
        ("evaluate base --chat-data talks.jsonl --data text.txt", "--data is a text and --chat-data are conversations"),
        (
            "evaluate base --chat-data talks.jsonl --split train",
            "--split: of a run's conversations it is train or validation",
        ),
        ("evaluate base --data text.txt --chat-template plain", "--chat-template is the template of conversations"),
    ],
)
def test_complaints_are_one_line_and_nothing_is_written(minillm, talks, tmp_path, arguments, message):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    refused = minillm(*arguments.split(), expect=2).stderr
    assert refused.startswith(f"minillm: {message}") and refused.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.name != "runs") == before


def test_a_template_of_ones_own(minillm, talks, tmp_path):
    own = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\\n' }}{% endfor %}{{ 'a:' if add_generation_prompt }}"
    (tmp_path / "own.jinja").write_text(own)
    minillm(
        "train", "--init", "base", "--chat-data", "talks.jsonl", "--chat-template", "own.jinja", "--out", "chat", *STEPS
    )
    assert (tmp_path / "chat" / "chat_template.jinja").read_text() == own
    shown = minillm("inspect", "chat", "--chat-data", "talks.jsonl").stdout
    assert "user        u : s a y" in shown  # the run's own template now


def test_a_prompt_that_is_not_how_answers_are_written(minillm, talks, tmp_path):
    own = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}{{ 'a: ' if add_generation_prompt }}"
    (tmp_path / "own.jinja").write_text(own)
    shown = minillm(
        "train", "--init", "base", "--chat-data", "talks.jsonl", "--chat-template", "own.jinja", *STEPS
    ).stderr
    assert "the template's prompt for an answer ends in ': ', which it does not write before" in flat(shown)
    assert "the template writes nothing after an answer" in flat(shown)


def test_lora_and_a_token_that_the_model_never_wrote(minillm, talks, tmp_path):
    """Two tokens whose rows of the output layer are the same have the same logit, whatever LoRA does."""
    tokenizer = BytePairTokenizer.train("say red. " * 20, 270, ["<|endoftext|>"])
    model = from_pretrained(save_base(tmp_path / "words", "llama", tokenizer))
    end, rows = tokenizer.special_tokens["<|endoftext|>"], model.lm_head.weight.value
    options = ("train", "--init", "words", "--chat-data", "talks.jsonl", "--lora-rank", 2, *STEPS)
    assert "LoRA cannot teach" not in minillm(*options).stderr
    rows[200:203] = rows[end] * 1.5
    model.save_pretrained(tmp_path / "words")
    shown = flat(minillm(*options).stderr)
    assert "LoRA cannot teach the token '<|endoftext|>', which ends an answer" in shown
    assert "gives 3 other tokens the same logit; train without --lora-rank" in shown
    assert "LoRA cannot teach" not in minillm(*[each for each in options if each not in ("--lora-rank", 2)]).stderr
