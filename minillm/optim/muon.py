"""Muon: every matrix takes steps of one length in all of its directions.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the
definitions of `torch.optim.Muon`. A gradient of a matrix is nearly of low rank: a few directions
are large, and gradient descent follows them alone. Muon takes the momentum apart into its singular
values, m = U S V^T, and steps along U V^T, in which all of them are 1:

    m = mu m + (1 - mu) g                    running mean of the gradient
    n = mu m + (1 - mu) g                    Nesterov: the mean as it will be if g comes once more
    w = w - lr decay w - lr sqrt(max(1, outputs / inputs)) orthogonalised(n)

The singular values are not computed. For x with singular values in [0, 1], the odd polynomial

    p(x) = a x + b (x x^T) x + c (x x^T)^2 x

has the same U and V, and the singular values p(s) = a s + b s^3 + c s^5 (Newton-Schulz). With the
coefficients below each step multiplies small s by 3.4 and keeps large ones near 1: five steps bring
every s above 0.002 into [0.68, 1.21]. It begins with x = n / |n|, whose singular values are at most
1.

Matrices are the weights of Linear layers. Embeddings, the output head (a row for each token of the
vocabulary), and vectors (biases and norms) take steps of AdamW (adamw.py).
"""

from __future__ import annotations

import math

from minillm.backend.arrays import array_module
from minillm.backend.matmul import matmul
from minillm.errors import UserError
from minillm.optim.adamw import AdamW
from minillm.optim.optimizer import check_beta

STEPS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
SMALLEST_NORM = 1e-7


def orthogonalised(n):
    """n (outputs, inputs) or its transpose  ->  about U V^T of n = U S V^T, of n's shape

    The Gram matrix x x^T is that of the shorter side. For a matrix that is at least twice as long,
    all five steps are taken on it: with p_k = a + b gram_k + c gram_k^2, a step changes the Gram
    matrix to gram_{k+1} = p_k gram_k p_k, and in the end x is p_5 p_4 p_3 p_2 p_1 x, one product
    with the long side in place of five. `orthogonalised_formula` is the plain form.
    """
    if n.shape[0] > n.shape[1]:
        return orthogonalised(n.T).T
    x = _of_norm_1(n)
    if n.shape[1] < 2 * n.shape[0]:
        for _ in range(STEPS):
            x = matmul(_factor(matmul(x, x.T)), x)  # (R, R) @ (R, C)
        return x
    gram = matmul(x, x.T)  # (R, C) @ (C, R)
    product = p = _factor(gram)
    for _ in range(STEPS - 1):
        gram = matmul(matmul(p, gram), p)  # (R, R) @ (R, R) @ (R, R)
        p = _factor(gram)
        product = matmul(p, product)  # (R, R) @ (R, R)
    return matmul(product, x)  # (R, R) @ (R, C)


def orthogonalised_formula(n):
    """`orthogonalised`, as its source has it: x = a x + (b gram + c gram gram) x, five times."""
    if n.shape[0] > n.shape[1]:
        return orthogonalised_formula(n.T).T
    a, b, c = COEFFICIENTS
    x = _of_norm_1(n)
    for _ in range(STEPS):
        gram = matmul(x, x.T)  # (R, C) @ (C, R)
        x = a * x + matmul(b * gram + c * matmul(gram, gram), x)  # (R, R) @ (R, C)
    return x


def _of_norm_1(n):
    xp = array_module(n)
    return n / xp.maximum(xp.sqrt((n * n).sum()), SMALLEST_NORM)


def _factor(gram):
    """a + b gram + c gram gram (R, R), of gram (R, R)"""
    a, b, c = COEFFICIENTS
    p = matmul(gram, gram.T)  # gram is symmetric; a product with the own transpose costs half
    p *= c
    p += b * gram
    p.ravel()[:: len(p) + 1] += a  # the diagonal
    return p


def muon_formula(w, g, m, lr, momentum, decay, outputs_axis):
    """A matrix, its gradient and momentum, of one shape  ->  the new w and m

    lr: the learning rate; momentum: mu; decay: the weight decay; outputs_axis: 0 for w (outputs,
    inputs), 1 for (inputs, outputs).
    """
    m = momentum * m + (1 - momentum) * g
    n = momentum * m + (1 - momentum) * g
    w = w - lr * decay * w - lr * _scale(w, outputs_axis) * orthogonalised_formula(n)
    return w, m


def muon_update(w, g, m, lr, momentum, decay, outputs_axis, cut=None):
    """`muon_formula` in place: w and m are changed, and g, which becomes (1 - mu) g.

    cut: where ranks share the matrix, the part of it that these are (layers/cut.py):
    orthogonalising takes the whole, which all of them compute.
    """
    g *= 1 - momentum
    m *= momentum
    m += g
    n = momentum * m
    n += g
    whole = n if cut is None else cut.whole_of(n)
    step = orthogonalised(whole)
    step *= lr * _scale(whole, outputs_axis)
    if cut is not None:
        step = cut.part_of(step)
    w *= 1 - lr * decay
    w -= step


def _scale(w, outputs_axis) -> float:
    """sqrt(max(1, outputs / inputs))"""
    return math.sqrt(max(1, w.shape[outputs_axis] / w.shape[1 - outputs_axis]))


class Muon(AdamW):
    """Muon for the weights of Linear layers, AdamW for all other parameters.

    parameters: as for `Optimizer`; those of a `Linear` know which of their axes is that of the
    outputs (`Parameter.outputs_axis`). The state: momentum (m) of the matrices; first_moment and
    second_moment of the others. Raises UserError for impossible settings, and if no parameter is a
    matrix.
    """

    state_names = ("momentum", *AdamW.state_names)
    more_settings = ("momentum", "adamw_lr")
    elementwise = False  # orthogonalising takes a whole matrix

    def __init__(
        self,
        parameters,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.1,
        momentum=0.95,
        adamw_lr=0.0,
    ):
        """lr: the learning rate of matrices; momentum: mu, from 0 to below 1; weight_decay: of
        matrices and embeddings. For AdamW: adamw_lr, the learning rate while `lr` is as given here
        (0: the same one), and betas and eps. A schedule that sets `lr` scales both.
        """
        check_of_muon(momentum, adamw_lr)
        self.matrices = {name: each for name, each in parameters.items() if each.outputs_axis is not None}
        super().__init__(parameters, lr, betas, eps, weight_decay)
        if not self.matrices:
            raise UserError(
                "Muon is for the weights of Linear layers, and there is none among these parameters: use AdamW"
            )
        self.momentum, self.adamw_lr = momentum, adamw_lr
        self.adamw_share = adamw_lr / lr if adamw_lr and lr else 1.0

    def parameters_with(self, kind: str) -> dict:
        """The parameters that have this state."""
        if kind == "momentum":
            return self.matrices
        return {name: each for name, each in self.parameters.items() if name not in self.matrices}

    def restricted(self, parameters, state) -> Muon:
        """As `Optimizer.restricted`: the matrices are those among the parameters."""
        other = super().restricted(parameters, state)
        other.matrices = {name: each for name, each in parameters.items() if name in self.matrices}
        return other

    def update_all(self, gradient_scale) -> None:
        """Matrices each by itself, shared among the cores; the others in one call of AdamW."""

        def update(name):
            parameter, m = self.matrices[name], self.state["momentum"][name]
            w, g = parameter.value, parameter.grad * gradient_scale
            muon_update(w, g, m, self.lr, self.momentum, self.weight_decay, parameter.outputs_axis, parameter.cut)

        def size(name) -> int:
            shape, cut = self.matrices[name].peek().shape, self.matrices[name].cut
            return math.prod(shape if cut is None else cut.whole_shape(shape))

        self.share(update, sorted(self.matrices, key=lambda name: -size(name)))
        self.adamw_step(self.parameters_with("first_moment"), self.lr * self.adamw_share, gradient_scale)


def check_of_muon(momentum, adamw_lr) -> None:
    """Raises UserError for settings of Muon's own with which no step can be right."""
    check_beta("momentum", momentum)
    if not (math.isfinite(adamw_lr) and adamw_lr >= 0):
        raise UserError(f"adamw_lr is {adamw_lr}: it must be a finite number of at least 0")
