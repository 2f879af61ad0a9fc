"""`minillm info --model` and `minillm train --profile` at the command line."""

import re

import pytest

SMALL = "--tokenizer char --n-layer 1 --n-head 2 --d-model 16 --dropout 0".split()
SMALL += "--context-length 8 --batch-size 4 --eval-interval 50 --eval-windows 4 --sample-tokens 0".split()


def sizes(shown: str) -> dict[str, float]:
    """Name -> megabytes, of the rows of a table."""
    rows = [line.rsplit(None, 2) for line in shown.splitlines() if line.endswith(" MB")]
    return {name.strip(): float(number.replace(",", "")) for name, number, _ in rows}


def test_info_says_what_training_takes(minillm):
    done = minillm(*"info --model gpt2 --batch 16 --context 1024 --dtype bfloat16 --device cuda".split())
    assert "gpt2: GPT-2, 124,439,808 parameters; a step of 16 x 1024 tokens, bfloat16, on cuda" in " ".join(
        done.stdout.split()
    )
    found = sizes(done.stdout)
    parts = ("weights", "moments", "gradients", "activations", "workspace")
    assert found["total"] == pytest.approx(sum(found[part] for part in parts), abs=0.5)
    assert (found["weights"], found["moments"]) == (744.9, 995.5)
    less = sizes(minillm(*"info --model gpt2 --batch 16 --device cuda --checkpoint-activations".split()).stdout)
    assert less["total"] < found["total"] / 2 and less["inputs of blocks"] > 0


def test_info_of_a_run_folder(minillm, train):
    train("--max-steps", 1, *SMALL)
    shown = minillm("info", "--model", "run", "--batch-size", 2).stdout
    assert "run: GPT-2, " in shown and "a step of 2 x 8 tokens, float32, on cpu" in shown
    assert "Free on this machine now: " in shown


def test_info_of_a_model_that_only_writes(minillm, train):
    """float16 takes half of float32, beside a block of each thread and the cache."""
    train("--max-steps", 1, *SMALL)
    shown = minillm("info", "--model", "run", "--dtype", "float16", "--context", 4).stdout
    found = {name: float(size) for name, size in re.findall(r"^(.+?)  +([\d.]+) MB$", shown, re.M)}
    assert found["blocks of float32"] >= 2.1 and found["keys and values of 4 tokens"] < 0.1
    assert "writing: matrices stay F16" in shown
    shown = minillm("info", "--model", "run", "--dtype", "stored").stdout
    assert "writing: the file has no matrix of 16 bits or fewer" in " ".join(shown.split())
    refused = minillm("train", "--data", "text.txt", "--dtype", "float16", expect=2).stderr
    assert refused.endswith("(it keeps the weights of a model that only reads and writes)\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--model gpt5", "--model gpt5 is no preset (default,"),
        ("--model gpt2 --dtype int4", 'unknown dtype "int4": use one of float32,'),
        ("--model gpt2 --device tpu", 'unknown device "tpu": use one of cpu, cuda, cudasim'),
        ("--model gpt2 --dropout 2", "dropout is 2.0"),
        ("--model gpt2 --dtype stored", "--dtype stored is about the file of a model: gpt2 is a preset"),
        ("--model run --dtype float16 --batch 4", "--batch-size is about training, and --dtype float16 about writing"),
        ("--batch 4", "sizes are those of a model: name it with --model"),
    ],
)
def test_info_complains_in_one_line(minillm, arguments, message):
    done = minillm("info", *arguments.split(), expect=2)
    assert done.stderr.startswith("minillm: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_a_profile_is_printed_and_training_goes_on(minillm):
    shown = minillm("train", "--data", "text.txt", "--out", "run", "--max-steps", 7, "--profile", *SMALL).stderr
    assert shown.count("\nmatrix product ") == 1 and "\nbetween: Python " in shown
    assert "by the formula 6 N + 12 L H D T a token" in shown and "utilisation n/a" in " ".join(shown.split())
    assert "best model: step 7" in shown and "not reached" not in shown


def test_a_run_too_short_for_a_profile_says_so(minillm):
    shown = minillm("train", "--data", "text.txt", "--out", "run", "--max-steps", 3, "--profile", *SMALL).stderr
    assert "--profile: no step was taken apart: that takes 5 steps, and some more on a GPU" in shown
