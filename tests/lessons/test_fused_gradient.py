import numpy as np
import pytest
from planting import assert_close, planted

from minillm.backend.threads import blas_threads
from minillm.lessons import fused_gradient
from minillm.lessons.fused_gradient import FORMATS, WAYS, breaks_at, errors_at, memory_of, row_with


def logits_and_targets(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (5, 11)), rng.integers(0, 11, 5)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_softmax_minus_one_hot(way):
    z, targets = logits_and_targets()
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    loss, gradient = WAYS[way](z.copy(), targets)
    assert loss == pytest.approx(-np.log(p[np.arange(5), targets]).mean(), rel=1e-12)
    assert_close(gradient, (p - np.eye(11)[targets]) / 5)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dlog_p[rows, targets] = -1 / len(z)", "dlog_p[rows, targets] = -1"),
        ("dp = dlog_p / p", "dp = dlog_p"),
        ("return loss, softmax_backward(dp, saved)", "return loss, p * dp"),
    ],
)
def test_that_comparison_notices(right, wrong):
    z, targets = logits_and_targets()
    _, expected = fused_gradient.fused(z.copy(), targets)
    _, gradient = planted(fused_gradient, right, wrong).unfused(z, targets)
    with pytest.raises(AssertionError):
        assert_close(gradient, expected)


@pytest.mark.parametrize("loss, level", [(0.5, 0), (3, 90), (1000, -5)])
def test_a_row_has_the_loss_and_the_level_that_were_asked_for(loss, level):
    z = row_with(loss, level)
    log_sum_exp = z.max() + np.log(np.exp(z - z.max()).sum())
    assert log_sum_exp == pytest.approx(level, abs=1e-9)
    assert log_sum_exp - z[0, 0] == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("dtype", FORMATS)
def test_unfused_breaks_where_one_over_p_overflows(dtype):
    limit = float(np.log(float(np.finfo(dtype).max)))
    with np.errstate(all="ignore"):
        assert breaks_at(lambda loss: errors_at(loss, 0, dtype)["unfused"], dtype) == pytest.approx(limit, abs=0.02)
        below, above = errors_at(limit - 0.05, 0, dtype), errors_at(limit + 0.05, 0, dtype)
    assert below["unfused"] < 2 * np.finfo(dtype).eps
    assert np.isnan(above["unfused"]) and above["fused"] < 2 * np.finfo(dtype).eps


def test_memory_counts_arrays_of_the_logits_size():
    assert memory_of(lambda z, targets: z + 1) == pytest.approx(1, abs=0.01)
    assert memory_of(lambda z, targets: [z + 1, z + 2, z + 3]) == pytest.approx(3, abs=0.01)


def test_what_the_lesson_claims():
    with blas_threads(1):
        measured = fused_gradient.LESSON.measure()
    assert measured.holds, measured.findings
    figures = measured.figures
    for dtype, limit in {"float16": 11.09, "float32": 88.72, "float64": 709.78}.items():
        assert figures[f"breaks in {dtype}"] == pytest.approx(limit, abs=0.02)
    assert figures["textbook overflows"] == pytest.approx(88.72, abs=0.02)
    assert figures["example difference"] < 1e-6 and abs(figures["example sum"]) < 1e-6
    assert figures["worst fused"] < 1.2e-7 and figures["worst unfused"] < 1.2e-7
    assert figures["memory, fused"] < 0.1 and figures["memory, unfused"] == pytest.approx(5, abs=0.5)
    assert figures["loss error at 103, unfused"] > 0.1


def test_the_lesson_notices_a_fused_way_that_divides(monkeypatch):
    monkeypatch.setitem(WAYS, "fused", fused_gradient.unfused)
    with blas_threads(1):
        holds = [finding.holds for finding in fused_gradient.measure().findings]
    assert not any(holds[index] for index in (0, 3, 4, 5))
