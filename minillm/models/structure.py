"""Whether a model is what its configuration describes, and if not, where it is another one.

A model is made of objects that can be changed: a layer is added to a block, replaced or derived
from, a method is overridden or exchanged, a constant gets another value, a weight is shared.
`forward` then computes something else. A file in the layout of Hugging Face is read by its
configuration alone, and cannot express that. So saving checks first that a model has, at every
place,

    the same layer, with the same code: class, methods, the operations (`NAME_forward`) of its file
    the same constants,
    a tensor of the same shape, shared with the same others

as a new model of its class and configuration. What only training or generation calls, such as
`backward`, `loss` and `decode`, may differ: what `forward` computes, and what is saved, is the
same. LoRA changes none of this: a layer with LoRA counts as the linear layer that it extends.
"""

from __future__ import annotations

import sys
from functools import lru_cache, partial
from types import FunctionType, SimpleNamespace

import numpy as np

from minillm.errors import UserError
from minillm.layers.column_linear import ColumnLinear
from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear
from minillm.layers.lora_ranks import ColumnLoRALinear, RowLoRALinear
from minillm.layers.row_linear import RowLinear
from minillm.models.tensor_parallel import tensor_parallel

# Attributes that change no result in evaluation mode, and those that follow from config or dtype.
SETTINGS = {
    *("name", "training", "recompute", "activations", "batch_offset", "p", "label_smoothing", "ignore_index"),
    *("config", "precision", "lora", "carried", "decode", "sharing"),
}
CONSTRUCTION = {"initial_std", "_token_embedding", "_normal", "_constant"}  # and _make...: what they made is compared
HARMLESS = {"__init__", "__repr__", "__str__", "__doc__", "__module__", "__qualname__", "__annotations__"}
HARMLESS |= {"decode", "decode_onto", "per_token", "_decoded"}  # what generation adds to forward: layers/layer.py
HARMLESS |= {"__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__"}
METHODS = {"forward", "backward", "product"}
TRAINING = {"backward", "loss", "train", "eval", "zero_grad", "to", "replica", "trainable_parameters"}
TRAINING |= {"forget_saved", "save_for_backward", "take_saved", "save_pretrained"}
OPERATIONS = ("_forward", "dispatch")  # how names of functions end that layers call in forward
LORA = {"lora_A", "lora_B", "scale"}
WITHOUT_LORA = {
    extended.__name__: plain.__name__
    for extended, plain in ((LoRALinear, Linear), (ColumnLoRALinear, ColumnLinear), (RowLoRALinear, RowLinear))
}
LAYER, TENSOR, VALUE, OWN = "layer", "tensor", "constant", "own"  # the kinds of entries of a description


def difference(model, training: bool = False) -> str | None:
    """The first place where a model is not what its class and configuration describe, in words;
    None if there is none.

    training: methods that only training calls count, too, where they are of a class of your own or
    of one instance.
    """
    base = _own_class(type(model))
    if getattr(base, "body_name", None) is None or _code(type(model.config)) != type(model.config).__name__:
        return f"the model is a {type(model).__name__} with a {type(model.config).__name__}"
    part = (model.sharing.rank, model.sharing.size) if model.sharing is not None else None
    expected, found = _expected(base, model.config, part), description(model, training=training)
    for place, (kind, what) in found.items():
        if place not in expected and kind != VALUE:
            return f"it has {_named(kind, place, what)}"
        if place in expected and expected[place] != (kind, what):
            here = f"its {kind} {place}" if place else "it"
            return f"{here} is {what}, not {expected[place][1]}"
    missing = [place for place in expected if place not in found]
    return f"it has no {expected[missing[0]][0]} {missing[0]}" if missing else None


def refuse_changed(model, what: str, training: bool = False) -> None:
    """Raises UserError, naming the place, for a model that is not what its configuration describes.

    what: what cannot be done with it, such as "be saved as a model folder". training: see
    `difference`.
    """
    if (why := difference(model, training)) is not None:
        raise UserError(
            f"the model cannot {what}: it is not what its {type(model.config).__name__} describes, because {why}. Its weights "
            "can be kept with minillm.save_parameters(model, file), and put back with minillm.load_parameters(model, file) "
            "into a model that the same code has built"
        )


def behaves_as(layer, kind: type) -> bool:
    """Whether a layer is of the class `kind`, whose code is that of its file, and has no methods of
    its own.
    """
    if _code(type(layer), training=True) != kind.__name__:
        return False
    return all(_observed(vars(layer)[name]) is not vars(layer)[name] for name in METHODS & vars(layer).keys())


def description(model: Layer, trusted: bool = False, training: bool = False) -> dict[str, tuple[str, str]]:
    """Place -> (kind, text): every layer with its code, its constants, and its tensors, each by its
    path.

    A layer or tensor at several places is described at the first of them. trusted: the
    code of layers is taken to be that of their files, and is not looked at. training: see
    `difference`.
    """
    entries: dict[str, tuple[str, str]] = {}
    first: dict[int, str] = {}  # layer or tensor -> where it was met first
    codes: dict[type, str] = {}
    ignored = SETTINGS if training else SETTINGS | TRAINING
    more = False  # whether tensors may be in lists and dicts
    for path, layer in model.places():
        kind = type(layer)
        if id(layer) in first:
            entries[path] = LAYER, f"the layer {first[id(layer)]}"
            continue
        first[id(layer)] = path
        if kind not in codes:
            codes[kind] = _own_class(kind).__name__ if trusted else _code(kind, training)
        is_lora, more = codes[kind] in WITHOUT_LORA, more or any(map(_holds_more, vars(layer).values()))
        entries[path] = LAYER, WITHOUT_LORA.get(codes[kind], codes[kind])
        for name, value in vars(layer).items():
            if name not in ignored and not (is_lora and name in LORA):
                place = f"{path}.{name}" if path else name
                if entry := _attribute(kind, name, value, place, first):
                    entries[place] = entry
    for name, parameter in model.parameters().items() if more else ():
        if id(parameter) not in first and name.rpartition(".")[2] not in LORA:
            entries[name] = TENSOR, f"of shape {tuple(parameter.value.shape)}"
    return entries


def _attribute(kind: type, name: str, value, place: str, first: dict[int, str]) -> tuple[str, str] | None:
    if isinstance(value, Parameter):
        known = first.setdefault(id(value), place)
        return TENSOR, f"of shape {tuple(value.value.shape)}" if known == place else f"the tensor {known}"
    if isinstance(value, Layer):
        return None  # it has an entry of its own
    if hasattr(kind, name) and not name.startswith("_"):
        return OWN, "a method of its own"
    if name.startswith("_"):
        return None
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return VALUE, repr(value.item() if isinstance(value, np.generic) else value)
    if hasattr(value, "__dict__") and not callable(value):  # positions
        inside = {key: each for key, each in vars(value).items() if not key.startswith("_")}
        return VALUE, f"{_code(type(value))} {inside}"
    return None


def _holds_more(value) -> bool:
    """Whether it is a container of anything but layers."""
    if not isinstance(value, (list, tuple, dict)):
        return False
    return not all(isinstance(item, Layer) for item in (value.values() if isinstance(value, dict) else value))


@lru_cache(maxsize=16)
def _expected(base: type, config, part: tuple[int, int] | None) -> dict[str, tuple[str, str]]:
    """The description of a new model, or of the part (rank, ranks) of one. It is made without
    memory for weights.
    """
    model = base(config, seed=None)
    if part is not None:
        rank, ranks = part
        tensor_parallel(model, SimpleNamespace(rank=rank, size=ranks))
    return description(model, trusted=True)


def _named(kind: str, place: str, what: str) -> str:
    return f"{what} at {place}" if kind == OWN else f"a {kind} {place} ({what.removeprefix('of ')})"


# ------------------------------------------------------------------------------ the code of a class


def _code(kind: type, training: bool = False) -> str:
    """A text for what instances of a class compute: the class of this package that it behaves as,
    or its own name.
    """
    base = _own_class(kind)
    if base is object or _overrides(kind, base, training):
        return f"your class {kind.__name__}"
    exchanged = _exchanged(base)
    return f"{base.__name__} with another {exchanged}" if exchanged else base.__name__


def _own_class(kind: type) -> type:
    """The first class among a class and its bases that this package defines, or object."""
    return next(cls for cls in kind.__mro__ if cls is object or _is_own(cls))


def _is_own(cls: type) -> bool:
    return is_ours(cls.__module__) and getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


def is_ours(module: str) -> bool:
    """Whether a module is part of this package."""
    return module.partition(".")[0] == "minillm"


def _overrides(kind: type, base: type, training: bool) -> bool:
    """Whether a class derived from `base` may compute something else: it has more than methods
    under new names.
    """
    for cls in kind.__mro__[: kind.__mro__.index(base)]:
        for name, value in vars(cls).items():
            if name in HARMLESS or name in CONSTRUCTION or name.startswith("_make"):
                continue
            if name in TRAINING and not training and issubclass(base, Layer) and hasattr(base, name):
                continue
            is_method = isinstance(value, (FunctionType, staticmethod, classmethod, property))
            if not is_method or hasattr(base, name) or name in ("forward", "backward"):
                return True
    return False


def _exchanged(base: type) -> str | None:
    """The name of a method of a class, or of an operation in its file, that is not the one of the
    file.
    """
    known = _known.get(base)
    if known and all(good.items() <= space.items() and (not size or len(space) == size) for space, good, size in known):
        return None
    known = []
    for cls in base.__mro__:
        if not _is_own(cls):
            continue
        space = vars(sys.modules[cls.__module__])
        methods = {
            name: value
            for name, value in vars(cls).items()
            if not name.startswith("__") and name not in TRAINING and name not in HARMLESS
        }
        for name, value in methods.items():
            if _is_foreign(value, space, f"{cls.__qualname__}.{name}"):
                return name
        operations = {name: value for name, value in space.items() if name.endswith(OPERATIONS)}
        for name, value in operations.items():
            home = sys.modules.get(getattr(value, "__module__", None) or "")
            if home is None or not is_ours(home.__name__) or _is_foreign(value, vars(home), name):
                return name
        known += [(vars(cls), methods, len(vars(cls))), (space, operations, None)]
    _known[base] = known
    return None


_known: dict[
    type, list
] = {}  # a class -> namespaces, and what was in them when all was as in its file: quick to compare


def _is_foreign(value, space: dict, name: str) -> bool:
    """Whether something callable is not the function of that name of a module."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = _observed(value)
    if isinstance(value, FunctionType):
        return value.__globals__ is not space or value.__qualname__ != name
    return callable(value) and not isinstance(value, type) or isinstance(value, partial)


def _observed(function):
    """The function that a wrapper of this package calls, as inspection/observation.py puts around
    what it watches.
    """
    while hasattr(function, "__wrapped__") and is_ours(getattr(function, "__globals__", {}).get("__name__", "")):
        function = function.__wrapped__
    return function
