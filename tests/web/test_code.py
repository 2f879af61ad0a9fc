"""Code side by side: what is tied lights up, by pointing and by keyboard."""

import pytest

from minillm.web.page import LOOK, document

DEMO = r'''
const forward = [
  { number: 10, text: "def f(x):" },
  { number: 11, text: '    """One' },
  { number: 12, text: '    text."""' },
  { number: 13, text: "    y = x * 2.5  # twice", id: "f13", lights: ["b21"] },
  { number: 14, text: "    return y", id: "f14", marked: true, note: "y (2, 3)" },
];
const backward = [
  { number: 20, text: "    dx = (", id: "b20" },
  { number: 21, text: "    dx = dy * 2.5", id: "b21" },
];
const root = h("div", {}, codeColumn(forward, { label: "forward" }), codeColumn(backward, { label: "backward" }));
document.body.append(root);
window.heard = [];
follow(root, (statement, pinned) => window.heard.push([statement?.dataset.id ?? null, pinned]));
'''


@pytest.fixture
def demo(page, tmp_path):
    script = tmp_path / "demo.js"
    script.write_text(DEMO, encoding="utf-8")
    page_file = tmp_path / "demo.html"
    scripts = [LOOK / "dom.js", LOOK / "code.js", script]
    page_file.write_text(document("demo", "", [LOOK / "code.css"], scripts), encoding="utf-8")
    page.goto(page_file.as_uri())
    return page


def lit(page):
    return page.eval_on_selector_all(".statement.lit", "found => found.map(each => each.dataset.id)")


def test_pointing_at_a_statement_lights_its_partner(demo):
    demo.locator("[data-id=b21]").hover()
    assert lit(demo) == ["f13", "b21"]
    demo.locator("[data-id=f14]").hover()
    assert lit(demo) == ["f14"]


def test_a_line_of_a_docstring_that_wraps_goes_on_under_its_own_beginning(demo):
    line = demo.locator(".line", has_text='text."""')
    assert line.evaluate("line => line.style.getPropertyValue('--indent')") == "4"


def test_a_click_pins(demo):
    demo.locator("[data-id=f13]").click()
    demo.locator("[data-id=f14]").hover()
    assert lit(demo) == ["f13", "b21"]
    demo.locator("[data-id=f13]").click()
    demo.locator("[data-id=f14]").hover()
    assert lit(demo) == ["f14"]
    assert ["f13", True] in demo.evaluate("heard")


def test_keys_go_through_a_column_and_to_the_partner(demo):
    demo.keyboard.press("Tab")
    assert lit(demo) == ["f13", "b21"]
    demo.keyboard.press("j")
    assert lit(demo) == ["f14"]
    demo.keyboard.press("ArrowUp")
    demo.keyboard.press("ArrowRight")
    assert demo.evaluate("document.activeElement.dataset.id") == "b21"


def test_tokens_have_their_colours_and_lines_their_text(demo):
    lines = demo.eval_on_selector_all(".code:first-child .line", "found => found.map(each => each.textContent)")
    assert lines == ["def f(x):", '    """One', '    text."""', "    y = x * 2.5  # twice", "    return y"]
    kinds = "found => Object.fromEntries(found.map(each => [each.textContent, each.className]))"
    found = demo.eval_on_selector_all(".code:first-child .line span", kinds)
    assert found['text."""'] == "string"
    assert found["return"] == "keyword" and found["2.5"] == "digits" and found["# twice"] == "comment"
