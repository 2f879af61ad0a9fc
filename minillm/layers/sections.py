"""The sections of a model: what lies below its blocks, each block, and what lies above them.

A pass goes through them one after the other, up in forward and down in backward:

    forward      below -> block 0 -> ... -> block L-1 -> above
    backward     above -> block L-1 -> ... -> block 0 -> below

So a block's weights are needed twice in a step, each time for a short while, and its gradients are
complete where its `backward` returns, long before the step ends. Both are of use where ranks share
weights and gradients (distributed/sharded_pass.py). `run_blocks` (recompute.py) calls the methods
of `Sections` on its way; those here are for a model that has all its weights, and do nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

ABOVE = -1  # the section above the blocks; those of the blocks count from 0


class Sections:
    """Called where a pass comes to a section, and where it leaves one."""

    def weights(self, block: int) -> AbstractContextManager:
        """Inside, the weights of a block are there."""
        return nullcontext()

    def complete(self, block: int) -> None:
        """The gradients of a block, or of what lies ABOVE, are complete."""


ALL_HERE = Sections()
