"""The cases: what each of them has to have, so that every command and every test finds it."""

import re
from pathlib import Path

import pytest
from planting import assert_gradients

import minillm
from minillm.checks.agreement import agreement, reference_results, relative_error
from minillm.checks.case import Kernel, at
from minillm.checks.cases import ATTENTION, CASES, GRADCHECKED, KERNELS, LAYER_NORM, SELF_ATTENTION
from minillm.checks.cases_paths import PATHS


def test_every_file_with_gradients_has_a_check():
    folder = Path(minillm.__file__).parent / "layers"
    written = {
        path.stem
        for path in folder.glob("*.py")
        if re.search(r"^def \w+_backward\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(written) > 12 and written <= set(GRADCHECKED)


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
    labels = [case.label(problem) for case in CASES for problem in case.gradcheck]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", KERNELS)
def test_a_case_with_a_kernel_can_be_simulated(name):
    case, kernel = KERNELS[name]
    assert len(case.simulate) == len(case.dimensions) and case.make(case.sized(case.simulate))
    assert kernel.summary and len(kernel.summary) <= 58  # beside the name, in 80 columns
    assert (
        case.kernels or case is ATTENTION
    )  # whose kernels have problems of their own: tests/kernels/test_attention.py


@pytest.mark.parametrize(
    "case, problem", [(case, p) for case in (ATTENTION, SELF_ATTENTION) for p in case.gradcheck], ids=str
)
def test_gradients_of_attention(case, problem):
    assert_gradients(case, problem)


@pytest.mark.parametrize(
    "case, problem",
    [
        pytest.param(case, p, marks=pytest.mark.slow if "models" in case.home else ())
        for case in PATHS
        for p in case.gradcheck
    ],
    ids=str,
)
def test_gradients_of_further_paths(case, problem):
    assert_gradients(case, problem)


def test_a_wrong_result_does_not_agree():
    problem, kernel = at(3, 5), Kernel("faulty", "", "")
    expected = reference_results(LAYER_NORM, problem)
    forward, backward = ({name: x.copy() for name, x in part.items()} for part in expected)
    assert agreement((forward, backward), expected, kernel).agrees
    backward["dx"] *= 1 + 2e-4
    found = agreement((forward, backward), expected, kernel)
    assert not found.agrees and found.worst == pytest.approx(2)
    del backward["dx"]
    with pytest.raises(ValueError, match="faulty returns dweight, dbias, NumPy dx, dweight, dbias"):
        agreement((forward, backward), expected, kernel)
    assert relative_error(expected[0]["y"] * float("nan"), expected[0]["y"]) == float("inf")
    with pytest.raises(ValueError, match="a result has shape"):
        relative_error(expected[0]["y"][0], expected[0]["y"])
