"""Cases of the ways through a backward pass that the plain call of a layer does not take.

A gradient that is added to another one, a frozen weight, a loss that is a part of a larger one,
rows in several chunks, several blocks of queries. Mutation found each of them: faults there went
unnoticed (checks/mutation).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from minillm.checks.case import KEY, Case, at, constants, randomised
from minillm.checks.cases_attention import attention_inputs
from minillm.checks.cases_linear import linear_inputs
from minillm.checks.cases_loss import (
    cross_entropy_inputs,
    linear_cross_entropy_inputs,
    sequence_log_probability_inputs,
)
from minillm.checks.cases_models import RESIDUAL_BLOCK, PackedModel, residual_block, residual_block_inputs, small
from minillm.checks.cases_norms import residual_norm_inputs
from minillm.checks.cases_preference import preference_inputs
from minillm.layers.documents import packed_starts
from minillm.layers.layer import Layer, Parameter
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.softmax import Softmax
from minillm.models.gpt2 import GPT2

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


def frozen(layer: Layer) -> Layer:
    """The layer with a weight that does not learn."""
    layer.weight.frozen = True
    return layer


FROZEN_LINEAR = Case(
    "frozen linear",
    home="minillm.layers.linear",
    inputs=linear_inputs,
    layer=lambda module, a: frozen(module.Linear(a.weight, a.bias, a.transposed)),
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
        at(1, 2, 1, 5, 2, label="full, dropout", causal=False, dropout=0.1),
        at(1, 2, 2, 5, 2, label="a window of 3", window=3),
        at(3, 1, 1, 6, 2, label="packed documents, dropout", documents=((2, 4), (5, 1), (1, 1, 4)), dropout=0.3),
    ],
)

# --------------------------------------------------------------------------------------------------------------- losses


class PartOfALoss(Layer):
    """A share of a loss, as if others were added to it: backward gets this share."""

    def __init__(self, loss: Layer, share: float):
        self.of, self.share = loss, share

    def forward(self, x, targets):
        return self.share * self.of.forward(x, targets)

    def backward(self, dloss):
        return self.of.backward(self.share * dloss)


HEAD, SEQUENCES = "minillm.layers.linear_cross_entropy", "minillm.layers.sequence_log_probability"


def _head_forward(op, a):
    written_over = np.ones_like(a.weight)
    with constants(op, HEAD, STRIP_ROWS=4):
        loss, saved = op.linear_cross_entropy_forward(a.x, a.weight, a.targets, chunk_rows=1, dweight=written_over)
    return 2 * loss, saved


def _sequences_forward(op, a):
    return op.sequence_log_probability_forward(a.x, a.weight, a.targets, chunk_rows=2)


def _sequences_backward(op, a, saved):
    buffer = 2 * np.ones_like(a.weight)  # which the gradient is added to
    with constants(op, SEQUENCES, STRIP_ROWS=4):
        dx, dweight = op.sequence_log_probability_backward(a.dlogp, saved, buffer.copy())
    return dx, dweight - buffer


def _padded_forward(op, a):
    """The weight has rows of zeros below those of the vocabulary."""
    weight = np.concatenate([a.weight, np.zeros_like(a.weight)])
    return op.sequence_log_probability_forward(a.x, weight, a.targets, vocabulary=len(a.weight))


LOSSES = (
    Case(
        "part of a cross-entropy",
        home="minillm.layers.cross_entropy",
        inputs=cross_entropy_inputs,
        layer=lambda module, a: PartOfALoss(module.CrossEntropy(), a.dloss),
        layer_inputs=("logits", "targets"),
        gradcheck=[at(2, 3, 6, label="twice the loss", dloss=2.0), at(2, 3, 6, label="none of it", dloss=0.0)],
    ),
    Case(
        "part of a loss, in chunks",
        home=HEAD,
        inputs=linear_cross_entropy_inputs,
        forward=_head_forward,
        backward=lambda op, a, saved: op.linear_cross_entropy_backward(2 * a.dloss, saved),
        outputs=("loss",),
        differentiated=("x", "weight"),
        gradcheck=[at(5, 3, 11, ignored=(3,))],
    ),
    Case(
        "part of a loss, a frozen head",
        home=HEAD,
        inputs=linear_cross_entropy_inputs,
        layer=lambda module, a: PartOfALoss(frozen(module.LinearCrossEntropy(Parameter(a.weight))), 0.0),
        layer_inputs=("x", "targets"),
        gradcheck=[at(2, 3, 4, 6)],
    ),
    Case(
        "log-probabilities in chunks",
        home=SEQUENCES,
        inputs=sequence_log_probability_inputs,
        forward=_sequences_forward,
        backward=_sequences_backward,
        outputs=("logp",),
        differentiated=("x", "weight"),
        gradcheck=[at(2, 5, 3, 11, prompt=1)],
    ),
    Case(
        "log-probabilities, a padded head",
        home=SEQUENCES,
        inputs=sequence_log_probability_inputs,
        forward=_padded_forward,
        backward=lambda op, a, saved: op.sequence_log_probability_backward(a.dlogp, saved)[0],
        outputs=("logp",),
        differentiated=("x",),
        gradcheck=[at(2, 4, 4, 6, prompt=1)],
    ),
    Case(
        "log-probabilities, a frozen head",
        home=SEQUENCES,
        inputs=sequence_log_probability_inputs,
        layer=lambda module, a: frozen(module.SequenceLogProbability(Parameter(a.weight))),
        layer_inputs=("x", "targets"),
        gradcheck=[at(2, 4, 4, 6, prompt=1)],
    ),
    Case(
        "log-probabilities of logits",
        home=SEQUENCES,
        inputs=sequence_log_probability_inputs,
        layer=lambda module, a: module.SequenceLogProbability(None),
        layer_inputs=("x", "targets"),
        gradcheck=[at(2, 4, 6, 6, prompt=1)],
    ),
    Case(
        "part of a DPO loss",
        home="minillm.layers.dpo",
        inputs=lambda rng, pairs: dict(
            zip(("chosen", "rejected", "first", "second"), rng.normal(size=(4, pairs)) - 20)
        ),
        forward=lambda op, a: _halved(*op.dpo_forward(a.chosen, a.rejected, a.first, a.second, 0.7)),
        backward=lambda op, a, saved: op.dpo_backward(0.5 * a.dloss, saved),
        outputs=("loss",),
        differentiated=("chosen", "rejected"),
        gradcheck=[at(5)],
    ),
)


def _halved(loss, saved):
    return 0.5 * loss, saved


# --------------------------------------------------------------------------------------------------------------- models


class LogitsOfModel(Layer):
    """A model without its loss: backward gets the gradient of the logits."""

    def __init__(self, model: Layer):
        self.model = model

    def forward(self, ids, rng_key=None):
        return self.model.forward(ids, rng_key)

    def backward(self, dlogits) -> None:
        self.model.backward(dlogits)


class Blocks(Layer):
    """Two residual blocks, one after the other, by `run_blocks`.

    module: minillm.layers.recompute, or a copy with a fault.
    """

    def __init__(self, module, first: Layer, second: Layer, recompute: bool):
        self.module, self.first, self.second, self.recompute = module, first, second, recompute

    def forward(self, x, rng_key):
        y, saved = self.module.run_blocks((self.first, self.second), x, rng_key, self.recompute)
        self.save_for_backward(saved)
        return y

    def backward(self, dy):
        return self.module.run_blocks_backward((self.first, self.second), dy, self.take_saved())


def _blocks(module, a):
    copies = [SimpleNamespace(**{name: np.array(value) for name, value in vars(a).items()}) for _ in range(2)]
    return Blocks(module, *(residual_block(RESIDUAL_BLOCK.module, each) for each in copies), a.recompute)


def _model_inputs(rng, starts=((2, 3), (1, 4)), **changes):
    ids, targets = rng.integers(small(GPT2)["vocab_size"], size=(2, 2, 5))
    config = GPT2.config_class(**small(GPT2) | dict(n_layer=1) | changes)
    starts = np.stack([packed_starts(lengths, 5) for lengths in starts])
    return dict(ids=ids, targets=targets, starts=starts, config=config, rng_key=KEY)


def _model(module, a):
    return randomised(module.GPT2(a.config, seed=0, dtype="float64"))


def _doubled(model: GPT2) -> GPT2:
    return randomised(_changed(GPT2)(model.config, seed=0, dtype="float64"))


def _changed(gpt2: type) -> type:
    """A class with a forward of its own: the logits of GPT-2, doubled."""

    class Doubled(gpt2):
        def forward(self, ids, rng_key=None):
            return 2 * super().forward(ids, rng_key)

        def backward(self, dlogits):
            super().backward(2 * dlogits)

    return Doubled


PARTS_OF_MODELS = (
    Case(
        "blocks in a row",
        home="minillm.layers.recompute",
        inputs=lambda rng, *shape, recompute: residual_block_inputs(rng, *shape) | dict(recompute=recompute),
        layer=_blocks,
        gradcheck=[at(2, 3, 4, label="recomputed", recompute=True), at(2, 3, 4, label="kept", recompute=False)],
    ),
    Case(
        "gpt2 with packed documents",
        home="minillm.models.gpt2",
        inputs=_model_inputs,
        layer=lambda module, a: PackedModel(_model(module, a), a.starts),
        layer_inputs=("ids", "targets"),
        gradcheck=[at()],
    ),
    Case(
        "logits of gpt2",
        home="minillm.models.gpt2",
        inputs=_model_inputs,
        layer=lambda module, a: LogitsOfModel(_model(module, a)),
        layer_inputs=("ids",),
        gradcheck=[at(tie_embeddings=False)],
    ),
    Case(
        "gpt2 with a forward of its own",
        home="minillm.models.gpt2",
        inputs=_model_inputs,
        layer=lambda module, a: randomised(_changed(module.GPT2)(a.config, seed=0, dtype="float64")),
        layer_inputs=("ids", "targets"),
        gradcheck=[at()],
    ),
    Case(
        "preferences of a forward of its own",
        home="minillm.models.preference",
        inputs=lambda rng: preference_inputs(rng, "GPT2"),
        layer=lambda module, a: module.PreferenceModel(_doubled(a.model), beta=0.7),
        layer_inputs=("ids", "targets", "reference"),
        gradcheck=[at()],
    ),
)

PATHS = (LINEAR_SUM, FROZEN_LINEAR, EMBEDDING_ROWS, *NORMS, NO_DROPOUT, ATTENTION_BLOCKS, *LOSSES, *PARTS_OF_MODELS)
