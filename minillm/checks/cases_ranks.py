"""The cases of layers that ranks share, each with two or three ranks imitated by threads."""

from __future__ import annotations

from minillm.checks.case import Case, at
from minillm.checks.cases_linear import linear_inputs, lora_inputs
from minillm.checks.cases_loss import linear_cross_entropy_inputs
from minillm.checks.ranks import Together
from minillm.layers.layer import Parameter
from minillm.layers.linear import Linear
from minillm.layers.ranks import share_of


def own(communicator, count: int) -> slice:
    """A rank's share of an axis."""
    share = share_of(communicator.rank, communicator.size, count)
    return slice(share.start, share.stop)


def _weight(a, inputs: slice = slice(None), outputs: slice = slice(None)):
    """A copy of a part of the weight (I, O), or (O, I)."""
    return (a.weight[outputs, inputs] if a.transposed else a.weight[inputs, outputs]).copy()


def column_linear(module, a):
    def make(communicator):
        outputs = own(communicator, a.dy.shape[-1])
        bias = None if a.bias is None else a.bias[outputs].copy()
        return module.ColumnLinear(_weight(a, outputs=outputs), bias, a.transposed, communicator)

    return Together(make, a.ranks, parts=True)


def row_linear(module, a):
    def make(communicator):
        inputs = own(communicator, a.x.shape[-1])
        bias = None if a.bias is None else a.bias.copy()
        return module.RowLinear(_weight(a, inputs=inputs), bias, a.transposed, communicator)

    return Together(make, a.ranks, whole=() if a.bias is None else ("bias",), reads=a.x.shape[-1])


def column_lora(module, a):
    def make(communicator):
        outputs = own(communicator, a.dy.shape[-1])
        base = Linear(_weight(a, outputs=outputs), None if a.bias is None else a.bias[outputs], a.transposed)
        return module.ColumnLoRALinear(base, a.a.copy(), a.b[outputs].copy(), a.scale, communicator)

    return Together(make, a.ranks, whole=("lora_A",), parts=True)


def row_lora(module, a):
    def make(communicator):
        inputs = own(communicator, a.x.shape[-1])
        base = Linear(_weight(a, inputs=inputs), a.bias, a.transposed)
        return module.RowLoRALinear(base, a.a[:, inputs].copy(), a.b.copy(), a.scale, communicator)

    return Together(make, a.ranks, whole=("lora_B",), reads=a.x.shape[-1])


def _with_ranks(inputs):
    return lambda rng, *size, ranks=2, **settings: {**inputs(rng, *size, **settings), "ranks": ranks}


SHAPES = [
    at(2, 3, 4, 6),
    at(2, 3, 4, 6, label="no bias", biased=False),
    at(2, 3, 4, 6, label="transposed weight", transposed=True),
    at(2, 3, 5, 7, label="three ranks", ranks=3),
]

COLUMN_LINEAR = Case("column_linear", inputs=_with_ranks(linear_inputs), layer=column_linear, gradcheck=SHAPES)
ROW_LINEAR = Case("row_linear", inputs=_with_ranks(linear_inputs), layer=row_linear, gradcheck=SHAPES)
COLUMN_LORA = Case(
    "column-parallel lora",
    home="minillm.layers.lora_ranks",
    inputs=_with_ranks(lora_inputs),
    layer=column_lora,
    gradcheck=SHAPES,
)
ROW_LORA = Case(
    "row-parallel lora",
    home="minillm.layers.lora_ranks",
    inputs=_with_ranks(lora_inputs),
    layer=row_lora,
    gradcheck=SHAPES,
)


def heads_rms_norm_inputs(rng, B, T, H, D, ranks=2):
    return dict(x=rng.normal(size=(B, T, H * D)), weight=rng.normal(size=D), D=D, ranks=ranks)


def heads_rms_norm(module, a):
    class OfHeads(module.HeadsRMSNorm):
        """As attention calls it: each head's D channels are a row."""

        def forward(self, x):
            return super().forward(x.reshape(*x.shape[:2], -1, a.D)).reshape(x.shape)

        def backward(self, dy):
            return super().backward(dy.reshape(*dy.shape[:2], -1, a.D)).reshape(dy.shape)

    def make(communicator):
        return OfHeads(a.weight.copy(), 1e-5, communicator)

    return Together(make, a.ranks, whole=("weight",), reads=a.x.shape[-1], parts=True)


HEADS_RMS_NORM = Case("heads_rms_norm", inputs=heads_rms_norm_inputs, layer=heads_rms_norm, gradcheck=[at(2, 3, 4, 3)])


def vocabulary_embedding_inputs(rng, tokens, vocabulary, width, ranks=2):
    ids = rng.integers(vocabulary, size=(1, tokens))
    return dict(ids=ids, weight=rng.normal(size=(vocabulary, width)), ranks=ranks)


def vocabulary_embedding(module, a):
    def make(communicator):
        tokens = own(communicator, len(a.weight))
        return module.VocabularyEmbedding(a.weight[tokens].copy(), tokens.start, communicator)

    return Together(make, a.ranks)


VOCABULARY_EMBEDDING = Case(
    "vocabulary_embedding",
    inputs=vocabulary_embedding_inputs,
    layer=vocabulary_embedding,
    layer_inputs=("ids",),
    gradcheck=[at(8, 5, 3), at(9, 7, 3, label="three ranks", ranks=3)],
)


def vocabulary_head(module, a):
    def make(communicator):
        tokens = own(communicator, len(a.weight))
        return module.VocabularyHead(a.weight[tokens].copy(), len(a.weight), communicator)

    return Together(make, a.ranks)


VOCABULARY_HEAD = Case(
    "vocabulary_head",
    inputs=_with_ranks(linear_cross_entropy_inputs),
    layer=vocabulary_head,
    gradcheck=[at(2, 3, 4, 7), at(2, 3, 4, 7, label="three ranks", ranks=3)],
)


def vocabulary_cross_entropy(module, a):
    def make(communicator):
        weight = Parameter(a.weight[own(communicator, len(a.weight))].copy())
        return module.VocabularyCrossEntropy(weight, len(a.weight), communicator, label_smoothing=a.label_smoothing)

    return Together(make, a.ranks)


VOCABULARY_CROSS_ENTROPY = Case(
    "vocabulary_cross_entropy",
    inputs=_with_ranks(linear_cross_entropy_inputs),
    layer=vocabulary_cross_entropy,
    layer_inputs=("x", "targets"),
    gradcheck=[
        at(2, 3, 4, 7, ignored=(4,)),
        at(2, 3, 4, 7, label="label smoothing", ignored=(4,), label_smoothing=0.1),
        at(2, 3, 4, 7, label="three ranks, large scores", scale=300.0, ranks=3),
    ],
)

RANKS = (
    COLUMN_LINEAR, ROW_LINEAR, COLUMN_LORA, ROW_LORA, HEADS_RMS_NORM, VOCABULARY_EMBEDDING, VOCABULARY_HEAD,
    VOCABULARY_CROSS_ENTROPY,
)  # fmt: skip
