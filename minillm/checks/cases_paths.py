"""Cases of the ways through a backward pass that the plain call of a layer does not take.

A gradient that is added to another one, a frozen weight, a loss that is a part of a larger one,
rows in several chunks, several blocks of queries. Mutation found each of them: faults there went
unnoticed (checks/mutation).
"""

from __future__ import annotations

import numpy as np

from minillm.checks.case import KEY, Case, at, constants
from minillm.checks.cases_attention import attention_inputs
from minillm.checks.cases_linear import linear_inputs
from minillm.checks.cases_norms import residual_norm_inputs
from minillm.checks.cases_paths_losses import LOSSES, frozen
from minillm.checks.cases_paths_models import PARTS_OF_MODELS
from minillm.checks.cases_paths_ranks import PATHS_OF_RANKS
from minillm.layers.layer import Layer, Parameter
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.softmax import Softmax

# ---------------------------------------------------------------------------------------------------- linear, embedding


class SumOfLinears(Layer):
    """first(x) + second(x), whose gradients of x are added in the product of the second one.

    module: minillm.layers.linear, or a copy with a fault.
    """

    def __init__(self, module, first: Layer, second: Layer):
        self.module, self.first, self.second = module, first, second

    def forward(self, x):
        return self.first.forward(x) + self.second.forward(x)

    def backward(self, dy):
        return self.module.backward_onto(self.second, dy, self.first.backward(dy))


class Within(Layer):
    """Another layer under a name of its own."""

    def __init__(self, layer: Layer):
        self.layer = layer

    def forward(self, x):
        return self.layer.forward(x)

    def backward(self, dy):
        return self.layer.backward(dy)


def _sum_of_linears(module, a):
    first = module.Linear(a.weight)
    if a.second == "softmax":
        return SumOfLinears(module, first, Softmax())
    second = (_derived(module.Linear) if a.second == "derived" else module.Linear)(a.other, a.bias)
    if a.second == "exchanged":
        second.backward = lambda dy: module.Linear.backward(second, dy)
    return SumOfLinears(module, first, Within(second) if a.second == "within" else second)


def _derived(linear: type) -> type:
    class OwnLinear(linear):
        def backward(self, dy):
            return linear.backward(self, dy)

    return OwnLinear


LINEAR_SUM = Case(
    "sum of linears",
    home="minillm.layers.linear",
    inputs=lambda rng, *shape, second="linear": dict(
        linear_inputs(rng, *shape), other=rng.normal(size=shape[-2:]), second=second
    ),
    layer=_sum_of_linears,
    gradcheck=[
        at(2, 3, 4, 5),
        at(2, 3, 4, 5, label="one within another layer", second="within"),
        at(2, 3, 4, 5, label="one of a derived class", second="derived"),
        at(2, 3, 4, 5, label="one whose backward was exchanged", second="exchanged"),
        at(2, 3, 5, 5, label="and a softmax", second="softmax"),
    ],
)


FROZEN_LINEAR = Case(
    "frozen linear",
    home="minillm.layers.linear",
    inputs=linear_inputs,
    layer=lambda module, a: frozen(module.Linear(a.weight, a.bias, a.transposed)),
    gradcheck=[at(2, 3, 4, 5), at(2, 3, 4, 5, label="transposed weight", transposed=True)],
)


def _linear_at_home(module, a):
    layer = module.Linear(a.weight, a.bias, a.transposed)
    layer.weight.home = np.ones_like(a.weight)  # of an earlier step: the first gradient is written over it
    return layer


LINEAR_AT_HOME = Case(
    "linear, the gradient in a given place",
    home="minillm.layers.linear",
    inputs=linear_inputs,
    layer=_linear_at_home,
    gradcheck=[at(2, 3, 4, 5), at(2, 3, 4, 5, label="transposed weight", transposed=True)],
)


def _added_rows(op, a, saved):
    return (
        op.embedding_backward(a.dy, saved, a.buffer.copy()) - a.buffer
        if a.added
        else op.embedding_backward(a.dy, saved)
    )


EMBEDDING_ROWS = Case(
    "rows of a table",
    home="minillm.layers.embedding",
    inputs=lambda rng, vocabulary, width, added=False: dict(
        ids=np.array([[3, 1, 3], [1, 4, 3]]),  # the first rows of the table are not read
        weight=rng.normal(size=(vocabulary, width)),
        buffer=rng.normal(size=(vocabulary, width)),
        added=added,
    ),
    forward=lambda op, a: op.embedding_forward(a.ids, a.weight),
    backward=_added_rows,
    differentiated=("weight",),
    gradcheck=[at(6, 4), at(6, 4, label="added to a gradient", added=True)],
)

# ---------------------------------------------------------------------------------------------------------------- norms


class BesideItsNorm(Layer):
    """x and norm(x), as a residual block needs them: backward gets the gradients of both."""

    def __init__(self, norm: Layer):
        self.norm = norm

    def forward(self, x):
        return x.copy(), self.norm.forward(x)

    def backward(self, gradients):
        dsum, dy = gradients
        return self.norm.backward(dy, dsum=dsum)


class NormOfSum(Layer):
    """s = x + (delta + delta_bias) and norm(s), by `layer_norm_of_sum` or `rms_norm_of_sum`.

    forward, backward: these functions of a module, or of a copy with a fault.
    """

    def __init__(self, forward, backward, norm: Layer, delta_bias):
        self._forward, self._backward, self.norm, self.delta_bias = forward, backward, norm, Parameter(delta_bias)

    def forward(self, x, delta):
        return self._forward(self.norm, x, delta, self.delta_bias.value)

    def backward(self, gradients):
        dx, ddelta_bias = self._backward(self.norm, *gradients)
        self.delta_bias.add_grad(ddelta_bias)
        return dx, dx


def _layer_norm_of_sum(module, a):
    norm = LayerNorm(a.weight, a.bias, a.eps)
    return NormOfSum(module.layer_norm_of_sum, module.layer_norm_of_sum_backward, norm, a.delta_bias)


def _rms_norm_of_sum(module, a):
    return NormOfSum(module.rms_norm_of_sum, module.rms_norm_of_sum_backward, RMSNorm(a.weight, a.eps), a.delta_bias)


NORMS = (
    Case(
        "x and its layer norm",
        home="minillm.layers.layer_norm",
        inputs=residual_norm_inputs,
        layer=lambda module, a: BesideItsNorm(module.LayerNorm(a.weight, a.bias, a.eps)),
        gradcheck=[at(2, 3, 8)],
    ),
    Case(
        "x and its RMS norm",
        home="minillm.layers.rms_norm",
        inputs=residual_norm_inputs,
        layer=lambda module, a: BesideItsNorm(module.RMSNorm(a.weight, a.eps)),
        gradcheck=[at(2, 3, 8)],
    ),
    Case(
        "layer norm of a sum",
        home="minillm.layers.residual_layer_norm",
        inputs=residual_norm_inputs,
        layer=_layer_norm_of_sum,
        layer_inputs=("x", "delta"),
        gradcheck=[at(2, 3, 8), at(2, 3, 8, label="no bias", biased=False)],
    ),
    Case(
        "RMS norm of a sum",
        home="minillm.layers.residual_rms_norm",
        inputs=residual_norm_inputs,
        layer=_rms_norm_of_sum,
        layer_inputs=("x", "delta"),
        gradcheck=[at(2, 3, 8)],
    ),
)

# -------------------------------------------------------------------------------------------------- dropout, attention

NO_DROPOUT = Case(
    "no dropout",
    home="minillm.layers.dropout",
    inputs=lambda rng, *shape: dict(x=rng.normal(size=shape), rng_key=KEY),
    layer=lambda module, a: module.Dropout(0.0),
    gradcheck=[at(3, 4, 5)],
)


ATTENTION_HOME = "minillm.layers.attention"


def _attention_forward(op, a):
    with constants(op, ATTENTION_HOME, QUERY_BLOCK=2):
        return op.attention_forward(a.q, a.k, a.v, **a.settings, starts=a.starts)


def _attention_backward(op, a, saved):
    with constants(op, ATTENTION_HOME, QUERY_BLOCK=2):
        return op.attention_backward(a.dy, saved)


ATTENTION_BLOCKS = Case(
    "attention in blocks",
    home=ATTENTION_HOME,
    inputs=attention_inputs,
    forward=_attention_forward,
    backward=_attention_backward,
    differentiated=("q", "k", "v"),
    gradcheck=[  # blocks of 2 queries
        at(1, 6, 2, 5, 3, label="6 query heads on 2 key/value heads, dropout", dropout=0.3),
        at(4, 4, 2, 4, 2, label="as many rows and tokens as heads"),
        at(1, 4, 2, 2, 3, label="as many tokens as key/value heads"),
        at(1, 2, 1, 5, 2, label="full, dropout", causal=False, dropout=0.1),
        at(1, 2, 2, 5, 2, label="a window of 3", window=3),
        at(3, 1, 1, 6, 2, label="packed documents, dropout", documents=((2, 4), (5, 1), (1, 1, 4)), dropout=0.3),
    ],
)

PATHS = (
    LINEAR_SUM, FROZEN_LINEAR, LINEAR_AT_HOME, EMBEDDING_ROWS, *NORMS, NO_DROPOUT, ATTENTION_BLOCKS, *LOSSES,
    *PARTS_OF_MODELS, *PATHS_OF_RANKS,
)  # fmt: skip
