"""A run on one device goes on on another, with the losses that it would have had: here with the simulator of the GPU's path."""

import json

import numpy as np
import pytest
from gpu_testing import on_the_standin
from kernel_testing import needs_compiler

import minillm
from minillm.backend.arrays import device_of, to_host
from minillm.generation import generate
from minillm.layers.dropout import Dropout
from minillm.sampler import Sampler
from minillm.training import Reporter, TrainingSettings, evaluate_model, resume_run, start_run, train
from minillm.training.metrics import METRICS_FILE
from minillm.training.prefetch import BatchPrefetcher

SHAPE = dict(n_layer=2, n_head=2, d_model=32, context_length=16, dropout=0.1)
LLAMA = dict(model_type="llama", n_layer=2, n_head=2, n_kv_head=1, d_model=64, context_length=16)
TOLERANCE = 1e-4  # between the losses of two devices in float32, over 100 steps
PRESET = dict(n_layer=6, n_head=6, d_model=384, context_length=256, dropout=0.2)  # of a real size, for a real GPU


@pytest.fixture(params=["cudasim", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cudasim":
        needs_compiler()
    return request.param


def start(tmp_path, name, device, shape=SHAPE, **changes):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 300)
    settings = dict(batch_size=2, max_steps=12, warmup_steps=2, eval_interval=4, eval_windows=4, sample_tokens=0)
    settings |= changes
    return start_run(TrainingSettings(data=(str(text),), **settings), dict(shape), tmp_path / name, device=device)


def evaluations(folder):
    events = map(json.loads, (folder / METRICS_FILE).read_text().splitlines())
    return np.array([(e["train_loss"], e["val_loss"]) for e in events if e["event"] == "eval"])


class Losses(Reporter):
    """The loss of every step."""

    def __init__(self):
        self.losses = []

    def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
        self.losses.append(loss)


def losses_of(run):
    recorder = Losses()
    assert train(run, recorder) == "finished"
    return np.array(recorder.losses)


# -------------------------------------------------------------------------------------------------------- same answers


@pytest.mark.parametrize("steps, learned", [(16, 0.1), pytest.param(100, 0.5, marks=pytest.mark.slow)])
def test_losses_agree(steps, learned, tmp_path, device):
    """On the simulator a tiny model; on a GPU one of a real size, with batches of 2,048 tokens."""
    real = device == "cuda" and not on_the_standin()
    shape, batch = (PRESET, 8) if real else (SHAPE, 2)
    changes = dict(shape=shape, batch_size=batch, max_steps=steps, eval_interval=steps)
    here, there = (losses_of(start(tmp_path, name, name, **changes)) for name in ("cpu", device))
    assert len(here) == len(there) == steps
    assert here[-1] < here[0] - learned, "nothing was learned, so that nothing was compared"
    np.testing.assert_allclose(there, here, rtol=0, atol=TOLERANCE)


def test_losses_of_a_llama_agree(tmp_path, device):
    changes = dict(shape=LLAMA, max_steps=8, eval_interval=8)
    here, there = (losses_of(start(tmp_path, name, name, **changes)) for name in ("cpu", device))
    np.testing.assert_allclose(there, here, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype, tolerance", [("tf32", 1e-3), ("bfloat16", 1e-2)])
def test_losses_in_low_precision_follow_those_of_float32(dtype, tolerance, tmp_path, device):
    """With heads that the tensor cores take: 2 of width 32."""
    changes = dict(shape={**SHAPE, "d_model": 64}, max_steps=8, eval_interval=8)
    here = losses_of(start(tmp_path, "float32", "cpu", **changes))
    there = losses_of(start(tmp_path, dtype, device, dtype=dtype, **changes))
    np.testing.assert_allclose(there, here, rtol=0, atol=tolerance)
    assert (there != here).any()


def test_another_seed_would_be_noticed(tmp_path, device):
    """How far apart two runs are that differ in their masks alone: what the tolerance above has to tell from."""
    changes = dict(max_steps=10, eval_interval=10)
    here = losses_of(start(tmp_path, "cpu", "cpu", **changes))
    there = losses_of(start(tmp_path, "other", device, shape={**SHAPE, "dropout": 0.11}, **changes))
    assert np.abs(here - there).max() > 10 * TOLERANCE


def test_batches_and_dropout_masks_are_the_same_bits(tmp_path, device, monkeypatch):
    """Batches as the models are given them; masks from what the layers drop of ones."""

    def seen(name):
        run, found = start(tmp_path, name, name, max_steps=4, eval_interval=4), []
        loss = type(run.model).loss

        def watched(model, ids, targets, *rest):
            if model.training:
                found.append((np.array(ids), np.array(targets)))
            return loss(model, ids, targets, *rest)

        monkeypatch.setattr(type(run.model), "loss", watched)
        train(run)
        monkeypatch.setattr(type(run.model), "loss", loss)
        return found

    here, there = seen("cpu"), seen(device)
    # the CPU may have cut a batch into parts, one for each core
    for part in range(2):
        np.testing.assert_array_equal(
            np.concatenate([batch[part] for batch in here]), np.concatenate([batch[part] for batch in there])
        )
    for dtype in ("float32", "bfloat16"):
        masks = [_mask(name, dtype) for name in ("cpu", device)]
        np.testing.assert_array_equal(*masks)
        assert 0.5 < masks[0].mean() < 0.7


def _mask(device, dtype):
    from minillm.backend.arrays import to_device
    from minillm.backend.precision import activation_dtype

    layer = Dropout(0.4)
    layer.name = "h.0.mlp_resid_dropout"
    return to_host(layer.forward(to_device(np.ones((3, 7, 33), activation_dtype(dtype)), device), rng_key=(1, 2))) != 0


@pytest.mark.parametrize(
    "changes", [{}, {"checkpoint_activations": True}, {"optimizer": "adam", "gradient_accumulation": 2}]
)
def test_the_same_evaluations_on_both_devices(changes, tmp_path, device):
    for name in ("cpu", device):
        assert train(start(tmp_path, name, name, max_steps=8, **changes)) == "finished"
    np.testing.assert_allclose(evaluations(tmp_path / device), evaluations(tmp_path / "cpu"), atol=TOLERANCE)


@pytest.mark.parametrize(
    "dtype, tolerance, to_the_device",
    [("float32", TOLERANCE, True), ("float32", TOLERANCE, False), ("tf32", 2e-3, False), ("bfloat16", 1e-2, True)],
)
def test_a_checkpoint_of_one_device_continues_on_the_other(dtype, tolerance, to_the_device, tmp_path, device):
    first, second = ("cpu", device) if to_the_device else (device, "cpu")
    train(start(tmp_path, "whole", "cpu", dtype=dtype))
    train(start(tmp_path, "parts", first, dtype=dtype), stop_after=5)
    run = resume_run(tmp_path / "parts", second)
    assert {device_of(parameter.value) for parameter in run.model.parameters().values()} == {second}
    assert run.model.precision == dtype
    assert train(run) == "finished"
    np.testing.assert_allclose(evaluations(tmp_path / "parts"), evaluations(tmp_path / "whole"), atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_what_is_stored_is_float32(dtype, tmp_path):
    import safetensors.numpy

    run = start(tmp_path, "run", "cpu", dtype=dtype, max_steps=2, eval_interval=2)
    train(run)
    for file in ("model.safetensors", "training/optimizer.safetensors"):
        tensors = safetensors.numpy.load_file(run.folder / file)
        assert {tensor.dtype.name for tensor in tensors.values()} == {"float32"}, file


@pytest.mark.parametrize("shape", [SHAPE, LLAMA])
def test_the_same_evaluation_and_the_same_text(shape, tmp_path, device):
    run = start(tmp_path, "run", "cpu", shape=shape)
    train(run)
    found = {}
    for name in ("cpu", device):
        model = minillm.from_pretrained(run.folder).to(name)
        loss = evaluate_model(model, run.examples.tokens["validation"][:200], 3).loss
        text = [int(t[0]) for t in generate(model, np.array([[1, 2]]), 24, Sampler(temperature=0.8, top_k=5, seed=3))]
        found[name] = loss, text
    assert found[device][0] == pytest.approx(found["cpu"][0], abs=1e-5)
    assert found[device][1] == found["cpu"][1]


def test_batches_depend_on_nothing_but_their_key(tmp_path):
    runs = [start(tmp_path, name, "cpu", max_steps=steps) for name, steps in (("a", 4), ("b", 12))]
    with BatchPrefetcher(runs[0], ahead=False) as one, BatchPrefetcher(runs[1], ahead=True) as other:
        for step in (3, 0, 11):
            np.testing.assert_array_equal(one.get(step, 0)[0], other.get(step, 0)[0])
