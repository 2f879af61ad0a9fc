"""What every language model here shares: from ids to logits, to the loss, and back."""

from __future__ import annotations

import functools
import inspect

import numpy as np

from minillm.backend.arrays import contiguous, device_of, to_device, to_host
from minillm.backend.matmul import check_gpu
from minillm.backend.precision import activation_dtype, matmul_precision, weight_dtype
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.files.model_folder import WEIGHTS_FILE, make_model_folder, write_config, write_weights
from minillm.kernels import dispatch
from minillm.layers.cross_entropy import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from minillm.layers.documents import check_starts, forward_with, starts_problem
from minillm.layers.layer import Layer, Parameter, decode_problem
from minillm.layers.linear import Linear
from minillm.layers.linear_cross_entropy import LinearCrossEntropy
from minillm.layers.lora import LoRALinear
from minillm.layers.sequence_log_probability import SequenceLogProbability, counted_spans
from minillm.layers.stored_weight import refuse_stored, stored_parameters
from minillm.models.architecture import Architecture
from minillm.models.carried import NOTHING, Carried
from minillm.models.fine_tuning import LoRA, merged
from minillm.models.replication import replicated
from minillm.models.structure import behaves_as, refuse_changed


class LanguageModel(Layer, Architecture):
    """A body that makes vectors of ids, and a head that scores every token.

        x = body(ids)                                               (B, T) -> (B, T, C)
        logits = x W_head^T                                         (B, T, C) @ (C, V)
        loss = mean over B, T of -log softmax(logits)[target]

    A subclass sets `body_name`, the attribute of its body, and makes the body in `_make_body`.
    seed: the same seed gives the same weights; with seed=None the weights hold no memory and no
    numbers: give each Parameter its value afterwards. dtype: "float32", "float64", "tf32" or
    "bfloat16"; precision.py says what is kept in which precision.

    What `forward` computes is the model, also where a layer of it was changed, the head was
    exchanged, or a class of your own overrides `forward`: the loss and what is written come from
    it. The loss and the head are one operation only where they are these here. A class that
    overrides `forward` overrides `backward(self, dlogits)`, too; after `loss(...)` it is called
    with the gradient of the logits that `forward` returned.
    """

    body_name: str
    lora: LoRA | None = None  # set by add_lora
    sharing = None  # set by tensor_parallel: which part of the model this is
    carried: Carried = NOTHING  # what the files of the model said beside its weights; set by from_pretrained
    _dlogits = None  # the gradient of forward's logits, between `loss` and `backward`, where they are two operations

    def __init_subclass__(cls, **settings):
        super().__init_subclass__(**settings)
        if "backward" in vars(cls):
            cls.backward = _after_loss(vars(cls)["backward"])

    def __init__(self, config, seed: int | None = 0, dtype="float32"):
        if not isinstance(config, self.config_class):
            kind = type(self).__name__
            raise UserError(f"{kind} takes a {self.config_class.__name__}, not {config!r:.40}")
        self.config = config
        self._seed, self._dtype = seed, weight_dtype(dtype)
        self.precision = dtype if isinstance(dtype, str) else self._dtype.name
        setattr(self, self.body_name, self._make_body())
        self.lm_head = self._make_head()
        self.lm_head.weight.outputs_axis = None  # a row for each token of the vocabulary, as an embedding has
        self.loss_head = LinearCrossEntropy(self.lm_head.weight)
        self.body.activations = _activations(self.precision)
        self._name_layers()

    def __repr__(self):
        def size(parameters) -> int:
            return sum(parameter.value.size for parameter in set(parameters.values()))

        count, learning = size(self.parameters()), size(self.trainable_parameters())
        trained = "" if learning == count else f", of which {learning:,} are trained"
        kept = f"{self.precision} on {device_of(self.lm_head.weight.value)}"
        return f"{type(self).__name__}({self.config!r}, {count:,} parameters{trained}, {kept})"

    @property
    def body(self) -> Layer:
        """Everything below the head: ids (B, T) -> x (B, T, C)."""
        return getattr(self, self.body_name)

    @property
    def blocks(self) -> list[Layer]:
        """The blocks of the body: the first list in it."""
        return next((value for value in vars(self.body).values() if isinstance(value, list)), [])

    def parameters(self) -> dict[str, Parameter]:
        """As `Layer.parameters`.

        The loss head has none of its own: it follows the output head's weight.
        """
        found = super().parameters()
        if behaves_as(getattr(self, "loss_head", None), LinearCrossEntropy):
            found.pop("loss_head.weight", None)
        return found

    def train(self, training: bool = True) -> LanguageModel:
        """As `Layer.train`. Layers that were added get their names."""
        self._name_layers()
        self._dlogits = None
        return super().train(training)

    # ---------------------------------------------------------------------------------------------- from ids to loss

    def forward(self, ids, rng_key=None, starts=None):
        """ids (B, T) int  ->  logits (B, T, V). `rng_key`, `starts`: see `loss`."""
        with matmul_precision(self.precision):
            return self._logits(self._hidden(ids, rng_key, starts))

    def loss(self, ids, targets, rng_key=None, count=None, starts=None):
        """ids and targets (B, T) int  ->  mean cross-entropy in nats (0-d); `backward()` may
        follow.

        rng_key: a tuple such as (seed, step), from which dropout draws its masks; needed only in
        training mode with dropout > 0. Targets of -100 are not counted. count: what the sum of
        losses is divided by, if not by the number of targets that count. starts (B, T) int: where
        the document of each token begins in its row; no document sees another (documents.py). None:
        one document a row. Raises UserError for ids outside the vocabulary, for starts that are
        none, and for starts where a layer of your own does not take them.
        """
        if np.shape(ids) != np.shape(targets):
            raise UserError(
                f"ids have shape {np.shape(ids)}, targets {np.shape(targets)}: each id needs the target that follows it"
            )
        ignored = getattr(self.loss_head, "ignore_index", IGNORE_INDEX)
        if count is None and device_of(targets) == "cpu":  # on the host, where reading it does not wait
            count = int((np.asarray(targets) != ignored).sum())
        targets = self._ids_on_device(targets, "targets", ignored=ignored)
        self._dlogits = None
        with matmul_precision(self.precision):
            if not self._is_fused():
                return self._loss_of_logits(ids, targets, rng_key, count, starts)
            return self.loss_head.forward(self._hidden(ids, rng_key, starts), targets, count)

    def next_token_logits(self, ids):
        """ids (B, T) int  ->  logits (B, V) of the token that follows the last one."""
        if not self._is_own("forward"):
            return self.forward(ids)[:, -1]
        with matmul_precision(self.precision):
            return self._logits(contiguous(self._hidden(ids, None)[:, -1]))

    def backward(self, dlogits=None) -> None:
        """Add the gradient of the loss to `.grad` of every parameter.

        After `loss(...)` without an argument; after `forward(...)` with dlogits (B, T, V), the
        gradient of the logits.
        """
        if dlogits is None:
            # forward: self._dlogits = backward(1.0, saved) if self.training else None
            dlogits, self._dlogits = self._dlogits, None
        with matmul_precision(self.precision):
            if dlogits is None:
                # forward: self.loss_head.forward(self._hidden(...), targets, count)
                dx = self.loss_head.backward()
            else:
                # forward: self.lm_head.forward(x, dtype=self._dtype)
                dx = self.lm_head.backward(dlogits.astype(activation_dtype(self.precision), copy=False))
            # forward: forward_with(self.body, ids, rng_key, starts)
            self.body.backward(dx)

    def log_probabilities(self, ids, targets, rng_key=None):
        """ids and targets (B, T) int  ->  logp (B,), the log-probability of each row's targets,
        those of -100 left out, in nats; and what `backward_log_probabilities` needs.

        rng_key, and what is raised: see `loss`.
        """
        spans = counted_spans(targets) if device_of(targets) == "cpu" else None
        targets = self._ids_on_device(targets, "targets", ignored=IGNORE_INDEX)
        with matmul_precision(self.precision):
            if self._has_plain_head():
                x, head = self._hidden(ids, rng_key), SequenceLogProbability(self.lm_head.weight)
            else:
                x, head = self._changed_logits(ids, rng_key), SequenceLogProbability(None)
            head.training = self.training
            logp = head.forward(contiguous(x), targets, spans)
        return logp, head

    def backward_log_probabilities(self, dlogp, head) -> None:
        """dlogp (B,): add to `.grad` of every parameter. head: what `log_probabilities` returned,
        in training mode.
        """
        with matmul_precision(self.precision):
            # forward: logp = head.forward(contiguous(x), targets, spans)
            dx = head.backward(dlogp)
            if head.weight is None:
                # forward: self._changed_logits(ids, rng_key)
                self.backward(dx)
            else:
                # forward: self._hidden(ids, rng_key), SequenceLogProbability(self.lm_head.weight)
                self.body.backward(dx)

    def to(self, device: str) -> LanguageModel:
        """As `Layer.to`. Raises UserError where the GPU does not know the model's precision."""
        if device != "cpu":
            refuse_stored(self, f"move to {device}")
        elif stored_parameters(self.parameters()):
            return self  # they are there
        super().to(device)
        check_gpu(next(iter(self.parameters().values())).value, self.precision)
        return self

    def replica(self, dtype=None) -> LanguageModel:
        """A model of the same layers that shares this one's weights and has gradients of its own.

        dtype: another precision; the copy then has weights of its own, in host memory. Raises
        UserError where a method uses layers that are not the model's (replication.py).
        """
        self._name_layers()
        copy = replicated(self)
        copy._dlogits = None
        if dtype is not None:
            refuse_stored(self, f"change to {dtype}")
            copy._dtype, copy.precision = weight_dtype(dtype), dtype
            copy.body.activations = _activations(dtype)
            for parameter in copy.parameters().values():
                parameter.value = np.array(to_host(parameter.value), copy._dtype)
        return copy

    def trainable_parameters(self) -> dict[str, Parameter]:
        """Those of `parameters()` that learn: what the optimizer is made from."""
        return {name: parameter for name, parameter in self.parameters().items() if not parameter.frozen}

    def save_pretrained(self, folder) -> None:
        """Write config.json, generation_config.json and model.safetensors as Hugging Face names
        them; LoRA is merged.

        Raises UserError, before anything is written, for a model that is not what its configuration
        describes (see `minillm.save_parameters`), and for the folder of an adapter.
        """
        self._refuse_to_save_other()
        folder = make_model_folder(folder)
        self.save_config(self.config, folder, self.carried)
        self.save_weights(folder / WEIGHTS_FILE)

    @classmethod
    def save_config(cls, config, folder, carried: Carried = NOTHING) -> None:
        """Write config.json, generation_config.json, and the chat templates of the model that this
        one was made of.
        """
        contents = {**cls.config_to_hugging_face(config), **carried.ids}
        write_config(folder, contents, carried.generation_config(config.context_length))
        carried.write_templates(folder)

    def save_weights(self, path) -> None:
        """Write the weights as one safetensors file, LoRA merged.

        Raises UserError as `save_pretrained` does.
        """
        self._refuse_to_save_other()
        has_lora = any(isinstance(layer, LoRALinear) for _, layer in self.layers())
        write_weights(path, (merged(self) if has_lora else self).stored_tensors())

    def _refuse_to_save_other(self) -> None:
        """Raises UserError for a model that is not what its configuration describes, or a part of
        it.
        """
        if self.sharing is not None:
            where = f"rank {self.sharing.rank} of {self.sharing.size}"
            raise UserError(f"{where} has a part of the model: gather it first (minillm.models.whole.gathered)")
        refuse_changed(self, "be saved as a model folder")
        refuse_stored(self, "be saved (minillm export writes its file in other forms)")

    def _logits(self, x):
        """x (..., C)  ->  logits (..., V), in the dtype of the weights"""
        if not behaves_as(self.lm_head, Linear):
            return self.lm_head.forward(x).astype(self._dtype, copy=False)
        return self.lm_head.forward(x, dtype=self._dtype)  # (..., C) @ (C, V)

    def _hidden(self, ids, rng_key, starts=None):
        if self.training:
            self._name_layers()
        ids = self._ids_on_device(ids, "ids")
        if ids.shape[1] > self.config.context_length:
            raise UserError(
                f"{ids.shape[1]} tokens are more than the model's context_length of {self.config.context_length}"
            )
        if starts is not None:
            starts = to_device(check_starts(starts, ids.shape), device_of(ids))
            if (why := starts_problem(self.body, self.body_name)) is not None:
                raise UserError(why)
        return forward_with(self.body, ids, rng_key, starts)

    def _ids_on_device(self, ids, what, ignored=None):
        """ids as an array beside the parameters; ids that come from the host are checked."""
        if device_of(ids) == "cpu":
            ids = self.checked_ids(ids, what, ignored)
        weight = getattr(self.lm_head, "weight", None)
        device = device_of(weight.peek()) if isinstance(weight, Parameter) else self.device
        return contiguous(to_device(ids, device))

    def checked_ids(self, ids, what: str, ignored=None) -> np.ndarray:
        """ids (B, T) of the host as an array. Raises UserError for others than whole numbers, and
        for those outside the vocabulary, but for `ignored`.
        """
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
        return ids

    def has_own_head(self) -> bool:
        """Whether `forward` is the head over the body, so that `logits_of(hidden(ids))` is what it
        returns.
        """
        return self._is_own("forward")

    def writes_by_forward(self) -> bool:
        """Whether `next_token_logits` is what `forward` returns for the last token, and was not
        given another meaning.
        """
        return self._is_own("next_token_logits")

    def decode_problem(self) -> str | None:
        """Why `decode` of body and head may not be what `forward` computes; None where it is."""
        for name in ("forward", "next_token_logits", "_logits", "_hidden"):
            if not self._is_own(name):
                return f"{name} of {type(self).__name__} was overridden or exchanged"
        return decode_problem(self.body, self.body_name) or decode_problem(self.lm_head, "lm_head")

    def hidden(self, ids):
        """ids (B, T) int  ->  x (B, T, C), what the head sees."""
        with matmul_precision(self.precision):
            return self._hidden(ids, None)

    def logits_of(self, x):
        """x (..., C)  ->  logits (..., V), in the dtype of the weights."""
        with matmul_precision(self.precision):
            return self._logits(x)

    def _name_layers(self) -> None:
        """Every layer's name is its path, also of those that were added or moved: random keys and
        messages go by it.
        """
        for path, layer in self.layers():
            layer.name = path.removeprefix(f"{self.body_name}.")

    # ------------------------------------------------------------------- the loss where forward or the head is another one

    def _is_own(self, *names: str) -> bool:
        """Whether these methods are those of this file."""
        return all(name not in vars(self) and getattr(type(self), name) is _METHODS[name] for name in names)

    def _is_fused(self) -> bool:
        """Whether the loss head computes the loss of what `forward` returns, or is meant to compute
        another one.
        """
        if not behaves_as(self.loss_head, LinearCrossEntropy):
            return True
        if not self._has_plain_head():
            return False
        self.loss_head.weight = self.lm_head.weight  # the head may have been exchanged
        return True

    def _has_plain_head(self) -> bool:
        """Whether what `forward` returns is the product of what the body returns with a matrix."""
        if not (self._is_own("forward", "_logits", "_hidden") and behaves_as(self.lm_head, Linear)):
            return False
        return self.lm_head.transposed and not hasattr(self.lm_head, "bias")

    def _changed_logits(self, ids, rng_key, starts=None):
        """What `forward` returns, where it may not be the head's product with the body's output."""
        logits = self._forward_with(ids, rng_key, starts)
        if self.training and not self._is_own("forward", "_logits", "_hidden"):
            self._check_backward(logits, ids, rng_key, starts)
        return logits

    def _loss_of_logits(self, ids, targets, rng_key, count, starts):
        """The loss of what `forward` returns; in training mode its gradient waits for
        `backward`.
        """
        logits = self._changed_logits(ids, rng_key, starts)
        forward, backward = dispatch(logits, cross_entropy_forward, cross_entropy_backward)
        smoothing = self.loss_head.label_smoothing if self.training else 0.0
        logits = contiguous(logits).copy()  # it is overwritten with its gradient, and is not ours
        loss, saved = forward(logits, targets, self.loss_head.ignore_index, smoothing, count)
        self._dlogits = backward(1.0, saved) if self.training else None
        return loss

    def _forward_with(self, ids, rng_key, starts):
        """What `forward` returns. One that takes no key gets none.

        Raises UserError for starts where `forward` does not take them.
        """
        if starts is not None:
            if "starts" not in inspect.signature(self.forward).parameters:
                raise UserError(
                    f"forward of {type(self).__name__} takes no starts, which packed documents need: define "
                    "forward(self, ids, rng_key=None, starts=None)"
                )
            return self.forward(ids, rng_key, starts=starts)
        try:
            inspect.signature(self.forward).bind(ids, rng_key)
        except TypeError:
            return self.forward(ids)
        return self.forward(ids, rng_key)

    def _check_backward(self, logits, ids, rng_key, starts) -> None:
        """Raises UserError where `backward` is not that of an overridden `forward`, as far as can
        be seen.
        """
        if not self._is_own("backward"):
            if not hasattr(self.backward, "takes_loss"):
                raise UserError(
                    "backward was exchanged on the model or its class, and does not know of loss: derive a class that defines "
                    "forward and backward(self, dlogits), or call forward and backward(dlogits) yourself"
                )
            return
        plain = _METHODS["_logits"](self, _METHODS["_hidden"](self, ids, rng_key, starts))
        if plain.shape != logits.shape or not (plain == logits).all():
            raise UserError(
                f"forward of {type(self).__name__} is overridden and gives other logits, but backward is not: the "
                "gradients would be those of another function. Define backward(self, dlogits), too: it turns the gradient "
                "of your logits into that of the plain ones, and calls the original backward with it"
            )

    # -------------------------------------------------------------------------------------------------- construction

    def _make_body(self) -> Layer:
        raise NotImplementedError

    def share(self, sharing) -> None:
        """Cut the layers for one of several ranks, each by a method of `sharing`
        (tensor_parallel.py). Raises UserError for an architecture that does not say how.
        """
        raise UserError(f"--tensor-parallel: {type(self).__name__} has no `share`, which says how its layers are cut")

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
    """An array of that shape that holds no memory and cannot be written: every element is the same
    one.
    """
    return np.broadcast_to(np.zeros((), dtype), shape)


def _after_loss(backward):
    """`backward` of a user's own class: after `loss`, it is called with the gradient of what
    `forward` returned.
    """

    @functools.wraps(backward)
    def backward_after_loss(self, dlogits=None):
        if dlogits is None:
            dlogits, self._dlogits = self._dlogits, None
        return backward(self) if dlogits is None else backward(self, dlogits)

    backward_after_loss.takes_loss = True
    return backward_after_loss


_METHODS = {
    name: vars(LanguageModel)[name] for name in ("forward", "backward", "next_token_logits", "_logits", "_hidden")
}


def _activations(precision):
    """The dtype of activations in a precision; None where it is that of the weights."""
    dtype = activation_dtype(precision)
    return None if dtype == weight_dtype(precision) else dtype
