"""A record of one forward and backward pass, tensor by tensor.

A row of the record is a tensor that the loss depends on:

    what an operation returns            named after its layer and itself, h.0.attn.attention; after the layer alone where it
                                         is what the layer returns, h.0.ln_1
    what some operations read            q, k and v of attention, the logits of the loss (INPUTS)
    what a layer passes through          embd_dropout, where nothing is dropped
    every parameter                      by its path

Its gradient is the one that backward passes to the operation that computed the tensor; for tensors
that operations read, the one that backward returns for them. Saved bytes are those of the arrays in
the layers' `_saved` between the two passes. Each buffer is counted once, at the tensor that owns
the memory (a view counts for its base), or, if it is not a row (the probabilities of attention), at
the tensor that the operation returned. Parameters are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from minillm.backend.arrays import array_module, to_host
from minillm.inspection.observation import Call, Frame, Observer, observed
from minillm.inspection.tensor_stats import TensorStats
from minillm.layers.layer import Layer, Parameter
from minillm.models.structure import is_ours
from minillm.profiling.flops import count_flops

INPUTS = {"attention": ("q", "k", "v"), "cross_entropy": ("logits",)}  # operation -> its inputs that get a row
NAMES = {"loss_head": "loss", "loss_head.logits": "logits"}

# Called as see(tensor, "values" or "gradient", array) with every array of the pass, as soon as it
# is there. It may be overwritten later: what is to be kept is copied. Where an array has fewer
# elements than the tensor, it is its next rows.
See = Callable[["Tensor", str, object], None]


@dataclass(frozen=True)
class Place:
    """Where a tensor occurs in a pass.

    side: "output" or "input" of call number `index` of the operation in its layer, or the output of
    a layer. index None: all calls in turn, each of which has the next rows of the tensor.
    """

    layer: str
    operation: str | None
    index: int | None
    side: str
    key: int | str  # which output, or the name of the input


@dataclass(eq=False)
class Tensor:
    """A row. `values` and `gradient` describe the numbers; parameters have no place."""

    name: str
    shape: tuple[int, ...]
    values: TensorStats
    place: Place | None = None
    gradient: TensorStats | None = None
    saved_bytes: int = 0
    flops: tuple[int, int] = (0, 0)  # forward, backward
    frozen: bool = False
    call: Call | None = None  # that computed it, or read it
    frames: list[Frame] = field(default_factory=list)  # where it was made
    origin: Origin | None = None
    uses: list[tuple[Call, str]] = field(default_factory=list)  # of a parameter: what reads it, and by which name
    reads: list[Tensor] = field(default_factory=list)  # the activations that it is computed from


@dataclass(frozen=True)
class Origin:
    """Where a gradient came from.

    The frames in which it was passed on; the operation's or layer's backward that returned it, as
    result number `position`; and the operation's forward. If no such function returned it, because
    it was assembled or copied, `nearby` are the operations whose backward ran in the same
    functions.
    """

    frames: list[Frame]
    function: object = None
    position: int = 0
    forward: object = None
    nearby: list[tuple[Call, Frame]] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """One pass. loss: in nats. tensors: in the order of forward, then the parameters."""

    activations: list[Tensor]
    parameters: list[Tensor]
    loss: float
    tokens: int
    gradients: dict[str, np.ndarray]

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.activations, *self.parameters]


def record(model, ids, targets, keep: str = "", see: See | None = None) -> Record:
    """Run `model.loss(ids, targets)` and `model.backward()`, and record every tensor.

    keep: the name of a tensor whose whole gradient is stored in `gradients`, on the host. see: is
    given all arrays (See). The model's gradients are cleared before and after; it is left in
    training mode with nothing saved. Activation checkpointing is off during the pass.
    """
    recorder = _Recorder(model, keep, see)
    loss = observed_pass(model, ids, targets, recorder, recorder.count_saved)
    gradients = recorder.stored_gradient()
    parameters = recorder.parameters()
    if keep in model_parameters(model) and (grad := model_parameters(model)[keep].grad) is not None:
        gradients[keep] = np.array(to_host(grad))
    model.zero_grad()
    return Record(recorder.tensors, parameters, loss, int(np.size(ids)), gradients)


def observed_pass(model, ids, targets, observer: Observer, between: Callable[[], None] = lambda: None) -> float:
    """The loss of one forward and backward pass under observation. between: called between the two.

    The gradients of this pass are left in the model's parameters.
    """
    model.train().zero_grad()
    recompute, model.body.recompute = model.body.recompute, False
    try:
        with observed(model, observer):
            loss = float(model.loss(ids, targets))
            between()
            model.backward()
    finally:
        model.body.recompute = recompute
    return loss


def model_parameters(model) -> dict[str, Parameter]:
    """`model.parameters()` by the names that the record uses: without the name of the body."""
    return {name.removeprefix(f"{model.body_name}."): p for name, p in model.parameters().items()}


class _Recorder(Observer):
    """Arrays are identified by their memory, so all of them are kept alive until the pass ends."""

    def __init__(self, model, keep: str, see: See | None):
        self.tensors: list[Tensor] = []
        self._model, self._keep = model, keep
        self._see = see or (lambda tensor, which, array: None)
        self._parameters = model_parameters(model)
        self._uses: dict[str, list[tuple[Call, str]]] = {name: [] for name in self._parameters}
        self._calls: list[Call] = []
        self._seen: dict[tuple, tuple[Tensor, object]] = {}
        self._inputs: dict[Call, list[tuple[int, Tensor]]] = {}
        self._returned: dict[int, tuple] = {}  # buffer -> (array, fields of its Origin)
        self._ran: list[tuple[Call, Frame]] = []  # operations whose backward ran, and where
        self._gradient_parts: list[np.ndarray] = []
        self._handed: dict[str, tuple] = {}  # layer -> the gradient passed to its backward, and where

    # ------------------------------------------------------------------------------------------------------ forward

    def before_operation(self, call: Call) -> None:
        floats = [name for name, value in call.arguments.arguments.items() if _is_float_array(value)]
        for name in INPUTS.get(call.operation, ()):
            array = call.arguments.arguments[name]
            label = f"{call.layer}.{name}"
            known = self._known(array)
            if known is not None:
                if known.call is not None and known.name == f"{call.layer}.{known.call.operation}":
                    known.name = label  # the layer's own result
            else:
                tensor = self._input_tensor(call, name, label, array)
                self._inputs.setdefault(call, []).append((floats.index(name), tensor))

    def _input_tensor(self, call: Call, name: str, label: str, array) -> Tensor:
        """A new row; nested calls that see a tensor in parts share one."""
        label = NAMES.get(label, label)
        values = TensorStats.of(array)
        for tensor in self.tensors if call.outer is not None else ():
            if tensor.name == label:
                tensor.shape = (tensor.shape[0] + len(array), *tensor.shape[1:])
                tensor.values += values
                self._see(tensor, "values", array)
                return tensor
        place = Place(call.layer, call.operation, None if call.outer else call.index, "input", name)
        read = self._read(call.outer) if call.outer else self._behind(array)
        tensor = Tensor(label, array.shape, values, place, call=call, frames=call.frames, reads=read)
        return self._add(tensor, array)

    def after_operation(self, call: Call) -> None:
        self._calls.append(call)
        for name, value in call.arguments.arguments.items():
            if call.outer is None and (parameter := self._parameter_of(value)) is not None:
                self._uses[parameter].append((call, name))
        if call.operation == "cross_entropy":  # fused: forward overwrites the logits with their gradient
            for _, tensor in self._inputs.get(call, ()):
                self._take_gradient(tensor, call.saved, Origin([], call.function, 1))  # y, saved
        if call.outer is not None:
            return
        read = [tensor for _, tensor in self._inside(call)] or self._read(call)
        for position, output in enumerate(call.outputs):
            name = f"{call.layer}.{call.operation}"
            if len(call.outputs) > 1:
                name += f".{position}"
            place = Place(call.layer, call.operation, call.index, "output", position)
            tensor = Tensor(name, tuple(np.shape(output)), TensorStats.of(output), place, call=call, frames=call.frames)
            tensor.reads = read
            call.tensors.append(self._add(tensor, output))
        weight = self._parameter_of(call.arguments.arguments.get("weight"))
        learns = weight is None or not self._parameters[weight].frozen
        self._computed_by(call).flops = count_flops(call.operation, call.arguments, learns)

    def _parameter_of(self, value) -> str | None:
        """The name of the parameter that an argument is, or is the rounded copy of."""
        return next((name for name, each in self._parameters.items() if each.is_operand(value)), None)

    def _computed_by(self, call: Call) -> Tensor:
        """The tensor that an operation's matrix products compute: its output, or the logits inside
        the fused loss.
        """
        inside = self._inside(call)
        return inside[0][1] if inside else call.tensors[0]

    def _inside(self, call: Call) -> list[tuple[int, Tensor]]:
        """The rows of what the operations inside of another one read."""
        return [row for other, found in self._inputs.items() if other.outer is call for row in found]

    def _read(self, call: Call) -> list[Tensor]:
        """The activations that an operation reads, each once."""
        arrays = [
            value
            for value in call.arguments.arguments.values()
            if _is_float_array(value) and self._parameter_of(value) is None
        ]
        return list(dict.fromkeys(tensor for array in arrays for tensor in self._behind(array)))

    def _behind(self, array) -> list[Tensor]:
        """The tensor that an array is, or looks into, or is a copy of in another order."""
        known = self._known(array)
        if known is not None:
            return [known]
        for tensor, other in self._seen.values():
            if hasattr(other, "strides") and _base(other) is _base(array):
                return [tensor]  # the first, which was computed: the others look into it, too
        values = TensorStats.of(array)
        return [tensor for tensor, _ in reversed(self._seen.values()) if tensor.values.has_elements_of(values)][:1]

    def after_layer(self, layer: Layer, output, frames: list[Frame]):
        if not _is_float_array(output) and np.ndim(output) != 0:
            return output
        tensor = self._known(output)
        if tensor is None:
            place = Place(layer.name, None, None, "output", 0)
            self._add(Tensor(layer.name, output.shape, TensorStats.of(output), place, frames=frames), output)
        elif tensor.call is not None and tensor.call.layer == layer.name:
            tensor.name = NAMES.get(layer.name, layer.name)
            tensor.values = TensorStats.of(output)  # LoRA adds to what the linear layer returned
            self._see(tensor, "values", output)
        return output

    def _add(self, tensor: Tensor, array) -> Tensor:
        self.tensors.append(tensor)
        self._seen[_location(array)] = tensor, array
        self._see(tensor, "values", array)
        return tensor

    def _known(self, array) -> Tensor | None:
        return self._seen.get(_location(array), (None,))[0]

    # --------------------------------------------------------------------------------------------- between the two

    def count_saved(self) -> None:
        """Assign the buffers saved for backward to the tensors that own them."""
        kept = _buffers([layer._saved for _, layer in self._model.layers()])
        for parameter in self._parameters.values():
            kept.pop(id(_base(parameter.peek())), None)
        kept = {place: buffer for place, buffer in kept.items() if self._parameter_of(buffer) is None}  # rounded copies
        for tensor, array in self._seen.values():
            if (buffer := kept.pop(id(_base(array)), None)) is not None:
                tensor.saved_bytes += buffer.nbytes
        for call in self._calls:
            for address in _buffers(call.saved) if call.outer is None else ():
                if (buffer := kept.pop(address, None)) is not None:
                    call.tensors[0].saved_bytes += buffer.nbytes
        for _, layer in self._model.layers():
            if not is_ours(type(layer).__module__):  # a custom layer need not consist of operations
                for address in kept.keys() & _buffers(layer._saved).keys():
                    of_layer = [t for t in self.tensors if f".{t.name}.".startswith(f".{layer.name}".rstrip(".") + ".")]
                    if of_layer:
                        of_layer[-1].saved_bytes += kept.pop(address).nbytes
        if kept:
            raise RuntimeError(f"{len(kept)} arrays are saved for backward by no observed operation")

    # ----------------------------------------------------------------------------------------------------- backward

    def before_backward(self, call: Call, gradients: tuple, frames: list[Frame]) -> None:
        for tensor, gradient in zip(call.tensors, gradients):
            self._take_gradient(tensor, gradient, self._origin(gradient, frames))
        self._ran.append((call, frames[0]))

    def after_backward(self, call: Call, gradients: tuple) -> None:
        for position, tensor in self._inputs.get(call, ()):
            self._take_gradient(tensor, gradients[position], Origin([], call.backward, position, call.function))
        self._remember(gradients, call.backward, call.function)

    def before_layer_backward(self, layer: Layer, gradients: tuple, frames: list[Frame]) -> None:
        if gradients:
            self._handed[layer.name] = gradients[0], self._origin(gradients[0], frames)

    def after_layer_backward(self, layer: Layer, method, gradients) -> None:
        """For a layer whose backward called no operation: it passes the gradient on, or everything
        below is frozen.
        """
        given = self._handed.pop(layer.name, None)
        for tensor in self.tensors if given else ():
            if tensor.name == layer.name and tensor.gradient is None:
                self._take_gradient(tensor, *given)
        self._remember(gradients if isinstance(gradients, tuple) else (gradients,), method)

    def _remember(self, gradients: tuple, function, forward=None) -> None:
        for position, gradient in enumerate(gradients):
            if _is_float_array(gradient):
                base = _base(gradient)
                self._returned.setdefault(id(base), (base, function, position, forward))

    def _origin(self, gradient, frames: list[Frame]) -> Origin:
        _, *returned = self._returned.get(id(_base(gradient)), (None,))
        if returned:
            return Origin(frames, *returned)
        functions = {(frame.code, frame.layer) for frame in frames}
        nearby = [(call, frame) for call, frame in self._ran if (frame.code, frame.layer) in functions]
        return Origin(frames, nearby=nearby)

    def _take_gradient(self, tensor: Tensor, gradient, origin: Origin) -> None:
        stats = TensorStats.of(gradient)
        tensor.gradient = stats if tensor.gradient is None else tensor.gradient + stats
        tensor.origin = origin
        self._see(tensor, "gradient", gradient)
        if tensor.name == self._keep:
            self._gradient_parts.append(np.array(to_host(array_module(gradient).asarray(gradient))))

    # -------------------------------------------------------------------------------------------------- at the end

    def stored_gradient(self) -> dict[str, np.ndarray]:
        """{keep: its gradient, in the shape of the tensor}; empty if it has none."""
        shapes = {tensor.name: tensor.shape for tensor in self.tensors}
        if not self._gradient_parts:
            return {}
        parts = self._gradient_parts
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return {self._keep: whole.reshape(shapes[self._keep])}

    def parameters(self) -> list[Tensor]:
        """A row for every parameter."""
        rows = []
        for name, parameter in self._parameters.items():
            gradient = None if parameter.grad is None else TensorStats.of(parameter.grad)
            values = TensorStats.of(parameter.value)
            row = Tensor(name, parameter.value.shape, values, gradient=gradient, frozen=parameter.frozen)
            row.uses = self._uses[name]
            rows.append(row)
            self._see(row, "values", parameter.value)
            if parameter.grad is not None:
                self._see(row, "gradient", parameter.grad)
        return rows


# --------------------------------------------------------------------------------------------------------- arrays in memory


def _is_float_array(value) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "strides") and value.ndim > 0 and value.dtype.kind not in "iub"


def _location(array) -> tuple:
    """A key that is equal for two arrays with the same elements of the same memory."""
    if not hasattr(array, "strides") or np.ndim(array) == 0:
        return ("object", id(array))
    base = _base(array)
    return id(base), _pointer(array), array.shape, array.strides


def _pointer(array) -> int:
    return array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr


def _base(array):
    """The array that owns the memory of `array`."""
    kind = array_module(array).ndarray
    while isinstance(getattr(array, "base", None), kind):
        array = array.base
    return array


def _buffers(saved) -> dict:
    """The arrays that own the memory of all arrays in nested tuples, lists and dicts, by id()."""
    found, waiting = {}, [saved]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (tuple, list)):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif hasattr(item, "dtype") and hasattr(item, "strides"):
            base = _base(item)
            found[id(base)] = base
    return found
