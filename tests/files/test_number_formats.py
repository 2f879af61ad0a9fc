"""Each format's formula against NumPy's, ml_dtypes' and gguf's own expansion, for all bytes that occur."""

import numpy as np
import pytest

from minillm.files import number_formats
from minillm.files.number_formats import FORMATS


def expanded(number_format, stored):
    columns = stored.shape[1] // number_format.group_bytes * number_format.group
    out = np.full((len(stored), columns), np.nan, np.float32)
    number_format.expand(stored, out)
    return out


def random_bytes(number_format, groups=7, rows=5):
    """Rows of a format; scales are no NaN."""
    rng = np.random.default_rng(3)
    stored = rng.integers(0, 256, (rows, groups, number_format.group_bytes), np.uint8)
    scales = rng.standard_normal((rows, groups, 2)).astype("<f2").view(np.uint8)
    stored[..., : scales.shape[-1]] = scales
    return stored.reshape(rows, -1)


def test_every_float16():
    bits = np.arange(1 << 16, dtype="<u2")
    finite = bits[np.isfinite(bits.view("<f2"))].reshape(2, -1)
    found = expanded(FORMATS["F16"], finite.view(np.uint8))
    np.testing.assert_array_equal(found.view("u4"), finite.view("<f2").astype(np.float32).view("u4"))


def test_every_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="comparison with ml_dtypes")
    bits = np.arange(1 << 16, dtype="<u2").reshape(2, -1)
    found = expanded(FORMATS["BF16"], bits.view(np.uint8))
    np.testing.assert_array_equal(found, bits.view(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_groups_are_those_of_llama_cpp(name):
    gguf = pytest.importorskip("gguf", reason="comparison with the package gguf")
    stored = random_bytes(FORMATS[name])
    theirs = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
    np.testing.assert_allclose(expanded(FORMATS[name], stored), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name, function, fault",
    [
        ("Q8_0", "_half", lambda groups, start: groups[..., 2:4].view("<f2").astype(np.float32)),  # another scale
        ("Q4_0", "_write_nibbles", lambda n, w: (np.copyto(w[..., 16:], n & 15), np.copyto(w[..., :16], n >> 4))),
        ("Q4_1", "_half", lambda groups, start: groups[..., :2].view("<f2").astype(np.float32)),  # d for m
    ],
)
def test_a_wrong_formula_is_seen(name, function, fault, monkeypatch):
    monkeypatch.setattr(number_formats, function, fault)
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        test_groups_are_those_of_llama_cpp(name)
