"""Read: pages from the sources, opened from disk in a real browser."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from minillm.errors import UserError
from minillm.web.read import pages
from minillm.web.read.front import front_page
from minillm.web.read.ladder import rungs
from minillm.web.read.operation import OPERATIONS, kernel_sources, sources
from minillm.web.read.pages import facts, page_path, write_pages
from minillm.web.read.render import derivation_html, seen_html, short
from minillm.web.read.render import page as render
from minillm.web.read.stops import STOPS
from minillm.web.read.ties import ties
from minillm.web.read.tour import checks, right_choice
from minillm.web.read.values import observe

LIMIT = 200_000  # bytes of a page
SHOWN = ["embedding", "layer_norm", "residual", "attention", "gpt_page", "attention_naive"]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with the front page and some pages."""
    folder = tmp_path_factory.mktemp("read")
    write_pages(folder, SHOWN)
    return folder


@pytest.fixture
def opened(page, site):
    """Opens a page of the site. `page.requests` has all addresses that the browser asked for."""
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))

    def open_page(name):
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    return open_page


def lit(page):
    return page.eval_on_selector_all(".statement.lit", "found => found.map(each => each.dataset.id)")


def a_tie(name):
    """Identities of the first forward statement that has a partner, and of that partner."""
    tie = ties(OPERATIONS[name])[0]
    return f"L{tie.forward[0].first}", f"L{tie.backward.first}"


# --------------------------------------------------------------------------------------------------------- a page


def test_a_page_opens_from_disk_and_asks_for_nothing_else(opened, site):
    page = opened("layer_norm")
    assert page.title() == "layer_norm - minillm read"
    assert page.requests == [(site / "layer_norm.html").as_uri()]


def test_pointing_at_a_backward_line_lights_the_forward_line(opened):
    page = opened("layer_norm")
    forward, backward = a_tie("layer_norm")
    page.locator(f"[data-id={backward}]").hover()
    assert {forward, backward} <= set(lit(page))
    assert page.locator(f".forward [data-id={forward}]").count() == 1
    assert "tied to forward line" in page.locator("#said").inner_text()


def test_a_symbol_lights_in_derivation_forward_backward_and_kernel(opened):
    page = opened("layer_norm")
    page.locator(".forward .name[data-symbol=rstd]").first.hover()
    for column in (".derivation var", ".forward .name", ".backward .name", ".kernels .name"):
        assert page.locator(f"{column}.same").count() > 0, column
    assert set(page.eval_on_selector_all(".same", "found => found.map(each => each.dataset.symbol)")) == {"rstd"}


def test_the_button_of_a_symbol_holds_it(opened):
    page = opened("layer_norm")
    page.get_by_role("group", name="Symbols").get_by_role("button", name="rstd", exact=True).click()
    page.locator("h1").hover()
    assert page.locator(".backward .name.same").count() > 0
    page.keyboard.press("Escape")
    page.locator("h1").hover()
    page.get_by_role("button", name="Numbers").focus()
    assert page.locator(".backward .name.same").count() == 0


@pytest.mark.parametrize("name", ["layer_norm", "gpt_page"])
def test_the_numbers_of_a_line_are_those_of_the_pass(opened, name):
    page = opened(name)
    page.keyboard.press("n")
    beside = """found => found.map(each => {
        const lines = [...each.closest('.statement, .block').querySelectorAll('.line')].map(line => Number(line.dataset.n));
        return [Math.min(...lines), Math.max(...lines), each.innerText];
    })"""
    shown = page.eval_on_selector_all(".seen > div:has(b)", beside)
    functions = sources(OPERATIONS[name])
    expected = [seen for seen in observe(OPERATIONS[name]) if seen.function in functions]
    assert len(shown) == len(expected) > 20
    for seen in expected:
        text = unescape(re.sub(r"<[^>]+>", "", seen_html(seen)))
        assert any(first <= seen.line <= last and text == each for first, last, each in shown), seen


def test_numbers_are_beside_the_line_that_is_pointed_at(opened):
    page = opened("layer_norm")
    _, backward = a_tie("layer_norm")
    numbers = page.locator(f"[data-id={backward}] .seen")
    assert not numbers.is_visible()
    page.locator(f"[data-id={backward}]").hover()
    assert numbers.is_visible() and "norm" in numbers.inner_text()


def test_a_page_is_used_by_keyboard(opened):
    page = opened("layer_norm")
    forward, backward = a_tie("layer_norm")
    page.locator(f"[data-id={backward}]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.id") == forward
    page.keyboard.press("Enter")
    assert page.locator(f"[data-id={forward}]").get_attribute("aria-selected") == "true"
    page.keyboard.press("j")
    assert forward in lit(page), "what is pinned stays lit"
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("[")
    page.wait_for_url("**/embedding.html", wait_until="commit")


def test_backward_is_level_with_forward_or_in_the_order_of_its_file(opened):
    page = opened("layer_norm")
    forward, backward = a_tie("layer_norm")
    top = "(id) => document.querySelector(`[data-id=${id}]`).closest('.cell').getBoundingClientRect().top"
    assert abs(page.evaluate(top, forward) - page.evaluate(top, backward)) < 1
    lines = ".backward .code .line"
    tops = f"[...document.querySelectorAll('{lines}')].map(line => line.getBoundingClientRect().top)"
    level = page.evaluate(tops)
    page.keyboard.press("o")
    in_file = page.evaluate(tops)
    assert level != sorted(level) and in_file == sorted(in_file)


def test_the_head_of_a_block_stays_with_what_it_begins(opened):
    page = opened("attention")
    cell = "(text) => [...document.querySelectorAll('.backward .line')].find(line => line.textContent.trim() === text)"
    row = f"(text) => ({cell})(text).closest('.cell').style.gridRow"
    assert page.evaluate(row, "if factor is not None:") == page.evaluate(row, "dp *= factor")


def test_a_kernel_lights_the_forward_line_whose_formula_it_quotes(opened):
    page = opened("attention")
    page.locator(".kernels .statement[data-lights]").first.hover()
    text = page.locator(".forward .statement.lit .line").first.inner_text()
    assert text.strip().startswith("y = matmul(dropped(p, factor), v")


def test_a_formula_lights_with_the_statement_that_computes_it(opened):
    page = opened("attention")
    formula = page.locator(".derivation [data-defines=dv]").first
    formula.hover()
    statement = page.locator(".backward .statement.lit").first
    assert statement.inner_text().strip().startswith("dv = ")
    page.locator("h1").hover()
    statement = page.locator(f"[data-id={page.locator('.backward [data-computes=dv]').first.get_attribute('data-id')}]")
    statement.click()
    assert "lit" in formula.get_attribute("class")
    box, pane = formula.bounding_box(), page.locator(".derivation").bounding_box()
    assert pane["y"] <= box["y"] <= pane["y"] + pane["height"]


def test_a_partner_that_is_out_of_sight_is_scrolled_into_view(opened):
    page = opened("attention")
    kernel = page.locator(".kernels .statement[data-lights]").first
    pane = page.locator(".kernels").bounding_box()
    assert kernel.bounding_box()["y"] > pane["y"] + pane["height"]
    page.locator(f"[data-id={kernel.get_attribute('data-lights').split()[0]}]").click()
    assert pane["y"] <= kernel.bounding_box()["y"] < pane["y"] + pane["height"]


def test_a_narrow_screen_has_one_column_and_no_sideways_scrolling(opened):
    page = opened("layer_norm")
    page.set_viewport_size({"width": 390, "height": 800})
    for name in ("Derivation", "Forward", "Backward", "CUDA"):
        page.get_by_role("group", name="Columns").get_by_role("button", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        visible = {"Derivation": ".derivation", "CUDA": ".kernels"}.get(name, f".column.{name.lower()}")
        every = (".derivation", ".column.forward", ".column.backward", ".kernels")
        assert [each for each in every if page.locator(each).first.is_visible()] == [visible]


def test_on_a_narrow_screen_a_click_shows_the_partner_and_goes_there(opened):
    page = opened("layer_norm")
    page.set_viewport_size({"width": 390, "height": 800})
    forward, backward = a_tie("layer_norm")
    page.locator(f"[data-id={forward}]").click()
    page.locator("#partner button").first.click()
    assert page.evaluate("document.activeElement.dataset.id") == backward
    assert page.locator(f"[data-id={backward}]").is_visible()


def test_light_and_dark(opened):
    page = opened("layer_norm")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.keyboard.press("t")
    assert page.evaluate(background) != light
    dark = page.evaluate(background)
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate(background) == dark, "the choice is remembered"


# ---------------------------------------------------------------------------------------------------------- the tour


def answer(page, at, value):
    stop = page.locator(f".stop[data-stop='{at}']")
    if STOPS[at].choices:
        stop.locator(f"input[value='{value}']").check()
    else:
        stop.get_by_label("Number").fill(str(value))
    stop.get_by_role("button", name="Check").click()
    return stop.locator(".reply")


def test_a_wrong_answer_says_why_and_a_right_one_opens_the_next_stop(opened):
    page = opened("index")
    second = page.locator(".stop[data-stop='1'] .inside")
    right = right_choice(STOPS[0])
    wrong = (right + 1) % len(STOPS[0].choices)
    assert STOPS[0].choices[wrong].reply.replace("`", "") in answer(page, 0, wrong).inner_text().replace("`", "")
    assert not second.is_visible()
    answer(page, 0, right)
    assert second.is_visible()
    assert "only" not in answer(page, 1, "nonsense").inner_text()
    assert STOPS[1].slips[0][1].replace("`", "") in answer(page, 1, STOPS[1].slips[0][0]).inner_text().replace("`", "")
    answer(page, 1, checks(STOPS[1])["number"])
    assert page.locator(".stop[data-stop='2'] .inside").is_visible()


def test_progress_is_remembered_and_can_be_begun_again(opened):
    page = opened("index")
    answer(page, 0, right_choice(STOPS[0]))
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.locator(".stop[data-stop='1'] .inside").is_visible()
    assert "1 of 10" in page.locator("#progress").inner_text()
    page.get_by_role("button", name="Begin again").click()
    assert not page.locator(".stop[data-stop='1'] .inside").is_visible()


def test_all_stops_can_be_opened_and_answered_with_what_the_engine_computes(opened):
    page = opened("index")
    page.get_by_role("button", name="Open all").click()
    for at, stop in enumerate(STOPS):
        reply = answer(page, at, right_choice(stop) if stop.choices else f"{checks(stop)['number']:.3g}")
        assert "Right" in reply.inner_text(), stop.name
    assert "10 of 10" in page.locator("#progress").inner_text()


def test_the_tour_works_where_storage_is_refused(opened):
    page = opened("index")
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } })")
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    answer(page, 0, right_choice(STOPS[0]))
    assert page.locator(".stop[data-stop='1'] .inside").is_visible()


def test_every_stop_has_a_page_and_ten_questions_have_one_right_answer():
    assert len(STOPS) == 10
    assert all(stop.name in OPERATIONS for stop in STOPS)
    for stop in STOPS:
        assert stop.hint and (len(stop.choices) >= 3 or stop.slips and stop.reply)
        assert checks(stop)


def test_a_question_that_the_engine_does_not_settle_is_refused():
    same = replace(STOPS[0], choices=(STOPS[0].choices[1], STOPS[0].choices[1]))
    with pytest.raises(UserError, match="2 choices equal"):
        right_choice(same)
    with pytest.raises(UserError, match="among the wrong ones"):
        checks(replace(STOPS[1], slips=((0.75, "no"),)))


# -------------------------------------------------------------------------------------------------- accessibility


@pytest.mark.parametrize(
    ("name", "scheme"), [("index", "dark"), ("layer_norm", "light"), ("residual", "dark"), ("attention_naive", "light")]
)
def test_axe_finds_no_violation(opened, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e .[test-web]")
    page = opened(name)
    page.emulate_media(color_scheme=scheme)
    if name == "index":
        page.get_by_role("button", name="Open all").click()
    else:
        page.keyboard.press("n")
        page.locator(".statement[data-lights]").first.click()
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


# ---------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_page_is_small_and_links_to_nothing_outside(name, monkeypatch):
    monkeypatch.setattr(pages, "observe", observed_if_quick)
    text = render(OPERATIONS[name], facts(OPERATIONS[name]))
    assert len(text.encode()) < LIMIT
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def observed_if_quick(operation):
    """The numbers, but for the ladder, which is compiled for the simulator."""
    return [] if operation.group == "attention ladder" else observe(operation)


def test_the_front_page_links_every_page():
    text = front_page(OPERATIONS.values())
    assert len(text.encode()) < LIMIT
    assert all(f'href="{name}.html"' in text for name in OPERATIONS)


def test_lines_have_the_numbers_of_their_files(site):
    text = (site / "layer_norm.html").read_text(encoding="utf-8")
    source = Path(OPERATIONS["layer_norm"].home.__file__).read_text(encoding="utf-8").splitlines()
    pairs = text[text.index('<section class="pairs"') : text.index('<section class="kernels"')]
    shown = re.findall(r'<div class="line" data-n="(\d+)">(.*?)</div>', pairs)
    assert len(shown) > 30
    for number, line in shown:
        assert unescape(line) == source[int(number) - 1]


def test_every_line_of_a_function_and_a_kernel_is_shown_once(site):
    text = (site / "attention.html").read_text(encoding="utf-8")
    operation = OPERATIONS["attention"]
    expected = [number for source in sources(operation).values() for number in range(source.first, source.last + 1)]
    pairs = text[text.index('<section class="pairs"') : text.index('<section class="kernels"')]
    assert sorted(map(int, re.findall(r'data-n="(\d+)"', pairs))) == sorted(expected)
    kernels = text[text.index('<section class="kernels"') :]
    shown = len(re.findall(r'data-n="\d+"', kernels))
    blank = sum(not line for source in kernel_sources(operation).values() for line in source.lines)
    everything = sum(len(source.lines) for source in kernel_sources(operation).values())
    assert everything - blank <= shown <= everything


def test_a_fault_in_the_sources_leaves_the_old_pages(tmp_path, monkeypatch):
    write_pages(tmp_path / "read", ["residual"])
    before = {file.name: file.read_bytes() for file in (tmp_path / "read").iterdir()}
    source = Path(OPERATIONS["residual"].home.__file__).read_text(encoding="utf-8")
    (tmp_path / "faulty_residual.py").write_text(source.replace("# forward: x + branch", "#"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    faulty = replace(OPERATIONS["residual"], module="faulty_residual")
    monkeypatch.setitem(pages.OPERATIONS, "residual", faulty)
    with pytest.raises(UserError, match=r"faulty_residual\.py:\d+: `return \(dy, dy\)` needs the forward line"):
        write_pages(tmp_path / "read", ["linear", "residual"])
    assert {file.name: file.read_bytes() for file in (tmp_path / "read").iterdir()} == before


def test_a_wrong_shape_comment_fails_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "shape_problems", lambda operation: ["a.py:1: one", "a.py:2: two"])
    with pytest.raises(UserError, match=r"a\.py:1: one \(1 more\)"):
        write_pages(tmp_path / "read", ["residual"])
    assert not (tmp_path / "read").exists()


def test_pages_without_a_compiler_have_no_numbers_and_say_so(monkeypatch):
    from minillm.kernels.simulator.errors import CompilerMissing

    def observe(operation):
        raise CompilerMissing

    monkeypatch.setattr(pages, "observe", observe)
    assert "There are no numbers here: " in render(OPERATIONS["attention_naive"], facts(OPERATIONS["attention_naive"]))


def test_the_sampler_is_a_page_with_a_name(tmp_path):
    write_pages(tmp_path, ["sampler"])
    assert '<a href="index.html">all pages</a>' in page_path(tmp_path, "sampler").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_a_folder_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(pages, "check_sources", lambda operations: pytest.fail("the sources are read"))
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"file is a file\): choose another folder with --out"):
            write_pages(folder, ["residual"])


def test_the_system_refusing_a_file_is_an_error_with_a_cure(tmp_path, monkeypatch):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pages, "write_atomically", refuse)
    with pytest.raises(UserError, match=r"\(Permission denied\): choose another folder with --out"):
        write_pages(tmp_path, ["residual"])


def test_the_theme_is_kept_from_page_to_page(opened, site):
    write_pages(site, ["sampler"])
    opened("layer_norm").click("#theme")
    assert opened("index").evaluate("document.documentElement.dataset.theme") == "dark"
    page = opened("index")
    page.goto((site / "sampler.html").as_uri())
    page.wait_for_selector("html[data-theme=dark]", state="attached")


def test_an_unknown_name_is_refused_with_the_names(tmp_path):
    with pytest.raises(UserError, match=r'"layernorm" \(did you mean layer_norm\?\): use linear, '):
        page_path(tmp_path, "layernorm")


def formulas(text):
    """The lines of formulas of a derivation: whether it goes on from the line above, and its steps."""
    lines = re.findall(r'<div class="(formula[^"]*)">(.*?)</div>', derivation_html(text, {}))
    steps = [re.findall(r"<span>(.*?)</span>", inside) for _, inside in lines]
    return [(kind == "formula further", here) for (kind, _), here in zip(lines, steps)]


def test_each_equation_begins_a_line_and_its_steps_stay_whole():
    text = """
    m = x / C        r = 1 / s
    dr/dx     = -a b = -r^3      by v
              = -r^2 n      since x = n / r"""
    assert formulas(text) == [
        (False, ["m = x / C"]),
        (False, ["r = 1 / s"]),
        (False, ["dr/dx     = -a b", "= -r^3", "by v"]),
        (True, ["= -r^2 n", "since x = n / r"]),
    ]


def test_a_gradient_is_one_symbol_and_a_slope_has_two():
    known = {"dL/dz_j": "dlogits", "dx_i": "dx", "x_i": "x", "rstd": "rstd", "g": "gate", "dg": "dgate", "m": "m"}
    html = derivation_html("    dL/dz_j = 1/m\n    drstd/dx_i = 1\n    dx_i = d(g x_i)/dg m^", known)
    assert re.findall("<var>(.*?)</var>", html) == ["dL/dz_j", "m", "rstd", "x_i", "dx_i", "g", "x_i", "g", "m"]
    assert re.findall('data-defines="(.*?)"', html) == ["dlogits", "dx"]


def test_a_label_keeps_its_equations_beside_it():
    assert formulas('    "tanh"      y = x s      s = t,  t = u = v') == [
        (False, ['"tanh"', "y = x s", "s = t,  t = u = v"])
    ]


def test_the_comment_above_the_first_statement_is_level_with_it(opened):
    page = opened("gpt_page")
    line = "[...document.querySelectorAll('.backward .line')].find((line) => line.textContent.includes(text))"
    row = f"(text) => {line}.closest('.cell').style.gridRow"
    assert page.evaluate(row, "# forward: x @ weight + bias") == page.evaluate(row, "dx = dy @ weight.T")
    assert page.evaluate(row, "def linear_backward") != page.evaluate(row, "dx = dy @ weight.T")


def test_the_ladder_says_what_each_rung_gains():
    names = [f"attention_{rung.name}" for rung in rungs()]
    assert names == [name for name, each in OPERATIONS.items() if each.group == "attention ladder"]
    text = pages.ladder_html(OPERATIONS["attention_tiled"])
    assert '<tr aria-current="page"><th scope="row">tiled</th>' in text
    assert "27.4x" in text  # 20,635,136 / 753,664


def test_numbers_are_short():
    assert [short(number) for number in (0.0012346, -2.0, float("inf"))] == ["0.001235", "-2", "inf"]


def test_a_symbol_has_the_spellings_of_every_column():
    spelled = facts(OPERATIONS["layer_norm"]).symbols
    assert spelled["derivation"]["n_i"] == spelled["code"]["normed"] == spelled["kernel"]["normed"] == "normed"
    assert spelled["code"]["dy_rows"] == spelled["kernel"]["dy"] == "dy"
