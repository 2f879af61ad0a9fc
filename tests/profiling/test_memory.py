"""What a training step is said to take, against what NumPy (or CuPy's pool) counts while it is taken."""

from dataclasses import replace

import numpy as np
import pytest
from gpu_testing import uncomputed

import minillm
from minillm.kernels.simulator import compiler_available
from minillm.models.architectures import config_from_dict, make_model
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.models.presets import PRESETS
from minillm.optim import clip
from minillm.profiling.memory import PARTS, Workload, count_parameters, estimate
from minillm.profiling.memory_measure import measured_peak
from minillm.profiling.memory_report import memory_report
from minillm.training.data_parallel import DataParallel

needs_compiler = pytest.mark.skipif(
    not compiler_available(), reason="the simulator needs a C++ compiler (apt install g++)"
)


RANK = 4  # of LoRA's matrices


def gpt2(**changes):
    shape = dict(vocab_size=512, context_length=128, n_layer=3, n_head=4, d_model=128)
    return config_from_dict({"model_type": "gpt2", **shape, **changes})


def llama(**changes):
    shape = dict(vocab_size=512, context_length=128, n_layer=3, n_head=4, n_kv_head=2, d_model=128)
    return config_from_dict({"model_type": "llama", **shape, **changes})


def measured(workload: Workload, workers: int = 1, seed: int | None = 0) -> int:
    """The peak of the second step: model, optimizer, and the step as `train_step` takes it.

    seed: of the weights; None for weights of 0, which take the same memory and no time.
    """
    # Modules are loaded and kernels compiled, which is not what is measured.
    small = replace(workload, config=replace(workload.config, context_length=8, n_layer=1))
    take_steps(small if workload.device == "cpu" else workload, workers, seed)
    with measured_peak(workload.device) as peak:
        take_steps(workload, workers, seed, peak)
        return peak.bytes


def take_steps(workload: Workload, workers: int, seed: int | None, peak=None) -> None:
    """A model, its optimizer, and two steps; a peak is reset before the second one. With a workload of which less than all
    weights learn, LoRA's do."""
    config = workload.config
    windows = np.random.default_rng(0).integers(0, config.vocab_size, (workload.batch_size, config.context_length + 1))
    model = make_model(config, seed, workload.dtype).to(workload.device).train()
    model.body.recompute = workload.checkpoint_activations
    if workload.learning is not None:
        add_lora(model, LoRA(RANK))
    optimizer = minillm.AdamW(model.trainable_parameters())
    with DataParallel(model, workers) as parallel:
        for step in range(2 if peak else 1):
            if step:
                peak.reset()
            for micro_step in range(workload.gradient_accumulation):
                parallel.loss_and_gradients(windows[:, :-1], windows[:, 1:], rng_key=(0, step, micro_step))
            optimizer.step(clip(optimizer.parameters, 1.0)[1])
            optimizer.zero_grad()


def relative(kind, **changes):
    shape = dict(vocab_size=512, context_length=128, n_layer=3, n_head=4, n_kv_head=2, d_model=128, d_ff=352)
    return config_from_dict({"model_type": kind, **shape, **changes})


CASES = {
    "gpt2": (gpt2(), 8, {}),
    "gpt2, checkpointing": (gpt2(), 8, dict(checkpoint_activations=True)),
    "gpt2, dropout": (gpt2(dropout=0.1), 8, {}),
    "gpt2, dropout, checkpointing": (gpt2(dropout=0.1), 8, dict(checkpoint_activations=True)),
    "gpt2, several blocks of queries": (gpt2(context_length=320, n_layer=2, bias=False), 3, {}),
    "gpt2, deep, checkpointing": (gpt2(n_layer=12, d_model=64, vocab_size=64), 8, dict(checkpoint_activations=True)),
    "gpt2, shallow, accumulating": (gpt2(context_length=16, n_layer=1, d_model=256), 1, dict(gradient_accumulation=2)),
    "gpt2, exact gelu": (gpt2(activation="gelu", n_layer=2), 4, {}),
    "gpt2, float64": (gpt2(n_layer=2), 4, dict(dtype="float64")),
    "gpt2, many words": (gpt2(vocab_size=20_000, n_layer=1), 2, {}),
    "gpt2, many weights": (gpt2(context_length=32, d_model=192, n_layer=4), 1, {}),
    "gpt2, accumulating": (gpt2(context_length=32, n_layer=5), 2, dict(gradient_accumulation=2)),
    "gpt2, bfloat16": (gpt2(n_layer=2), 4, dict(dtype="bfloat16")),
    "gpt2, tf32": (gpt2(n_layer=2), 4, dict(dtype="tf32")),
    "llama": (llama(), 8, {}),
    "llama, bfloat16": (llama(n_layer=2), 4, dict(dtype="bfloat16", checkpoint_activations=True)),
    "llama, checkpointing": (llama(), 8, dict(checkpoint_activations=True)),
    "llama, dropout": (llama(dropout=0.1, n_layer=2), 4, {}),
    "llama, as many key heads": (llama(n_kv_head=4, tie_embeddings=True, n_layer=2), 4, {}),
    "llama, wide heads": (llama(head_dim=64, attention_bias=True, n_layer=2), 4, dict(checkpoint_activations=True)),
    "qwen2": (relative("qwen2", n_layer=2), 4, {}),
    "qwen3": (relative("qwen3", head_dim=48), 8, {}),
    "mistral": (relative("mistral", sliding_window=40, context_length=320, n_layer=2), 3, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_close_to_what_numpy_counts(name):
    """A tenth is promised; here every formula is known, and the rest is what Python itself takes."""
    config, batch, settings = CASES[name]
    workload = Workload(config, batch, workers=1, **settings)
    assert estimate(workload).total == pytest.approx(measured(workload), rel=0.06)


def test_where_only_lora_learns():
    config = gpt2(vocab_size=64, context_length=32, d_model=256, n_layer=2)
    thin = make_model(config, seed=0)
    add_lora(thin, LoRA(RANK))
    learning = sum(parameter.value.size for parameter in thin.trainable_parameters().values())
    workload = Workload(config, 2, workers=1, learning=learning)
    assert estimate(workload).moments == 8 * learning
    assert estimate(workload).total == pytest.approx(measured(workload), rel=0.1)


def test_two_workers():
    """The estimate is of two workers at their peak at the same time, which is a matter of chance: of some steps the largest."""
    workload = Workload(gpt2(), 8, workers=2)
    largest = max(measured(workload, workers=2) for _ in range(4))
    assert estimate(workload).total == pytest.approx(largest, rel=0.1)


KERNEL_CASES = {
    "gpt2": (gpt2(context_length=48, n_layer=2), {}),
    "gpt2, checkpointing": (gpt2(context_length=48, n_layer=4), dict(checkpoint_activations=True)),
    "gpt2, dropout": (gpt2(context_length=48, n_layer=2, dropout=0.1), {}),
    "gpt2, heads without flash": (gpt2(context_length=48, n_layer=2, n_head=8, d_model=64), {}),
    "gpt2, bfloat16": (gpt2(context_length=48, n_layer=2), dict(dtype="bfloat16")),
    "llama": (llama(context_length=48, n_layer=2), {}),
    "llama, checkpointing": (llama(context_length=48, n_layer=4), dict(checkpoint_activations=True)),
    "mistral": (relative("mistral", sliding_window=20, context_length=48, n_layer=2), {}),
}


@needs_compiler
@pytest.mark.parametrize("name", KERNEL_CASES)
def test_close_with_kernels(name):
    config, settings = KERNEL_CASES[name]
    workload = Workload(config, 2, device="cudasim", **settings)
    assert estimate(workload).total == pytest.approx(measured(workload), rel=0.06)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("checkpoint_activations", [False, True])
@pytest.mark.parametrize("preset", ["gpt2", "smollm2-135m"])
def test_within_a_tenth_of_what_the_pool_counts(preset, checkpoint_activations, dtype):
    kind, fields = PRESETS[preset].architecture, {**PRESETS[preset].model, "vocab_size": 50257, "context_length": 1024}
    config = config_from_dict({"model_type": kind, **fields})
    workload = Workload(config, 4, None, dtype, "cuda", checkpoint_activations)
    with uncomputed():
        assert estimate(workload).total == pytest.approx(measured(workload, seed=None), rel=0.1)


@pytest.mark.parametrize("config", [gpt2(), gpt2(bias=False, tie_embeddings=False), llama(), llama(mlp_bias=True)])
def test_weights_and_moments_are_exact(config):
    parameters = make_model(config, seed=None).parameters().values()
    assert count_parameters(config) == sum(parameter.value.size for parameter in parameters)
    result = estimate(Workload(config, 2, workers=1))
    assert (result.weights, result.moments) == (4 * count_parameters(config), 8 * count_parameters(config))


def test_the_parts_make_the_total():
    result = estimate(Workload(gpt2(), 8))
    assert result.total == sum(getattr(result, part) for part in PARTS)
    assert result.activations == sum(result.saved.values())


def test_gradients_of_a_step_are_gone_before_the_next_one():
    """Only those of the tables keep their memory: a second step takes no more than the first."""
    config = gpt2(context_length=16, d_model=192, n_layer=4)
    windows = np.random.default_rng(0).integers(0, 512, (1, 17))
    with measured_peak("cpu") as peak:
        model, peaks = make_model(config).train(), []
        optimizer = minillm.AdamW(model.parameters())
        for _ in range(3):
            peak.reset()
            model.loss(windows[:, :-1], windows[:, 1:])
            model.backward()
            optimizer.step()
            optimizer.zero_grad()
            peaks.append(peak.bytes)
    assert max(peaks) < 1.01 * peaks[0]


def test_the_report_names_a_rotary_scaling(tmp_path):
    fields = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
    shape = dict(vocab_size=17, context_length=64, n_layer=1, n_head=2, d_model=16)
    minillm.Llama(minillm.LlamaConfig(**shape, rope_scaling=fields), seed=0).save_pretrained(tmp_path)
    assert "Rotary scaling: yarn by 4, from 16 tokens; a context of 64 tokens." in memory_report(str(tmp_path))
