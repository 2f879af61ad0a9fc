"""python -m benchmarks.adamw: one AdamW step over the parameters of a GPT-2 of some depth and width."""

import numpy as np

from benchmarks.global_norm import elements, gpt2_tensors
from benchmarks.kernel import Operation, main

SETTINGS = dict(lr=1e-3, betas=(0.9, 0.99), eps=1e-8)
DECAY = 0.1


def inputs(rng, n_layer, d_model):
    values, gradients = gpt2_tensors(rng, n_layer, d_model), gpt2_tensors(rng, n_layer, d_model)
    zeros = [np.zeros_like(value) for value in values]
    return dict(values=values, gradients=gradients, first=zeros, second=[np.zeros_like(value) for value in values])


def forward(op, a):
    decays = [DECAY if value.ndim >= 2 else 0.0 for value in a.values]
    op.adamw_update(a.values, a.gradients, a.first, a.second, **SETTINGS, weight_decays=decays, step=1)
    return a.values, None


def torch_forward(torch, a):
    _once(a, lambda: _torch_optimizer(torch, a)).step()
    return tuple(a.values)


def _torch_optimizer(torch, a):
    for value, gradient in zip(a.values, a.gradients):
        value.grad = gradient
    matrices, vectors = ([v for v in a.values if (v.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **SETTINGS, fused=True)


def _once(a, make):
    """The optimizer of these arrays, made at the first step: making it is not what is measured."""
    if not hasattr(a, "optimizer"):
        a.optimizer = make()
    return a.optimizer


OPERATION = Operation(
    name="adamw",
    size_names=("n_layer", "d_model"),
    sizes=((4, 128), (12, 768)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda n_layer, d_model: 28 * elements(n_layer, d_model),
    torch_forward=torch_forward,
    layer="minillm.optim.adamw",
)

if __name__ == "__main__":
    main(OPERATION)
