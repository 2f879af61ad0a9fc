"""`minillm lesson NAME --html FILE`: the report of a lesson as a page."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from minillm.backend.threads import blas_threads
from minillm.errors import UserError
from minillm.lessons import NAMES, find_lesson, report
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.web import lessons_page
from minillm.web.lessons_page import Given, write_lessons_page

PAIRS = Table('Pairs of "a" & <b>', ("", "two words"), [("one", "1.5"), ("three", "-20")])


def made_up(holds=True, error=None):
    def measure():
        if error:
            raise UserError(error)
        return Measured([PAIRS], [Finding("1 < 2 & 3", holds)], lambda figure: figure.subplots().plot([1, 2, 4]))

    return Lesson(
        "A <title>", "A claim & more.", "An idea.", measure, ("minillm info  # <it>",), ("minillm/errors.py",)
    )


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=80, highlight=False)


@pytest.fixture
def three(monkeypatch):
    """Three made-up lessons in place of all: one that holds, one that does not, one that cannot be given."""
    lessons = {3: made_up(), 4: made_up(holds=False), 5: made_up(error="it needs a compiler")}
    monkeypatch.setattr(lessons_page, "chosen_lessons", lambda name, sentence: lessons)


@pytest.fixture(scope="module")
def temperature(tmp_path_factory):
    """The page of a real lesson, and the lesson's measurement."""
    file = tmp_path_factory.mktemp("page") / "new" / "t.html"
    assert write_lessons_page("temperature", file, None, Console(file=io.StringIO()))
    with blas_threads(1):
        return file, report.measure(find_lesson("temperature")[1], None)


def text_of(page, selector):
    return [" ".join(text.split()) for text in page.locator(selector).all_text_contents()]


def violations(page):
    """What axe-core finds, in words."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e .[test-web]")
    found = axe.Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]


def test_a_lesson_is_all_there(page, temperature):
    """Claim, idea, findings, tables, commands and files; from disk, with nothing else fetched."""
    file, measured = temperature
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(file.as_uri())
    number, lesson = find_lesson("temperature")
    assert [url for url in requested if not url.startswith("data:")] == [file.as_uri()]
    assert page.locator("h1").inner_text() == lesson.title and page.locator("h2").inner_text().startswith(f"{number} ")
    assert lesson.idea in page.locator("section").inner_text()
    assert text_of(page, ".claim") == [f"Claim. {lesson.claim} Measured: the claim holds."]
    assert text_of(page, ".findings li") == [f"yes {finding.statement}" for finding in measured.findings]
    for index, table in enumerate(measured.tables):
        shown = page.locator("table").nth(index)
        assert shown.locator("caption").inner_text() == table.title
        assert tuple(shown.locator("th").all_text_contents()) == table.columns
        rows = [tuple(row.locator("td").all_text_contents()) for row in shown.locator("tbody tr").all()]
        assert rows == table.rows
    assert page.locator("pre").inner_text().splitlines() == report.commands_of(lesson)
    assert page.locator("section code").all_inner_texts() == list(lesson.read)


def test_the_picture_is_inside(page, temperature):
    pytest.importorskip("matplotlib")
    page.goto(temperature[0].as_uri())
    width = page.locator("figure img").evaluate("async (image) => { await image.decode(); return image.naturalWidth; }")
    assert width == report.SIZE["figsize"][0] * report.SIZE["dpi"]
    assert page.locator("figure img").get_attribute("alt").startswith("Temperature")


def test_without_matplotlib_a_line_says_what_brings_the_picture(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    lesson = made_up()
    page = lessons_page.lessons_page([Given(3, lesson, lesson.measure())])
    assert "the picture needs matplotlib, which is not installed: pip install &quot;minillm[plots]&quot;" in page
    assert "<img" not in page


def test_all_lessons_have_a_table_of_contents(page, three, console, tmp_path):
    """What cannot be given is an error after the page was written; the page has the reason."""
    file = tmp_path / "all.html"
    with pytest.raises(UserError, match=rf"lessons that could not be given: {NAMES[5]} \(it needs a compiler\)"):
        write_lessons_page("all", file, None, console)
    assert [path.name for path in tmp_path.iterdir()] == ["all.html"]
    page.goto(file.as_uri())
    assert text_of(page, "nav p") == [f"Claims that did not hold: {NAMES[4]}"]
    verdicts = ["the claim holds", "the claim does not hold", "could not be given"]
    assert text_of(page, "nav li") == [f"A <title> {verdict}" for verdict in verdicts]
    assert text_of(page, ".findings b") == ["yes", "NO"]
    assert "It could not be given: it needs a compiler." in page.locator(f"#{NAMES[5]}").inner_text()
    assert page.locator("td.number").count() == 4 and text_of(page, "caption")[0] == PAIRS.title
    assert violations(page) == []
    page.locator("nav a").nth(1).click()
    assert page.url.endswith(f"#{NAMES[4]}")
    printed = console.file.getvalue()
    assert f" 4  {NAMES[4]}: the claim does not hold\n" in printed and f"Page: {file}\n" in printed.replace("\n/", "/")


def test_a_claim_that_fails_is_the_return_value(monkeypatch, console, tmp_path):
    for holds in (True, False):
        monkeypatch.setattr(lessons_page, "chosen_lessons", lambda name, sentence, holds=holds: {3: made_up(holds)})
        assert write_lessons_page("3", tmp_path / "3.html", None, console) is holds


def test_an_old_page_stays_until_the_new_one_is_complete(monkeypatch, console, tmp_path):
    file = tmp_path / "page.html"
    file.write_text("old")
    monkeypatch.setattr(lessons_page, "chosen_lessons", lambda name, sentence: {5: made_up(error="no compiler")})
    with pytest.raises(UserError, match="no compiler"):
        write_lessons_page("5", file, None, console)
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("file, reason", [("text.txt/in/a.html", "Not a directory"), ("folder", "it is a folder")])
def test_a_file_that_cannot_be_written(three, console, tmp_path, file, reason):
    """Before anything is measured."""
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"cannot be written \({reason}\): choose another file with --html"):
        write_lessons_page("all", tmp_path / file, None, console)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_it_fits_the_screen_and_all_can_use_it(page, temperature, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(temperature[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.get_by_role("button", name="light or dark").click()
    assert page.evaluate(background) != before


def test_it_can_be_printed(page, temperature):
    """On paper it is light, without buttons, and no table is cut off."""
    page.goto(temperature[0].as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#theme").is_hidden()
    assert page.locator(".scroll").first.evaluate("(element) => getComputedStyle(element).overflow") == "visible"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 251)"


def test_the_page_names_no_file_of_this_checkout(temperature):
    assert str(Path(lessons_page.__file__).parents[2]) not in re.sub(r"base64,[\w+/=]+", "", temperature[0].read_text())
