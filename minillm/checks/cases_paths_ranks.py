"""Cases of layers that ranks share: several readers of one x, frozen weights, a loss in chunks."""

from __future__ import annotations

import numpy as np

from minillm.checks.case import Case, at, constants
from minillm.checks.cases_linear import linear_inputs, lora_inputs
from minillm.checks.cases_loss import linear_cross_entropy_inputs
from minillm.checks.cases_paths_losses import PartOfALoss, frozen
from minillm.checks.cases_ranks import own
from minillm.checks.ranks import Together
from minillm.checks.subjects import GradientError
from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear import Linear


class SumOfTwo(Layer):
    """first(x) + second(x), whose second backward adds to the dx of the first.

    in_order: the second one refuses a backward without the dx of the first, with a RuntimeError.
    """

    def __init__(self, first: Layer, second: Layer, in_order: bool):
        self.first, self.second, self.in_order = first, second, in_order

    def forward(self, x):
        return self.first.forward(x) + self.second.forward(x)

    def backward(self, dy):
        if self.in_order:
            _refuses(self.second, dy)
        return self.second.backward(dy, self.first.backward(dy))


def _refuses(layer: Layer, dy) -> None:
    try:
        layer.backward(dy)
    except RuntimeError:
        return
    raise GradientError("a later reader of x begins dx, which the first one should begin")


def _two_inputs(rng, *shape, **settings):
    return dict(lora_inputs(rng, *shape, **settings), other=rng.normal(size=shape[-2:]))


def _two_columns(module, a):
    def make(communicator):
        outputs = own(communicator, a.dy.shape[-1])
        first = module.ColumnLinear(a.weight[:, outputs].copy(), a.bias[outputs].copy(), False, communicator, 1, 2)
        return SumOfTwo(first, module.ColumnLinear(a.other[:, outputs].copy(), None, False, communicator, 2, 2), True)

    return Together(make, parts=True)


def _two_rows(module, a):
    def make(communicator):
        inputs = own(communicator, a.x.shape[-1])
        first, second = (
            module.RowLinear(each[inputs].copy(), None, False, communicator) for each in (a.weight, a.other)
        )
        return SumOfTwo(first, second, False)

    return Together(make, reads=a.x.shape[-1])


def _two_columns_with_lora(module, a):
    def make(communicator):
        outputs = own(communicator, a.dy.shape[-1])
        first, second = (
            module.ColumnLoRALinear(
                Linear(each[:, outputs]), a.a.copy(), a.b[outputs].copy(), a.scale, communicator, reader, 2
            )
            for reader, each in ((1, a.weight), (2, a.other))
        )
        return SumOfTwo(first, second, True)

    return Together(make, whole=("first.lora_A", "second.lora_A"), parts=True)


def _two_rows_with_lora(module, a):
    def make(communicator):
        inputs = own(communicator, a.x.shape[-1])
        first, second = (
            module.RowLoRALinear(Linear(each[inputs]), a.a[:, inputs].copy(), a.b.copy(), a.scale, communicator)
            for each in (a.weight, a.other)
        )
        return SumOfTwo(first, second, False)

    return Together(make, whole=("first.lora_B", "second.lora_B"), reads=a.x.shape[-1])


def _frozen_columns(module, a):
    def make(communicator):
        outputs = own(communicator, a.dy.shape[-1])
        return frozen(module.ColumnLinear(a.weight[:, outputs].copy(), a.bias[outputs].copy(), False, communicator))

    return Together(make, parts=True)


def _frozen_rows(module, a):
    def make(communicator):
        inputs = own(communicator, a.x.shape[-1])
        return frozen(module.RowLinear(a.weight[inputs].copy(), a.bias.copy(), False, communicator))

    return Together(make, whole=("bias",), reads=a.x.shape[-1])


def _frozen_head(module, a):
    def make(communicator):
        weight = a.weight[own(communicator, len(a.weight))].copy()
        return frozen(module.VocabularyHead(weight, len(a.weight), communicator))

    return Together(make)


# ------------------------------------------------------------------------------------------------------------- the loss

LOSS = "minillm.layers.vocabulary_cross_entropy"


def _part_of_a_loss(module, a):
    def make(communicator):
        weight = Parameter(a.weight[own(communicator, len(a.weight))].copy())
        loss = module.VocabularyCrossEntropy(weight, len(a.weight), communicator)
        return PartOfALoss(frozen(loss) if a.frozen else loss, a.share)

    return Together(make)


class LossInChunks(Layer):
    """A loss, doubled, of one row of x at a time."""

    def __init__(self, module, weight, vocabulary: int, communicator):
        self.module, self.weight = module, Parameter(weight)
        self.vocabulary, self._communicator = vocabulary, communicator

    def forward(self, x, targets):
        written_over = np.ones_like(self.weight.value)
        loss, saved = self.module.vocabulary_cross_entropy_forward(
            x, self.weight.value, targets, self.vocabulary, self._communicator, dweight=written_over, chunk_rows=1
        )
        self.save_for_backward(saved)
        return 2 * loss

    def backward(self, dloss):
        dx, dweight = self.module.vocabulary_cross_entropy_backward(2 * dloss, self.take_saved(), self._communicator)
        self.weight.add_grad(dweight)
        return dx


class InStrips(Together):
    """As Together; dW is computed in strips of so many tokens."""

    def __init__(self, module, strip_rows: int, make):
        super().__init__(make)
        self.module, self.strip_rows = module, strip_rows

    def forward(self, *inputs):
        with constants(self.module, LOSS, STRIP_ROWS=self.strip_rows):
            return super().forward(*inputs)


def _loss_in_chunks(module, a):
    def make(communicator):
        weight = a.weight[own(communicator, len(a.weight))].copy()
        return LossInChunks(module, weight, len(a.weight), communicator)

    return InStrips(module, 2, make)


PATHS_OF_RANKS = (
    Case(
        "two column-parallel readers of x",
        home="minillm.layers.column_linear",
        inputs=_two_inputs,
        layer=_two_columns,
        gradcheck=[at(2, 2, 3, 4)],
    ),
    Case(
        "sum of two row-parallel layers",
        home="minillm.layers.row_linear",
        inputs=_two_inputs,
        layer=_two_rows,
        gradcheck=[at(2, 3, 8, 3)],
    ),
    Case(
        "two column-parallel readers of x, with lora",
        home="minillm.layers.lora_ranks",
        inputs=_two_inputs,
        layer=_two_columns_with_lora,
        gradcheck=[at(2, 2, 3, 4)],
    ),
    Case(
        "sum of two row-parallel layers with lora",
        home="minillm.layers.lora_ranks",
        inputs=_two_inputs,
        layer=_two_rows_with_lora,
        gradcheck=[at(2, 3, 8, 3)],
    ),
    Case(
        "frozen column_linear",
        home="minillm.layers.column_linear",
        inputs=linear_inputs,
        layer=_frozen_columns,
        gradcheck=[at(2, 2, 3, 4)],
    ),
    Case(
        "frozen row_linear",
        home="minillm.layers.row_linear",
        inputs=linear_inputs,
        layer=_frozen_rows,
        gradcheck=[at(2, 2, 4, 3)],
    ),
    Case(
        "frozen vocabulary_head",
        home="minillm.layers.vocabulary_head",
        inputs=linear_cross_entropy_inputs,
        layer=_frozen_head,
        gradcheck=[at(2, 2, 3, 5)],
    ),
    Case(
        "part of a loss over ranks",
        home=LOSS,
        inputs=lambda rng, *shape, share, frozen=False: (
            linear_cross_entropy_inputs(rng, *shape) | dict(share=share, frozen=frozen)
        ),
        layer=_part_of_a_loss,
        layer_inputs=("x", "targets"),
        gradcheck=[
            at(2, 2, 3, 5, label="none of it", share=0.0),
            at(2, 2, 3, 5, label="twice, a frozen head", share=2.0, frozen=True),
        ],
    ),
    Case(
        "part of a loss over ranks, in chunks",
        home=LOSS,
        inputs=linear_cross_entropy_inputs,
        layer=_loss_in_chunks,
        layer_inputs=("x", "targets"),
        gradcheck=[at(5, 3, 9, ignored=(3,))],
    ),
)
