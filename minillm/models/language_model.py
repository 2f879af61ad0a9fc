"""What every language model here shares: from ids to logits, to the loss, and back."""

from __future__ import annotations

import numpy as np

from minillm.backend import contiguous, device_of, stream, to_device
from minillm.errors import UserError
from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear import Linear
from minillm.layers.linear_cross_entropy import LinearCrossEntropy
from minillm.matmul import check_gpu
from minillm.models.carried import NOTHING, Carried
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.precision import activation_dtype, products_in, weight_dtype


class LanguageModel(Layer):
    """A body that makes vectors of ids, and a head that scores every token.

        x = body(ids)                                               (B, T) -> (B, T, C)
        logits = x W_head^T                                         (B, T, C) @ (C, V)
        loss = mean over B, T of -log softmax(logits)[target]

    A subclass sets `body_name`, the attribute of its body, and makes the body in `_make_body`. seed: the same seed gives
    the same weights; with seed=None the weights hold no memory and no numbers: give each Parameter its value afterwards.
    dtype: "float32", "float64", "tf32" or "bfloat16"; precision.py says what is kept in which precision.
    """

    body_name: str
    lora: LoRA | None = None  # set by add_lora
    carried: Carried = NOTHING  # what the files of the model said beside its weights; set by from_pretrained

    def __init__(self, config, seed: int | None = 0, dtype="float32"):
        self.config = config
        self._seed, self._dtype = seed, weight_dtype(dtype)
        self.precision = dtype if isinstance(dtype, str) else self._dtype.name
        setattr(self, self.body_name, self._make_body())
        self.lm_head = self._make_head()
        self.loss_head = LinearCrossEntropy(self.lm_head.weight)
        self.body.activations = activation_dtype(self.precision)
        for path, layer in self.layers():
            layer.name = path.removeprefix(f"{self.body_name}.")

    @property
    def body(self) -> Layer:
        return getattr(self, self.body_name)

    # ---------------------------------------------------------------------------------------------- from ids to loss

    def forward(self, ids, key=None):
        """ids (B, T) int  ->  logits (B, T, V). `key`: see `loss`."""
        with products_in(self.precision):
            return self._logits(self._hidden(ids, key))

    def loss(self, ids, targets, key=None, count=None):
        """ids and targets (B, T) int  ->  mean cross-entropy in nats (0-d); `backward()` may follow.

        key: a tuple such as (seed, step), from which dropout draws its masks; needed only in training mode with
        dropout > 0. Targets of -100 are not counted. count: what the sum of losses is divided by, if not by the number of
        targets that count. Raises UserError for ids outside the vocabulary.
        """
        if count is None and device_of(targets) == "cpu":  # here, where nobody has to wait for it
            count = int((np.asarray(targets) != self.loss_head.ignore_index).sum())
        targets = self._ids_on_device(targets, "targets", ignored=self.loss_head.ignore_index)
        with products_in(self.precision):
            return self.loss_head.forward(self._hidden(ids, key), targets, count)

    def next_token_logits(self, ids):
        """ids (B, T) int  ->  logits (B, V) of the token that follows the last one."""
        with products_in(self.precision):
            return self._logits(contiguous(self._hidden(ids, None)[:, -1]))

    def backward(self, dlogits=None) -> None:
        """Add the gradient of the loss to `.grad` of every parameter.

        After `loss(...)` without an argument; after `forward(...)` with the gradient of the logits (B, T, V).
        """
        # forward: loss = cross_entropy(logits), logits = body(ids) @ W_head.T
        with products_in(self.precision):
            if dlogits is None:
                dx = self.loss_head.backward()
            else:
                dx = self.lm_head.backward(dlogits.astype(self.body.activations, copy=False))
            self.body.backward(dx)

    def to(self, device: str) -> LanguageModel:
        """As `Layer.to`. Raises UserError where the GPU does not know the model's precision."""
        super().to(device)
        check_gpu(self.lm_head.weight.value, self.precision)
        return self

    def replica(self) -> LanguageModel:
        """A model that shares this one's weights and has gradients of its own."""
        copy = type(self)(self.config, seed=None, dtype=self.precision)
        if self.lora is not None:
            add_lora(copy, self.lora)
        copies = copy.parameters()
        for name, parameter in self.parameters().items():
            copies[name].value, copies[name].frozen = parameter.value, parameter.frozen
        copy.loss_head.label_smoothing = self.loss_head.label_smoothing
        copy.body.recompute = self.body.recompute
        return copy.train(self.training)

    def trained_parameters(self) -> dict[str, Parameter]:
        """Those of `parameters()` that learn: what the optimizer is made from."""
        return {name: parameter for name, parameter in self.parameters().items() if not parameter.frozen}

    def save_pretrained(self, folder) -> None:
        """Write config.json, generation_config.json and model.safetensors as Hugging Face names them; LoRA is merged."""
        from minillm.models.folder import save_model  # which imports this module

        save_model(self, folder)

    def _logits(self, x):
        """x (..., C)  ->  logits (..., V), in the dtype of the weights"""
        return self.lm_head.forward(x, dtype=self._dtype)  # (..., C) @ (C, V)

    def _hidden(self, ids, key):
        ids = self._ids_on_device(ids, "ids")
        if ids.shape[1] > self.config.context_length:
            raise UserError(
                f"{ids.shape[1]} tokens are more than the model's context_length of {self.config.context_length}"
            )
        return self.body.forward(ids, key)

    def _ids_on_device(self, ids, what, ignored=None):
        """ids as an array beside the parameters; ids that come from the host are checked."""
        if device_of(ids) == "cpu":
            ids = np.asarray(ids)
            if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.size == 0:
                raise UserError(f"{what} must be whole numbers of shape (B, T), not {ids.dtype} of shape {ids.shape}")
            wrong = (ids < 0) | (ids >= self.config.vocab_size)
            if ignored is not None:
                wrong &= ids != ignored
            if wrong.any():
                row, position = np.argwhere(wrong)[0]
                raise UserError(
                    f"{what}[{row}, {position}] is {ids[row, position]}, outside the vocabulary of "
                    f"{self.config.vocab_size} tokens: was the text encoded with another tokenizer?"
                )
        return contiguous(to_device(ids, device_of(self.lm_head.weight.value)))

    # -------------------------------------------------------------------------------------------------- construction

    def _make_body(self) -> Layer:
        raise NotImplementedError

    def _make_head(self) -> Linear:
        if self.config.tie_embeddings:
            return Linear(self._token_embedding().weight, transposed=True)
        shape = (self.config.vocab_size, self.config.d_model)
        return Linear(self._normal("lm_head", shape, self.initial_std), transposed=True)

    def _normal(self, path, shape, std):
        if self._seed is None:
            return _unset(shape, self._dtype)
        return (std * stream(self._seed, "init", path).normal(shape)).astype(self._dtype)

    def _constant(self, width, value):
        return _unset((width,), self._dtype) if self._seed is None else np.full(width, value, self._dtype)


def _unset(shape, dtype):
    """An array of that shape that holds no memory and cannot be written: every element is the same one."""
    return np.broadcast_to(np.zeros((), dtype), shape)
