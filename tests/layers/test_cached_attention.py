"""Attention over a cache: the formula, blocks of queries, and windows, whose columns are forgotten as the text grows."""

import copy
import math

import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend.random_streams import stream
from minillm.backend.threads import blas_threads
from minillm.checks.cases import array, randomised
from minillm.generation import decoder as decoding
from minillm.generation.decoder import Decoder, left_padded
from minillm.layers import attention, cache, cached_attention, rotary_attention
from minillm.layers.attention import merge_heads, split_heads
from minillm.layers.cache import Cache
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary import rotary_forward
from minillm.layers.rotary_attention import RotarySelfAttention

V, CONTEXT = 11, 64


def formula(q, k, v, first_query=0, padding=None, window=None):
    """The formula, query by query. q (B, H, t, D) of the columns from `first_query` on, k and v (B, H_kv, T, D)"""
    y = np.zeros_like(q)
    for b, h, i in np.ndindex(q.shape[:3]):
        column = first_query + i
        start = max(0 if padding is None else min(padding[b], column), 0 if window is None else column + 1 - window)
        seen = slice(max(0, start), column + 1)
        head = h // (q.shape[1] // k.shape[1])
        s = k[b, head, seen] @ q[b, h, i] / math.sqrt(q.shape[3])
        p = np.exp(s - s.max())
        y[b, h, i] = p @ v[b, head, seen] / p.sum()
    return y


@pytest.mark.parametrize("padding", [None, np.array([0, 3])])
@pytest.mark.parametrize("window", [None, 1, 2, 4, 9, 20])
@pytest.mark.parametrize("block", [1, 2, 5, 128])
def test_it_is_the_formula(monkeypatch, padding, window, block):
    monkeypatch.setattr(cached_attention, "QUERY_BLOCK", block)
    q, k, v = array("q", 2, 4, 5, 6), array("k", 2, 2, 9, 6), array("v", 2, 2, 9, 6)
    y = cached_attention.cached_attention(q, k, v, padding, window)
    assert_close(y, formula(q, k, v, 4, padding, window))
    if padding is None:
        lowest = 0 if window is None else max(0, 9 - window)
        y = cached_attention.cached_attention(q[:, :, -1:], k[:, :, lowest:], v[:, :, lowest:], None, window)
        assert_close(y, formula(q[:, :, -1:], k, v, 8, None, window))
        y = cached_attention.cached_attention(q[:, :, -1:], k, v, None, window)  # more than the window
        assert_close(y, formula(q[:, :, -1:], k, v, 8, None, window))


def assert_one_token_is_the_formula(module):
    for B, H, H_kv, T, threads in (
        (1, 8, 4, 7, 2),
        (3, 4, 2, 9, 2),
        (5, 4, 4, 3, 3),
        (1, 3, 1, 10, 1),
        (2, 6, 2, 3, 2),
    ):
        q, k, v = array("q", B, H, 1, 6), 9 * array("k", B, H_kv, T, 6), array("v", B, H_kv, T, 6)
        with blas_threads(threads):
            assert_close(module.cached_attention(q, k, v), formula(q, k, v, T - 1))


@pytest.mark.parametrize("few", [0, 1200])
def test_one_token_is_the_work_of_all_cores(monkeypatch, few):
    for name, value in (("SHARED", 1), ("KEY_BLOCK", 3), ("FEW_SCORES", few)):
        monkeypatch.setattr(cached_attention, name, value)
    assert_one_token_is_the_formula(cached_attention)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("np.exp(m - m.max(axis=0))", "1"),
        ("w = total * ", "w = "),
        ("slice(c * columns, (c + 1) * columns)", "slice(c * columns, (c + 1) * columns - 1)"),
        ("range(0, H_kv, heads)", "range(0, heads, heads)"),
        ("range(0, B, texts)", "range(0, texts, texts)"),
        ("range(count) for", "range(1) for"),
    ],
)
def test_faults_of_parts_are_caught(right, wrong):
    faulty = planted(cached_attention, right, wrong)
    faulty.SHARED, faulty.KEY_BLOCK = 1, 3
    with np.errstate(all="ignore"), pytest.raises((AssertionError, ValueError)):
        for _ in range(3):  # memory that is not written may hold what it should
            assert_one_token_is_the_formula(faulty)


def test_the_number_of_threads_and_of_texts_changes_no_bit(monkeypatch):
    monkeypatch.setattr(cached_attention, "SHARED", 1)
    q, k, v = (array(name, 4, heads, 2100, 8).astype(np.float32) for name, heads in (("q", 6), ("k", 2), ("v", 2)))
    for t in (1, 70):
        found = []
        for threads in (1, 2, 3):
            with blas_threads(threads):
                found.append(cached_attention.cached_attention(q[:, :, -t:], k, v))
                found.append(found[0].copy())
                found[-1][:1] = cached_attention.cached_attention(q[:1, :, -t:], k[:1], v[:1])
        assert all((each == found[0]).all() for each in found)


# ------------------------------------------------------------------------------------------------------------- windows


class Windowed(RotarySelfAttention):
    """forward by the formula above, with a window and norms; decode is that of the layer."""

    def forward(self, x, rng_key=None):
        q, k, v = (part.forward(x) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = split_heads(q, self.n_head), split_heads(k, self.n_kv_head), split_heads(v, self.n_kv_head)
        q = q if self.q_norm is None else self.q_norm.forward(q)
        k = k if self.k_norm is None else self.k_norm.forward(k)
        cos, sin = self.positions.tables(x.shape[1], x)
        q, _ = rotary_forward(q, cos, sin, self.positions.interleaved)
        k, _ = rotary_forward(k, cos, sin, self.positions.interleaved)
        return self.o_proj.forward(merge_heads(formula(q, k, v, window=self.window)))

    decode = RotarySelfAttention.decode


def windowed_model(windows=(3, 5), norms=False):
    """A Llama whose attention layers have these windows, and norms over the head width on q and k."""
    shape = dict(vocab_size=V, context_length=CONTEXT, n_layer=2, n_head=4, n_kv_head=2, d_model=16)
    model = randomised(minillm.Llama(minillm.LlamaConfig(**shape), dtype="float64"), 0.3).eval()
    for block, window in zip(model.model.blocks, windows):
        block.self_attn.__class__ = Windowed
        block.self_attn.window = window
        if norms:
            block.self_attn.q_norm = RMSNorm(1 + 0.3 * array("q norm", 4)).eval()
            block.self_attn.k_norm = RMSNorm(1 + 0.3 * array("k norm", 4)).eval()
    return model


def ids_of(*shape):
    return stream("test", "windows").integers(V, shape)


@pytest.fixture
def small(monkeypatch):
    """Columns are forgotten every few tokens."""
    monkeypatch.setattr(cache, "SPARE", 2)
    monkeypatch.setattr(cache, "BLOCK", 4)
    monkeypatch.setattr(cache, "FIRST_CAPACITY", 2)


def kept_columns(decoder):
    return [array.shape[-2] for places in decoder._cache._columns.values() for each in places for array in each.arrays]


@pytest.mark.parametrize("windows", [(3, 5), (1, 2), (None, 4), (CONTEXT, 100)])
@pytest.mark.parametrize("chunks", [(1,) * 40, (20,) + (1,) * 20, (7, 1, 1, 12, 3, 16), (40,)])
def test_beyond_the_window(small, windows, chunks):
    model, ids, at = windowed_model(windows, norms=True), ids_of(2, 40), 0
    expected, decoder = model.forward(ids), Decoder(model)
    assert decoder.why_whole is None
    for count in chunks:
        assert_close(decoder.read_last(ids[:, at : at + count], count), expected[:, at : at + count])
        at += count
        if None not in windows:
            assert max(kept_columns(decoder)) <= max(windows) - 1 + cache.SPARE + cache.BLOCK


def test_memory_does_not_grow_with_the_text():
    x, kept, at = array("x", 1, 2000, 3), Cache(np.zeros(1), 1), 0
    for count in (700, 1, 255, 256, 257, *[1] * 500, 31):
        kept.start(count)
        (seen,) = kept.append("layer", x[:, at : at + count], window=10)
        kept.advance()
        assert (seen == x[:, max(0, at - 9) : at + count]).all()
        at += count
        (columns,) = kept._columns["layer"]
        assert columns.arrays[0].shape[1] <= 9 + cache.SPARE + cache.BLOCK


def test_rows_of_unequal_length(small):
    model, texts = windowed_model(), [[1, 2, 3, 4, 5, 6, 7, 8, 9], [3], [5, 6, 7, 8]]
    decoder = Decoder(model)
    logits = decoder.read(*left_padded(texts))
    for _ in range(25):
        for row, text in zip(logits, texts):
            assert_close(row[None], model.forward(np.array([text]))[:, -1])
            text.append(int(row.argmax()))
        logits = decoder.read(np.array([text[-1:] for text in texts]))


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_truncating(small, count):
    """Within what is kept, and beyond: then the visible tokens are read again."""
    model, texts = windowed_model(), ids_of(2, 12)
    decoder = Decoder(model)
    decoder.read(texts)
    for step in range(9):
        wrong = ids_of(2, count)
        decoder.read(wrong[:, :1])
        if count > 1:
            decoder.read(wrong[:, 1:])
        decoder.truncate(count)
        texts = np.concatenate([texts, (np.arange(2)[:, None] + step) % V], axis=1)
        assert_close(decoder.read(texts[:, -1:]), model.forward(texts)[:, -1])
        assert decoder.visible == texts.shape[1]


def test_reordering(small):
    model, texts = windowed_model(), ids_of(3, 12)
    decoder = Decoder(model)
    decoder.read(texts)
    for step in range(12):
        rows = [[2, 0, 1], [0, 0, 2], [1, 1, 1, 0]][step % 3] if step < 6 else [0, 2, 1, 3]
        decoder.reorder(rows)
        texts = np.concatenate([texts[rows], (np.arange(len(rows))[:, None] + step) % V], axis=1)
        assert_close(decoder.read(texts[:, -1:]), model.forward(texts)[:, -1])


def test_sliding_out_of_the_context(small):
    model, ids = windowed_model(), ids_of(1, CONTEXT + 20)
    decoder = Decoder(model)
    decoder.read(ids[:, :60])
    for at in range(60, ids.shape[1]):
        logits = decoder.read(ids[:, at : at + 1])
        assert_close(logits, model.forward(ids[:, at + 1 - decoder.visible : at + 1])[:, -1])


def test_a_pass_that_is_interrupted(small):
    """What some layers had appended does not count; the next call reads it all."""
    model, ids = windowed_model((None, 9)), ids_of(1, 20)
    decoder, second = Decoder(model), model.model.blocks[1]
    decoder.read(ids[:, :10])
    mlp, second.mlp = second.mlp, None
    with pytest.raises(AttributeError):
        decoder.read(ids[:, 10:11])
    second.mlp = mlp
    assert_close(decoder.read(ids[:, 11:]), model.forward(ids)[:, -1])


def test_one_layer_at_two_places_has_two_caches():
    model, ids = windowed_model((None, 3)), ids_of(2, 20)
    model.model.blocks.append(model.model.blocks[0])
    decoder = Decoder(model)
    for at in range(20):
        logits = decoder.read(ids[:, at : at + 1])
    assert_close(logits, model.forward(ids)[:, -1])


def test_one_of_a_cache_is_a_copy_of_its_own():
    """Windows of a layer belong to one cache: another text is not seen."""
    layer = copy.copy(windowed_model().model.blocks[0].self_attn)
    results = []
    for _ in range(2):
        kept = Cache(np.zeros(1), 1)
        kept.start(6)
        results.append(layer.decode(array("x", 1, 6, 16), kept))
    assert (results[0] == results[1]).all()


FAULTS = [
    (cached_attention, "visible &= j > i - window", "visible &= j >= i - window", "formula"),
    (cached_attention, "T - t + start + 1 - window)", "T - t + start + 2 - window)", "formula"),
    (cached_attention, "window is None or T <= window", "True", "formula"),
    (cache, "max(0, start + 1 - self.window)", "max(0, start + 2 - self.window)", "beyond"),
    (cache, "array[..., used - kept : used, :].copy()", "array[..., :kept, :].copy()", "beyond"),
    (cache, "kept = min(used, self.window - 1 + SPARE)", "kept = min(used, self.window - 2)", "beyond"),
    (cache, "joined[-1][..., used + count - kept :, :]", "joined[-1][..., :kept, :]", "beyond"),
    (cache, "return [array[..., lowest:, :] for", "return [array[..., lowest + 1 :, :] for", "beyond"),
    (cache, "self.padding - before", "self.padding", "unequal"),
    (cache, "self.window is None or self.first <= max(0, length + 1 - self.window)", "True", "truncating"),
    (cache, "max(0, start - self.first)", "start", "reordering"),
    (cache, "if columns.stop == self.length:", "if True:", "two places"),
    (rotary_attention, "k.shape[2]), self.window)", "k.shape[2]))", "beyond"),
    (rotary_attention, "k, v, window=self.window)", "k, v)", "beyond"),
    (rotary_attention, "qkv[:, :, :H] = self.q_norm.decode(qkv[:, :, :H], cache)", "pass", "beyond"),
    (rotary_attention, "] = self.k_norm.decode(", "] = self.q_norm.decode(", "beyond"),
    (decoding, "cache.restart(self._padding)  # some", "pass  # some", "interrupted"),
]
STORIES = {
    "beyond": lambda: [test_beyond_the_window(None, (3, 5), chunks) for chunks in ((1,) * 40, (7, 1, 1, 12, 3, 16))],
    "unequal": lambda: test_rows_of_unequal_length(None),
    "truncating": lambda: [test_truncating(None, count) for count in (3, 9)],
    "reordering": lambda: test_reordering(None),
    "two places": test_one_layer_at_two_places_has_two_caches,
    "interrupted": lambda: test_a_pass_that_is_interrupted(None),
}


@pytest.mark.parametrize("module, right, wrong, story", FAULTS)
def test_faults_are_caught(monkeypatch, request, module, right, wrong, story):
    faulty = planted(module, right, wrong)
    request.getfixturevalue("small")
    if module is cache:
        for name in ("SPARE", "BLOCK", "FIRST_CAPACITY"):
            monkeypatch.setattr(faulty, name, getattr(cache, name))
        monkeypatch.setattr(decoding, "Cache", faulty.Cache)
    elif module is decoding:
        monkeypatch.setitem(globals(), "Decoder", faulty.Decoder)
    elif module is rotary_attention:
        monkeypatch.setattr(Windowed, "_decoded_heads", faulty.RotarySelfAttention._decoded_heads)
    else:
        for user in (attention, rotary_attention, cached_attention):
            monkeypatch.setattr(user, "cached_attention", faulty.cached_attention)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, ValueError, IndexError)):
        if story == "formula":
            for window in (1, 2, 4):
                test_it_is_the_formula(monkeypatch, None, window, 128)
        else:
            STORIES[story]()
