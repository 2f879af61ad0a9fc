"""What one of several ranks is said to take, against what NumPy and the operating system count."""

import tracemalloc

import numpy as np
import pytest

import minillm
from minillm.distributed.communicator import Communicator
from minillm.distributed.model_sections import sections_of
from minillm.distributed.sharded_weights import ShardedWeights
from minillm.profiling.memory import Workload, estimate
from minillm.profiling.memory_report import memory_report
from minillm.training.sharded_parallel import among_ranks

CONFIG = minillm.GPT2Config(vocab_size=512, context_length=32, n_layer=4, n_head=4, d_model=192)
UNTIED = minillm.LlamaConfig(vocab_size=512, context_length=32, n_layer=4, n_head=4, d_model=192, d_ff=512)


class OneOfMany(Communicator):
    """A rank without the others: it receives nothing, and has the memory of one that does."""

    where = "imitation"

    def __init__(self, rank, size):
        super().__init__()
        self.rank, self.size = rank, size

    def reduce_scatter(self, terms, bounds):
        return terms.arrays[0][bounds[self.rank] : bounds[self.rank + 1]]

    def all_gather(self, array, bounds):
        array[: bounds[self.rank]] += 0.01  # pages get memory when they are written to
        array[bounds[self.rank + 1] :] += 0.01

    def broadcast(self, array, root=0):
        pass

    def sum(self, array):
        pass

    def maximum(self, array):
        pass

    def barrier(self):
        pass


class PeakOfARank:
    """Arrays that NumPy reports to tracemalloc, and pages of sharded weights, at the moment of their largest sum: the pages
    change at `gather` and `release` alone, so it is enough to look there."""

    def __init__(self, monkeypatch):
        self.bytes, self._sharded = 0, []
        for name in ("gather", "release"):
            monkeypatch.setattr(ShardedWeights, name, self._looking(getattr(ShardedWeights, name)))
        monkeypatch.setattr(ShardedWeights, "__init__", self._noting(ShardedWeights.__init__))

    def look(self):
        pages = sum(weights.resident() for weights in self._sharded)
        self.bytes = max(self.bytes, pages + tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()

    def reset(self):
        tracemalloc.reset_peak()
        self.bytes = 0

    def _noting(self, init):
        def noting(weights, *arguments):
            init(weights, *arguments)
            self._sharded.append(weights)

        return noting

    def _looking(self, method):
        def looking(weights, section):
            self.look()
            method(weights, section)
            self.look()

        return looking


def measured(workload: Workload, rank: int, monkeypatch) -> int:
    """The peak of the second step."""
    config, micro_steps = workload.config, workload.gradient_accumulation
    windows = np.random.default_rng(0).integers(0, config.vocab_size, (workload.batch_size, workload.time + 1))
    peak = PeakOfARank(monkeypatch)
    tracemalloc.start()
    try:
        model = (minillm.GPT2 if isinstance(config, minillm.GPT2Config) else minillm.Llama)(config, seed=0).train()
        model.body.recompute = workload.checkpoint_activations
        parallel, sharded = among_ranks(
            model,
            minillm.AdamW(model.parameters()),
            workload.n_parts,
            workload.threads,
            OneOfMany(rank, workload.processes),
            workload.zero,
            micro_steps > 1,
        )
        parallel.prepare()

        def task(model, part, number):
            loss = model.loss(*part)
            model.backward()
            return (loss,)

        with parallel:
            for _ in range(2):
                peak.reset()
                parallel.gradients(task, [(windows[:, :-1], windows[:, 1:])] * micro_steps)
                sharded.step(parallel.own_gradients, 1e-3, 1.0, parallel.share)
        peak.look()
        return peak.bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "config, settings",
    [
        (CONFIG, dict(zero=1)),
        (CONFIG, dict(zero=2)),
        (CONFIG, dict(zero=3)),
        (CONFIG, dict(zero=3, parts=8)),
        (CONFIG, dict(zero=2, gradient_accumulation=2)),
        (CONFIG, dict(zero=3, checkpoint_activations=True)),
        (CONFIG, dict(zero=3, processes=3)),
        (UNTIED, dict(zero=2)),
        (UNTIED, dict(zero=3)),
    ],
    ids=lambda value: (
        ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value.__class__.__name__
    ),
)
def test_close_to_what_is_counted(config, settings, monkeypatch):
    workload = Workload(config, 8, **{"workers": 1, "parts": 4, "processes": 4, **settings})
    found = estimate(workload)
    counted = measured(workload, workload.processes - 1, monkeypatch)
    assert counted == pytest.approx(found.total - found.transport, rel=0.05), found


def test_the_shares_add_up():
    """Weights, moments and gradients of all ranks with ZeRO-3: those of one model, a few cells of padding, and the places
    of blocks."""
    parameters = 4 * sum(p.value.size for p in minillm.GPT2(CONFIG, seed=None).parameters().values())
    for ranks in (2, 4, 8):
        one = estimate(Workload(CONFIG, 8, workers=1, parts=8, processes=ranks, zero=3))
        padding = 4 * 1024 * 6
        assert 2 * parameters <= ranks * one.moments <= 2 * (parameters + ranks * padding)


def test_each_level_takes_less():
    model = minillm.GPT2(CONFIG, seed=None)
    layout = sections_of(model).layout(model.parameters())
    one, two, three = (estimate(Workload(CONFIG, 8, workers=1, parts=4, processes=4, zero=zero)) for zero in (1, 2, 3))
    assert one.weights == two.weights == 4 * layout.size and one.gradients == 4 * layout.size
    assert two.gradients < 0.8 * one.gradients and three.weights < 0.8 * two.weights
    assert one.moments <= two.moments == three.moments < 2 * 4 * (layout.size / 4 + 6 * 1024)
    assert one.total > two.total > three.total


def test_the_report_of_one_rank():
    text = memory_report("gpt2", vocab_size=50257, processes=8, zero=3)
    assert "one of 8 ranks" in text and "ZeRO-3" in text and "transport" in text
