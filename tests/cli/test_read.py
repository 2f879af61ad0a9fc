"""minillm read, as a user calls it."""

import subprocess
import sys

import pytest

from minillm.cli import app
from minillm.cli import read as cli_read
from minillm.errors import UserError
from minillm.web.read import pages


def run(*arguments, cwd):
    command = [sys.executable, "-m", "minillm", "read", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def quick(monkeypatch):
    """Only the pages of residual and linear are made, and no browser opens. What was opened is in the list."""
    opened, write = [], pages.write_pages
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(pages, "write_pages", lambda folder, names=None: write(folder, names or ["residual", "linear"]))
    return opened


def test_a_name_makes_its_page_opens_it_and_makes_the_others(quick, tmp_path, capsys):
    cli_read.command("residual", tmp_path / "pages", True)
    path = tmp_path / "pages" / "residual.html"
    assert capsys.readouterr().out == f"{path}\n"
    assert quick == [path.as_uri()]
    assert sorted(file.name for file in path.parent.iterdir()) == ["index.html", "linear.html", "residual.html"]


def test_without_a_name_the_front_page_is_opened(quick, tmp_path, capsys):
    cli_read.command(None, tmp_path, True)
    assert quick == [(tmp_path / "index.html").as_uri()]


def test_no_browser(quick, tmp_path):
    cli_read.command("residual", tmp_path, False)
    assert quick == []


def test_an_unknown_name_is_one_line_and_exit_code_2(tmp_path):
    result = run("layernorm", cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith('minillm: no page is named "layernorm" (did you mean layer_norm?): use linear, ')
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "read").exists()


def test_a_fault_in_the_sources_is_the_error(monkeypatch, tmp_path):
    fault = "minillm/layers/linear.py:62: `dx = ...` needs the forward line that it differentiates"
    monkeypatch.setattr(pages, "problems", lambda operation: [fault])
    with pytest.raises(UserError, match="linear.py:62"):
        cli_read.command("linear", tmp_path, False)


def test_it_needs_only_the_core_dependencies(tmp_path):
    """The server's packages are not imported, and need not be there."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('starlette', 'uvicorn', 'matplotlib', 'playwright')));"
        "from pathlib import Path; from minillm.web.read.pages import write_pages;"
        "write_pages(Path('out'), ['residual'])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "out" / "residual.html").is_file()


def test_the_command_is_in_the_list():
    assert "read" in app.NAMES
