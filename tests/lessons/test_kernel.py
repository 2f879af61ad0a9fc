import platform

import numpy as np
import pytest

from minillm.backend.arrays import to_device
from minillm.errors import UserError
from minillm.kernels.attention import flash, tiled
from minillm.kernels.simulator import CompilerMissing, compiler_available
from minillm.lessons import find_lesson, kernel

simulated = pytest.mark.skipif(
    platform.system() != "Linux" or not compiler_available(), reason="no simulator: it needs Linux and g++"
)


@simulated
@pytest.mark.parametrize("time", [64, 128])
def test_bytes_kept_are_those_of_the_arrays(time):
    output = 4 * time * kernel.WIDTH
    assert kernel.count("naive", time).held == output + 4 * time * time  # and P
    assert kernel.count("flash", time).held == output + 4 * time  # and L


@simulated
def test_bytes_moved_are_those_of_the_formulas():
    time, width = 64, kernel.WIDTH
    naive, flash_count = kernel.count("naive", time), kernel.count("flash", time)
    pairs = time * (time + 1) / 2
    # S: 64 threads ask for a number of k each, 32 bytes for 4 that are wanted, and share one of q; then S is written
    assert naive.parts["matmul_abt"] == pytest.approx(pairs * width * 33 + 4 * time * time, rel=0.05)
    # P: S is read three times and written twice
    assert naive.parts["softmax_forward"] == 20 * time * time
    assert naive.moved == sum(naive.parts.values())
    assert naive.written == pytest.approx(2 * 4 * time * time + 4 * time * time + 4 * time * width, rel=0.05)
    assert flash_count.moved == pytest.approx(kernel.expected_of_flash(time), rel=0.02)
    # y, and of each row's L a sector of its own
    assert flash_count.written == 4 * time * width + 4 * time * 4


@simulated
def test_the_count_of_what_is_kept_leaves_out_what_is_dropped_and_what_was_there():
    before = np.ones(1000, np.float32)
    held, result = kernel.held_after(lambda: (np.ones(500, np.float32), before, np.ones(2000, np.float32).sum()))
    assert held == 2000 and result[1] is before


@pytest.fixture(scope="module")
def measured():
    return kernel.LESSON.measure()


@simulated
def test_what_the_lesson_claims(measured):
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["naive: moved grows"] == pytest.approx(4, rel=0.03)
    assert 2 < figures["flash: moved grows"] < figures["tiled: moved grows"] < 4
    assert figures["flash: written grows"] == figures["flash: held grows"] == 2
    assert figures["naive: held grows"] > 3.5 and figures["naive: written grows"] > 3.5
    assert figures["times fewer"] > 200 > 100 > figures["times fewer, shortest"] > 50
    assert figures["naive: moved"] > figures["tiled: moved"] > figures["flash: moved"]
    assert max(figures[f"{rung}: error"] for rung in kernel.RUNGS) < 1e-6


@simulated
def test_the_lesson_notices_a_flash_kernel_that_keeps_the_matrix(monkeypatch):
    monkeypatch.setattr(flash, "attention_forward", tiled.attention_forward)
    monkeypatch.setattr(kernel, "TIMES", (64, 128))
    assert [finding.holds for finding in kernel.measure().findings][2:] == [False, False, False]


@simulated
def test_the_lesson_notices_a_wrong_result(monkeypatch):
    right = flash.attention_forward

    def halved(q, k, v):
        y, saved = right(q, k, v)
        return to_device(y / 2, "cudasim"), saved

    monkeypatch.setattr(flash, "attention_forward", halved)
    monkeypatch.setattr(kernel, "TIMES", (64, 128))
    assert not kernel.measure().findings[0].holds


def test_elsewhere_than_on_linux_the_lesson_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    number, lesson = find_lesson("kernel")
    assert number == 11
    with pytest.raises(UserError, match="needs Linux and g\\+\\+") as raised:
        lesson.measure()
    assert "\n" not in str(raised.value)


def test_without_a_compiler_the_lesson_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(kernel, "compiler_available", lambda: False)
    with pytest.raises(CompilerMissing, match="apt install g\\+\\+"):
        kernel.LESSON.measure()
