"""A whole model trains on the simulator: layers, launchers and kernels of the GPU's path, on a machine that has none."""

import numpy as np
import pytest

import minillm
from minillm.backend.arrays import device_of
from minillm.backend.random_streams import stream
from minillm.kernels import OPERATIONS, launch, use_kernels
from minillm.optim import clip

STEPS = 8
UNUSED = {
    "rms_norm",
    "rotary",
    "residual_rms_norm",
    "swiglu",
    "skinny_matmul",
    "largest",
}  # not in a GPT-2 that is trained


def train(device, dropout, steps=STEPS, **settings):
    """Losses and gradient norms (steps, 2), and the model."""
    config = minillm.GPT2Config(65, context_length=40, n_layer=2, n_head=2, d_model=64, dropout=dropout, **settings)
    model = minillm.GPT2(config, seed=1337).to(device).train()
    optimizer = minillm.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    history = []
    for step in range(steps):
        tokens = stream(1, "batch", step).integers(65, (4, 41))
        loss = model.loss(tokens[:, :-1], tokens[:, 1:], rng_key=(1, "dropout", step))
        model.backward()
        norm, scale = clip(model.parameters(), 1.0)
        optimizer.step(scale)
        optimizer.zero_grad()
        history.append((float(loss), float(norm)))
    return np.array(history), model


@pytest.mark.parametrize("settings", [dict(dropout=0.0), dict(dropout=0.1, bias=False, tie_embeddings=False)])
def test_a_model_trains_as_with_numpy(settings, device):
    expected, _ = train("cpu", **settings)
    found, model = train(device, **settings)
    assert {device_of(parameter.value) for parameter in model.parameters().values()} == {device}
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-4)


def test_the_same_seed_gives_the_same_bits(device):
    (first, model), (second, again) = (train(device, dropout=0.1, steps=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for name, parameter in model.parameters().items():
        assert (parameter.value == again.parameters()[name].value).all(), name


@pytest.fixture
def launched(monkeypatch):
    """The names of the .cu files whose kernels run."""
    names, run = set(), launch.CudaFile.launch

    def watched(file, *arguments, **named):
        names.add(file.path.stem)
        return run(file, *arguments, **named)

    monkeypatch.setattr(launch.CudaFile, "launch", watched)
    yield names
    use_kernels(True)


def test_every_kernel_of_a_gpt2_is_used(launched, simulator):
    train("cudasim", dropout=0.1, steps=1)
    assert launched == {"flash", *OPERATIONS} - {"attention"} - UNUSED


def test_kernels_turned_off_are_not_used(launched, simulator):
    use_kernels(False, gelu=True)
    train("cudasim", dropout=0.1, steps=1)
    assert launched == {"gelu"}
