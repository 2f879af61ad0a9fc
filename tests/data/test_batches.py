import numpy as np
import pytest

from minillm.backend import stream
from minillm.data import random_windows, sequential_windows
from minillm.errors import UserError


def test_random_windows_are_pieces_of_the_text():
    tokens = np.arange(50, dtype=np.uint16) * 3
    inputs, targets = random_windows(tokens, 200, 7, stream(1))
    assert inputs.shape == targets.shape == (200, 7) and inputs.dtype == targets.dtype == np.int64
    assert (inputs[:, 1:] == targets[:, :-1]).all() and (np.diff(inputs, axis=1) == 3).all()
    assert (targets[:, -1] == inputs[:, -1] + 3).all()
    assert set(inputs[:, 0] // 3) == set(range(43))  # every start that leaves room for the last target


def test_same_stream_same_windows():
    tokens = np.arange(1000)
    assert (random_windows(tokens, 4, 8, stream(1, "a"))[0] == random_windows(tokens, 4, 8, stream(1, "a"))[0]).all()
    assert (random_windows(tokens, 4, 8, stream(1, "a"))[0] != random_windows(tokens, 4, 8, stream(1, "b"))[0]).any()


def test_exactly_one_window():
    inputs, targets = random_windows(np.arange(5), 3, 4, stream(1))
    assert inputs.tolist() == [[0, 1, 2, 3]] * 3 and targets.tolist() == [[1, 2, 3, 4]] * 3


def test_too_short():
    with pytest.raises(UserError, match="the text has 4 tokens, one window needs 5"):
        random_windows(np.arange(4), 1, 4, stream(1))


@pytest.mark.parametrize("length", [2, 3, 7, 8, 9, 15, 64, 65, 66])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_but_the_first_is_a_target_once(length, batch_size):
    pairs = []
    for inputs, targets in sequential_windows(np.arange(length), batch_size, 7):
        assert len(inputs) <= batch_size and inputs.shape == targets.shape
        pairs += list(zip(inputs.ravel(), targets.ravel()))
    assert pairs == [(i, i + 1) for i in range(length - 1)]


def test_limit_spreads_full_windows_evenly():
    def starts(limit):
        return [int(row[0]) for inputs, _ in sequential_windows(np.arange(101), 2, 10, limit) for row in inputs]

    assert starts(3) == [0, 40, 90] and starts(2) == [0, 90] and starts(10) == starts(None) == list(range(0, 100, 10))


def test_one_token_is_too_few():
    with pytest.raises(UserError, match="the text has 1 tokens, at least 2 are needed"):
        list(sequential_windows(np.arange(1), 1, 4))
