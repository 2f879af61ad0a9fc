"""Generation on a device: the same texts as on the CPU, by kernels and by a recorded pass, and few launches."""

import numpy as np
import pytest

import minillm
from minillm.backend.arrays import to_host
from minillm.backend.hooks import add_hook
from minillm.checks.cases import randomised
from minillm.generation.beam_search import beam_search
from minillm.generation.contrastive_search import contrastive_search
from minillm.generation.decoder import Decoder
from minillm.generation.speculative import PromptLookup, speculative_generate
from minillm.kernels import use_kernels
from minillm.layers.layer import Layer
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.models.mistral import Mistral, MistralConfig
from minillm.models.qwen3 import Qwen3, Qwen3Config

SHAPE = dict(vocab_size=40, context_length=64, n_layer=2, n_head=4, d_model=16)
MODELS = {
    "gpt2": lambda dtype: minillm.GPT2(minillm.GPT2Config(**SHAPE, dropout=0.1), seed=1, dtype=dtype),
    "gpt2, no bias": lambda dtype: minillm.GPT2(
        minillm.GPT2Config(**SHAPE, bias=False, tie_embeddings=False, activation="gelu"), seed=1, dtype=dtype
    ),
    "llama": lambda dtype: minillm.Llama(
        minillm.LlamaConfig(**SHAPE, n_kv_head=2, attention_bias=True, rope_interleaved=True), seed=1, dtype=dtype
    ),
    "qwen3": lambda dtype: Qwen3(Qwen3Config(**SHAPE, n_kv_head=1, head_dim=10), seed=1, dtype=dtype),
    "mistral": lambda dtype: Mistral(MistralConfig(**SHAPE, n_kv_head=2, sliding_window=5), seed=1, dtype=dtype),
}
DEVICES = ["cudasim", pytest.param("cuda", marks=pytest.mark.gpu)]
PADDINGS = [None, (0, 4, 0)]


def model_of(name, dtype="float32"):
    return randomised(MODELS[name](dtype), 0.15).eval()


def logits_of(model, device, padding, tokens=6):
    """After a prompt, single tokens, several at once, some taken back, rows in another order and number."""
    rng = np.random.default_rng(0)
    prompt, rest = rng.integers(0, 40, (3, 9)), rng.integers(0, 40, (3, 12))
    decoder = Decoder(model.to(device))
    found = [decoder.read(prompt, None if padding is None else np.array(padding))]
    found += [decoder.read(rest[:, i : i + 1]) for i in range(tokens)]
    found.append(decoder.read(rest[:, 3:9]))
    decoder.truncate(4)
    decoder.reorder([0, 2, 1])
    found += [decoder.read(rest[:, i : i + 1]) for i in range(3)]
    decoder.reorder([1, 1, 2, 0])
    found += [decoder.read(rest[[0, 1, 2, 0], i : i + 1]) for i in range(3)]
    return [to_host(each).astype(np.float64) for each in found], decoder


def assert_close(found, expected, limit):
    for step, (a, b) in enumerate(zip(found, expected)):
        assert abs(a - b).max() <= limit * abs(b).max(), step


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_the_logits_of_the_cpu(name, padding, device):
    expected, _ = logits_of(model_of(name), "cpu", padding)
    found, decoder = logits_of(model_of(name), device, padding)
    assert_close(found, expected, 1e-5)
    assert device == "cudasim" or is_recorded(decoder)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_bfloat16_travels_between_layers(name, device):
    expected, _ = logits_of(model_of(name), "cpu", (0, 4, 0))
    found, decoder = logits_of(model_of(name, "bfloat16"), device, (0, 4, 0))
    assert_close(found, expected, 3e-2)
    columns = [columns for places in decoder._cache._columns.values() for columns in places]
    assert {array.dtype.name for each in columns for array in each.arrays} == {"bfloat16"}


def is_recorded(decoder) -> bool:
    return decoder._graph is not None and decoder._graph._recorded is not None


# ------------------------------------------------------------------------------------------------------ the recorded pass


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_bits_with_and_without_a_graph(dtype, monkeypatch):
    model = model_of("llama", dtype)
    found, decoder = logits_of(model, "cuda", (0, 4, 0))
    assert is_recorded(decoder)
    monkeypatch.setattr("minillm.generation.token_graph.TokenGraph.replayed", lambda self, ids, cache: None)
    expected, decoder = logits_of(model, "cuda", (0, 4, 0))
    assert not is_recorded(decoder)
    assert all((a == b).all() for a, b in zip(found, expected))


@pytest.mark.gpu
def test_it_is_recorded_again_when_the_cache_grows(monkeypatch):
    monkeypatch.setattr("minillm.layers.cache.FIRST_CAPACITY", 8)
    model = model_of("llama")
    expected = [to_host(x) for x in texts(model.to("cpu"))]
    recordings, found, decoders = set(), [], []
    for logits in texts(model.to("cuda"), decoders):
        found.append(to_host(logits))
        recordings.add(decoders[0]._graph._recorded)
    assert len(recordings - {None}) >= 3
    assert_close(found, expected, 1e-5)


def texts(model, decoders=None):
    """Logits of 40 tokens, one after the other."""
    decoder = Decoder(model)
    if decoders is not None:
        decoders.append(decoder)
    yield decoder.read(np.array([[1, 2, 3]]))
    for token in range(40):
        yield decoder.read(np.array([[token % 7]]))


@pytest.mark.gpu
def test_logits_that_were_returned_are_not_written_over():
    decoder = Decoder(model_of("gpt2").to("cuda"))
    decoder.read(np.array([[1, 2, 3]]))
    kept = [decoder.hidden(np.array([[token]])) for token in range(6)]
    copies = [to_host(x).copy() for x in kept]
    decoder.hidden(np.array([[7]]))
    assert is_recorded(decoder)
    assert all((to_host(x) == copy).all() for x, copy in zip(kept, copies))
    assert len({copy.tobytes() for copy in copies}) == 6


class Shifted(Layer):
    """A layer of a user's own: it reads the token before, by the cache."""

    def forward(self, x):
        before = x.copy()
        before[:, 1:] = x[:, :-1]
        before[:, 0] = 0
        return x + before

    def decode(self, x, cache):
        (seen,) = cache.append(self, x, window=2)
        before = x * 0
        before[:, x.shape[1] - seen.shape[1] + 1 :] = seen[:, :-1]
        return x + before


def with_a_layer_of_ones_own(model):
    model.transformer.h[0].ln_2 = Shifted()
    return model


def with_lora(model):
    add_lora(model, LoRA(rank=2, alpha=4))
    return randomised(model, 0.15)


CHANGES = {"a layer of one's own": with_a_layer_of_ones_own, "lora": with_lora}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("change", CHANGES)
def test_where_no_pass_can_be_recorded_it_is_launched(change, device):
    expected, _ = logits_of(CHANGES[change](model_of("gpt2")), "cpu", None)
    found, decoder = logits_of(CHANGES[change](model_of("gpt2")), device, None)
    assert not is_recorded(decoder)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("choice", [dict(), dict(attention=True), dict(skinny_matmul=True, layer_norm=True)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_that_are_switched_off(choice, dtype, device):
    expected, _ = logits_of(model_of("gpt2"), "cpu", (0, 4, 0))
    use_kernels(False, **choice)
    try:
        found, decoder = logits_of(model_of("gpt2", dtype), device, (0, 4, 0))
    finally:
        use_kernels(True)
    assert not is_recorded(decoder)
    assert_close(found, expected, 1e-5 if dtype == "float32" else 3e-2)


@pytest.mark.gpu
def test_hooks_see_every_launch():
    decoder, seen = Decoder(model_of("gpt2").to("cuda")), []
    for _ in range(4):
        decoder.read(np.array([[1]]))
    assert is_recorded(decoder)
    with add_hook(lambda kind, name, arrays: seen.append(name) or _nothing()):
        decoder.read(np.array([[1]]))
    assert sum(name.startswith("attend<") for name in seen) == SHAPE["n_layer"]


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


# ------------------------------------------------------------------------------------------------------------- launches


def kernels_of_a_token(model, device, rows):
    decoder, seen = Decoder(model.to(device)), []
    decoder.read(np.ones((rows, 5), np.int64))
    with add_hook(lambda kind, name, arrays: seen.append(f"{kind} {name}") or _nothing()):
        decoder.read(np.ones((rows, 1), np.int64))
    return seen


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name, most", [("gpt2", 10), ("gpt2, no bias", 10), ("llama", 10), ("qwen3", 12)])
def test_at_most_ten_launches_a_layer(name, most, rows):
    """Two norms, attention's three, four products, the activation; Qwen3 has two norms more. Below a hundred and fifty for the
    twelve layers of GPT-2 124M: three for the embedding, one for the last norm, one for the head."""
    seen = kernels_of_a_token(model_of(name), "cudasim", rows)
    assert not [each for each in seen if each.startswith("matrix product")]
    assert len(seen) <= most * SHAPE["n_layer"] + 4


@pytest.mark.parametrize("device", DEVICES)
def test_a_greedy_text_is_that_of_the_cpu(device):
    config = minillm.GPT2Config(vocab_size=40, context_length=12, n_layer=1, n_head=2, d_model=8)
    model = randomised(minillm.GPT2(config, seed=1), 0.3).eval()
    ids = np.random.default_rng(2).integers(0, 40, (2, 5))

    def text(on):
        greedy = minillm.Sampler(temperature=0)
        return np.stack(list(minillm.generate(model.to(on), ids, 20, greedy)))  # beyond the context

    assert (text(device) == text("cpu")).all()


GREEDY = {"temperature": 0}
PROMPT = np.array([[3, 9, 1, 22, 9, 1]])
WAYS = {
    "beams": lambda model, draft: [
        each.ids
        for row in beam_search(model, np.repeat(PROMPT, 2, 0), 14, beams=3, padding=np.array([0, 2]))
        for each in row
    ],
    "contrastive": lambda model, draft: list(contrastive_search(model, PROMPT, 14, top_k=3)),
    "a draft": lambda model, draft: list(
        speculative_generate(model, PROMPT, 14, draft=draft, sampler=minillm.Sampler(**GREEDY))
    ),
    "look-up": lambda model, draft: list(
        speculative_generate(model, PROMPT, 14, draft=PromptLookup(), sampler=minillm.Sampler(**GREEDY))
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_searches_and_drafts_write_what_they_write_on_the_cpu(way, device):
    """The context of 16 slides in each of them."""
    config = minillm.GPT2Config(vocab_size=40, context_length=16, n_layer=1, n_head=2, d_model=8)
    model, draft = (randomised(minillm.GPT2(config, seed=seed), 0.3).eval() for seed in (1, 2))

    def written(on):
        return [np.asarray(each).tolist() for each in WAYS[way](model.to(on), draft.to(on))]

    assert written(device) == written("cpu")
