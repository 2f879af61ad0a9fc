"""A model of scale: how long a step takes on N ranks, from what one rank does by itself and what
messages cost.

A model is a list of sections, the embeddings, each block, the head, with P elements in all. A rank
computes its rows of the batch forward through the sections and backward through them, then

    ZeRO-1   reduce_scatter of all gradients, update of P / N elements, all_gather of all weights
    ZeRO-2   the same, but a section's gradients are reduced as soon as its backward returns
    ZeRO-3   a section's weights are gathered before its forward, and those of a block again before its
             backward; its gradients are reduced after it; no gather at the end

(Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020.)
Before the update the sums of squares of all cells are gathered, for the norm.

Without overlap these times are added. With overlap the network works while the rank computes: a
section's reduction runs beside the backward of those below, and the weights of the next section
come while this one is computed. `pipelined` goes through the sections with two clocks. (minillm's
ZeRO-3 waits for weights and overlaps the reductions: it lies between the two.)

Left out are: ranks that are slower than others (stragglers), messages that wait for each other in
switches (congestion, topology), the time that a message takes of the processor or of the GPU that
computes, reading data, evaluations and checkpoints, and that fewer rows compute less efficiently.
All of these make a step longer: what does not pay here does not pay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from benchmarks.networks import Cluster, Device
from minillm.distributed.layout import CELL
from minillm.layers.linear import Linear
from minillm.profiling.flops import attention_flops, linear_flops
from minillm.profiling.memory import Workload, estimate
from minillm.profiling.memory_operations import model_of

NUMBER = 4  # bytes of a weight, of a gradient, of a moment: float32
PAYS = 0.5  # the smallest efficiency that is worth it
GAIN = 1.1  # so many times as fast, at least, with twice the ranks
TRAFFIC_OF_UPDATE = 7 * NUMBER  # bytes an element of AdamW: w, m, v read and written, g read


@dataclass(frozen=True)
class Section:
    """parameters: elements; operations: of forward and backward for one row of the batch."""

    parameters: int
    operations: float


@dataclass(frozen=True)
class Work:
    """What a rank does by itself, in seconds: each section forward, and backward; the update of one
    element, with its share of the norm; what a step takes beside that.
    """

    parameters: Sequence[int]
    forward: Sequence[float]
    backward: Sequence[float]
    update: float
    fixed: float = 0.0


@dataclass(frozen=True)
class Collectives:
    """Seconds of each as a function of the bytes in the array."""

    reduce_scatter: Callable[[float], float]
    all_gather: Callable[[float], float]


@dataclass(frozen=True)
class Plan:
    """How ranks share: ZeRO's stage, and whether the network works while a rank computes."""

    zero: int = 1
    overlaps: bool = False

    def __str__(self) -> str:
        return f"ZeRO-{self.zero}" + (", overlap" if self.overlaps else "")


PLANS = [Plan(1), Plan(2, True), Plan(3), Plan(3, True)]


# ------------------------------------------------------------------------------------------------------- a step's time


def step_seconds(work: Work, ranks: int, network: Collectives, plan: Plan) -> float:
    """Seconds of a step."""
    count = sum(work.parameters)
    squares = network.all_gather(8 * count / CELL)
    update = work.update * count / ranks
    gather_at_end = network.all_gather(NUMBER * count) if plan.zero < 3 else 0.0
    return work.fixed + _forward_and_backward(work, network, plan) + squares + update + gather_at_end


def _forward_and_backward(work: Work, network: Collectives, plan: Plan) -> float:
    """Until the gradients of this rank's slices are there."""
    sizes = [NUMBER * count for count in work.parameters]
    if plan.zero == 1 and not plan.overlaps:
        return sum(work.forward) + sum(work.backward) + network.reduce_scatter(sum(sizes))
    gathers = [network.all_gather(size) if plan.zero == 3 else 0.0 for size in sizes]
    again = [0.0, *gathers[1:-1], 0.0]  # embeddings and head are kept from forward to backward
    reductions = [network.reduce_scatter(size) for size in sizes]
    if not plan.overlaps:
        return sum(work.forward) + sum(work.backward) + sum(gathers) + sum(again) + sum(reductions)
    forward = pipelined(work.forward, gathers, [0.0] * len(sizes))
    return forward + pipelined(work.backward[::-1], again[::-1], reductions[::-1])


def pipelined(computing: Sequence[float], gathers: Sequence[float], reductions: Sequence[float]) -> float:
    """Seconds until the last section is computed and reduced.

    The network does one thing at a time: it brings the weights of a section while the one before is
    computed, not earlier, so that two are in memory at most; and it reduces what has been computed.
    """
    now = 0.0
    free = arrived = gathers[0]  # when the network is free; when this section's weights are there
    for i, seconds in enumerate(computing):
        start = max(now, arrived)
        if i + 1 < len(computing):
            free = arrived = max(free, start) + gathers[i + 1]
        now = start + seconds
        free = max(free, now) + reductions[i]
    return max(now, free)


# ------------------------------------------------------------------------------------------------- models and clusters


def sections_of(config, time: int) -> list[Section]:
    """Embeddings, each block, the head. A head that is the embedding has no parameters of its own."""
    model = model_of(config)
    head_dim = getattr(config, "head_dim", config.d_model // config.n_head)
    pairs = config.n_head * time * time  # as flops.py counts them: those behind the causal mask as well
    blocks, seen = [], set()
    for block in model.blocks:
        weights = sum(layer.weight.value.size for _, layer in block.layers() if isinstance(layer, Linear))
        operations = sum(linear_flops(time, weights)) + sum(attention_flops(pairs, head_dim))
        blocks.append(Section(sum(p.value.size for p in set(block.parameters().values())), operations))
        seen |= set(block.parameters().values())
    body = set(model.body.parameters().values()) - seen
    head = set(model.parameters().values()) - body - seen
    operations = sum(linear_flops(time, model.lm_head.weight.value.size))
    first, last = (sum(p.value.size for p in parameters) for parameters in (body, head))
    return [Section(first, 0.0), *blocks, Section(last, operations)]


def work_of(sections: Sequence[Section], rows: float, device: Device, recomputes: bool = False) -> Work:
    """A rank that computes so many rows. Backward has twice the operations of forward, and those of
    forward again where it recomputes the activations.
    """
    forward = [section.operations * rows / device.operations / 3 for section in sections]
    backward = [(3 if recomputes else 2) * seconds for seconds in forward]
    sizes = [section.parameters for section in sections]
    return Work(sizes, forward, backward, TRAFFIC_OF_UPDATE / device.bandwidth)


def collectives_of(cluster: Cluster, ranks: int) -> Collectives:
    """By the cluster's algorithm; what a rank receives to add is read twice and written once."""

    @cache  # blocks are alike
    def gather(size: float) -> float:
        return cluster.algorithm(cluster.network, size, ranks)

    @cache
    def reduce(size: float) -> float:
        return gather(size) + 3 * size * (ranks - 1) / ranks / cluster.device.bandwidth

    return Collectives(reduce, gather)


@dataclass(frozen=True)
class Case:
    """A model to train. rows: of `time` tokens, that a rank computes in weak scaling; all_rows: of
    the batch that ranks share in strong scaling; recomputes: activations are computed again.
    """

    name: str
    config: object
    time: int
    rows: int
    all_rows: int
    recomputes: bool = False

    @cached_property
    def sections(self) -> list[Section]:
        return sections_of(self.config, self.time)

    @cached_property
    def activations(self) -> int:
        """Bytes at their largest, of a rank's rows on a GPU in bfloat16, without gradients."""
        workload = Workload(self.config, self.rows, self.time, "bfloat16", "cuda", self.recomputes, learning=0)
        found = estimate(workload)
        return found.activations + found.workspace


def step_on(cluster: Cluster, case: Case, rows: float, ranks: int, plan: Plan) -> float:
    """Seconds of a step in which each of the ranks computes `rows` rows."""
    work = work_of(case.sections, rows, cluster.device, case.recomputes)
    return step_seconds(work, ranks, collectives_of(cluster, ranks), plan)


# ---------------------------------------------------------------------------------------------------------- efficiency


def weak(cluster: Cluster, case: Case, ranks: int, plan: Plan) -> float:
    """The batch grows with the ranks. Efficiency: how much of N times the speed of one is left."""
    rows = max(case.rows, cluster.device.parts)
    return step_on(cluster, case, rows, 1, plan) / step_on(cluster, case, rows, ranks, plan)


def strong(cluster: Cluster, case: Case, ranks: int, plan: Plan) -> float:
    """The batch is that of one rank, and is shared."""
    alone = step_on(cluster, case, case.all_rows, 1, plan)
    return alone / ranks / step_on(cluster, case, case.all_rows / ranks, ranks, plan)


def pays_up_to(efficiency: Callable[[int], float], ranks: Sequence[int]) -> int:
    """The largest number of ranks, each twice the one before, that still pays: the efficiency is at
    least PAYS, and the step before it to twice the ranks gained at least GAIN. 1 where none does.
    """
    best, before = 1, None
    for count in ranks:
        now = efficiency(count)
        if now < PAYS or (before is not None and 2 * now < GAIN * before):
            break
        best, before = count, now
    return best


# -------------------------------------------------------------------------------------------------------------- memory


def memory_of_rank(case: Case, ranks: int, zero: int) -> dict[str, float]:
    """Bytes of a rank: weights, gradients, moments, and what activations take at their largest.

    What is shared is P / N. With p in the largest block, and e in embeddings and head, ZeRO-2 has
    2 p + e gradients beside it (distributed/sharded_gradients.py), ZeRO-3 also p + e weights
    (distributed/sharded_weights.py). Activations are those of a rank in weak scaling.
    """
    sizes = [section.parameters for section in case.sections]
    count, block, outside = sum(sizes), max(sizes[1:-1]), sizes[0] + sizes[-1]
    return {
        "weights": NUMBER * (count / ranks + (block + outside if ranks > 1 else 0) if zero == 3 else count),
        "gradients": NUMBER * (count / ranks + (2 * block + outside if ranks > 1 else 0) if zero >= 2 else count),
        "moments": 2 * NUMBER * count / ranks,
        "activations": case.activations,
    }


def fits_from(cluster: Cluster, case: Case, zero: int, ranks: Sequence[int]) -> int | None:
    """The smallest number of ranks at which a rank has the memory; None where none of them has."""
    memory = cluster.device.memory
    return next((count for count in ranks if sum(memory_of_rank(case, count, zero).values()) <= memory), None)
