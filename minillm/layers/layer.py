"""What every layer shares: parameters with gradients, what forward saves for backward, names.

The mathematics of an operation is a pair of pure functions (`linear_forward`, `linear_backward`). A
`Layer` wraps the pair: it owns the parameters and remembers what backward needs.

A layer of your own derives from `minillm.Layer`. Its Parameters and sub-layers are attributes, also
in lists, tuples and dicts. It has two methods, here for y = x * w:

    class Scale(minillm.Layer):
        def __init__(self, width):
            self.w = minillm.Parameter(np.ones(width))

        def forward(self, x):                              # (..., C)
            self.save_for_backward(x)
            return x * self.w.value

        def backward(self, dy):                            # (..., C)
            x = self.take_saved()
            self.w.add_grad((dy * x).reshape(-1, x.shape[-1]).sum(axis=0))
            return dy * self.w.value                       # for each float input, in its dtype

The contract of the two:

- `forward` does not write into x, because a residual block reads it again. It may save x itself: no
  other layer writes into it before backward.
- `backward` does not write into dy, which a residual block hands to two layers. It may return dy.
- `add_grad` owns the array that it is given: not dy or dx, but one of its own (`dy.copy()`).
- Gradients are added: a layer that is used twice, or for two parts of a batch, gets the sum.
- The same inputs give the same outputs. What is random comes from a key (`minillm.backend.stream`).

`minillm.gradcheck(layer, x)` checks all of it. A check passes where a function writes into its own
copies of x or dy, and its report has a note: alone that is right, in a model it may not be.

Generation uses a third direction, `decode(x, cache)`: what forward computes, for the new tokens
x (B, t, C) alone. It saves nothing. What a layer needs of earlier tokens is in cache.py's Cache.
A layer of your own has one of

- no decode: a model with such a layer generates by forward over all visible tokens, which is
  right for every layer, and slow.
- `per_token = True` in its class: forward computes each token independently of the others, as in
  `Scale` above. Then decode is forward, in evaluation mode.
- a method `decode`, here for y_t = x_t + w x_{t-1}, which needs x of one earlier token:

        def decode(self, x, cache):                        # (B, t, C), the new tokens
            (seen,) = cache.append(self, x, window=2)      # x, and before it x of one earlier token
            before = np.zeros_like(x)                      # the first token of a text has none
            before[:, x.shape[1] - seen.shape[1] + 1 :] = seen[:, :-1]
            return x + before * self.w.value

`decode` and `per_token` belong to the `forward` that their class has. A subclass that defines
`forward` alone inherits neither. Neither counts where `forward`, or an operation that it calls, was
exchanged later (`decode_problem`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minillm.backend.arrays import device_of
from minillm.layers.parameter import Parameter


class Layer:
    """Base of all layers: finds parameters and sub-layers among its attributes, in the order in
    which they were set.

    Attribute names are chosen so that the path of a parameter (`h.0.attn.c_attn.weight`) is its
    tensor name in a Hugging Face model folder.
    """

    name = ""  # the path from the model, such as "h.0.attn"; set by the model, used in messages and random keys
    training = True
    per_token = False  # True in a class whose forward computes each token independently: then decode is forward
    _saved = None
    _decoded = None  # the code of forward that decode belongs to

    def __init_subclass__(cls, **settings):
        super().__init_subclass__(**settings)
        own = vars(cls)
        if "decode" not in own:
            if own.get("per_token"):
                cls.decode = Layer.decode
            elif "forward" in own:
                cls.decode = _no_decode
        if "decode" in own:
            cls._decoded = _forward_code(cls)
            if "decode_onto" not in own:
                cls.decode_onto = Layer.decode_onto

    # --------------------------------------------------------------------------- what it is made of

    def children(self) -> Iterator[tuple[str, Layer]]:
        """The direct sub-layers with their names; those in lists, tuples and dicts are named by
        index or key: `h.0`.
        """
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value
            elif type(value) not in _PLAIN and name != "_saved":
                yield from ((inner, item) for inner, item in _opened(name, value, ()) if isinstance(item, Layer))

    def layers(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all below it, with their paths, from the top down. A layer that is used
        twice is listed once.
        """
        kept = _kept_lists.get()
        if kept is None:
            return self._walk(path)
        if (id(self), path) not in kept:  # the layer lies beside its list: its id stays its own
            kept[id(self), path] = self, list(self._walk(path))
        return iter(kept[id(self), path][1])

    def _walk(self, path: str) -> Iterator[tuple[str, Layer]]:
        seen: set[int] = set()
        waiting = [(path, self)]  # one loop, and no generator in a generator: each step of training names the layers
        while waiting:
            place, layer = waiting.pop()
            if id(layer) not in seen:
                seen.add(id(layer))
                yield place, layer
                below = [(f"{place}.{name}" if place else name, child) for name, child in layer.children()]
                waiting += reversed(below)

    def places(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """As `layers`, but a layer that is used twice is listed at each of its places."""
        yield from _places_below(self, path, set())

    def parameters(self) -> dict[str, Parameter]:
        """Path -> Parameter, for this layer and all below it. A parameter that is used twice is
        listed once.

        Those in lists, tuples and dicts are found as well, and named by index or key: `table.name`.
        Raises ValueError for two parameters of one name, and TypeError for parameters in a set,
        which has no order.
        """
        found: dict[str, Parameter] = {}
        seen: set[int] = set()
        for path, layer in self.layers():
            for name, value in entries(layer):
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    name = f"{path}.{name}" if path else name
                    if name in found:
                        raise ValueError(f"two different parameters are named {name}: give one of them another key")
                    found[name] = value
        return found

    # ---------------------------------------------------------------------------- modes and devices

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
        return device_of(next(iter(self.parameters().values())).peek())

    def to(self, device: str) -> Layer:
        """Move all parameters to a device ("cpu", "cuda" or "cudasim"); gradients are dropped.
        Returns the layer.

        Make the optimizer afterwards: it keeps its moments where the parameters are.
        """
        for parameter in self.parameters().values():
            parameter.to(device)
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters().values():
            parameter.zero_grad()

    # --------------------------------------------------------------------- from forward to backward

    def save_for_backward(self, saved) -> None:
        """Called at the end of forward: keeps `saved` when training, and nothing otherwise."""
        self._saved = (saved,) if self.training else None

    def take_saved(self):
        """Called at the start of backward: hands out what forward saved and forgets it, so that its
        memory can be freed. Raises RuntimeError if there is nothing.
        """
        if self._saved is None:
            where = f"{type(self).__name__}({self.name})" if self.name else type(self).__name__
            why = "call forward first, and backward once for each forward" if self.training else "call train() first"
            raise RuntimeError(f"{where}: backward has nothing to work from: {why}")
        (saved,) = self._saved
        self._saved = None
        return saved

    # ----------------------------------------------------------------------------------- generation

    def decode(self, x, cache):
        """What forward computes for new tokens x (B, t, C), those that follow the ones in the cache
        ->  y (B, t, C)

        cache: a Cache (cache.py), in which a layer that mixes tokens keeps what it needs of earlier
        ones. Nothing is saved for backward. This one is for classes with `per_token`; others define
        their own, or have none: see `decode_problem`.
        """
        with evaluating(self):
            return self.forward(x)

    def decode_onto(self, residual, x, cache):
        """residual + decode(x, cache), (B, t, C): for layers whose last kernel adds as well.

        A class that defines `decode` has this one, unless it defines its own.
        """
        return residual + self.decode(x, cache)


# -------------------------------------------------------------------------- many passes of one model


_kept_lists: ContextVar[dict | None] = ContextVar("lists of layers", default=None)


@contextmanager
def same_layers() -> Iterator[None]:
    """Within it each layer is taken to have the layers below it that it has at first: `layers`
    walks once, for as many forwards as there are.

    A forward of a small model walks over its layers two or three times, in a fifth of its time: to
    name them, and to see whether one is used twice.
    """
    token = _kept_lists.set({})
    try:
        yield
    finally:
        _kept_lists.reset(token)


# --------------------------------------------------------------------------------------- generation


@contextmanager
def evaluating(layer: Layer) -> Iterator[None]:
    """Inside, a layer and all below it are in evaluation mode; then each has its own mode again,
    and what it saved.
    """
    before = [(each, each.training, each._saved) for _, each in layer.layers()]
    for each, _, _ in before:
        each.training = False
    try:
        yield
    finally:
        for each, training, saved in before:
            each.training, each._saved = training, saved


def decode_problem(layer: Layer, path: str = "") -> str | None:
    """Why `layer.decode` may not be what `layer.forward` computes, naming the first such layer;
    None where it is.

    Layers below one that decodes by its own forward are not examined.
    """
    examined: set[int] = set()
    waiting = deque([(path, layer)])
    while waiting:
        path, layer = waiting.popleft()
        if id(layer) in examined:
            continue
        examined.add(id(layer))
        if (why := _own_decode_problem(layer)) is not None:
            return f"{f'its layer {path}' if path else 'it'} is a {type(layer).__name__}, {why}"
        if getattr(layer.decode, "__func__", None) is not Layer.decode:
            waiting.extend((f"{path}.{name}" if path else name, child) for name, child in layer.children())
    return None


def is_per_token(layer: Layer) -> bool:
    """Whether the class of a layer says `per_token` of the forward that the layer has."""
    return getattr(layer.decode, "__func__", None) is Layer.decode and _own_decode_problem(layer) is None


def _own_decode_problem(layer: Layer) -> str | None:
    """As `decode_problem`, of one layer alone, in words that follow its class."""
    kind = type(layer)
    if "decode" in vars(layer):
        return None
    if "forward" in vars(layer):
        return "whose forward was exchanged"
    if kind._decoded is None or kind.decode is _no_decode:
        return "which has no decode"
    if [forward for forward, _ in kind._decoded] != _forwards(kind):
        return "whose class got another forward"
    for forward, used in kind._decoded:
        for name, value in used.items():
            if forward.__globals__.get(name) is not value:
                return f"whose forward uses another {name}"
    return None


def _forward_code(kind: type) -> list[tuple]:
    """Each `forward` of a class and its bases, with the operations that it calls by their names.

    Operations are recorded for classes of this package: those of your own file may be defined anew.
    """
    found = []
    for forward in _forwards(kind):
        used = {}
        if (getattr(forward, "__module__", None) or "").startswith("minillm."):
            space = forward.__globals__
            used = {name: space[name] for name in forward.__code__.co_names if callable(space.get(name))}
        found.append((forward, used))
    return found


def _forwards(kind: type) -> list:
    return [vars(cls)["forward"] for cls in kind.__mro__ if "forward" in vars(cls)]


def _no_decode(self, x, cache):
    """The `decode` of a class that defines forward and says nothing of decode."""
    raise NotImplementedError(
        f"{type(self).__name__} has no decode: define decode(x, cache), or set per_token = True in its class if forward "
        "computes each token independently (minillm/layers/layer.py)"
    )


# ----------------------------------------------------------------------------- looking into a layer


def entries(layer: Layer) -> Iterator[tuple[str, object]]:
    """The attributes of a layer with their names, lists, tuples and dicts opened: `weights.0`,
    `table.name`.
    """
    for name, value in vars(layer).items():
        if isinstance(value, _WHOLE):
            yield name, value
        elif name != "_saved":
            yield from _opened(name, value, ())


# What most attributes are, and no container: quick to recognise, since each training step names the
# layers.
_WHOLE = (Layer, Parameter, np.ndarray, str, int, float, type(None))
_PLAIN = frozenset({Parameter, np.ndarray, str, int, float, bool, type(None)})  # by their exact class


def _opened(name: str, value, outer: tuple) -> Iterator[tuple[str, object]]:
    """(name, value), or the entries of a container; outer: the containers it lies in, by id."""
    if isinstance(value, (set, frozenset)) and any(isinstance(item, (Layer, Parameter)) for item in value):
        raise TypeError(
            f"{name} is a set, which has no order: put layers and parameters into a list, a tuple or a dict"
        )
    if not isinstance(value, (list, tuple, deque, Mapping)):
        yield name, value
    elif id(value) not in outer:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _opened(f"{name}.{key}", item, (*outer, id(value)))


def _places_below(layer: Layer, path: str, above: set[int]) -> Iterator[tuple[str, Layer]]:
    """above: the layers on the way down, none of which is entered a second time: a circle ends
    there.
    """
    yield path, layer
    above = above | {id(layer)}
    for name, child in layer.children():
        if id(child) not in above:
            yield from _places_below(child, f"{path}.{name}" if path else name, above)
