import numpy as np
import pytest

from minillm.data import open_tokens, write_tokens
from minillm.errors import UserError


@pytest.mark.parametrize(
    "largest, dtype", [(10, np.uint16), (65535, np.uint16), (65536, np.uint32), (200_000, np.uint32)]
)
def test_round_trip(tmp_path, largest, dtype):
    write_tokens(tmp_path / "t.npy", [0, largest, 5])
    tokens = open_tokens(tmp_path / "t.npy", largest + 1)
    assert isinstance(tokens, np.memmap) and tokens.dtype == dtype and tokens.tolist() == [0, largest, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["t.npy"]


def test_id_outside_the_vocabulary(tmp_path):
    write_tokens(tmp_path / "t.npy", [0, 3, 7, 9])
    with pytest.raises(UserError, match="token 2 is 7, outside the vocabulary of 7"):
        open_tokens(tmp_path / "t.npy", 7)


@pytest.mark.parametrize("keep", [0, 5, 100, 129])
def test_broken_file(tmp_path, keep):
    write_tokens(tmp_path / "t.npy", [1, 2, 3])
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:keep])
    with pytest.raises(UserError, match="t.npy is not a complete token file"):
        open_tokens(tmp_path / "t.npy", 10)


def test_other_arrays(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((2, 2)))
    with pytest.raises(UserError, match="is not a token file"):
        open_tokens(tmp_path / "t.npy", 10)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        open_tokens(tmp_path / "t.npy", 10)
