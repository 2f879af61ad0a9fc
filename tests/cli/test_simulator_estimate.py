"""`minillm train --device cudasim` says after its first step how long it will take."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from minillm.cli.train_progress import ProgressReporter, simulator_estimate
from minillm.models.presets import PRESETS


@pytest.mark.parametrize(
    "seconds, steps, message",
    [
        (0.5, 19, "the first step took 0.5 s in the simulator: 19 more take at most about 10 s"),
        (2, 60, "the first step took 2.0 s in the simulator: 60 more take at most about 2 min"),
        (37, 1199, "1,199 more take at most about 12 h; --preset simulator takes some seconds"),
    ],
)
def test_the_estimate(seconds, steps, message):
    assert simulator_estimate(seconds, steps).endswith(message)


@pytest.mark.parametrize("device, lines", [("cudasim", 1), ("cpu", 0)])
def test_it_is_printed_once_and_in_the_simulator_only(device, lines):
    run = SimpleNamespace(
        model=SimpleNamespace(device=device, config=SimpleNamespace(context_length=32)),
        settings=SimpleNamespace(batch_size=4, gradient_accumulation=1, max_steps=20),
        examples=SimpleNamespace(tokens_of_a_batch=lambda: 128.0),
        progress=SimpleNamespace(step=0),
    )
    shown = StringIO()
    reporter = ProgressReporter(run, Console(file=shown, width=80))
    for step in (1, 2):
        reporter.on_step(step, 4.0, 1e-3, 1.0, 64.0)
    assert shown.getvalue().count("the first step took 2.0 s in the simulator: 19 more") == lines


def test_what_compiling_took_is_not_counted_for_the_steps_to_come():
    line = (
        "the first step took 1.0 s in the simulator, and 11.0 s to compile its kernels: 19 more take at most about 19 s"
    )
    assert simulator_estimate(1.0, 19, 11.0) == line


def test_the_preset_is_tiny():
    preset = PRESETS["simulator"]
    assert preset.model["d_model"] == 32 and preset.model["n_layer"] == 1 and preset.training["max_steps"] <= 20
