"""A lesson as text and as a picture."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from textwrap import fill

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from minillm.backend.threads import blas_threads
from minillm.errors import MissingExtra, UserError
from minillm.files.atomic import replacing
from minillm.lessons import NAMES, find_lesson
from minillm.lessons.lesson import Lesson, Measured, Table
from minillm.lessons.small_model import small_model
from minillm.lessons.waiting import waiting

SIZE = dict(figsize=(8, 4.5), dpi=110, layout="constrained")
HEADING = 10  # headings are broken to this many characters if the cells below are no longer
WHOLE_CELL = 16  # cells of at most this many characters are never folded


def give_lessons(name: str, folder: Path, sentence: str | None, show: bool, console: Console) -> bool:
    """Run the lesson with this name or number, or every lesson for "all"; returns whether all
    claims held.

    folder: for the pictures. sentence: replaces the default one of the lessons that read a
    sentence. show: also open each picture in a window.

    Raises UserError before anything is measured: for an unknown name, a sentence for a lesson that
    takes none, a folder that cannot be written, and `show` without a screen. With "all", a lesson
    that cannot run on this machine does not stop the others; the UserError is raised at the end.
    """
    lessons = chosen_lessons(name, sentence)
    if show:
        import_pyplot()
    check_folder(folder)
    failed, refused = [], []
    for number, lesson in lessons.items():
        try:
            if not give_lesson(number, lesson, folder, sentence, show, console):
                failed.append(NAMES[number])
        except UserError as error:
            if name != "all":
                raise
            refused.append(f"{NAMES[number]} ({error})")
    if refused:
        raise UserError(f"lessons that could not be given: {'; '.join(refused)}")
    if name == "all":
        console.print(verdict_of(failed))
    return not failed


def chosen_lessons(name: str, sentence: str | None) -> dict[int, Lesson]:
    """Number -> lesson, for a name, a number or "all".

    Raises UserError for an unknown name, and for a sentence that is empty or that none of the
    lessons takes.
    """
    lessons = dict(map(find_lesson, NAMES if name == "all" else [name]))
    if sentence is not None and not sentence:
        raise UserError("--text is empty: give a sentence, or leave it out for the lesson's own")
    if sentence is not None and all(lesson.sentence is None for lesson in lessons.values()):
        raise UserError(f"lesson {NAMES[next(iter(lessons))]} takes no --text")
    return lessons


def verdict_of(failed: list[str]) -> str:
    """The last line after several lessons. failed: the names of those whose claim did not hold."""
    return f"Claims that did not hold: {', '.join(failed)}" if failed else "All claims held."


def give_lesson(number: int, lesson: Lesson, folder: Path, sentence: str | None, show: bool, console: Console) -> bool:
    """Measure a lesson, print it, draw its picture into `folder`; returns whether the claim held.

    Without matplotlib there is no picture, and a line says what to install.
    """
    console.print(Text(f"\n{number}  {lesson.title}\n", style="bold"))
    console.print(Text(lesson.idea + "\n"))
    console.print(Text.assemble(("Claim. ", "bold"), lesson.claim, "\n"))
    measured = measure(lesson, sentence)
    for table in measured.tables:
        print_table(console, table)
        console.print()
    for statement, holds in measured.findings:
        console.print(Text(f"{'yes' if holds else 'NO '}  {statement}", style="" if holds else "bold red"))
    try:
        path = folder / f"{number:02d}-{NAMES[number]}.png"
        save_picture(measured, lesson, path)
        console.print(Text(f"\nPicture: {path}"), soft_wrap=True)
    except MissingExtra as error:
        console.print(Text(f"\n{error}"), soft_wrap=True)
    console.print(Text("\nTry this", style="bold"))
    for command in commands_of(lesson):
        console.print(Text(f"  {command}"), soft_wrap=True)
    console.print(Text(f"\nFiles to read: {', '.join(lesson.read)}\n"), soft_wrap=True)
    if show:
        show_picture(measured, lesson)
    return measured.holds


def measure(lesson: Lesson, sentence: str | None) -> Measured:
    """The lesson's measurement, with the sentence where the lesson takes one."""
    # one thread: the products are too small to gain from a second one
    with blas_threads(1), waiting(f"measuring, about {lesson.seconds} seconds on an idle machine"):
        return lesson.measure() if lesson.sentence is None else lesson.measure(sentence or lesson.sentence)


def commands_of(lesson: Lesson) -> list[str]:
    """The commands to try, with the folder of the small model in them."""
    return [
        command.replace("MODEL", str(small_model().folder)) if "MODEL" in command else command
        for command in lesson.commands
    ]


def list_lessons(console: Console) -> None:
    """Print a table of all lessons."""
    rows = []
    for number, name in enumerate(NAMES):
        rows.append((str(number), name, find_lesson(name)[1].title))
    print_table(console, Table("minillm lesson NAME, or a number, or all", ("", "name", "what it shows"), rows))


def print_table(console: Console, table: Table) -> None:
    """Print the title and the table below it; columns of numbers after the first are right-aligned.

    Headings are broken between words, except tokens in quotes. In a narrow terminal long cells are
    folded and short ones are not.
    """
    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        whole = max(map(len, cells + column.split()))
        broken = fill(column, max(whole, HEADING), break_long_words=False, break_on_hyphens=False)
        drawn.add_column(
            Text(column if column.startswith(("'", '"')) else broken),
            justify="right" if is_numeric(table, index) else "left",
            overflow="fold",
            no_wrap=whole <= WHOLE_CELL,
        )
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    console.print(Text(table.title, style="bold"))
    console.print(drawn)


def is_numeric(table: Table, index: int) -> bool:
    """Whether this column is of numbers; the first column names the rows."""
    return bool(index) and all(_is_number(row[index]) for row in table.rows if row[index])


def check_folder(folder: Path) -> None:
    """Make the folder and check that files can be written to it.

    Raises UserError if they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _cannot_be_written(folder, error) from None


def save_picture(measured: Measured, lesson: Lesson, path: Path) -> None:
    """Draw the picture into a PNG file.

    Raises MissingExtra without matplotlib, UserError if the file cannot be written.
    """
    picture = picture_of(measured, lesson)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(picture)
    except OSError as error:
        raise _cannot_be_written(path, error) from None


def picture_of(measured: Measured, lesson: Lesson, kind: str = "png", **settings) -> bytes:
    """The picture as a file of this kind. settings: of matplotlib's `savefig`.

    Raises MissingExtra without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("the picture", "matplotlib", "plots") from None
    figure, file = Figure(**SIZE), BytesIO()
    FigureCanvasAgg(figure)
    figure.suptitle(lesson.title)
    measured.draw(figure)
    figure.savefig(file, format=kind, **settings)
    return file.getvalue()


def show_picture(measured: Measured, lesson: Lesson) -> None:
    """Open the picture in a window; returns when the user closes it."""
    pyplot = import_pyplot()
    figure = pyplot.figure(**SIZE)
    figure.suptitle(lesson.title)
    measured.draw(figure)
    pyplot.show()


def import_pyplot():
    """matplotlib.pyplot with a backend that opens windows.

    Raises MissingExtra or UserError without one.
    """
    try:
        import matplotlib
        from matplotlib import pyplot
    except ImportError:
        raise MissingExtra("--show", "matplotlib", "plots") from None
    if matplotlib.get_backend().lower() == "agg":
        raise UserError("--show needs a screen and a toolkit such as tkinter: leave it out and open the PNG file")
    return pyplot


def _cannot_be_written(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}): choose another folder with --out")


def _is_number(cell: str) -> bool:
    return cell.lstrip("+-")[:1].isdigit() or cell.lower() in ("nan", "inf", "-inf")
