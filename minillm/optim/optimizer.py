"""The base of all optimizers: parameters, settings, named state, and how a step goes through the
parameters.

An optimizer is a class with the names of its state and one formula. Signum (Bernstein et al.,
"signSGD: Compressed Optimisation for Non-Convex Problems", 2018), whole, as `--optimizer signum`:

    class Signum(Optimizer):
        state_names = ("momentum",)

        def update(self, w, g, decay, momentum):
            beta = self.betas[0]
            momentum = beta * momentum + (1 - beta) * g
            return w - self.lr * (np.sign(momentum) + decay * w), momentum

    OPTIMIZERS["signum"] = Signum

Checkpoints save the state by its names, and a resumed run goes on with it.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping

import numpy as np

from minillm.backend.arrays import array_module, contiguous, device_of
from minillm.backend.overlap import memory_conflict
from minillm.errors import UserError
from minillm.kernels import kernel_for
from minillm.layers.layer import Parameter
from minillm.layers.stored_weight import StoredWeight


class Optimizer:
    """Changes parameters by their gradients. A subclass gives `state_names` and `update`, or
    `update_all`.

    parameters: name -> Parameter, as `model.parameters()` gives them, in any memory layout. The
    settings are those of `minillm train`: an optimizer reads those that its formula has. `lr` may
    be set before every step (schedules.py). state: name of the state -> name of the parameter ->
    array of the parameter's shape and dtype, zeros at first. step_count: steps taken so far, the
    present one included. share(function, items): calls function(item) for each item; training sets
    one that uses all cores (DataParallel.share). A class that says `elementwise = True` lets a rank
    update a piece of a parameter alone; else it gets whole ones (distributed/sharding.py).

    Raises UserError for impossible settings, and for parameters that cannot be changed one by one:
    read-only ones, and such that share memory.
    """

    state_names: tuple[str, ...] = ()
    more_settings: tuple[str, ...] = ()  # of its own: keyword arguments, and options of `minillm train`
    elementwise = False  # in a class that says True, each element's step depends on that element alone

    def __init__(self, parameters: dict[str, Parameter], lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        """lr: the learning rate; betas: two numbers from 0 to below 1; eps: above 0, added to a
        divisor; weight_decay: at least 0.
        """
        check_settings(lr, betas, eps, weight_decay)
        check_parameters(parameters, type(self).__name__)
        self.parameters = parameters
        self.lr, self.betas, self.eps, self.weight_decay = lr, tuple(betas), eps, weight_decay
        self.step_count = 0
        self.share = _one_by_one
        self.state = {
            kind: {name: _zeros_like(parameter.value) for name, parameter in self.parameters_with(kind).items()}
            for kind in self.state_names
        }

    def __repr__(self):
        names = [
            name for name in inspect.signature(type(self)).parameters if name != "parameters" and hasattr(self, name)
        ]
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        count = sum(parameter.value.size for parameter in self.parameters.values())
        return f"{type(self).__name__}({count:,} parameters, {settings}, step_count={self.step_count})"

    def parameters_with(self, kind: str) -> dict[str, Parameter]:
        """The parameters that have the state of this name: all of them, unless a subclass says
        otherwise.
        """
        return self.parameters

    def step(self, gradient_scale=1.0) -> None:
        """Update every parameter from its gradient times `gradient_scale`, a number or 0-d
        (clipping: global_norm.py).

        Raises RuntimeError, before anything is changed, if a parameter has no gradient, and
        UserError if one is of another dtype or shape than its parameter, or the parameter is
        read-only.
        """
        check_gradients(self.parameters)
        self.step_count += 1
        self._update_on_all_cores(gradient_scale)
        _round_operands(self.parameters)

    def _update_on_all_cores(self, gradient_scale) -> None:
        """`update_all`, where cores share the parameters one by one, the largest first."""
        if self.share is _one_by_one or not self.elementwise:
            self.update_all(gradient_scale)
            return

        def update(name: str) -> None:
            state = {kind: {name: arrays[name]} for kind, arrays in self.state.items() if name in arrays}
            self.restricted({name: self.parameters[name]}, state).update_all(gradient_scale)

        self.share(update, sorted(self.parameters, key=lambda name: -self.parameters[name].peek().size))

    def update_all(self, gradient_scale) -> None:
        """The step itself, a parameter at a time. Optimizers that know a faster way override this.

        Raises TypeError for an `update` that does not return the new weight and its state.
        """
        for name, parameter in self.parameters.items():
            xp = array_module(parameter.value)
            g = xp.multiply(parameter.grad, gradient_scale, out=xp.empty_like(parameter.grad))
            kept = [parameter.value, *(self.state[kind][name] for kind in self.state_names)]
            found = self.update(kept[0], g, self.decay_of(parameter), *kept[1:])
            found = found if isinstance(found, tuple) else (found,)
            if [np.shape(array) for array in found] != [array.shape for array in kept]:
                wanted = ", ".join(("w", *self.state_names))
                raise TypeError(f"{type(self).__name__}.update has to return {wanted}, each of the shape of {name}")
            for array, new in zip(kept, found):
                array[...] = new

    def update(self, w, g, decay, *state):
        """The formula for one tensor: weight w, gradient g, weight decay  ->  the new w and state,
        as a tuple.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update(w, g, decay, {', '.join(self.state_names)})")

    def decay_of(self, parameter: Parameter) -> float:
        """Weight decay is for matrices: biases and the weights of norms, which have one dimension,
        are left alone."""
        dimensions = parameter.whole_ndim or parameter.peek().ndim
        return self.weight_decay if dimensions >= 2 else 0.0

    def restricted(self, parameters: dict[str, Parameter], state: dict[str, dict]) -> Optimizer:
        """The same optimizer for other parameters, such as the pieces that a rank owns, with their
        state.
        """
        other = copy.copy(self)
        other.parameters, other.state = parameters, state
        return other

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.zero_grad()


def check_settings(lr, betas, eps, weight_decay) -> None:
    """Raises UserError for settings with which no step can be right."""
    if not (math.isfinite(lr) and lr >= 0):
        raise UserError(f"learning rate is {lr}: it must be a finite number of at least 0")
    if not isinstance(betas, (tuple, list)):
        raise UserError(f"betas is {betas!r}: give two numbers, as (0.9, 0.99)")
    for index, beta in enumerate(betas, start=1):
        check_beta(f"beta{index}", beta)
    if not eps > 0:
        raise UserError(f"eps is {eps}: it must be above 0")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise UserError(f"weight decay is {weight_decay}: it must be a finite number of at least 0")


def check_beta(name: str, beta) -> None:
    """Raises UserError for a share of a running mean that is not in [0, 1)."""
    if not 0 <= beta < 1:
        raise UserError(f"{name} is {beta}: it must be at least 0 and below 1")


def check_parameters(parameters, optimizer: str) -> None:
    """Raises UserError, by name, for what an optimizer cannot be made from."""
    if not isinstance(parameters, Mapping):
        raise UserError(
            f"{optimizer} takes a dict, name -> Parameter, as model.parameters() gives it, not a {type(parameters).__name__}"
        )
    names: dict[int, str] = {}
    for name, parameter in parameters.items():
        if not isinstance(parameter, Parameter):
            raise UserError(
                f"{name} is a {type(parameter).__name__}, not a minillm.Parameter: {optimizer} cannot train it"
            )
        if id(parameter) in names:
            raise UserError(
                f"{names[id(parameter)]} and {name} are one Parameter, which would be changed twice: leave one out"
            )
        names[id(parameter)] = name
        _check_writable(name, parameter.value)
    if conflict := memory_conflict({name: parameter.value for name, parameter in parameters.items()}):
        raise UserError(conflict)


def check_gradients(parameters: dict[str, Parameter]) -> None:
    """Raises RuntimeError for parameters without a gradient, UserError for gradients and values
    that do not fit, by name.
    """
    missing = [name for name, parameter in parameters.items() if parameter.grad is None]
    if frozen := [name for name in missing if parameters[name].frozen]:
        raise RuntimeError(
            f"no gradient for {_listed(frozen)}, which {'are' if frozen[1:] else 'is'} frozen: make the optimizer from those "
            "parameters that learn (model.trainable_parameters())"
        )
    if missing and len(missing) == len(parameters):
        raise RuntimeError(f"no gradient for {_listed(missing)}: call backward() before step() (no parameter has one)")
    if missing:
        raise RuntimeError(
            f"no gradient for {_listed(missing)}: call backward() before step(), and leave out parameters that the loss does "
            "not depend on"
        )
    for name, parameter in parameters.items():
        value, grad = parameter.peek(), parameter.grad
        if grad.shape != value.shape:
            raise UserError(f"the gradient of {name} has shape {grad.shape}, its weight {value.shape}")
        if grad.dtype != value.dtype:
            raise UserError(
                f"the gradient of {name} is {grad.dtype}, its weight {value.dtype}: some layer above computes in {grad.dtype}"
            )
        _check_writable(name, value)


def _round_operands(parameters: dict[str, Parameter]) -> None:
    """Write the copies for products that a step has left behind, in one launch.

    Without kernels each is written when it is next used.
    """
    stale = [parameter for parameter in parameters.values() if parameter.is_operand_stale()]
    found = [(parameter, parameter.operand_to_write()) for parameter in stale]
    found = [(parameter, copy) for parameter, copy in found if copy is not None]
    kernel = kernel_for("adamw", found[0][0].peek()) if found else None
    if kernel is not None:
        kernel.round_to_bfloat16([contiguous(p.peek()) for p, _ in found], [copy for _, copy in found])
        for parameter, copy in found:
            parameter.operand_written(copy)


def _one_by_one(function, items) -> None:
    for item in items:
        function(item)


def _check_writable(name: str, value) -> None:
    if isinstance(value, StoredWeight):
        raise UserError(
            f"{name} stays as its file holds it and cannot learn: open the model with float32 weights, or make the optimizer "
            "from model.trainable_parameters()"
        )
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        raise UserError(f"{name} is read-only, and a step has to change it: give its Parameter a copy of the array")


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _zeros_like(array):
    if device_of(array) == "cpu":  # memory comes when it is first written to: of a rank's own part only
        return np.zeros(array.shape, array.dtype)
    return array_module(array).zeros_like(array, order="C")
