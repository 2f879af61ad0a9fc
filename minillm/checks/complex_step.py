"""The complex step: a derivative without a difference.

    f(x + ih) = f(x) + ih f'(x) - h^2 f''(x) / 2 - ...        so  Im f(x + ih) / h = f'(x) + O(h^2)

Source: Squire, Trapp, "Using complex variables to estimate derivatives of real functions", SIAM
Review 40, 1998. A finite difference subtracts two numbers that are nearly equal, and loses the
digits in which they agree. Here nothing is subtracted: h can be so small that h^2 vanishes beside 1
in every digit, and the derivative has the digits of forward itself.

It holds where forward is analytic. exp, tanh, sqrt, products, sums and quotients are; NumPy
computes them for complex numbers as for real ones. max and comparisons of complex numbers go by
their real parts first, so that they choose what they choose for real numbers, and the step holds
beside them. It does not hold where the imaginary part is lost: abs, real, conj, a cast to real
numbers. Some of these raise an error, some are silent. So each tensor is tried in one random
direction by finite differences, too: where the two do not agree, the complex step has no say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks.differences import ROUNDING, extrapolated, guarded, power_of_two

STEP = 1e-30
TOLERANCE = 1e-11
ALONG = 1e-6  # how exactly the derivative along a direction has to be that of finite differences
# What forwards raise that do not take complex numbers.
NOT_TAKEN = (TypeError, ValueError, NotImplementedError, np.exceptions.ComplexWarning)


class NotAnalytic(Exception):
    """The complex step does not hold for this forward; the message says why."""


def complex_gradient(loss: Callable[[], complex], array: np.ndarray) -> np.ndarray:
    """The gradient of `loss` with respect to a complex array whose imaginary parts are 0, which is
    changed element by element and restored: float64, of its shape.

    Raises NotAnalytic where forward does not take complex numbers, or gives real ones.
    """
    gradient, flat = np.empty(array.size), array.flat
    for index in range(array.size):
        value = flat[index]
        flat[index] = value + 1j * STEP
        try:
            gradient[index] = _imaginary(loss) / STEP
        finally:
            flat[index] = value
    return gradient.reshape(array.shape)


def check_along(loss: Callable[[], float], array: np.ndarray, gradient: np.ndarray, magnitude: float) -> None:
    """Raises NotAnalytic unless `gradient` is that of `loss` along a random direction, by finite
    differences.

    array: float64, changed and restored. magnitude: of the terms that the loss adds up.
    """
    direction = stream("complex step", array.size).normal(array.shape)
    before = array.copy()

    def f(t: float) -> float:
        array[...] = before + t * direction
        try:
            return loss()
        finally:
            array[...] = before

    size = power_of_two(float(np.sqrt(np.mean(np.square(before)))))
    measured, uncertainty = extrapolated(guarded(f), size, ROUNDING * magnitude)
    along = float(np.sum(gradient * direction))
    allowed = ALONG * float(np.linalg.norm(gradient) * np.linalg.norm(direction))
    if not abs(along - measured) <= allowed + uncertainty:
        raise NotAnalytic(
            f"forward loses imaginary parts, as abs() does: along a random direction the complex step gives {along:.6g}, "
            f"finite differences {measured:.6g}"
        )


def _imaginary(loss) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            value = loss()
        except NOT_TAKEN as error:
            raise NotAnalytic(f"forward does not take complex numbers ({type(error).__name__}: {error})") from None
    if not np.iscomplexobj(value):
        raise NotAnalytic("forward gives real numbers of complex ones")
    return float(np.imag(value))
