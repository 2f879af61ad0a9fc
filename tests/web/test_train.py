"""Train without a browser: the form, the session, and what the page may name."""

import json
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.training import SETTING_NAMES, Reporter, resume_run, train
from minillm.training.from_preset import settings_from
from minillm.training.metrics import read_metrics
from minillm.training.norms import layer_of, norms_by_layer
from minillm.web.play.places import inside, new_name
from minillm.web.play.train import Training
from minillm.web.play.training_form import NOT_OF_TEXTS, describe_form, read_form
from minillm.web.play.training_record import list_runs, new_events

TINY = dict(
    tokenizer="char", n_layer=2, n_head=2, d_model=16, context_length=16, batch_size=32, max_steps=24, eval_interval=8,
    eval_windows=4, sample_tokens=8, warmup_steps=2, lr=1e-2, weight_decay=0.1, dropout=0.1,
)  # fmt: skip


@pytest.fixture
def studio(tmp_path):
    runs = tmp_path / "runs"
    (runs / "texts").mkdir(parents=True)
    (runs / "texts" / "fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    return SimpleNamespace(runs=runs)


@pytest.fixture
def training():
    made = Training()
    yield made
    made.end(time.monotonic() + 60)


def form(name="tiny", **settings):
    return {"name": name, "data": "texts/fox.txt", "settings": {**TINY, **settings}}


def until(training, studio, *states):
    """The status once the session is in one of the states."""
    while (status := training.now(studio, {})["session"])["state"] not in states:
        time.sleep(0.005)
    return status


def until_step(training, studio, step):
    while (status := training.now(studio, {})["session"]).get("step", 0) < step:
        assert status["state"] not in ("failed", "finished"), status
        time.sleep(0.002)
    return status


def weights(folder):
    """The last weights and moments of a run, byte for byte."""
    return (folder / "training" / "optimizer.safetensors").read_bytes(), (folder / "model.safetensors").read_bytes()


def essence(folder):
    """The record but for speeds, and for what the page adds."""
    events = [event for event in read_metrics(folder) if event["event"] != "norms"]
    return [{name: value for name, value in event.items() if name != "tokens_per_second"} for event in events]


@pytest.fixture
def by_command(studio, tmp_path):
    """The folder of a run of `minillm train` with the same settings."""

    def run(**settings):
        plan = read_form(studio.runs, form("by-command", **settings))
        opened = plan.start()
        train(opened)
        return opened.folder

    return run


# ---------------------------------------------------------------------------------------------------- the session


def test_a_run_of_the_page_is_that_of_the_command(studio, training, by_command):
    """Weights, moments, and record, bit for bit: with dropout, on as many cores as there are."""
    training.start(studio, form())
    status = until(training, studio, "finished", "failed")
    assert (status["state"], status["step"], status["run"]) == ("finished", 24, "tiny")
    folder = by_command()
    assert weights(studio.runs / "tiny") == weights(folder)
    assert essence(studio.runs / "tiny") == essence(folder)


def test_pauses_single_steps_and_texts_change_nothing(studio, training, by_command):
    training.start(studio, {**form(), "paused": True})
    assert until(training, studio, "paused").get("step") == 0
    for step in (1, 2, 3):
        training.order(studio, {"order": "step"})
        until_step(training, studio, step)
        assert until(training, studio, "paused")["step"] == step
    training.write(studio, {"temperature": 1.5})
    training.order(studio, {"order": "continue"})
    until_step(training, studio, 6)
    training.order(studio, {"order": "pause"})
    status = until(training, studio, "paused", "finished")
    training.order(studio, {"order": "continue"}) if status["state"] == "paused" else None
    until(training, studio, "finished")
    assert weights(studio.runs / "tiny") == weights(by_command())
    texts = [event for event in read_metrics(studio.runs / "tiny") if event.get("temperature") == 1.5]
    assert [event["step"] for event in texts] == [3] and len(texts[0]["text"]) == 9


def test_stopped_by_the_page_and_resumed_by_the_command(studio, training, by_command):
    training.start(studio, {**form(), "paused": True})
    until(training, studio, "paused")
    for step in (1, 2, 3):
        training.order(studio, {"order": "step"})
        until_step(training, studio, step)
    training.order(studio, {"order": "stop"})
    assert until(training, studio, "stopped")["step"] == 3
    resumed = resume_run(studio.runs / "tiny")
    assert resumed.progress.step == 3
    assert train(resumed) == "finished"
    folder = by_command()
    assert weights(studio.runs / "tiny") == weights(folder) and essence(studio.runs / "tiny") == essence(folder)


def test_stopped_by_the_command_and_resumed_by_the_page(studio, training, by_command):
    run = read_form(studio.runs, form()).start()
    train(run, stop_after=10)
    training.resume(studio, {"run": "tiny"})
    assert until(training, studio, "finished", "failed")["state"] == "finished"
    assert weights(studio.runs / "tiny") == weights(by_command())


def test_changes_are_in_the_record_and_are_kept(studio, training):
    training.start(studio, {**form(), "paused": True})
    until(training, studio, "paused")
    training.change(studio, {"lr": 0.005, "dropout": 0.25})
    training.order(studio, {"order": "step"})
    until_step(training, studio, 1)
    assert until(training, studio, "paused")["settings"] == {"lr": 0.005, "weight_decay": 0.1, "dropout": 0.25}
    training.order(studio, {"order": "stop"})
    until(training, studio, "stopped")
    changes = [event for event in read_metrics(studio.runs / "tiny") if event["event"] == "changed"]
    assert [(e["step"], e["setting"], e["before"], e["after"]) for e in changes] == [
        (0, "lr", 0.01, 0.005),
        (0, "dropout", 0.1, 0.25),
    ]
    resumed = resume_run(studio.runs / "tiny")
    assert (resumed.settings.lr, resumed.model.config.dropout) == (0.005, 0.25)
    resumed.claim.release()


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda training, studio: training.change(studio, {"lr": -1}), "learning rate is -1.0"),
        (lambda training, studio: training.change(studio, {"seed": 1}), "seed cannot change while a run trains"),
        (lambda training, studio: training.write(studio, {"temperature": -1}), "temperature"),
        (lambda training, studio: training.write(studio, {"temperature": 1e9}), "temperature is 1000000000.0"),
        (lambda training, studio: training.write(studio, {"temperature": "hot"}), "temperature is 'hot'"),
        (
            lambda training, studio: training.order(studio, {"order": "jump"}),
            'order: there is no "jump", only pause, step',
        ),
        (lambda training, studio: training.order(studio, {"order": ["pause"]}), "only pause, step"),
        (lambda training, studio: training.start(studio, form("other")), "a run is training already"),
    ],
)
def test_wrong_orders_leave_the_training_as_it_is(studio, training, ask, message):
    training.start(studio, {**form(), "paused": True})
    until(training, studio, "paused")
    with pytest.raises(UserError, match=message):
        ask(training, studio)
    assert training.now(studio, {})["session"]["state"] == "paused"
    assert not any(event["event"] == "changed" for event in read_metrics(studio.runs / "tiny"))


def test_orders_without_a_session(studio, training):
    assert training.now(studio, {}) == {"session": None, "runs": {}}
    with pytest.raises(UserError, match="no run is training now"):
        training.order(studio, {"order": "pause"})


def test_a_run_that_cannot_begin_says_why(studio, training):
    training.start(studio, form(context_length=4000))
    status = until(training, studio, "failed")
    assert "use a longer text or a smaller --context-length" in status["problem"]
    assert list(studio.runs.glob("*tiny*")) == []


def test_a_run_that_diverges_says_so(studio, training):
    training.start(studio, form(lr=1e30, warmup_steps=0, gradient_clip=0.0))
    status = until(training, studio, "failed")
    assert "training diverged at step" in status["problem"]
    assert resume_run(studio.runs / "tiny").progress.step == 0


def test_the_end_of_the_server_leaves_a_run_to_be_resumed(studio, training):
    training.start(studio, form(max_steps=100_000))
    until_step(training, studio, 3)
    training.end(time.monotonic() + 60)
    status = training.now(studio, {})["session"]
    assert status["state"] == "stopped"
    assert resume_run(studio.runs / "tiny").progress.step == status["step"]


def test_the_end_does_not_wait_for_an_evaluation(studio, training):
    training.start(studio, form(eval_windows=0, batch_size=1, d_model=64, n_layer=8))
    until(training, studio, "evaluating")
    training.end(time.monotonic() + 60)
    assert training.now(studio, {})["session"]["state"] == "stopped"
    assert read_metrics(studio.runs / "tiny") == []


# -------------------------------------------------------------------------------------------------------- norms


def test_norms_of_layers_are_those_of_their_tensors(studio, training):
    captured = {}

    class Watching(Reporter):
        def before_update(self, step, parameters):
            captured[step] = {name: (p.grad.copy(), p.value.copy()) for name, p in parameters.items()}

        def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
            captured[step, "norm"] = gradient_norm

    train(read_form(studio.runs, form("watched", gradient_accumulation=2)).start(), Watching())
    training.start(studio, form(gradient_accumulation=2))
    until(training, studio, "finished")
    lines = {event["step"]: event for event in read_metrics(studio.runs / "tiny") if event["event"] == "norms"}
    assert list(lines) == [1, 10, 20]
    for step, line in lines.items():
        assert list(line["gradients"]) == list(line["weights"]) == ["wte", "wpe", "h.0", "h.1", "ln_f"]
        for index, kind, share in ((0, "gradients", 2), (1, "weights", 1)):
            for layer, norm in line[kind].items():
                arrays = [pair[index] for name, pair in captured[step].items() if layer_of(name) == layer]
                expected = np.sqrt(sum((array.astype("float64") ** 2).sum() for array in arrays)) / share
                assert norm == pytest.approx(expected, rel=1e-5)
        total = np.sqrt(sum(norm**2 for norm in line["gradients"].values()))
        assert total == pytest.approx(captured[step, "norm"], rel=1e-6)


@pytest.mark.parametrize(
    "name, layer",
    [
        ("transformer.h.11.mlp.c_fc.bias", "h.11"),
        ("model.layers.0.self_attn.q_proj.weight", "layers.0"),
        ("model.embed_tokens.weight", "embed_tokens"),
        ("lm_head.weight", "lm_head"),
        ("weight", "weight"),
    ],
)
def test_layers_by_name(name, layer):
    assert layer_of(name) == layer
    assert norms_by_layer({}) == ({}, {})


# ----------------------------------------------------------------------------------------- what the page may name


@pytest.fixture
def links(studio, tmp_path):
    """Links that lead out of the run folders."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret " * 100)
    (outside / "metrics.jsonl").write_text('{"event": "secret"}\n')
    os.symlink(outside, studio.runs / "link")
    os.symlink(outside / "secret.txt", studio.runs / "link.txt")
    os.symlink("loop", studio.runs / "loop")


def test_no_setting_of_the_form_names_a_file(studio):
    """Among those that are texts there are choices, and patterns of names, and nothing else."""
    textual = {each["name"] for each in describe_form(studio.runs)["fields"] if each["kind"] in ("str", "texts")}
    assert textual == {"optimizer", "schedule", "tokenizer", "dtype", "special", "freeze", "activation", "extend_with"}


OUTSIDE = [
    "../outside/secret.txt", "texts/../../outside/secret.txt", "texts/../texts/fox.txt", "/etc/passwd", "link.txt",
    "link/secret.txt", "link", ".", "..", "", "texts/\0", 7, None, ["texts/fox.txt"],
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_place_outside_of_the_run_folders(studio, training, links, name, tmp_path):
    with pytest.raises(UserError, match="inside"):
        inside(studio.runs, name)
    if name:
        for arguments in ({"data": name}, {"init": name}):
            with pytest.raises(UserError, match="inside"):
                read_form(studio.runs, {**form(), **arguments})
    with pytest.raises(UserError, match="inside"):
        training.resume(studio, {"run": name})
    if isinstance(name, str) and name not in (".", ""):
        with pytest.raises(UserError, match="inside"):
            training.now(studio, {"runs": {name: 0}})
    absolute = str(studio.runs / "texts" / "fox.txt")
    with pytest.raises(UserError, match="inside"):
        read_form(studio.runs, {**form(), "data": absolute})
    assert sorted(path.name for path in studio.runs.iterdir()) == ["link", "link.txt", "loop", "texts"]


def test_what_is_linked_is_in_no_list(studio, links):
    assert list_runs(studio.runs) == []
    assert describe_form(studio.runs)["texts"] == ["texts/fox.txt"]


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", ".hidden", "-x", "a b", "x" * 81, 3, "é"])
def test_names_of_new_runs_are_plain(studio, name):
    with pytest.raises(UserError, match="is no name for a run"):
        read_form(studio.runs, form(name))
    assert new_name("adamw_0.1-b") == "adamw_0.1-b"


def test_a_model_of_the_hub_cannot_be_named(studio):
    with pytest.raises(UserError, match="is neither|no model|not"):
        plan = read_form(studio.runs, {"init": "owner/model", "data": "texts/fox.txt", "name": "x"})
        assert plan.settings.init == str(studio.runs / "owner/model")
        plan.start()


def test_a_file_called_like_a_corpus_is_not_read(studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_form(studio.runs, {**form(), "data": "python-docs"}).settings.data == ("python-docs",)
    (tmp_path / "python-docs").write_text("private")
    with pytest.raises(UserError, match="python-docs is a file here"):
        read_form(studio.runs, {**form(), "data": "python-docs"})


# ------------------------------------------------------------------------------------------------------- the form


def test_the_form_has_every_setting_of_the_command(studio):
    described = describe_form(studio.runs)
    names = [field["name"] for field in described["fields"]]
    places = {
        "data",
        "init",
        "chat_data",
        "chat_validation",
        "chat_template",
        "preference_data",
        "preference_validation",
    }
    assert set(SETTING_NAMES) - set(names) == places | set(NOT_OF_TEXTS)
    assert {"n_layer", "n_kv_head", "sliding_window", "dropout", "head_dim"} <= set(names)
    assert len(names) == len(set(names)) and all(field["help"] for field in described["fields"])
    assert described["texts"] == ["texts/fox.txt"] and described["corpora"] == ["python-docs", "shakespeare"]


def test_what_the_form_sends_unchanged_is_the_preset(studio):
    described = describe_form(studio.runs)
    for preset in described["presets"]:
        plan = read_form(studio.runs, {"preset": preset["name"]}) if preset["name"] in SMALL else None
        settings, model, name = settings_from({}, preset["name"])
        if plan is not None:
            assert (plan.settings, plan.model, plan.folder) == (settings, model, studio.runs / name)
        assert preset["values"]["lr"] == settings.lr
        for optimizer, values in preset["with_optimizer"].items():
            other = settings_from({"optimizer": optimizer}, preset["name"])[0]
            assert {**vars(settings), **values} == vars(other)


SMALL = ("default", "shakespeare-char-cpu", "llama-small", "qwen3-small", "simulator")


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(lr=0), "learning rate is 0.0: it must be a finite number above 0"),
        (dict(n_head=3), r"d_model \(16\) is not divisible by n_head \(3\)"),
        (dict(batch_size=0), "batch_size is 0: it must be a whole number of at least 1"),
        (dict(batch_size="many"), "batch_size is 'many': it must be a whole number"),
        (dict(batch_size=1.5), "batch_size is 1.5: it must be a whole number"),
        (dict(batch_size=True), "batch_size is True: it must be a whole number"),
        (dict(lr=10**400), "lr is 1000.*: it must be a number"),
        (dict(lr=float("nan")), "learning rate is nan"),
        (dict(optimizer="none"), 'unknown optimizer "none"'),
        (dict(dropout=1.5), "dropout is 1.5"),
        (dict(freeze="x"), "freeze is 'x': it must be a list of texts"),
        (dict(data=["/etc/passwd"]), "data is no setting that the page can give"),
        (dict(init="/etc"), "init is no setting that the page can give"),
        (dict(chat_data=["/etc/passwd"]), "chat_data is no setting that the page can give"),
        (dict(chat_template="/etc/passwd"), "chat_template is no setting that the page can give"),
        (dict(n_layer=2**27), "up to 1000 layers"),
        (dict(d_model=2**20, n_head=1), "this run takes about .* GB and can have"),
        (dict(batch_size=10**12), "this run takes about .* GB and can have"),
    ],
)
def test_bad_values_are_refused_in_the_words_of_the_engine(studio, settings, message):
    with pytest.raises(UserError, match=message):
        read_form(studio.runs, form(**settings))


def test_the_first_characters_of_a_text(studio):
    plan = read_form(studio.runs, {**form(), "data": "python-docs", "characters": 2000})
    path = studio.runs / "texts" / "python-docs-2000.txt"
    assert plan.settings.data == (str(path),) and len(path.read_text(encoding="utf-8")) == 2000
    with pytest.raises(UserError, match="characters is 0"):
        read_form(studio.runs, {**form(), "characters": 0})


# ------------------------------------------------------------------------------------------------------ the record


def test_the_record_comes_in_parts(studio):
    run = read_form(studio.runs, form()).start()
    train(run)
    first = new_events(studio.runs, "tiny", 0)
    assert first["events"] == read_metrics(run.folder) and not first["again"]
    run.metrics.write("sample", step=24, text="more")
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"event": "half')
    second = new_events(studio.runs, "tiny", first["offset"])
    assert second["events"] == [{"event": "sample", "step": 24, "text": "more"}]
    run.metrics.cut(200)
    third = new_events(studio.runs, "tiny", second["offset"])
    assert third["again"] and third["events"] == read_metrics(run.folder)
    listed = list_runs(studio.runs)
    assert [(each["name"], each["step"], each["is_over"]) for each in listed] == [("tiny", 24, True)]
    assert listed[0]["settings"]["lr"] == 1e-2 and listed[0]["settings"]["dropout"] == 0.1
    json.dumps(listed)


def test_a_broken_line_is_named_and_left_out(studio):
    """By file and number, wherever the reading begins; of several the first."""
    folder = studio.runs / "tiny"
    folder.mkdir(parents=True)
    good = b'{"event": "eval", "step": 1, "val_loss": 2.0}\n'
    path = folder / "metrics.jsonl"
    path.write_bytes(good + b'{"event": "eval", "st\n' + good)
    record = new_events(studio.runs, "tiny", 0)
    assert record["problem"].startswith(f"{path}:2: this line is no event of a run: the curves")
    assert [event["step"] for event in record["events"]] == [1, 1] and record["offset"] == path.stat().st_size
    with open(path, "ab") as file:
        file.write(good + b"\xff\xfe\n[1]\n" + b"[" * 100_000 + b"\n{}\n\x1c\n")
    later = new_events(studio.runs, "tiny", record["offset"])
    assert f"{path}:5: this line is no event of a run, nor are 4 lines after it" in later["problem"]
    assert len(later["events"]) == 1
    path.write_bytes(good)
    mended = new_events(studio.runs, "tiny", later["offset"])
    assert mended["again"] and mended["problem"] == "" and len(mended["events"]) == 1


def test_a_run_that_is_gone(studio, training):
    assert training.now(studio, {"runs": {"tiny": 0}})["runs"] == {"tiny": {"gone": True}}


@pytest.mark.parametrize("offset", [-1, 1.5, "0", True, None])
def test_offsets_are_checked(studio, offset):
    with pytest.raises(UserError, match="offset"):
        new_events(studio.runs, "tiny", offset)
