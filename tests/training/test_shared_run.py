"""Runs that several processes train together, of which some share the model."""

import json

import numpy as np
import pytest
import safetensors.numpy

from minillm.distributed.machine import Machine
from minillm.errors import UserError
from minillm.training import TrainingSettings, resume_run, start_run, train
from minillm.training.grid import check_grid, of_grid

SETTINGS = dict(
    dtype="float64", batch_size=4, batch_parts=2, gradient_accumulation=2, gradient_clip=0.5,
    max_steps=4, eval_interval=2, eval_windows=2, sample_tokens=2,
)  # fmt: skip


def trained(run, processes, shared_by, stop_after=None):
    """The tensors of the checkpoint, and what metrics.jsonl says, but for speeds."""
    machine = Machine(processes=processes, threads=1, tensor_parallel=shared_by)
    train(run, stop_after=stop_after, machine=machine)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("tokens_per_second", None)
    return safetensors.numpy.load_file(run.folder / "training" / "optimizer.safetensors"), lines


def assert_same_bits(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(np.array_equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1] == other[1]


def assert_close_tensors(one, other):
    assert one[0].keys() == other[0].keys()
    for name, array in one[0].items():
        np.testing.assert_allclose(other[0][name], array, rtol=0, atol=1e-11 * max(1e-3, np.abs(array).max()))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_any_number_of_groups_gives_the_same_bits_and_one_process_the_same_numbers(new_run, optimizer):
    settings = SETTINGS | dict(optimizer=optimizer)
    two = trained(new_run("two", model=dict(dropout=0.1), **settings), 2, 2)
    assert_same_bits(two, trained(new_run("four", model=dict(dropout=0.1), **settings), 4, 2))
    assert_close_tensors(two, trained(new_run("one", model=dict(dropout=0.1), **settings), 1, 1))


def test_a_run_goes_on_with_another_number_of_ranks(new_run):
    whole = trained(new_run("whole", **SETTINGS), 2, 2)
    run = new_run("half", **SETTINGS)
    trained(run, 4, 2, stop_after=2)
    assert_same_bits(whole, trained(resume_run(run.folder), 2, 2))
    run = new_run("other", **SETTINGS)
    trained(run, 2, 2, stop_after=2)
    assert_close_tensors(whole, trained(resume_run(run.folder), 1, 1))


def test_the_run_has_the_whole_model_afterwards(new_run):
    run = new_run(**SETTINGS)
    tensors, _ = trained(run, 2, 2)
    assert run.model.sharing is None
    for name, parameter in run.model.parameters().items():
        assert np.array_equal(parameter.value, tensors[f"model.{name}"])
    for kind, arrays in run.optimizer.state.items():
        assert all(np.array_equal(array, tensors[f"{kind}.{name}"]) for name, array in arrays.items())


def test_lora(new_run, text_file, tmp_path):
    base = new_run("base", **SETTINGS).folder
    settings = TrainingSettings(**SETTINGS, data=(str(text_file),), init=str(base), lora_rank=2)
    shared, alone = (start_run(settings, {}, tmp_path / name) for name in ("shared", "alone"))
    assert_close_tensors(trained(shared, 2, 2), trained(alone, 1, 1))
    for name in ("adapter_model.safetensors", "model.safetensors"):  # what of the two a run of LoRA writes
        if (alone.folder / name).exists():
            adapters = [safetensors.numpy.load_file(run.folder / name) for run in (alone, shared)]
            assert_close_tensors(*([each] for each in adapters))


# ------------------------------------------------------------------------------------------------------ refused by name


def test_processes_that_do_not_make_groups(new_run):
    with pytest.raises(
        UserError, match="--tensor-parallel 2: 3 processes do not make groups of so many; 1, 3 would fit"
    ):
        train(new_run(**SETTINGS), machine=Machine(processes=3, tensor_parallel=2))
    check_grid(6, 3)


def test_heads_that_cannot_be_shared(new_run):
    run = new_run(**SETTINGS)
    with pytest.raises(UserError, match="cannot share the 2 heads of h.0.attn equally; 1 or 2 would fit"):
        train(run, machine=Machine(processes=3, tensor_parallel=3))
    assert_same_bits(trained(run, 2, 2), trained(new_run("other", **SETTINGS), 2, 2))


@pytest.mark.parametrize("settings", [dict(threads=2), dict(zero=2)], ids=str)
def test_what_does_not_go_together(settings):
    with pytest.raises(
        UserError, match="--tensor-parallel 2 with --(threads|zero) 2: ranks that share matrices have one"
    ):
        Machine(tensor_parallel=2, **settings)


# ------------------------------------------------------------------------------------------------------ the global norm


class Ranks:
    """The communicator of rank 1 of 2, where rank 0 brings a table of its own."""

    rank, size = 1, 2

    def __init__(self, other):
        self.other = other

    def sum(self, table):
        table += self.other


def test_what_all_ranks_have_whole_counts_once():
    of_rank_0 = np.array([[0.0, 1.0, 10.0], [0.0, 0.0, 0.0]])  # of a part 1, of what is whole 10
    assert of_grid(Ranks(of_rank_0), False, [2.0, 10.0], [True, False]) == (False, 13.0)


def test_a_rank_that_is_to_stop_stops_all():
    of_rank_0 = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert of_grid(Ranks(of_rank_0), False, [2.0], [True]) == (True, 3.0)
