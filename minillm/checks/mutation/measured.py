"""A gradient check whose measurements are kept: made once, for any number of backward functions.

Finite differences are of forward alone. A fault in backward does not change them. So a number is
measured once, when the first mutant gives another gradient for it than the module itself does, and
each mutant costs what it costs to run it: one forward and one backward, and both once more for the
contract (subjects.py). The verdict is that of gradcheck, by the same code, on the same numbers.
Numbers of which a mutant gives the module's own gradient have the module's own verdict: `confirm`
measures them all.
"""

from __future__ import annotations

import types
from collections.abc import Callable

import numpy as np

from minillm.checks.gradcheck import STEP, GradientError, weights_of
from minillm.checks.measurement import Measurement, Row
from minillm.checks.subjects import SAME, ContractError, subject_of
from minillm.checks.verdicts import PASSED, TOLERANCE, WRONG, relative_errors

# module -> (a layer, a model or a pair of functions; its inputs by name; the random key or None)
Maker = Callable[[types.ModuleType], tuple[object, dict, object]]


class ForwardChanged(AssertionError):
    """Forward gives other results than the module's own: the fault is not in backward alone."""


class Measured:
    """A problem, measured with the functions of `module`.

    make: what takes the layer, or the pair of functions, from a copy of the module. It makes new
    ones in each call. name: of the subject in messages.

    Raises ContractError where the module itself breaks the contract.
    """

    def __init__(self, make: Maker, module: types.ModuleType, name: str):
        self._make, self.name = make, name
        self._subject, self._outputs = self._subject_of(module), []
        with self._subject.in_training(), np.errstate(all="ignore"):
            self._weights, self._gradients = self._subject.examine(self._keep_outputs)
            self._measurement = _Kept(self._subject, self._weights, self._gradients)

    def confirm(self) -> None:
        """Measure every number. Raises GradientError where the module itself does not pass."""
        self._measurement.own = {tensor: np.full_like(array, np.nan) for tensor, array in self._gradients.items()}
        try:
            self._judge(self._gradients)
        finally:
            self._measurement.own = self._gradients

    def check(self, module: types.ModuleType) -> None:
        """Raises GradientError if a gradient of a copy of the module is wrong, or cannot be told to
        be right, or if the contract is broken; ForwardChanged if forward is another one; and what
        the functions raise.
        """
        changed = self._subject_of(module)
        with changed.in_training(), np.errstate(all="ignore"):
            _, gradients = changed.examine(self._compare_outputs)
        self._judge(gradients)

    def _subject_of(self, module):
        subject, inputs, rng_key = self._make(module)
        return subject_of(subject, tuple(inputs.values()), rng_key, self.name, tuple(inputs))

    def _keep_outputs(self, outputs: list[np.ndarray]) -> list[np.ndarray]:
        self._outputs = [output.copy() for output in outputs]
        return weights_of(self.name, outputs)

    def _compare_outputs(self, outputs: list[np.ndarray]) -> list[np.ndarray]:
        same = len(outputs) == len(self._outputs) and all(
            one.shape == other.shape and np.allclose(one, other, rtol=1e-12, atol=0, equal_nan=True)
            for one, other in zip(outputs, self._outputs)
        )
        if not same:
            raise ForwardChanged(f"{self.name}: forward gives other results")
        return self._weights

    def _judge(self, gradients: dict[str, np.ndarray]) -> None:
        with self._subject.in_training(), np.errstate(all="ignore"):
            for tensor, array in self._subject.tensors.items():
                if tensor not in gradients:
                    raise ContractError(f"{self.name}: {tensor} is no longer a parameter")
                row = self._measurement.row(tensor, array, gradients[tensor])
                if row.verdict != PASSED:
                    what = "is wrong" if row.verdict == WRONG else row.verdict
                    raise GradientError(
                        f"{self.name}: the gradient of {tensor} {what} at {row.where}: {row.analytic:.6g} in place of "
                        f"{row.numeric:.6g}"
                    )


class _Kept(Measurement):
    """A Measurement of those numbers alone of which a gradient differs from `own`, the module's,
    and which evaluates forward once for each change of a number.
    """

    def __init__(self, subject, weights, own: dict[str, np.ndarray]):
        super().__init__(subject, weights, TOLERANCE, STEP, lambda *progress: None)
        self.own = own
        self._functions_of: dict[str, list[_Remembering]] = {}
        self._measured: dict[str, set[int]] = {tensor: set() for tensor in own}
        self._wanted: list[int] = []

    def row(self, tensor, array, gradient):
        """As gradcheck's, but the numbers that differ most come first, and one that is wrong is
        enough.
        """
        error = relative_errors(gradient.reshape(-1), self.own[tensor].reshape(-1))
        differ = np.flatnonzero(~(error <= SAME))
        known = np.array([index in self._measured[tensor] for index in differ], dtype=bool)
        order = differ[np.lexsort((-error[differ], ~known))]
        row = Row(tensor, array.shape, 0.0, (), np.nan, np.nan)
        for count in (1, 8, len(order)):
            self._wanted = [int(index) for index in order[:count]]
            if row.verdict == PASSED and len(order):
                row = super().row(tensor, array, gradient)
        return row

    def functions(self, tensor, array):
        if tensor not in self._functions_of:
            self._functions_of[tensor] = [_Remembering(function) for function in super().functions(tensor, array)]
        return self._functions_of[tensor]

    def values(self, tensor, functions, indices, steps):
        """Measured where it is wanted; elsewhere those of a straight line of the module's slope."""
        measured = self._measured[tensor]
        measured.update(self._wanted)
        values = self._at + self.own[tensor].reshape(-1, 1)[indices] * steps
        for row, index in enumerate(indices):
            if index in measured:
                values[row] = [functions[index](step) for step in steps]
        return values

    def in_order(self, tensor, doubtful):
        return np.array([index for index in doubtful if index in self._wanted], dtype=int)


class _Remembering:
    """A function of one number that is evaluated once for each."""

    def __init__(self, function: Callable[[float], float]):
        self._function, self.known = function, {}

    def __call__(self, t: float) -> float:
        if t not in self.known:
            self.known[t] = self._function(t)
        return self.known[t]
