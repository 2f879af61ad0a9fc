import math

import numpy as np
import pytest
from planting import assert_caught, assert_close

from minillm.checks.cases import KEY, array
from minillm.checks.gradcheck import gradcheck
from minillm.layers import attention
from minillm.layers.attention import CausalSelfAttention, attention_backward, attention_forward
from minillm.layers.dropout import dropout_factor
from minillm.layers.linear import Linear

FAULTS = [
    ("ds -= average[:, :, rows]", "pass"),  # softmax: the term common to the row
    ("ds *= p\n", "pass\n"),
    ("ds *= scale\n", "pass\n"),  # unscaled gradient
    ("_put(dv, keys, _seen(p).transpose(0, 1, 3, 2), dy_rows", "_put(dv, keys, _seen(p), dy_rows"),  # wrong axis
    ("_put(dk, keys, ds.transpose(0, 1, 3, 2), q", "_put(dk, keys, ds, q"),
    ("s += _causal_mask(rows.start, keys.stop, s.dtype.name, xp)", "s += 0 * s"),  # caught by the forward comparison
]
HEADS = [(4, 4), (4, 2), (4, 1)]


def slow_attention(q, k, v, causal, factor=None):
    """Equation 1, a number at a time."""
    batch, heads, time, width = q.shape
    group = heads // k.shape[1]
    y = np.zeros_like(q)
    for b, h, i in np.ndindex(batch, heads, time):
        seen = range(i + 1 if causal else time)
        scores = [sum(q[b, h, i, d] * k[b, h // group, j, d] for d in range(width)) / math.sqrt(width) for j in seen]
        total = sum(math.exp(score) for score in scores)
        for j in seen:
            p = math.exp(scores[j]) / total
            if factor is not None:
                p *= factor[b, h, i, j]
            y[b, h, i] += p * v[b, h // group, j]
    return y


@pytest.mark.parametrize("right, wrong", FAULTS[:-1])
def test_faults_are_caught(right, wrong):
    inputs = [array(name, 2, 2, 5, 5) for name in "qkv"]  # T = D: a wrong axis has the right shape
    assert_caught(attention, right, wrong, lambda m: (m.attention_forward, m.attention_backward), *inputs)


def test_missing_mask_changes_the_result():
    from planting import planted

    inputs = [array(name, 1, 2, 5, 3) for name in "qkv"]
    faulty = planted(attention, *FAULTS[-1]).attention_forward(*inputs)[0]
    assert np.abs(faulty - slow_attention(*inputs, causal=True)).max() > 0.1


def test_forgotten_group_sum_is_caught():
    q, k = array("q", 2, 4, 3, 2), array("k", 2, 2, 3, 2)
    fault = ("time, width).sum(axis=2)", "time, width).mean(axis=2)")
    assert_caught(attention, *fault, lambda m: (m.attention_forward, m.attention_backward), q, k, array("v", *k.shape))


def test_dropout_fault_is_caught():
    def pair(module):
        return (lambda q, k, v: module.attention_forward(q, k, v, dropout=0.4, rng_key=KEY)), module.attention_backward

    inputs = [array(name, 2, 2, 5, 3) for name in "qkv"]
    assert_caught(attention, "ds *= factor[:, :, rows, keys]", "pass", pair, *inputs)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads, kv_heads", HEADS)
@pytest.mark.parametrize("time", [1, 5])
def test_forward_is_the_formula(causal, heads, kv_heads, time):
    q, k, v = (array(n, 2, h, time, 3) for n, h in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
    assert_close(attention_forward(q, k, v, causal)[0], slow_attention(q, k, v, causal))


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_blocks_of_queries_change_nothing(monkeypatch, block, causal, dropout):
    q, k, v, dy = (array(name, 2, 2, 7, 3) for name in ("q", "k", "v", "dy"))
    settings = dict(causal=causal, dropout=dropout, rng_key=KEY)
    y, saved = attention_forward(q, k, v, **settings)
    expected = attention_backward(dy, saved)
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    y_blocks, saved = attention_forward(q, k, v, **settings)
    assert_close(y_blocks, y)
    for got, wanted in zip(attention_backward(dy, saved), expected):
        assert_close(got, wanted)
    gradcheck((lambda *qkv: attention_forward(*qkv, **settings), attention_backward), q, k, v)


def test_dropout_uses_the_mask_of_the_key():
    q, k, v = (array(name, 2, 2, 4, 3) for name in "qkv")
    factor = dropout_factor((2, 2, 4, 4), 0.5, KEY, q)
    expected = slow_attention(q, k, v, True, factor)
    assert_close(attention_forward(q, k, v, dropout=0.5, rng_key=KEY)[0], expected)
    second = attention_forward(q[1:], k[1:], v[1:], dropout=0.5, rng_key=KEY, batch_offset=1)[0]
    assert_close(second, expected[1:])


def test_large_scores_do_not_overflow():
    q, k, v = (array(name, 1, 1, 4, 3).astype(np.float32) for name in "qkv")
    y = attention_forward(q * 1e3, k * 1e3, v)[0]
    assert np.isfinite(y).all()


def test_later_tokens_do_not_matter():
    layer = CausalSelfAttention(Linear(array("qkv", 6, 18)), Linear(array("o", 6, 6)), n_head=2).eval()
    x = array("x", 1, 5, 6)
    changed = x.copy()
    changed[:, 3:] += 1
    assert (layer.forward(x)[:, :3] == layer.forward(changed)[:, :3]).all()
    assert (layer.forward(x)[:, 3:] != layer.forward(changed)[:, 3:]).any()
