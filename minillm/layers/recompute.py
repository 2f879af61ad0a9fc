"""Recomputation: keep a block's input alone, and compute the block once more when backward needs
what lies inside.

Source: Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost" (2016), called
gradient or activation checkpointing. For n blocks that keep s bytes each for backward, and an input
of c bytes:

    kept      n s         ->   n c + s      one block at a time has its inside
    computed  forward     ->   2 forward    a step takes about a third more

The second forward repeats the first one: dropout draws its masks from a rng_key, so they are
the same, and so are the gradients, to the last bit.
"""

from __future__ import annotations

from minillm.layers.documents import forward_with
from minillm.layers.sections import ABOVE, ALL_HERE, Sections


def recomputed_forward(block, x, rng_key, starts=None):
    """y = block(x), of which only what is needed to do it again is kept.

    x (..., C)  ->  y (..., C), saved. starts: of packed documents (documents.py).
    """
    y = forward_with(block, x, rng_key, starts)
    block.forget_saved()
    return y, (x, rng_key, starts)


def recomputed_backward(block, dy, saved):
    """dy (..., C)  ->  dx (..., C); parameters of the block get their gradients"""
    x, rng_key, starts = saved
    # forward: y = forward_with(block, x, rng_key, starts)
    forward_with(block, x, rng_key, starts)
    return block.backward(dy)


def share_layers(blocks) -> bool:
    """Whether a layer is called more than once on the way through the blocks."""
    layers = [id(layer) for block in blocks for _, layer in block.layers()]
    return len(set(layers)) < len(layers)


def run_blocks(blocks, x, rng_key, recompute: bool, starts=None, sections: Sections = ALL_HERE):
    """x through the blocks one after the other  ->  x, and what each of them saved (None where it
    keeps it itself)

    A layer keeps what backward needs for one call alone. Blocks that share layers, or are the same
    block, are computed again in any case. starts (B, T): of packed documents. sections: called on
    the way, where ranks share weights or gradients (sections.py).
    """
    recompute = recompute or share_layers(blocks)
    saved = []
    for index, block in enumerate(blocks):
        with sections.weights(index):
            if recompute:
                x, kept = recomputed_forward(block, x, rng_key, starts)
                saved.append(kept)
            else:
                x = forward_with(block, x, rng_key, starts)
                saved.append(None)
    return x, saved


def run_blocks_backward(blocks, dx, saved, sections: Sections = ALL_HERE):
    """The gradient through the blocks, from the last to the first."""
    sections.complete(ABOVE)
    while saved:
        kept = saved.pop()  # its memory is free once the block is done
        index = len(saved)
        block = blocks[index]
        with sections.weights(index):
            # forward: x = forward_with(block, x, rng_key, starts)
            # forward: x, kept = recomputed_forward(block, x, rng_key, starts)
            dx = block.backward(dx) if kept is None else recomputed_backward(block, dx, kept)
        sections.complete(index)  # where ranks share gradients, the sum over the ranks starts, and the next block runs
    return dx
