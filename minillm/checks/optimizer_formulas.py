"""The update of each optimizer as its paper has it, a number at a time, in plain Python.

Optimizers have no gradient that finite differences could check. What they can be compared with is
their formula. Here it is written without NumPy, without anything in place, and without anything
that saves time: a mistake in the engine's code (minillm/optim) would have to be made a second time,
in another form.

w, g, m, v: numbers, a weight, its gradient, and its state. t: the step, from 1. lr: the learning
rate.
"""

from __future__ import annotations

import math

Matrix = list[list[float]]


def adamw(w, g, m, v, t, lr, betas, eps, decay):
    """Loshchilov, Hutter (ICLR 2019), algorithm 2, lines 6 to 12  ->  w, m, v"""
    b1, b2 = betas
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    return w - lr * (m_hat / (math.sqrt(v_hat) + eps) + decay * w), m, v


def adam(w, g, m, v, t, lr, betas, eps, decay):
    """Kingma, Ba (ICLR 2015), algorithm 1, with an L2 penalty in the loss  ->  w, m, v"""
    return adamw(w, g + decay * w, m, v, t, lr, betas, eps, 0.0)


def lion(w, g, m, lr, betas, decay):
    """Chen et al. (NeurIPS 2023), algorithm 2  ->  w, m"""
    b1, b2 = betas
    direction = b1 * m + (1 - b1) * g
    sign = (direction > 0) - (direction < 0)
    return w - lr * (sign + decay * w), b2 * m + (1 - b2) * g


def sgd(w, g, m, lr, beta, decay):
    """Sutskever et al. (ICML 2013), equations 1 and 2, with lr outside of m  ->  w, m"""
    m = beta * m + (g + decay * w)
    return w - lr * m, m


def muon(w: Matrix, g: Matrix, m: Matrix, lr, momentum, decay) -> tuple[Matrix, Matrix]:
    """Jordan et al. (2024): w, g, m (outputs, inputs) as lists of rows  ->  w, m"""
    rows, columns = range(len(w)), range(len(w[0]))
    m = [[momentum * m[i][j] + (1 - momentum) * g[i][j] for j in columns] for i in rows]
    n = [[momentum * m[i][j] + (1 - momentum) * g[i][j] for j in columns] for i in rows]
    step, scale = newton_schulz(n), math.sqrt(max(1.0, len(w) / len(w[0])))
    return [[w[i][j] - lr * decay * w[i][j] - lr * scale * step[i][j] for j in columns] for i in rows], m


def newton_schulz(n: Matrix) -> Matrix:
    """About U V^T of n = U S V^T: x = a x + (b A + c A A) x with A = x x^T, five times."""
    if len(n) > len(n[0]):
        return transpose(newton_schulz(transpose(n)))
    a, b, c = 3.4445, -4.7750, 2.0315
    norm = max(math.sqrt(sum(number * number for row in n for number in row)), 1e-7)
    x = [[number / norm for number in row] for row in n]
    for _ in range(5):
        gram = product(x, transpose(x))
        squared = product(gram, gram)
        factor = [[b * one + c * two for one, two in zip(*rows)] for rows in zip(gram, squared)]
        x = [[a * one + two for one, two in zip(*rows)] for rows in zip(x, product(factor, x))]
    return x


def product(a: Matrix, b: Matrix) -> Matrix:
    """The matrix product a b."""
    return [[sum(row[k] * b[k][j] for k in range(len(b))) for j in range(len(b[0]))] for row in a]


def transpose(a: Matrix) -> Matrix:
    """The rows of a as columns."""
    return [list(column) for column in zip(*a)]


def global_norm(gradients: list[list[float]]) -> float:
    """Pascanu et al. (2013), algorithm 1: the norm of all numbers of all tensors."""
    return math.sqrt(sum(number * number for numbers in gradients for number in numbers))


def clip_scale(norm: float, max_norm: float) -> float:
    """What all gradients are multiplied with, so that their norm is at most max_norm (0: no
    limit).
    """
    return min(1.0, max_norm / norm) if max_norm else 1.0


def schedule(name: str, step: int, lr: float, max_steps: int, warmup_steps: int, min_lr: float) -> float:
    """The learning rate of a step 0, 1, ...: warm-up, and then Loshchilov, Hutter, "SGDR" (2017),
    equation 5, a straight line, or a constant.
    """
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    share = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    if name == "cosine":
        return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * share))
    return lr * (1 - share) + min_lr * share if name == "linear" else lr
