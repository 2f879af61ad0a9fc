"""The lessons on one page: `minillm lesson all --html FILE`.

It has what the report on the terminal has (minillm/lessons/report.py), with the pictures inside,
and opens from disk.
"""

from __future__ import annotations

import base64
import tempfile
from html import escape
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from minillm.errors import MissingExtra, UserError
from minillm.files.atomic import replacing
from minillm.lessons import NAMES
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.report import chosen_lessons, commands_of, is_numeric, measure, picture_of, verdict_of
from minillm.version import __version__
from minillm.web.page import LOOK, document

READ = Path(__file__).parent / "read"
STYLES = [READ / "lessons.css"]
SCRIPTS = [LOOK / "browser.js", LOOK / "theme.js", READ / "lessons.js"]


class Given(NamedTuple):
    """A lesson that was measured, or the reason why it could not be."""

    number: int
    lesson: Lesson
    measured: Measured | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """In words, for the list of lessons."""
        if self.measured is None:
            return "could not be given"
        return "the claim holds" if self.measured.holds else "the claim does not hold"


def write_lessons_page(name: str, file: Path, sentence: str | None, console: Console) -> bool:
    """Measure the lesson with this name or number, or every lesson for "all", and write one page;
    returns whether all claims held.

    sentence: replaces the default one of the lessons that read a sentence. A line about each lesson
    is printed.

    Raises UserError before anything is measured: for an unknown name, a sentence for a lesson that
    takes none, and a file that cannot be written. With "all", a lesson that cannot run on this
    machine does not stop the others; the UserError is raised after the page was written.
    """
    lessons = chosen_lessons(name, sentence)
    _check(file)
    given = []
    for number, lesson in lessons.items():
        try:
            given.append(Given(number, lesson, measure(lesson, sentence)))
        except UserError as error:
            if name != "all":
                raise
            given.append(Given(number, lesson, None, str(error)))
        console.print(f"{number:>2}  {NAMES[number]}: {given[-1].verdict}", soft_wrap=True)
    _write(file, lessons_page(given))
    console.print(f"Page: {file}", soft_wrap=True)
    if refused := [f"{NAMES[each.number]} ({each.reason})" for each in given if each.measured is None]:
        raise UserError(f"lessons that could not be given: {'; '.join(refused)}")
    return all(each.measured.holds for each in given)


def lessons_page(given: list[Given]) -> str:
    """The page: HTML with all it needs inside. Without matplotlib it says what brings the
    pictures.
    """
    single = len(given) == 1
    title = given[0].lesson.title if single else "The lessons of minillm"
    failed = [NAMES[each.number] for each in given if each.measured and not each.measured.holds]
    contents = "" if single else _contents(given, verdict_of(failed))
    sections = "\n".join(_section(each) for each in given)
    body = f"""<header class="top">
<h1>{escape(title)}</h1>
<button id="theme" type="button">light or dark</button>
</header>
<main>
<p class="quiet">Each lesson has a claim that a measurement can refute. These were measured by <code>minillm
lesson</code>, version {escape(__version__)}.</p>
{contents}
{sections}
</main>
"""
    return document(title, body, STYLES, SCRIPTS)


def _check(file: Path) -> None:
    """Raises UserError if the file could not be written; it is not touched."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise _cannot_be_written(file, error.strerror) from None
    if file.is_dir():
        raise _cannot_be_written(file, "it is a folder")


def _write(file: Path, page: str) -> None:
    try:
        with replacing(file) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise _cannot_be_written(file, error.strerror) from None


def _cannot_be_written(file: Path, reason: str) -> UserError:
    return UserError(f"{file} cannot be written ({reason}): choose another file with --html")


def _contents(given: list[Given], verdict: str) -> str:
    entries = "\n".join(
        f'<li value="{each.number}"><a href="#{NAMES[each.number]}">{escape(each.lesson.title)}</a> '
        f'<span class="verdict {_colour(each)}">{each.verdict}</span></li>'
        for each in given
    )
    return f'<nav class="panel" aria-label="Lessons">\n<p>{escape(verdict)}</p>\n<ol>\n{entries}\n</ol>\n</nav>'


def _section(each: Given) -> str:
    """A lesson, in the order of the report."""
    name, lesson = NAMES[each.number], each.lesson
    result = f'<p class="bad">It could not be given: {escape(each.reason)}.</p>'
    if each.measured:
        result = "\n".join(
            [
                *(_table(table) for table in each.measured.tables),
                _findings(each.measured.findings),
                _picture(each.measured, lesson),
            ]
        )
    commands = "\n".join(escape(command) for command in commands_of(lesson))
    files = ", ".join(f"<code>{escape(path)}</code>" for path in lesson.read)
    return f"""<section id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{each.number} &nbsp;{escape(lesson.title)}</h2>
<p>{escape(lesson.idea)}</p>
<p class="claim panel"><b>Claim.</b> {escape(lesson.claim)} <b class="{_colour(each)}">Measured: {each.verdict}.</b></p>
{result}
<h3>Try this</h3>
<pre class="panel" tabindex="0" role="group" aria-label="Commands of lesson {each.number}">{commands}</pre>
<p>Files to read: {files}</p>
</section>"""


def _colour(each: Given) -> str:
    return "good" if each.measured and each.measured.holds else "bad"


def _table(table: Table) -> str:
    columns = [' class="number"' if is_numeric(table, index) else "" for index in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column)}</th>' if column else "<td></td>"  # an empty heading is none
        for kind, column in zip(columns, table.columns)
    )
    rows = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(columns, row)) + "</tr>"
        for row in table.rows
    )
    return f"""<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title)}">
<table>
<caption>{escape(table.title)}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>"""


def _findings(findings: list[Finding]) -> str:
    lines = "\n".join(
        f'<li><b class="{"good" if holds else "bad"}">{"yes" if holds else "NO"}</b> {escape(statement)}</li>'
        for statement, holds in findings
    )
    return f'<ul class="findings">\n{lines}\n</ul>'


def _picture(measured: Measured, lesson: Lesson) -> str:
    try:
        picture = picture_of(measured, lesson)
    except MissingExtra as error:
        return f'<p class="quiet">{escape(str(error))}</p>'
    content = base64.b64encode(picture).decode()
    words = escape(f"{lesson.title}: what was measured, drawn")
    return f'<figure><img src="data:image/png;base64,{content}" alt="{words}"></figure>'
