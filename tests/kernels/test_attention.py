"""Every rung of attention against NumPy in float64: on the simulator in three thread orders, and on the GPU.

float32 has to agree to 1e-5 forward and 1e-4 backward. On tensor cores operands have fewer bits: there the error may be
twice that of the plain computation with the same rounding of operands and results.
"""

import importlib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_testing import assert_faults_are_documented, noticed_by, relative_error, with_headers

from minillm.backend.arrays import to_device, to_host
from minillm.kernels import RUNGS, attention, kernel_for, use_kernels
from minillm.kernels.attention import best_rung, rung
from minillm.kernels.nvrtc import MAX_SHARED
from minillm.kernels.simulator import SimulatorError, configured
from minillm.kernels.simulator.profile import SECTOR_BYTES
from minillm.layers import attention as layer
from minillm.layers.documents import packed_starts

FORWARD, BACKWARD = 1e-5, 1e-4
NAMES = ("y", "dq", "dk", "dv")
FULL = {"causal": False}
DROPPING = {"dropout": 0.3, "rng_key": (7, "attn", 3), "batch_offset": 2}

# (B, H, H_kv, T, D), settings. documents: for each row of the batch the lengths of those that are packed into it.
SMALL = [
    ((1, 1, 1, 1, 32), {}),
    ((1, 2, 1, 65, 64), {}),
    ((1, 2, 2, 70, 32), FULL),
    ((2, 2, 1, 66, 96), DROPPING),
    ((1, 1, 1, 100, 128), DROPPING | FULL),
    ((1, 3, 3, 32, 64), {}),
]
# Borders within a tile and at its edge, documents of one token, whole tiles that a block skips at either end.
PACKED = [
    ((2, 2, 1, 130, 32), {"documents": ((3, 93, 32), (1, 127))}),
    ((1, 2, 2, 97, 64), DROPPING | {"documents": ((64, 33),)}),
    ((1, 1, 1, 70, 96), {"documents": ((1, 40, 20),)}),
    ((2, 1, 1, 66, 128), DROPPING | {"documents": ((32, 33), (66,))}),
]
# Arrays that are views, each with steps of its own: the rungs that take them.
VIEWS = [
    ((2, 4, 2, 65, 32), {"views": True}),
    ((2, 2, 1, 40, 64), DROPPING | {"views": True}),
]
TAKING_VIEWS = ("flash", "flash_tensor_cores")
ANY_WIDTH = [
    ((1, 2, 1, 35, 20), {}),
    ((2, 1, 1, 5, 7), DROPPING),
    ((2, 2, 1, 70, 7), {"documents": ((5, 60), (33, 37))}),
]
LARGE = [
    ((1, 2, 1, 128, 128), {}),
    ((1, 4, 2, 257, 32), DROPPING),
    ((1, 1, 1, 1000, 64), {}),
    ((1, 6, 2, 100, 96), FULL),
]


def cases(*, large):
    for name in RUNGS:
        widths = getattr(rung(name), "WIDTHS", None)  # None: any
        views = VIEWS if name in TAKING_VIEWS else []
        for shape, settings in SMALL + (LARGE if large else []) + PACKED + ANY_WIDTH + views:
            if widths is not None and shape[-1] not in widths:
                continue
            for dtype in ("float32", "bfloat16") if name == "flash_tensor_cores" else ("float32",):
                title = "-".join([name, dtype, *map(str, shape), *settings])
                yield pytest.param(name, dtype, shape, settings, id=title)


ALL, CHECKED = list(cases(large=True)), list(cases(large=False))


def number_type(dtype):
    """The NumPy dtype. bfloat16 comes from the package ml_dtypes."""
    if dtype == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="bfloat16 needs the package ml_dtypes").bfloat16)
    return np.dtype(dtype)


def inputs(shape, dtype):
    """q, k, v, dy: numbers that the dtype holds exactly."""
    batch, heads, kv_heads, time, width = shape
    rng = np.random.default_rng(time)
    sizes = dict(q=heads, k=kv_heads, v=kv_heads, dy=heads)
    return SimpleNamespace(
        **{name: rng.normal(size=(batch, n, time, width)).astype(number_type(dtype)) for name, n in sizes.items()}
    )


def starts_of(time, documents):
    return np.stack([packed_starts(lengths, time) for lengths in documents])


def spread(x, distance):
    """x as a view of a larger array: tokens, heads and rows of the batch are farther apart, with NaN between them."""
    B, H, T, D = x.shape
    around = np.full((B, H + distance, T + distance, D + 8 * distance), np.nan, x.dtype).view(type(x))
    around[:, :H, :T, :D] = x
    return around[:, :H, :T, :D]


def run(op, a, settings, device="cpu"):
    settings, out = dict(settings), {}
    if settings.pop("views", False) and op is not layer:
        spaces = {name: distance for distance, name in enumerate(("q", "k", "v", "dy"), start=1)}
        a = SimpleNamespace(
            **{name: to_device(spread(to_host(getattr(a, name)), spaces[name]), device) for name in spaces}
        )
        out["out"] = [to_device(spread(to_host(x), 5 + n), device) for n, x in enumerate((a.q, a.k, a.v))]
    if documents := settings.pop("documents", None):
        settings["starts"] = to_device(starts_of(a.q.shape[2], documents), device)
    y, saved = op.attention_forward(a.q, a.k, a.v, **settings)
    return dict(zip(NAMES, (y, *op.attention_backward(a.dy, saved, **out))))


def reference(shape, dtype, settings):
    """With NumPy in float64."""
    a = inputs(shape, dtype)
    return run(layer, SimpleNamespace(**{name: x.astype(np.float64) for name, x in vars(a).items()}), settings)


def kernel(name, dtype, shape, settings, device="cudasim", op=None):
    a = inputs(shape, dtype)
    a = SimpleNamespace(**{name: to_device(x, device) for name, x in vars(a).items()})
    results = run(op or rung(name), a, settings, device)
    return {key: to_host(x) for key, x in results.items()}


def to_tf32(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def plain(shape, dtype, settings):
    """Attention by the formulas, every operand of a product rounded, in bfloat16 every result as well."""
    a = inputs(shape, dtype)
    if dtype == "bfloat16":
        operand = result = lambda x: x.astype(number_type(dtype)).astype(np.float64)
    else:
        operand, result = to_tf32, lambda x: x
    q, k, v, dy = (x.astype(np.float64) for x in (a.q, a.k, a.v, a.dy))
    batch, heads, kv_heads, time, width = shape
    k, v = (np.repeat(x, heads // kv_heads, axis=1) for x in (k, v))
    scale = 1 / np.sqrt(width)
    factor = 1.0
    if settings.get("dropout"):
        args = (batch, heads, time, time), settings["dropout"], settings["rng_key"], q, settings["batch_offset"]
        factor = layer.dropout_factor(*args)

    def product(x, y):
        return result(operand(x) @ operand(y))

    s = product(q, k.swapaxes(2, 3)) * scale
    if settings.get("causal", True):
        s = np.where(np.tri(time, dtype=bool), s, -np.inf)
    if "documents" in settings:
        s = np.where(np.arange(time) >= starts_of(time, settings["documents"])[:, None, :, None], s, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    p = result(p / p.sum(axis=-1, keepdims=True))
    y = product(p * factor, v)
    dp = product(dy, v.swapaxes(2, 3)) * factor
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * scale
    dk, dv = product(ds.swapaxes(2, 3), q), product((p * factor).swapaxes(2, 3), dy)
    dk, dv = (x.reshape(batch, kv_heads, -1, time, width).sum(axis=2) for x in (dk, dv))
    return dict(zip(NAMES, (y, product(ds, k), dk, dv)))


def allowed(name, dtype, shape, settings, expected):
    """Result -> the relative error that it may have."""
    if name == "flash_tensor_cores":
        errors = plain(shape, dtype, settings)
        return {key: 2 * relative_error(errors[key], expected[key]) + FORWARD for key in NAMES}
    return {key: FORWARD if key == "y" else BACKWARD for key in NAMES}


def excess(name, dtype, shape, settings, results):
    """Result -> its error as a multiple of what is allowed."""
    expected = reference(shape, dtype, settings)
    limits = allowed(name, dtype, shape, settings, expected)
    found = {key: relative_error(results[key], expected[key]) / limits[key] for key in NAMES}
    if shape[3] == 1:  # a softmax over one score has no gradient: what is left of dq and dk is rounding
        limit = 0.1 if name == "flash_tensor_cores" else 1e-6
        found |= {key: float(np.abs(results[key].astype(np.float64)).max() / limit) for key in ("dq", "dk")}
    return {key: np.inf if np.isnan(error) else error for key, error in found.items()}


@pytest.mark.parametrize("name, dtype, shape, settings", ALL)
def test_every_rung_agrees_with_numpy_in_float64(name, dtype, shape, settings, device):
    results = kernel(name, dtype, shape, settings, device)
    assert {x.dtype.name for x in results.values()} == {dtype}
    found = excess(name, dtype, shape, settings, results)
    assert max(found.values()) <= 1, found


@pytest.mark.parametrize("name, dtype, shape, settings", CHECKED)
def test_same_input_same_bits(name, dtype, shape, settings, device):
    def bits():
        return [x.tobytes() for x in kernel(name, dtype, shape, settings, device).values()]

    first = bits()
    with configured(order="ascending"):  # on the simulator another order too
        assert bits() == first


@pytest.mark.parametrize("name, dtype, shape, settings", CHECKED)
def test_check_mode_reports_nothing(name, dtype, shape, settings, simulator):
    with configured(mode="check", order="shuffled", seed=5):
        kernel(name, dtype, shape, settings)


def test_an_empty_batch_gives_empty_results(simulator):
    for name in RUNGS:
        results = kernel(name, "float32", (0, 2, 1, 5, 32), {})
        assert results["y"].shape == (0, 2, 5, 32) and results["dk"].shape == (0, 1, 5, 32)


@pytest.mark.parametrize("documents", [None, ((3, 60, 30), (90, 7))])
@pytest.mark.parametrize("window", [1, 5, 40, 97, 200])
@pytest.mark.parametrize("name", RUNGS)
def test_a_window_is_a_case_of_starts(name, window, documents, device):
    """The package turns a window into starts, and takes of both borders the later one."""
    settings = dict(window=window) | (dict(documents=documents) if documents else {})
    shape, op = (2, 2, 1, 97, 32), importlib.import_module("minillm.kernels.attention")
    try:
        use_kernels(attention=name)
        results = kernel(None, "float32", shape, settings, device, op=op)
    finally:
        use_kernels(True)
    expected = reference(shape, "float32", settings)
    limit = 2e-3 if name == "flash_tensor_cores" else BACKWARD
    for key in NAMES:
        if window > 1 or key in ("y", "dv"):
            assert relative_error(results[key], expected[key]) <= limit, key
        else:  # a softmax over one score has no gradient
            assert np.abs(results[key]).max() < (0.05 if name == "flash_tensor_cores" else 1e-5)


@pytest.mark.parametrize("name", RUNGS)
def test_one_document_a_row_has_the_bits_of_no_documents(name, device):
    shape = (1, 2, 1, 70, 32)
    found = [kernel(name, "float32", shape, settings, device) for settings in ({}, {"documents": ((70,),)})]
    for key in NAMES:
        assert found[0][key].tobytes() == found[1][key].tobytes(), key


@pytest.mark.parametrize("name", RUNGS)
def test_nothing_crosses_the_border_of_a_document(name, device):
    """Gradients from the second document to the first are exactly 0, and so is what a change of the first one does."""
    shape, first = (1, 2, 1, 97, 32), slice(None, 40)
    a = inputs(shape, "float32")
    a.dy[:, :, first] = 0
    starts = to_device(starts_of(97, ((40, 57),)), device)

    def results():
        arrays = [to_device(x.copy(), device) for x in (a.q, a.k, a.v, a.dy)]
        y, saved = rung(name).attention_forward(*arrays[:3], starts=starts)
        return [to_host(x) for x in (y, *rung(name).attention_backward(arrays[3], saved))]

    before = results()
    assert all(not gradient[:, :, first].any() and gradient[:, :, 40:].any() for gradient in before[1:])
    for x in (a.q, a.k, a.v):
        x[:, :, first] += 1
    for one, other in zip(before, results()):
        assert one[:, :, 40:].tobytes() == other[:, :, 40:].tobytes()


@pytest.mark.parametrize("name", RUNGS)
def test_tiles_without_a_seen_key_are_skipped(name, simulator):
    """Two documents in a row move no more memory than in two rows: the matrices of the first rungs are whole, though."""
    moved = []
    for batch, time, settings in ((1, 256, {}), (2, 128, {}), (1, 256, {"documents": ((128, 128),)})):
        with configured(mode="profile") as profile:
            kernel(name, "float32", (batch, 1, 1, time, 32), settings)
        moved.append(profile.total("global").actual)
    whole, apart, packed = moved
    assert packed < 0.9 * whole and (name in ("naive", "tiled") or packed < 1.1 * apart), moved


# -------------------------------------------------------------------------------------------------- which rung


def zeros(width, dtype="float32", device="cudasim"):
    return to_device(np.zeros((1, 1, 2, width), number_type(dtype)), device)


def test_the_best_rung_is_the_one_that_takes_the_array():
    assert best_rung(zeros(64)) == "flash"
    assert best_rung(zeros(20)) == "tiled"
    assert best_rung(zeros(64, "bfloat16")) == "flash_tensor_cores"


def test_tensor_cores_fit_into_every_gpu_that_has_them():
    """A block of sm_86, sm_89 and sm_120 may have 99 KiB of shared memory, less than a block of sm_80."""
    smallest = min(limit for arch, limit in MAX_SHARED.items() if arch >= 80)
    assert smallest == MAX_SHARED[86] == MAX_SHARED[89] == 101_376
    tensor_cores = rung("flash_tensor_cores")
    for tiling_for, width, dtype in product(
        (tensor_cores.forward_tiling, tensor_cores.queries_tiling, tensor_cores.keys_tiling),
        tensor_cores.WIDTHS,
        tensor_cores.DTYPES,
    ):
        assert tiling_for(dtype, width).shared(width) <= smallest, (tiling_for.__name__, width, dtype)


def test_heads_too_wide_for_a_small_gpu_go_to_tiles(monkeypatch):
    monkeypatch.setattr("minillm.kernels.attention._shared_memory_limit", lambda q: 64 * 1024)  # sm_75
    assert best_rung(zeros(64)) == "flash"
    assert best_rung(zeros(128)) == "tiled"


def test_a_rung_is_chosen_by_name():
    try:
        for name in RUNGS:
            use_kernels(attention=name)
            for dtype in ("float32", "bfloat16"):  # a rung that takes float32 alone gets bfloat16 in float32
                q = zeros(64, dtype)
                y, saved = kernel_for("attention", q).attention_forward(q, q, q)
                assert saved[0].__name__ == f"minillm.kernels.attention.{name}"
                gradients = kernel_for("attention", q).attention_backward(y, saved)
                assert {x.dtype.name for x in (y, *gradients)} == {dtype}
        use_kernels(attention=False)
        assert kernel_for("attention", zeros(64)) is None
    finally:
        use_kernels(True)


@pytest.mark.parametrize("name", RUNGS)
def test_the_ladder_s_table_has_lines_and_bytes(name, simulator):
    row = next(line for line in attention.__doc__.splitlines() if line.split()[:1] == [name])
    lines, counted = (int(number.replace(",", "")) for number in row.split()[-2:])
    source = Path(rung(name).CUDA.path).read_text(encoding="utf-8")
    assert lines == len(source.splitlines())
    q = to_device(np.random.default_rng(0).normal(size=(1, 1, 128, 64)).astype(np.float32), "cudasim")
    with configured(mode="profile") as profile:
        rung(name).attention_forward(q, q, q)
    assert counted == SECTOR_BYTES * profile.total("global").actual


def test_the_package_remembers_which_rung_went_forward(simulator):
    op = importlib.import_module("minillm.kernels.attention")
    shape = (1, 1, 1, 9, 20)
    results = kernel(None, "float32", shape, {}, op=op)
    assert relative_error(results["dk"], reference(shape, "float32", {})["dk"]) < BACKWARD


# ------------------------------------------------------------------------------------------------ planted faults

# (rung, the text in its source, the text that replaces it, what must notice: "check" or "numbers")
FAULTS = {
    "naive: the diagonal is masked": ("naive", "causal && j > i", "causal && j >= i", "numbers"),
    "naive: one key too many": ("naive", "causal ? i + 1 : time", "causal ? i + 2 : time", "check"),
    "naive: last block not cut": (
        "naive", "if (n >= (long long)batch * heads * time * width) return;", "", "check"),
    "softmax: gradient without delta": ("naive", "(ds[n] - delta)", "ds[n]", "numbers"),
    "softmax: gradient not scaled": ("naive", "(ds[n] - delta) * scale", "(ds[n] - delta)", "numbers"),
    "tiled: no barrier before the tiles are read": (
        "tiled", "__syncthreads();\n        multiply", "multiply", "check"),
    "tiled: no barrier after the tiles are read": (
        "tiled", "multiply(sum, a_tile, b_tile);\n        __syncthreads();", "multiply(sum, a_tile, b_tile);", "check"),
    "tiled: barrier in a branch": (
        "tiled", "__syncthreads();\n        multiply(sum, w_tile", "if (threadIdx.y < 4) __syncthreads();\n"
        "        multiply(sum, w_tile", "check"),
    "tiled: a head of the group is left out": ("tiled", "member < group", "member < max(1, group - 1)", "numbers"),
    "online: sum not scaled to the new maximum": ("online", "l = alpha * l + p", "l = l + p", "numbers"),
    "online: result not scaled to the new maximum": ("online", "add<D>(o, alpha, p", "add<D>(o, 1, p", "numbers"),
    "online: rows beyond the end are read": (
        "online", "first + n / D < time ? matrix", "first + n / D <= time ? matrix", "check"),
    "online: the mask hides the diagonal": ("online", "(!causal || j <= i)", "(!causal || j < i)", "numbers"),
    "online: no barrier after the tiles are read": (
        "online", "m = m_new;\n        }\n        __syncthreads();", "m = m_new;\n        }", "check"),
    "online: gradient of the scores without delta": ("online", "p * (dp - delta_i)", "p * dp", "numbers"),
    "online: dropout is left out of the values' gradient": ("online", "1, p * factor, dy_tile", "1, p, dy_tile", "numbers"),
    "online: a head of the group is left out": (
        "online", "head < (kv_head + 1) * group", "head < (kv_head + 1) * group - (group > 1)", "numbers"),
    "flash: sum not scaled to the new maximum": ("flash", "l[r] * alpha + row_sum", "l[r] + row_sum", "numbers"),
    "flash: result not scaled to the new maximum": ("flash", "o[r][c] *= alpha", "o[r][c] *= 1", "numbers"),
    "flash: keys beyond the end are counted": ("flash", "i < time && j < time && (", "i < time && (", "numbers"),
    "flash: rows beyond the end are read": (
        "flash", "if (first + r < time) numbers", "if (first + r <= time) numbers", "check"),
    "flash: stale values in shared memory": (
        "flash", "load_rows<D>(kv_tile, v, layout.v.token, first_key, N, time);", "", "numbers"),
    "flash: no barrier between keys and values": (
        "flash", "matmul_abt<D>(p, q_tile, kv_tile);\n        __syncthreads();",
        "matmul_abt<D>(p, q_tile, kv_tile);", "check"),
    "flash: probabilities stored to shared memory without a barrier of the warp": (
        "flash", "first_column() + 16 * c] = s[r][c];\n    __syncwarp();", "first_column() + 16 * c] = s[r][c];", "check"),
    "flash: dropout's factor is left out of the gradient": (
        "flash", "(ds[r][c] * factor - delta_i[r])", "(ds[r][c] - delta_i[r])", "numbers"),
    "flash: every block writes the first keys": (
        "flash", "dk_sum, dk_factor, first_key, time", "dk_sum, dk_factor, 0, time", "check"),
    "tensor cores: wrong fragment index": (
        "flash_tensor_cores", "a[1] = pair(c[0][2], c[0][3]);", "a[1] = pair(c[1][0], c[1][1]);", "numbers"),
    "tensor cores: rows and columns of a fragment exchanged": (
        "flash_tensor_cores", "tile + group() * stride + within();\n        b[0]",
        "tile + within() * stride + group();\n        b[0]", "check"),
    "tensor cores: the copy is not waited for": (
        "flash_tensor_cores", "copies.wait();\n        __syncthreads();  // this", "__syncthreads();  // this", "check"),
    "tensor cores: the next tile overwrites this one": (
        "flash_tensor_cores", "k_tiles + (tile ^ 1) * TILE, k", "k_tiles + tile * TILE, k", "check"),
    "tensor cores: no barrier after the copy": (
        "flash_tensor_cores", "__syncthreads();  // this", "// this", "check"),
    "naive: documents are not masked": (
        "naive", "|| j < first_key_of(starts_of(starts, head, heads, time), i, time)) {", ") {", "numbers"),
    "naive: a document sees the token before it": (
        "naive", "j < first_key_of(starts_of(starts, head, heads, time), i, time)) {",
        "j < first_key_of(starts_of(starts, head, heads, time), i, time) - 1) {", "numbers"),
    "naive: queries of a document are left out": ("naive", "i, time) <= j; ++i)", "i, time) < j; ++i)", "numbers"),
    "tiled: documents are not masked": ("tiled", "|| j < first_key_of(starts, i, time) ? masked", "? masked", "numbers"),
    "tiled: a tile is skipped of which one key is seen": (
        "tiled", "column + TILE - 1 < first_key_of(starts, row, time)",
        "column + TILE - 1 < first_key_of(starts, min(row + TILE, time) - 1, time)", "numbers"),
    "tiled: queries of a document are left out": (
        "tiled", "first_key_of(starts, i, time) < row + TILE", "first_key_of(starts, i, time) <= row", "numbers"),
    "online: documents are not masked": ("online", "max(start, first_key)", "start", "numbers"),
    "online: backward does not mask documents": ("online", "if (first_key_of(starts, i, time) > j) break;", "", "numbers"),
    "online: a tile is skipped of which one key is seen": (
        "online", "first_key_of(starts, first, time) / TILE * TILE",
        "(first_key_of(starts, first, time) + TILE - 1) / TILE * TILE", "numbers"),
    "online: queries of a document are left out": (
        "online", "first_key_of(starts, start, time) < first + ROWS", "first_key_of(starts, start, time) <= first", "numbers"),
    "flash: documents are not masked": ("flash", " && j >= first_key_of(starts, i, time);", ";", "numbers"),
    "flash: dq without a mask": (
        "flash", "if (!mask.hides_none(row, 16, first_key, N)) hide<N>(p, mask, first_query, first_key);\n            // forw",
        "// forw", "numbers"),
    "flash: dk and dv without a mask": (
        "flash", "if (!mask.hides_none(first_query, N, row, 16)) hide_transposed<N>(p, mask, first_query, first_key);", "",
        "numbers"),
    "flash: no mask for a tile on the diagonal": ("flash", "j + keys - 1 <= i)", "j <= i)", "numbers"),
    "flash: no mask for a tile at the end": ("flash", "last < time && j + keys <= time", "last < time", "numbers"),
    "flash: no mask for a tile at the border of a document": (
        "flash", "first_key_of(starts, last, time) <= j", "first_key_of(starts, i, time) <= j", "numbers"),
    "flash: a warp skips a tile on the diagonal": ("flash", "j > i + queries - 1", "j > i", "numbers"),
    "flash: a warp skips a tile at the border of a document": (
        "flash", "j + keys <= first_key_of(starts, i, time)", "starts && j < first_key_of(starts, i, time)", "numbers"),
    "flash: a row that has seen no key divides infinities": (
        "flash", "m[r] == -infinity() ? 0 : m[r] * exponent;", "m[r] * exponent;", "numbers"),
    "flash: a tile is skipped of which one key is seen": (
        "flash", "first_key_of(mask.starts, first_query, time) / N * N",
        "(first_key_of(mask.starts, first_query, time) + N - 1) / N * N", "numbers"),
    "flash: keys with the steps of queries": ("flash", "layout.k.token", "layout.q.token", "numbers"),
    "flash: results with rows side by side, whatever the steps": (
        "flash", "matrix + (long long)row * step + 2", "matrix + (long long)row * D + 2", "check"),
    "flash: steps of the batch from those of heads": (
        "flash", "head / heads * steps.batch + head % heads * steps.head", "head * steps.head", "check"),
    "flash: queries of a document are left out": (
        "flash", ">= first_key + OWNED) break;", "> first_key) break;", "numbers"),
    "flash: starts of another row of the batch": ("flash", "head / heads * time", "head % heads * time", "numbers"),
    "tensor cores: documents are not masked": (
        "flash_tensor_cores", " && j >= first_key_of(starts, i, time);", ";", "numbers"),
    "tensor cores: dq without a mask": (
        "flash_tensor_cores", "if (masked) hide<N>(p[g], mask, row + 16 * g, first_key);\n            KeptTile<N> kept(drop, "
        "head, time, row + 16 * g, first_key);\n#pragma unroll\n            for (int n = 0; n < N / 8; ++n)\n#pragma unroll\n"
        "                for (int e = 0; e < 4; ++e) {", "KeptTile<N> kept(drop, "
        "head, time, row + 16 * g, first_key);\n#pragma unroll\n            for (int n = 0; n < N / 8; ++n)\n#pragma unroll\n"
        "                for (int e = 0; e < 4; ++e) {", "numbers"),
    "tensor cores: dk and dv without a mask": (
        "flash_tensor_cores", "if (masked) hide_transposed<N>(p[g], mask, query, row + 16 * g);", "", "numbers"),
    "tensor cores: no mask for a tile on the diagonal": ("flash_tensor_cores", "j + keys - 1 <= i)", "j <= i)", "numbers"),
    "tensor cores: a warp skips a tile on the diagonal": (
        "flash_tensor_cores", "j > i + queries - 1", "j > i", "numbers"),
    "tensor cores: a row that has seen no key divides infinities": (
        "flash_tensor_cores", "m[half] == -infinity() ? 0 : m[half] * exponent;", "m[half] * exponent;", "numbers"),
    "tensor cores: queries of a document are left out": (
        "flash_tensor_cores", "mask.starts[stop] < first_key + OWNED", "mask.starts[stop] <= first_key", "numbers"),
    "tensor cores: the second group of rows has the operand of the first": (
        "flash_tensor_cores", "Operand::multiply(s[m][n], a_operand[m]", "Operand::multiply(s[m][n], a_operand[0]",
        "numbers"),
    "tensor cores: rows are kept before they have arrived": (
        "flash_tensor_cores", "copies.wait();\n    __syncthreads();\n", "", "check"),
    "tensor cores: values with the steps of keys": ("flash_tensor_cores", "layout.v.token", "layout.k.token", "numbers"),
    "tensor cores: results with rows side by side, whatever the steps": (
        "flash_tensor_cores", "matrix + (long long)i * step + 8 * n", "matrix + (long long)i * D + 8 * n", "check"),
    "tensor cores: every head of a group reads the first one's queries": (
        "flash_tensor_cores", "q += layout.q.head;", "", "numbers"),
    "dropout: a lane asks for another row's bits": ("flash", "2 * row + column / (N / 2)", "row + column / (N / 2)", "numbers"),
}  # fmt: skip


def likely_first(fault):
    """The cases that are checked, first those that may show a fault: with dropout where it is one of dropout, with more than
    one token, and with narrow heads, which are compiled soonest."""

    def unlikely(case):
        _, _, shape, settings = case.values
        return (
            ("dropout" in fault) != ("dropout" in settings),
            ("steps" in fault) != ("views" in settings),
            shape[3] == 1,
            shape[4],
        )

    return sorted(CHECKED, key=unlikely)


def what_notices(fault):
    """Run the cases in check mode, with a fault that is planted: "check", "numbers" or "nothing"."""
    name = FAULTS[fault][0]
    for case in likely_first(fault):
        this_rung, *case = case.values
        if this_rung == name:
            try:
                with configured(mode="check"):
                    results = kernel(name, *case)
            except SimulatorError:
                return "check"
            with np.errstate(invalid="ignore"):
                if max(excess(name, *case, results).values()) > 1:
                    return "numbers"
    return "nothing"


def test_the_documentation_lists_the_faults():
    assert_faults_are_documented(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_noticed(fault, monkeypatch, simulator):
    name, before, after, by = FAULTS[fault]
    op = rung(name)
    text = with_headers(op.CUDA)
    assert before in text, "the fault is no longer where the table says"
    monkeypatch.setattr(op, "CUDA", op.CUDA.with_text(text.replace(before, after)))
    assert noticed_by(lambda: what_notices(fault), by) == by


# ------------------------------------------------------------------------------------------- what launchers refuse


def test_wrong_arguments_are_named():
    q = zeros(64)
    for name in RUNGS:
        op = rung(name)
        with pytest.raises(ValueError, match=r"attention_forward: k is .* have to divide the 1 heads of q"):
            op.attention_forward(q, to_device(np.zeros((1, 2, 2, 64), np.float32), "cudasim"), q)
        with pytest.raises(TypeError, match="attention_forward: q is float64"):
            op.attention_forward(q.astype(np.float64), q, q)
        with pytest.raises(ValueError, match="attention_forward: v is .* but k is"):
            op.attention_forward(q, q, zeros(32))
        with pytest.raises(ValueError, match="attention_forward: (q is not C-|the last axis of q is not )contiguous"):
            op.attention_forward(zeros(128)[..., ::2], q, q)
        with pytest.raises(ValueError, match="attention_forward: dropout=0.5 needs an rng_key"):
            op.attention_forward(q, q, q, dropout=0.5)
        starts = to_device(np.zeros((1, 2), np.int32), "cudasim")
        with pytest.raises(ValueError, match=r"attention_forward: starts is \(1, 1\) but q is"):
            op.attention_forward(q, q, q, starts=starts[:, :1])
        with pytest.raises(TypeError, match="attention_forward: starts is int64"):
            op.attention_forward(q, q, q, starts=starts.astype(np.int64))
        with pytest.raises(ValueError, match="attention_forward: starts without causal"):
            op.attention_forward(q, q, q, causal=False, starts=starts)
    with pytest.raises(
        ValueError, match=r'heads of width 20, the kernel takes 32, 64, 96, 128: rung "tiled" takes any'
    ):
        rung("flash").attention_forward(zeros(20), zeros(20), zeros(20))


@pytest.mark.parametrize("name", TAKING_VIEWS)
def test_views_that_the_kernels_cannot_read_are_named(name):
    op, q = rung(name), zeros(64)
    around = to_device(np.zeros((1, 1, 2, 66), np.float32), "cudasim")
    with pytest.raises(ValueError, match="attention_forward: rows of k do not begin at multiples of 16 bytes"):
        op.attention_forward(q, around[..., :64], q)
    with pytest.raises(ValueError, match="attention_forward: v does not begin at a multiple of 16 bytes"):
        op.attention_forward(q, q, around[..., 2:])
    with pytest.raises(ValueError, match="attention_forward: rows of q do not begin at multiples of 16 bytes"):
        op.attention_forward(q[:, :, ::-1], q, q)
    y, saved = op.attention_forward(q, q, q)
    with pytest.raises(ValueError, match="attention_backward: rows of dy do not begin at multiples of 16 bytes"):
        op.attention_backward(around[..., :64], saved)
    with pytest.raises(ValueError, match=r"attention_backward: dk is \(1, 1, 2, 66\) but k is"):
        op.attention_backward(y, saved, out=(q.copy(), around, q.copy()))
    with pytest.raises(ValueError, match="attention_backward: rows of dv do not begin at multiples of 16 bytes"):
        op.attention_backward(y, saved, out=(q.copy(), q.copy(), around[..., :64]))
