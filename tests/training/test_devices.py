"""A run on one device goes on on another, with the losses that it would have had: here with the simulator of the GPU's path."""

import numpy as np
import pytest

from minillm.backend import device_of
from minillm.kernels.simulator import compiler_available
from minillm.training import TrainingSettings, resume_run, start_run, train
from minillm.training.metrics import METRICS_FILE

pytestmark = pytest.mark.skipif(not compiler_available(), reason="the simulator needs a C++ compiler (apt install g++)")
SHAPE = dict(n_layer=2, n_head=2, d_model=32, context_length=16, dropout=0.1)


def start(tmp_path, name, device, **changes):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    settings = TrainingSettings(
        data=(str(text),),
        batch_size=2,
        max_steps=12,
        warmup_steps=2,
        eval_interval=4,
        eval_windows=4,
        sample_tokens=0,
        **changes,
    )
    return start_run(settings, dict(SHAPE), tmp_path / name, device=device)


def evaluations(folder):
    import json

    events = map(json.loads, (folder / METRICS_FILE).read_text().splitlines())
    return np.array([(e["train_loss"], e["val_loss"]) for e in events if e["event"] == "eval"])


@pytest.mark.parametrize("changes", [{}, {"checkpoint_activations": True}])
def test_the_same_losses_on_both_devices(changes, tmp_path):
    for device in ("cpu", "cudasim"):
        assert train(start(tmp_path, device, device, **changes)) == "finished"
    np.testing.assert_allclose(evaluations(tmp_path / "cudasim"), evaluations(tmp_path / "cpu"), atol=1e-4)


@pytest.mark.parametrize("first, second", [("cpu", "cudasim"), ("cudasim", "cpu")])
def test_a_checkpoint_of_one_device_continues_on_the_other(first, second, tmp_path):
    train(start(tmp_path, "whole", "cpu"))
    train(start(tmp_path, "parts", first), stop_after=5)
    run = resume_run(tmp_path / "parts", second)
    assert {device_of(parameter.value) for parameter in run.model.parameters().values()} == {second}
    assert train(run) == "finished"
    np.testing.assert_allclose(evaluations(tmp_path / "parts"), evaluations(tmp_path / "whole"), atol=1e-4)
