"""The bar of a large text: on a terminal alone, and without a thread."""

import io
import threading

from rich.console import Console

from minillm.cli.text_progress import text_progress


def shown(is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    before = threading.active_count()  # other tests of this process leave threads that wait
    with text_progress(console) as report:
        for what, total in (("counting", 67_000_000), ("merging", 1744)):
            for done in (1, total // 2, total):
                report(what, done, total)
        threads = threading.active_count()
    assert threads == threading.active_count() == before
    return console.file.getvalue()


def test_a_terminal_shows_what_is_done_and_how_fast():
    text = shown(True)
    assert "67 of 67 MB" in text and "1,744 of 1,744" in text and "MB/s" in text
    assert text.index("counting") < text.index("merging")


def test_a_pipe_shows_nothing():
    assert shown(False) == ""
