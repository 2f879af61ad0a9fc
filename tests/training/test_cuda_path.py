"""Device "cuda" from end to end, on a machine without a GPU: CuPy's face on NumPy's arrays, kernels in the simulator."""

import cupy_face
import numpy as np
import pytest
from cupy_face import Array, install
from kernel_testing import needs_compiler

from minillm.backend.arrays import device_of
from minillm.backend.async_read import AsyncRead, no_waits
from minillm.backend.random_streams import stream
from minillm.generation import generate
from minillm.kernels import launch
from minillm.models.language_model import LanguageModel
from minillm.sampler import Sampler
from minillm.training import Reporter, TrainingSettings, evaluate_model, start_run, train
from minillm.training.data_parallel import DataParallel
from minillm.training.prefetch import BatchPrefetcher
from minillm.training.step import train_step

SHAPES = {
    "gpt2": dict(n_layer=2, n_head=2, d_model=64, context_length=16, dropout=0.1),
    "llama": dict(model_type="llama", n_layer=2, n_head=2, n_kv_head=1, d_model=64, context_length=16),
}


@pytest.fixture
def cublas_calls(monkeypatch):
    needs_compiler()
    return install(monkeypatch)


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
def test_a_run_is_that_of_the_cpu(kind, dtype, tolerance, tmp_path, cublas_calls):
    losses = {}
    for device in ("cpu", "cuda"):
        run, recorder = start(tmp_path, kind, device, dtype=dtype), Losses()
        assert run.model.device == device and train(run, recorder) == "finished"
        losses[device] = recorder.losses
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=0, atol=tolerance)
    operands, compute = {call.operands for call in cublas_calls}, {call.compute for call in cublas_calls}
    assert operands == {14 if dtype == "bfloat16" else 0}  # CUDA_R_16BF, CUDA_R_32F
    assert compute == {77 if dtype == "tf32" else 68}  # CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16", "gradient_accumulation": 2, "optimizer": "adam"}])
def test_a_step_waits_for_nothing(kind, changes, tmp_path, cublas_calls):
    run = start(tmp_path, kind, "cuda", **changes)
    run.model.train()
    with DataParallel(run.model, 1) as parallel, BatchPrefetcher(run, ahead=True) as batches:
        for step in range(2):
            run.progress.step = step
            with no_waits():
                loss, norm = train_step(run, parallel, batches, 1e-3)
    assert device_of(loss) == device_of(norm) == "cuda"


@pytest.mark.parametrize("kind", SHAPES)
def test_the_same_loss_and_the_same_text(kind, tmp_path, cublas_calls):
    model, found = start(tmp_path, kind, "cpu").model.eval(), []
    tokens = stream("tokens").integers(model.config.vocab_size, 150)
    for device in ("cpu", "cuda"):
        model.to(device)
        sampler = Sampler(temperature=0.8, top_k=5, seed=3)
        text = [int(token[0]) for token in generate(model, np.array([[1, 2]]), 24, sampler)]  # slides once
        found.append((evaluate_model(model, tokens, 3).loss, text))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    assert found[1][1] == found[0][1]


def test_numbers_travel_without_waiting(cublas_calls):
    x = Array(np.array([1.5, -2.5]))
    with no_waits():
        later = AsyncRead(x[0], x.sum())
        x *= 100
        assert later.numbers() == [1.5, -1.0]


def test_the_face_is_as_strict_as_cupy(cublas_calls):
    x, y = Array(np.ones(3)), np.ones(3)
    for wrong in (
        lambda: x + y,
        lambda: y + x,
        lambda: np.asarray(x),
        lambda: x.__setitem__(0, y[:1]),
        lambda: x.sum(where=True),
        lambda: x.view(np.ndarray),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(AttributeError):
        x.ctypes  # noqa: B018
    assert (
        type(x.sum()) is type(x[0]) is type(x + 1) is type(np.float32(2) * x) is type(np.concatenate([x, x])) is Array
    )
    assert not isinstance(x, np.ndarray) and x[Array(np.array([4]))].tolist() == x[1:2].tolist()


def test_for_cupy_the_shape_of_a_number_is_none_at_all(cublas_calls):
    """cupy.empty_like(x, shape=()) has the shape of x: code that needs a number asks for it in another way."""
    import cupy

    x = Array(np.ones((2, 3), np.float32))
    assert cupy.empty_like(x, shape=()).shape == cupy.full_like(x, 1, shape=()).shape == (2, 3)
    assert cupy.empty_like(x, shape=(0,)).shape == (0,) and cupy.empty((), "float64").shape == ()
    for shape in ((), (0,), (4, 5)):
        made = launch.empty(shape, x, "float64")
        assert (type(made), made.shape, made.dtype) == (Array, shape, np.float64)


def test_the_face_has_what_cupy_has():
    if cupy_face.REAL is None:
        pytest.skip("CuPy is not installed")
    missing = [name for name in cupy_face.METHODS if not hasattr(cupy_face.REAL.ndarray, name)]
    assert not missing


def test_evaluation_on_a_device_is_one_worker(tmp_path, cublas_calls, monkeypatch):
    """Batches that are cut for each core of the host would be launched once for each."""
    monkeypatch.setattr("minillm.backend.threads.cores", lambda: 4)
    monkeypatch.setattr("minillm.backend.threads.TOKENS_PER_WORKER", 1)
    model, made = start(tmp_path, "gpt2", "cpu").model.eval(), []
    copy_of = LanguageModel.replica
    monkeypatch.setattr(LanguageModel, "replica", lambda self: made.append(self) or copy_of(self))
    tokens = stream("tokens").integers(model.config.vocab_size, 80)
    on_cpu = evaluate_model(model, tokens, 4).loss
    assert len(made) == 3
    assert evaluate_model(model.to("cuda"), tokens, 4).loss == pytest.approx(on_cpu, abs=1e-5)
    assert len(made) == 3
