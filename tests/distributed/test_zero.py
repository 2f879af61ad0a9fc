"""ZeRO 1, 2 and 3: the same bits as one process, the bytes that the formulas say, and faults that are noticed."""

import functools

import numpy as np
import pytest
import zero_steps
from planting import planted
from zero_steps import GPT2, LLAMA, PARTS, alone, assert_same_bits, on_ranks

import minillm
from minillm.distributed import sharded_gradients, sharded_pass, sharded_weights, sharding
from minillm.distributed.layout import CELL
from minillm.distributed.model_sections import sections_of
from minillm.distributed.rank_threads import run_ranks
from minillm.distributed.sharded_gradients import OwnShare, Rounds
from minillm.distributed.tree import nodes_of
from minillm.errors import UserError
from minillm.layers import recompute
from minillm.training import sharded_parallel

STEPS = 2
FAULTS = {
    "a sum is not waited for": (
        sharded_gradients, "        self.finish()\n        place = ", "        place = ", 2, GPT2),
    "what another section left in the padding": (
        sharded_gradients, "        array[position:] = 0\n", "", 2, LLAMA),
    "sums of rounds are added in a chain, not along the tree": (
        sharded_gradients, "            running.added(*node)\n\n",
        "            running.nodes and running._add(0, 1); running.nodes = [(0, node[1])]\n\n", 2, GPT2),
    "a thread's term is left out": (
        sharded_gradients, "for p in range(*node)}, node)", "for p in range(*node)}, (node[0], node[0] + 1))", 2, GPT2),
    "a block is released too early": (
        sharded_pass, "        yield\n        self._pass.leave([block + 1])",
        "        self._pass.leave([block + 1])\n        yield", 3, GPT2),
    "a section is gathered into the wrong place": (
        sharded_weights, "self.communicator.all_gather(self.array[place], bounds)",
        "self.communicator.all_gather(self.array[: place.stop - place.start], bounds)", 3, GPT2),
    "the own share is forgotten, too": (
        sharded_weights, "slice(place.start, own.start)", "slice(place.start, own.stop)", 3, GPT2),
    "weights are not gathered before backward": (
        recompute, "        with sections.weights(index):\n            # forward",
        "        with ALL_HERE.weights(index):\n            # forward", 3, GPT2),
    "a shard is updated twice": (
        sharding, "self._optimizers[0].step(scale)", "[self._optimizers[0].step(scale) for _ in 'ab']", 2, GPT2),
    "weights are not sent after a step": (
        sharding, "self.communicator.all_gather(self.weights,", "len(self.weights), (", 2, GPT2),
}  # fmt: skip


@functools.lru_cache(maxsize=8)
def expected(config=GPT2, **settings):
    return alone(config, steps=STEPS, **settings)


def check(ranks, zero, config=GPT2, shares_memory=False, threads=1, **settings):
    wanted = expected(config, **settings)
    for found in on_ranks(ranks, zero, config, shares_memory, steps=STEPS, threads=threads, **settings):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_same_bits(zero, ranks, config):
    check(ranks, zero, config)


@pytest.mark.parametrize("zero", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        dict(threads=2),
        dict(threads=3),  # no power of two, and threads without a part
        dict(micro_steps=2),
        dict(micro_steps=2, threads=2, rows=5),  # parts without rows
        dict(recompute=True),
        dict(lora=True),
        dict(optimizer=minillm.Muon),
        dict(shares_memory=True),
        dict(shares_memory=True, threads=3),
    ],
    ids=lambda settings: ", ".join(f"{name} {getattr(value, '__name__', value)}" for name, value in settings.items()),
)
def test_the_same_bits_however_it_is_trained(zero, settings):
    check(2, zero, **settings)


@pytest.mark.parametrize("zero", [2, 3])
def test_more_ranks_than_parts(zero):
    check(3, zero, parts=2)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault, monkeypatch):
    module, right, wrong, zero, config = FAULTS[fault]
    threads = 2 if "thread" in fault else 1
    faulty = planted(module, right, wrong)
    if module is recompute:
        monkeypatch.setattr("minillm.models.gpt2.run_blocks_backward", faulty.run_blocks_backward)
    for kind in ("ShardedGradients", "ShardedPass", "ShardedWeights", "Sharded"):
        if vars(module).get(kind) is getattr(sharded_parallel, kind):
            monkeypatch.setattr(sharded_parallel, kind, getattr(faulty, kind))
    with pytest.raises((AssertionError, UserError)):  # UserError: a block was passed by
        check(2, zero, config, threads=threads)


# --------------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("ranks, threads", [(2, 1), (4, 1), (3, 1), (4, 2)])
def test_bytes_sent_are_those_of_the_formulas(ranks, threads):
    """In elements, with P of a padded layout: a round sends P (N-1) / N for gradients, and of weights what lies below
    and above once, the blocks twice; an evaluation sends weights once."""
    model = zero_steps.new_model(GPT2)
    layout = sections_of(model).layout(model.parameters())
    rounds = Rounds(PARTS, ranks, threads)
    for zero in (2, 3):
        found = on_ranks(ranks, zero, steps=1, threads=threads)
        for rank, (_, _, sent) in enumerate(found):
            own = [place.stop - place.start for place in layout.owned(rank, ranks)]
            terms = sum(len(nodes_of(rounds.of_rank(number, rank), PARTS)) for number in range(rounds.count))
            assert sent["reduce_scatter"] == 4 * terms * (layout.size - sum(own))
            ends, blocks = own[0] + own[-1], sum(own[1:-1])
            weights = sum(own) if zero == 2 else rounds.count * ((ends + 2 * blocks) + (ends + blocks))
            parts = sum(len(rounds.of_rank(number, rank)) for number in range(rounds.count))
            flags = 1 + len(layout.entries)
            message = 8 * (flags + sum(own) // CELL + 2 * parts)  # of the step and of the evaluation
            assert sent["all_gather"] == (ranks - 1) * (4 * weights + message)
        total = sum(sent["reduce_scatter"] for _, _, sent in found)
        if PARTS % (ranks * threads) == 0:
            assert total / ranks == 4 * layout.size * (ranks - 1) / ranks * rounds.count


def test_the_share_of_the_optimizer():
    """total / N plus padding."""
    for ranks in (2, 3, 4):
        for state, padding, total in run_ranks(ranks, _state_of_a_rank):
            assert state <= total / ranks + padding


def _state_of_a_rank(communicator):
    trainer = zero_steps.Trainer(communicator, GPT2, 2)
    with trainer.parallel:
        trainer.step(0, zero_steps.batches(1, 1)[0])
    arrays = {id(a): a for each in trainer.sharded._optimizers for kind in each.state.values() for a in kind.values()}
    state = sum(array.nbytes for array in arrays.values())
    total = 2 * 4 * sum(p.value.size for p in trainer.model.parameters().values())
    return state, 2 * 4 * CELL * len(trainer.sharded.layout.sections), total


def test_slots_of_the_own_share():
    """m = log2(S / (N T)) + 1."""
    assert [Rounds(8, ranks, 1).slots() for ranks in (1, 2, 4, 8)] == [4, 3, 2, 1]
    assert [Rounds(8, ranks, 2).slots() for ranks in (1, 2, 4)] == [3, 2, 1]
    assert Rounds(6, 4, 1).slots() <= 3


@pytest.mark.parametrize("ranks, threads, parts", [(1, 1, 1), (2, 1, 8), (3, 1, 8), (3, 2, 8), (2, 4, 5), (4, 1, 2)])
def test_every_part_is_dealt_once(ranks, threads, parts):
    rounds = Rounds(parts, ranks, threads)
    found = []
    for number in range(rounds.count):
        of_round = [part for rank in range(ranks) for part in rounds.of_rank(number, rank)]
        assert of_round == [part for first, last in rounds.nodes(number) for part in range(first, last)]
        each = (rounds.part(number, rank, thread) for rank in range(ranks) for thread in range(threads))
        assert [part for part in each if part is not None] == of_round
        found += of_round
    assert found == list(range(parts))


def test_a_share_is_indexed_by_places_of_the_buffer():
    share = OwnShare([slice(0, 2), slice(5, 5), slice(6, 9)], np.arange(5))
    assert list(share[6:8]) == [2, 3] and list(share[0:2]) == [0, 1] and not len(share[5:5])
    with pytest.raises(IndexError, match="elements 3 to 4 are not owned"):
        share[3:4]


# ------------------------------------------------------------------------------------------------------------ sections


def test_the_sections_of_a_model():
    tied, untied = sections_of(minillm.GPT2(GPT2)), sections_of(minillm.Llama(LLAMA))
    assert tied.names[0] == ["transformer.wte.weight", "transformer.wpe.weight"] and not tied.above_first
    assert tied.names[-1] == ["transformer.ln_f.weight", "transformer.ln_f.bias"]
    assert all(name.startswith("transformer.h.1.") for name in tied.names[2])
    assert untied.names[0] == ["model.embed_tokens.weight"] and untied.above_first
    assert untied.names[-1] == ["model.norm.weight", "lm_head.weight"]


def test_a_layer_of_two_blocks_is_complete_at_the_end():
    model = minillm.GPT2(GPT2)
    model.transformer.h[2].mlp = model.transformer.h[0].mlp
    sections = sections_of(model)
    assert sum(map(len, sections.names)) == len(model.parameters())
    assert [name for name in sections.names[0] if ".mlp." in name] and not sections.above_first
    assert not any(".mlp." in name for name in sections.names[1] + sections.names[3])


def test_a_body_that_does_not_go_through_its_sections_is_refused(monkeypatch):
    monkeypatch.setattr("minillm.models.gpt2.Transformer.forward", _forward_without_sections)
    with pytest.raises(UserError, match="Transformer does not call run_blocks .* use --zero 1"):
        on_ranks(2, 3, steps=1)


def _forward_without_sections(self, ids, rng_key, starts=None):
    x = self.wte.forward(ids) + self.wpe.forward(slice(ids.shape[1]))
    x, saved = recompute.run_blocks(self.h, self.embd_dropout.forward(x, rng_key), rng_key, False, starts)
    self.save_for_backward((saved, False))
    return self.ln_f.forward(x)


def test_an_error_of_one_thread_ends_all():
    def task(communicator):
        trainer = zero_steps.Trainer(communicator, GPT2, 2, threads=2)

        def fails(model, part, number):
            if model is not trainer.model:
                raise KeyError("of a thread")
            model.loss(*part, rng_key=(0,))
            model.backward()
            return (0.0,)

        windows = zero_steps.batches(1, 1)[0, 0]
        with trainer.parallel:
            trainer.parallel.gradients(fails, [(windows[:, :-1], windows[:, 1:])])

    with pytest.raises(KeyError, match="of a thread"):
        run_ranks(2, task)
