"""Faults on purpose: a module with one place of its source changed, to see that the checks notice."""

from __future__ import annotations

import inspect
import types

import pytest

from minillm.checks.gradcheck import CannotTell, GradientError, gradcheck


def planted(module, right: str, wrong: str):
    """A copy of `module` in which the source text `right`, which must occur exactly once, reads `wrong`."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times in {module.__name__}"
    faulty = types.ModuleType(module.__name__)
    faulty.__file__ = module.__file__
    exec(compile(source.replace(right, wrong), f"{module.__file__} with a fault", "exec"), faulty.__dict__)
    return faulty


def assert_caught(module, right: str, wrong: str, subject, *inputs, **settings) -> None:
    """The gradient check passes with the module as it is, and fails with the fault.

    subject: a function of a module, which makes the layer or pair of functions to be checked from it.
    """
    gradcheck(subject(module), *inputs, **settings)
    with pytest.raises(GradientError) as caught:
        gradcheck(subject(planted(module, right, wrong)), *inputs, **settings)
    assert not isinstance(caught.value, CannotTell), caught.value


def assert_close(actual, expected, tolerance=1e-12) -> None:
    """Norm-wise relative error at most `tolerance`, shapes equal."""
    import numpy as np

    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = np.linalg.norm(expected.ravel()) or 1.0
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # memory that nobody wrote may hold anything: then it is not close
        difference = np.linalg.norm((actual - expected).ravel())
    assert difference <= tolerance * scale
