"""Attention: gradients, the formula, blocks and windows, dropout, the kernels, and faults that must be caught."""

import math

import numpy as np
import pytest
from planting import assert_caught, assert_close, planted

from minillm.backend.arrays import to_device, to_host
from minillm.checks.cases import KEY, array
from minillm.checks.gradcheck import GradientError, gradcheck
from minillm.kernels import kernel_for
from minillm.layers import attention
from minillm.layers.attention import (
    CausalSelfAttention,
    attend,
    attend_backward,
    attention_backward,
    attention_forward,
    merge_heads,
    split_heads,
)
from minillm.layers.documents import packed_starts
from minillm.layers.dropout import dropout_factor
from minillm.layers.linear import Linear

HEADS = [(4, 4), (4, 2), (4, 1)]
DOCUMENTS = [[2, 1, 4], [3, 2]]  # the lengths in each row of 7 tokens; 2 of padding in the second row
STARTS = np.stack([packed_starts(lengths, 7) for lengths in DOCUMENTS])
WINDOWS = [1, 2, 3, 6, 7, 8]  # of 7 tokens: the token alone, some, all, and more than there are


def qkv(heads=2, kv_heads=None, time=7, width=3, batch=2):
    kv_heads = kv_heads or heads
    return [array(name, batch, h, time, width) for name, h in (("q", heads), ("k", kv_heads), ("v", kv_heads))]


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("settings", [{}, dict(causal=False), dict(window=3), dict(dropout=0.3, rng_key=KEY)])
@pytest.mark.parametrize("heads, kv_heads", HEADS)
def test_gradients(settings, heads, kv_heads):
    pair = (lambda *inputs: attention_forward(*inputs, **settings)), attention_backward
    gradcheck(pair, *qkv(heads, kv_heads, time=5))


def test_gradients_of_a_block():
    """`attend` alone: two queries that see four keys."""
    q, k, v = array("q", 1, 2, 2, 3), array("k", 1, 2, 4, 3), array("v", 1, 2, 4, 3)
    mask = np.array([[0, 0, 0, -np.inf], [0, 0, 0, 0]])

    def forward(q, k, v):
        y, p = attend(q, k, v, mask)
        return y, (q, k, v, y, p)

    gradcheck((forward, lambda dy, saved: attend_backward(dy, *saved)), q, k, v)


def test_gradients_of_the_layer():
    layer = CausalSelfAttention(Linear(array("qkv", 6, 18)), Linear(array("o", 6, 6)), n_head=2, dropout=0.2)
    gradcheck(layer, array("x", 2, 5, 6), rng_key=KEY)


# --------------------------------------------------------------------------------------------------------- the formula


def formula(q, k, v, seen, factor=None):
    """Equation 1, a number at a time. seen(i, j) or seen(i, j, b): whether query i sees key j, in row b of the batch."""
    if seen.__code__.co_argcount == 2:
        return formula(q, k, v, lambda i, j, b: seen(i, j), factor)
    batch, heads, time, width = q.shape
    group = heads // k.shape[1]
    y = np.zeros_like(q)
    for b, h, i in np.ndindex(batch, heads, time):
        keys = [j for j in range(time) if seen(i, j, b)]
        scores = [sum(q[b, h, i, d] * k[b, h // group, j, d] for d in range(width)) / math.sqrt(width) for j in keys]
        total = sum(math.exp(score) for score in scores)
        for j, score in zip(keys, scores):
            p = math.exp(score) / total
            if factor is not None:
                p *= factor[b, h, i, j]
            y[b, h, i] += p * v[b, h // group, j]
    return y


def causal(i, j):
    return j <= i


@pytest.mark.parametrize("heads, kv_heads", HEADS)
@pytest.mark.parametrize("time", [1, 5])
def test_forward_is_the_formula(heads, kv_heads, time):
    inputs = qkv(heads, kv_heads, time)
    assert_close(attention_forward(*inputs)[0], formula(*inputs, causal))
    assert_close(attention_forward(*inputs, causal=False)[0], formula(*inputs, lambda i, j: True))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("block", [2, 3, 128])
def test_a_window_is_the_formula(monkeypatch, window, block):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    inputs = qkv(4, 2)
    y, _ = attention_forward(*inputs, window=window)
    assert_close(y, formula(*inputs, lambda i, j: i - window < j <= i))


def in_documents(window=None):
    return lambda i, j, b: max(STARTS[b, i], i - (window or 7) + 1) <= j <= i


@pytest.mark.parametrize("window", [None, *WINDOWS])
@pytest.mark.parametrize("block", [1, 2, 3, 128])
def test_packed_documents_are_the_formula(monkeypatch, window, block):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    inputs = qkv(4, 2)
    y, _ = attention_forward(*inputs, window=window, starts=STARTS, dropout=0.3, rng_key=KEY)
    assert_close(y, formula(*inputs, in_documents(window), dropout_factor((2, 4, 7, 7), 0.3, KEY, inputs[0])))


def test_dropout_uses_the_mask_of_the_key():
    q, k, v = qkv(time=4)
    factor = dropout_factor((2, 2, 4, 4), 0.5, KEY, q)
    expected = formula(q, k, v, causal, factor)
    assert_close(attention_forward(q, k, v, dropout=0.5, rng_key=KEY)[0], expected)
    second = attention_forward(q[1:], k[1:], v[1:], dropout=0.5, rng_key=KEY, batch_offset=1)[0]
    assert_close(second, expected[1:])


def test_large_scores_do_not_overflow():
    q, k, v = (x.astype(np.float32) for x in qkv(time=4))
    assert np.isfinite(attention_forward(q * 1e3, k * 1e3, v)[0]).all()


def test_later_tokens_do_not_matter():
    layer = CausalSelfAttention(Linear(array("qkv", 6, 18)), Linear(array("o", 6, 6)), n_head=2).eval()
    x = array("x", 1, 5, 6)
    changed = x.copy()
    changed[:, 3:] += 1
    assert (layer.forward(x)[:, :3] == layer.forward(changed)[:, :3]).all()
    assert (layer.forward(x)[:, 3:] != layer.forward(changed)[:, 3:]).any()


@pytest.mark.parametrize("settings", [dict(window=0), dict(window=2, causal=False)])
def test_a_window_that_is_none_is_refused(settings):
    with pytest.raises(ValueError, match="window=.* at least 1 token, and causal"):
        attention_forward(*qkv(), **settings)


def test_documents_without_causal_are_refused():
    with pytest.raises(ValueError, match="starts without causal"):
        attention_forward(*qkv(), causal=False, starts=STARTS)


def test_heads_are_split_and_merged():
    x = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    heads = split_heads(x, 4)
    assert heads.shape == (2, 4, 3, 2) and heads[1, 2, 0].tolist() == x[1, 0, 4:6].tolist()
    assert (merge_heads(heads) == x).all()


# ------------------------------------------------------------------------------------------------- blocks of the queries


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("settings", [{}, dict(causal=False), dict(window=3), dict(starts=STARTS)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_blocks_of_queries_change_nothing(monkeypatch, block, settings, dropout):
    q, k, v, dy = *qkv(), array("dy", 2, 2, 7, 3)
    settings = dict(settings, dropout=dropout, rng_key=KEY)
    y, saved = attention_forward(q, k, v, **settings)
    expected = attention_backward(dy, saved)
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    y_blocks, saved = attention_forward(q, k, v, **settings)
    assert_close(y_blocks, y)
    for got, wanted in zip(attention_backward(dy, saved), expected):
        assert_close(got, wanted)
    if block == 2:  # the gradients of all are the same to 1e-12: it is enough to measure those of one
        gradcheck((lambda *qkv: attention_forward(*qkv, **settings), attention_backward), q, k, v)


def test_a_window_skips_keys_that_no_query_of_a_block_sees(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 2)
    _, saved = attention_forward(*qkv(), window=3)
    assert [p.shape[2:] for p in saved.p] == [(2, 2), (2, 4), (2, 4), (1, 3)]


def test_keys_that_no_query_of_a_block_sees_are_skipped_in_each_row(monkeypatch):
    """Rows of the batch whose keys begin at the same place are one block, as the first two tokens of both rows."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 2)
    _, saved = attention_forward(*qkv(), starts=STARTS)
    sizes = [(2, 2, 2, 2), (1, 2, 2, 2), (1, 2, 2, 4), (2, 2, 2, 3), (1, 2, 1, 4), (1, 2, 1, 2)]
    assert [p.shape for p in saved.p] == sizes


@pytest.mark.parametrize("block", [2, 128])
def test_one_document_a_row_has_the_bits_of_no_documents(monkeypatch, block):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    dy, results = array("dy", 2, 2, 7, 3), []
    for starts in (None, np.zeros((2, 7), np.int32)):
        y, saved = attention_forward(*qkv(), window=4, starts=starts)
        results.append([x.tobytes() for x in (y, *attention_backward(dy, saved))])
    assert results[0] == results[1]


@pytest.mark.parametrize("block", [2, 128])
def test_nothing_crosses_the_border_of_a_document(monkeypatch, block):
    """A document has the results that it has alone, and what comes to it from another one is exactly 0."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    q, k, v, dy = *qkv(4, 2), array("dy", 2, 4, 7, 3)
    y, saved = attention_forward(q, k, v, starts=STARTS)
    packed = (y, *attention_backward(dy, saved))
    for b, (first, last) in ((0, (0, 2)), (0, (2, 3)), (0, (3, 7)), (1, (0, 3)), (1, (3, 5)), (1, (5, 7))):
        part = (slice(b, b + 1), slice(None), slice(first, last))
        alone, kept = attention_forward(q[part], k[part], v[part])
        for got, wanted in zip(packed, (alone, *attention_backward(dy[part], kept))):
            assert_close(got[part], wanted)
        upstream = np.zeros_like(dy)
        upstream[part] = dy[part]
        for gradient in attention_backward(upstream, saved):
            gradient[part] = 0
            assert not gradient.any()


def test_backward_changes_nothing_that_forward_saved():
    dy = array("dy", 2, 2, 7, 3)
    _, saved = attention_forward(*qkv(), dropout=0.3, rng_key=KEY)
    for first, second in zip(attention_backward(dy, saved), attention_backward(dy, saved)):
        assert (first == second).all()


# --------------------------------------------------------------------------------------------------------- the kernels


@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (2, 1)])
def test_kernel_agrees(heads, kv_heads):
    """The kernel that is chosen for the simulator; tests/kernels/test_attention.py has every rung and many shapes."""
    arrays = [x.astype(np.float32) for x in (*qkv(heads, kv_heads, 9, 8, 1), array("dy", 1, heads, 9, 8))]
    on_device = [to_device(x, "cudasim") for x in arrays]
    kernel = kernel_for("attention", on_device[0])
    y, saved = kernel.attention_forward(*on_device[:3])
    expected, expected_saved = attention_forward(*(x.astype(np.float64) for x in arrays[:3]))
    assert_close(to_host(y), expected, 1e-6)
    gradients = kernel.attention_backward(on_device[3], saved)
    for got, wanted in zip(gradients, attention_backward(arrays[3].astype(np.float64), expected_saved)):
        assert_close(to_host(got), wanted, 1e-6)


def test_kernels_read_and_write_where_the_products_do(monkeypatch):
    """Of q, k, v, y and their gradients there is no copy: each shares the memory of a product's operand or result."""
    C, met = 64, {}

    def linear(name, outputs):
        layer = Linear(array(name, C, outputs).astype(np.float32))
        for direction in ("forward", "backward"):
            monkeypatch.setattr(layer, direction, meeting(f"{name} {direction}", getattr(layer, direction)))
        return layer

    def meeting(name, function):
        def noted(x, *arguments):
            y = function(x, *arguments)
            met[name] = x, y
            return y

        return noted

    layer = CausalSelfAttention(linear("c_attn", 3 * C), linear("c_proj", C), 2).to("cudasim")
    y = layer.forward(to_device(array("x", 2, 5, C).astype(np.float32), "cudasim"))
    (kept,) = layer._saved
    backward, (_, saved) = kept

    def noting_out(dy, saved, out):
        met["attention backward"] = dy, out
        return backward(dy, saved, out)

    layer.save_for_backward((noting_out, kept[1]))
    layer.backward(y)
    assert all(np.shares_memory(part, met["c_attn forward"][1]) for part in (saved.q, saved.k, saved.v))
    assert np.shares_memory(saved.y, met["c_proj forward"][0])
    dy, gradients = met["attention backward"]
    assert np.shares_memory(dy, met["c_proj backward"][1])
    assert all(np.shares_memory(gradient, met["c_attn backward"][0]) for gradient in gradients)


# -------------------------------------------------------------------------------------------------------------- faults

FAULTS = {
    "softmax without the term common to the row": ("ds -= row_dot(dy, y)", "pass"),
    "softmax without the probability": ("    ds *= p\n", ""),
    "scores not scaled in backward": ("    ds *= scale\n", ""),
    "dv not transposed": ("matmul(transpose(dropped(p, factor)), dy)", "matmul(dropped(p, factor), dy)"),
    "dk not transposed": ("matmul(transpose(ds), q)", "matmul(ds, q)"),
    "dk and dv exchanged": ("    return dq, dk, dv\n", "    return dq, dv, dk\n"),
}
FAULTS_OF_BLOCKS = {
    "a block that does not add up": ("gradient[b, :, place] += part", "gradient[b, :, place] = part"),
    "a block at the start": ("whole[b, :, place] = part", "whole[b, :, : part.shape[2]] = part"),
}
FAULTS_OF_GROUPS = {"mean over a group": ("T, D).sum(axis=2)", "T, D).mean(axis=2)")}
FAULTS_OF_DROPOUT = {
    "dp without the factor": ("dp *= factor", "pass"),
    "dv without the factor": ("matmul(transpose(dropped(p, factor)), dy)", "matmul(transpose(p), dy)"),
}
FORMULA_FAULTS = {
    "no mask": ("    s += mask\n", ""),
    "a token does not see itself": ("seen = j <= i if", "seen = j < i if"),
    "a window of one more": ("(j > i - window)", "(j >= i - window)"),
    "keys of the window cut short": ("max(0, query - window + 1)", "max(0, query - window + 2)"),
    "documents ignored": ("first_keys(starts, window)\n    for", "None\n    for"),
    "a document sees the last token of the one before": ("j >= first[b", "j >= -1 + first[b"),
    "a document does not see its first token": ("j >= first[b", "j > first[b"),
    "the window ignored": (
        "    return xp.maximum(starts, xp.arange",
        "    return starts\n    xp.maximum(starts, xp.arange",
    ),
    "of both borders the earlier one": ("xp.maximum(starts", "xp.minimum(starts"),
    "a window of one more in documents": (
        "xp.arange(starts.shape[1]) - window + 1",
        "xp.arange(starts.shape[1]) - window",
    ),
    "a key skipped that is seen": ("first[:, query].tolist()", "(first[:, query] + 1).tolist()"),
    "the keys of the first row for all": (
        "row + count), first_key\n        row",
        "row + count), first[0, query]\n        row",
    ),
    "mask of the first rows for all": ("first[b, rows, None]", "first[: b.stop - b.start, rows, None]"),
    "dropout of the first rows for all": ("factor[b, :, rows, keys]", "factor[: b.stop - b.start, :, rows, keys]"),
}
FAULTS_OF_DOCUMENTS_BACKWARD = {
    "the gradient goes to the first rows": ("gradient[b, :, place] += part", "gradient[: part.shape[0], :, place] += part"),
    "the gradient goes to all rows": ("gradient[b, :, place] += part", "gradient[:, :, place] += part"),
    "backward looks for the blocks of one document": (
        "_blocks(q.shape[2], causal, window, first)", "_blocks(q.shape[2], causal, window, first * 0)"),
}  # fmt: skip


def named(faults):
    return pytest.mark.parametrize("right, wrong", faults.values(), ids=faults.keys())


def pair_with(**settings):
    return lambda module: ((lambda *qkv: module.attention_forward(*qkv, **settings)), module.attention_backward)


@named(FAULTS)
def test_faults_are_caught(right, wrong):
    assert_caught(
        attention, right, wrong, pair_with(), *qkv(time=5, width=5)
    )  # T = D: a wrong axis has the right shape


@named(FAULTS_OF_BLOCKS)
def test_faults_of_blocks_are_caught(monkeypatch, right, wrong):
    def pair(module):
        module.QUERY_BLOCK = 2
        return pair_with(window=3)(module)

    monkeypatch.setattr(attention, "QUERY_BLOCK", 2)
    assert_caught(attention, right, wrong, pair, *qkv(time=6))


@named(FAULTS_OF_GROUPS)
def test_faults_of_groups_are_caught(right, wrong):
    assert_caught(attention, right, wrong, pair_with(), *qkv(4, 2, time=3))


@named(FAULTS_OF_DROPOUT)
def test_faults_of_dropout_are_caught(right, wrong):
    assert_caught(attention, right, wrong, pair_with(dropout=0.4, rng_key=KEY), *qkv(time=5))


@named(FAULTS_OF_DOCUMENTS_BACKWARD)
def test_faults_of_documents_are_caught_by_their_gradients(monkeypatch, right, wrong):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 2)
    settings, inputs = dict(dropout=0.3, rng_key=KEY, starts=STARTS[:, :5]), qkv(4, 2, time=5)
    faulty = planted(attention, right, wrong)
    faulty.QUERY_BLOCK = 2
    with pytest.raises((GradientError, ValueError)):
        gradcheck(pair_with(**settings)(faulty), *inputs)


@named(FORMULA_FAULTS)
def test_faults_of_masks_change_the_result(right, wrong):
    inputs, faulty = qkv(4, 2), planted(attention, right, wrong)
    faulty.QUERY_BLOCK, packed = 2, dict(starts=STARTS, dropout=0.3, rng_key=KEY)
    settings = {}, dict(window=3), packed, packed | dict(window=3)
    try:
        with np.errstate(invalid="ignore"):
            found = [faulty.attention_forward(*inputs, **each)[0] for each in settings]
    except ValueError:  # of arrays that do not fit
        return
    factor = dropout_factor((2, 4, 7, 7), 0.3, KEY, inputs[0])
    expected = [formula(*inputs, causal), formula(*inputs, lambda i, j: i - 3 < j <= i)]
    expected += [formula(*inputs, in_documents(window), factor) for window in (None, 3)]
    assert not all(np.abs(y - right_y).max() < 1e-6 for y, right_y in zip(found, expected))
