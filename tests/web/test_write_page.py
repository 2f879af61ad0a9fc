"""The view Write in a browser."""

import json
import re

import pytest
from generated import PROMPT, generated

pytest.importorskip("starlette", reason="the page needs starlette: pip install -e .[test-web]")

from minillm.lessons.small_model import small_model

LONG = 120_000  # milliseconds that a text longer than the context may take on a loaded machine


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e .[test-web]").expect


@pytest.fixture
def view(page, play):
    """Write with PROMPT, before the first token."""
    return opened(page, play)


def opened(page, play):
    page.goto(play)
    page.locator(".stages tbody tr").first.wait_for()
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    page.get_by_role("button", name="Begin").click()
    page.locator("#text .prompt", has_text=PROMPT).wait_for()
    return page


def button(view, name):
    return view.get_by_role("button", name=name, exact=True)


def wait_written(view, count):
    view.locator("#write-status", has_text=f", {count} written").wait_for()


def texts_of(locator):
    return locator.all_inner_texts()


def tokens_of(view):
    """The tokens that are written, without those of a continuation that was left."""
    return texts_of(view.locator("#text .tokens .token:not(.next):not(.later)"))


def shown(text):
    return text.replace("\n", "⏎\n")


def stage_names(view):
    return [text.split("\n")[0] for text in texts_of(view.locator(".stages thead tr:first-child th"))][1:]


def set_number(view, name, value):
    view.locator(f"#set-{name}").fill(str(value))


def figures(view):
    """tokens kept, mass removed, entropy, choices: the columns of each."""
    return [texts_of(row.locator("td")) for row in view.locator(".stages .figures").all()]


# -------------------------------------------------------------------------------------------------------------- writing


def test_the_text_and_its_figures_are_those_of_generate(view, expect):
    """Token by token, ten at once, and the columns of a token that is looked at again."""
    for name, value in {"seed": 3, "top_k": 30, "top_p": 0.9}.items():
        set_number(view, name, value)
    expect(view.locator(".stages thead tr:first-child th")).to_have_count(5)
    for count in range(1, 4):
        button(view, "One token").click()
        wait_written(view, count)
    button(view, "Ten").click()
    wait_written(view, 13)
    expected = generated(*"--trace --seed 3 --top-k 30 --top-p 0.9".split(), tokens=13)
    pieces = [small_model().tokenizer.piece(token) for token in expected["ids"]]
    assert tokens_of(view) == [shown(piece) for piece in pieces]

    view.locator("#text .tokens .token").nth(6).click()
    view.locator("#write-heading", has_text="(token 7) was chosen").wait_for()
    trace = expected["trace"][6]
    kept, removed, entropy, choices = figures(view)
    assert stage_names(view) == [stage["name"] for stage in trace["stages"]]
    assert [int(text.replace(",", "")) for text in kept] == [stage["kept"] for stage in trace["stages"]]
    assert entropy == [f"{stage['entropy']:.3f}" for stage in trace["stages"]]
    assert [float(text) for text in choices] == pytest.approx([s["choices"] for s in trace["stages"]], abs=0.06)
    assert [float(text.split()[0]) for text in removed] == pytest.approx(
        [100 * stage["removed"] for stage in trace["stages"]], abs=0.06
    )
    sentence = view.locator(".draw p").inner_text()
    assert f"{trace['drawn']:.6f} falls into [{trace['first']:.6f}, {trace['past']:.6f})" in sentence


def test_the_number_drawn_falls_into_the_interval_of_the_token(view, expect):
    for count in range(1, 6):
        drawn, first, past = map(float, re.findall(r"\d\.\d{6}", view.locator(".draw p").inner_text()))
        assert first <= drawn < past
        marker = float(view.locator(".intervals line").get_attribute("x1").rstrip("%"))
        box = view.locator(".intervals rect.drawn")
        left, width = (float(box.get_attribute(name).rstrip("%")) for name in ("x", "width"))
        assert left <= marker <= left + width and marker == pytest.approx(100 * drawn, abs=1e-3)
        button(view, "One token").click()
        wait_written(view, count)


def test_a_token_is_drawn_once(view, expect):
    """Not a second time before its answer has come: the browser lays out all of the text and of the table."""
    button(view, "One token").click()
    wait_written(view, 1)
    view.evaluate("""() => {
      window.drawn = 0;
      new MutationObserver(() => { drawn += 1; }).observe(document.querySelector("#text .tokens"), { childList: true });
    }""")
    for count in (2, 3):
        button(view, "One token").click()
        wait_written(view, count)
    assert view.evaluate("new Promise((drawnAll) => requestAnimationFrame(() => drawnAll(drawn)))") == 2


def test_a_setting_changes_the_stages_at_once(view, expect):
    asked = []
    view.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[1]))
    assert stage_names(view) == ["model", "temperature"]
    set_number(view, "min_p", 0.2)
    expect(view.locator(".stages thead tr:first-child th")).to_have_count(4)
    assert stage_names(view) == ["model", "temperature", "min_p"] and view.locator(".stages .gone").count() > 0
    view.get_by_label("temperature, slider").fill("0")
    view.locator(".draw p", has_text="Temperature 0: the token of the largest logit").wait_for()
    assert set(asked) == {"next"}


def test_the_order_changes_the_columns(view, expect):
    for name, value in {"top_k": 20, "min_p": 0.01}.items():
        set_number(view, name, value)
    orders = {
        "minillm": ["model", "temperature", "top_k", "min_p"],
        "vllm": ["model", "temperature", "min_p", "top_k"],
        "llama.cpp": ["model", "top_k", "min_p", "temperature"],
        "hf": ["model", "temperature", "top_k", "min_p"],
    }
    for order, names in orders.items():
        view.locator("#set-order").select_option(order)
        for at, name in enumerate(names, start=1):
            expect(view.locator(".stages thead tr:first-child th").nth(at)).to_contain_text(name)
        assert stage_names(view) == names


def test_back_branch_and_return(view, expect):
    button(view, "Ten").click()
    wait_written(view, 10)
    first = tokens_of(view)
    for count in range(9, 5, -1):
        button(view, "Back").click()
        wait_written(view, count)
    assert texts_of(view.locator("#text .later")) == first[6:]
    rows = view.locator(".stages .token")
    other = next(row for row in rows.all() if "drawn" not in row.inner_text() and shown(row.inner_text()) != first[6])
    other.click()
    wait_written(view, 7)
    expect(view.locator(".branches .branch")).to_have_count(2)
    assert tokens_of(view)[:6] == first[:6] and tokens_of(view)[6] != first[6]
    assert view.locator("#text .by-hand").count() == 1
    button(view, "Draw again").click()
    expect(view.locator(".branches .branch")).to_have_count(3)
    assert view.locator("#set-seed").input_value() != "0"
    view.locator(".branches .branch").first.click()
    wait_written(view, 10)
    assert tokens_of(view) == first


def test_a_chosen_token_is_looked_at_and_replaced(view, expect):
    """Another token in the middle of the text, from its own table."""
    button(view, "Ten").click()
    wait_written(view, 10)
    first = tokens_of(view)
    view.locator("#text .tokens .token").nth(2).click()
    view.locator("#write-heading", has_text="(token 3) was chosen").wait_for()
    set_number(view, "top_k", 15)
    view.locator("#write-heading", has_text="(token 3) would be chosen with these settings").wait_for()
    view.locator(".stages .token:not(:has(.mark))").first.click()
    wait_written(view, 3)
    assert tokens_of(view)[:2] == first[:2] and tokens_of(view)[2] != first[2]


def test_it_runs_until_it_is_stopped(view, expect):
    button(view, "Run").click()
    slid = view.locator("#write-status", has_text=re.compile(r"the oldest \d+ of the text slid out of view"))
    slid.wait_for(timeout=LONG)
    set_number(view, "top_k", 5)  # a run goes on with the new settings
    expect(view.locator(".stages thead tr:first-child th")).to_have_count(4)
    written = len(tokens_of(view))
    view.locator("#text .tokens .token").nth(written + 5).wait_for()
    button(view, "Stop").click()
    button(view, "Run").wait_for()
    count = len(tokens_of(view))
    button(view, "One token").click()
    wait_written(view, count + 1)
    assert view.locator("#text .unseen").count() > 0


def test_the_keyboard(view, expect):
    text = view.get_by_role("listbox", name="Tokens of the text")
    text.focus()
    for count, key in enumerate(("Space", "Enter", "Space"), start=1):
        view.keyboard.press(key)
        wait_written(view, count)
    view.keyboard.press("ArrowLeft")
    view.locator("#write-heading", has_text="(token 3) was chosen").wait_for()
    assert text.get_attribute("aria-activedescendant") == view.locator("#text [aria-selected=true]").get_attribute("id")
    view.keyboard.press("Home")
    view.locator("#write-heading", has_text="(token 1) was chosen").wait_for()
    view.keyboard.press("End")
    view.locator("#write-heading", has_text="How the next token is chosen").wait_for()
    view.keyboard.press("Backspace")
    wait_written(view, 2)
    view.keyboard.press("ArrowRight")  # into the continuation that was left
    wait_written(view, 3)
    view.get_by_role("textbox", name="Prompt").focus()
    view.keyboard.press("Control+Enter")
    wait_written(view, 0)


# --------------------------------------------------------------------------------------------------------------- errors


def test_what_is_wrong_is_said(view, expect):
    alert = view.get_by_role("alert")
    set_number(view, "top_p", 7)
    alert.get_by_text("top_p is 7: it must be a number above 0 and at most 1").wait_for()
    view.locator("#write-heading", has_text="No token can be chosen").wait_for()
    button(view, "One token").click()
    alert.get_by_text("top_p is 7").wait_for()
    set_number(view, "top_p", 0.9)
    expect(alert).to_be_empty()
    view.get_by_role("textbox", name="Prompt").fill("")
    button(view, "Begin").click()
    alert.get_by_text("the prompt is empty: write a word").wait_for()
    view.get_by_role("textbox", name="Prompt").fill("A 世界")
    button(view, "Begin").click()
    expect(alert).to_be_empty()


def test_the_server_forgets_and_the_page_does_not(view, play, expect):
    """Tabs have texts of their own; more tabs than the server keeps texts lose nothing."""
    button(view, "Ten").click()
    wait_written(view, 10)
    before = tokens_of(view)
    for _ in range(5):
        other = view.context.new_page()
        opened(other, play)
        button(other, "One token").click()
        wait_written(other, 1)
        other.close()
    button(view, "One token").click()
    wait_written(view, 11)
    expected = generated(tokens=11)["ids"]
    assert tokens_of(view)[:10] == before
    assert tokens_of(view) == [shown(small_model().tokenizer.piece(token)) for token in expected]


def test_another_view_and_back(view, expect):
    button(view, "Ten").click()
    wait_written(view, 10)
    before = tokens_of(view)
    view.get_by_role("link", name="Tokens").click()
    view.locator("#tokens").wait_for()
    view.get_by_role("link", name="Write").click()
    wait_written(view, 10)
    assert tokens_of(view) == before


# --------------------------------------------------------------------------------------------------- narrow, accessible


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_and_accessibility(page, play, scheme, expect):
    axe_module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    view = opened(page, play)
    view.locator("summary", has_text="Settings").click()
    set_number(view, "top_k", 10)
    button(view, "Ten").click()
    wait_written(view, 10)
    button(view, "Draw again").click()
    expect(view.locator(".branches .branch")).to_have_count(2)
    button(view, "Back").click()
    wait_written(view, 9)
    for part in ("Sampler", "Beam search", "Speculative decoding"):
        button(view, part).click()
        if part == "Beam search":
            button(view, "Search").click()
            view.locator(".found .best").wait_for()
        if part == "Speculative decoding":
            button(view, "Write").click()
            view.locator(".sums dd").first.wait_for()
        assert view.evaluate("() => document.documentElement.scrollWidth") == 390
        found = axe_module.Axe().run(view).response["violations"]
        assert not found, json.dumps([(each["id"], [node["html"] for node in each["nodes"]]) for each in found])[:3000]
