import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation import decoder as decoding
from minillm.generation.decoder import ContextFull, Decoder, left_padded
from minillm.layers import attention, cache, rotary_attention
from minillm.layers import cached_attention as cached
from minillm.models.mistral import Mistral, MistralConfig

CONTEXT = 12
GPT2_SHAPES = [dict(), dict(bias=False, tie_embeddings=False, activation="gelu")]
LLAMA_SHAPES = [
    dict(n_kv_head=2),
    dict(n_kv_head=1, attention_bias=True, mlp_bias=True, tie_embeddings=True),
    dict(rope_interleaved=True, head_dim=6, rope_theta=50.0),
]
MODELS = [(minillm.GPT2, minillm.GPT2Config, shape) for shape in GPT2_SHAPES]
MODELS += [(minillm.Llama, minillm.LlamaConfig, shape) for shape in LLAMA_SHAPES]
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]


def make(kind, config, shape, dtype="float32"):
    fields = dict(vocab_size=11, context_length=CONTEXT, n_layer=2, n_head=4, d_model=16, dropout=0.3) | shape
    return randomised(kind(config(**fields), seed=0, dtype=dtype), 0.3).eval()


def ids_of(*shape):
    return stream("test", "decoding").integers(11, shape)


@pytest.mark.parametrize("kind, config, shape", MODELS)
@pytest.mark.parametrize("batch, first", [(1, 1), (1, 5), (3, 4)])
def test_logits_are_those_without_a_cache(kind, config, shape, batch, first):
    model, ids = make(kind, config, shape), ids_of(batch, CONTEXT)
    expected = model.forward(ids)
    decoder = Decoder(model)
    assert_close(decoder.read(ids[:, :first]), expected[:, first - 1], 1e-5)
    for t in range(first, CONTEXT):
        assert decoder.visible == t and decoder.remaining == CONTEXT - t
        assert_close(decoder.read(ids[:, t : t + 1]), expected[:, t], 1e-5)


@pytest.mark.parametrize("kind, config, shape", MODELS)
def test_several_tokens_at_a_time(kind, config, shape):
    model, ids = make(kind, config, shape), ids_of(2, CONTEXT)
    decoder = Decoder(model)
    decoder.read(ids[:, :3])
    decoder.read(ids[:, 3:8])
    assert_close(decoder.read(ids[:, 8:]), model.forward(ids)[:, -1], 1e-5)


@pytest.mark.parametrize("kind, config, shape", MODELS)
def test_prompts_of_unequal_length(kind, config, shape):
    """Every row is as if it were alone, while the texts grow until the longest fills the context."""
    model = make(kind, config, shape)
    decoder, texts = Decoder(model), [list(prompt) for prompt in PROMPTS]
    logits = decoder.read(*left_padded(texts))
    while True:
        for row, text in zip(logits, texts):
            assert_close(row[None], model.next_token_logits(np.array([text])), 1e-5)
        if not decoder.remaining:
            break
        tokens = logits.argmax(axis=-1)
        for text, token in zip(texts, tokens):
            text.append(int(token))
        logits = decoder.read(tokens[:, None])
    assert len(texts[0]) == CONTEXT


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind, config, shape", MODELS[:1] + MODELS[2:3])
def test_sliding_reads_the_visible_tokens_anew(kind, config, shape, padded):
    model = make(kind, config, shape)
    texts = [list(prompt) for prompt in (PROMPTS if padded else [[1, 2], [3, 4]])]
    decoder = Decoder(model)
    logits, counts = decoder.read(*left_padded(texts)), []
    for token in ids_of(3 * CONTEXT):
        for text in texts:
            text.append(int(token))
        logits = decoder.read(np.full((len(texts), 1), token))
        counts.append(decoder.visible)
        for row, text in zip(logits, texts):
            assert_close(row[None], model.next_token_logits(np.array([text[-decoder.visible :]])), 1e-5)
    full = counts.index(CONTEXT)
    assert counts[full + 1 : full + 5] == [10, 11, 12, 10]  # three of twelve are forgotten, one is new
    assert min(counts[full:]) == 10


def test_stopping():
    model = make(*MODELS[0])
    decoder = Decoder(model, window="stop")
    decoder.read(ids_of(1, CONTEXT))
    assert decoder.remaining == 0
    with pytest.raises(ContextFull, match="13 tokens, more than the model's context_length of 12"):
        decoder.read(np.array([[1]]))
    with pytest.raises(ContextFull, match="the prompt has 13 tokens"):
        Decoder(model, window="stop").read(ids_of(1, CONTEXT + 1))


def test_what_was_refused_was_never_read():
    """A decoder that stops goes on as if it had not been asked: tokens are taken back, written, and rows are selected."""
    model, ids = make(*MODELS[0]), np.repeat(ids_of(1, CONTEXT), 2, axis=0)  # two beams of one prompt
    decoder = Decoder(model, window="stop")
    decoder.read(ids)
    with pytest.raises(ContextFull):
        decoder.read(ids[:, :1])
    decoder.truncate(4)
    new = np.array([[1], [2]])
    decoder.read(new)
    decoder.reorder([1, 1])
    text = np.concatenate([ids[:, : CONTEXT - 4], new], axis=1)[[1, 1]]
    expected = model.forward(np.concatenate([text, [[3], [3]]], axis=1))[:, -1]
    assert_close(decoder.read(np.array([[3], [3]])), expected, 1e-5)


@pytest.mark.parametrize("padding", [None, [0, 14]])
def test_a_long_prompt_loses_its_beginning(padding):
    model, ids = make(*MODELS[2]), ids_of(2, 20)
    logits = Decoder(model).read(ids, padding)
    assert_close(logits[:1], model.next_token_logits(ids[:1, -CONTEXT:]), 1e-5)
    start = -CONTEXT if padding is None else -6
    assert_close(logits[1:], model.next_token_logits(ids[1:, start:]), 1e-5)


def test_a_context_of_one_token():
    model = make(minillm.GPT2, minillm.GPT2Config, dict(context_length=1))
    decoder = Decoder(model)
    for token in ids_of(4):
        assert_close(decoder.read(np.array([[token]])), model.next_token_logits(np.array([[token]])), 1e-5)


@pytest.mark.parametrize("kind, config, shape", MODELS)
def test_a_model_that_trains_is_left_as_it_is(kind, config, shape):
    """Nothing is dropped in a sample, and no array is exchanged: other models share them while it trains."""
    model = make(kind, config, shape)
    ids = ids_of(1, 6)
    expected = model.forward(ids)[:, -1]
    model.train()
    before = {name: parameter.value for name, parameter in model.parameters().items()}
    decoder = Decoder(model)
    decoder.read(ids[:, :4])
    decoder.read(ids[:, 4:5])
    assert_close(decoder.read(ids[:, 5:]), expected, 1e-5)
    assert all(parameter.value is before[name] for name, parameter in model.parameters().items())
    assert model.training


@pytest.mark.parametrize(
    "module, right, wrong",
    [
        (cached, "(j >= padding[:, None, None, None, None]) | (j == i)", "(j >= 0)"),
        (cached, "visible = j <= i", "visible = j > -1"),
        (cached, "q = q * q.dtype.type(1 / math.sqrt(D))", "q = q + 0"),
        (cache, "if self.padding is not None:\n                columns =", "if False:\n                columns ="),
        (
            cache,
            "arange(self.length, self.length + self.count)",
            "arange(self.length + 1, self.length + self.count + 1)",
        ),
        (cache, "before = self.length + self.count - total", "before = 1"),
        (cache, "array[..., start:stop, :] = x", "array[..., start:stop, :] = 0"),
        (decoding, "cache.start(ids.shape[1], place)", "cache.start(ids.shape[1] + 1, place)"),
    ],
)
def test_faults_are_caught(monkeypatch, module, right, wrong):
    plant(monkeypatch, module, right, wrong)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        test_prompts_of_unequal_length(*MODELS[0])


def plant(monkeypatch, module, right, wrong):
    """The fault in what generation uses."""
    faulty = planted(module, right, wrong)
    if module is cache:
        monkeypatch.setattr(decoding, "Cache", faulty.Cache)
    elif module is cached:
        for user in (attention, rotary_attention):
            monkeypatch.setattr(user, "cached_attention", faulty.cached_attention)
    else:
        monkeypatch.setitem(globals(), "Decoder", faulty.Decoder)


def test_reader_of_a_model_and_of_anything_else():
    model, ids = make(*MODELS[0]), ids_of(2, CONTEXT)

    class Other:
        config, next_token_logits = model.config, staticmethod(model.next_token_logits)

    for subject in (model, Other()):
        read = decoding.reader(subject)
        assert_close(read(ids[:, :4]), model.next_token_logits(ids[:, :4]), 1e-5)
        assert_close(read(ids[:, 4:5]), model.next_token_logits(ids[:, :5]), 1e-5)


@pytest.mark.parametrize("kind, config, shape", MODELS)
def test_on_the_simulated_device(kind, config, shape):
    model, ids = make(kind, config, shape), ids_of(2, 6)
    expected = model.forward(ids)[:, -1]
    decoder = Decoder(model.to("cudasim"))
    decoder.read(ids[:, :5])
    assert_close(decoder.read(ids[:, 5:]), expected, 1e-5)


def test_wrong_arguments():
    model = make(*MODELS[0])
    with pytest.raises(UserError, match='window is "wrap": use one of slide, stop'):
        Decoder(model, window="wrap")
    with pytest.raises(UserError, match="outside the vocabulary"):
        Decoder(model).read(np.array([[11]]))
    with pytest.raises(UserError, match="every prompt needs at least one token"):
        left_padded([[1], []])
    with pytest.raises(ValueError, match="at least one token"):
        Decoder(model).read(np.array([[1, 2]]), [2])
    decoder = Decoder(model)
    decoder.read(np.array([[1, 2]]), [1])
    with pytest.raises(ValueError, match="with the first call"):
        decoder.read(np.array([[1]]), [0])


@pytest.mark.parametrize("kind, config, shape", MODELS)
def test_hidden_states_give_the_logits_of_all_columns(kind, config, shape):
    model, ids = make(kind, config, shape), ids_of(2, CONTEXT)
    decoder = Decoder(model)
    x = decoder.hidden(ids[:, :5])
    assert x.shape[1] == decoder.visible == 5
    x = np.concatenate([x, decoder.hidden(ids[:, 5:6]), decoder.hidden(ids[:, 6:])], axis=1)
    expected = model.forward(ids)
    for t in range(CONTEXT):
        assert_close(decoder.logits(x[:, t]), expected[:, t], 1e-5)
    slid = decoder.hidden(ids[:, :1])
    assert slid.shape[1] == decoder.visible == 10  # all that are still visible
    again = np.concatenate([ids[:, 3:], ids[:, :1]], axis=1)
    assert_close(decoder.logits(slid[1]), model.forward(again)[1], 1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind, config, shape", MODELS[:1] + MODELS[2:3])
def test_what_is_taken_back_was_never_read(kind, config, shape, padded):
    model, texts = make(kind, config, shape), [[1, 2, 3, 4], [5, 6] if padded else [5, 6, 7, 8]]
    decoder = Decoder(model)
    decoder.read(*left_padded(texts))
    for step in range(12):  # the last of these slide
        wrong = ids_of(2, min(step, decoder.remaining))
        if wrong.size:
            decoder.read(wrong)
        decoder.truncate(wrong.shape[1])
        right = (np.arange(4).reshape(2, 2) + step) % 11
        logits = decoder.read(right)
        for row, text, more in zip(logits, texts, right.tolist()):
            text += more
            assert_close(row[None], model.next_token_logits(np.array([text[-decoder.visible :]])), 1e-5)


def test_what_is_in_the_cache():
    """All visible columns; after more was taken back than a windowed layer keeps, none."""
    decoder = Decoder(make(Mistral, MistralConfig, dict(context_length=512, sliding_window=3)))
    assert decoder.cached == 0
    for count in (30, 370):
        decoder.read(ids_of(1, count))
        assert decoder.cached == decoder.visible
    decoder.truncate(20)
    assert decoder.cached == decoder.visible == 380
    decoder.truncate(100)
    assert (decoder.cached, decoder.visible) == (0, 280)


def test_decoders_share_packed_weights():
    packed, model, ids = {}, make(*MODELS[3]), ids_of(1, 3)

    def logits(decoder):
        decoder.read(ids)
        return decoder.read(ids[:, :1])

    first = logits(Decoder(model, packed=packed))
    copies = dict(packed)
    assert any(copies.values())
    assert (logits(Decoder(model, packed=packed)) == first).all() and packed == copies
    assert (logits(Decoder(model)) == first).all()


def test_taking_back_too_much():
    decoder = Decoder(make(*MODELS[0]))
    for count in (-1, 1):
        with pytest.raises(ValueError, match="cannot be taken back: 0 are visible"):
            decoder.truncate(count)
    decoder.read(ids_of(1, 3))
    with pytest.raises(ValueError, match="3 columns cannot be taken back: 3 are visible"):
        decoder.truncate(3)


@pytest.mark.parametrize("rows", [[0], [2, 0], [1, 1, 1], [2, 0, 1], [0, 0, 1, 1, 2, 2]])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind, config, shape", MODELS[:1] + MODELS[2:3])
def test_rows_that_are_selected(kind, config, shape, padded, rows):
    """Repeated, dropped and exchanged rows go on as texts of their own, also over a slide."""
    model = make(kind, config, shape)
    texts = [list(prompt) for prompt in (PROMPTS if padded else [[1, 2, 3], [1, 2, 4], [1, 5, 6]])]
    decoder = Decoder(model)
    decoder.read(*left_padded(texts))
    decoder.reorder(rows)
    texts = [list(texts[row]) for row in rows]
    for step in range(CONTEXT):
        if step % 3 == 1:
            turned = np.roll(np.arange(len(rows)), step)
            decoder.reorder(turned)
            texts = [list(texts[row]) for row in turned]
        tokens = (np.arange(len(rows)) + step) % 11
        for text, token in zip(texts, tokens):
            text.append(int(token))
        logits = decoder.read(tokens[:, None])
        for row, text in zip(logits, texts):
            assert_close(row[None], model.next_token_logits(np.array([text[-decoder.visible :]])), 1e-5)


@pytest.mark.parametrize(
    "module, right, wrong, test",
    [
        (cache, "old[..., changed, :] = old[..., changed, :][rows]", "pass", "reorder"),
        (cache, "= old[..., :used, :][rows]", "= old[..., :used, :][rows * 0]", "reorder"),
        (cache, "self._set_padding(self._host_padding[to_host(rows)])", "pass", "reorder"),
        (
            decoding,
            "start = int(changed.argmax()) if changed.any() else self.visible",
            "start = self.visible",
            "reorder",
        ),
        (decoding, "before, self._ids = self._ids, self._ids[rows]", "before = self._ids[rows]", "reorder"),
        (decoding, "self._padding = padding\n", "pass\n", "reorder"),
        (decoding, "self._cache.truncate(count)", "pass", "truncate"),
        (decoding, "self._ids = self._ids[:, :-count]", "pass", "truncate"),
        (cache, "columns.stop = length", "pass", "truncate"),
    ],
)
def test_faults_of_searches_are_caught(monkeypatch, module, right, wrong, test):
    plant(monkeypatch, module, right, wrong)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        for padded in (False, True):
            if test == "reorder":
                for rows in ([2, 0, 1], [0, 0, 1, 1, 2, 2]):
                    test_rows_that_are_selected(*MODELS[0], padded, rows)
            else:
                test_what_is_taken_back_was_never_read(*MODELS[0], padded)


IN_OTHER_ORDERS = {
    "weights": ("c_attn.weight", "c_fc.weight", "wte.weight", "wpe.weight"),
    "biases": ("c_attn.bias", "c_proj.bias"),
}


@pytest.mark.parametrize("what", IN_OTHER_ORDERS)
def test_a_parameter_may_lie_in_any_order_on_a_device(what, simulator):
    config = minillm.GPT2Config(vocab_size=11, context_length=8, n_layer=1, n_head=2, d_model=16)
    model = randomised(minillm.GPT2(config, seed=1), 0.2)
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    read = Decoder(model).read
    expected = [read(ids), read(ids[:, :1])]
    for name, parameter in model.parameters().items():
        if name.endswith(IN_OTHER_ORDERS[what]):
            value = parameter.value
            parameter.value = np.asfortranarray(value) if value.ndim == 2 else np.repeat(value, 2)[::2]
            assert not parameter.value.flags.c_contiguous
    read = Decoder(model.to("cudasim")).read
    for found, wanted in zip([read(ids), read(ids[:, :1])], expected):
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint16", "uint64"])
def test_ids_of_any_type_on_a_device(dtype, simulator):
    config = minillm.GPT2Config(vocab_size=11, context_length=8, n_layer=1, n_head=2, d_model=16)
    model = minillm.GPT2(config, seed=1).to("cudasim")
    ids = np.array([[1, 2, 3]])
    read, of_type = Decoder(model).read, Decoder(model).read
    for part in (ids, ids[:, :1]):
        assert (np.asarray(read(part)) == np.asarray(of_type(part.astype(dtype)))).all()
