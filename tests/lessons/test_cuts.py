import numpy as np
import pytest

from minillm.errors import UserError
from minillm.lessons import cuts as lesson


@pytest.fixture(scope="module")
def measured():
    return lesson.LESSON.measure(lesson.LESSON.sentence)


def test_what_the_lesson_claims(measured):
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["tokens, top-k 20, surest"] == figures["tokens, top-k 20, least sure"] == 20
    assert figures["unlikely, top-k 20, surest"] > 13 > 1 > figures["unlikely, top-k 20, least sure"]
    assert figures["mass, top-k 20, surest"] > 0.9 > 0.7 > figures["mass, top-k 20, least sure"] > 0.4
    assert figures["tokens, top-p 0.9, surest"] < 7 < 50 < figures["tokens, top-p 0.9, least sure"]
    assert figures["tokens, min-p 0.1, surest"] < 3 < 20 < figures["tokens, min-p 0.1, least sure"]
    assert figures["least mass"] == pytest.approx(0.9, abs=0.01)
    for tenth in ("surest", "least sure"):  # as much of what people write is kept as the model gives to what is kept
        for name in lesson.CUTS:
            assert figures[f"written, {name}, {tenth}"] == pytest.approx(figures[f"mass, {name}, {tenth}"], abs=0.2)


def test_the_findings_can_fail(measured):
    """With the numbers of top-p in place of top-k's, of top-k in place of top-p's, and with a guarantee that is broken."""
    k, p, _ = lesson.CUTS
    swapped = {name.replace(k, "x").replace(p, k).replace("x", p): value for name, value in measured.figures.items()}
    broken = swapped | {"least mass": 0.89}
    assert not any(finding.holds for finding in lesson._findings(broken))


def test_the_cuts_on_four_tokens_by_hand():
    p = np.array([[0.05, 0.5, 0.15, 0.3]])
    assert lesson.after_cut(p, dict(top_k=2))[0] == pytest.approx([0, 0.625, 0, 0.375])
    assert lesson.after_cut(p, dict(top_p=0.9))[0] == pytest.approx([0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95])
    assert lesson.after_cut(p, dict(min_p=0.4))[0] == pytest.approx([0, 0.625, 0, 0.375])
    assert lesson.after_cut(np.array([[1.0, 0.0]]), dict(top_p=0.9))[0] == pytest.approx([1, 0])


def test_the_picture_shows_where_the_cuts_are(measured, draw):
    sure, unsure, text = draw(measured).axes
    for axes, table in ((sure, measured.tables[0]), (unsure, measured.tables[1])):
        assert [line.get_xdata()[0] - 0.5 for line in axes.lines] == [int(row[1]) for row in table.rows]
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == sorted(heights, reverse=True) and f"{heights[0]:.0%}" in table.title
    assert [len(line.get_xdata()) for line in text.lines] == [32 * 64] * 3
    assert set(text.lines[0].get_ydata()) == {20}


def test_the_readers_sentence():
    measured = lesson.LESSON.measure("If the object is not defined, a TypeError is raised.")
    sure, unsure, _ = measured.tables
    assert sure.rows[0][1] == unsure.rows[0][1] == "20"
    assert int(sure.rows[1][1]) < int(unsure.rows[1][1]) and int(sure.rows[2][1]) < int(unsure.rows[2][1])
    with pytest.raises(UserError, match='"the" is a single token|" the" is a single token'):
        lesson.LESSON.measure(" the")
