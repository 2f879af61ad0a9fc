"""Rounding to numbers of 16 bits, compared with NumPy's and ml_dtypes'; sizes, and shards that are written."""

import numpy as np
import pytest

from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.files.number_types import stored
from minillm.files.safetensors_writer import size_in_bytes, write_shards


def numbers():
    """Of every size, with those halfway between two of bfloat16's, zeros and the smallest."""
    halfway = (np.arange(1 << 10, dtype=np.uint32) << 16 | 0x3F808000).view(np.float32)
    wide = stream(0, "numbers").normal((4000,)) * 10.0 ** (75 * stream(1, "powers").uniform((4000,)) - 38)
    return np.concatenate([halfway, -halfway, wide.astype(np.float32), np.float32([0, -0.0, 1e-45, 3.3e38])])


def test_bfloat16_is_rounded_to_the_nearest_even():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="comparison with the package ml_dtypes")
    expected = numbers().astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(stored(numbers(), "bf16", "x"), expected)


def test_float16_says_what_it_cannot_hold():
    small = numbers()[np.abs(numbers()) < 60000]
    np.testing.assert_array_equal(stored(small, "f16", "x"), small.astype(np.float16))
    with pytest.raises(UserError, match="x holds 66000, which f16 cannot"):
        stored(np.float32([1, -66000]), "f16", "x")


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "5 bytes", "5XB", "0", "0.1", "1e9"])
def test_sizes_that_cannot_be(text):
    with pytest.raises(UserError, match="write it as 5GB"):
        size_in_bytes(text)


@pytest.mark.parametrize("limit, parts", [(None, 1), (10**9, 1), (40, 2), (24, 2), (23, 3), (1, 3)])
def test_shards_are_filled_in_order(limit, parts, tmp_path):
    """Three tensors of 24, 16 and 8 bytes."""
    tensors = {"a": np.ones((2, 3), "f4"), "b": np.ones(4, "f4"), "c": np.zeros(2, "f4")}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    names = write_shards(tmp_path, shapes, "f32", tensors.__getitem__, limit)
    assert len([name for name in names if name.endswith(".safetensors")]) == parts
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
