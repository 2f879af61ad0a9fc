"""Lion: steps of one length, of which the signs of the gradients decide the direction.

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms" (NeurIPS 2023), algorithm 2. It
was found by a search through programs. With g the gradient:

    w = w - lr (sign(b1 m + (1 - b1) g) + decay w)      the new gradient counts with 1 - b1 ...
    m = b2 m + (1 - b2) g                               ... and is kept with 1 - b2

The paper's settings are b1 = 0.9, b2 = 0.99. Every weight moves by lr: the learning rate is a third
to a tenth of AdamW's, and the decay as many times larger. It keeps one number a weight, AdamW two.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module
from minillm.optim.optimizer import Optimizer


def lion_formula(w, g, m, lr, betas, decay):
    """w, its gradient and momentum, of one shape  ->  the new w and m

    lr: the learning rate; betas: (b1, b2); decay: the weight decay.
    """
    b1, b2 = betas
    w = w - lr * (array_module(w).sign(b1 * m + (1 - b1) * g) + decay * w)
    m = b2 * m + (1 - b2) * g
    return w, m


class Lion(Optimizer):
    """Lion with betas[0] and betas[1]; eps is not used. The state: momentum (m).

    Weight decay is for tensors of two or more dimensions. Arguments and errors are those of
    `Optimizer`.
    """

    state_names = ("momentum",)
    elementwise = True

    def update(self, w, g, decay, momentum):
        """The formula for one tensor, with its weight decay  ->  the new w and momentum"""
        return lion_formula(w, g, momentum, self.lr, self.betas, decay)
