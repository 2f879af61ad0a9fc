"""A whole run with ZeRO 2 and 3: evaluations, samples, checkpoints and the model are those of one process."""

import json

import numpy as np
import pytest

from minillm import from_pretrained
from minillm.distributed.machine import Machine
from minillm.distributed.rank_threads import run_ranks
from minillm.training import resume_run, train

FILES = ("model.safetensors", "training/optimizer.safetensors")
STEPS = dict(batch_parts=4, max_steps=4, eval_interval=2)


def numbers(folder):
    """All losses, norms and texts of metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def train_on_ranks(folder, ranks, zero, shares_memory=False, stop_after=None):
    def task(communicator):
        run = resume_run(folder, communicator=communicator, zero=zero)
        reason = train(run, stop_after=stop_after, machine=Machine(zero=zero, threads=1))
        return reason, {name: p.value.copy() for name, p in run.model.parameters().items()}

    return run_ranks(ranks, task, shares_memory)


@pytest.fixture
def alone(new_run, tmp_path):
    train(new_run("alone", **STEPS))
    return tmp_path / "alone"


def assert_same_run(folder, alone):
    assert numbers(folder) == numbers(alone)
    for name in FILES:
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.mark.parametrize("zero, shares_memory", [(2, False), (3, False), (3, True)])
def test_the_files_are_those_of_one_process(new_run, tmp_path, alone, zero, shares_memory):
    new_run("many", **STEPS).release()
    found = train_on_ranks(tmp_path / "many", 2, zero, shares_memory)
    assert_same_run(tmp_path / "many", alone)
    for reason, weights in found:  # when it has ended every rank has all weights
        assert reason == "finished"
        last = from_pretrained(tmp_path / "many").parameters()
        if numbers(alone)[-2].get("best"):
            assert all(np.array_equal(weights[name], p.value) for name, p in last.items())
        assert all(np.array_equal(weights[name], value) for name, value in found[0][1].items())


def test_a_run_goes_on_with_another_number_of_ranks_and_another_level(new_run, tmp_path, alone):
    new_run("many", **STEPS).release()
    train_on_ranks(tmp_path / "many", 2, 3, stop_after=1)
    train_on_ranks(tmp_path / "many", 3, 2, stop_after=3)
    train(resume_run(tmp_path / "many"))
    assert_same_run(tmp_path / "many", alone)
