"""A checkpoint that several ranks write together is the file that one process writes, byte for byte, and opens on any other
number of ranks.

Ranks are threads here (rank_threads.py), each with a model and an optimizer of its own. What a rank does not have is NaN in
its memory, so that nothing but its own part can have come from it.
"""

import errno
import os
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.distributed import saving
from minillm.distributed.model_sections import layout_for
from minillm.distributed.rank_threads import OthersEnded, run_ranks
from minillm.distributed.sharding import held_by
from minillm.errors import UserError
from minillm.files.atomic import save_tensors
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.optim import OPTIMIZERS
from minillm.training import checkpoint, checkpoint_tensors
from minillm.training.checkpoint import NotFinite, Progress, load_checkpoint, read_state, save_checkpoint

RANKS = [1, 2, 3, 5, 8]
DESCRIPTION = {"settings": {}, "model": {}}
FILES = "optimizer.safetensors", "state.json"
SHAPE = dict(vocab_size=65, context_length=8, n_layer=2, n_head=2, d_model=24)
SETUPS = {
    **{name: (name, dict(tie_embeddings=False)) for name in OPTIMIZERS},
    "tied": ("adamw", dict(tie_embeddings=True)),
    "float64": ("adamw", dict(dtype="float64")),
    "llama": ("adamw", dict(llama=True)),
    "lora": ("adamw", dict(lora=True)),
    "muon and lora": ("muon", dict(lora=True)),
}


def made(setup, seed=0):
    """(model, optimizer), with numbers in the state that all differ."""
    name, options = SETUPS[setup] if setup != "small" else ("lion", dict(n_layer=1))
    options = {**SHAPE, **options}
    dtype, lora, llama = (options.pop(key, None) for key in ("dtype", "lora", "llama"))
    kind, config = (minillm.Llama, minillm.LlamaConfig) if llama else (minillm.GPT2, minillm.GPT2Config)
    model = kind(config(**options), seed=seed, dtype=dtype or "float32")
    if lora:
        add_lora(model, LoRA(4), seed)
    optimizer = OPTIMIZERS[name](model.trainable_parameters())
    rng = np.random.default_rng(seed)
    for arrays in optimizer.state.values():
        for array in arrays.values():
            array[...] = rng.normal(size=array.shape)
    return model, optimizer


def arrays_of(model, optimizer):
    found = {f"model.{name}": parameter.value for name, parameter in model.parameters().items()}
    for kind, arrays in optimizer.state.items():
        found |= {f"{kind}.{name}": array for name, array in arrays.items()}
    return found


def held_on(model, optimizer, communicator, zero=1):
    """What a rank has of an optimizer; everything else that learns becomes NaN."""
    held = held_by(optimizer, layout_for(model, optimizer, zero), communicator.rank, communicator.size)
    own = [(array, array.copy()) for each in held for array in (each.value, *each.state.values())]
    for array in (p.value for p in optimizer.parameters.values()):
        array[...] = np.nan
    for arrays in optimizer.state.values():
        for array in arrays.values():
            array[...] = np.nan
    for array, numbers in own:
        array[...] = numbers
    return held


def saving_task(folder, setup="adamw", step=7, seed=0, save=save_checkpoint, zero=1):
    """What ranks do to save what `made` makes: a function for `run_ranks`.

    before: called first, with the number of the rank.
    """
    made_by = {}

    def task(communicator, before=None):
        key = communicator.rank, communicator.size
        if key not in made_by:
            model, optimizer = made(setup, seed)
            made_by[key] = model, optimizer, held_on(model, optimizer, communicator, zero)
        model, optimizer, held = made_by[key]
        if before is not None:
            before(communicator.rank)
        save(folder, model, optimizer, Progress(step=step), DESCRIPTION, communicator, held)

    return task


def files(folder):
    return {name: (folder / "training" / name).read_bytes() for name in FILES}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run" / "training").mkdir(parents=True)
    return tmp_path / "run"


@pytest.mark.parametrize("setup", SETUPS)
def test_the_file_of_any_number_of_ranks_is_that_of_one_process(folder, tmp_path, setup):
    save_tensors(arrays_of(*made(setup)), tmp_path / "expected", {"step": "7"})
    expected = (tmp_path / "expected").read_bytes()
    model, optimizer = made(setup)
    save_checkpoint(folder, model, optimizer, Progress(step=7), DESCRIPTION)
    alone = files(folder)
    assert alone["optimizer.safetensors"] == expected
    for size, zero in [(size, 1) for size in RANKS] + [(3, 2)]:
        (folder / "training" / "optimizer.safetensors").unlink()
        run_ranks(size, saving_task(folder, setup, zero=zero))
        assert files(folder) == alone, f"{size} ranks, ZeRO-{zero}"
    assert sorted(path.name for path in (folder / "training").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("size", RANKS)
def test_it_opens_on_any_number_of_ranks(folder, setup, size):
    saved = made(setup)
    save_checkpoint(folder, *saved, Progress(step=7), DESCRIPTION)
    expected = arrays_of(*saved)

    def task(communicator):
        model, optimizer = made(setup, seed=1)
        held = held_on(model, optimizer, communicator)
        load_checkpoint(folder, model, optimizer, 7, communicator, held)
        return arrays_of(model, optimizer), held, optimizer.step_count

    count = 0
    for arrays, held, steps in run_ranks(size, task):
        assert steps == 7
        for name, array in arrays.items():
            if name.startswith("model."):
                assert array.tobytes() == expected[name].tobytes(), name
        of_own = {
            f"{kind}.{each.piece.entry.name}": (each.piece.part, a) for each in held for kind, a in each.state.items()
        }
        for name, (part, array) in of_own.items():
            assert array.tobytes() == expected[name].reshape(-1)[part].tobytes(), name
            others = np.delete(arrays[name].reshape(-1), np.r_[part])
            assert np.isnan(others).all(), f"{name}: more was read than the rank has"
            count += array.size
    assert count == sum(array.size for name, array in expected.items() if not name.startswith("model."))


def test_ranks_that_all_have_everything_share_the_writing(folder):
    """An optimizer that is not sharded: each rank writes an equal share."""
    model, optimizer = made("adamw")
    model.parameters()["transformer.h.0.mlp.c_fc.weight"].value = np.asfortranarray(np.ones((24, 96), np.float32))
    save_checkpoint(folder, model, optimizer, Progress(step=7), DESCRIPTION)
    expected = files(folder)

    def task(communicator):
        tensors = checkpoint_tensors.CheckpointTensors(model, optimizer, communicator)
        save_checkpoint(folder, model, optimizer, Progress(step=7), DESCRIPTION, communicator)
        return sum(part.array.size for part in tensors.own)

    shares = run_ranks(4, task)
    assert files(folder) == expected
    assert max(shares) < 1.1 * sum(shares) / 4


# --------------------------------------------------------------------------------------- what goes wrong in one rank


def test_a_number_that_is_not_finite_in_one_rank_is_refused_by_all(folder):
    run_ranks(3, saving_task(folder, step=5))
    before = files(folder)
    check_that_all_refuse(folder, save_checkpoint)
    assert files(folder) == before and len(list((folder / "training").iterdir())) == 2


def check_that_all_refuse(folder, save):
    def task(communicator):
        model, optimizer = made("adamw")
        held = held_on(model, optimizer, communicator)
        if communicator.rank == 1:
            held[0].state["second_moment"][3] = np.inf
        save(folder, model, optimizer, Progress(step=7), DESCRIPTION, communicator, held)

    with pytest.raises(
        NotFinite, match=r"step 7: second_moment\..* is no longer finite; .* \(rank 1 on .*\)"
    ) as caught:
        run_ranks(3, task)
    assert [str(error) for error in caught.value.of_ranks] == [str(caught.value)] * 3


class Disk:
    """Fails the calls of one rank's thread that are counted here: number `at` of them, and those after it."""

    def __init__(self, monkeypatch, rank, at):
        self.rank, self.at, self.calls, self.thread = rank, at, 0, None
        for name in ("write", "fsync", "replace", "open", "close", "posix_fallocate"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def before(self, rank):
        if rank == self.rank:
            self.thread = threading.get_ident()

    def _failing(self, call):
        def counted(*arguments, **options):
            if threading.get_ident() == self.thread:
                self.calls += 1
                if self.calls > self.at:
                    if call is os_close:
                        call(*arguments)
                    raise OSError(errno.ENOSPC, "No space left on device")
            return call(*arguments, **options)

        return counted


os_close = os.close


@pytest.mark.parametrize("rank", [0, 2])
def test_a_disk_that_is_full_at_any_moment_for_any_rank(folder, rank):
    assert check_full_disk(folder, rank, save_checkpoint) > (10 if rank == 0 else 5)


def check_full_disk(folder, rank, save):
    """All ranks raise one error, and the last checkpoint, or the new one, is there as a whole; returns how often it failed."""
    model, optimizer = made("small", seed=5)
    save_checkpoint(folder, model, optimizer, Progress(step=5), DESCRIPTION)
    expected = {step: arrays_of(*made("small", seed=step)) for step in (5, 7)}
    task = saving_task(folder, "small", step=7, seed=7, save=save)
    for at in range(100):
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, rank, at)
            try:
                run_ranks(3, partial(task, before=disk.before))
            except OSError as error:
                assert error.errno == errno.ENOSPC and f"(rank {rank} on " in error.strerror
                assert str(error.filename).startswith(str(folder / "training")) and ".tmp" not in error.filename
                of_all = [(type(e), e.strerror, e.filename) for e in error.of_ranks]
                assert of_all == [(OSError, error.strerror, error.filename)] * 3
            else:
                assert disk.calls == at, "every call was tried, up to the first that was none"
                return at
        assert not list((folder / "training").glob(".*")), "something half-written was left"
        step = read_state(folder)[0].step
        load_checkpoint(folder, model, optimizer, step)
        for name, array in arrays_of(model, optimizer).items():
            assert array.tobytes() == expected[step][name].tobytes()
    raise AssertionError("it never ends")


def test_a_rank_that_does_not_see_the_folder(folder, tmp_path):
    """It may be on another machine's disk."""
    (tmp_path / "elsewhere" / "training").mkdir(parents=True)

    def task(communicator):
        model, optimizer = made("adamw")
        held = held_on(model, optimizer, communicator)
        seen = tmp_path / "elsewhere" if communicator.rank == 2 else folder
        save_checkpoint(seen, model, optimizer, Progress(step=7), DESCRIPTION, communicator, held)

    with pytest.raises(FileNotFoundError) as caught:
        run_ranks(3, task)
    assert "(rank 2 on " in caught.value.strerror
    assert [type(error) for error in caught.value.of_ranks] == [FileNotFoundError] * 3
    assert list((folder / "training").iterdir()) == []


def test_ranks_that_see_different_checkpoints(folder, tmp_path):
    run_ranks(2, saving_task(folder))
    (tmp_path / "older" / "training").mkdir(parents=True)
    run_ranks(2, saving_task(tmp_path / "older", step=5))

    def task(communicator):
        model, optimizer = made("adamw")
        held = held_on(model, optimizer, communicator)
        seen = tmp_path / "older" if communicator.rank == 1 else folder
        load_checkpoint(seen, model, optimizer, 7, communicator, held)

    with pytest.raises(UserError, match=r"older.*is of step 5 here, and of step 7 for rank 0.*\(rank 1 on") as caught:
        run_ranks(3, task)
    assert [type(error) for error in caught.value.of_ranks] == [UserError] * 3


# -------------------------------------------------------------------------------------------------- faults, and memory


def test_parts_that_do_not_make_up_the_whole_are_noticed(folder):
    """A part that is missing, that is shifted by a cell, or that two ranks have."""

    def shifted(held):
        name = next(e.piece.entry.name for e in held if e.piece.part.start >= 1024)
        for i, each in enumerate(held):
            if each.piece.entry.name == name:
                part = slice(each.piece.part.start - 1024, each.piece.part.stop - 1024)
                held[i] = replace(each, piece=replace(each.piece, part=part))

    faults = {
        "missing": lambda held: held.pop(),
        "shifted": shifted,
        "twice": lambda held: held.append(held[0]),
    }
    for fault in faults.values():

        def task(communicator, fault=fault):
            model, optimizer = made("adamw")
            held = held_on(model, optimizer, communicator)
            if communicator.rank == 1:
                fault(held)
            with pytest.raises(RuntimeError, match="do not make up the whole"):
                save_checkpoint(folder, model, optimizer, Progress(step=7), DESCRIPTION, communicator, held)

        run_ranks(3, task)
    assert list((folder / "training").iterdir()) == []


@pytest.mark.parametrize(
    "faults",
    [
        {saving: ("    with together(communicator):\n        plan.write", "    if plan:\n        plan.write")},
        {
            saving: (
                "    with together(communicator):\n        if communicator",
                "    if plan:\n        if communicator",
            )
        },
        {
            saving: (
                "        with together(communicator):\n            stack.close",
                "        if stack:\n            stack.close",
            )
        },
        {
            checkpoint: (
                "        with together(ranks):\n            if ranks",
                "        if ranks:\n            if ranks",
            )
        },
        {checkpoint: ("    with together(ranks):\n        _check_finite", "    if ranks:\n        _check_finite")},
        {checkpoint: ("        write_together(temporary, plan, tensors.own, ranks)\n", "")},
        {checkpoint: ("write_together(temporary, plan, tensors.own, ranks)", "plan.create(temporary)")},
        {  # the file gets its name as soon as rank 0 has written its part
            saving: ("    with together(communicator):\n        plan.write", "    if plan:\n        plan.write"),
            checkpoint: (
                "        with together(ranks):\n            if ranks",
                "        if ranks:\n            if ranks",
            ),
        },
    ],
)
def test_faults_in_the_order_of_things_are_noticed(folder, faults):
    faulty = planted(checkpoint, *faults.get(checkpoint, ("class NotFinite", "class NotFinite")))
    if saving in faults:
        faulty_saving = planted(saving, *faults[saving])
        faulty.write_together, faulty.replacing_together = (
            faulty_saving.write_together,
            faulty_saving.replacing_together,
        )
    faulty.NotFinite = NotFinite
    with pytest.raises((AssertionError, OthersEnded, OSError)):
        check_the_order_of_things(folder, faulty.save_checkpoint)


def test_the_file_gets_its_name_when_all_have_written(folder):
    check_that_the_file_is_complete(folder, save_checkpoint)


def check_the_order_of_things(folder, save):
    check_that_the_file_is_complete(folder, save)
    check_that_all_refuse(folder, save)
    for rank in (0, 2):
        check_full_disk(folder, rank, save)


def check_that_the_file_is_complete(folder, save):
    """When it gets its name; the last rank writes as late as it can."""
    save_checkpoint(folder, *made("small"), Progress(step=7), DESCRIPTION)
    expected = files(folder)["optimizer.safetensors"]
    named, late, contents = threading.Event(), [], []

    def write(file, data, call=os.write):
        if threading.get_ident() in late:
            named.wait(0.2)
            late.clear()
        return call(file, data)

    def rename(source, target, call=os.replace):
        if str(target).endswith("/optimizer.safetensors"):
            contents.append(source.read_bytes())
            named.set()
        call(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(os, "replace", rename)
        task = saving_task(folder, "small", save=save)

        def noted(rank):
            if rank == 2:
                late.append(threading.get_ident())

        run_ranks(3, partial(task, before=noted))
    assert contents == [expected]
