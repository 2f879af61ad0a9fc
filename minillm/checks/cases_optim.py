"""The cases of the optimizer: a step of AdamW, and the norm of all gradients."""

from __future__ import annotations

from minillm.checks.case import Case, Kernel, at

SETTINGS = dict(lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
DECAY = 0.1
TENSORS = ((3, 4), (1,), (4097,), (0,), (5, 1, 7), (100, 100))


def tensors_inputs(rng, *shapes, steps=(3, 4), gradient_scale=0.5, decoupled=True):
    """Values, gradients and moments of these shapes.

    steps: the numbers of the steps to take, one after the other.
    """
    lists = {name: [rng.normal(size=shape) for shape in shapes] for name in ("values", "gradients", "first")}
    second = [rng.random(size=shape) for shape in shapes]
    return dict(**lists, second=second, steps=steps, gradient_scale=gradient_scale, decoupled=decoupled)


def a_matrix_and_vectors(rows, columns):
    return (rows, columns), (columns,), (7,)


def adamw_forward(op, a):
    """Matrices are decayed and vectors are not."""
    decays = [DECAY if value.ndim >= 2 else 0.0 for value in a.values]
    scale, lists = a.values[0].dtype.type(a.gradient_scale), (a.values, a.gradients, a.first, a.second)
    for step in a.steps:
        op.adamw_update(
            *lists, **SETTINGS, weight_decays=decays, step=step, gradient_scale=scale, decoupled=a.decoupled
        )
    return (a.values, a.first, a.second), None


ADAMW = Case(
    "adamw",
    home="minillm.optim.adamw",
    inputs=tensors_inputs,
    forward=adamw_forward,
    outputs=("values", "first", "second"),
    kernel=(Kernel("adamw", "minillm.kernels.adamw", "a step of AdamW, all tensors at once"),),
    dimensions=("rows", "columns"),
    expand=a_matrix_and_vectors,
    kernels=[at(*TENSORS), at(*TENSORS, decoupled=False), at((1,))],
    simulate=(64, 100),
)


GLOBAL_NORM = Case(
    "global_norm",
    home="minillm.optim.global_norm",
    inputs=lambda rng, *shapes: dict(gradients=[rng.normal(size=shape) for shape in shapes]),
    forward=lambda op, a: (op.global_norm(a.gradients), None),
    outputs=("norm",),
    kernel=(Kernel("global_norm", "minillm.kernels.global_norm", "the norm of all gradients together"),),
    dimensions=("rows", "columns"),
    expand=a_matrix_and_vectors,
    kernels=[at(*TENSORS), at((1,))],
    simulate=(64, 100),
)
