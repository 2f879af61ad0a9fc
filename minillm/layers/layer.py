"""What every layer shares: parameters with gradients, what forward saves for backward, names.

The mathematics of an operation is a pair of pure functions (`linear_forward`, `linear_backward`). A `Layer` wraps the
pair: it owns the parameters and remembers what backward needs.
"""

from __future__ import annotations

from collections.abc import Iterator

from minillm.backend import array_module, device_of, to_device


class Parameter:
    """A trained tensor: `value`, and `grad`, the gradient of the loss with respect to it (None until backward adds one).

    A `frozen` one does not learn: gradients that are added to it are dropped, and most layers do not compute them.
    """

    frozen = False

    def __init__(self, value):
        self.value = value
        self.grad = None
        self._spare = None  # the memory of the last gradient, if it came from `grad_buffer`
        self._is_buffered = False

    def zero_grad(self) -> None:
        """Forget the gradient. Its memory is kept for `grad_buffer` if it came from there, and free otherwise."""
        if self.grad is not None:
            self._spare, self.grad = self.grad if self._is_buffered else None, None

    def grad_buffer(self):
        """An array of zeros like the value, for a gradient too large to be made afresh in every step."""
        self._is_buffered = True
        buffer, self._spare = self._spare, None
        if buffer is None:
            return array_module(self.value).zeros_like(self.value)
        buffer[...] = 0
        return buffer

    def add_grad(self, grad) -> None:
        """Add `grad` (same shape as the value) to the gradient. The first one is kept as it is and owned from then on."""
        if grad.shape != self.value.shape:
            raise ValueError(f"gradient of shape {grad.shape} for a parameter of shape {self.value.shape}")
        if self.frozen:
            return
        if self.grad is None:
            self.grad = grad
        else:
            self.grad += grad

    def __repr__(self):
        return f"Parameter(shape={self.value.shape}, dtype={self.value.dtype})"


class Layer:
    """Base of all layers: finds parameters and sub-layers among its attributes, in the order in which they were set.

    Attribute names are chosen so that the path of a parameter (`h.0.attn.c_attn.weight`) is its tensor name in a
    Hugging Face model folder.
    """

    name = ""  # the path from the model, such as "h.0.attn"; set by the model, used in messages and random keys
    training = True
    _saved = None

    # ------------------------------------------------------------------------------------------- what it is made of

    def children(self) -> Iterator[tuple[str, Layer]]:
        """The direct sub-layers with their names; the entries of a list are named by their index."""
        for name, attribute in vars(self).items():
            if isinstance(attribute, Layer):
                yield name, attribute
            elif isinstance(attribute, list):
                for index, item in enumerate(attribute):
                    if isinstance(item, Layer):
                        yield f"{name}.{index}", item

    def layers(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all below it, with their paths, from the top down."""
        yield path, self
        for name, child in self.children():
            yield from child.layers(f"{path}.{name}" if path else name)

    def parameters(self) -> dict[str, Parameter]:
        """Path -> Parameter, for this layer and all below it. A parameter that is used twice is listed once."""
        found: dict[str, Parameter] = {}
        seen: set[int] = set()
        for path, layer in self.layers():
            for name, attribute in vars(layer).items():
                if isinstance(attribute, Parameter) and id(attribute) not in seen:
                    seen.add(id(attribute))
                    found[f"{path}.{name}" if path else name] = attribute
        return found

    # ---------------------------------------------------------------------------------------------- modes and devices

    def train(self, training: bool = True) -> Layer:
        """Training mode: forward keeps what backward needs, dropout drops. Returns the layer."""
        for _, layer in self.layers():
            layer.training = training
            layer._saved = None
        return self

    def forget_saved(self) -> None:
        """Drop what forward kept for backward, here and below."""
        for _, layer in self.layers():
            layer._saved = None

    def eval(self) -> Layer:
        """Evaluation mode: forward keeps nothing, dropout does nothing. Returns the layer."""
        return self.train(False)

    @property
    def device(self) -> str:
        """Where the parameters are: "cpu", "cuda" or "cudasim"."""
        return device_of(next(iter(self.parameters().values())).value)

    def to(self, device: str) -> Layer:
        """Move all parameters to a device ("cpu", "cuda" or "cudasim"); gradients are dropped. Returns the layer.

        Make the optimizer afterwards: it keeps its moments where the parameters are.
        """
        for parameter in self.parameters().values():
            parameter.__init__(to_device(parameter.value, device))
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters().values():
            parameter.zero_grad()

    # ------------------------------------------------------------------------------------- from forward to backward

    def save_for_backward(self, saved) -> None:
        """Called at the end of forward: keeps `saved` when training, and nothing otherwise."""
        self._saved = (saved,) if self.training else None

    def take_saved(self):
        """Called at the start of backward: hands out what forward saved and forgets it, so that its memory can be freed."""
        if self._saved is None:
            where = f"{type(self).__name__}({self.name})" if self.name else type(self).__name__
            why = "call forward first, and backward once for each forward" if self.training else "call train() first"
            raise RuntimeError(f"{where}: backward has nothing to work from: {why}")
        (saved,), self._saved = self._saved, None
        return saved
