"""Models of llama2.c: seven numbers, then weights in float32, and the tokenizer in a file beside it.

Source: Karpathy, llama2.c, run.c (format v0). The header is int32 dim, hidden, layers, heads, kv_heads, vocab, seq; a negative
vocab means that the output head is not the token embedding. Weights of all layers of one kind stand together. The last two
arrays of what every model has are the rotary tables, which minillm computes. Rotary pairs are interleaved.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.models import Llama, LlamaConfig
from minillm.tensor_file import first_not_finite
from minillm.tokenizers.score import ScoreTokenizer

HEADER = struct.Struct("<7i")
LARGEST = 1 << 24  # of any number in the header


def is_llama2c(path: Path) -> bool:
    """Whether the first numbers of a file can be the header of a model of its size."""
    try:
        with open(path, "rb") as file:
            start = file.read(HEADER.size)
    except OSError:
        return False
    if len(start) < HEADER.size:
        return False
    numbers = HEADER.unpack(start)
    sizes = (*numbers[:5], abs(numbers[5]), numbers[6])
    if not all(0 < number < LARGEST for number in sizes) or numbers[0] % numbers[3] or numbers[3] % numbers[4]:
        return False
    return path.stat().st_size == HEADER.size + 4 * sum(map(math.prod, _shapes(numbers).values()))


def load_llama2c(path: str | Path, dtype="float32") -> Llama:
    """The model of a llama2.c file, in evaluation mode. Raises UserError for a file that is none, or damaged."""
    path = Path(path)
    if not is_llama2c(path):
        raise UserError(f"{path} is no llama2.c model: its size does not fit its header")
    numbers = _header(path)
    dim, hidden, layers, heads, kv_heads, vocab, context = numbers
    config = LlamaConfig(
        vocab_size=abs(vocab),
        context_length=context,
        n_layer=layers,
        n_head=heads,
        n_kv_head=kv_heads,
        d_model=dim,
        d_ff=hidden,
        tie_embeddings=vocab > 0,
        rope_interleaved=True,
    )
    model = Llama(config, seed=None, dtype=dtype)
    stored = np.memmap(path, "<f4", "c", HEADER.size)  # a private map: what is written to it never reaches the file
    arrays, at = {}, 0
    for name, shape in _shapes(numbers).items():
        arrays[name] = stored[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    for name, parameter in model.parameters().items():
        value = np.asarray(_find(name, arrays)).astype(parameter.value.dtype, copy=False)
        where = first_not_finite(value)
        if where is not None:
            raise UserError(f"{path}: {name} is not finite: {value[where]} at {where}")
        parameter.value = value
    return model.eval()


def load_llama2c_tokenizer(path: str | Path) -> ScoreTokenizer:
    """The tokenizer beside a model: tokNNN.bin with NNN tokens, or tokenizer.bin. Raises UserError if there is none."""
    path = Path(path)
    vocab = abs(_header(path)[5])
    for candidate in (path.with_name(f"tok{vocab}.bin"), path.with_name("tokenizer.bin")):
        if candidate.is_file():
            return ScoreTokenizer.from_llama2c(candidate, vocab)
    raise UserError(f"{path}: its tokenizer, tok{vocab}.bin or tokenizer.bin, is not beside it")


def _header(path: Path) -> tuple[int, ...]:
    with open(path, "rb") as file:
        return HEADER.unpack(file.read(HEADER.size))


def _shapes(numbers) -> dict[str, tuple[int, ...]]:
    """What stands in the file, in order."""
    dim, hidden, layers, heads, kv_heads, vocab, context = numbers
    kv_dim = dim // heads * kv_heads
    shapes = {
        "embed_tokens": (abs(vocab), dim),
        "input_layernorm": (layers, dim),
        "q_proj": (layers, dim, dim),
        "k_proj": (layers, kv_dim, dim),
        "v_proj": (layers, kv_dim, dim),
        "o_proj": (layers, dim, dim),
        "post_attention_layernorm": (layers, dim),
        "gate_proj": (layers, hidden, dim),
        "down_proj": (layers, dim, hidden),
        "up_proj": (layers, hidden, dim),
        "norm": (dim,),
        "cos": (context, dim // heads // 2),
        "sin": (context, dim // heads // 2),
    }
    return shapes if vocab > 0 else {**shapes, "lm_head": (-vocab, dim)}


def _find(name: str, arrays) -> np.ndarray:
    """The array of a parameter: "model.layers.3.mlp.up_proj.weight" is number 3 of "up_proj"."""
    parts = name.removesuffix(".weight").split(".")
    array = arrays[parts[-1]]
    return array[int(parts[parts.index("layers") + 1])] if "layers" in parts else array
