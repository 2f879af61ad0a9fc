"""The frame of Play: it opens, moves between its views, and answers nobody else."""

import pytest

pytest.importorskip("starlette", reason="the page needs starlette: pip install -e .[test-web]")


def test_the_page_opens(page, play):
    page.goto(play)
    page.get_by_role("link", name="Tokens").click()
    page.wait_for_selector("#tokens")
    assert "weights" in page.locator("#model").inner_text()
