"""A user's objects with forward and backward, called as `gradcheck` calls a pair of functions.

Each call works on a copy of the object as it was made, so that nothing it keeps is taken along:
what it saved, running statistics, gradients that were added up. Its own arrays that have a gradient
(attributes.py) are inputs of the pair, beside those of forward, and have new random numbers: at
zeros and ones, as they are made, faults do not show.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from minillm.checks.own_code.arguments import RATES, Source, assigned, bind
from minillm.checks.own_code.attributes import Leaf, at, float_arrays, gradient_of, input_gradient, leaves
from minillm.checks.own_code.finding import Found
from minillm.checks.own_code.functions import Problem, flattened, in_backward, result_name, with_arrays
from minillm.checks.own_code.loading import RandomNumbers, same_random_numbers
from minillm.checks.own_code.names import LABELS, SIZES
from minillm.checks.own_code.shapes import told
from minillm.checks.own_code.source import base_name, code_of
from minillm.checks.own_code.values import NOT_GIVEN, Ask, Choice, Maker
from minillm.errors import UserError

RESULTS = (
    "output",
    "out",
    "outputs",
    "y",
    "Y",
    "a",
    "A",
    "result",
    "activation",
    "activations",
    "h",
    "loss",
    "value",
    "y_hat",
    "z",
)
MOST, MOST_OUTPUTS = 300, 8


def choices(found: Found, maker: Maker) -> Iterator[tuple[Choice, object]]:
    """(choice, the function that makes its problem) for a class: the likeliest arguments first."""
    header = found.owner.__doc__ or ""
    init, forward = code_of(found.owner.__init__), code_of(found.forward or getattr(found.owner, found.methods[0]))
    backward = code_of(getattr(found.owner, found.methods[1])) if found.methods[1] else forward
    made = maker.given_for(found.name, [init, forward, backward, code_of(found.owner)], "self")
    if made is NOT_GIVEN and (text := _said_in_class(found.owner)):
        made = maker.evaluated("# gradcheck: self = ", text)
    # what has a gradient in backward's return is no label
    differentiated = {a for a in forward.names for n in backward.returned if n and base_name(n) == a}

    def pairs():
        constructed = (
            [None] if made is not NOT_GIVEN else _constructors(found, maker, init, [forward, backward], header)
        )
        for constructor in constructed:
            if constructor is not None:
                maker.sizes.numbers |= {name: n for name, n in constructor.values.items() if type(n) is int}
            wide = _widths(constructor.values if constructor else {}, made)
            maker.widths = wide
            for choice in maker.choices(found.name, [forward, backward, init], header, differentiated=differentiated):
                yield constructor, choice

    for constructor, choice in itertools.islice(pairs(), MOST):
        values = constructor.values if constructor else {}
        guessed = choice.guessed + tuple(constructor.guessed if constructor else ())
        make = made if made is not NOT_GIVEN else partial(_construct, found, values)
        call = _layer_problem if found.kind == "layer" else ObjectCall(found, maker).problem
        yield Choice({**values, **choice.values}, guessed), partial(call, make, choice.values)


def _constructors(found, maker, init, others, header) -> Iterator[Choice]:
    if found.owner.__init__ is object.__init__ or not init.arguments:
        yield Choice({})
        return
    maker.widths = ()
    yield from maker.choices(found.name, [init, *others], header)
    shapes = told([*others, init], others[0].names, header)  # Linear(n) of x (B, T, C): n may be C
    letters = list(dict.fromkeys(dim for each in shapes.values() for dim in each.shape[::-1] if dim.isidentifier()))
    numbers = [maker.sizes.of(letter) for letter in letters]
    numbers += [int(np.prod(maker.sizes.shape(each.shape)[1:])) for each in shapes.values() if len(each.shape) > 2]
    names = [name for name in init.names if SIZES.search(name) and name not in letters][:2]
    for chosen in itertools.product(dict.fromkeys(numbers), repeat=len(names)) if numbers else ():
        maker.sizes.numbers |= dict(zip(names, chosen))
        maker.widths = ()
        yield from maker.choices(found.name, [init, *others], header)


def _construct(found: Found, values: dict):
    return found.owner(**copy.deepcopy(values))


def _said_in_class(owner: type) -> str:
    """The expression of a comment "# gradcheck: self = ..." in a class."""
    import inspect

    try:
        text = inspect.getsource(owner) + (inspect.getcomments(owner) or "")
    except (OSError, TypeError):
        return ""
    match = re.search(r"#\s*gradcheck:\s*self\s*=\s*(.+)", text)
    return match.group(1) if match else ""


def _widths(values: dict, made) -> tuple[int, ...]:
    """The whole numbers and the lengths of axes that an object was made of: x has one of them."""
    whole = [each for v in values.values() for each in (v if isinstance(v, list) else [v])]
    whole += [each for v in values.values() for each in getattr(v, "__dict__", {}).values()]  # of a Config
    numbers = [v for v in whole if type(v) is int] + [
        n for v in values.values() if isinstance(v, np.ndarray) for n in v.shape
    ]
    if made is not NOT_GIVEN:
        numbers += [n for leaf in leaves(made) for n in leaf.array.shape]
    return tuple(dict.fromkeys(n for n in numbers if n > 1))


class ObjectCall:
    """An object's two methods."""

    def __init__(self, found: Found, maker: Maker):
        self._found, self._maker, self._random = found, maker, RandomNumbers(maker.module)
        self._forward = code_of(getattr(found.owner, found.methods[0]))
        self._backward = code_of(getattr(found.owner, found.methods[1])) if found.methods[1] else None

    def problem(self, make, values: dict) -> Problem:
        """The problem of an object with these arguments of forward.

        make: makes the object, or is the object. Raises Ask, and whatever the user's methods raise.
        """
        with same_random_numbers(self._maker.module):
            made = make() if callable(make) and not isinstance(make, self._found.owner) else make
        prototype = _in_float64(made)
        arrays = flattened(values)
        candidates = self._unreplaced(prototype, values, leaves(prototype))
        thing, returned = self._run_forward(prototype, values)
        sources, average = self._sources(thing, values, returned)
        with in_backward():
            outputs = [s.what for s in sources if s.kind == "upstream"][:MOST_OUTPUTS] or [next(iter(returned))]
            dys = tuple(np.ones_like(y) for y in self._results(returned, outputs, average))
            probe = self._run_backward(thing, values, returned, sources, candidates, dict(zip(outputs, dys)))
        parameters = [leaf for leaf in candidates if leaf.name in probe]
        tensors = [name for name in arrays if name in probe] + [leaf.name for leaf in parameters]
        inputs = {name: arrays[name] for name in tensors if name in arrays}
        inputs |= {leaf.name: 0.5 * self._maker.array(leaf.name, leaf.array.shape) for leaf in parameters}
        fits = all(np.shape(probe[name]) == x.shape for name, x in inputs.items())

        def forward(*given):
            by_name = dict(zip(tensors, given))
            arguments = with_arrays(values, by_name)
            memo = {id(leaf.array): by_name[leaf.name] for leaf in parameters}
            thing, found = self._run_forward(prototype, arguments, memo)
            ys = self._results(found, outputs, average)
            return (ys if len(ys) > 1 else ys[0]), (thing, arguments, found)

        def backward(dy, saved):
            thing, arguments, found = saved
            dys = dict(zip(outputs, dy if len(outputs) > 1 else (dy,)))
            made = self._run_backward(copy.deepcopy(thing), arguments, found, sources, parameters, dys)
            return tuple(np.asarray(made[name]) for name in tensors)

        notes = [
            f"self.{name} has no gradient after backward: not checked"
            for name in self._neglected(prototype, values, candidates, probe)
        ]
        if self._backward is not None:
            notes += [f"{name}: backward gives no gradient for it: not checked" for name in arrays if name not in probe
                      and name.lower() not in LABELS]  # fmt: skip
        if average:
            notes.append(
                "backward takes the predictions in the place of dy: its gradients are held against those of forward's mean"
            )
        return Problem((forward, backward), inputs, fits, notes)

    def _run_forward(self, prototype, values: dict, memo: dict | None = None):
        thing = copy.deepcopy(prototype, dict(memo or {}))
        with self._random():
            result = getattr(thing, self._found.methods[0])(**values)
        if result is None:
            name = next((name for name in RESULTS if getattr(thing, name, None) is not None), None)
            if name is None:
                raise Ask(
                    f"{self._found.methods[0]} returns nothing, and sets none of self.{', self.'.join(RESULTS[:4])}: return y"
                )
            return thing, {name: getattr(thing, name)}
        names = self._forward.returned
        if not isinstance(result, tuple):
            return thing, {result_name(names, values): result}
        names = names if len(names) == len(result) else [None] * len(result)
        return thing, {name or f"result {index}": value for index, (name, value) in enumerate(zip(names, result))}

    def _results(self, returned: dict, outputs: list, average: bool) -> tuple[np.ndarray, ...]:
        ys = tuple(np.asarray(returned[name]) for name in outputs)
        return tuple(np.asarray(y.mean()) for y in ys) if average else ys

    def _sources(self, thing, values: dict, returned: dict) -> tuple[list[Source], bool]:
        """What backward gets; and whether it takes the predictions of a loss in the place of dy."""
        if self._backward is None:
            return [], False
        sources = bind(self._forward, self._backward, values, returned, is_method=True)
        labels = [s for s in sources if s.kind == "named" and s.what in values and str(s.what).lower() in LABELS]
        if labels and sources[0].kind == "upstream":
            return [Source(sources[0].argument, "predictions", next(iter(values))), *sources[1:]], True
        return sources, False

    def _run_backward(self, thing, values, returned, sources, candidates: list[Leaf], dys) -> dict[str, object]:
        """Name -> gradient: what backward returns, what it leaves on the object, or what it takes
        from the weights with a learning rate of 1.
        """
        dy = next(iter(dys.values()))
        if self._backward is None:  # loss, grads = self.loss(x, y)
            return {
                name: dy * g
                for name, g in self._returned_gradients(list(returned.values())[1], values, candidates).items()
            }
        given = {}
        for source in sources:
            if source.kind == "upstream":
                given[source.argument] = np.array(dys[source.what])
            elif source.kind == "predictions":
                given[source.argument] = getattr(thing, "output", values[source.what])
            elif source.kind == "kept":
                given[source.argument] = (
                    returned.get(source.what) if isinstance(source.what, str) else tuple(returned.values())[1:]
                )
            else:
                given[source.argument] = source.what if source.kind == "value" else {**values, **returned}[source.what]
        before = {leaf.name: np.array(at(thing, leaf.path)) for leaf in candidates}
        with self._random(seed=1):
            result = getattr(thing, self._found.methods[1])(**given)
        found: dict[str, object] = {}
        if result is not None:
            found |= self._returned_gradients(result, values, candidates)
        else:
            for name in flattened(values):
                if (gradient := input_gradient(thing, name)) is not None:
                    found[name] = gradient
        rate = any(source.argument in RATES for source in sources) or next(
            (getattr(thing, r) for r in RATES if hasattr(thing, r)), None
        )
        for leaf in candidates:
            after = at(thing, leaf.path)
            if rate and isinstance(after, np.ndarray) and not np.array_equal(after, before[leaf.name]):
                found.setdefault(leaf.name, (before[leaf.name] - after) / float(rate))
            elif (gradient := gradient_of(thing, leaf)) is not None:
                found.setdefault(leaf.name, gradient)
        if not any(source.kind in ("upstream", "predictions") for source in sources) and np.ndim(dy) == 0:
            found = {name: dy * gradient for name, gradient in found.items()}
        return {name: np.array(gradient) for name, gradient in found.items()}

    def _returned_gradients(self, result, values: dict, candidates: list[Leaf]) -> dict[str, object]:
        arrays = flattened(values)
        shapes = {name: x.shape for name, x in arrays.items()}
        if isinstance(result, dict):
            tensors = {**shapes, **{leaf.name: leaf.array.shape for leaf in candidates}}
            return assigned(list(result), list(tensors), tensors, list(result.values()))
        several = list(result) if isinstance(result, (tuple, list)) else [result]
        names = self._backward.returned if self._backward else []
        if len(several) > 1 and len(several) != len(arrays):
            shapes |= {leaf.name: leaf.array.shape for leaf in candidates}
        return assigned(names, list(shapes), shapes, several) if shapes else {}

    def _unreplaced(self, prototype, values: dict, found: list[Leaf]) -> list[Leaf]:
        """The arrays that forward does not replace: those that it does are what it saves."""
        marks = {id(leaf.array): leaf.array.copy() for leaf in found}
        thing, _ = self._run_forward(prototype, values, marks)
        return [leaf for leaf in found if at(thing, leaf.path) is marks[id(leaf.array)]]

    def _neglected(self, prototype, values, candidates: list[Leaf], probe: dict) -> list[str]:
        """The arrays without a gradient that the result depends on."""
        found, (_, before) = [], self._run_forward(prototype, values)
        for leaf in candidates:
            if leaf.name not in probe:
                _, after = self._run_forward(
                    prototype, values, {id(leaf.array): leaf.array + self._maker.array(leaf.name, leaf.array.shape)}
                )
                if not np.array_equal(
                    *(np.asarray(next(iter(each.values()))) for each in (before, after)), equal_nan=True
                ):
                    found.append(leaf.name)
        return found


def _in_float64(thing):
    """A copy of an object with its float arrays in float64."""
    memo = {id(array): np.array(array, np.float64) for array in float_arrays(thing)}
    try:
        return copy.deepcopy(thing, memo)
    except TypeError as error:
        raise UserError(f"a copy of the object cannot be made ({error}), and each call needs one") from None


def _layer_problem(make, values: dict) -> Problem:
    """The problem of a minillm.Layer: gradcheck knows its parameters."""
    layer = make() if callable(make) and not hasattr(make, "take_saved") else make
    for parameter in layer.parameters().values():
        parameter.value = np.array(parameter.value, np.float64)
    inputs = {name: x for name, x in values.items() if isinstance(x, np.ndarray)}
    for name, parameter in layer.parameters().items():
        numbers = np.random.default_rng(list(name.encode()))
        parameter.value[...] = parameter.value + 0.5 * numbers.normal(size=parameter.value.shape)
    layer.train()
    y = layer.forward(*(x.copy() for x in inputs.values()))
    with in_backward():
        layer.backward(np.ones_like(y))
    layer.zero_grad()
    return Problem(layer, inputs)
