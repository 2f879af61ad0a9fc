"""Every kernel against its NumPy twin in float64: on the simulator in three thread orders, and on the GPU.

The same cases run in check mode, twice for the same bits, and with faults planted in the source.
"""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_testing import assert_faults_are_documented, relative_error, with_headers

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import activation_dtype, bfloat16
from minillm.checks.kernel_samples import SAMPLES, OptimizerReference
from minillm.errors import UserError
from minillm.kernels import launch
from minillm.kernels.launch import FLOATS, CudaFile
from minillm.kernels.simulator import SimulatorError, configured
from minillm.layers.layer_norm import layer_norm_forward
from minillm.layers.residual_layer_norm import residual_layer_norm_backward
from minillm.layers.rotary import rotary_tables
from minillm.optim.global_norm import clip_scale

FORWARD, BACKWARD = 1e-5, 1e-4  # largest relative error of float32, norm-wise
TRAVELLING = {"x", "delta", "dy", "dsum"}  # bfloat16 between layers: weights, tables and logits are always float32

# --------------------------------------------------------------- the cases: inputs, and what is computed from them


def norm_inputs(rng, *shape):
    width = shape[-1]
    return dict(
        x=rng.normal(size=shape) * 2 + 3,
        delta=rng.normal(size=shape),
        weight=rng.normal(size=width),
        bias=rng.normal(size=width),
        dy=rng.normal(size=shape),
        dsum=rng.normal(size=shape),
    )


def layer_norm(op, a, biased=True):
    y, saved = op.layer_norm_forward(a.x, a.weight, a.bias if biased else None)
    return {"y": y}, dict(zip(("dx", "dweight", "dbias"), op.layer_norm_backward(a.dy, saved)))


def residual_layer_norm(op, a, biased=True):
    (total, y), saved = op.residual_layer_norm_forward(a.x, a.delta, a.weight, a.bias if biased else None)
    gradients = op.residual_layer_norm_backward(a.dsum, a.dy, saved)
    return {"sum": total, "y": y}, dict(zip(("dx", "dweight", "dbias"), gradients))


def rms_norm(op, a):
    y, saved = op.rms_norm_forward(a.x, a.weight)
    return {"y": y}, dict(zip(("dx", "dweight"), op.rms_norm_backward(a.dy, saved)))


def gelu(op, a, biased=True, approximate="tanh"):
    y, saved = op.gelu_forward(a.x, a.bias if biased else None, approximate)
    return {"y": y}, dict(zip(("dx", "dbias"), op.gelu_backward(a.dy, saved)))


def swiglu(op, a):
    h, saved = op.swiglu_forward(a.x * 16, a.delta)  # some sigmoids are 0 or 1; exact in bfloat16
    return {"h": h}, dict(zip(("dgate", "dup"), op.swiglu_backward(a.dy, saved)))


def logits_inputs(rng, rows, vocabulary, ignored=()):
    targets = rng.integers(vocabulary, size=rows)
    targets[list(ignored)] = -100
    logits = rng.normal(size=(rows, vocabulary)) * 5 + np.linspace(0, 20, vocabulary)
    logits[0, : vocabulary // 3] = -np.inf  # masked tokens
    targets[0] = vocabulary - 1
    return dict(logits=logits, targets=targets)


def cross_entropy(op, a, smoothing=0.0, dloss=1.0):
    if smoothing:
        a.logits[0] = 0
    loss, saved = op.cross_entropy_forward(a.logits, a.targets, label_smoothing=smoothing)
    return {"loss": loss}, {"dlogits": op.cross_entropy_backward(dloss, saved)}


def ids_inputs(rng, tokens, vocabulary, width):
    ids = np.minimum(rng.zipf(1.3, size=tokens) - 1, vocabulary - 1)  # few frequent tokens, many rare ones
    return dict(
        ids=ids.reshape(1, -1), weight=rng.normal(size=(vocabulary, width)), dy=rng.normal(size=(1, tokens, width))
    )


def embedding(op, a):
    y, saved = op.embedding_forward(a.ids, a.weight, a.dy.dtype)
    buffer = a.weight * 2
    return {"y": y}, {
        "dweight": op.embedding_backward(a.dy, saved),
        "added": op.embedding_backward(a.dy, saved, buffer),
    }


def dropout(op, a, p=0.3, batch_offset=0):
    y, saved = op.dropout_forward(a.x, p, (7, "dropout", 3), batch_offset)
    return {"y": y}, {"dx": op.dropout_backward(a.dy, saved)}


def rotary_inputs(rng, batch, heads, time, width):
    cos, sin = rotary_tables(time, width)
    shape = (batch, heads, time, width)
    return dict(x=rng.normal(size=shape), dy=rng.normal(size=shape), cos=cos, sin=sin)


def rotary(op, a, interleaved=False):
    y, saved = op.rotary_forward(a.x, a.cos, a.sin, interleaved)
    return {"y": y}, {"dx": op.rotary_backward(a.dy, saved)}


def tensors_inputs(rng, *shapes):
    lists = {name: [rng.normal(size=shape) for shape in shapes] for name in ("values", "gradients", "first")}
    return dict(**lists, second=[rng.random(size=shape) for shape in shapes])


def adamw(op, a, decoupled=True):
    scale = a.values[0].dtype.type(0.5)
    decays = [0.1 if value.ndim >= 2 else 0.0 for value in a.values]
    for step in (3, 4):
        lists = (a.values, a.gradients, a.first, a.second)
        op.adamw_update(*lists, 1e-2, (0.9, 0.99), 1e-8, decays, step, gradient_scale=scale, decoupled=decoupled)
    return {f"{name}[{i}]": x for name in ("values", "first", "second") for i, x in enumerate(getattr(a, name))}, {}


def global_norm(op, a):
    return {"norm": op.global_norm(a.gradients)}, {}


def cases():
    """Operation, its function, the function's settings, its inputs."""
    for shape in ((1, 1), (0, 5), (3, 5), (2, 3, 33), (37, 100), (515, 40), (3, 769)):
        yield layer_norm, {}, norm_inputs, shape
        # A single channel: n is +-1 and dx nearly 0 by cancellation, of which float32 has no digits in any way.
        yield rms_norm, {}, norm_inputs, (1, 2) if shape == (1, 1) else shape
        yield residual_layer_norm, {}, norm_inputs, shape
        yield gelu, {}, norm_inputs, shape
        yield swiglu, {}, norm_inputs, shape
    yield layer_norm, {"biased": False}, norm_inputs, (6, 65)
    yield residual_layer_norm, {"biased": False}, norm_inputs, (6, 65)
    yield gelu, {"biased": False}, norm_inputs, (6, 65)
    yield gelu, {"approximate": "none"}, norm_inputs, (300, 65)
    yield gelu, {"approximate": "none", "biased": False}, norm_inputs, (6, 65)
    yield cross_entropy, {}, logits_inputs, (1, 2)
    yield cross_entropy, {}, logits_inputs, (5, 65, (1, 4))
    yield cross_entropy, {"smoothing": 0.1, "dloss": 0.25}, logits_inputs, (9, 1000, (8,))
    yield cross_entropy, {}, logits_inputs, (2, 5003)
    for tokens, vocabulary, width in (
        (1, 1, 1),
        (0, 5, 3),
        (31, 5, 3),
        (64, 2, 33),
        (65, 3, 100),
        (300, 40, 260),
        (513, 1, 7),
    ):
        yield embedding, {}, ids_inputs, (tokens, vocabulary, width)
    for shape in ((1, 1), (0, 3), (5, 7), (3, 5, 161), (64, 64)):
        yield dropout, {}, norm_inputs, shape
        yield dropout, {"batch_offset": 3}, norm_inputs, shape
    for shape in ((1, 1, 1, 2), (2, 3, 5, 6), (1, 2, 65, 64), (3, 1, 33, 96)):
        yield rotary, {}, rotary_inputs, shape
        yield rotary, {"interleaved": True}, rotary_inputs, shape
    tensors = ((3, 4), (1,), (4097,), (0,), (5, 1, 7), (100, 100))
    yield adamw, {}, tensors_inputs, tensors
    yield adamw, {"decoupled": False}, tensors_inputs, tensors
    yield adamw, {}, tensors_inputs, ((1,),)
    yield global_norm, {}, tensors_inputs, tensors
    yield global_norm, {}, tensors_inputs, ((1,),)


CASES = [
    pytest.param(*case, id=f"{case[0].__name__}-{'-'.join(map(str, case[3]))}-{'-'.join(map(str, case[1].values()))}")
    for case in cases()
]
OPERATIONS = sorted({case[0].__name__ for case in cases()})
FLOAT32_ONLY = ("adamw", "cross_entropy", "global_norm")
BFLOAT16_CASES = [case for case in CASES if case.values[0].__name__ not in FLOAT32_ONLY]


def inputs(make, shape, device=None, dtype=np.float32, number="float32"):
    """The inputs of a case as arrays on a device, floating-point ones in a dtype. Always the same numbers.

    number: "bfloat16" rounds what travels between layers to it; without a dtype it is that, too.
    """
    given = make(np.random.default_rng(len(str(shape))), *shape)

    def place(array, travels):
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
            array = array.astype(bfloat16()) if travels and number == "bfloat16" else array
            array = array.astype(dtype) if dtype else array
        return to_device(array, device) if device else array

    return SimpleNamespace(
        **{
            name: [place(x, False) for x in value] if isinstance(value, list) else place(value, name in TRAVELLING)
            for name, value in given.items()
        }
    )


class RoundedSum:
    """residual_layer_norm as its bfloat16 kernel defines it: what is normed is the sum that is handed on, the rounded one."""

    @staticmethod
    def residual_layer_norm_forward(x, delta, weight, bias):
        total = (x + delta).astype(bfloat16()).astype(np.float64)
        y, saved = layer_norm_forward(total, weight, bias)
        return (total, y), saved

    residual_layer_norm_backward = staticmethod(residual_layer_norm_backward)


def reference(run, settings, make, shape, number="float32"):
    """Results of the case with NumPy in float64."""
    optimizer = run.__name__ in ("adamw", "global_norm")
    op = OptimizerReference if optimizer else importlib.import_module(f"minillm.layers.{run.__name__}")
    if number == "bfloat16" and run is residual_layer_norm:
        op = RoundedSum
    return run(op, inputs(make, shape, dtype=np.float64, number=number), **settings)


def kernel(run, settings, make, shape, device="cudasim", number="float32"):
    """Results of the case with our kernel, as NumPy arrays."""
    op = importlib.import_module(f"minillm.kernels.{run.__name__}")
    results = run(op, inputs(make, shape, device, None, number), **settings)
    return tuple({name: x if x is None else to_host(x) for name, x in part.items()} for part in results)


def errors(actual, expected):
    """Name -> relative error, norm-wise, for the forward results and for the backward ones."""
    for part, wanted in zip(actual, expected):
        assert part.keys() == wanted.keys()
    return tuple(
        {name: relative_error(part[name], wanted[name]) for name in part} for part, wanted in zip(actual, expected)
    )


def worst_excess(actual, expected):
    """The largest error as a multiple of what is allowed."""
    forward, backward = errors(actual, expected)
    return max([e / FORWARD for e in forward.values()] + [e / BACKWARD for e in backward.values()])


# -------------------------------------------------------------------------------------------------------- where it runs


@pytest.mark.parametrize("run, settings, make, shape", CASES)
def test_kernel_agrees_with_numpy_in_float64(run, settings, make, shape, device):
    forward, backward = errors(kernel(run, settings, make, shape, device), reference(run, settings, make, shape))
    assert max(forward.values()) <= FORWARD, forward
    assert max(backward.values(), default=0) <= BACKWARD, backward


@pytest.mark.parametrize("run, settings, make, shape", BFLOAT16_CASES)
def test_bfloat16_errs_as_rounding_does(run, settings, make, shape, device):
    """What is handed on is the exact result, rounded; a gradient of a weight has float32's precision."""
    case = (run, settings, make, shape)
    found, exact = kernel(*case, device, "bfloat16"), reference(*case, "bfloat16")
    for part, expected in zip(found, exact):
        for name, result in part.items():
            if result is not None and result.dtype.name == "bfloat16":
                rounded = expected[name].astype(bfloat16()).astype(np.float64)
                assert relative_error(result, expected[name]) <= 2 * relative_error(rounded, expected[name]) + 1e-7, (
                    name
                )
            else:
                assert relative_error(result, expected[name]) <= BACKWARD, name


@pytest.mark.parametrize("run, settings, make, shape", BFLOAT16_CASES)
def test_bfloat16_results_have_the_dtype_they_should(run, settings, make, shape, simulator):
    forward, backward = kernel(run, settings, make, shape, number="bfloat16")
    for name, result in (forward | backward).items():
        if result is not None:
            of_weight = name in ("dweight", "dbias", "added")
            assert result.dtype.name == ("float32" if of_weight else "bfloat16"), name


@pytest.mark.parametrize("run, settings, make, shape", [case for case in BFLOAT16_CASES if "515" not in case.id])
def test_check_mode_reports_nothing_in_bfloat16(run, settings, make, shape, simulator):
    with configured(mode="check", order="shuffled", seed=5):
        kernel(run, settings, make, shape, number="bfloat16")


@pytest.mark.parametrize("run, settings, make, shape", CASES)
def test_same_input_same_bits(run, settings, make, shape, device):
    def bits():
        return [
            None if x is None else x.tobytes() for p in kernel(run, settings, make, shape, device) for x in p.values()
        ]

    first = bits()
    with configured(order="ascending"):  # on the simulator another order too
        assert bits() == first


@pytest.mark.parametrize("run, settings, make, shape", [case for case in CASES if "515" not in case.id])
def test_check_mode_reports_nothing(run, settings, make, shape, simulator):
    with configured(mode="check", order="shuffled", seed=5):
        kernel(run, settings, make, shape)


def test_a_step_on_the_device_needs_no_host_scale(device):
    a = inputs(tensors_inputs, ((3, 4), (5,)), device)
    op = importlib.import_module("minillm.kernels.adamw")
    norm = importlib.import_module("minillm.kernels.global_norm").global_norm(a.gradients)
    before = [to_host(value).copy() for value in a.values]
    settings = dict(lr=0.1, betas=(0.0, 0.0), eps=1.0, weight_decays=[0.0, 0.0], step=1)
    op.adamw_update(a.values, a.gradients, a.first, a.second, **settings, gradient_scale=1 / norm)
    for value, old, gradient in zip(a.values, before, a.gradients):
        g = to_host(gradient).astype(np.float64) / float(norm)
        np.testing.assert_allclose(to_host(value), old - 0.1 * g / (np.abs(g) + 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_scale_that_clips_is_that_of_the_host(max_norm, accumulated, device):
    a = inputs(tensors_inputs, ((3, 4), (5000,)), device)
    op = importlib.import_module("minillm.kernels.global_norm")
    norm, scale = op.clipped_norm(a.gradients, max_norm, accumulated)
    together = np.concatenate([to_host(gradient).ravel() for gradient in a.gradients]).astype(np.float64)
    expected = np.linalg.norm(together) / accumulated
    assert (norm.dtype, scale.dtype) == (np.float64, np.float32)
    assert float(norm) == pytest.approx(expected, rel=1e-6)
    assert float(scale) == pytest.approx(clip_scale(expected, max_norm) / accumulated, rel=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, device):
    a = inputs(tensors_inputs, ((3, 4), (5000,)), device)
    a.gradients[1][4321] = bad
    norm, scale = importlib.import_module("minillm.kernels.global_norm").clipped_norm(a.gradients, 1.0)
    assert not np.isfinite(float(norm)) and np.isnan(float(scale))
    before = [to_host(x).copy() for x in (*a.values, *a.first, *a.second)]
    settings = dict(lr=0.1, betas=(0.9, 0.9), eps=1.0, weight_decays=[0.1, 0.1], step=1, gradient_scale=scale)
    importlib.import_module("minillm.kernels.adamw").adamw_update(a.values, a.gradients, a.first, a.second, **settings)
    for after, old in zip((*a.values, *a.first, *a.second), before):
        np.testing.assert_array_equal(to_host(after), old)


def test_dropout_mask_is_that_of_the_cpu_bit_for_bit(device):
    case = (dropout, {"p": 0.37}, norm_inputs, (11, 1001))
    (y, _), (expected, _) = kernel(*case, device), reference(*case)
    np.testing.assert_array_equal(y["y"] == 0, expected["y"] == 0)


@pytest.mark.parametrize("number", FLOATS)
def test_cross_entropy_writes_its_gradient_where_it_is_told(number, device):
    """Into the first columns of an array that may be wider, rounded to its dtype; the logits stay as they are."""
    a = inputs(logits_inputs, (9, 1000, (8,)), device)
    exact, before = inputs(logits_inputs, (9, 1000, (8,)), dtype=np.float64), to_host(a.logits).copy()
    gradient = to_device(np.full((9, 1008), 7, np.float32).astype(activation_dtype(number)), device)
    op, layer = (importlib.import_module(f"minillm.{where}.cross_entropy") for where in ("kernels", "layers"))
    loss, dlogits = op.cross_entropy_forward(a.logits, a.targets, label_smoothing=0.1, gradient=gradient)
    exact_gradient = np.empty((9, 1000))
    exact_loss, _ = layer.cross_entropy_forward(
        np.where(exact.logits == -np.inf, -1e4, exact.logits),
        exact.targets,
        label_smoothing=0.1,
        gradient=exact_gradient,
    )
    np.testing.assert_array_equal(to_host(a.logits), before)
    assert dlogits.shape == (9, 1000) and dlogits.dtype.name == number
    assert (to_host(gradient)[:, 1000:] == 7).all()
    rounded = exact_gradient.astype(activation_dtype(number)).astype(np.float64)
    allowed = 1.01 * relative_error(rounded, exact_gradient) + BACKWARD
    assert relative_error(to_host(dlogits), exact_gradient) <= allowed
    with pytest.raises(ValueError, match="gradient is"):
        op.cross_entropy_forward(a.logits, a.targets, gradient=gradient[:, :999].copy())


def test_cross_entropy_is_nan_where_the_host_would_raise(device):
    op = importlib.import_module("minillm.kernels.cross_entropy")
    logits = to_device(np.zeros((2, 5), np.float32), device)
    for targets in ([-100, -100], [0, 5], [-1, 0]):
        loss, _ = op.cross_entropy_forward(logits.copy(), to_device(np.array(targets), device))
        assert np.isnan(float(loss))


def test_an_id_outside_of_the_table_gives_nan_and_no_gradient(device):
    op = importlib.import_module("minillm.kernels.embedding")
    ids, weight = to_device(np.array([0, 2, -1]), device), to_device(np.ones((2, 3), np.float32), device)
    y, saved = op.embedding_forward(ids, weight)
    np.testing.assert_array_equal(np.isnan(to_host(y)).all(axis=1), [False, True, True])
    dweight = op.embedding_backward(to_device(np.ones((3, 3), np.float32), device), saved)
    np.testing.assert_array_equal(to_host(dweight), [[1, 1, 1], [0, 0, 0]])


# ---------------------------------------------------------------------------------------------------- planted faults

# (operation, what stands in its source, what is put in its place, who must notice: "check" or "numbers")
FAULTS = {
    "block_sum: no barrier before the sums are read": (
        rms_norm, "/ 32] = value;\n    __syncthreads();", "/ 32] = value;", "check"),
    "block_sum: no barrier before scratch is used again": (
        layer_norm, ": Number(0));\n    __syncthreads();", ": Number(0));", "check"),
    "block_sum: barrier in a branch": (
        rms_norm, "/ 32] = value;\n    __syncthreads();",
        "/ 32] = value;\n    if (threadIdx.x < 32) __syncthreads();", "check"),
    "warp_sum: a step is missing": (rms_norm, "distance = 16", "distance = 8", "numbers"),
    "rms_norm: bound off by one": (rms_norm, "c < width", "c <= width", "check"),
    "layer_norm: variance about 0 in place of the mean": (
        layer_norm, "((float)x[c] - mean) * ((float)x[c] - mean)", "(float)x[c] * (float)x[c]", "numbers"),
    "layer_norm: gradient keeps its component along n": (
        layer_norm, " - normed * mean_g_normed", "", "numbers"),
    "layer_norm: dweight not set to 0": (layer_norm, "dweight[c] = dbias[c] = 0;", "dbias[c] = 0;", "check"),
    "residual_layer_norm: the stream's gradient is dropped": (
        residual_layer_norm, "has_dsum ? gradient + (float)dsum[c] : gradient", "gradient", "numbers"),
    "column_sum: no barrier": (layer_norm, "= sum;\n    __syncthreads();", "= sum;", "check"),
    "column_sum: rows counted twice": (gelu, "row += ADDENDS", "row += ADDENDS - 1", "numbers"),
    "gelu: wrong derivative": (gelu, "1 + 3 * A", "1 + A", "numbers"),
    "gelu: no bound on the column": (gelu, "if (column >= width) return;", "", "check"),
    "gelu: all blocks write one row of partial sums": (
        gelu, "dbias_partials[(long long)blockIdx.x * width + column]", "dbias_partials[column]", "check"),
    "cross_entropy: sum not scaled to the new maximum": (
        cross_entropy, "online.sum * expf(online.max - value) + 1", "online.sum + 1", "numbers"),
    "cross_entropy: gradient not divided by the count": (
        cross_entropy, "scale = (float)(1 / *count)", "scale = 1", "numbers"),
    "cross_entropy: ignored rows keep their logits": (
        cross_entropy, "j += blockDim.x) dz[j] = (Number)0.0f;", "j += blockDim.x) {}", "numbers"),
    "embedding: runs that cross windows added without order": (
        embedding, "if (began_before || goes_on)", "if (false)", "check"),
    "embedding: a run's last part is lost": (embedding, "sum += partials[2 * next * width + c];", "", "numbers"),
    "dropout: halves of a word swapped": (dropout, "index % 2 ? 32 : 0", "index % 2 ? 0 : 32", "numbers"),
    "dropout: last block not cut": (dropout, "n < count", "n <= count", "check"),
    "dropout: the rows before are forgotten": (dropout, "* block + i - first;", "* block + i - first / 8 * 8;", "numbers"),
    "adamw: second moment not corrected": (adamw, "v / correction2", "v", "numbers"),
    "adamw: the decay of Adam is decoupled": (adamw, "(decoupled ? 0 : decay * w)", "0", "numbers"),
    "adamw: pieces overlap": (adamw, "start + PIECE < size ? start + PIECE : size", "size", "check"),
    "global_norm: every thread writes": (global_norm, "if (threadIdx.x == 0) sums", "sums", "check"),
    "rotary: backward turns forward": (rotary, "sign * sine[pair]", "sine[pair]", "numbers"),
    "swiglu: the sigmoid's own gradient is dropped": (swiglu, " * (1 + g * (1 - s))", "", "numbers"),
    "swiglu: last block not cut": (swiglu, "n < count", "n <= count", "check"),
}  # fmt: skip


def what_notices(run, monkeypatch, before, after):
    """Plant a fault, run the operation's cases in check mode: "check", "numbers" or "nothing"."""
    op = importlib.import_module(f"minillm.kernels.{run.__name__}")
    text = with_headers(op.CUDA)
    assert before in text, "the fault is no longer where the table says"
    monkeypatch.setattr(op, "CUDA", op.CUDA.with_text(text.replace(before, after)))
    for case in cases():
        if case[0] is run and "515" not in map(str, case[3]):
            try:
                with configured(mode="check"):
                    results = kernel(*case)
            except SimulatorError:
                return "check"
            if worst_excess(results, reference(*case)) > 1:
                return "numbers"
    return "nothing"


def test_the_documentation_lists_the_faults():
    assert_faults_are_documented(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_noticed(name, monkeypatch, simulator):
    run, before, after, by = FAULTS[name]
    assert what_notices(run, monkeypatch, before, after) == by


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_is_noticed_without_a_fault(name, monkeypatch, simulator):
    assert what_notices(globals()[name], monkeypatch, "__global__", "__global__") == "nothing"


# ------------------------------------------------------------------------------------------------ what launchers refuse


def test_wrong_arguments_are_named():
    op = importlib.import_module("minillm.kernels.layer_norm")
    x = to_device(np.zeros((4, 512), np.float32), "cudasim")
    weight = to_device(np.zeros(768, np.float32), "cudasim")
    with pytest.raises(ValueError, match=r"layer_norm_forward: weight is \(768,\) but x has 512 channels"):
        op.layer_norm_forward(x, weight)
    with pytest.raises(TypeError, match="layer_norm_forward: weight is float64, the kernel takes float32"):
        op.layer_norm_forward(x, weight[:512].astype(np.float64))
    with pytest.raises(ValueError, match=r"layer_norm_forward: x is not C-contiguous .*ascontiguousarray\(x\)"):
        op.layer_norm_forward(x.T, weight[:4])
    with pytest.raises(ValueError, match="layer_norm_forward: bias lives on cpu|bias lives on"):
        op.layer_norm_forward(x, weight[:512], np.zeros(512, np.float32))
    with pytest.raises(TypeError, match="layer_norm_forward: weight is a list, not an array"):
        op.layer_norm_forward(x, [1.0] * 512)
    wide = to_device(np.zeros((1, 7000), np.float32), "cudasim")
    with pytest.raises(
        ValueError, match=r"7000 channels, the kernel takes 1 to 6016: .*use_kernels\(layer_norm=False\)"
    ):
        op.layer_norm_forward(wide, wide[0])
    with pytest.raises(TypeError, match="embedding_forward: ids is float32, not an array of integers"):
        importlib.import_module("minillm.kernels.embedding").embedding_forward(x, x)
    with pytest.raises(ValueError, match=r"adamw_update: gradients\[0\] is \(768,\) but values\[0\] is \(4, 512\)"):
        op = importlib.import_module("minillm.kernels.adamw")
        op.adamw_update([x], [weight], [x], [x], 0.1, (0.9, 0.99), 1e-8, [0.0], 1)


def test_launch_refuses_what_a_launcher_must_not_do():
    file = importlib.import_module("minillm.kernels.dropout").CUDA
    x = to_device(np.zeros(4, np.float32), "cudasim")
    with pytest.raises(TypeError, match="dropout<float>: argument 1 is a Python float"):
        file.launch("dropout<float>", (1,), (32,), (x, 0.5))
    with pytest.raises(ValueError, match="beyond CUDA's limit"):
        file.launch("dropout<float>", (1, 70000), (32,), (x,))
    with pytest.raises(ValueError, match="beyond CUDA's limit of 1024"):
        file.launch("dropout<float>", (1,), (2048,), (x,))
    with pytest.raises(KeyError, match="declares no instance"):
        file.launch("nothing", (1,), (32,), (x,))
    with pytest.raises(ValueError, match="live on"):
        file.launch("dropout<float>", (1,), (32,), (x, np.zeros(4, np.float32)))


def test_every_operation_with_a_kernel_has_a_case():
    from minillm.kernels import OPERATIONS as declared
    from minillm.kernels import RUNGS

    assert set(declared) == {*OPERATIONS, "attention"}  # test_attention.py
    assert set(SAMPLES) == {*OPERATIONS, *RUNGS}


def test_a_gpu_that_is_too_old_is_named():
    launch.check_architecture("a.cu", 80, 80)
    with pytest.raises(UserError, match="a.cu needs a GPU of sm_80 or later, this one is sm_75"):
        launch.check_architecture("a.cu", 75, 80)


def test_a_change_in_a_header_changes_the_code(tmp_path):
    (tmp_path / "f.cu").write_text('#include "f.cuh"\n')
    codes = set()
    for text in ("// one", "// two"):
        (tmp_path / "f.cuh").write_text(text)
        codes.add(CudaFile(str(tmp_path / "f.py"), "f.cu", {}).code)
    assert len(codes) == 2
