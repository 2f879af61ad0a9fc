"""What a gradient check is of: a layer, a model or a pair of functions, called in one way and held
to one contract.

Each call gets its own copies, of forward's inputs and of backward's dy: a function may write into
what it is given without spoiling what it is measured with. What it returns is looked at before
anything is measured:

    forward     returns one or several float64 arrays, the same ones for the same inputs, and leaves the parameters alone
    backward    returns one gradient for each float input, of its shape and dtype; adds a gradient to each parameter
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from minillm.backend.overlap import memory_conflict
from minillm.errors import UserError
from minillm.layers.layer import Layer, Parameter, entries

SAME = 1e-10  # two results of one computation, relative to the largest number: a BLAS may add in another order


class GradientError(AssertionError):
    """A hand-written gradient is wrong.

    `report` has all rows; None where nothing could be measured.
    """

    def __init__(self, message: str, report=None):
        super().__init__(message)
        self.report = report


class ContractError(GradientError):
    """Forward or backward does not do, beside the gradients, what a layer has to do: wrong shapes,
    too few gradients, ...
    """


def subject_of(subject, inputs: tuple, rng_key, name: str, input_names: Sequence[str] = ()) -> Subject:
    """The Subject for what `gradcheck` was given. Raises TypeError for what cannot be checked."""
    input_names = tuple(input_names) or tuple(f"input {index}" for index in range(len(inputs)))
    if len(input_names) != len(inputs):
        raise TypeError(f"input_names has {_counted(len(input_names), 'name')} for {_counted(len(inputs), 'input')}")
    if isinstance(subject, (tuple, list)) and len(subject) == 2 and all(map(callable, subject)):
        own_name = getattr(subject[0], "__name__", "<lambda>").removesuffix("_forward")
        return Pair(*subject, inputs, rng_key, name or own_name.replace("<lambda>", "the pair"), input_names)
    if isinstance(subject, Layer):
        for method in ("forward", "backward"):
            if not callable(getattr(subject, method, None)):
                raise TypeError(f"{type(subject).__name__} has no {method}: a layer has forward(x) and backward(dy)")
        kind = Model if callable(getattr(subject, "loss", None)) else OneLayer
        return kind(subject, inputs, rng_key, name or type(subject).__name__, input_names)
    if isinstance(subject, type) and issubclass(subject, Layer):
        raise TypeError(f"{subject.__name__} is a class: give a layer, {subject.__name__}(...)")
    raise TypeError(
        f"{subject!r:.80} is no layer: a layer derives from minillm.Layer and has forward(x) and backward(dy); or "
        "give a pair of functions (forward, backward) with forward(x) -> y, saved and backward(dy, saved) -> dx"
    )


class Subject:
    """inputs: as given, called `input_names` in reports; those that are float arrays are checked.

    `tensors`: name -> the array whose numbers are changed.
    """

    parameters: dict[str, Parameter] = {}
    _numbers = np.float64  # what forward has to make

    def __init__(self, inputs: tuple, rng_key, name: str, input_names: tuple[str, ...]):
        if listed := [i for i, x in enumerate(inputs) if isinstance(x, (list, tuple))]:
            raise TypeError(
                f"{name}: {input_names[listed[0]]} is a {type(inputs[listed[0]]).__name__}: give np.array(...)"
            )
        self.name, self.input_names = name, input_names
        self.inputs = [_copied(x) for x in inputs]
        self.rng_key = {} if rng_key is None else {"rng_key": rng_key}
        self.notes: list[str] = []
        self._floats = [i for i, x in enumerate(self.inputs) if isinstance(x, np.ndarray) and x.dtype.kind in "fcO"]
        self.tensors = {self.input_names[i]: self.inputs[i] for i in self._floats}

    # ------------------------------------------------------------------------------------------------------- its calls

    def forward(self) -> list[np.ndarray]:
        """Forward's outputs, computed from copies of the inputs."""
        return self._outputs(self._forward([_copied(x) for x in self.inputs]))

    def _forward(self, inputs: list):
        raise NotImplementedError

    def _backward(self, dy):
        raise NotImplementedError

    def examine(self, weights_for) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """(the weights of the outputs, name -> gradient) of one forward and backward, both of which
        are held to the contract.

        weights_for: outputs -> the gradients that arrive from above, one for each. Raises
        ContractError and TypeError.
        """
        self._check_tensors()
        before = {name: parameter.value.copy() for name, parameter in self.parameters.items()}
        given = [_copied(x) for x in self.inputs]
        outputs = [output.copy() for output in self._outputs(self._forward(given))]
        self._note_writing("forward", given, self.inputs, list(self.input_names))
        weights = weights_for(outputs)
        self._zero_grad()
        gradients = self._gradients_of(weights)
        self._check_parameters(before)
        self._check_the_same_again(outputs, weights, gradients)
        self._check_parameters(before)
        self._zero_grad()
        return weights, gradients

    def _gradients_of(self, weights: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Backward's gradients by name, those of the parameters included."""
        given = [weight.copy() for weight in weights]
        dy = given[0] if not self._is_several else np.stack(given) if _alike(given) else tuple(given)
        returned = self._backward(dy)
        handed = list(dy) if isinstance(dy, (tuple, np.ndarray)) and self._is_several else [dy]
        self._note_writing("backward", handed, weights, ["dy"] * len(handed))
        found = {self.input_names[i]: gradient for i, gradient in self._input_gradients(returned).items()}
        found |= {name: self._parameter_gradient(name, p) for name, p in self.parameters.items()}
        for name, gradient in found.items():
            self._check_gradient(name, gradient)
        copies = {name: np.array(gradient) for name, gradient in found.items()}
        self._note_aliases([*handed, *(found[self.input_names[i]] for i in self._floats)])
        return copies

    # --------------------------------------------------------------------------------------------- what goes in and out

    def _check_tensors(self) -> None:
        for tensor, array in self.tensors.items():
            if array.dtype.kind == "c":
                raise TypeError(
                    f"{self.name}: {tensor} is {array.dtype}: give the real and the imaginary part by themselves"
                )
            if array.dtype != np.float64:
                raise TypeError(
                    f"{self.name}: {tensor} is {array.dtype}, gradients are checked in float64: make it with that dtype"
                )
        for index, x in enumerate(self.inputs):
            if isinstance(x, (float, np.floating, list, tuple, dict)):
                self.notes.append(
                    f"{self.input_names[index]} is a {type(x).__name__} and is held: only float arrays are checked"
                )
        if not self.tensors:
            raise UserError(f"{self.name}: there is nothing to check: no float input, and no parameter that learns")

    def _outputs(self, y) -> list[np.ndarray]:
        if y is None:
            raise ContractError(f"{self.name}: forward returned nothing: return y")
        self._is_several = isinstance(y, (tuple, list))
        outputs = [np.asarray(each) for each in y] if self._is_several else [np.asarray(y)]
        for index, output in enumerate(outputs):
            what = f"output {index}" if self._is_several else "the output"
            if output.dtype != np.float64 and output.dtype != self._numbers:
                raise ContractError(
                    f"{self.name}: {what} is {output.dtype}; of float64 numbers forward has to make float64"
                )
        return outputs

    def _input_gradients(self, returned) -> dict[int, np.ndarray]:
        """Input -> gradient, of what backward returned: one for each float input, or one, or None,
        for each input.
        """
        name, floats = self.name, self._floats
        if isinstance(returned, dict) or inspect.isgenerator(returned):
            kind = type(returned).__name__
            raise ContractError(f"{name}: backward returned a {kind}: return dx, or a tuple of gradients")
        items = list(returned) if isinstance(returned, (tuple, list)) else [returned]
        if not floats and all(item is None for item in items):
            return {}
        if all(item is None for item in items):
            raise ContractError(f"{name}: backward returned nothing: return dx, the gradient of {self._listed(floats)}")
        if len(items) == len(self.inputs) and len(items) != len(floats):
            for index, item in enumerate(items):
                if index not in floats and item is not None:
                    raise ContractError(
                        f"{name}: {self.input_names[index]} is {_kind(self.inputs[index])} and has no gradient, but "
                        "backward returned one"
                    )
            items = [items[index] for index in floats]
        elif len(items) != len(floats):
            items = [item for item in items if item is not None]
        if not floats:
            raise ContractError(
                f"{name}: {self.input_names[0]} is {_kind(self.inputs[0])} and has no gradient, but backward returned "
                "one: return None"
                if self.inputs
                else f"{name}: there is no input, but backward returned a gradient: return None"
            )
        if len(items) != len(floats):
            found = _counted(len(items), "gradient")
            raise ContractError(f"{name}: backward returned {found} for {_counted(len(floats), 'float input')}")
        for index, item in zip(floats, items):
            if item is None:
                raise ContractError(
                    f"{name}: backward returned None for {self.input_names[index]}: return its gradient, zeros if nothing "
                    "depends on it"
                )
        return dict(zip(floats, items))

    def _parameter_gradient(self, name: str, parameter: Parameter):
        if parameter.grad is None:
            raise ContractError(f"{self.name}: backward left no gradient for {name}: call add_grad of this parameter")
        return parameter.grad

    def _check_gradient(self, tensor: str, gradient) -> None:
        array, found = self.tensors[tensor], np.asarray(gradient)
        of = f"{self.name}: the gradient of {tensor}"
        owner = "the input" if tensor not in self.parameters else tensor
        if found.dtype.kind not in "fiub" or found.dtype.kind == "b":
            raise ContractError(f"{of} is {found.dtype}, {owner} is {array.dtype}")
        if found.shape != array.shape:
            raise ContractError(f"{of} has shape {found.shape}, {owner} {array.shape}")
        if found.dtype != array.dtype:
            raise ContractError(f"{of} is {found.dtype}, {owner} is {array.dtype}")

    # ----------------------------------------------------------------------------------- what calls do beside their work

    def _check_the_same_again(self, outputs, weights, gradients) -> None:
        """Forward and backward once more: the same outputs and gradients, and parameters to which
        as much was added again.
        """
        again = self.forward()
        if any(not _same(*pair) for pair in zip(outputs, again, strict=True)):
            raise ContractError(
                f"{self.name}: forward gives different results for the same input, so that no gradient can be measured: it "
                "draws random numbers (draw them from a key: minillm.backend.stream), or keeps something from call to call"
            )
        for name, gradient in self._gradients_of(weights).items():
            first = gradients[name]
            if name not in self.parameters:
                if not _same(first, gradient):
                    raise ContractError(f"{self.name}: backward gives different gradients of {name} for the same dy")
            elif not _same(2 * first, gradient):
                if _same(first, gradient):
                    raise ContractError(
                        f"{self.name}: a second backward replaces the gradient of {name}: it has to be added to what is there, "
                        "with add_grad"
                    )
                raise ContractError(
                    f"{self.name}: a second backward does not add the same gradient of {name} as the first one"
                )

    def _check_parameters(self, before: dict[str, np.ndarray]) -> None:
        for name, parameter in self.parameters.items():
            if parameter.value is not self.tensors[name] or not np.array_equal(
                before[name], parameter.value, equal_nan=True
            ):
                raise ContractError(f"{self.name}: forward or backward changes the parameter {name} itself")

    def _note_writing(self, which: str, given: list, original: list, names: list[str]) -> None:
        """Notes what a call wrote over.

        It is allowed in itself, and wrong where the caller still needs it.
        """
        for name, one, other in zip(names, given, original):
            if isinstance(one, np.ndarray) and not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
                needed = "a residual block reads dy again" if which == "backward" else "a residual block reads x again"
                self._note(f"{which} writes over {name}: wrong wherever it is still needed ({needed})")

    def _note_aliases(self, others: list) -> None:
        """Notes gradients of parameters that lie in the memory of dy or dx: the next gradient would
        be added there, too.
        """
        for name, parameter in self.parameters.items():
            if any(isinstance(x, np.ndarray) and np.may_share_memory(x, parameter.grad) for x in others):
                self._note(f"the gradient of {name} lies in the memory of dy or dx: give add_grad a copy")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _zero_grad(self) -> None:
        pass

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """In training mode; afterwards as it was, without gradients."""
        yield

    @contextmanager
    def in_complex_numbers(self) -> Iterator[dict[str, np.ndarray]]:
        """Inputs and parameters are complex: `tensors` for them, by name. Afterwards they are as
        they were.
        """
        inputs, values = self.inputs, {name: parameter.value for name, parameter in self.parameters.items()}
        self.inputs = [x.astype(complex) if i in self._floats else x for i, x in enumerate(inputs)]
        for parameter in self.parameters.values():
            parameter.value = parameter.value.astype(complex)
        self._numbers = np.complex128
        try:
            yield {
                **{self.input_names[i]: self.inputs[i] for i in self._floats},
                **{name: parameter.value for name, parameter in self.parameters.items()},
            }
        finally:
            self.inputs, self._numbers = inputs, np.float64
            for name, parameter in self.parameters.items():
                parameter.value = values[name]

    def _listed(self, indices) -> str:
        return " and ".join(self.input_names[index] for index in indices)


class Pair(Subject):
    """A pair of pure functions."""

    def __init__(self, forward, backward, inputs, rng_key, name, input_names):
        super().__init__(inputs, rng_key, name, input_names)
        self._functions = forward, backward
        if self.rng_key and not _takes_key(forward):
            raise TypeError(f"{name}: forward takes no rng_key: leave rng_key= out")

    def _forward(self, inputs):
        returned = self._functions[0](*inputs, **self.rng_key)
        if not isinstance(returned, tuple) or len(returned) != 2:
            kind = f"{len(returned)} things" if isinstance(returned, tuple) else f"a {type(returned).__name__}"
            raise ContractError(f"{self.name}: forward returned {kind}: of a pair of functions it returns y, saved")
        y, self._saved = returned
        return y

    def _backward(self, dy):
        return self._functions[1](dy, self._saved)


class OneLayer(Subject):
    """A layer: its inputs and its parameters."""

    def __init__(self, layer: Layer, inputs, rng_key, name, input_names):
        super().__init__(inputs, rng_key, name, input_names)
        self._layer = layer
        if self.rng_key and not _takes_key(layer.forward):
            raise TypeError(f"{name}: forward takes no rng_key: leave rng_key= out")
        self.parameters = {name: parameter for name, parameter in layer.parameters().items() if not parameter.frozen}
        for tensor, parameter in self.parameters.items():
            if tensor in self.tensors:
                raise UserError(f'{name}: rename the attribute "{tensor}": the input has this name in the report')
            _check_writable(name, tensor, parameter.value)
        if conflict := memory_conflict({tensor: p.value for tensor, p in self.parameters.items()}):
            raise UserError(f"{name}: {conflict}")
        self.tensors |= {tensor: parameter.value for tensor, parameter in self.parameters.items()}
        self.notes += _arrays_that_are_no_parameters(layer)

    def _forward(self, inputs):
        return self._layer.forward(*inputs, **self.rng_key)

    def _backward(self, dy):
        return self._layer.backward(dy)

    def _zero_grad(self):
        self._layer.zero_grad()

    @contextmanager
    def in_training(self):
        modes = [(layer, layer.training) for _, layer in self._layer.layers()]
        self._layer.train()
        try:
            yield
        finally:
            for layer, training in modes:
                layer.training = training
            self._layer.forget_saved()
            self._layer.zero_grad()


class Model(OneLayer):
    """A model's loss: all parameters. Its inputs are ids and targets, and are held."""

    def __init__(self, model, inputs, rng_key, name, input_names):
        super().__init__(model, inputs, None, name, input_names)
        if _takes_key(model.loss):
            self.rng_key = {"rng_key": rng_key}
        for index in self._floats:  # what a loss is computed from is held
            self.tensors.pop(self.input_names[index])
        self._floats = []

    def _forward(self, inputs):
        return self._layer.loss(*inputs, **self.rng_key)

    def _backward(self, dy):
        return self._layer.backward()

    def _input_gradients(self, returned):
        return {}


# ------------------------------------------------------------------------------------------------------------------ helpers


def _copied(x):
    """x in memory of its own, in the order that it has there."""
    if isinstance(x, np.ndarray):
        return np.array(x, order="K")
    if type(x) in (list, tuple):
        return type(x)(map(_copied, x))
    return {key: _copied(value) for key, value in x.items()} if type(x) is dict else x


def _alike(arrays: list[np.ndarray]) -> bool:
    return len({array.shape for array in arrays}) == 1


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    with np.errstate(all="ignore"):
        limit = SAME * np.abs(one[np.isfinite(one)]).max(initial=0.0)
        return bool(np.all((np.abs(one - other) <= limit) | (one == other) | (np.isnan(one) & np.isnan(other))))


def _takes_key(function) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function that does not tell
        return True
    return any(p.name == "rng_key" or p.kind is p.VAR_KEYWORD for p in parameters)


def _check_writable(name: str, tensor: str, value) -> None:
    if not isinstance(value, np.ndarray) or type(value) is not np.ndarray:
        raise TypeError(f"{name}: {tensor} is no array in the host's memory: gradients are checked on the device cpu")
    if not value.flags.writeable:
        raise UserError(
            f"{name}: {tensor} is read-only: its numbers have to be changed to see what follows; give it a copy"
        )


def _kind(x) -> str:
    return str(x.dtype) if isinstance(x, np.ndarray) else f"a {type(x).__name__}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _arrays_that_are_no_parameters(layer: Layer) -> list[str]:
    """A line for each float array, and each foreign object with Parameters, among the attributes of
    the layers.
    """
    found = []
    for path, each in layer.layers():
        for name, value in entries(each):
            where = f"{path}.{name}" if path else name
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                found.append(f"{where} {value.shape} is a plain array and no Parameter: neither trained nor checked")
            elif not isinstance(value, (Layer, Parameter, type)) and hasattr(value, "__dict__"):
                if any(isinstance(item, (Layer, Parameter)) for item in vars(value).values()):
                    found.append(f"{where} is a {type(value).__name__} and no Layer: its Parameters are not found")
    return found
