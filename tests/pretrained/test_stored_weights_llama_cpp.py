"""Files as llama.cpp's own quantiser writes them, with weights kept as they are in the file.

The quantiser mixes types: norms in float32, the head in another type than the embedding, some layers in a better one. It
also turns a file into float32 again, which llama.cpp then multiplies without rounding: those logits are to be met.
"""

import numpy as np
import pytest
from model_files import TOKENIZER

import minillm
from minillm.checks.cases import randomised
from minillm.layers.stored_weight import StoredWeight

pytestmark = pytest.mark.peers
llama_cpp = pytest.importorskip("llama_cpp", reason="comparison with llama.cpp (extra test-llama-cpp)")
IDS = np.arange(3, 27)
SIZES = dict(context_length=64, n_layer=8, n_head=4, n_kv_head=2, d_model=256, d_ff=512)
MODELS = {
    "own head": (minillm.Llama, minillm.LlamaConfig(vocab_size=TOKENIZER.vocab_size, **SIZES)),
    "tied": (minillm.Llama, minillm.LlamaConfig(vocab_size=TOKENIZER.vocab_size, tie_embeddings=True, **SIZES)),
    "padded vocabulary": (minillm.Llama, minillm.LlamaConfig(vocab_size=TOKENIZER.vocab_size + 30, **SIZES)),
    "qwen2": (minillm.Qwen2, minillm.Qwen2Config(vocab_size=TOKENIZER.vocab_size, **SIZES)),
    "gpt2": (
        minillm.GPT2,
        minillm.GPT2Config(vocab_size=TOKENIZER.vocab_size, context_length=64, n_layer=8, n_head=4, d_model=256),
    ),
}
# what is asked for -> the types that its matrices have then
TYPES = {
    "F16": {"F16"},
    "BF16": {"BF16"},
    "Q8_0": {"Q8_0"},
    "Q4_0": {"Q4_0", "Q6_K"},
    "Q4_1": {"Q4_1", "Q6_K"},
    "Q5_0": {"Q5_0", "Q6_K"},
    "Q2_K": {"Q2_K", "Q3_K", "Q6_K"},
    "Q3_K_M": {"Q3_K", "Q4_K", "Q5_K", "Q6_K"},
    "Q4_K_M": {"Q4_K", "Q6_K"},
    "Q5_K_M": {"Q5_K", "Q6_K"},
    "Q6_K": {"Q6_K"},
    "IQ4_XS": {"IQ4_XS", "Q5_K", "Q6_K"},
}
KINDS = [("own head", kind) for kind in TYPES]
KINDS += [(name, kind) for name in list(MODELS)[1:] for kind in ("Q4_K_M", "Q8_0", "F16")]


def quantise(source, path, kind):
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = (
        llama_cpp.LLAMA_FTYPE_ALL_F32 if kind == "F32" else getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    )
    settings.nthread, settings.allow_requantize = 1, True
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), settings) == 0
    return path


def logits_of_llama_cpp(path):
    settings = dict(n_ctx=64, n_threads=1, logits_all=True, type_k=0, type_v=0, verbose=False)  # 0: float32
    opened = llama_cpp.Llama(str(path), **settings)
    opened.eval(IDS.tolist())
    found = np.array(opened.scores[: len(IDS)])
    opened.close()
    return found


@pytest.mark.parametrize("name, kind", KINDS, ids=" ".join)
def test_logits_and_texts(name, kind, tmp_path):
    pytest.importorskip("gguf", reason="types of GGUF that minillm leaves to the package gguf")
    make, config = MODELS[name]
    minillm.export(randomised(make(config, seed=1), 0.1).eval(), tmp_path / "f32.gguf", "f32", TOKENIZER)
    path = quantise(tmp_path / "f32.gguf", tmp_path / "small.gguf", kind)
    again = quantise(path, tmp_path / "again.gguf", "F32")
    kept, expanded = (minillm.from_pretrained(path, weights=weights) for weights in ("stored", "expanded"))
    types = {p.peek().format.name for p in kept.parameters().values() if isinstance(p.peek(), StoredWeight)}
    assert types <= TYPES[kind] and TYPES[kind] & types
    ours, whole, theirs = kept.forward(IDS[None])[0], expanded.forward(IDS[None])[0], logits_of_llama_cpp(again)
    size = np.abs(whole).max()
    np.testing.assert_allclose(ours, whole, atol=5e-6 * size)
    np.testing.assert_allclose(ours, theirs, atol=(1e-3 if name == "gpt2" else 1e-4) * size)  # GELU from a table
    greedy = minillm.Sampler(temperature=0)
    texts = [np.stack(list(minillm.generate(model, IDS[None, :9], 12, sampler=greedy))) for model in (kept, expanded)]
    np.testing.assert_array_equal(*texts)
