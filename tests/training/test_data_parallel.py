import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend import threads
from minillm.backend.random_streams import stream
from minillm.backend.threads import default_workers
from minillm.checks.cases import randomised
from minillm.layers.documents import packed_starts
from minillm.training import data_parallel
from minillm.training.data_parallel import DataParallel

CONFIG = minillm.GPT2Config(vocab_size=11, context_length=8, n_layer=2, n_head=2, d_model=8, dropout=0.3)
IDS, TARGETS = (stream("test", name).integers(11, (5, 8)) for name in ("ids", "targets"))


STARTS = np.stack([packed_starts(lengths, 8) for lengths in ([3, 5], [8], [1, 2, 4], [4], [2, 2, 2, 2])])


def losses_and_gradients(workers, module=data_parallel):
    """Of the rows as they are, then of packed documents."""
    model = randomised(minillm.GPT2(CONFIG, seed=0, dtype="float64"))
    with module.DataParallel(model, workers) as parallel:
        losses = [parallel.loss_and_gradients(IDS, TARGETS, rng_key=(1,)), parallel.loss(IDS, TARGETS)]
        losses += [parallel.loss_and_gradients(IDS, TARGETS, (1,), STARTS), parallel.loss(IDS, TARGETS, STARTS)]
    return losses, {name: parameter.grad for name, parameter in model.parameters().items()}


@pytest.mark.parametrize("workers", [2, 3, 5, 8])
def test_the_cut_changes_nothing(workers):
    """Loss and gradients, with dropout: each part's masks are the parts of the whole batch's masks."""
    if not threads.thread_count():
        pytest.skip("this BLAS cannot be told how many threads to use, so batches are not cut")
    losses, gradients = losses_and_gradients(1)
    cut_losses, cut_gradients = losses_and_gradients(workers)
    assert cut_losses == pytest.approx(losses, rel=1e-13)
    for name, gradient in gradients.items():
        assert_close(cut_gradients[name], gradient)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dropout.batch_offset = rows_each * rows.start", "pass"),
        ("gradients.sum(self.share)", "gradients.terms().arrays[0]"),
        ("model.loss(ids, targets, rng_key, count)", "model.loss(ids, targets, rng_key, None)"),
        (
            "array[rows.start : rows.stop] for array in arrays)",
            "array[rows.start : rows.stop] if array.dtype != 'int32' else array[: len(rows)] for array in arrays)",
        ),
    ],
)
def test_faults_are_caught(right, wrong):
    if not threads.thread_count():
        pytest.skip("this BLAS cannot be told how many threads to use, so batches are not cut")
    losses, gradients = losses_and_gradients(1)
    wrong_losses, wrong_gradients = losses_and_gradients(2, planted(data_parallel, right, wrong))
    same_losses = wrong_losses == pytest.approx(losses, rel=1e-9)
    assert not same_losses or any(np.abs(wrong_gradients[n] - g).max() > 1e-9 for n, g in gradients.items())


def test_the_mode_and_the_threads_are_given_back():
    model = minillm.GPT2(CONFIG).eval()
    with threads.blas_threads(3):  # as no copy has them
        before = threads.thread_count()
        with DataParallel(model, 2) as parallel:
            parallel.loss(IDS, TARGETS)
        assert threads.thread_count() == before and not model.training


def test_default_workers(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 4)
    assert [default_workers(*sizes) for sizes in [(12, 64), (1, 1024), (64, 256), (4, 8)]] == [3, 1, 4, 1]
    assert default_workers(64, 256, "cuda") == default_workers(64, 256, "cudasim") == 1


def test_an_error_in_a_part_is_raised():
    ids = IDS.copy()
    ids[4, 0] = 99
    with DataParallel(minillm.GPT2(CONFIG), 2) as parallel, pytest.raises(minillm.errors.UserError, match="is 99"):
        parallel.loss_and_gradients(ids, TARGETS, rng_key=(1,))


def test_wrong_starts_are_refused_with_their_row():
    starts = STARTS.copy()
    starts[4, 1] = 3
    with DataParallel(minillm.GPT2(CONFIG), 2) as parallel:
        with pytest.raises(minillm.errors.UserError, match=r"starts\[4, 1\] is 3"):
            parallel.loss(IDS, TARGETS, starts)
        with pytest.raises(minillm.errors.UserError, match=r"shape of the ids, \(5, 8\)"):
            parallel.loss(IDS, TARGETS, np.repeat(STARTS, 2, axis=0))


class OwnLoss(minillm.GPT2):
    def loss(self, ids, targets, rng_key=None, count=None):
        return super().loss(ids, targets, rng_key, count)


def test_an_own_loss_gets_starts_only_where_there_are_some():
    with DataParallel(OwnLoss(CONFIG), 2) as parallel:
        assert parallel.loss(IDS, TARGETS) == parallel.loss(IDS, TARGETS, None)
        with pytest.raises(minillm.errors.UserError, match="loss of OwnLoss takes no starts"):
            parallel.loss(IDS, TARGETS, STARTS)
