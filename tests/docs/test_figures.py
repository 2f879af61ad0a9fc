"""Every measured figure of a page is that of a result file in benchmarks/results/."""

import json
import re
from pathlib import Path

import pytest
from doc_pages import FENCE

from benchmarks import all as everything
from benchmarks import common, figures, pages
from benchmarks.figures import FIGURE, FIGURES, PAGES, TABLE, TABLES, rendered
from minillm.errors import UserError

TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

# A number with one of these is a measured figure, on every page: time, rates, memory.
UNIT = r"(?:ns|us|ms|s|seconds?|minutes?|hours?|tokens/s|(?:[kMG]B|GiB|MiB)(?:/s)?|[GT]FLOP/s)"
# On pages about speed shares and ratios are, too.
SHARE = r"(?:%|times)"
ABOUT_SPEED = ("README.md", "performance.md", "scaling.md", "tokenizers.md", "sampling.md", "memory-and-profile.md")
NUMBER = r"(?<![\w.,])\d[\d,]*(?:\.\d+)?"

# What looks like a measured figure and is none: (page, words with it, why). Each is used up by the page.
NOT_MEASURED = (
    ("performance.md", "alone are 823 MB", "4 bytes x 4,096 x 50,257"),
    ("performance.md", "trains for 60 seconds each", "the length of a run, chosen"),
    ("tokenizers.md", "King James Bible (4.2 MB)", "the size of the text"),
    ("tokenizers.md", "read in parts of 2 MB", "a limit in the code"),
    ("tokenizers.md", "for more than 50 MB", "a limit in the code"),
    ("machines.md", "for up to 20 seconds", "a limit in the code"),
    ("machines.md", "an array of 2.002 GiB", "the size of an array"),
    ("cupy.md", "a GPU of 80 GiB", "the size of the imitated memory"),
    ("page.md", "each 4 GiB of memory", "a limit in the code"),
    ("memory-and-profile.md", "within 6 % of what NumPy allocates, with two workers or LoRA within 10 %", "test_memory.py"),
    ("scaling.md", "arrays of 4 kB to 64 MB", "the sizes that are tried"),
    ("scaling.md", "A GPU computes at 40 % of its peak", "assumed"),
    ("scaling.md", "(9.6 us between nodes, 3.4 us over NVLink)", "NCCL's own model"),
    ("scaling.md", "30 us for TCP, 5 us for 100", "assumed"),
    ("scaling.md", "2 us for InfiniBand", "assumed"),
    ("scaling.md", "It is above 100 % where", "an efficiency, explained"),
    ("lessons.md", "in 0.1 seconds", "what the lesson's claim says; tests/lessons has it"),
)  # fmt: skip
# A page's own test compares these with what is measured or computed.
ELSEWHERE = {"simulators.md": "tests/test_simulators_compared.py"}


def unmarked(page: Path, text: str) -> list[str]:
    """The measured figures outside marks and fences, each with its line."""
    for pattern in (TABLE, FIGURE, FENCE):
        text = pattern.sub(lambda match: match[0] if _is_sample(match) else "\n" * match[0].count("\n"), text)
    text = re.sub(r"`[^`\n]*`", "", text)
    for name, words, _ in NOT_MEASURED:
        if name == page.name:
            text = text.replace(words, "")
    units = f"(?:{UNIT}|{SHARE})" if page.name in ABOUT_SPEED else UNIT
    pattern = re.compile(rf"{NUMBER}(?: (?:to|and|or) {NUMBER})?[ \n]?{units}(?![\w/])")
    return [f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}" for match in pattern.finditer(text)]


def _is_sample(match: re.Match) -> bool:
    """Whether it is a fence of text: a sample that is not run. The outputs in other fences are compared with runs."""
    return match.groupdict().get("kind") == "text"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.name}")
def test_the_figures_of_a_page_are_those_of_the_result_files(page):
    assert rendered(TEXTS[page], page) == TEXTS[page], "python -m benchmarks.pages writes them anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.name}")
def test_no_measured_figure_is_without_a_mark(page):
    if page.name not in ELSEWHERE:
        assert not unmarked(page, TEXTS[page]), "put a mark there: benchmarks/README.md"


def test_what_is_not_measured_is_in_its_page():
    texts = {page.name: text for page, text in TEXTS.items() if page.parent.name != "benchmarks"}
    for name, words, _ in NOT_MEASURED:
        assert words in texts[name], f"{name} has no longer {words!r}: take it out of NOT_MEASURED"


def test_every_name_is_in_a_page_and_every_mark_is_whole():
    shown = [name for text in TEXTS.values() for name in re.findall(r"^<!-- table: (\S+) -->$", text, re.MULTILINE)]
    ends = sum(len(re.findall(r"^<!-- end -->$", text, re.MULTILINE)) for text in TEXTS.values())
    assert set(TABLES) == set(shown) and len(shown) == ends
    found = {match["name"] for text in TEXTS.values() for match in FIGURE.finditer(text)}
    assert set(FIGURES) <= found


# ----------------------------------------------------------------------------------------------------------- planted faults


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with a table and a figure of a result file, both right."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    origin = {"date": "2026-01-02", "cores": "2", "processor": "P", "numpy": "2", "torch": "3", "other_work": 0.25}
    (tmp_path / "made.json").write_text(json.dumps({"origin": origin, "ms": 12.34}))
    monkeypatch.setitem(TABLES, "made.up", figures.Shown(lambda found: ["| a | 12.3 ms |"], ("made",), ("torch",)))
    monkeypatch.setitem(FIGURES, "made.ms", figures.Shown(lambda found: f"{found['ms']:.1f} ms", ("made",)))
    path = tmp_path / "performance.md"
    path.write_text("It takes <!--=made.ms-->12.3 ms<!--/-->.\n\n<!-- table: made.up -->\n<!-- end -->\n")
    path.write_text(rendered(path.read_text(), path))
    return path


def test_a_right_page_is_left_alone(page):
    text = page.read_text()
    assert "| a | 12.3 ms |\n\n2026-01-02, 2 cores of an P, NumPy 2, PyTorch 3, other work had 25 % of the" in text
    assert rendered(text, page) == text and unmarked(page, text) == []


@pytest.mark.parametrize("wrong", ["12.4 ms", "12.3 s", ""])
def test_a_changed_figure_is_noticed(page, wrong):
    text = page.read_text()
    for at in (text.index("12.3 ms"), text.rindex("12.3 ms")):
        changed = text[:at] + wrong + text[at + len("12.3 ms") :]
        assert rendered(changed, page) == text != changed


@pytest.mark.parametrize(
    "added", ["5 ms", "1.5 times", "40 %", "2 GB/s", "3\nseconds", "1.2 to 1.4 times", "9 tokens/s"]
)
def test_a_figure_without_a_mark_is_noticed(page, added):
    assert len(unmarked(page, page.read_text() + f"\nand {added}.\n")) == 1


def test_a_result_file_that_is_gone_or_lacks_the_figure_is_noticed(page):
    (page.parent / "made.json").write_text("{}")
    with pytest.raises(UserError, match=r"made.ms: .*made.json has no 'ms'|made.up"):
        rendered("<!--=made.ms-->12.3 ms<!--/-->", page)
    (page.parent / "made.json").unlink()
    with pytest.raises(UserError, match=r"there is no benchmarks/results/made.json"):
        rendered(page.read_text(), page)
    with pytest.raises(UserError, match=r"made.other is in neither"):
        rendered("<!--=made.other-->1<!--/-->", page)


def test_pages_are_written_and_only_checked(page, monkeypatch, capsys):
    monkeypatch.setattr(pages, "PAGES", (page,))
    monkeypatch.setattr(pages, "ROOT", page.parent)
    right = page.read_text()
    page.write_text(right.replace("12.3", "12.4"))
    assert pages.write_pages(only_check=True) == ["performance.md"] and "12.4" in page.read_text()
    assert pages.write_pages() == ["performance.md"] and page.read_text() == right
    assert pages.write_pages() == []


# ------------------------------------------------------------------------------------------------------- the command for all


def test_a_failure_is_named_and_the_rest_is_measured(monkeypatch, capsys):
    codes = {"packing": 3, "sampler": 0}
    monkeypatch.setattr(everything, "run", lambda portion: codes[portion.name])
    monkeypatch.setattr(everything, "busy_cores", lambda: 64.0)
    monkeypatch.setattr(everything.Portion, "missing", lambda self: ["torch"])
    monkeypatch.setattr("sys.argv", ["all", "--only", "sampler", "packing", "--measure-only"])
    with pytest.raises(SystemExit) as ended:
        everything.main()
    shown = capsys.readouterr().out
    assert ended.value.code == 1 and "failed: packing: python -m benchmarks.packing ended with exit code 3" in shown
    assert "1 of 2: python -m benchmarks.sampler" in shown and "machine is busy" in shown
    assert "left out, not installed: torch" in shown


def test_the_portions(monkeypatch, capsys):
    assert len({portion.name for portion in everything.PORTIONS}) == len(everything.PORTIONS)
    assert all(portion.question for portion in everything.PORTIONS)
    kept = {name for text in TEXTS.values() for name in figures.files_of(text)}
    assert kept <= {portion.name for portion in everything.PORTIONS}, "one command measures all that pages show"
    monkeypatch.setattr("sys.argv", ["all", "--list"])
    everything.main()
    assert len(capsys.readouterr().out.splitlines()) == len(everything.PORTIONS)


def test_an_origin_says_what_other_work_there_was(monkeypatch):
    monkeypatch.setattr(common, "_BUSY", 0.0)
    monkeypatch.setattr(common, "busy_seconds", lambda: 30.0)
    monkeypatch.setattr(common.os, "times", lambda: (common._OWN + 10.0, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(common.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(common.time, "perf_counter", lambda: common.STARTED + 20.0)
    assert common.other_work() == 0.5  # 20 of the 40 seconds of two cores in 20 seconds
