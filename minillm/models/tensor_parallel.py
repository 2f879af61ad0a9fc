"""Tensor parallelism: N ranks share every matrix of a model, and compute one pass together.

Source: Shoeybi et al., "Megatron-LM" (2019), section 3; Narayanan et al. (2021). Of every block,
a rank has the heads and the inner channels that are its share, with all that belongs to them:

    q, k, v, gate, up, c_fc      cut along their outputs         layers/column_linear.py
    o, down, c_proj              cut along their inputs          layers/row_linear.py
    token table, head, loss      cut along the vocabulary        layers/vocabulary_*.py
    norms, other biases, the residual stream                     whole in every rank, the same numbers

A step exchanges, with n = B T tokens of C channels, for each block 2 n C numbers forward and 2 n C
backward, as sums over the ranks; n C for the token table and n C for the head, and 4 n for the
loss. Of that a rank sends 2 (N - 1) / N. It has about 1/N of the weights, gradients and moments,
and of what lies between column and row; the residual stream it has whole. So this pays between
ranks that share memory or a fast link, and a data-parallel group does for the rest.

Sums over ranks are parts of sums over an inner width: another N adds in another order. The same N
gives the same bits, and another one the same numbers to rounding.

`tensor_parallel` turns a model into the part of one rank; whole.py makes it whole again. Each model
class says in `share` which of its layers are cut how; nothing else knows.
"""

from __future__ import annotations

from minillm.errors import UserError
from minillm.layers.column_linear import ColumnLinear
from minillm.layers.cut import Cut
from minillm.layers.dropout import HeadsDropout
from minillm.layers.embedding import Embedding
from minillm.layers.heads_rms_norm import HeadsRMSNorm
from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear
from minillm.layers.lora_ranks import ColumnLoRALinear, RowLoRALinear
from minillm.layers.ranks import share_of
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.row_linear import RowLinear
from minillm.layers.vocabulary_cross_entropy import VocabularyCrossEntropy
from minillm.layers.vocabulary_embedding import VocabularyEmbedding
from minillm.layers.vocabulary_head import VocabularyHead


def tensor_parallel(model, communicator):
    """Turn a model into the part of one rank, and return it. All ranks call it with equal models.

    communicator: of the ranks that share the model; see layers/ranks.py. With one rank the model
    stays as it is. Give it LoRA before, and make the optimizer afterwards. Raises UserError, by
    name, for what cannot be shared out among so many ranks.
    """
    if communicator.size == 1:
        return model
    if model.sharing is not None:
        raise UserError(f"the model is the part of a rank already, one of {model.sharing.size}")
    model._name_layers()
    sharing = Sharing(communicator, model.device)
    model.share(sharing)
    model.sharing = sharing
    model._name_layers()
    return model


class Sharing:
    """Cuts the layers of a model for one rank.

    size, rank: among how many the model is shared, and which part this is.
    """

    def __init__(self, communicator, device: str = "cpu"):
        self.rank, self.size = communicator.rank, communicator.size
        self._communicator, self._device = communicator, device

    def __copy__(self) -> Sharing:
        return self  # a copy of a model is the part of the same rank

    def heads(self, attention: Layer) -> None:
        """Take this rank's share of the heads of a layer whose attributes `n_head` and, where it
        has it, `n_kv_head` count them: query heads stay with the key/value head that they read.

        Raises UserError unless each rank gets as many: the slowest of them would hold up all.
        """
        count = getattr(attention, "n_kv_head", attention.n_head)
        if count % self.size:
            heads = "heads" if count == attention.n_head else "key/value heads"
            *fitting, last = [str(ranks) for ranks in range(1, count + 1) if count % ranks == 0]
            raise UserError(
                f"--tensor-parallel {self.size}: so many ranks cannot share the {count} {heads} of {attention.name} "
                f"equally; {', '.join(fitting)}{' or ' if fitting else ''}{last} would fit"
            )
        dropout, all_heads = attention.attn_dropout, attention.n_head
        if dropout.p and self._device != "cpu":
            raise UserError(
                f"--tensor-parallel {self.size}: dropout of attention probabilities is shared on the CPU only; "
                "use --dropout 0 there"
            )
        attention.n_head //= self.size
        if hasattr(attention, "n_kv_head"):
            attention.n_kv_head //= self.size
        attention.attn_dropout = _like(dropout, HeadsDropout(dropout.p, self.rank * attention.n_head, all_heads))

    def columns(self, layer: Layer, *names: str, unit: int = 1, groups: int = 1) -> None:
        """Take this rank's share of the outputs of linear layers that read the same x, named in the
        order of their backward. unit, groups: as in Cut.
        """
        for reader, name in enumerate(names, start=1):
            linear = getattr(layer, name)
            axis, outputs = (
                (0, linear.weight.value.shape[0]) if linear.transposed else (1, linear.weight.value.shape[1])
            )
            readers = reader, len(names)
            self._cut(linear.weight, axis, outputs, linear.name, unit, groups)
            if hasattr(linear, "bias"):
                self._cut(linear.bias, 0, outputs, linear.name, unit, groups)
            if isinstance(linear, LoRALinear):
                self._cut(linear.lora_B, 0, outputs, linear.name, unit, groups)
                part = ColumnLoRALinear(linear, *_lora(linear), self._communicator, *readers)
            else:
                part = ColumnLinear(linear.weight, _bias(linear), linear.transposed, self._communicator, *readers)
            setattr(layer, name, _like(linear, part))

    def rows(self, layer: Layer, name: str, unit: int = 1) -> None:
        """Take this rank's share of the inputs of a linear layer. unit: as in Cut."""
        linear = getattr(layer, name)
        axis, inputs = (1, linear.weight.value.shape[1]) if linear.transposed else (0, linear.weight.value.shape[0])
        self._cut(linear.weight, axis, inputs, linear.name, unit)
        if isinstance(linear, LoRALinear):
            self._cut(linear.lora_A, 1, inputs, linear.name, unit)
            part = RowLoRALinear(linear, *_lora(linear), self._communicator)
        else:
            part = RowLinear(linear.weight, _bias(linear), linear.transposed, self._communicator)
        setattr(layer, name, _like(linear, part))

    def head_norms(self, layer: Layer, *names: str) -> None:
        """For RMS norms of the heads of a layer, of which each rank has its share: their weights
        are whole.
        """
        for name in names:
            norm: RMSNorm = getattr(layer, name)
            setattr(layer, name, _like(norm, HeadsRMSNorm(norm.weight, norm.eps, self._communicator)))

    def tokens(self, layer: Layer, name: str) -> None:
        """Take this rank's share of the rows of a token table."""
        embedding: Embedding = getattr(layer, name)
        count = len(embedding.weight.value)
        self._cut(embedding.weight, 0, count, embedding.name)
        first = share_of(self.rank, self.size, count).start
        setattr(layer, name, _like(embedding, VocabularyEmbedding(embedding.weight, first, self._communicator)))

    def head(self, model) -> None:
        """Take this rank's share of the rows of a model's output head, and the loss over them."""
        head, loss, count = model.lm_head, model.loss_head, model.config.vocab_size
        self._cut(head.weight, 0, count, "lm_head")
        model.lm_head = _like(head, VocabularyHead(head.weight, count, self._communicator))
        shared = VocabularyCrossEntropy(head.weight, count, self._communicator, loss.ignore_index, loss.label_smoothing)
        model.loss_head = _like(loss, shared)

    def _cut(self, parameter: Parameter, axis: int, count: int, name: str, unit: int = 1, groups: int = 1) -> None:
        if parameter.cut is not None:
            return  # a tied one
        if count // groups // unit < self.size:
            raise UserError(
                f"--tensor-parallel {self.size}: {name} has {count // groups // unit} parts to share out, fewer than ranks"
            )
        parameter.cut = Cut(axis, count, groups, unit, self.rank, self.size, self._communicator)
        parameter.value = parameter.cut.part_of(parameter.value)
        parameter.zero_grad()


def _like(old: Layer, new: Layer) -> Layer:
    new.name, new.training = old.name, old.training
    return new


def _bias(linear: Linear) -> Parameter | None:
    return getattr(linear, "bias", None)


def _lora(linear: LoRALinear) -> tuple:
    return linear.lora_A, linear.lora_B, linear.scale
