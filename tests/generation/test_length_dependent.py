"""Rotary angles that depend on the length of the text (dynamic, longrope): with a cache, and in whole passes."""

import numpy as np
import pytest
from planting import planted

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.generation import decoder as decoder_module
from minillm.generation.decoder import Decoder, left_padded
from minillm.generation.speculative import PromptLookup, speculative_generate
from minillm.layers.rotary_scaling import DynamicScaling, LongRopeScaling, YarnScaling

P, CONTEXT, V = 12, 40, 17
SCALINGS = {
    "dynamic": DynamicScaling(4.0, P),
    "longrope": LongRopeScaling((1.0, 1.2, 1.5, 2.0), (1.0, 2.0, 4.5, 9.0), P, 4.0),
    "yarn": YarnScaling(4.0, P),
}
IDS = stream("test", "ids").integers(V, (2, CONTEXT))
each_scaling = pytest.mark.parametrize("name", SCALINGS)


def model_of(name, **fields):
    shape = dict(vocab_size=V, context_length=CONTEXT, n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=32)
    config = minillm.LlamaConfig(**shape, rope_theta=100.0, rope_scaling=SCALINGS[name], **fields)
    return randomised(minillm.Llama(config, dtype="float64"), 0.3).eval()


def assert_same(got, expected):
    np.testing.assert_allclose(got, expected, atol=1e-10)


@each_scaling
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_token_at_a_time_is_the_whole_pass(name, interleaved):
    """Across the original context, and far beyond it."""
    model = model_of(name, rope_interleaved=interleaved)
    decoder = Decoder(model)
    assert_same(decoder.read(IDS[:, : P - 3]), model.next_token_logits(IDS[:, : P - 3]))
    for length in range(P - 2, P + 12):
        assert_same(decoder.read(IDS[:, length - 1 : length]), model.next_token_logits(IDS[:, :length]))


@each_scaling
def test_several_tokens_at_once_are_the_whole_pass(name):
    """A turn of a conversation: only what follows its last token is asked for."""
    model = model_of(name)
    decoder = Decoder(model)
    for length in (5, P, P + 1, P + 9, P + 20):
        assert_same(decoder.read(IDS[:, decoder.visible : length]), model.next_token_logits(IDS[:, :length]))


@each_scaling
def test_each_of_the_last_tokens_has_the_angles_of_its_own_length(name):
    """As speculation needs it: what it verifies is what reading token by token gives."""
    model = model_of(name)
    decoder = Decoder(model)
    decoder.read(IDS[:, : P - 2])
    got = decoder.read_last(IDS[:, P - 2 : P + 3], 5)
    for i in range(5):
        assert_same(got[:, i], model.next_token_logits(IDS[:, : P - 1 + i]))
    decoder.truncate(4)  # back below the original context
    assert_same(decoder.read(IDS[:, P - 1 : P]), model.next_token_logits(IDS[:, :P]))


@each_scaling
def test_rows_of_a_padded_batch_have_the_angles_of_their_own_length(name):
    model, lengths = model_of(name), (P + 4, P - 5, P)
    rows = [stream("test", "row", length).integers(V, length + 8) for length in lengths]
    ids, padding = left_padded([row[:length].tolist() for row, length in zip(rows, lengths)])
    decoder = Decoder(model)
    logits = decoder.read(ids, padding)
    for step in range(8):
        for got, row, length in zip(logits, rows, lengths):
            assert_same(got, model.next_token_logits(row[None, : length + step])[0])
        logits = decoder.read(np.array([[row[length + step]] for row, length in zip(rows, lengths)]))
    decoder.reorder([2, 1])
    assert_same(decoder.read(np.array([[1], [2]]))[1], model.next_token_logits(np.append(rows[1][: P + 4], 2)[None])[0])


def test_reorder_keeps_the_cache_of_rows_whose_angles_stay():
    """Of longrope, which changes once: rows beyond the border are not read again."""
    decoder = Decoder(model_of("longrope"))
    decoder.read(*left_padded([IDS[0, : P + 6].tolist(), IDS[1, : P + 3].tolist()]))
    decoder.reorder([1, 0, 1])
    assert decoder.hidden(np.array([[1], [2], [3]])).shape[1] == 1


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("or stages != before", "or False"),  # the cache keeps keys of other angles
        ("if count > 1 and self._angles_change(", "if count > 99 and self._angles_change("),
        ("(columns - np.asarray(padding)).tolist()", "(columns + 0 * np.asarray(padding)).tolist()"),
    ],
)
def test_faults_are_noticed(right, wrong, monkeypatch):
    monkeypatch.setitem(globals(), "Decoder", planted(decoder_module, right, wrong).Decoder)
    with pytest.raises(AssertionError):
        test_a_token_at_a_time_is_the_whole_pass("longrope", False)
        test_each_of_the_last_tokens_has_the_angles_of_its_own_length("dynamic")
        test_rows_of_a_padded_batch_have_the_angles_of_their_own_length("longrope")


@pytest.mark.parametrize("name, passes", [("yarn", 0), ("longrope", 1), ("dynamic", 10)])
def test_how_often_everything_is_read_again(name, passes):
    decoder = Decoder(model_of(name))
    decoder.read(IDS[:, : P - 4])
    columns = [decoder.hidden(IDS[:, i : i + 1]).shape[1] for i in range(P - 4, P + 10)]
    assert sum(n > 1 for n in columns) == passes


@each_scaling
def test_a_model_that_cannot_decode_writes_the_same(name):
    model = model_of(name)
    plain = model.forward
    model.forward = lambda ids, rng_key=None: plain(ids, rng_key)
    decoder = Decoder(model)
    assert decoder.why_whole is not None
    decoder.read(IDS[:, : P - 2])
    got = decoder.read_last(IDS[:, P - 2 : P + 3], 5)
    for i in range(5):
        assert_same(got[:, i], plain(IDS[:, : P - 1 + i])[:, -1])


@each_scaling
def test_speculation_writes_the_greedy_text(name):
    model, greedy = model_of(name), minillm.Sampler(temperature=0)
    prompt = np.array([[3, 5, 3, 5, 3, 5, 3]])
    plain = [int(token) for (token,) in minillm.generate(model, prompt, 24, greedy)]
    fast = [
        int(token)
        for (token,) in speculative_generate(model, prompt, 24, draft=PromptLookup(shortest=1), sampler=greedy)
    ]
    assert fast == plain


@pytest.mark.peers
@each_scaling
def test_generation_is_that_of_transformers_in_whole_passes(tmp_path, name):
    """transformers keeps keys that were rotated by the angles of a shorter text; without its cache, texts are equal."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = model_of(name)
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    count, prompt = CONTEXT - 4, torch.tensor(IDS[:, :4])

    def logits(cached):
        settings = dict(max_new_tokens=count, do_sample=False, use_cache=cached, pad_token_id=0)
        written = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), output_logits=True, return_dict_in_generate=True, **settings
        )
        return written.sequences.numpy()[:, 4:], torch.stack(written.logits, 1).numpy()

    text, whole = logits(cached=False)
    decoder, ours = Decoder(model), []
    for i in range(count):
        ours.append(decoder.read(IDS[:, :4] if i == 0 else text[:, i - 1 : i]))
    np.testing.assert_allclose(np.stack(ours, 1), whole, atol=1e-4)  # their angles are float32
    written = minillm.generate(model, IDS[:, :4], count, minillm.Sampler(temperature=0))
    np.testing.assert_array_equal(np.stack(list(written), 1), text)
    _, cached = logits(cached=True)
    border = P - 4 + 1  # the first logits beyond the original context
    assert np.abs(cached[:, :border] - whole[:, :border]).max() < 1e-4
    if name != "yarn":
        assert np.abs(cached[:, border] - whole[:, border]).max() > 1e-3
