"""--dtype at the command line."""

import re

import pytest

SMALL = (
    "--tokenizer char --n-layer 1 --n-head 2 --d-model 16 --context-length 8 --batch-size 4 --sample-tokens 4".split()
)
SMALL += "--eval-interval 4 --eval-windows 4".split()


def loss(text):
    return float(re.search(r"loss (\d\.\d+)", text)[1])


@pytest.mark.parametrize("dtype", ["bfloat16", "tf32"])
def test_a_run_in_low_precision_is_a_run_like_any_other(minillm, dtype):
    minillm(
        "train", "--data", "text.txt", "--out", "run", "--dtype", dtype, "--max-steps", 8, "--stop-after", 3, *SMALL
    )
    assert "resuming run at step 3 of 8" in minillm("train", "--resume", "run").stderr
    low = loss(minillm("evaluate", "run", "--dtype", dtype).stdout)
    assert abs(low - loss(minillm("evaluate", "run").stdout)) < 1e-2
    assert minillm("generate", "run", "--prompt", "the", "--max-tokens", 4).stdout.startswith("the")
    refused = minillm("train", "--resume", "run", "--dtype", "float32", expect=2).stderr
    assert f"dtype (the run has {dtype}, given float32)" in refused


def test_a_precision_that_is_not_there_is_refused_in_one_line(minillm):
    refused = minillm("train", "--data", "text.txt", "--dtype", "half", expect=2).stderr
    assert refused == 'minillm: unknown dtype "half": use one of float32, float64, tf32, bfloat16\n'
    minillm("train", "--data", "text.txt", "--out", "run", "--max-steps", 1, *SMALL)
    refused = minillm("generate", "run", "--dtype", "half", expect=2).stderr
    assert refused == 'minillm: unknown dtype "half": use float32, float64 or one of stored, float16, bfloat16\n'
    refused = minillm("generate", "run", "--dtype", "float16", "--device", "cudasim", expect=2).stderr
    assert refused.startswith("minillm: --dtype float16 keeps weights as their file holds them, on the CPU alone")
    assert minillm("generate", "run", "--dtype", "bfloat16", "--prompt", "the", "--max-tokens", 4).stdout.startswith(
        "the"
    )
