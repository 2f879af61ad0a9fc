"""The transport over NCCL: on an imitation with several ranks, and on a GPU with one."""

from pathlib import Path

import numpy as np
import pytest

from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Terms
from minillm.pretrained import from_pretrained
from minillm.training.metrics import read_metrics

HERE = Path(__file__).parent


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_collective_on_an_imitation(ranks, size):
    done = ranks(size, str(HERE / "nccl_collectives.py"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("is done") == size


@pytest.mark.gpu
def test_one_rank_on_a_gpu():
    """All that one GPU can show: each call is accepted, and one rank's sum is what it brought."""
    from minillm.distributed.nccl import Nccl

    nccl = pytest.importorskip("cupy.cuda.nccl")
    if not nccl.available:
        pytest.skip("NCCL is not installed")
    communicator = Nccl(Alone())
    array = communicator.shared(1000, np.float32)
    array[...] = 2
    other = array + 1
    communicator.reduce_scatter(Terms(2, [[(0, 1), (1, 2)]], [array, other]), [0, 1000])
    communicator.all_gather(array, [0, 1000])
    communicator.broadcast(array)
    communicator.sum(array)
    communicator.maximum(array)
    assert (array.get() == 5).all()
    assert sum(communicator.sent.values()) == 0
    communicator.close()


def test_training_on_several_simulated_gpus(ranks, tmp_path):
    """Within 1e-5 of one rank: losses, and weights after three steps of Adam."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30, encoding="utf-8")
    for size in (1, 2):
        done = ranks(size, str(HERE / "nccl_training.py"), str(tmp_path))
        assert done.returncode == 0, done.stdout
        assert done.stdout.count("NCCL adds in an order of its own") == (size > 1)
    one, two = (from_pretrained(tmp_path / f"run-{size}").parameters() for size in (1, 2))
    for name in one:
        assert np.allclose(one[name].value, two[name].value, rtol=1e-5, atol=1e-5), name
    losses = [_validation_losses(tmp_path / f"run-{size}") for size in (1, 2)]
    assert np.allclose(*losses, rtol=1e-5)


def _validation_losses(folder):
    return [event["val_loss"] for event in read_metrics(folder) if event["event"] == "eval"]
