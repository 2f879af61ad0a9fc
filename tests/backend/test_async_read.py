"""A step on a device: nothing in it is waited for, one launch updates everything, and what goes wrong is reported in time."""

import json

import numpy as np
import pytest
from kernel_testing import needs_compiler

import minillm
from minillm.backend.arrays import HostSyncError, SimulatedArray, device_of, to_device, to_host
from minillm.backend.async_read import AsyncRead, no_waits
from minillm.kernels import launch, use_kernels
from minillm.training import Diverged, Reporter, TrainingSettings, data_parallel, resume_run, start_run, train
from minillm.training import loop as loop_module
from minillm.training.data_parallel import DataParallel
from minillm.training.examples import NextToken
from minillm.training.metrics import METRICS_FILE
from minillm.training.prefetch import BatchPrefetcher
from minillm.training.step import train_step

SHAPES = {
    "gpt2": dict(n_layer=2, n_head=2, d_model=64, context_length=16, dropout=0.1),
    "llama": dict(model_type="llama", n_layer=2, n_head=2, n_kv_head=1, d_model=64, context_length=16, dropout=0.1),
}


@pytest.fixture(params=["cudasim", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cudasim":
        needs_compiler()
    return request.param


def start(tmp_path, device, kind="gpt2", name="run", **changes):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    settings = dict(batch_size=2, max_steps=8, warmup_steps=2, eval_interval=4, eval_windows=2, sample_tokens=0)
    settings |= changes
    return start_run(
        TrainingSettings(data=(str(text),), **settings), dict(SHAPES[kind]), tmp_path / name, device=device
    )


def steps_without_waits(run, count=2):
    """Loss and norm of `count` steps, still on their device."""
    run.model.train()
    with DataParallel(run.model, 1) as parallel, BatchPrefetcher(run, ahead=True) as batches:
        results = []
        for step in range(count):
            run.progress.step = step
            with no_waits():
                results.append(train_step(run, parallel, batches, 1e-3))
    return results


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bfloat16", "gradient_accumulation": 2},
        {"dtype": "tf32", "checkpoint_activations": True, "label_smoothing": 0.1},
        {"optimizer": "adam", "gradient_clip": 0.0},
    ],
)
def test_a_step_copies_nothing_to_the_host(kind, changes, tmp_path, device):
    for loss, norm in steps_without_waits(start(tmp_path, device, kind, **changes)):
        assert device_of(loss) == device_of(norm) == device
        assert np.isfinite(to_host(loss)) and np.isfinite(to_host(norm))


def test_without_kernels_neither(tmp_path, device):
    use_kernels(False)
    try:
        steps_without_waits(start(tmp_path, device))
    finally:
        use_kernels(True)


@pytest.mark.parametrize(
    "module, name, waiting",
    [
        (DataParallel, "gradients", lambda result, _: (float(result[0]),)),
        (data_parallel, "clip", lambda result, _: (float(result[0]), float(result[1]))),
        (data_parallel, "clip", lambda result, _: (result[0], 1.0 if result[0] < 1 else 0.5)),
        (data_parallel, "clip", lambda result, _: (result[0].item(), result[1])),
        (
            minillm.layers.embedding.Embedding,
            "forward",
            lambda result, _: to_device(to_host(result), device_of(result)),
        ),
    ],
)
def test_code_that_waits_is_found(module, name, waiting, tmp_path, device, monkeypatch):
    inner, run = getattr(module, name), start(tmp_path, device)
    monkeypatch.setattr(module, name, lambda *args, **named: waiting(inner(*args, **named), args))
    with pytest.raises(HostSyncError, match="copies from the device to the host"):
        steps_without_waits(run)


def test_all_parameters_are_updated_in_one_launch(tmp_path, device, monkeypatch):
    launched, run_kernel = [], launch.CudaFile.launch

    def watched(file, kernel, *arguments, **named):
        launched.append(kernel)
        return run_kernel(file, kernel, *arguments, **named)

    monkeypatch.setattr(launch.CudaFile, "launch", watched)
    for optimizer in ("adamw", "adam"):
        launched.clear()
        steps_without_waits(start(tmp_path, device, name=optimizer, optimizer=optimizer), count=1)
        assert launched[-3:] == ["sums_of_squares", "root_of_sum", "adamw"]
        assert launched.count("adamw") == 1


def test_batches_drawn_ahead_are_those_drawn_when_needed(tmp_path):
    run = start(tmp_path, "cpu", gradient_accumulation=3)
    with BatchPrefetcher(run, ahead=True) as ahead, BatchPrefetcher(run, ahead=False) as plain:
        for key in [(0, 0), (0, 1), (0, 2), (1, 0), (5, 2), (5, 2), (6, 0)]:  # in order, with a jump, and once again
            for one, other in zip(ahead.get(*key), plain.get(*key)):
                np.testing.assert_array_equal(one, other)


def test_the_next_batch_is_drawn_before_it_is_asked_for(tmp_path):
    run = start(tmp_path, "cpu")
    with BatchPrefetcher(run, ahead=True) as batches:
        batches.get(0, 0)
        key, future = batches._coming
        assert key == (1, 0) and future.result()[0].shape == (2, 16)


# ------------------------------------------------------------------------------------------ what goes wrong


class Recorder(Reporter):
    def __init__(self):
        self.steps = []

    def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
        self.steps.append(step)


@pytest.fixture
def bad_step(monkeypatch):
    """Makes the gradient of the run's third step infinite, as often as it is computed."""

    def plant(run, bad=2):
        loss_and_gradients = NextToken.loss_and_gradients

        def faulty(objective, parallel, batches, count, rng_keys):
            loss = loss_and_gradients(objective, parallel, batches, count, rng_keys)
            if rng_keys[0][2] == bad:
                run.model.parameters()["transformer.h.1.mlp.c_fc.weight"].grad[1, 2] = np.inf
            return loss

        monkeypatch.setattr(NextToken, "loss_and_gradients", faulty)

    return plant


def weights(run):
    return {name: to_host(parameter.value).copy() for name, parameter in run.model.parameters().items()}


@pytest.mark.parametrize(
    "max_steps, stop_after", [(8, None), (3, None), (8, 3)]
)  # with another step under way, or the last
def test_a_bad_step_is_reported_and_nothing_bad_is_saved(max_steps, stop_after, tmp_path, device, bad_step):
    run, recorder = start(tmp_path, device, max_steps=max_steps), Recorder()
    bad_step(run)
    message = (
        "diverged at step 2: gradient norm is inf, first tensor affected: gradient of transformer.h.1.mlp.c_fc.weight"
    )
    with pytest.raises(Diverged, match=message):
        train(run, recorder, stop_after)
    assert recorder.steps == [1, 2]
    resumed = resume_run(run.folder, device)
    assert resumed.progress.step == 0
    assert all(np.isfinite(value).all() for value in weights(resumed).values())


def test_a_bad_step_before_an_evaluation_is_reported_before_it(tmp_path, device, bad_step):
    run = start(tmp_path, device, max_steps=8, eval_interval=3)
    bad_step(run)
    with pytest.raises(Diverged, match="at step 2"):
        train(run)
    events = [json.loads(line) for line in (run.folder / METRICS_FILE).read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "eval"] == [0]
    assert resume_run(run.folder).progress.step == 0


def test_a_bad_step_changes_no_weight(tmp_path, device, bad_step):
    run = start(tmp_path, device)
    bad_step(run, bad=0)
    before = weights(run)
    steps_without_waits(run, count=1)
    for name, value in weights(run).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert not any(to_host(moment).any() for moment in run.optimizer.second_moments.values())


def test_metrics_of_all_steps_are_written_in_order(tmp_path, device):
    run, recorder = start(tmp_path, device, max_steps=20, eval_interval=10), Recorder()
    assert train(run, recorder) == "finished"
    assert recorder.steps == list(range(1, 21))
    events = [json.loads(line) for line in (run.folder / METRICS_FILE).read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in events] == [
        ("eval", 0), ("step", 10), ("eval", 10), ("step", 20), ("eval", 20)
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------- the guard itself


def test_numbers_of_a_simulated_device_stay_there():
    x = to_device(np.arange(6.0).reshape(2, 3), "cudasim")
    for result in (x[0, 1], x.sum(), x.max(axis=0)[0], np.sqrt(x[1, 1]), 1 + x.sum(), x.sum() / 2):
        assert type(result) is SimulatedArray and result.ndim == 0
    with no_waits():
        for asking in (float, int, bool, lambda y: y.item(), lambda y: y.tolist(), to_host, lambda y: [1, 2][y]):
            with pytest.raises(HostSyncError):
                asking(x[0, 1])
        assert float(np.float64(3)) == 3  # the host's own numbers
    assert float(x[0, 1]) == 1


def test_later_brings_numbers_without_a_wait(device):
    x = to_device(np.array([1.5, -2.5]), device)
    with no_waits():
        later = AsyncRead(x[0], x.sum())
        x *= 100  # they are what they were when they were asked for
        assert later.numbers() == [1.5, -1.0]
    assert AsyncRead(3.0, np.float64(4.0)).numbers() == [3.0, 4.0]


@pytest.mark.gpu
def test_the_guard_on_cupys_arrays_lets_only_copies_pass_without_waiting():
    import cupy
    import cupyx

    x, number = cupy.ones((), "int64"), cupyx.empty_pinned((), "int64")
    own = dict(vars(cupy.ndarray))
    with no_waits():
        x.get(out=number, blocking=False)
        for asking in (lambda a: a.get(), float, int, bool, lambda a: a.item(), lambda a: a.tolist(), cupy.asnumpy):
            with pytest.raises(HostSyncError):
                asking(x)
    assert dict(vars(cupy.ndarray)) == own
    cupy.cuda.Device().synchronize()
    assert number == float(x) == int(x) == x.item() == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_the_driver_is_asked_for_no_memory_after_two_steps(dtype, tmp_path):
    import cupy

    run = start(tmp_path, "cuda", dtype=dtype, batch_size=8)
    pool, held = cupy.get_default_memory_pool(), []
    run.model.train()
    with DataParallel(run.model, 1) as parallel, BatchPrefetcher(run, ahead=True) as batches:
        for step in range(10):
            run.progress.step = step
            train_step(run, parallel, batches, 1e-3)
            held.append(pool.total_bytes())
    assert held[2:] == [held[1]] * 8, held


def test_the_loop_reads_a_step_only_when_the_next_one_is_under_way(tmp_path, device, monkeypatch):
    run, order = start(tmp_path, device, max_steps=3, eval_interval=3), []
    inner_step, inner_numbers = loop_module.train_step, AsyncRead.numbers
    monkeypatch.setattr(loop_module, "train_step", lambda *a: (order.append("step"), inner_step(*a))[1])
    monkeypatch.setattr(AsyncRead, "numbers", lambda later: (order.append("read"), inner_numbers(later))[1])
    train(run)
    assert order == ["step", "step", "read", "step", "read", "read"]
