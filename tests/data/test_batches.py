"""Windows: contents, coverage, and that every start is equally likely."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.backend.random_streams import stream
from minillm.data import random_windows, sequential_windows
from minillm.errors import UserError


def test_random_windows_are_contiguous_and_targets_are_one_token_further():
    inputs, targets = random_windows(np.arange(1000, 1100, dtype=np.uint16), 32, 7, stream(0, "batch"))
    assert inputs.shape == targets.shape == (32, 7)
    assert inputs.dtype == targets.dtype == np.int64
    assert np.array_equal(inputs, inputs[:, :1] + np.arange(7))
    assert np.array_equal(targets, inputs + 1)


def test_random_windows_depend_on_the_key_alone():
    tokens = np.arange(500)
    first, again, other = (random_windows(tokens, 8, 16, stream(3, "batch", step))[0] for step in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_start_is_equally_likely_up_to_the_last_possible_one():
    tokens, length, draws = np.arange(25), 5, 40_000
    starts = random_windows(tokens, draws, length, stream(0, "batch"))[0][:, 0]
    counts = np.bincount(starts, minlength=20)
    assert len(counts) == 20  # 0 .. len - T - 1
    chi_squared = np.square(counts - draws / 20).sum() / (draws / 20)
    assert chi_squared < 43.8  # 19 degrees of freedom: 99.9 %


def test_a_text_of_exactly_one_window_and_its_target_is_enough():
    inputs, targets = random_windows(np.arange(9), 4, 8, stream(0))
    assert np.array_equal(inputs, np.tile(np.arange(8), (4, 1)))
    assert np.array_equal(targets, np.tile(np.arange(1, 9), (4, 1)))


def test_random_windows_of_a_text_that_is_too_short():
    with pytest.raises(
        UserError, match="has 8 tokens, one window needs 9: use a smaller --context-length or more text"
    ):
        random_windows(np.arange(8), 4, 8, stream(0))


@given(st.integers(2, 200), st.integers(1, 9), st.integers(1, 50))
def test_sequential_windows_make_every_token_but_the_first_a_target_once(count, batch_size, context_length):
    tokens = np.arange(count, dtype=np.uint16)
    batches = list(sequential_windows(tokens, batch_size, context_length))
    assert np.array_equal(np.concatenate([targets.ravel() for _, targets in batches]), tokens[1:])
    assert np.array_equal(np.concatenate([inputs.ravel() for inputs, _ in batches]), tokens[:-1])
    for inputs, targets in batches:
        assert inputs.shape == targets.shape
        assert inputs.shape[0] <= batch_size and inputs.shape[1] <= context_length
        assert inputs.shape[1] == context_length or len(inputs) == 1  # only the rest is shorter


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 9])
def test_limited_windows_are_full_different_evenly_spaced_and_always_the_same(limit):
    tokens = np.arange(10 * 6 + 4)  # ten full windows and a rest
    starts = [np.concatenate([i[:, 0] for i, _ in sequential_windows(tokens, 4, 6, limit)]) for _ in range(2)]
    assert np.array_equal(*starts)
    assert len(starts[0]) == limit
    assert all(inputs.shape[1] == 6 for inputs, _ in sequential_windows(tokens, 4, 6, limit))
    steps = np.diff(starts[0] // 6)
    assert steps.size == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


@pytest.mark.parametrize("limit", [None, 10, 1000])
def test_a_limit_of_at_least_all_windows_covers_the_whole_text(limit):
    batches = sequential_windows(np.arange(64), 4, 6, limit)
    assert sum(targets.size for _, targets in batches) == 63


@pytest.mark.parametrize("limit", [None, 3])
def test_sequential_windows_of_a_text_shorter_than_one_window(limit):
    ((inputs, targets),) = sequential_windows(np.arange(5), 4, 100, limit)
    assert inputs.tolist() == [[0, 1, 2, 3]]
    assert targets.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("count", [0, 1])
def test_sequential_windows_need_two_tokens(count):
    with pytest.raises(UserError, match=f"has {count} tokens, at least 2"):
        next(sequential_windows(np.arange(count), 4, 8))
