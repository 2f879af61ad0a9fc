"""A step taken apart: the parts add up, the operations are those of the formula, and training goes on as before."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from gpu_testing import on_the_standin, uncomputed

import minillm
from minillm.backend.arrays import to_device
from minillm.backend.precision import bfloat16
from minillm.kernels.simulator import compiler_available
from minillm.kernels.standin.recording import counts
from minillm.layers.linear import Linear
from minillm.models.architectures import config_from_dict, make_model
from minillm.profiling import profile
from minillm.profiling.flops import flops_per_token, multiplied_weights
from minillm.profiling.peaks import PEAKS
from minillm.profiling.profile import WARM_UP_STEPS, Part, Profiler, StepProfile, add_up
from minillm.profiling.profile_recording import GpuClock, Recorder, Window, own_bytes
from minillm.profiling.profile_table import profile_table
from minillm.training import Reporter, train
from minillm.training.data_parallel import DataParallel

BATCH, TIME = 3, 16
MAY_PEND = 1000  # launches and copies that CUDA takes before it makes the host wait; events are in the same queue
GPT2 = dict(model_type="gpt2", vocab_size=48, context_length=TIME, n_layer=2, n_head=2, d_model=64)
LLAMA = {**GPT2, "model_type": "llama", "n_kv_head": 1}
needs_compiler = pytest.mark.skipif(
    not compiler_available(), reason="the simulator needs a C++ compiler (apt install g++)"
)


def profiled(fields: dict, device: str = "cpu", workers: int = 1, dtype: str = "float32") -> StepProfile:
    """The profile of a step of a small model."""
    model = make_model(config_from_dict(fields), dtype=dtype).to(device).train()
    optimizer, found = minillm.AdamW(model.parameters()), []
    windows = np.random.default_rng(0).integers(0, 48, (BATCH, TIME + 1))
    with DataParallel(model, workers) as parallel:
        profiler = Profiler(parallel.models, optimizer, BATCH * TIME, TIME, found.append)

        def step(number):
            parallel.loss_and_gradients(windows[:, :-1], windows[:, 1:], rng_key=(0, number))
            optimizer.step()
            optimizer.zero_grad()

        for number in range(WARM_UP_STEPS + 20):
            profiler(step, number)
        layers = [layer for each in parallel.models for _, layer in each.layers()]
    assert not any({"forward", "backward"} & vars(layer).keys() for layer in layers) and "step" not in vars(optimizer)
    (result,) = found
    return result


def products(result: StepProfile) -> int:
    """Operations of all products of matrices."""
    return sum(part.operations or 0 for part in result.parts)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_parts_add_up_to_the_step(workers):
    result = profiled(GPT2, workers=workers)
    assert sum(part.seconds for part in result.parts) == pytest.approx(result.seconds)
    assert min(part.seconds for part in result.parts) >= 0
    assert result.workers == workers


@pytest.mark.parametrize(
    "fields", [GPT2, {**GPT2, "bias": False}, LLAMA, {**LLAMA, "n_head": 4, "n_kv_head": 2, "head_dim": 8}]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_operations_are_those_of_the_formula(fields, workers):
    result, config = profiled(fields, workers=workers), config_from_dict(fields)
    assert products(result) == result.model_operations == BATCH * TIME * flops_per_token(config, TIME)


def test_the_formula_counts_every_weight_of_a_product_once():
    for fields in (GPT2, LLAMA, {**GPT2, "tie_embeddings": False}):
        config = config_from_dict(fields)
        parameters = make_model(config, seed=None).parameters()
        tables = {"transformer.wte.weight", "transformer.wpe.weight", "model.embed_tokens.weight"}
        expected = sum(p.value.size for name, p in parameters.items() if p.value.ndim == 2 and name not in tables)
        if config.tie_embeddings:
            expected += config.vocab_size * config.d_model
        assert multiplied_weights(config) == expected


@needs_compiler
@pytest.mark.parametrize("fields, width", [(GPT2, 32), ({**GPT2, "n_head": 4}, 16)])
def test_kernels_are_named_and_their_operations_counted(fields, width):
    """Heads 32 wide go to flash attention, heads of 16 to tiles."""
    result = profiled(fields, device="cudasim")
    names = {part.name.partition("<")[0] for part in result.parts if part.kind == "kernel"}
    own = (
        {"flash_forward", "flash_backward_queries", "flash_backward_keys"}
        if width == 32
        else {"matmul_abt", "matmul_ab"}
    )
    shared = {
        "layer_norm_forward",
        "layer_norm_backward",
        "gelu_forward",
        "gelu_backward",
        "embedding_forward",
        "adamw",
    }
    assert own | shared | {"cross_entropy"} <= names
    assert products(result) == result.model_operations
    assert sum(part.seconds for part in result.parts) == pytest.approx(result.seconds)
    weights = sum(p.value.nbytes for p in make_model(config_from_dict(fields)).parameters().values())
    assert next(part for part in result.parts if part.name == "adamw").bytes == 7 * weights


def test_bytes_of_a_product_and_of_the_optimizer():
    parts = {(part.kind, part.name): part for part in profiled({**GPT2, "bias": False}).parts}
    rows, c = BATCH * TIME, 64
    weights = [(c, 3 * c), (c, c), (c, 4 * c), (4 * c, c)]
    forward = sum(4 * (rows * i + i * o + rows * o) for i, o in weights) * GPT2["n_layer"]
    assert parts["matrix product", "Linear forward"].bytes == forward
    assert parts["elementwise", "MLP forward"].bytes == GPT2["n_layer"] * 2 * rows * 4 * c * 4  # z in, h out
    assert parts["elementwise", "MLP backward"].bytes == GPT2["n_layer"] * 3 * rows * 4 * c * 4
    assert parts["elementwise", "ResidualBlock forward"].bytes == GPT2["n_layer"] * 2 * 3 * rows * c * 4  # two sums
    assert parts["elementwise", "LayerNorm forward"].bytes == (2 * GPT2["n_layer"] + 1) * (2 * rows * c + c) * 4
    size = sum(p.value.nbytes for p in make_model(config_from_dict({**GPT2, "bias": False})).parameters().values())
    assert parts["elementwise", "AdamW step"].bytes == 7 * size


class Ticks:
    """A clock that is one second later at each look."""

    device_name, is_held_up = "ticks", True

    def __init__(self):
        self._ticks = count()
        self.held_up_for, self.pending = [], []  # seconds, and how many looks behind each

    def now(self):
        if self.pending:
            self.pending[-1] += 1
        return next(self._ticks)

    def seconds(self, start, end):
        return float(end - start)

    def hold_up(self, seconds):
        self.held_up_for.append(seconds)
        self.pending.append(0)

    def wait(self):
        pass


def two_inside_another(recorder):
    with recorder.span("elementwise", "outer", 8):  # from 0 to 5
        with recorder.span("kernel", "inner", 3, 7):  # from 1 to 2
            pass
        with recorder.span("kernel", "inner", 4, 7):  # from 3 to 4
            pass


def test_what_lies_inside_counts_once():
    recorder = Recorder(Ticks())
    two_inside_another(recorder)
    assert add_up(recorder.spans, recorder.seconds(), 1) == [
        Part("kernel", "inner", 2, 2.0, 7, 14),
        Part("elementwise", "outer", 1, 3.0, 8, None),
    ]
    assert [part.seconds for part in add_up(recorder.spans, recorder.seconds(), 2)] == [1.0, 1.5]


def test_windows_of_a_step_add_up_to_the_step():
    total = [0.0, 0.0, 0.0]
    for window in (Window(0, 2, 0.1), Window(2, 3, 0.2), Window(3, 5, 0.3)):
        clock = Ticks()
        recorder = Recorder(clock, window=window)
        two_inside_another(recorder)
        assert clock.held_up_for == [window.seconds] and clock.pending == [window.stop - window.start + 1]
        total = [before + more for before, more in zip(total, recorder.seconds())]
    assert total == [3.0, 1.0, 1.0]


def test_a_gpu_is_never_asked_for_more_than_may_pend(monkeypatch):
    """CUDA makes the host wait when about 1,000 launches pend: what is held up behind a window stays below."""
    found, pending = [], []
    for size in (20, 10**6):
        clock = Ticks()
        monkeypatch.setattr(profile, "clock_of", lambda device: clock)  # noqa: B023
        monkeypatch.setattr(profile, "WINDOW", size)
        result = profiled(GPT2)
        found.append(result.parts[:-1])
        pending.append(clock.pending)
        assert min(clock.held_up_for) > 0
    assert max(pending[0]) == 21 and len(pending[0]) > 4 and len(pending[1]) == 1
    assert found[0] == found[1]  # one tick from boundary to boundary, however they are cut


def test_the_launch_gap_is_what_the_whole_has_beyond_its_pieces(monkeypatch):
    """The way of a GPU with another clock: the pieces take ticks, the whole was timed before, in a step of its own."""
    clock, time_it = Ticks(), Profiler._time
    monkeypatch.setattr(profile, "clock_of", lambda device: clock)

    def a_million_ticks(profiler, step):
        value = time_it(profiler, step)
        assert profiler._whole > 0
        profiler._whole = 1e6
        return value

    monkeypatch.setattr(Profiler, "_time", a_million_ticks)
    result = profiled(GPT2)
    gap = result.parts[-1]
    assert (gap.kind, gap.name) == ("between", "launch gap")
    assert result.seconds == 1e6 and gap.seconds == 1e6 - sum(part.seconds for part in result.parts[:-1]) > 0


def test_utilisation_and_shares_of_peak():
    parts = [Part("matrix product", "Linear", 1, 0.5, 10**9, 10**14), Part("kernel", "gelu", 1, 0.25, 6 * 10**11, None)]
    result = StepProfile(parts, 1.0, 1000, 2 * 10**14, "NVIDIA H200", "bfloat16")
    h200 = PEAKS["NVIDIA H200"]
    assert result.utilisation == pytest.approx(200 / h200.bfloat16)
    assert result.share_of_peak(parts[0]) == pytest.approx(200 / h200.bfloat16)
    assert result.share_of_peak(parts[1]) == pytest.approx(2400 / h200.bandwidth)
    assert "20.2% of the peak of NVIDIA H200 in bfloat16" in profile_table(result)
    for other in (replace(result, device_name="NVIDIA Z9"), replace(result, dtype="float64")):
        assert other.utilisation is None and other.share_of_peak(parts[0]) is None
        assert "utilisation n/a: the peak of" in profile_table(other)


def test_a_run_with_a_profile_is_the_same_run(new_run):
    class Noting(Reporter):
        def __init__(self):
            self.profiles = []

        def on_profile(self, profile):
            self.profiles.append(profile)

    reporter, weights = Noting(), []
    for name, wanted in (("plain", False), ("profiled", True)):
        run = new_run(name)
        train(run, reporter, profile=wanted)
        weights.append(run.model.parameters()["transformer.wte.weight"].value)
    assert np.array_equal(*weights)
    (result,) = reporter.profiles
    table = profile_table(result)
    assert result.tokens == 6 * 8 and "matrix product" in table and "elementwise" in table and "n/a" in table
    assert f"the step: {result.seconds * 1e3:.3f} ms, 48 tokens" in table


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_on_a_gpu(dtype):
    """With a vocabulary that is a multiple of 64, as rows of logits are on a GPU: else the head multiplies more than the
    formula has.
    """
    import cupy

    result = profiled({**GPT2, "vocab_size": 64}, device="cuda", dtype=dtype)
    assert sum(part.seconds for part in result.parts) == pytest.approx(result.seconds)
    assert min(part.seconds for part in result.parts) >= 0 and result.parts[-1].name == "launch gap"
    assert products(result) == result.model_operations
    assert result.device_name == cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


@pytest.mark.gpu
def test_what_pends_behind_a_window_on_a_gpu(monkeypatch):
    """All that the host hands over from the start of the sleep to the last boundary of a window has to fit into the queue.

    12 layers of GPT-2 in bfloat16: more launches from boundary to boundary than in float32, and as many as at full width.
    """
    if not on_the_standin():
        pytest.skip("a GPU does not tell how many launches pend: `pytest -m gpu --standin` counts them")
    asked = ("launches", "products", "to_device", "to_host", "memsets")
    began, pending = [], []

    class Counting(GpuClock):
        def hold_up(self, seconds):
            super().hold_up(seconds)
            began[:] = [0, sum(counts()[name] for name in asked)]

        def now(self):
            if began:
                began[0] += 1
                pending.append(began[0] + sum(counts()[name] for name in asked) - began[1])
            return super().now()

    monkeypatch.setattr(profile, "clock_of", lambda device: Counting())
    with uncomputed():
        profiled({**GPT2, "n_layer": 12, "dropout": 0.1}, device="cuda", dtype="bfloat16")
    assert 400 < max(pending) < MAY_PEND
    assert len([count for count in pending if count == 1]) > 3, "windows"


def test_counting_bytes_does_not_drop_the_rounded_weights():
    """A step that is taken apart rounds as many weights as a plain one."""
    x = to_device(np.zeros((2, 4), bfloat16()), "cudasim")
    linear = Linear(np.ones((4, 3), np.float32)).to("cudasim")
    y = linear.forward(x)
    assert not linear.weight.is_operand_stale()
    assert own_bytes(linear, "forward", (x,), y) == x.nbytes + y.nbytes + 4 * 12
    assert not linear.weight.is_operand_stale()
