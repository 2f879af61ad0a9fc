"""README.md is a door, and no link of README.md or docs/ leads nowhere."""

import re

import pytest
from doc_pages import PAGES, ROOT, anchors, links, prose

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
OUTSIDE = re.compile(r"(https?|mailto):")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in links(TEXTS[page]):
        if OUTSIDE.match(target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}: there is no {path}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page.name}: {target}: no such heading"


def test_source_files_that_are_named_exist():
    """`minillm/layers/mlp.py`, `kernels/gelu.cu`: as the pages write them, in backquotes."""
    for page, text in TEXTS.items():
        for name in re.findall(r"`((?:minillm|kernels|tests|benchmarks|docs)/[\w./-]+)`", text):
            is_pattern = re.search(r"[A-Z]{3}", name)  # tests/layers/test_OPERATION.py
            assert is_pattern or (ROOT / name).exists(), f"{page.name}: there is no {name}"


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        for target in links(page.read_text(encoding="utf-8")):
            there = (page.parent / target.partition("#")[0]).resolve()
            if there.suffix == ".md" and there.exists() and there not in reached:
                new.add(there)
    assert not set(PAGES) - reached


def test_the_readme_is_a_door():
    lines = README.splitlines()
    assert len(lines) <= 140
    assert next(number for number, line in enumerate(lines, start=1) if "Read it in this order" in line) < 60


def test_lines_are_not_wider_than_a_page():
    """Prose at most 140 columns; tables and fences are as wide as they have to be."""
    for page, text in TEXTS.items():
        for number, line in enumerate(
            re.sub(r"<!--.*?-->", "", prose(text)).splitlines(), start=1
        ):  # marks are not seen
            assert len(line) <= 140 or line.startswith("|") or "](" in line, (
                f"{page.name}:{number} has {len(line)} columns"
            )


def test_the_glossary_is_linked_where_its_words_are_used():
    glossary = ROOT / "docs" / "glossary.md"
    terms = re.findall(r"^\| \*\*(.+?)\*\*", glossary.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(terms) >= 25
    for name in (
        "README.md",
        "docs/performance.md",
        "docs/models.md",
        "docs/questions.md",
        "docs/memory-and-profile.md",
    ):
        assert any("glossary.md" in target for target in links((ROOT / name).read_text(encoding="utf-8"))), name


def test_the_questions_have_answers_that_are_tested():
    """At least twelve, each with a command whose output is compared."""
    from doc_pages import commands, fences

    text = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    questions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(questions) >= 12
    for question in questions:
        consoles = [fence for fence in fences(question, "questions.md") if fence.kind == "console"]
        assert any(command.output for fence in consoles for command in commands(fence)), (
            f"no output is compared: {question.splitlines()[0]}"
        )
