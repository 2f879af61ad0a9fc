"""bfloat16 and TF32: gradients stay close to float64's, and what has to be float32 is."""

import numpy as np
import pytest
from kernel_testing import needs_compiler, relative_error
from planting import planted

import minillm
from minillm.backend import matmul as matmul_module
from minillm.backend import precision
from minillm.backend.arrays import to_device, to_host
from minillm.backend.matmul import empty_operand, layout, matmul
from minillm.backend.precision import activation_dtype, bfloat16, matmul_precision, rounded_to_tf32, weight_dtype
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.layers import bias, gelu, layer_norm, linear, linear_cross_entropy, rms_norm, rotary, swiglu

CLOSE = 0.999  # cosine between a gradient and that of float64
CONFIGS = {
    "gpt2": minillm.GPT2Config(65, context_length=32, n_layer=2, n_head=2, d_model=64, dropout=0.1),
    "llama": minillm.LlamaConfig(65, context_length=32, n_layer=2, n_head=4, n_kv_head=2, d_model=128, dropout=0.1),
}
MODELS = {"gpt2": minillm.GPT2, "llama": minillm.Llama}
DEVICES = ["cpu", "cudasim", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def device(request):
    if request.param == "cudasim":
        needs_compiler()
    return request.param


def loss_and_gradients(kind, dtype, device="cpu"):
    model = MODELS[kind](CONFIGS[kind], seed=3, dtype=dtype).to(device).train()
    tokens = stream(1, "batch").integers(65, (2, 33))
    loss = model.loss(tokens[:, :-1], tokens[:, 1:], rng_key=(1, 2))
    model.backward()
    return float(loss), {name: to_host(p.grad).astype(np.float64) for name, p in model.parameters().items()}


def cosine(a, b):
    a, b = a.ravel(), b.ravel()
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_every_gradient_has_the_direction_of_float64(kind, dtype, device):
    exact_loss, exact = loss_and_gradients(kind, "float64")
    loss, found = loss_and_gradients(kind, dtype, device)
    assert loss == pytest.approx(exact_loss, abs=2e-3)
    assert found.keys() == exact.keys()
    for name in exact:
        assert cosine(found[name], exact[name]) >= CLOSE, name
        assert np.linalg.norm(found[name]) == pytest.approx(np.linalg.norm(exact[name]), rel=0.02), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_low_precision_is_really_in_use(kind):
    """A model that quietly computed in float32 would pass the test above."""
    _, exact = loss_and_gradients(kind, "float64")
    for dtype, least in (("tf32", 1e-5), ("bfloat16", 1e-3)):
        _, found = loss_and_gradients(kind, dtype)
        assert min(relative_error(found[name], exact[name]) for name in exact) > least, dtype


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_what_is_kept_is_float32(kind, device):
    """Weights and gradients in float32, and finer than bfloat16 could hold them; vectors between layers in bfloat16."""
    model = MODELS[kind](CONFIGS[kind], seed=3, dtype="bfloat16").to(device).train()
    optimizer = minillm.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)
    before = {name: to_host(p.value).copy() for name, p in model.parameters().items()}
    tokens = stream(1, "batch").integers(65, (2, 33))
    model.loss(tokens[:, :-1], tokens[:, 1:], rng_key=(1, 2))
    assert {layer._saved[0][1][0].dtype.name for layer in _norms(model)} <= {"bfloat16", "float32"}
    model.backward()
    for name, parameter in model.parameters().items():
        grad = to_host(parameter.grad)
        assert parameter.value.dtype == grad.dtype == np.float32, name
        assert (grad != grad.astype(bfloat16()).astype(np.float32)).any(), f"{name}: its gradient was rounded"
    optimizer.step()
    moments = [*optimizer.first_moments.values(), *optimizer.second_moments.values()]
    assert {moment.dtype.name for moment in moments} == {"float32"}
    assert min(_changed(model, before).values()) > 0.5, "steps were rounded away"


def _changed(model, before):
    """Name -> the share of a parameter's numbers that are not what they were."""
    return {name: (to_host(p.value) != before[name]).mean() for name, p in model.parameters().items()}


def test_weights_kept_in_bfloat16_would_be_noticed():
    """The fault that the test above is to find: weights that are rounded after each step, as if they were kept so."""
    model = minillm.GPT2(CONFIGS["gpt2"], seed=3, dtype="bfloat16").train()
    optimizer = minillm.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)
    tokens = stream(1, "batch").integers(65, (2, 33))

    def round_weights():
        for parameter in model.parameters().values():
            parameter.value[...] = parameter.value.astype(bfloat16())

    round_weights()
    before = {name: p.value.copy() for name, p in model.parameters().items()}
    model.loss(tokens[:, :-1], tokens[:, 1:], rng_key=(1, 2))
    model.backward()
    optimizer.step()
    round_weights()
    assert min(_changed(model, before).values()) < 0.5


def _norms(model):
    return [layer for path, layer in model.layers() if path.endswith(("ln_1", "ln_2", "ln_f", "norm"))]


# --------------------------------------------------------------------------------- each operation, and faults in it


def arrays(*shapes, dtype="bfloat16"):
    """Numbers that the dtype holds exactly."""
    numbers = (stream("precision", str(i), *shape).normal(shape) for i, shape in enumerate(shapes))
    return [x.astype(activation_dtype(dtype)) for x in numbers]


def float64(*xs):
    return [x.astype(np.float64) for x in xs]


def sums_are_float32(module):
    """Gradients of weights: float32, exact but for float32's own rounding of sums over 4,096 rows."""
    x, dy = arrays((4096, 8), (4096, 6))
    (w,) = arrays((8, 6), dtype="float32")
    _, saved = module.linear_forward(x, w, w[0])
    _, dweight, dbias = module.linear_backward(dy, saved)
    x, dy = float64(x, dy)
    return max(relative_error(dweight, x.T @ dy), relative_error(dbias, dy.sum(axis=0)))


def bias_is_float32(module):
    (dy,) = arrays((4096, 6))
    return relative_error(module.bias_backward(dy, None), float64(dy)[0].sum(axis=0))


def loss_is_float32(module):
    x, w = arrays((16, 32), (50, 32))
    w = w.astype(np.float32)
    targets = stream("targets").integers(50, 16)
    loss, _ = module.linear_cross_entropy_forward(x, w, targets)
    exact, _ = linear_cross_entropy.linear_cross_entropy_forward(*float64(x, w), targets)
    return abs(loss - exact) / exact


def norm_is_float32(module):
    """Where all channels share a large mean, differences from it are lost in bfloat16."""
    x, dy = arrays((20, 768), (20, 768))
    x = (x.astype(np.float32) + 16).astype(x.dtype)
    (w,) = arrays((768,), dtype="float32")
    y, saved = module.layer_norm_forward(x, w)
    _, dweight, _ = module.layer_norm_backward(dy, saved)
    expected, saved = layer_norm.layer_norm_forward(*float64(x, w))
    _, expected_dweight, _ = layer_norm.layer_norm_backward(*float64(dy), saved)
    return max(relative_error(y, expected) / 300, relative_error(dweight, expected_dweight))


@pytest.mark.parametrize(
    "module, error, faults",
    [
        (
            linear,
            sums_are_float32,
            [("matmul(rows.T, dy_rows, dweight, gradient_dtype(weight)", "matmul(rows.T, dy_rows, dweight")],
        ),
        (bias, bias_is_float32, [('dtype="float32" if is_bfloat16(dy) else dy.dtype', "dtype=dy.dtype")]),
        (
            linear_cross_entropy,
            loss_is_float32,
            [
                (
                    "\n        logits = matmul(rows[chunk], weight.T, room.part(len(t[chunk])), gradient_dtype(weight))",
                    "\n        logits = matmul(rows[chunk], weight.T)",
                )
            ],
        ),
        (layer_norm, norm_is_float32, [("rows = upcast(x).reshape", "rows = x.reshape")]),
    ],
)
def test_sums_are_float32_and_it_is_noticed_if_not(module, error, faults):
    assert error(module) <= 1e-5
    for fault in faults:
        assert error(planted(module, *fault)) > 1e-4, fault


ELEMENTWISE = {  # forward and backward of bfloat16 arrays, to be compared with those of float64 ones
    "gelu": lambda x, dy: (gelu.gelu_forward(x)[0], gelu.gelu_backward(dy, gelu.gelu_forward(x)[1])[0]),
    "swiglu": lambda x, dy: (
        swiglu.swiglu_forward(x, dy)[0],
        *swiglu.swiglu_backward(dy, swiglu.swiglu_forward(x, dy)[1]),
    ),
    "rotary": lambda x, dy: (_rotated(x), rotary.rotary_backward(dy[None, None], (*TABLES, False))),
    "rms_norm": lambda x, dy: (
        rms_norm.rms_norm_forward(x, np.ones(32, np.float32))[0],
        rms_norm.rms_norm_backward(dy, rms_norm.rms_norm_forward(x, np.ones(32, np.float32))[1])[0],
    ),
}
TABLES = rotary.rotary_tables(40, 32)


def _rotated(x):
    return rotary.rotary_forward(x[None, None], *TABLES)[0]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_is_handed_on_is_rounded_once(name):
    x, dy = arrays((40, 32), (40, 32))
    for found, exact in zip(ELEMENTWISE[name](x, dy), ELEMENTWISE[name](*float64(x, dy))):
        assert found.dtype == bfloat16()
        rounded = exact.astype(bfloat16()).astype(np.float64)
        assert relative_error(found, exact) <= 1.01 * relative_error(rounded, exact) + 1e-6


# ----------------------------------------------------------------------------------------------------- matrix products


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("shapes", [((5, 7), (7, 3)), ((1, 33), (33, 65)), ((64, 1), (1, 9)), ((9,), (9, 4))])
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_products(shapes, dtypes, device):
    a, b = (x.astype(activation_dtype(dtype)) for x, dtype in zip(arrays(*shapes, dtype="float32"), dtypes))
    rounded = (x.astype(bfloat16()) for x in (a, b)) if "bfloat16" in dtypes else (a, b)
    left, right = float64(*rounded)
    exact = left @ right
    c = np.ones(exact.shape, np.float32)
    a, b, c = (to_device(x, device) for x in (a, b, c))
    assert relative_error(to_host(matmul(a, b, dtype="float32")), exact) <= 1e-6
    assert relative_error(to_host(matmul(a, b, out=c, add=True)), 1 + exact) <= 1e-6
    assert relative_error(to_host(matmul(a, b, out=c)), exact) <= 1e-6
    y = matmul(a, b)
    assert y.dtype == a.dtype and relative_error(to_host(y), exact) <= (1e-6 if y.dtype == np.float32 else 2**-8)
    if len(shapes[0]) == 2:
        at, bt = (to_device(np.ascontiguousarray(to_host(x).T), device) for x in (a, b))
        by_columns = to_host(matmul(at.T, bt.T))
        assert relative_error(by_columns, exact) <= (1e-6 if y.dtype == np.float32 else 2**-8)


@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_tf32_only_inside_of_a_model_that_asks_for_it(device):
    """Rows are multiples of 16 bytes: for others cuBLAS may have no kernel that rounds."""
    a, b = (to_device(x, device) for x in arrays((128, 512), (512, 128), dtype="float32"))
    exact = to_host(a).astype(np.float64) @ to_host(b)
    plain = to_host(matmul(a, b))
    with matmul_precision("tf32"):
        low = to_host(matmul(a, b))
        with matmul_precision("float32"):
            np.testing.assert_array_equal(to_host(matmul(a, b)), plain)
    np.testing.assert_array_equal(to_host(matmul(a, b)), plain)
    assert relative_error(plain, exact) < 1e-6 and 1e-4 < relative_error(low, exact) < 1e-3


def test_float64_is_never_rounded():
    a, b = float64(*arrays((20, 30), (30, 5), dtype="float32"))
    with matmul_precision("tf32"):
        np.testing.assert_array_equal(matmul(a, b), a @ b)


def test_rounding_to_tf32_keeps_ten_bits():
    x = stream("tf32").normal((1000,)).astype(np.float32)
    rounded = rounded_to_tf32(x)
    assert not (rounded.view(np.uint32) & 0x1FFF).any()
    assert np.abs((rounded - x) / x).max() <= 2**-11
    np.testing.assert_array_equal(rounded_to_tf32(np.float32([np.inf, 0.0, -1.0])), [np.inf, 0.0, -1.0])


def test_what_products_will_take():
    x, y = arrays((3, 5), (3, 5), dtype="float32")
    assert empty_operand(3, 5, like=x) is None
    rows = empty_operand(3, 5, like=y.astype(bfloat16()))
    assert rows.dtype == bfloat16() and rows.shape == (3, 5)


def by_columns(memory, operation, rows, columns, step):
    """The matrix that cuBLAS sees: element (i, j) of what lies in memory is at i + j step; then transposed if told so."""
    if operation == matmul_module.TRANSPOSED:
        rows, columns = columns, rows
    seen = np.lib.stride_tricks.as_strided(memory, (rows, columns), (memory.itemsize, step * memory.itemsize))
    return seen.T if operation == matmul_module.TRANSPOSED else seen


LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: np.asfortranarray(x),
    "rows of a wider matrix": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "columns of a longer matrix": lambda x: np.hstack([x.T, x.T])[:, : x.shape[0]].T,
}


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_cublas_is_given_is_the_transpose_of_the_matrix(name, shape):
    """The call itself needs a GPU (test_products); here its numbers are read as cuBLAS documents them."""
    x = LAYOUTS[name](np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape))
    operation, step = layout(x)
    rows = shape[0] if operation == matmul_module.TRANSPOSED else shape[1]
    assert step >= max(1, rows), "cuBLAS refuses a step shorter than a column"
    np.testing.assert_array_equal(by_columns(x, operation, *shape[::-1], step), x.T)


def test_a_matrix_with_gaps_in_both_directions_is_copied():
    assert layout(np.zeros((6, 8))[::2, ::2]) is None


# ---------------------------------------------------------------------------------------------------------------- names


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match='unknown dtype "float16": use one of float32, float64, tf32, bfloat16'):
        minillm.GPT2(CONFIGS["gpt2"], dtype="float16")
    assert weight_dtype("bfloat16") == weight_dtype("tf32") == weight_dtype(np.float32) == np.float32


def test_without_its_package_bfloat16_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    bfloat16.cache_clear()
    with pytest.raises(UserError, match="bfloat16 needs the package ml_dtypes: pip install ml_dtypes"):
        precision.activation_dtype("bfloat16")


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_the_head_never_holds_all_logits(dtype, device, monkeypatch):
    """Of the V x N logits of a batch a few rows exist at a time; their gradients are rounded for the products. On a device
    logits are bfloat16, twice as many rows, and have a multiple of 64 columns."""
    rows, width = (10, 128) if dtype == "bfloat16" and device != "cpu" else (5, 65)
    limit, seen = 5 * 65, []
    monkeypatch.setattr(linear_cross_entropy, "CHUNK_LOGITS", dict.fromkeys(("cpu", "cudasim", "cuda"), limit))
    inner = linear_cross_entropy.matmul

    def watched(a, b, *arguments, **named):
        result = inner(a, b, *arguments, **named)
        seen.extend((x.size, x.dtype.name) for x in (a, b, result) if width in x.shape and 64 not in x.shape)
        return result

    monkeypatch.setattr(linear_cross_entropy, "matmul", watched)
    loss_and_gradients("gpt2", dtype, device)
    assert max(size for size, _ in seen) <= rows * width < 64 * width
    dtypes = {"bfloat16"} if width == 128 else {"float32", "bfloat16"} if dtype == "bfloat16" else {"float32"}
    assert {name for _, name in seen} == dtypes


def test_lora_learns_in_bfloat16():
    model = minillm.GPT2(CONFIGS["gpt2"], seed=3, dtype="bfloat16").train()
    minillm.models.fine_tuning.add_lora(model, minillm.models.fine_tuning.LoRA(4))
    tokens = stream(1, "batch").integers(65, (2, 33))
    model.loss(tokens[:, :-1], tokens[:, 1:], rng_key=(1, 2))
    model.backward()
    grads = [parameter.grad for parameter in model.trainable_parameters().values()]
    assert {grad.dtype.name for grad in grads} == {"float32"} and any(grad.any() for grad in grads)


def test_logits_are_float32_and_take_their_gradient_back():
    model = minillm.GPT2(CONFIGS["gpt2"], seed=3, dtype="bfloat16").train()
    ids = stream("ids").integers(65, (2, 8))
    logits = model.forward(ids, rng_key=(1,))
    assert logits.dtype == np.float32
    model.backward(np.ones_like(logits))
    assert all(p.grad.dtype == np.float32 for p in model.parameters().values())
