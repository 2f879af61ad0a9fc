"""Models of llama2.c: a header, then weights in float32, and the tokenizer in a file beside it.

Source: Karpathy, llama2.c, run.c and export.py. The header is int32 dim, hidden, layers, heads,
kv_heads, vocab, seq.

    version 0    starts with the header; a negative vocab means that the output head is not the
                 token embedding; the last two arrays are the rotary tables, which give the base of
                 the angles
    version 1    "ak42", the version, the header, a byte for "the head is the embedding", zeros up
                 to byte 256
    version 2    weights in int8: not supported

Weights of one kind are stored together for all layers, in an order that depends on the version.
Rotary pairs are interleaved.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.errors import UserError
from minillm.files.safetensors_file import first_not_finite
from minillm.layers.rotary import rotary_tables
from minillm.models.llama import Llama, LlamaConfig
from minillm.tokenizers.sentencepiece import ScoreTokenizer

HEADER = struct.Struct("<7i")
MAGIC, VERSION, HEADER_BYTES = b"24ka", struct.Struct("<i"), 256  # of versions above 0
LARGEST = 1 << 24  # of any number in the header
USUAL_BASE, TABLE_ERROR = 10000.0, 1e-4  # of the angles; of a cosine in the table: many are float32 computations


class _Layout(NamedTuple):
    """The fields of the header; vocab is negative if the head is not the embedding."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    version: int

    @property
    def start(self) -> int:
        """The byte at which the weights begin."""
        return HEADER_BYTES if self.version else HEADER.size

    def is_possible(self) -> bool:
        sizes = (*self[:5], abs(self.vocab), self.context)
        return all(0 < n < LARGEST for n in sizes) and self.dim % self.heads == 0 and self.heads % self.kv_heads == 0

    def size(self) -> int:
        """Bytes of the file."""
        return self.start + 4 * sum(map(math.prod, self.shapes().values()))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays in the file, in order."""
        dim, hidden, layers, heads, kv_heads, vocab, context, version = self
        kv_dim = dim // heads * kv_heads
        embedding, norm = {"embed_tokens": (abs(vocab), dim)}, {"norm": (dim,)}
        norms = {name: {f"{name}_layernorm": (layers, dim)} for name in ("input", "post_attention")}
        attention = {"q_proj": (layers, dim, dim), "k_proj": (layers, kv_dim, dim), "v_proj": (layers, kv_dim, dim)}
        attention |= {"o_proj": (layers, dim, dim)}
        mlp = {"gate_proj": (layers, hidden, dim), "down_proj": (layers, dim, hidden), "up_proj": (layers, hidden, dim)}
        head = {} if vocab > 0 else {"lm_head": (-vocab, dim)}
        if version:
            return {**norms["input"], **norms["post_attention"], **norm, **embedding, **attention, **mlp, **head}
        tables = dict.fromkeys(("cos", "sin"), (context, dim // heads // 2))
        return {**embedding, **norms["input"], **attention, **norms["post_attention"], **mlp, **norm, **tables, **head}


def is_llama2c(path: Path) -> bool:
    """Whether a file has the magic number of versions 1 and later, or a header of version 0 that
    fits its size.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return True
    except OSError:
        return False
    layout = _layout(path)
    return layout is not None and layout.is_possible() and path.stat().st_size == layout.size()


def load_llama2c(path: str | Path, dtype="float32", weights: str = "expanded") -> Llama:
    """The model of a llama2.c file, in evaluation mode. weights: these files have float32 alone,
    so that nothing can stay smaller here.

    Raises UserError for a file that is none, or damaged.
    """
    path = Path(path)
    if not is_llama2c(path):
        raise UserError(f"{path} is no llama2.c model: its size does not fit its header")
    layout = _checked_layout(path)
    stored = np.memmap(path, "<f4", "c", layout.start)  # a private map: writes never reach the file
    arrays, at = {}, 0
    for name, shape in layout.shapes().items():
        arrays[name] = stored[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    config = LlamaConfig(
        vocab_size=abs(layout.vocab),
        context_length=layout.context,
        n_layer=layout.layers,
        n_head=layout.heads,
        n_kv_head=layout.kv_heads,
        d_model=layout.dim,
        d_ff=layout.hidden,
        tie_embeddings=layout.vocab > 0,
        rope_theta=_base_of_tables(arrays["cos"], arrays["sin"], path) if "cos" in arrays else USUAL_BASE,
        rope_interleaved=True,
    )
    model = Llama(config, seed=None, dtype=dtype)
    for name, parameter in model.parameters().items():
        value = np.asarray(_find(name, arrays)).astype(parameter.value.dtype, copy=False)
        where = first_not_finite(value)
        if where is not None:
            raise UserError(f"{path}: {name} is not finite: {value[where]} at {where}")
        parameter.value = value
    return model.eval()


def _checked_layout(path: Path) -> _Layout:
    """The header of a file of any version.

    Raises UserError for a version, or a size, that cannot be read.
    """
    layout = _layout(path)
    if layout is None:
        raise UserError(f"{path} is a llama2.c model that ends in its header")
    if layout.version > 1 or layout.version < 0:
        kind = "weights in int8" if layout.version == 2 else "not known here"
        raise UserError(
            f"{path} is a llama2.c model of version {layout.version} ({kind}): minillm opens versions 0 and 1; export it again "
            "with export.py --version 1"
        )
    if not layout.is_possible() or path.stat().st_size != layout.size():
        raise UserError(
            f"{path} is a llama2.c model of version {layout.version} that is damaged: it has {path.stat().st_size} bytes, "
            "which its header does not make"
        )
    return layout


def _layout(path: Path) -> _Layout | None:
    """The header in the first bytes of a file; None if it is too short."""
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    if not start.startswith(MAGIC):
        return _Layout(*HEADER.unpack_from(start), 0) if len(start) >= HEADER.size else None
    if len(start) < HEADER_BYTES:
        return None
    (version,), numbers = VERSION.unpack_from(start, 4), list(HEADER.unpack_from(start, 8))
    if not start[8 + HEADER.size]:  # the head is not the embedding
        numbers[5] = -numbers[5]
    return _Layout(*numbers, version)


def _base_of_tables(cos, sin, path: Path) -> float:
    """The base of the angles in the tables (seq, D/2); the usual one if they are zeros.

    Raises UserError for tables that no base makes.
    """
    time, pairs = cos.shape
    if not cos.any() and not sin.any():
        return USUAL_BASE
    base = USUAL_BASE
    error = TABLE_ERROR * max(1, time / 1000)
    for _ in range(2):
        expected = rotary_tables(time, 2 * pairs, base)
        if all(np.allclose(table, right, rtol=0, atol=error) for table, right in zip((cos, sin), expected)):
            return base
        angle = math.atan2(sin[1, -1], cos[1, -1]) if time > 1 and pairs > 1 else 0.0  # base^(-(D - 2) / D)
        if not 0 < angle < 1:
            break
        base = float(round(angle ** (-pairs / (pairs - 1))))
    raise UserError(
        f"{path}: its rotary tables are those of no base of the angles: the file is damaged, or of another kind"
    )


def load_llama2c_tokenizer(path: str | Path) -> ScoreTokenizer:
    """The tokenizer beside a model: tokNNN.bin with NNN tokens, or tokenizer.bin.

    Raises UserError if there is none.
    """
    path = Path(path)
    vocab = abs(_checked_layout(path).vocab)
    for candidate in (path.with_name(f"tok{vocab}.bin"), path.with_name("tokenizer.bin")):
        if candidate.is_file():
            return ScoreTokenizer.from_llama2c(candidate, vocab)
    raise UserError(f"{path}: its tokenizer, tok{vocab}.bin or tokenizer.bin, is not beside it")


def _find(name: str, arrays) -> np.ndarray:
    """The array of a parameter: "model.layers.3.mlp.up_proj.weight" is number 3 of "up_proj"."""
    parts = name.removesuffix(".weight").split(".")
    array = arrays[parts[-1]]
    return array[int(parts[parts.index("layers") + 1])] if "layers" in parts else array
