"""minillm generate: what is shown, and what is refused."""

import json

import pytest

SMALL = "--n-layer 1 --n-head 2 --d-model 16 --context-length 16 --tokenizer char"
SMALL += " --batch-size 4 --eval-interval 60 --eval-windows 4"


@pytest.fixture
def generate(minillm, train):
    train("--max-steps", 60, "--sample-tokens", 0, *SMALL.split())

    def run(*arguments, **settings):
        return minillm("generate", "run", "--prompt", "the ", *arguments, **settings)

    return run


def test_every_way_to_write(generate, tmp_path):
    """One training, many ways: each prints a text, and only that, to standard output."""
    ways = [
        "--temperature 0",
        "--top-k 5 --top-p 0.9 --min-p 0.01 --typical-p 0.95 --eta-cutoff 0.001 --epsilon-cutoff 0.001 --top-n-sigma 2",
        "--xtc-probability 0.5 --xtc-threshold 0.1 --repetition-penalty 1.2 --presence-penalty 0.1 --frequency-penalty 0.1",
        "--no-repeat-ngram 3 --dry-multiplier 0.8 --penalty-window 32",
        "--mirostat 3",
        "--order hf --top-k 5",
        "--order llama.cpp --dry-multiplier 1 --dry-breaker q",
        "--beams 3",
        "--contrastive-alpha 0.5",
        "--lookup",
        "--draft run",
    ]
    for way in ways:
        done = generate("--max-tokens", 8, *way.split())
        assert done.stdout.startswith("the ") and 4 < len(done.stdout.rstrip("\n")) <= 12, way


def test_what_is_shown(generate, tmp_path):
    text = generate("--max-tokens", 10, "--seed", 3).stdout
    traced = generate("--max-tokens", 10, "--seed", 3, "--trace", "--logprobs", "--top-k", 50)
    assert traced.stdout == text  # looking changes nothing
    assert traced.stderr.count("falls into") == 10 and "top_k" not in traced.stderr.splitlines()[0]
    assert sum(line.startswith("  -") for line in traced.stderr.splitlines()) == 10

    lines = generate("--max-tokens", 10, "--seed", 3, "--json", "--num-samples", 2, "--logprobs", "--trace").stdout
    first, second = map(json.loads, lines.splitlines())
    assert (
        first["prompt"] + first["text"] + "\n" == text
        and first["reason"] == "length"
        and second["text"] != first["text"]
    )
    assert len(first["logprobs"]) == len(first["ids"]) == len(first["trace"]) == 10

    note = "the oldest quarter slid out of view"
    assert note in generate("--max-tokens", 14).stderr  # 17 tokens are read, the context has 16
    assert note not in generate("--max-tokens", 13).stderr
    assert note not in generate("--max-tokens", 100, "--seed", 3, "--stop", text[6]).stderr  # it ends before that

    several = generate("--max-tokens", 5, "--beams", 3, "--n-best", 2).stdout
    assert several.startswith("--- 1 of 2, score -") and "--- 2 of 2, score -" in several

    stopped = generate("--max-tokens", 50, "--seed", 3, "--stop", text[6:9]).stdout
    assert stopped == text[:6] + "\n"

    compared = generate("--max-tokens", 10, "--compare", "--chart", "c.png", "--num-samples", 2)
    assert "contrastive 0.6" in compared.stdout and "repetition 1.3, greedy" in compared.stdout
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_refused(generate):
    for wrong, message in {
        "--temperature -1": "minillm: --temperature is -1.0: it must be a finite number of at least 0",
        "--top-p 0": "minillm: --top-p is 0.0: it must be a number above 0 and at most 1 (1 turns it off)",
        "--logit-bias 5": "--logit-bias 5: write two numbers",
        "--force-token 0:9999": "--force-token names token 9999, but the vocabulary has only",
        "--order hf --dry-multiplier 1": "--dry-multiplier does not exist in hf: leave it out, or use --order minillm",
        "--beams 2 --num-samples 2": "several samples",
        "--beams 2 --lookup": "cannot go together",
        "--compare --chart no/c.png": "there is no folder no",
        "--compare --max-tokens 100": "at most 13 can be written",
        "--min-tokens 5": "--min-tokens 5: run knows no end of text",
        "--repetition-penalty 0": "--repetition-penalty is 0.0",
        "--compare --json --max-time 2": "leave out --json, --max-time",
        "--lookup --logprobs --max-tokens 100": "at most 13 tokens can be written",
    }.items():
        done = generate(*wrong.split(), expect=2)
        assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout in ("", "the "), wrong
