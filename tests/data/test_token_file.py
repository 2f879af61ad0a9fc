"""Token files: what goes in comes out, and a broken file is a clear error."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minillm.data import open_tokens, write_tokens
from minillm.errors import UserError


@pytest.mark.parametrize(
    "largest, dtype", [(65, np.uint16), (65535, np.uint16), (65536, np.uint32), (2**32 - 1, np.uint32)]
)
def test_round_trip_in_the_smallest_type(tmp_path, largest, dtype):
    ids = [0, 3, largest, 1]
    write_tokens(tmp_path / "train.npy", ids)
    tokens = open_tokens(tmp_path / "train.npy", largest + 1)
    assert tokens.tolist() == ids
    assert tokens.dtype == dtype
    assert [file.name for file in tmp_path.iterdir()] == ["train.npy"]


def test_the_file_is_mapped_and_cannot_be_written_through(tmp_path):
    write_tokens(tmp_path / "train.npy", [1, 2, 3])
    tokens = open_tokens(tmp_path / "train.npy", 4)
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 2


def test_no_tokens_at_all(tmp_path):
    write_tokens(tmp_path / "empty.npy", [])
    assert len(open_tokens(tmp_path / "empty.npy", 4)) == 0


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_tokens(tmp_path / "train.npy", [1, 2, 3])

    def full_disk(file, *arguments, **options):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tokens(tmp_path / "train.npy", [4])
    assert open_tokens(tmp_path / "train.npy", 4).tolist() == [1, 2, 3]
    assert [file.name for file in tmp_path.iterdir()] == ["train.npy"]


@pytest.mark.parametrize("ids", [[-1, 2], [2**32], [[1, 2]]])
def test_ids_that_the_file_cannot_hold(tmp_path, ids):
    with pytest.raises(ValueError, match="whole numbers"):
        write_tokens(tmp_path / "train.npy", ids)
    assert not list(tmp_path.iterdir())


def test_an_id_outside_the_vocabulary_is_named_with_its_place(tmp_path):
    write_tokens(tmp_path / "train.npy", [1, 2, 9, 3, 9])
    with pytest.raises(UserError, match=r"train.npy: token 2 is 9, outside the vocabulary of 9"):
        open_tokens(tmp_path / "train.npy", 9)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="train.npy is missing"):
        open_tokens(tmp_path / "train.npy", 9)


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.uint16), np.zeros(3), np.array([-1, 2])])
def test_an_array_of_something_else(tmp_path, array):
    np.save(tmp_path / "train.npy", array)
    with pytest.raises(UserError, match="is not a token file"):
        open_tokens(tmp_path / "train.npy", 9)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00"])
def test_a_file_of_another_kind(tmp_path, data):
    (tmp_path / "train.npy").write_bytes(data)
    with pytest.raises(UserError, match="train.npy is not a complete token file"):
        open_tokens(tmp_path / "train.npy", 9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.integers(0, 327))
def test_a_truncated_file(tmp_path, length):
    write_tokens(tmp_path / "train.npy", np.arange(100))  # 128 bytes of header, 200 of tokens
    (tmp_path / "train.npy").write_bytes((tmp_path / "train.npy").read_bytes()[:length])
    with pytest.raises(UserError, match="not a complete token file"):
        open_tokens(tmp_path / "train.npy", 100)
