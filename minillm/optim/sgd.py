"""SGD with momentum: a step against the gradient, which keeps a part of the direction of the steps
before.

Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep
learning" (ICML 2013), equations 1 and 2, with the learning rate outside of the momentum, as in
PyTorch, so that a schedule takes effect at once. With g the gradient of loss + decay/2 |w|^2:

    g = gradient + decay w
    m = beta m + g            the gradients so far, each older one weighted less by beta
    w = w - lr m

With beta = 0 this is plain gradient descent. In a constant gradient m grows to g / (1 - beta): a
learning rate that suits beta = 0.9 is a tenth of one that suits beta = 0.
"""

from __future__ import annotations

from minillm.optim.optimizer import Optimizer


def sgd_formula(w, g, m, lr, beta, decay):
    """w, its gradient and momentum, of one shape  ->  the new w and m

    lr: the learning rate; beta: of the momentum; decay: the weight decay.
    """
    g = g + decay * w
    m = beta * m + g
    w = w - lr * m
    return w, m


class SGD(Optimizer):
    """Gradient descent with momentum betas[0]; betas[1] and eps are not used. The state: momentum
    (m).

    Weight decay is an L2 penalty on tensors of two or more dimensions. Arguments and errors are
    those of `Optimizer`.
    """

    state_names = ("momentum",)
    elementwise = True

    def update(self, w, g, decay, momentum):
        """The formula for one tensor, with its weight decay  ->  the new w and momentum"""
        return sgd_formula(w, g, momentum, self.lr, self.betas[0], decay)
