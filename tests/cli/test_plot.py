"""`minillm plot`: losses of runs over one another."""

import json

import pytest

from minillm.errors import UserError
from minillm.training.plot import _curve, perplexity_ticks, plot_runs


@pytest.fixture
def runs(tmp_path):
    """Two folders with the metrics of a run."""
    for name, best in (("first", 4.0), ("second", 5.0)):
        (tmp_path / name).mkdir()
        events = [{"event": "step", "step": 1, "loss": 7.0}]
        for step, gap in ((0, 3.0), (10, 1.0), (20, 0.0)):
            events.append({"event": "eval", "step": step, "train_loss": best + gap - 0.1, "val_loss": best + gap})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return tmp_path


def test_a_picture_of_two_runs(minillm, runs):
    pytest.importorskip("matplotlib")
    assert minillm("plot", "first", "second").stderr == "wrote plot.png\n"
    two = (runs / "plot.png").read_bytes()
    assert two.startswith(b"\x89PNG\r\n\x1a\n")
    minillm("plot", "first", "--out", "one.svg")
    assert b"</svg>" in (runs / "one.svg").read_bytes()
    assert minillm("plot", "first", "--out", "one.png").stderr == "wrote one.png\n"
    assert (runs / "one.png").read_bytes() != two


def test_what_is_drawn(runs):
    """Solid for the validation text, dashed for the training text, a legend by the runs' names."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    from minillm.training.plot import _draw_among_others, _events

    axes = figure().add_subplot()
    _draw_among_others(axes, "C0", "first", _events(runs / "first")[1])
    lines = {(line.get_linestyle(), tuple(line.get_xdata())): list(line.get_ydata()) for line in axes.lines}
    assert lines["-", (10, 20)] == [5.0, 4.0] and lines["--", (10, 20)] == [4.9, 3.9]
    assert axes.get_legend_handles_labels()[1] == ["first: best 4.0000 at step 20"]


def test_the_first_evaluation_is_a_point_alone():
    """A straight line from there to the second would be far above the losses between them."""
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    _curve(axes, [{"step": step, "val_loss": loss} for step, loss in ((0, 7.0), (9, 3.0), (18, 2.0))], "val_loss")
    assert [list(line.get_xdata()) for line in axes.lines] == [[9, 18], [0]]


def test_the_loss_of_pairs_has_no_perplexity(runs):
    matplotlib = pytest.importorskip("matplotlib")
    of_texts = runs / "first" / "metrics.jsonl"
    of_pairs = [{**json.loads(line), "val_margin": 0.1} for line in of_texts.read_text().splitlines()]
    (runs / "second" / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in of_pairs))
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        first, second = (plot_runs([runs / name], runs / "p.svg").read_text() for name in ("first", "second"))
    assert all(text in first for text in ("perplexity", "nats a token", "validation text"))
    assert all(text in second for text in ("nats a pair", "validation pairs")) and "perplexity" not in second
    with pytest.raises(UserError, match="second learned from pairs and .*first did not: .* draw them apart"):
        plot_runs([runs / "first", runs / "second"], runs / "p.svg")


@pytest.mark.parametrize("lowest, highest", [(1.1, 1.2), (3.9, 4.3), (40, 1100), (2, 60_000), (1e-3, 1e9)])
def test_perplexity_has_ticks_over_its_whole_axis(lowest, highest):
    ticks = perplexity_ticks(lowest, highest)
    assert len(ticks) >= 2 and all(lowest <= tick <= highest for tick in ticks)
    assert ticks[0] < lowest * 2.5 and ticks[-1] > highest / 2.5


def test_runs_of_the_same_name_are_distinguished(runs):
    pytest.importorskip("matplotlib")
    from minillm.training.plot import _names

    assert _names(["a/first", "b/first"]) == ["a/first", "b/first"] and _names(["a/first", "b/second/"]) == [
        "first",
        "second",
    ]


def test_complaints(minillm, runs, monkeypatch):
    (runs / "new").mkdir()
    (runs / "new" / "metrics.jsonl").touch()
    for arguments, message in (
        (["nothing"], "nothing is no run: it has no metrics.jsonl"),
        (["first", "new"], "new has no evaluation yet: there is nothing to draw"),
        (["first", "--out", "plot.jpg"], "plot.jpg: the picture is a file that ends in .png, .svg, .pdf"),
        (["first", "--out", "no/plot.png"], "no"),
        ([], "Missing argument"),
    ):
        told = minillm("plot", *arguments, expect=2).stderr
        assert told.startswith("minillm: ") and message in told and told.count("\n") == 1
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    told = minillm("plot", "first", expect=2).stderr
    assert told == 'minillm: plot.png needs matplotlib, which is not installed: pip install "minillm[plots]"\n'
    with pytest.raises(UserError, match="no run"):
        plot_runs([runs], runs / "plot.png")
