"""Safetensors files that may have been made to do harm."""

import json
import resource
import struct
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.files.safetensors_file import first_not_finite, read_header

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.5, -1.5, 3.0], np.float16)}


def entry(begin, end, shape=(3,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_reads_what_the_reference_implementation_wrote(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path, {"format": "pt"})
    tensors = read_header(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (3,)}
    for name, array in ARRAYS.items():
        for dtype in (np.float32, np.float64):
            got = tensors[name].read(dtype)
            assert got.dtype == dtype and (got == array).all()


def test_a_tensor_stays_in_its_file_and_writing_to_it_leaves_the_file_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path)
    before = path.read_bytes()
    first, second = (read_header(path)["a"].read(np.float32) for _ in range(2))
    first += 1
    assert (second == ARRAYS["a"]).all() and path.read_bytes() == before
    assert not first.flags.owndata


def test_bfloat16(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x0001, 0x7F7F], "<u2")  # 1, -2, the smallest above 0, the largest
    path = write(tmp_path / "x", {"t": entry(0, 8, (2, 2), "BF16")}, bits.tobytes())
    got = read_header(path)["t"].read(np.float32)
    assert got.ravel().tolist() == [1.0, -2.0, 2.0**-133, (2 - 2**-7) * 2.0**127]


@pytest.mark.parametrize(
    "header, data, message",
    [
        (b"{}", b"1234", "4 bytes at its end belong to no tensor"),
        (b"[]", b"", "no JSON object"),
        (b"\xff\xff", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", b"", "not valid JSON"),
        (b'{"a": {}, "a": {}}', b"", "names something twice"),
        ({"t": 3}, b"", "is not dtype, shape and data_offsets"),
        ({"t": {**entry(0, 12), "more": 1}}, b"x" * 12, "is not dtype, shape and data_offsets"),
        ({"t": entry(0, 12, dtype="F31")}, b"x" * 12, "unknown type 'F31'"),
        ({"t": entry(0, 12, dtype=["F32"])}, b"x" * 12, "unknown type"),
        ({"t": entry(0, 12, (-3,))}, b"x" * 12, "has the shape"),
        ({"t": entry(0, 12, (3.0,))}, b"x" * 12, "has the shape"),
        ({"t": entry(0, 12, (True, 3))}, b"x" * 12, "has the shape"),
        ({"t": entry(0, 12, (1,) * 9)}, b"x" * 12, "has the shape"),
        ({"t": entry(0, 16)}, b"x" * 12, "outside the 12 bytes of data"),
        ({"t": entry(12, 0)}, b"x" * 12, "outside the 12 bytes"),
        ({"t": entry(0, 12, (4,))}, b"x" * 12, "does not fill 12 bytes"),
        ({"t": entry(0, 0, (1 << 40, 1 << 40, 1 << 40))}, b"", "does not fill 0 bytes"),
        ({"t": entry(0, 0, (1 << 62, 4))}, b"", "has the shape"),
        ({"s": entry(0, 12), "t": entry(8, 20)}, b"x" * 20, "'s' and 't' overlap"),
        ({"s": entry(0, 12), "t": entry(16, 28)}, b"x" * 28, "4 bytes before tensor 't' belong to no tensor"),
    ],
)
def test_headers_that_cannot_be_true(tmp_path, header, data, message):
    with pytest.raises(UserError, match=message):
        read_header(write(tmp_path / "model.safetensors", header, data))


@pytest.mark.parametrize("length", [3, 1 << 20, 1 << 63, (1 << 64) - 1])
def test_a_header_larger_than_the_file(tmp_path, length):
    with pytest.raises(UserError, match=f"should be {length} bytes long, the file has"):
        read_header(write(tmp_path / "x", b"{}", length=length))


@pytest.mark.parametrize("contents", [b"", b"1234567"])
def test_short_files(tmp_path, contents):
    (tmp_path / "x").write_bytes(contents)
    with pytest.raises(UserError, match="not a complete safetensors file"):
        read_header(tmp_path / "x")


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 1 << 33))
        file.truncate((1 << 33) + 100)  # sparse
    with pytest.raises(UserError, match="larger than any model needs"):
        read_header(path)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_mutated_files(tmp_path):
    """Thousands of files with changed, missing and doubled bytes: opened and right in size, or refused; never a crash."""
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path)
    original = np.frombuffer(path.read_bytes(), np.uint8)
    header_end = 8 + int.from_bytes(original[:8].tobytes(), "little")
    before, opened, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    for index in range(2000):
        numbers = stream("mutation", index)
        mutated = original.copy()
        for at in numbers.integers(header_end, 1 + index % 4):
            mutated[at] = numbers.integers(256) if index % 2 else ord('0123456789,[]{}"-eF'[int(numbers.integers(19))])
        if index % 5 == 0:
            mutated = mutated[: int(numbers.integers(len(mutated)))]
        if index % 7 == 0:
            mutated = np.concatenate([mutated, mutated[: int(numbers.integers(9))]])
        path.write_bytes(mutated.tobytes())
        try:
            for tensor in read_header(path).values():
                tensor.read(np.float32)
            opened += 1
        except UserError:
            refused += 1
    assert opened > 5 and refused > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_none_is_found(value):
    array = np.zeros((3, 4), np.float32)
    assert first_not_finite(array) is None
    array[1, 2] = array[2, 0] = value
    assert first_not_finite(array) == (1, 2)
    assert first_not_finite(np.full(4, 3e38, np.float32)) is None  # their sum is infinite, they are not


def test_integers_are_no_weights(tmp_path):
    save_file({"t": np.arange(3)}, tmp_path / "x")
    with pytest.raises(UserError, match="tensor t is stored as I64; use F64, F32, F16, BF16"):
        read_header(tmp_path / "x")["t"].read(np.float32)
    assert load_file(tmp_path / "x")["t"].sum() == 3
