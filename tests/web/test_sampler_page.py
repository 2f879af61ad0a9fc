"""The static page of the sampler, in a real browser: it opens from disk, and its address holds its state."""

import base64
import json
import re
import zlib

import numpy as np
import pytest

from minillm.lessons.small_model import small_model
from minillm.sampler import History, Sampler
from minillm.web.read import sampler_page
from minillm.web.read.sampler_page import POSITIONS, STEPS, bytes_of, saved_text

LARGEST = 200_000  # bytes of the page
EXAMPLE = {"temperature": 0.7, "repetition_penalty": 1.25, "top_k": 30, "top_p": 0.85, "order": "hf"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / sampler_page.NAME
    path.write_text(sampler_page.sampler_page(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(page, address):
    """Opens the page at a state: its settings, position and number."""

    def open_page(**state):
        page.goto("about:blank")
        page.goto(f"{address}#{'&'.join(f'{name}={value}' for name, value in state.items())}")
        page.wait_for_selector(".stages tbody tr")
        return page

    return open_page


def columns(page):
    """Stage -> (tokens kept, mass removed in percent, entropy, choices), as the page shows them."""
    names, kept, removed, entropy, choices = (
        [cell.text_content() for cell in row.locator("th, td").all()[1:]]
        for row in page.locator(".stages thead tr").all()
    )
    notes = [cell.text_content() for cell in page.locator(".stages thead th[scope=col]").all()[1:]]
    spans = page.locator(".stages thead th[scope=col] span").all_text_contents()
    names = [name.removesuffix(note) for name, note in zip(notes, [*spans, *[""] * len(notes)])]
    figures = ([number(text) for text in each] for each in (kept, removed, entropy, choices))
    return dict(zip(names, zip(*figures)))


def number(text):
    return float(re.sub(r"[ ,%]", "", text))


def expected(position, settings):
    """The same from the sampler."""
    saved = saved_text()
    history = History([[*saved.prompt, *saved.text[:position]]], [len(saved.prompt)])
    [traced] = Sampler(**settings).trace(saved.logits[position][None], history)
    return {stage.name: (stage.kept, 100 * stage.removed, stage.entropy, stage.choices) for stage in traced.stages}


def assert_shows(page, position, settings):
    shown, wanted = columns(page), expected(position, settings)
    assert list(shown) == list(wanted)
    for name, (kept, removed, entropy, choices) in wanted.items():
        assert shown[name][0] == kept
        assert shown[name][1] == pytest.approx(removed, abs=0.051), name  # one decimal from 10 % on
        assert shown[name][2] == pytest.approx(entropy, abs=5.1e-4), name
        assert shown[name][3] == pytest.approx(choices, rel=1e-3, abs=5.1e-3), name


def violations(page):
    """What axe-core finds, in words."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e .[test-web]")
    found = axe.Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]


def test_it_opens_from_disk_and_asks_for_nothing_else(page, address):
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    page.wait_for_selector(".stages tbody tr")
    assert requested == [address]


def test_it_is_small():
    assert len(sampler_page.sampler_page("index.html").encode()) < LARGEST


def test_the_saved_logits_are_the_models():
    """As saved they differ from the model's by rounding alone, and what is packed is what is saved."""
    saved, small = saved_text(), small_model()
    assert saved.logits.shape == (POSITIONS, small.model.config.vocab_size) and len(saved.text) == POSITIONS
    for position in (0, 150):
        before = [*saved.prompt, *saved.text[:position]][-small.model.config.context_length :]
        own = small.model.next_token_logits(np.array([before]))[0]
        assert np.abs(own - saved.logits[position]).max() <= 0.5 / STEPS + 1e-5
    assert (saved.logits * STEPS == np.round(saved.logits * STEPS)).mean() > 0.5
    page = sampler_page.sampler_page()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert zlib.decompress(base64.b64decode(data["logits"])) == bytes_of(saved.logits)
    words = json.loads(zlib.decompress(base64.b64decode(data["words"])))
    assert words["text"] == saved.text and "".join(words["pieces"][i] for i in words["text"][:3]).strip()


@pytest.mark.parametrize("position", [0, 63, 199])
def test_the_stages_are_those_of_the_sampler(open_page, position):
    """Read from the packed logits in the page; what is shown are the sampler's figures for the same position."""
    assert_shows(open_page(position=position, u=0.25, **EXAMPLE), position, EXAMPLE)


def test_the_address_restores_the_state(open_page):
    settings = EXAMPLE | {"logit_bias": "12:-inf,40:1.5", "banned_tokens": "7,9"}
    page = open_page(position=17, u=0.123, picked=40, **settings)
    assert page.locator("#position").input_value() == "17" and page.locator("#u").input_value() == "0.123"
    for name, value in settings.items():
        assert page.locator(f"#set-{name}").input_value().replace(", ", ",") == str(value)
    assert page.locator('.stages [aria-pressed="true"]').get_attribute("data-id") == "40"
    first, shown = page.url, page.locator(".stages").inner_text()
    page.get_by_role("button", name="Next", exact=True).click()
    page.locator("#set-top_k").fill("3")
    assert "position=18" in page.url and "top_k=3" in page.url and "picked" not in page.url
    page.evaluate("(address) => { location.href = address; }", first)
    page.wait_for_function("document.getElementById('position').value === '17'")
    assert page.locator(".stages").inner_text() == shown and page.locator("#set-top_k").input_value() == "30"


def test_an_address_that_makes_no_sense_opens_what_does(open_page):
    page = open_page(position=5000, u=7, top_k="many", order="mine", logit_bias="a:b")
    assert page.locator("#position").input_value() == "199"
    assert_shows(page, 199, {})


def test_a_slider_changes_the_columns(open_page):
    page = open_page(position=63, top_k=30)
    page.get_by_label("top_k, slider").press("ArrowRight")
    assert_shows(page, 63, {"top_k": 31})
    page.get_by_label("temperature, slider").press("ArrowLeft")
    assert_shows(page, 63, {"top_k": 31, "temperature": 0.95})
    page.get_by_label("top_k, slider").press("Home")
    assert_shows(page, 63, {"temperature": 0.95})
    assert "top_k" not in page.url
    page.get_by_role("button", name="Reset all settings").click()
    assert_shows(page, 63, {})
    assert re.search(r"#position=63&u=0\.5$", page.url)


def test_what_an_order_lacks_cannot_be_set(open_page):
    page = open_page(position=63, typical_p=0.5, top_k=9)
    page.locator("#set-order").select_option("vllm")
    assert (
        page.locator("#set-typical_p").is_disabled() and page.locator("#note-typical_p").inner_text() == "not in vllm"
    )
    assert_shows(page, 63, {"top_k": 9, "order": "vllm"})
    page.locator("#set-order").select_option("llama.cpp")
    assert_shows(page, 63, {"top_k": 9, "typical_p": 0.5, "order": "llama.cpp"})


def test_a_setting_that_cannot_be_is_named(open_page):
    page = open_page(position=63)
    page.locator("#set-min_tokens").fill("4")
    assert page.get_by_role("alert").inner_text().startswith("min_tokens needs end_tokens")
    page.locator("#set-end_tokens").fill("10, x")
    assert page.locator("#note-end_tokens").inner_text() == "write ids: 12, 40"
    page.locator("#set-end_tokens").fill("10")
    assert page.get_by_role("alert").inner_text() == ""


def test_the_number_falls_into_the_interval_of_the_token_drawn(open_page):
    page = open_page(position=63, u=0.5, top_k=5)
    drawn = page.locator("tr", has=page.locator(".mark", has_text="drawn")).locator("button").get_attribute("data-id")
    logits = saved_text().logits[63][None]
    traces = (Sampler(top_k=5, seed=seed).trace(logits)[0] for seed in range(50))
    traced = next(trace for trace in traces if trace.token == int(drawn))
    first, past = re.search(r"\[([\d.]+), ([\d.]+)\)", page.locator(".draw p").inner_text()).groups()
    assert (float(first), float(past)) == pytest.approx((traced.first, traced.past), abs=2e-6)
    page.get_by_label("The number drawn").press("Home")
    assert page.locator("#u").input_value() == "0" and "falls into [0.000000" in page.locator(".draw p").inner_text()
    page.get_by_role("button", name="Draw", exact=True).click()
    assert 0 < float(page.locator("#u").input_value()) < 1
    page.locator("#set-temperature").fill("0")
    assert (
        "the largest logit" in page.locator(".draw p").inner_text()
        and page.get_by_label("The number drawn").is_hidden()
    )


def test_the_strip_has_the_interval_of_every_likely_token(open_page):
    page = open_page(position=63, u=0.5, top_k=5)
    p = Sampler(top_k=5).probabilities(saved_text().logits[63][None])[0]
    widths = [float(each.get_attribute("width").rstrip("%")) for each in page.locator(".intervals rect").all()]
    assert widths == pytest.approx(100 * p[p >= 0.002], abs=1e-3)
    assert page.locator(".intervals rect.drawn").count() == 1


def test_a_window_of_0_is_all_of_the_text(open_page):
    """In llama.cpp, where a window that is not given has 64 tokens."""
    settings = {"repetition_penalty": 1.5, "order": "llama.cpp"}
    page = open_page(position=150, **settings)
    assert_shows(page, 150, settings)
    page.locator("#set-penalty_window").fill("0")
    assert_shows(page, 150, settings | {"penalty_window": 0})
    assert expected(150, settings) != expected(150, settings | {"penalty_window": 0})


def test_the_chosen_token_is_in_view(open_page):
    for position in (0, 199, 3):
        page = open_page(position=position)
        frame, word = page.locator(".text").bounding_box(), page.locator(f"#word-{position}").bounding_box()
        assert frame["y"] <= word["y"] and word["y"] + word["height"] <= frame["y"] + frame["height"]
    for key, position in (("End", 199), ("Home", 0)):
        page.get_by_role("listbox").press(key)
        word = page.locator(f"#word-{position}").bounding_box()
        assert frame["y"] <= word["y"] and word["y"] + word["height"] <= frame["y"] + frame["height"]


def test_mirostat_remembers_what_was_drawn(open_page):
    page = open_page(position=63, u=0.5, mirostat_tau=3, mirostat_eta=0.5)
    assert page.get_by_label("mirostat's μ, bits").input_value() == "6"
    drawn = float(re.search(r"probability ([\d.]+) %", page.locator(".draw p").inner_text())[1]) / 100
    page.get_by_role("button", name="Take it and go on").click()
    assert page.locator("#position").input_value() == "64"
    bits = float(page.get_by_label("mirostat's μ, bits").input_value())
    assert bits == pytest.approx(6 - 0.5 * (-np.log2(drawn) - 3), abs=0.05) and "mu=" in page.url


def test_a_token_is_looked_at_banned_and_preferred(open_page):
    page = open_page(position=63)
    row = page.locator(".stages tbody button").nth(1)
    token = row.get_attribute("data-id")
    row.click()
    page.get_by_role("button", name="Ban it").click()
    assert page.locator("#set-logit_bias").input_value() == f"{token}:-inf"
    assert "removed by logit_bias" in page.locator(".lens").inner_text()
    assert_shows(page, 63, {"logit_bias": {int(token): -np.inf}})
    page.get_by_role("button", name="No bias").click()
    page.get_by_role("button", name="+1").click()
    page.get_by_role("button", name="+1").click()
    assert_shows(page, 63, {"logit_bias": {int(token): 2}})


def test_the_whole_text_is_surveyed(open_page):
    """How many of the tokens that came are removed, and the perplexity of the others."""
    page = open_page(position=63, top_k=2)
    saved = saved_text()
    p = Sampler(top_k=2).probabilities(saved.logits)[np.arange(POSITIONS), saved.text]
    perplexity = np.exp(-np.log(p[p > 0]).mean())
    words = f"removed at {(p == 0).sum()} of 200 positions (struck out); where it is left, the perplexity is {perplexity:.2f}."
    page.get_by_text(words).wait_for()
    assert page.locator(".text .lost").count() == (p == 0).sum()


def test_by_keyboard_alone(open_page):
    page = open_page(position=20)
    page.get_by_role("listbox").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#position").input_value() == "21"
    assert page.locator('.text [aria-selected="true"]').get_attribute("id") == "word-21"
    page.locator(".stages tbody button[tabindex='0']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    focused = page.evaluate("document.activeElement.dataset.id")
    assert page.locator(".stages tbody button").nth(1).get_attribute("data-id") == focused
    assert page.locator('.stages [aria-pressed="true"]').get_attribute("data-id") == focused
    assert page.locator(".stages tbody button[tabindex='0']").count() == 1


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_it_fits_the_screen_and_all_can_use_it(open_page, page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    open_page(position=63, xtc_probability=0.5, mirostat_tau=3, **(EXAMPLE | {"order": "minillm"}))
    page.get_by_text("With these settings").wait_for()
    if width == 390:
        page.get_by_text("Settings", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []


def test_a_link_to_the_front_page():
    assert '<a href="index.html">all pages</a>' in sampler_page.sampler_page("index.html")
    assert "<a " not in sampler_page.sampler_page()


def test_a_survey_that_fails_names_the_position(open_page):
    """At the first position nothing is written yet, so that no penalty acts; afterwards a logit becomes infinite."""
    token = saved_text().text[0]
    page = open_page(position=0, logit_bias=f"{token}:3e38", presence_penalty="-3e38")
    page.get_by_text(f"At position 1: logits[0, {token}] is inf after presence_penalty").wait_for()
    assert page.get_by_role("alert").inner_text() == ""
    page.get_by_role("button", name="Next", exact=True).click()
    assert "is inf after presence_penalty" in page.get_by_role("alert").inner_text()


def test_light_and_dark(open_page):
    page = open_page(position=63)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="light or dark").click()
    assert page.evaluate(colour) != light
