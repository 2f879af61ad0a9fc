"""Stars and the report, for counts beside those of the best known solution."""

import pytest

from minillm.checks.exercises.verdict import Verdict
from minillm.kernels.exercises.registry import exercise
from minillm.kernels.exercises.task import Counts

BEST = Counts(100, 50, 200)


def verdict(*counts):
    return Verdict(exercise("scan"), "scan.cu", 1, ["n 1"], "n 9", measured="n 9", counts=Counts(*counts), best=BEST)


@pytest.mark.parametrize(
    "counts, stars",
    [((100, 50, 200), 3), ((110, 55, 220), 3), ((111, 50, 200), 2), ((200, 100, 400), 2), ((100, 50, 401), 1)],
)
def test_the_worst_count_decides(counts, stars):
    assert verdict(*counts).stars == stars


def test_marks_of_what_costs_stars():
    rows = verdict(150, 101, 200).text().splitlines()
    assert [row[0] for row in rows if row[2:].startswith(Counts._fields)] == ["+", "!", " "]
    assert max(map(len, rows)) <= 80


def test_a_solution_that_is_better_is_called_so():
    assert "better than the best known" in verdict(100, 50, 150).text()
    assert "better than" not in verdict(100, 50, 200).text() + verdict(150, 50, 150).text()


def test_no_stars_unsolved():
    unsolved = Verdict(exercise("scan"), "scan.cu", 1, size="n 9", problem="scan.cu:3: wrong", best=BEST)
    assert unsolved.stars == 0 and unsolved.text().endswith("  wrong: n 9\nscan.cu:3: wrong")
