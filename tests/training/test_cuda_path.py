"""Device "cuda" from end to end: a run, its evaluation and its text are those of the CPU."""

import numpy as np
import pytest
from gpu_testing import products_asked_for

from minillm.backend.arrays import to_host
from minillm.backend.random_streams import stream
from minillm.generation import generate
from minillm.kernels import RUNGS, launch, use_kernels
from minillm.models.architectures import config_from_dict, make_model
from minillm.models.language_model import LanguageModel
from minillm.sampler import Sampler
from minillm.training import Reporter, TrainingSettings, evaluate_model, start_run, train
from minillm.training.evaluation import evaluate_whole

pytestmark = pytest.mark.gpu
SHAPES = {
    "gpt2": dict(n_layer=2, n_head=2, d_model=64, context_length=16, dropout=0.1),
    "llama": dict(model_type="llama", n_layer=2, n_head=2, n_kv_head=1, d_model=64, context_length=16),
    "qwen3": dict(model_type="qwen3", n_layer=1, n_head=2, n_kv_head=1, head_dim=32, d_model=64, context_length=16),
}


class Losses(Reporter):
    def __init__(self):
        self.losses = []

    def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
        self.losses.append(loss)


def start(tmp_path, kind, device, **changes):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    settings = dict(batch_size=2, max_steps=3, warmup_steps=2, eval_interval=3, eval_windows=2, sample_tokens=0)
    settings |= changes
    return start_run(
        TrainingSettings(data=(str(text),), **settings), dict(SHAPES[kind]), tmp_path / device, device=device
    )


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("tf32", 1e-3), ("bfloat16", 1e-2)])
def test_a_run_is_that_of_the_cpu(kind, dtype, tolerance, tmp_path):
    losses = {}
    with products_asked_for() as products:
        for device in ("cpu", "cuda"):
            run, recorder = start(tmp_path, kind, device, dtype=dtype), Losses()
            assert run.model.device == device and train(run, recorder) == "finished"
            losses[device] = recorder.losses
        asked = products()
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=0, atol=tolerance)
    if asked is not None:
        assert {product.operands for product in asked} == {"bfloat16" if dtype == "bfloat16" else "float32"}
        assert {product.compute for product in asked} == {"tf32" if dtype == "tf32" else "float32"}


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_the_same_loss_and_the_same_text(kind, tmp_path):
    model, found = start(tmp_path, kind, "cpu").model.eval(), []
    tokens = stream("tokens").integers(model.config.vocab_size, 150)
    for device in ("cpu", "cuda"):
        model.to(device)
        sampler = Sampler(temperature=0.8, top_k=5, seed=3)
        text = [int(token[0]) for token in generate(model, np.array([[1, 2]]), 24, sampler)]  # slides once
        found.append((evaluate_model(model, tokens, 3).loss, text))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    assert found[1][1] == found[0][1]


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_of_attention_takes_a_model_in_bfloat16(rung):
    use_kernels(attention=rung)
    tokens, losses = stream("tokens").integers(28, (2, 17)), []
    for device in ("cpu", "cuda"):
        config = config_from_dict({"vocab_size": 28, "model_type": "gpt2", **SHAPES["gpt2"], "n_layer": 1})
        model = make_model(config, 1, "bfloat16").to(device).train()
        losses.append(float(model.loss(tokens[:, :-1], tokens[:, 1:], rng_key=(1, 2))))
        model.backward()
    assert losses[1] == pytest.approx(losses[0], abs=1e-2)
    assert all(np.isfinite(to_host(parameter.grad)).all() for parameter in model.parameters().values())


def test_for_cupy_the_shape_of_a_number_is_none_at_all():
    """cupy.empty_like(x, shape=()) has the shape of x: code that needs a number asks for it in another way."""
    import cupy

    x = cupy.ones((2, 3), "float32")
    assert cupy.empty_like(x, shape=()).shape == cupy.full_like(x, 1, shape=()).shape == (2, 3)
    assert cupy.empty_like(x, shape=(0,)).shape == (0,) and cupy.empty((), "float64").shape == ()
    for shape in ((), (0,), (4, 5)):
        made = launch.empty(shape, x, "float64")
        assert (type(made), made.shape, made.dtype) == (cupy.ndarray, shape, np.float64)


def test_evaluation_on_a_device_is_one_worker(tmp_path, monkeypatch):
    """Batches that are cut for each core of the host would be launched once for each."""
    monkeypatch.setattr("minillm.backend.threads.cores", lambda: 4)
    monkeypatch.setattr("minillm.backend.threads.TOKENS_PER_WORKER", 1)
    run, made, copy_of = start(tmp_path, "gpt2", "cpu"), [], LanguageModel.replica
    monkeypatch.setattr(LanguageModel, "replica", lambda self: made.append(self) or copy_of(self))
    model, tokens = run.model.eval(), stream("tokens").integers(run.model.config.vocab_size, 80)
    for evaluate in (
        lambda: evaluate_model(model, tokens, 4).loss,
        lambda: evaluate_whole(model, run.examples, "validation").loss,
    ):
        found = {}
        for device in ("cpu", "cuda"):
            model.to(device)
            made.clear()
            found[device] = evaluate()
            assert bool(made) == (device == "cpu")
        assert found["cuda"] == pytest.approx(found["cpu"], abs=1e-5)
