"""Packing texts into rows."""

import numpy as np
import pytest

from minillm.backend.random_streams import stream
from minillm.data.packing import pack, packed_row


def test_every_text_is_in_one_row_and_rows_hold_what_they_can():
    lengths = (1 + stream("lengths").integers(60, 500)).tolist()
    rows = pack(lengths, 64)
    assert sorted(number for row in rows for number in row) == list(range(500))
    filled = [sum(lengths[number] for number in row) for row in rows]
    assert max(filled) <= 64
    assert len(rows) <= -(-sum(lengths) // 64) * 11 / 9 + 4  # best fit, longest first
    assert pack(lengths, 64) == rows


def test_the_row_with_the_least_space_is_taken():
    assert pack([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]
    assert pack([10, 10], 10) == [[0], [1]] and pack([], 10) == []


def test_a_text_that_is_too_long():
    with pytest.raises(ValueError, match="text 1 has 11 tokens, a row 10"):
        pack([3, 11], 10)


def test_no_target_crosses_a_border():
    texts = [
        (np.array([7, 8, 9], np.uint16), np.array([True, True, True])),
        (np.array([5, 6], np.uint16), np.array([0, 1])),
    ]
    ids, targets, starts = packed_row(texts, 6)
    assert ids.tolist() == [7, 8, 5, 0, 0, 0] and targets.tolist() == [8, 9, 6, -100, -100, -100]
    assert starts.tolist() == [0, 0, 2, 3, 3, 3] and starts.dtype == np.int32
    assert packed_row(texts, 3)[2].tolist() == [0, 0, 2]
