"""A second model that computes the same from the same weights, with gradients of its own: what a
second thread needs.

Whatever the first one is made of is copied, as deep as there are layers: lists, tuples and dicts,
layers at two places, methods that were exchanged on an instance. Shared are the arrays
of the weights, and everything that does not change: other arrays, configurations, classes.
Gradients, and what forward left for backward, are not copied.

A function that was put into an instance, such as

    plain = block.forward
    block.forward = lambda x, rng_key=None: 2 * plain(x, rng_key)

holds on to a layer of the first model, here by `plain`. The copy's function is a copy that holds on
to the copied layer.
"""

from __future__ import annotations

import functools
from types import CellType, FunctionType, MethodType

from minillm.errors import UserError
from minillm.layers.layer import Layer, Parameter
from minillm.models.structure import is_ours


def replicated(model: Layer) -> Layer:
    """A copy of a model that shares its weights. Raises UserError where a method uses layers that
    are not the model's.
    """
    return _Copier(model).copy(model)


class _Copier:
    def __init__(self, model: Layer):
        self._paths = {id(layer): path for path, layer in model.layers()}
        self._copies: dict[int, object] = {}
        self._where = ""  # the method at hand, for messages

    def copy(self, value):
        """The copy of whatever an attribute may hold; the value itself where nothing in it can
        change.
        """
        if id(value) in self._copies:
            return self._copies[id(value)]
        if isinstance(value, Parameter):
            return self._parameter(value)
        if isinstance(value, Layer):
            return self._layer(value)
        if isinstance(value, (list, tuple, dict, set)):
            return self._container(value)
        if isinstance(value, (FunctionType, MethodType, functools.partial)):
            return self._function(value)
        return self._object(value) if _is_plain_object(value) else value

    def _parameter(self, parameter: Parameter):
        copy = self._new(parameter)
        vars(copy).update(vars(parameter))
        copy.value = parameter.value  # neither knows what the other one writes: both drop their rounded copies
        copy.grad = copy._buffer = copy._spare = copy.home = None
        return copy

    def _layer(self, layer: Layer):
        copy = self._new(layer)
        self._check_methods(layer)
        for name, value in vars(layer).items():
            self._where = f"{self._paths.get(id(layer), '')}.{name}".lstrip(".")
            vars(copy)[name] = None if name == "_saved" else self.copy(value)
        return copy

    def _object(self, value):
        copy = self._new(value)
        for name, attribute in vars(value).items():
            vars(copy)[name] = self.copy(attribute)
        return copy

    def _container(self, value):
        if isinstance(value, tuple):
            items = [self.copy(item) for item in value]
            return value._make(items) if hasattr(value, "_make") else tuple(items)
        self._copies[id(value)] = copy = value.copy()  # of the same kind, such as a defaultdict
        if isinstance(value, list):
            copy[:] = [self.copy(item) for item in value]
        elif isinstance(value, dict):
            for key, item in value.items():
                copy[key] = self.copy(item)
        return copy

    def _new(self, value):
        copy = self._copies[id(value)] = object.__new__(type(value))
        return copy

    # ------------------------------------------------------------------------------------ functions

    def _function(self, value):
        """A function that uses the copied layers where it used layers of the model; itself where it
        uses none.
        """
        if isinstance(value, MethodType):
            owner = self._used(value.__self__)
            return value if owner is value.__self__ else MethodType(self.copy(value.__func__), owner)
        if isinstance(value, functools.partial):
            arguments = [self._used(argument) for argument in value.args]
            settings = {name: self._used(argument) for name, argument in value.keywords.items()}
            return functools.partial(self.copy(value.func), *arguments, **settings)
        if is_ours(value.__module__ or ""):
            return value
        self._copies[id(value)] = value  # it may refer to itself
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        used = [self._used(content) for content in cells]
        defaults = tuple(self._used(default) for default in value.__defaults__ or ())
        keywords = {name: self._used(default) for name, default in (value.__kwdefaults__ or {}).items()}
        names = {name: value.__globals__[name] for name in _global_names(value.__code__) if name in value.__globals__}
        changed = {name: copy for name, held in names.items() if (copy := self._used(held)) is not held}
        before = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        if not changed and all(a is b for a, b in zip(before, [*used, *defaults, *keywords.values()])):
            return value
        closure = tuple(old if new is content else CellType(new) for old, content, new in _triples(value, cells, used))
        space = {**value.__globals__, **changed} if changed else value.__globals__
        copy = FunctionType(value.__code__, space, value.__name__, defaults or None, closure or None)
        copy.__kwdefaults__ = keywords or None
        copy.__qualname__ = value.__qualname__
        vars(copy).update(vars(value))
        self._copies[id(value)] = copy
        return copy

    def _used(self, value):
        """What a function that is copied uses in place of `value`: layers and methods are
        exchanged, all else is shared.
        """
        if isinstance(value, Layer):
            if id(value) not in self._paths and value.parameters():
                raise UserError(
                    f"{self._where} uses a {type(value).__name__} that is no part of the model, so that its gradients would be "
                    "lost: make it an attribute of a layer"
                )
            return self.copy(value)
        if isinstance(value, (Parameter, FunctionType, MethodType, functools.partial)):
            return self.copy(value)
        if isinstance(value, (list, tuple, dict)) and any(
            isinstance(item, (Layer, Parameter, MethodType))
            for item in (value.values() if isinstance(value, dict) else value)
        ):
            return self.copy(value)
        return value

    def _check_methods(self, layer: Layer) -> None:
        """A method belongs to a class, which all models share: it must not use one layer of one
        model.
        """
        for cls in type(layer).__mro__:
            for name, method in vars(cls).items():
                if not isinstance(method, FunctionType) or is_ours(method.__module__ or ""):
                    continue
                held = [method.__globals__.get(used) for used in _global_names(method.__code__)]
                held += [_contents(cell) for cell in method.__closure__ or ()]
                for value in held:
                    owner = getattr(value, "__self__", value)
                    if isinstance(owner, Layer) and owner.parameters():
                        raise UserError(
                            f"{cls.__qualname__}.{name} uses a {type(owner).__name__} that is no attribute of its layer, so "
                            "that several workers would share it: make it an attribute"
                        )


def _triples(function: FunctionType, cells: list, used: list):
    return zip(function.__closure__ or (), cells, used)


def _contents(cell: CellType):
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _global_names(code) -> set[str]:
    """The names that a function looks up outside of itself, functions inside of it included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            names |= _global_names(constant)
    return names


def _is_plain_object(value) -> bool:
    """Whether an object is no more than its attributes, which may change. What is frozen, or copies
    itself, is shared.
    """
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, type)
        and kind.__new__ is object.__new__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and not any(hasattr(kind, name) for name in ("__copy__", "__deepcopy__", "__slots__"))
        and not getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
    )
