"""Faults on purpose: a module with one place of its source changed, to see that the checks notice."""

from __future__ import annotations

import inspect
import types

import numpy as np
import pytest

from minillm.checks.cases import Case, check_gradients
from minillm.checks.gradcheck import TOLERANCE, CannotTell, GradientError, gradcheck


def planted(module, right: str, wrong: str):
    """A copy of `module` in which the source text `right`, which must occur exactly once, reads
    `wrong`.
    """
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times in {module.__name__}"
    faulty = types.ModuleType(module.__name__)
    faulty.__file__ = module.__file__
    exec(compile(source.replace(right, wrong), f"{module.__file__} with a fault", "exec"), faulty.__dict__)
    return faulty


def assert_gradients(case: Case, problem) -> None:
    """Every gradient agrees with finite differences to 1e-6."""
    report = check_gradients(case, problem)
    assert report.rows and report.worst.error <= TOLERANCE == 1e-6, str(report)


def assert_gradcheck_catches(case: Case, right: str, wrong: str, problems=None) -> None:
    """With the fault in the module of the case, the gradients of one of its problems are found to
    be wrong.

    problems: those to try, by default all of the case.
    """
    faulty = planted(case.module, right, wrong)
    for problem in problems or case.gradcheck:
        try:
            check_gradients(case, problem, faulty)
        except CannotTell:
            raise
        except GradientError:
            return
    pytest.fail(f"{case.name}: no check notices {wrong!r} in place of {right!r}")


def assert_caught(module, right: str, wrong: str, subject, *inputs, **settings) -> None:
    """The gradient check passes with the module as it is, and fails with the fault: for what is no
    problem of a case.

    subject: a function of a module, which makes the layer or pair of functions to be checked from
    it.
    """
    settings = {"intermediates": False} | settings
    gradcheck(subject(module), *inputs, **settings)
    with pytest.raises(GradientError) as caught:
        gradcheck(subject(planted(module, right, wrong)), *inputs, **settings)
    assert not isinstance(caught.value, CannotTell), caught.value


def assert_close(actual, expected, tolerance=1e-12) -> None:
    """Norm-wise relative error at most `tolerance`, shapes equal."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = np.linalg.norm(expected.ravel()) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):  # uninitialised memory may hold anything: then it is not close
        difference = np.linalg.norm((actual - expected).ravel())
    assert difference <= tolerance * scale
