"""Opening a GGUF file: as the package gguf reads it, without it where we can, and no call of Python for each token."""

import struct
import sys

import numpy as np
import pytest
from model_files import LLAMA, add_byte_pairs, write_gguf

import minillm
from minillm.errors import MissingExtra, UserError
from minillm.pretrained.gguf import GGUF
from minillm.pretrained.gguf_check import read_header
from minillm.pretrained.gguf_types import OWN_TYPES, expanded

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
TOKENS = 3000


def many(writer):
    writer.add_array("test.words", [f"wörd {number}" for number in range(TOKENS)])
    writer.add_array("test.numbers", list(range(-3, TOKENS)))
    writer.add_array("test.scores", [number / 7 for number in range(TOKENS)])
    writer.add_array("test.flags", [True, False])
    writer.add_bool("test.flag", True)
    writer.add_float64("test.double", 0.1)
    writer.add_int64("test.long", -(1 << 40))


@pytest.fixture
def path(tmp_path):
    def change(writer):
        add_byte_pairs(writer)
        many(writer)

    return write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), gguf.GGMLQuantizationType.Q8_0, change=change)


def test_keys_and_tensors_are_those_of_the_package(path):
    """The slow twin: the package's own reader."""
    theirs = gguf.GGUFReader(path)
    settings, _ = read_header(path)
    expected = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert settings == expected
    assert {key: type(value) for key, value in settings.items()} == {k: type(v) for k, v in expected.items()}
    ours = GGUF(path)
    assert list(ours.names()) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert ours.type_of(tensor.name) == tensor.tensor_type.name
        np.testing.assert_array_equal(ours._tensors[tensor.name].data, tensor.data)


def test_no_call_for_each_token(path):
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        settings, _ = read_header(path)
    finally:
        sys.setprofile(None)
    assert len(settings["test.words"]) == TOKENS
    assert calls < TOKENS / 2


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def words(*texts: bytes) -> bytes:
    """A file with one key, an array of strings."""
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, len(texts))
    return start + b"".join(texts)


@pytest.mark.parametrize(
    "data, message",
    [
        (words(text(b"one"), text(b"two"))[:-1], "ends at .* in the middle of its header"),
        (words(text(b"one"), text(b"two"))[:-4], "ends at .* in the middle of its header"),
        (words(text(b"one"), struct.pack("<Q", 1 << 60)), "should be 1152921504606846976 bytes long"),
        (words(text(b"one"), text(b"\xff\xfe")), "no UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text(b"k") + struct.pack("<IB", 0, 7)), "b'k' occurs twice"),
    ],
)
def test_damage_in_a_list_of_words(data, message, tmp_path):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_header(tmp_path / "m.gguf")


def test_a_list_of_words(tmp_path):
    (tmp_path / "m.gguf").write_bytes(words(text(b""), text("é".encode())))
    assert read_header(tmp_path / "m.gguf") == ({"k": ["", "é"]}, [])


def test_types_are_those_of_the_package():
    for number, kind in OWN_TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert kind == (theirs, theirs.name, *gguf.GGML_QUANT_SIZES[theirs])


def of_type(path, name):
    """A model of which the package writes all matrices in one type."""
    return write_gguf(path, minillm.Llama(LLAMA, seed=1), gguf.GGMLQuantizationType[name], change=add_byte_pairs)


@pytest.mark.parametrize("name", [kind.name for kind in OWN_TYPES.values()])
def test_weights_are_those_of_the_package(name, tmp_path, monkeypatch):
    """The slow twin: the package's own expansion, to the last bit."""
    path = of_type(tmp_path / "m.gguf", name)
    expected = {
        each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in gguf.GGUFReader(path).tensors
    }
    monkeypatch.setitem(sys.modules, "gguf", None)
    file = GGUF(path)
    assert {file.type_of(each) for each in file.names()} == {name, "F32"}
    for each, values in expected.items():
        found = file.tensor(each, "float32")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.view(np.uint32), values.reshape(found.shape).view(np.uint32))


def test_other_types_need_the_package(tmp_path, monkeypatch):
    path = of_type(tmp_path / "m.gguf", "Q5_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r'opening m.gguf needs the package gguf.*pip install "minillm\[gguf\]"'):
        GGUF(path)


def test_blocks_of_tensors_with_more_dimensions():
    stored = np.frombuffer(np.random.default_rng(0).bytes(2 * 3 * 68), np.uint8).reshape(2, 3, 68)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(expanded(stored, OWN_TYPES[8]).reshape(2, 3, 64), theirs)
