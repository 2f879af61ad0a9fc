"""Every command and every example that README.md and docs/ show does what the page says."""

import configparser
import re

import doc_commands
import pytest
from doc_pages import KINDS, PAGES, ROOT, Command, commands, fences, missing_line, prose

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def fences_of(name):
    return fences((ROOT / name).read_text(encoding="utf-8"), name)


def commands_of(name):
    shown = [command for fence in fences_of(name) if fence.kind == "console" for command in commands(fence)]
    return [*shown, *commands_in_tables(name)]


def commands_in_tables(name):
    """`minillm ...` with an argument, or mpiexec of it, in a cell of a table of README.md."""
    if name != "README.md":
        return []
    lines = enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1)
    rows = [(number, line) for number, line in lines if line.startswith("|")]
    found = [
        (number, code) for number, line in rows for code in re.findall(r"`((?:mpiexec -n \d )?minillm \w[^`]*)`", line)
    ]
    return [Command(code, (), f"{name}:{number}") for number, code in found]


# ------------------------------------------------------------------------------------------------------ the pages are run


@pytest.mark.parametrize("name", NAMES)
def test_page(name, folder, capsys):
    """From the top: files are written, commands and examples are run, and outputs compared."""
    names, printed = {"__name__": "__main__"}, ""
    for fence in fences_of(name):
        if fence.excerpt:
            source = (ROOT / fence.excerpt).read_text(encoding="utf-8")
            assert not (line := missing_line(fence.text, source)), f"{fence}: {fence.excerpt} has not, there:\n{line}"
        elif fence.file:
            (folder / fence.file).write_text(fence.text + "\n", encoding="utf-8")
        elif fence.kind == "python":
            capsys.readouterr()
            exec(compile("\n" * (fence.line - 1) + fence.text, name, "exec"), names)
            printed = capsys.readouterr().out
        elif fence.kind == "output":
            check_output(str(fence), fence.text.splitlines(), printed, any_number=False)
        elif fence.kind == "console":
            for command in commands(fence):
                run(command, "run", folder)
    for command in commands_in_tables(name):
        run(command, "run", folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_slow_commands(name, folder):
    for command in commands_of(name):
        run(command, "slow", folder)


def run(command, how, folder):
    """Run what of a command is to be run now, and compare what the last part prints."""
    parts = doc_commands.parts(command.text)
    for number, part in enumerate(parts, start=1):
        plan = doc_commands.plan(part)
        if plan.how != how:
            continue
        code, output = doc_commands.execute(plan.text, folder)
        where = f"{command.place}: {plan.text}"
        assert code in doc_commands.expected_code(command), f"{where}: exit code {code}\n{output}"
        if command.output and number == len(parts):
            check_output(where, command.output, output, plan.any_number)


def check_output(where, shown, printed, any_number):
    found = [line.rstrip() for line in printed.strip("\n").splitlines()]
    if not doc_commands.same_output(shown, found, any_number):
        pytest.fail(
            f"{where}\nthe page shows\n" + "\n".join(shown) + "\nand it printed\n" + "\n".join(found), pytrace=False
        )


# ----------------------------------------------------------------------------------------------- nothing is left untested


@pytest.mark.parametrize("name", NAMES)
def test_kinds_of_fences(name):
    for fence in fences_of(name):
        assert fence.kind in KINDS, f"{fence}: a fence of unknown kind {fence.kind!r}: tests/doc_pages.py has {KINDS}"
        if fence.kind == "cuda":
            assert fence.file or fence.excerpt, f"{fence}: name the file that it is written to, `// file: add.cu`"
        if fence.kind == "text":
            hidden = re.search(r"^\s*(\$ |minillm \w|pip install|python -m )", fence.text, flags=re.MULTILINE)
            assert not hidden, f"{fence}: a command in a fence that is not run: put it into a console fence"


def test_no_commands_in_indented_blocks():
    """A command is written in a fence, where it is run."""
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            assert not re.match(r"( {4,}|\t)minillm \w", line), f"{page.name}:{number}: put it into a console fence"


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_running_text_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"`(minillm \w[^`]*)`", prose((ROOT / name).read_text(encoding="utf-8"))):
        unknown = doc_commands.unknown_options(code, tmp_path)
        assert not unknown, f"{name}: {code}: there is no {', '.join(unknown)}"


def test_no_table_has_a_line_that_no_page_needs():
    commands = [command.text for name in NAMES for command in commands_of(name)]
    shown = [doc_commands.without_comment(part) for command in commands for part in doc_commands.parts(command)]
    for table in (doc_commands.ELSEWHERE, doc_commands.SHORTER, doc_commands.SLOW):
        for pattern in table:
            assert any(re.fullmatch(pattern, text) for text in shown), f"no page shows a command like {pattern}"


def test_installs_are_editable_and_their_extras_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    for page in PAGES:
        for line in re.findall(r"pip install[^\n]*", page.read_text(encoding="utf-8")):
            for editable, names in re.findall(r"(-e )?\"?\.\[([\w,-]+)\]", line):
                assert editable, f"{page.name}: {line}: not editable: it would replace the installation in place"
                assert set(names.split(",")) <= extras, f"{page.name}: {line}: an extra that setup.cfg does not have"
