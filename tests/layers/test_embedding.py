import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.backend.random_streams import stream
from minillm.checks.cases import array
from minillm.layers import embedding
from minillm.layers.embedding import embedding_backward, embedding_forward

IDS = np.array([[2, 0, 2, 4], [2, 2, 1, 0]])
FAULTS = [
    # each of the five rows of a repeated id counts, not only one
    ("np.add.reduceat(dy_rows[order], starts, axis=0)", "dy_rows[order][starts]"),
    ("dy_rows[order], starts", "dy_rows, starts"),  # rows and ids in different orders
]


@pytest.mark.parametrize("right, wrong", FAULTS)
def test_faults_are_caught(right, wrong):
    assert_caught(embedding, right, wrong, lambda m: m.Embedding(array("w", 5, 3)), IDS)


def test_tied_gradient_is_not_overwritten():
    fault = ("dweight[sorted_ids[starts]] += np", "dweight[sorted_ids[starts]] = np")
    from planting import planted

    dy, present = array("dy", 2, 4, 3), array("present", 5, 3)
    saved = embedding_forward(IDS, present)[1]
    expected = present + embedding_backward(dy, saved)
    assert_close(embedding_backward(dy, saved, present.copy()), expected)
    assert not np.allclose(planted(embedding, *fault).embedding_backward(dy, saved, present.copy()), expected)


@pytest.mark.parametrize("vocabulary, tokens", [(1, 1), (1, 9), (65, 300), (1000, 7)])
def test_equals_adding_row_by_row(vocabulary, tokens):
    ids = stream("test", vocabulary, tokens).integers(vocabulary, tokens)
    weight, dy = array("w", vocabulary, 3), array("dy", tokens, 3)
    y, saved = embedding_forward(ids, weight)
    assert_close(y, np.array([weight[i] for i in ids]))
    expected = np.zeros_like(weight)
    for n, i in enumerate(ids):
        expected[i] += dy[n]
    assert_close(embedding_backward(dy, saved), expected)
