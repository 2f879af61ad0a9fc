r"""How ranks that share a layer exchange activations: two operators, each the other's gradient.

Source: Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism" (2019), section 3, and Narayanan et al., "Efficient Large-Scale Language Model Training
on GPU Clusters Using Megatron-LM" (2021), section 2.3, which calls them f and g.

A vector is either *whole*, the same numbers in every rank, or the ranks have *parts* of it: some of
its channels, or terms of which it is the sum.

    f   whole x, read by all ranks       forward   x_r = x                backward   dx = sum_r dx_r
    g   terms y_r of a whole y           forward   y = sum_r y_r          backward   dy_r = dy

f: the loss depends on x through every rank's x_r, and dx_r/dx = 1, so the chain rule adds the
gradients of all ranks up. g: dy/dy_r = 1 for each r, so every term has the gradient of the sum.
Identity forward has the sum backward, and the other way round: f and g are conjugates. A branch of
a transformer block is then

    x --f--> column-parallel --> something for each channel or head --> row-parallel --g--> y

    column_linear.py                                                row_linear.py

with one sum of (B, T, C) numbers forward, in g, and one backward, in f. Between them lies nothing
that needs another rank: a GELU works on each channel, attention on each head.

What the ranks have whole (norms, biases of row-parallel layers, the residual stream) they compute N
times, from the same numbers in the same order: its gradients are the same in all ranks, to the last
bit, and nothing has to be exchanged for them.

A communicator here is any object with `rank`, `size`, and the methods `sum` and `maximum`, which
change an array of all ranks in place (minillm/distributed/communicator.py). A layer keeps it in an
attribute that begins with "_", as it is no part of what the layer computes.
"""

from __future__ import annotations

from minillm.backend.arrays import contiguous


def sum_over_ranks(term, communicator):
    """term, an array of each rank, all of one shape  ->  their sum, the same in every rank, written
    over the term if that is contiguous.
    """
    term = contiguous(term)
    communicator.sum(term)
    return term


def maximum_over_ranks(x, communicator):
    """x, an array of each rank, all of one shape  ->  the largest, element by element, written over
    x if that is contiguous.
    """
    x = contiguous(x)
    communicator.maximum(x)
    return x


def share_of(rank: int, ranks: int, count: int) -> range:
    """Which of `count` things, one after the other, a rank has: shares differ by one at most.

    >>> [list(share_of(rank, 2, 5)) for rank in range(2)]
    [[0, 1], [2, 3, 4]]
    """
    return range(count * rank // ranks, count * (rank + 1) // ranks)
