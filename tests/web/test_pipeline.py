"""The table of stages (look/pipeline.js): an update writes into the nodes that there are, and leaves nothing behind."""

import pytest

from minillm.web.page import LOOK, plain_script

SCRIPTS = [LOOK / f"{name}.js" for name in ("dom", "pipeline_table", "pipeline")]
# Rows and columns as text, and the whole element without attributes that are empty.
SHOWN = """
function htmlOf(element) {
  return element.outerHTML.replaceAll(/ (class|style)=""/g, "");
}
"""


def stage(name, tokens, note="", kept=50):
    """tokens: id -> probability, None where it is removed."""
    rest = 1 - sum(p or 0 for p in tokens.values())
    rows = [{"id": each, "text": f" t{each}", "p": p} for each, p in tokens.items()]
    figures = {"kept": kept, "removed": 0.1, "entropy": 1.5, "choices": 4.48}
    return {"name": name, "note": note, "tokens": rows, "rest": rest, **figures}


def draw(token, u=0.3):
    return {"u": u, "first": 0.25, "past": 0.5, "token": token, "text": f" t{token}", "p": 0.25}


MODEL = stage("model", {1: 0.5, 2: 0.25, 3: 0.125})
WARM = stage("temperature", {1: 0.4, 2: 0.3, 3: 0.2}, "0.8")
TOP_K = stage("top_k", {1: 0.6, 2: 0.4, 3: None}, "2", kept=2)
TOP_P = stage("top_p", {1: 1.0, 2: None, 3: None}, "0.5", kept=1)
OTHERS = stage("model", {7: 0.5, 2: 0.25, 8: 0.125, 9: 0.01, 1: 0.005})
UPDATES = {
    "at first": ([MODEL, WARM, TOP_K, TOP_P], {"draw": draw(1), "came": 2, "picked": 2, "hears": True}),
    "the same": ([MODEL, WARM, TOP_K, TOP_P], {"draw": draw(1), "came": 2, "picked": 2, "hears": True}),
    "a stage less": ([MODEL, TOP_K, TOP_P], {"draw": draw(2), "came": 1, "picked": 3, "hears": True}),
    "another order": ([MODEL, TOP_P, TOP_K, WARM], {"draw": draw(1), "picked": 1, "hears": True}),
    "other tokens, and more": ([OTHERS], {"draw": draw(7), "came": 9, "hears": True}),
    "a cut that had a bar": ([MODEL, TOP_K], {"draw": draw(2)}),
    "fewer tokens": ([stage("model", {4: 1.0}, kept=1)], {"draw": draw(4, u=None)}),
    "a token that a stage does not name": ([MODEL, stage("top_k", {1: 1.0})], {"hears": True}),
    "nothing": ([], {}),
    "all again": ([MODEL, WARM, TOP_K, TOP_P], {"draw": draw(1), "came": 1, "picked": 1, "hears": True}),
}


@pytest.fixture
def view(page):
    """A page with `shown`, a pipeline that is updated by `update(stages, options)`; `picked` has what was chosen."""
    page.set_content("<!doctype html><main></main>")
    source = "\n".join(plain_script(path.read_text(encoding="utf-8")) for path in SCRIPTS)
    page.add_script_tag(
        content=f"""{source}{SHOWN}
        window.picked = [];
        const heard = (options) => ({{ ...options, onPick: options.hears ? (id) => picked.push(id) : undefined }});
        window.shown = pipeline([]);
        window.update = (stages, options) => shown.update(stages, heard(options));
        window.html = () => htmlOf(shown);
        window.fresh = (stages, options) => htmlOf(pipeline(stages, heard(options)));
        document.querySelector("main").append(shown);""",
        type="module",
    )
    page.wait_for_function("window.shown !== undefined")
    return page


def update(view, name):
    view.evaluate("([stages, options]) => update(stages, options)", UPDATES[name])


def test_what_is_updated_is_as_if_it_were_made_anew(view):
    """A stage that disappears, another order, fewer tokens, marks: nothing of what was shown before is left."""
    for name, (stages, options) in UPDATES.items():
        update(view, name)
        fresh = view.evaluate("([stages, options]) => fresh(stages, options)", [stages, options])
        assert view.evaluate("html()") == fresh, name


def test_the_nodes_stay(view):
    """Of two tables the second is written into the cells, rows and texts of the first, as far as they reach."""
    update(view, "at first")
    view.evaluate("""() => {
      window.before = [...shown.querySelectorAll(".stages *")];
      window.texts = [...shown.querySelectorAll(".stages td")].map((cell) => cell.firstChild);
    }""")
    count = view.evaluate("before.length")
    update(view, "the same")
    assert (
        view.evaluate("[...shown.querySelectorAll('.stages *')].filter((each, at) => each !== before[at]).length") == 0
    )
    update(view, "other tokens, and more")
    assert view.evaluate("before.filter((each) => each.matches('tr') && !each.isConnected).length") == 0
    assert view.evaluate("[...shown.querySelectorAll('tbody tr')].filter((row) => before.includes(row)).length") == 3
    assert (
        view.evaluate("texts.filter((text) => text.isConnected).length") == 4 + 3 + 1
    )  # a column: figures, rows, foot
    assert count > 50


def test_an_update_that_changes_nothing_touches_nothing(view):
    update(view, "at first")
    view.evaluate("""() => {
      window.changes = 0;
      const all = { subtree: true, childList: true, characterData: true };
      new MutationObserver((found) => { changes += found.length; }).observe(shown.querySelector(".stages"), all);
    }""")
    update(view, "the same")
    assert view.evaluate("Promise.resolve().then(() => changes)") == 0
    update(view, "a stage less")
    assert view.evaluate("Promise.resolve().then(() => changes)") > 0


def test_a_row_chooses_the_token_that_it_has_now(view):
    update(view, "at first")
    view.locator(".stages tbody button").first.click()
    update(view, "other tokens, and more")
    view.locator(".stages tbody button").first.click()
    view.locator(".stages tbody button .mark").first.click()
    assert view.evaluate("picked") == [1, 7, 7]
    update(view, "a cut that had a bar")  # nothing is chosen here
    view.locator(".stages tbody button").first.click()
    assert view.evaluate("picked") == [1, 7, 7]


def test_the_focus_goes_with_its_token(view):
    focused = "document.activeElement.dataset.id"
    update(view, "at first")
    view.locator(".stages tbody button").nth(0).focus()
    update(view, "other tokens, and more")
    assert view.evaluate(focused) == "1"  # in the last row now
    update(view, "fewer tokens")  # without it: the row in its place, or the last
    assert view.evaluate(focused) == "4"
    update(view, "at first")
    assert view.evaluate("document.activeElement.textContent") == "␣t1 drawn"
    assert view.locator(".stages tbody button[tabindex='0']").count() == 1
