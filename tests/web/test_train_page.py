"""Train in a real browser: a run from the form to the curves, driven, changed, reloaded, laid over another."""

import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
from web_testing import served

from minillm.training import TrainingSettings, start_run, train
from minillm.training.metrics import read_metrics
from minillm.training.overfitting import overfitting_since

MANY = "100000"
SHAPE = dict(n_layer=1, n_head=1, d_model=16, context_length=16)
SHORT = dict(batch_size=8, max_steps=12, eval_interval=3, eval_windows=4, sample_tokens=5, warmup_steps=2, lr=1e-2)


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    (folder / "texts").mkdir(parents=True)
    (folder / "texts" / "fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    return folder


@pytest.fixture
def address(runs):
    """The address of the view, with run folders of its own."""
    from minillm.web.play.opening import open_studio

    studio = open_studio(None, runs)
    with served(studio) as place:
        yield place + "#train"
        studio.end(time.monotonic() + 60)


@pytest.fixture
def page(page):
    """With time for a training on a busy machine."""
    page.set_default_timeout(120_000)
    return page


@pytest.fixture
def view(page, address):
    """The view, with the form filled in for a tiny run that takes a second."""
    page.goto(address)
    fill(page)
    return page


def fill(page, **settings):
    page.get_by_label("Preset").select_option("simulator")
    page.get_by_label("Text", exact=True).select_option("texts/fox.txt")
    page.get_by_label("Evaluate every").fill("5")
    page.get_by_label("Name").fill("tiny")
    for name, value in settings.items():
        page.locator(f"#run-{name}").fill(value)


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def wait_state(page, run, *states):
    for state in states:
        page.locator(".session-state", has_text=f"{run}: {state}").wait_for()


def step_of(page):
    return int(page.locator(".session-numbers dd").first.inner_text().split()[0])


def made(runs, name, **settings):
    """A run that is there already."""
    settings = {**SHORT, "min_lr": 1e-3, **settings}
    run = start_run(TrainingSettings(data=(str(runs / "texts" / "fox.txt"),), **settings), SHAPE, runs / name)
    train(run)
    return run.folder


# ------------------------------------------------------------------------------------------------------ a run


def test_a_run_from_the_form_to_the_curves(view, runs):
    press(view, "Start")
    wait_state(view, "tiny", "finished")
    view.locator(".run-words li", has_text="at step 20 the gap is").wait_for()
    last = [event for event in read_metrics(runs / "tiny") if event["event"] == "eval"][-1]
    best = min((e for e in read_metrics(runs / "tiny") if e["event"] == "eval"), key=lambda event: event["val_loss"])
    assert f"best validation loss {best['val_loss']:.4f}" in view.locator(".run-words").inner_text()
    loss = view.locator("figure.plot", has_text="perplexity").first
    assert f"tiny, validation {last['val_loss']:.4g}"[:24] in loss.locator(".plot-readout").inner_text()
    view.locator(".sample-texts figcaption", has_text="step 20, temperature 0.8").wait_for()
    samples = [event["text"] for event in read_metrics(runs / "tiny") if event["event"] == "sample"]
    assert view.locator(".sample-texts pre").first.text_content() == samples[-1]
    assert f"minillm play {runs}/tiny" in view.locator(".session-commands").inner_text()
    assert view.locator(".run-list li", has_text="tiny").get_by_role("checkbox").is_checked()


def test_pause_one_step_continue_stop_and_the_command_goes_on(view, runs):
    fill(view, max_steps=MANY)
    press(view, "Start paused")
    wait_state(view, "tiny", "paused")
    for number in (1, 2):
        press(view, "One step")
        view.locator(".session-numbers dd", has_text=f"{number} of {MANY}").wait_for()
        wait_state(view, "tiny", "paused")
    view.locator("figure.plot", has_text="Learning rate").locator(".plot-readout", has_text="step 2: tiny").wait_for()
    press(view, "Continue")
    wait_state(view, "tiny", "running")
    press(view, "Pause")
    wait_state(view, "tiny", "paused")
    assert step_of(view) >= 2
    press(view, "Stop and save")
    wait_state(view, "tiny", "stopped")
    stopped = step_of(view)
    assert f"minillm train --resume {runs}/tiny" in view.locator(".session-commands").inner_text()
    command = [sys.executable, "-m", "minillm", "train", "--resume", runs / "tiny", "--stop-after", str(stopped + 2)]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((runs / "tiny" / "training" / "state.json").read_text())["step"] == stopped + 2
    view.get_by_role("button", name="resume tiny").click()
    wait_state(view, "tiny", "running")
    assert step_of(view) >= stopped + 2


def test_a_setting_changed_while_it_runs(view, runs):
    fill(view, max_steps=MANY)
    press(view, "Start paused")
    wait_state(view, "tiny", "paused")
    view.get_by_label("learning rate (highest)").fill("0.005")
    view.locator(".session").get_by_label("dropout").fill("0.25")
    press(view, "Change")
    press(view, "One step")
    view.locator(".session-numbers dd", has_text=f"1 of {MANY}").wait_for()
    changes = [event for event in read_metrics(runs / "tiny") if event["event"] == "changed"]
    assert [(e["step"], e["setting"], e["after"]) for e in changes] == [(0, "lr", 0.005), (0, "dropout", 0.25)]
    view.locator("svg text", has_text="lr 0.01 → 0.005").wait_for()
    assert view.get_by_label("learning rate (highest)").input_value() == "0.005"
    view.get_by_label("learning rate (highest)").fill("-1")
    press(view, "Change")
    view.locator("#message", has_text="learning rate is -1.0: it must be a finite number above 0").wait_for()


def test_a_text_at_another_temperature(view, runs):
    press(view, "Start paused")
    wait_state(view, "tiny", "paused")
    slider = view.get_by_label("temperature", exact=True)
    slider.focus()
    slider.press("End")
    press(view, "Write a text now")
    view.locator(".sample-texts figcaption", has_text="step 0, temperature 2").wait_for()
    texts = [event["text"] for event in read_metrics(runs / "tiny") if event["event"] == "sample"]
    assert len(texts) == 2 and texts[0] != texts[1] and texts[0][0] == texts[1][0]


# ------------------------------------------------------------------------------------------------------ errors


def test_a_bad_setting_is_refused_in_the_words_of_the_engine(view, runs):
    fill(view, n_head="3")
    press(view, "Start")
    view.locator("#message", has_text="d_model (32) is not divisible by n_head (3)").wait_for()
    assert sorted(path.name for path in runs.iterdir()) == ["texts"]
    fill(view, n_head="2", context_length="5000")
    press(view, "Start")
    view.locator("#session-problem", has_text="use a longer text or a smaller --context-length").wait_for()


def test_a_place_outside_of_the_run_folders_is_refused(view, runs, address):
    (runs.parent / "secret.txt").write_text("secret " * 50)
    post = """async ([path, body]) => {
      const answer = await fetch(path, { method: "POST", body: JSON.stringify(body) });
      return [answer.status, await answer.text()];
    }"""
    for body in ({"data": "../secret.txt"}, {"data": str(runs.parent / "secret.txt")}, {"init": "../runs"}):
        status, text = view.evaluate(post, ["train/start", body])
        assert status == 400 and "is not inside" in json.loads(text)["error"]
    status, text = view.evaluate(post, ["train/now", {"runs": {"../runs/tiny": 0}}])
    assert status == 400 and "is not inside" in json.loads(text)["error"]
    assert sorted(path.name for path in runs.iterdir()) == ["texts"]


def test_a_server_that_has_stopped_is_said(page, runs):
    from minillm.web.play.opening import open_studio

    with served(open_studio(None, runs)) as place:
        page.goto(place + "#train")
        page.get_by_label("Preset").wait_for()
    press(page, "Start")
    page.locator("#message", has_text="The server has stopped").wait_for()


# ------------------------------------------------------------------------------------------- reload, second tab


def test_a_reload_and_a_second_tab_show_the_same_session(view, address):
    fill(view, max_steps=MANY)
    press(view, "Start paused")
    wait_state(view, "tiny", "paused")
    press(view, "One step")
    view.locator(".session-numbers dd", has_text=f"1 of {MANY}").wait_for()
    view.reload()
    wait_state(view, "tiny", "paused")
    assert step_of(view) == 1
    view.locator(".run-words li", has_text="tiny: best validation loss").wait_for()
    second = view.context.new_page()
    second.goto(address)
    wait_state(second, "tiny", "paused")
    press(second, "One step")
    view.locator(".session-numbers dd", has_text=f"2 of {MANY}").wait_for()
    press(second, "Stop and save")
    wait_state(view, "tiny", "stopped")


# -------------------------------------------------------------------------------------------- runs laid over


def test_two_runs_laid_over_one_another(page, runs, address):
    made(runs, "adamw")
    made(runs, "adam", optimizer="adam")
    page.goto(address)
    for name in ("adamw", "adam"):
        page.locator(".run-list li", has=page.get_by_text(name, exact=True)).get_by_role("checkbox").check()
        page.locator(".run-words li", has=page.get_by_text(name, exact=True)).get_by_text("best validation").wait_for()
    legend = page.locator("figure.plot").first.locator(".plot-legend li")
    assert {"adamw, validation", "adam, validation", "adamw, training"} <= set(legend.all_inner_texts())
    lines = [legend.filter(has_text=f"{name}, validation").locator("path") for name in ("adamw", "adam")]
    colours, dashes = ({line.evaluate(f"e => e.style.{what}") for line in lines} for what in STYLES)
    assert len(colours) == len(dashes) == 2, "told apart by colour and by dashes"
    page.reload()
    page.locator(".run-words li", has=page.get_by_text("adam", exact=True)).wait_for()
    assert page.locator(".run-list input:checked").count() == 2
    page.get_by_label("Layers and texts of").select_option("adamw")
    page.locator(".run-list").get_by_role("checkbox").first.uncheck()
    page.locator(".run-words li").nth(1).wait_for(state="detached")


STYLES = ("stroke", "strokeDasharray")


def test_a_broken_record_does_not_halt_the_others(page, runs, address):
    """Its other lines are drawn; the alert and the words below the run name the line."""
    for name in ("good", "broken"):
        made(runs, name)
    path = runs / "broken" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:2], '{"event": "eval", "ste\n', *lines[2:]]), encoding="utf-8")
    page.goto(f"{address}?runs=broken,good")
    for name in ("good", "broken"):
        page.locator(".run-words li", has_text=f"{name}: best validation loss").wait_for()
    page.get_by_role("alert").get_by_text(f"{path}:3: this line is no event of a run").wait_for()
    assert f"{path}:3: " in page.locator(".run-words li", has_text="broken: best").inner_text()
    with open(runs / "good" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "eval", "step": 99, "train_loss": 1.0, "val_loss": 1.25}) + "\n")
    page.locator(".run-words li", has_text="at step 99 the gap is 0.25 nats").wait_for()


def test_overfitting_in_words(page, runs, address):
    folder = made(runs, "short")
    history = [(0, 4.2, 4.2), (10, 2.0, 2.1), (20, 1.5, 2.2), (30, 1.1, 2.4), (40, 0.8, 2.7)]
    lines = [{"event": "eval", "step": step, "train_loss": a, "val_loss": b} for step, a, b in history]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.goto(f"{address}?runs=short")
    page.locator(".run-words", has_text="overfitting since step 20").wait_for()
    page.locator("svg text", has_text="gap 1.90 nats").wait_for()
    cases = [history, history[:4], history[:3], [], [(0, 1.0, 1.0)], [*history, (50, 0.9, 2.0)], [*history, (50, 3, 3)]]
    script = "async (cases) => cases.map((await import('./train_records.js')).overfittingSince)"
    assert page.evaluate(script, cases) == [overfitting_since(case) for case in cases]


def test_a_run_on_preferences_has_no_perplexity(page, runs, address):
    """Its curves are those of its loss; accuracy and margin are said in words."""
    folder = made(runs, "pairs")
    made(runs, "text")
    lines = [
        {
            "event": "eval",
            "step": step,
            "train_loss": loss,
            "val_loss": loss + 0.01,
            "val_accuracy": 0.75,
            "val_margin": 0.35,
        }
        for step, loss in ((0, 0.693), (5, 0.5))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.goto(f"{address}?runs=pairs,text")
    words = page.locator(".run-words li", has_text="pairs: best validation loss 0.5100 at step 5")
    words.get_by_text("rewarded more in 75.0 % of the pairs, by 0.35 in the mean").wait_for()
    assert "its loss has no perplexity" in words.inner_text() and "(perplexity" not in words.inner_text()
    assert "(perplexity" in page.locator(".run-words li", has_text="text: best").inner_text()
    page.get_by_label("Loss: a cursor").press("End")
    read = page.locator("figure.plot").first.locator(".plot-readout").inner_text()
    assert "pairs, validation 0.51" in read and "pairs, validation 0.51 (perplexity" not in read
    assert "text, validation" in read and "(perplexity" in read


def test_curves_by_keyboard_and_as_a_table(page, runs, address):
    made(runs, "tiny")
    page.goto(f"{address}?runs=tiny")
    page.locator(".run-words li").wait_for()
    cursor = page.get_by_role("slider", name="Loss: a cursor along the steps")
    cursor.focus()
    assert cursor.get_attribute("aria-valuenow") == "12"
    cursor.press("ArrowLeft")
    assert cursor.get_attribute("aria-valuenow") == "9"
    event = next(e for e in read_metrics(runs / "tiny") if e["event"] == "eval" and e["step"] == 9)
    assert f"perplexity {event['val_perplexity']:#.4g}" in cursor.get_attribute("aria-valuetext")
    chart = page.locator("figure.plot").first
    chart.get_by_text("values", exact=True).click()
    cells = chart.locator("tbody tr").nth(3).locator("td").all_inner_texts()
    assert [float(cell) for cell in cells] == pytest.approx([9, event["train_loss"], event["val_loss"]], rel=1e-3)
    chart.get_by_role("button", name="log").press("Enter")
    assert chart.get_by_role("button", name="log").get_attribute("aria-pressed") == "true"


# ------------------------------------------------------------------------------------------ layout, accessibility


def test_accessible_in_all_sizes_and_colours(view, runs):
    from axe_playwright_python.sync_playwright import Axe

    press(view, "Start")
    wait_state(view, "tiny", "finished")
    view.locator(".sample-texts figure").first.wait_for()
    view.evaluate("for (const each of document.querySelectorAll('#train details')) each.open = true")
    for width, theme in ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")):
        view.set_viewport_size({"width": width, "height": 800})
        view.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        result = Axe().run(view, "#train")
        assert result.violations_count == 0, result.generate_report()


def test_the_view_is_reached_by_keyboard_alone(page, address):
    page.goto(urlsplit(address)._replace(fragment="").geturl())
    page.get_by_role("link", name="Train").press("Enter")
    page.get_by_label("Example").press("o")
    assert page.get_by_label("Example").input_value().startswith("overfitting")
    assert page.locator("#run-characters").input_value() == "5000"
    assert page.get_by_label("Name").input_value() == "overfitting-1"


def test_another_optimizer_brings_its_own_rates(page, address):
    page.goto(address)
    rates = {name: page.locator(f"#run-{name}") for name in ("lr", "min_lr", "schedule", "adamw_lr")}
    of_preset = {name: control.input_value() for name, control in rates.items()}
    page.locator("#run-weight_decay").fill("0.05")
    page.locator("#run-weight_decay").blur()
    page.locator("#run-optimizer").select_option("adamw")
    assert {name: control.input_value() for name, control in rates.items()} == {
        name: f"{getattr(TrainingSettings, name):g}" if name != "schedule" else "cosine" for name in rates
    }
    assert page.locator("#run-weight_decay").input_value() == "0.05"
    page.locator("#run-optimizer").select_option("muon")
    assert {name: control.input_value() for name, control in rates.items()} == of_preset
