"""AdamW: each weight takes steps of about lr, in the direction that its recent gradients agree on.

Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), algorithm 2; the moments are those of
Kingma, Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), algorithm 1. With g the gradient at step t = 1, 2, ...:

    m = b1 m + (1 - b1) g                        mean of the gradient, over about 1 / (1 - b1) steps
    v = b2 v + (1 - b2) g^2                      mean of its square
    m^ = m / (1 - b1^t),  v^ = v / (1 - b2^t)    both began at 0: the early means are scaled up to be unbiased
    w = w - lr (m^ / (sqrt(v^) + eps) + decay w)

(lr here is the paper's schedule times its alpha, and the decay is multiplied by it as well, as PyTorch does.) Both terms
use the w of before the step, in the order of algorithm 2, line 12. `Adam`, in adam.py, puts the decay into g instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from minillm.backend.arrays import array_module, contiguous
from minillm.errors import UserError
from minillm.kernels import kernel_for
from minillm.layers.layer import Parameter, memory_conflict

BLOCK = 1 << 16  # elements updated at a time: value, gradient, moments and scratch then fit a core's L2 cache


class AdamW:
    """Decoupled weight decay, applied to tensors of two or more dimensions only (not to biases and norms).

    parameters: name -> Parameter, as `model.parameters()` gives them, in any memory layout. `lr` may be set before every step
    (schedules.py). Moments are kept by name in `first_moments` and `second_moments`. Raises UserError for impossible settings,
    and for parameters that cannot be changed one by one: read-only ones, and such that share memory.
    """

    decoupled = True

    def __init__(self, parameters: dict[str, Parameter], lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        check_settings(lr, betas, eps, weight_decay)
        check_parameters(parameters, type(self).__name__)
        self.parameters = parameters
        self.lr, self.betas, self.eps, self.weight_decay = lr, tuple(betas), eps, weight_decay
        self.step_count = 0
        self.first_moments = {name: _zeros_like(p.value) for name, p in parameters.items()}
        self.second_moments = {name: _zeros_like(p.value) for name, p in parameters.items()}

    def step(self, gradient_scale=1.0) -> None:
        """Update every parameter from its gradient times `gradient_scale`, a number or 0-d (which clips: see clipping.py).

        Raises RuntimeError, before anything is changed, if a parameter has no gradient, and UserError if one is of
        another dtype or shape than its parameter, or the parameter is read-only.
        """
        check_gradients(self.parameters)
        self.step_count += 1
        kernel = kernel_for("adamw", next(iter(self.parameters.values())).value) if self.parameters else None
        if kernel is not None:
            self._step_at_once(kernel, gradient_scale)
            return
        for name, parameter in self.parameters.items():
            self._update(
                parameter.value,
                parameter.grad,
                self.first_moments[name],
                self.second_moments[name],
                gradient_scale,
                self._weight_decay(parameter),
            )

    def _step_at_once(self, kernel, gradient_scale) -> None:
        """All tensors in one launch, on the device. The kernel takes arrays in C order: others are copied, and written back."""
        parameters = list(self.parameters.values())
        values = [contiguous(parameter.value) for parameter in parameters]
        kernel.adamw_update(
            values,
            [contiguous(parameter.grad) for parameter in parameters],
            list(self.first_moments.values()),
            list(self.second_moments.values()),
            self.lr,
            self.betas,
            self.eps,
            [self._weight_decay(parameter) for parameter in parameters],
            self.step_count,
            gradient_scale,
            self.decoupled,
        )
        for parameter, value in zip(parameters, values):
            if value is not parameter.value:
                parameter.value[...] = value

    def _weight_decay(self, parameter: Parameter) -> float:
        return self.weight_decay if parameter.value.ndim >= 2 else 0.0

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.zero_grad()

    def _update(self, value, gradient, m, v, gradient_scale, weight_decay):
        """One tensor, in blocks: all arrays of the same shape, value, m and v are written over.

        An array that is not in C order, such as a transposed one, is updated as a copy, which is written back.
        """
        xp, written = array_module(value), (value, m, v)
        w, g, m, v = (contiguous(array).reshape(-1) for array in (value, gradient, m, v))
        block = BLOCK if xp is np else w.size
        scratch = xp.empty((2, min(block, w.size)), dtype=w.dtype)
        for start in range(0, w.size, block):
            part = slice(start, start + block)
            self._update_block(xp, w[part], g[part], m[part], v[part], scratch, gradient_scale, weight_decay)
        for array, updated in zip(written, (w, m, v)):
            if not array.flags.c_contiguous:
                array[...] = updated.reshape(array.shape)

    def _update_block(self, xp, w, g, m, v, scratch, gradient_scale, weight_decay):
        b1, b2 = self.betas
        correction1 = 1 - b1**self.step_count
        correction2 = 1 - b2**self.step_count
        g_scaled, term = scratch[0, : w.size], scratch[1, : w.size]
        # g = gradient * gradient_scale, plus decay * w where the decay is not decoupled (Adam)
        xp.multiply(g, gradient_scale, out=g_scaled)
        if weight_decay and not self.decoupled:
            g_scaled += xp.multiply(w, weight_decay, out=term)
        # v = b2 v + (1 - b2) g^2
        v *= b2
        xp.multiply(g_scaled, g_scaled, out=term)
        term *= 1 - b2
        v += term
        # m = b1 m + (1 - b1) g
        m *= b1
        g_scaled *= 1 - b1
        m += g_scaled
        # w = w - lr (m^ / (sqrt(v^) + eps) + decay w)
        xp.sqrt(v, out=term)
        term *= 1 / math.sqrt(correction2)
        term += self.eps
        xp.divide(m, term, out=term)
        term *= self.lr / correction1
        if weight_decay and self.decoupled:
            w *= 1 - self.lr * weight_decay
        w -= term


def check_settings(lr, betas, eps, weight_decay) -> None:
    """Raises UserError for settings with which no step can be right."""
    if not (math.isfinite(lr) and lr >= 0):
        raise UserError(f"learning rate is {lr}: it must be a finite number of at least 0")
    for index, beta in enumerate(betas, start=1):
        if not 0 <= beta < 1:
            raise UserError(f"beta{index} is {beta}: it must be at least 0 and below 1")
    if not eps > 0:
        raise UserError(f"eps is {eps}: it must be above 0")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise UserError(f"weight decay is {weight_decay}: it must be a finite number of at least 0")


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
    """Raises RuntimeError for parameters without a gradient, UserError for gradients and values that do not fit, by name."""
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
        value, grad = parameter.value, parameter.grad
        if grad.shape != value.shape:
            raise UserError(f"the gradient of {name} has shape {grad.shape}, its weight {value.shape}")
        if grad.dtype != value.dtype:
            raise UserError(
                f"the gradient of {name} is {grad.dtype}, its weight {value.dtype}: some layer above computes in {grad.dtype}"
            )
        _check_writable(name, value)


def _check_writable(name: str, value) -> None:
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        raise UserError(f"{name} is read-only, and a step has to change it: give its Parameter a copy of the array")


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def _zeros_like(array):
    return array_module(array).zeros_like(array, order="C")
