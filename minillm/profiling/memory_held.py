r"""What one of several ranks holds of weights, gradients and the optimizer's state; with one rank,
what it holds where a batch is computed in parts.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"
(SC 2020), table 1 and section 5. With P weights, of which p are in the largest block and e below
and above the blocks, N ranks, T threads of each, S parts, all in bytes, P_r = P / N:

                    ZeRO-1        ZeRO-2                      ZeRO-3
    weights         P             P                           P_r + what is gathered: e, p, or both
    state           2 P_r         2 P_r                       2 P_r
    gradients       k P           m P_r + T (2 p + e)         as ZeRO-2
    on their way    (N-1) P_r     (N-1)/N (p + e)             as ZeRO-2

k and m are the arrays that the sum along the tree needs: k of all threads' parts (gradients.py), m
= log2(S / (N T)) + 1 (sharded_gradients.py). Each is counted as it is laid out, in sections and
whole cells: P_r is that of the rank that owns most. On their way are the terms of other ranks,
which a transport without common memory keeps until they are added. Where ranks share memory weights
exist once for all of them, and nothing is gathered.
"""

from __future__ import annotations

from typing import NamedTuple

from minillm.distributed.layout import Layout
from minillm.distributed.model_sections import sections_of
from minillm.distributed.sharded_gradients import Rounds, places_of_sections, room_for_results
from minillm.distributed.tree import parts_of, slots_needed
from minillm.profiling.memory_operations import model_of


class HeldByARank(NamedTuple):
    """Bytes that are there all the time: weights without those that are gathered, moments,
    gradients, and what comes from other ranks; and what is gathered for a while, of the sections
    below and above the blocks, and of the largest block.
    """

    weights: int
    moments: int
    gradients: int
    transport: int
    gathered_ends: int
    gathered_block: int


def held_by_a_rank(workload, weight: int) -> HeldByARank:
    """Of the rank that holds most. workload: memory.Workload; weight: bytes of a weight."""
    model, ranks = model_of(workload.config), workload.processes
    sections = sections_of(model)
    zero = workload.zero if ranks > 1 else 1
    layout = sections.layout(model.parameters())
    layout = layout if zero > 1 else layout.in_one_section()
    shares = [[own.stop - own.start for own in layout.owned(rank, ranks)] for rank in range(ranks)]
    share = max(shares, key=sum)
    others = [section.stop - section.start - own for section, own in zip(layout.sections, share)]
    own, below, above, blocks = sum(share), others[0], others[-1], others[1:-1]
    if zero == 1:
        gradients = _arrays_of_threads(workload) * layout.size
    else:
        gradients = _sharded(workload, layout, own, sections.above_first)
    weights, ends, block = (own, below + above, max(blocks, default=0)) if zero == 3 else (layout.size, 0, 0)
    moments = 2 * (own if workload.learning is None else -(-workload.learning // ranks))
    transport = sum((ranks - 1) * size for size in {*share})
    return HeldByARank(*(weight * count for count in (weights, moments, gradients, transport, ends, block)))


def _arrays_of_threads(workload) -> int:
    """k: as Gradients allocates them."""
    workers = workload.processes * workload.threads
    needed = [slots_needed(parts_of(worker, workers, workload.n_parts), workload.n_parts) for worker in range(workers)]
    return sum(max(1, *needed[thread :: workload.threads]) for thread in range(workload.threads))


def _sharded(workload, layout: Layout, own: int, above_first: bool) -> int:
    """Elements that ShardedGradients allocates."""
    rounds = Rounds(workload.n_parts, workload.processes, workload.threads)
    sizes = [section.stop - section.start for section in layout.sections]
    _, of_thread = places_of_sections(sizes, above_first, workload.gradient_accumulation > 1)
    return rounds.slots() * own + workload.threads * of_thread + room_for_results(rounds, sizes)
