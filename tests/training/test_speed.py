"""Tokens a second, by a clock that only training steps move."""

import pytest
from kernel_testing import needs_compiler

from minillm.training import Reporter, TrainingSettings, start_run, train
from minillm.training import loop as loop_module
from minillm.training.metrics import read_metrics

SECONDS = 2.0  # that a step takes on the device
TOKENS = 2 * 8  # in a step


class Clock:
    now = 100.0

    def perf_counter(self):
        return self.now


class Speeds(Reporter):
    def __init__(self, clock):
        self.clock, self.told = clock, []

    def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
        self.told.append(tokens_per_second)

    def on_evaluation(self, *arguments):
        self.clock.now += 1000  # what an evaluation takes is none of a step's


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A function that trains 20 steps on a device, of which the host takes part in each for so many seconds, and returns the
    run and the speeds that were reported."""

    def on(device, clock, seconds):
        step = loop_module.train_step

        def slow_step(*arguments):
            clock.now += seconds
            return step(*arguments)

        monkeypatch.setattr(loop_module, "time", clock)
        monkeypatch.setattr(loop_module, "train_step", slow_step)
        (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
        settings = dict(batch_size=2, max_steps=20, eval_interval=5, eval_windows=1, sample_tokens=0, warmup_steps=0)
        settings = TrainingSettings(data=(str(tmp_path / "text.txt"),), **settings)
        shape = dict(n_layer=1, n_head=1, d_model=8, context_length=8)
        run, speeds = start_run(settings, shape, tmp_path / "run", device=device), Speeds(clock)
        train(run, speeds)
        return run, speeds.told

    return on


@pytest.mark.parametrize("device", ["cpu", "cudasim"])
def test_speeds_are_those_of_the_steps(trained, device):
    """Also of the last step before an evaluation, whose numbers are read at once."""
    if device == "cudasim":
        needs_compiler()
    run, told = trained(device, Clock(), SECONDS)
    assert told == pytest.approx([TOKENS / SECONDS] * 20)
    steps = [event for event in read_metrics(run.folder) if event["event"] == "step"]
    assert [event["tokens_per_second"] for event in steps] == [TOKENS / SECONDS] * 2


@pytest.mark.parametrize("launch", [0.01, 1.0, 1.99, 2.5])
def test_speeds_of_a_device_that_works_while_the_host_goes_on(trained, monkeypatch, launch):
    """Never higher than they are, whatever the host's part, and not much lower where there were several steps."""
    needs_compiler()
    clock, device_is_free = Clock(), [0.0]

    class AsyncRead:
        """The numbers of a step that takes SECONDS from when it is asked for and the step before is done."""

        def __init__(self, *arrays):
            asked = clock.now - launch
            self._there = device_is_free[0] = max(device_is_free[0], asked) + SECONDS
            self._numbers = [float(array) for array in arrays]

        def arrived(self):
            return clock.now >= self._there

        def numbers(self):
            clock.now = max(clock.now, self._there)
            return self._numbers

    monkeypatch.setattr(loop_module, "AsyncRead", AsyncRead)
    _, told = trained("cudasim", clock, launch)
    true = TOKENS / max(SECONDS, launch)
    assert max(told) <= true * 1.0001
    assert min(told[4::5]) > true * 0.75, "of five steps together"
