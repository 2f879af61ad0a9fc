"""Embedding: gradients, formula, every implementation, and the faults that these tests notice."""

import numpy as np
import pytest
from kernel_testing import (
    assert_check_mode_reports_nothing,
    assert_kernel_agrees,
    assert_kernel_agrees_in_bfloat16,
    assert_kernel_fault_is_noticed,
    assert_numpy_agrees_in_bfloat16,
    assert_numpy_agrees_in_float32,
)
from planting import assert_close, assert_gradcheck_catches, assert_gradients, planted

from minillm.backend.arrays import to_device, to_host
from minillm.backend.random_streams import stream
from minillm.checks.cases import EMBEDDING, array
from minillm.kernels import embedding as kernel
from minillm.layers import embedding
from minillm.layers.embedding import embedding_backward, embedding_forward

IDS = np.array([[2, 0, 2, 4], [2, 2, 1, 0]])

FAULTS = {
    "of a repeated id one row counts": ("np.add.reduceat(dy_rows[order], starts, axis=0)", "dy_rows[order][starts]"),
    "rows and ids in different orders": ("dy_rows[order], starts", "dy_rows, starts"),
}

FORMULA_FAULTS = {
    "the gradient of a tied head is overwritten": (
        "dweight[sorted_ids[starts]] += np", "dweight[sorted_ids[starts]] = np"),
}  # fmt: skip

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "runs that cross windows added without order": ("if (began_before || goes_on)", "if (false)", "check"),
    "a run's last part is lost": ("sum += partials[2 * next * width + c];", "", "numbers"),
}


@pytest.mark.parametrize("problem", EMBEDDING.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(EMBEDDING, problem)


def test_the_gradients_are_checked_for_repeated_and_for_missing_ids():
    ids, counts = np.unique(EMBEDDING.make(EMBEDDING.gradcheck[0]).ids, return_counts=True)
    assert counts.max() > 2 and len(ids) < 5


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(EMBEDDING, *FAULTS[fault])


@pytest.mark.parametrize("fault", FORMULA_FAULTS)
def test_gradient_is_added_to_that_of_a_tied_head(fault):
    dy, present = array("dy", 2, 4, 3), array("present", 5, 3)
    saved = embedding_forward(IDS, present)[1]
    expected = present + embedding_backward(dy, saved)
    assert_close(embedding_backward(dy, saved, present.copy()), expected)
    faulty = planted(embedding, *FORMULA_FAULTS[fault])
    assert not np.allclose(faulty.embedding_backward(dy, saved, present.copy()), expected)


@pytest.mark.parametrize("vocabulary, tokens", [(1, 1), (1, 9), (65, 300), (1000, 7)])
def test_is_the_formula(vocabulary, tokens):
    ids = stream("test", vocabulary, tokens).integers(vocabulary, tokens)
    weight, dy = array("w", vocabulary, 3), array("dy", tokens, 3)
    y, saved = embedding_forward(ids, weight)
    assert_close(y, np.array([weight[i] for i in ids]))
    expected = np.zeros_like(weight)
    for n, i in enumerate(ids):
        expected[i] += dy[n]
    assert_close(embedding_backward(dy, saved), expected)


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(EMBEDDING)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(EMBEDDING)


@pytest.mark.parametrize("problem", EMBEDDING.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(EMBEDDING, problem, device)


@pytest.mark.parametrize("problem", EMBEDDING.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(EMBEDDING, problem, device)


def test_an_id_outside_of_the_table_gives_nan_and_no_gradient(device):
    ids, weight = to_device(np.array([0, 2, -1]), device), to_device(np.ones((2, 3), np.float32), device)
    y, saved = kernel.embedding_forward(ids, weight)
    np.testing.assert_array_equal(np.isnan(to_host(y)).all(axis=1), [False, True, True])
    dweight = kernel.embedding_backward(to_device(np.ones((3, 3), np.float32), device), saved)
    np.testing.assert_array_equal(to_host(dweight), [[1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize("problem", EMBEDDING.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(EMBEDDING, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(EMBEDDING, KERNEL_FAULTS[fault], monkeypatch)
