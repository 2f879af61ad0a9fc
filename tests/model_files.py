"""Small model files in the formats of others, made for tests."""

import struct

import numpy as np

import minillm
from minillm.layers.rotary import rotary_tables
from minillm.tokenizers.byte_spelling import spell

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|bot|>"
LLAMA = minillm.LlamaConfig(vocab_size=300, context_length=32, n_layer=2, n_head=4, n_kv_head=2, d_model=64, d_ff=96)
GPT2 = minillm.GPT2Config(vocab_size=300, context_length=32, n_layer=2, n_head=4, d_model=64)
TOKENIZER = minillm.BytePairTokenizer.train("the quick brown fox jumps over the lazy dog " * 9, 290, ["<|end|>"])


def halves_to_interleaved(weight, heads):
    """What llama.cpp does to the rows of query and key weights, and to their biases."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


# class of the model -> general.architecture, that of the package gguf whose tensors' names it has, and whether rows are moved
CONVERTED = {
    "GPT2": ("gpt2", "GPT2", False),
    "Llama": ("llama", "LLAMA", True),
    "Qwen2": ("qwen2", "QWEN2", False),
    "Qwen3": ("qwen3", "QWEN3", False),
    "Mistral": ("llama", "LLAMA", True),
}


def write_gguf(path, model, kind=None, change=None, leave_out=()):
    """Write a model as llama.cpp's converter does; `kind` quantises matrices, `change(writer)` adds to it."""
    import gguf

    architecture, naming, moves_rows = CONVERTED[type(model).__name__]
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[naming], config.n_layer)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_head)
    if hasattr(config, "n_kv_head"):
        writer.add_head_count_kv(config.n_kv_head)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_theta)
        if config.head_dim * config.n_head != config.d_model:
            writer.add_key_length(config.head_dim)
            writer.add_value_length(config.head_dim)
    else:
        writer.add_layer_norm_eps(config.layer_norm_eps)
    if getattr(config, "sliding_window", None) is not None:
        writer.add_sliding_window(config.sliding_window)
    if change:
        change(writer)
    for name, parameter in model.parameters().items():
        value = np.asarray(parameter.value, np.float32)
        if moves_rows and name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
            value = halves_to_interleaved(value, config.n_head if "q_proj" in name else config.n_kv_head)
        if value.ndim == 2 and ".h." in name:
            value = np.ascontiguousarray(value.T)
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored in leave_out:
            continue
        if kind is not None and value.ndim == 2:
            writer.add_tensor(stored, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_byte_pairs(writer):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([spell(token) for token in TOKENIZER.tokens[:-1]] + ["<|end|>"])
    writer.add_token_types([1] * (TOKENIZER.vocab_size - 1) + [3])
    writer.add_token_merges(
        [f"{spell(TOKENIZER.tokens[a])} {spell(TOKENIZER.tokens[b])}" for a, b, _ in TOKENIZER.merges]
    )
    writer.add_eos_token_id(TOKENIZER.vocab_size - 1)
    writer.add_chat_template(TEMPLATE)


WORDS = [
    "<unk>",
    "\n<s>\n",
    "\n</s>\n",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    " ",
    "a",
    "b",
    "c",
    "ab",
    " a",
    " ab",
    "abc",
]
SCORES = [0.0] * 259 + [-9.0, -8.0, -7.0, -6.0, -1.0, -3.0, -2.0, -4.0]


def write_llama2c(folder, heads=4, kv_heads=2, shared=True):
    """A llama2.c model with random weights and its tokenizer; returns the file and its arrays by llama2.c's names."""
    vocab, dim, hidden, layers, context = len(WORDS), 16, 24, 2, 32
    rng = np.random.default_rng(0)
    kv_dim = dim // heads * kv_heads
    shapes = {
        "embedding": (vocab, dim),
        "rms_att": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, kv_dim, dim),
        "wv": (layers, kv_dim, dim),
        "wo": (layers, dim, dim),
        "rms_ffn": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "rms_final": (dim,),
        "cos": (context, dim // heads // 2),
        "sin": (context, dim // heads // 2),
    }
    if not shared:
        shapes["wcls"] = (vocab, dim)
    arrays = {name: (rng.normal(size=shape) * 0.3).astype("<f4") for name, shape in shapes.items()}
    arrays["cos"], arrays["sin"] = rotary_tables(context, dim // heads)
    header = struct.pack("<7i", dim, hidden, layers, heads, kv_heads, vocab if shared else -vocab, context)
    path = folder / "model.bin"
    path.write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    tokens = b"".join(struct.pack("<fi", s, len(w.encode())) + w.encode() for w, s in zip(WORDS, SCORES))
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 9) + tokens)
    return path, arrays
