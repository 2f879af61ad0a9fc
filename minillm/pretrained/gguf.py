"""GGUF files: llama.cpp's models, weights of any of its types, and the tokenizer (gguf_tokenizer.py), in one file.

They are read with the package `gguf` (extra `gguf`), after `check_gguf` has seen that all counts, lengths and offsets fit the
file. Weights are expanded once, to float32 or float64. llama.cpp turns interleaved pairs, so the rows of a Llama's query and
key weights have been moved for it; here they are moved back, and the model is that of the Hugging Face folder it was made from.
"""

from __future__ import annotations

import math
import mmap
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np

from minillm.errors import MissingExtra, UserError
from minillm.layers.rotary import interleaved_to_halves
from minillm.models import GPT2, GPT2Config, Llama, LlamaConfig
from minillm.tensor_file import first_not_finite

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by GGUF's number of the type
STRING, ARRAY = 8, 9
LONGEST_STRING, LARGEST_DIMENSION = 1 << 26, 1 << 40

_LLAMA_TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GPT2_TENSORS = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


class GGUF:
    """An open file: `settings`, its keys and values, and `tensor`, its weights. Raises UserError for what is not right."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        check_gguf(self.path)
        try:
            import gguf
        except ImportError:
            raise MissingExtra(f"opening {self.path.name}", "the package gguf", "gguf") from None
        self._dequantize = gguf.quants.dequantize
        try:
            reader = gguf.GGUFReader(self.path)
            self.settings = {key: field.contents() for key, field in reader.fields.items()}
        except (ValueError, KeyError, IndexError, UnicodeDecodeError, OverflowError) as error:
            raise UserError(f"{self.path} is damaged: {error}") from None
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def setting(self, key: str, kind, default=None):
        """The value of a key, of a type. Raises UserError if it is missing and has no default."""
        value = self.settings.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
            raise UserError(f"{self.path}: {key} is {value!r:.60}, expected {getattr(kind, '__name__', kind)}")
        # stored as float32: the decimal number that was meant, 1e-05 and not 9.999999747378752e-06
        return float(str(np.float32(value))) if kind is float else value

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str, dtype) -> np.ndarray:
        """A tensor, expanded; its shape is (out, in), as Hugging Face has it."""
        if name not in self._tensors:
            raise UserError(f"{self.path} has no tensor {name}: the file is incomplete")
        stored = self._tensors[name]
        shape = tuple(int(n) for n in reversed(stored.shape))
        try:
            values = self._dequantize(stored.data, stored.tensor_type).reshape(shape).astype(dtype, copy=False)
        except NotImplementedError:
            raise UserError(
                f"{self.path}: {name} is stored as {stored.tensor_type.name}, which gguf does not expand"
            ) from None
        except ValueError as error:
            raise UserError(f"{self.path}: {name} does not fit its shape {shape}: {error}") from None
        where = first_not_finite(values)
        if where is not None:
            raise UserError(f"{self.path}: {name} is not finite: {values[where]} at {where}")
        return values


def open_gguf(path: str | Path) -> GGUF:
    """The file, opened once for the model, its tokenizer and its chat template."""
    path = Path(path).resolve()
    return _open_gguf(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _open_gguf(path: Path, changed: int) -> GGUF:
    return GGUF(path)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    with open(path, "rb") as file:
        return file.read(4) == MAGIC


def load_gguf(path: str | Path, dtype="float32"):
    """The model in a GGUF file, in evaluation mode: architectures llama and gpt2. Raises UserError."""
    file = open_gguf(path)
    architecture = file.setting("general.architecture", str)
    makers = {"llama": (_llama_config, Llama, _LLAMA_TENSORS), "gpt2": (_gpt2_config, GPT2, _GPT2_TENSORS)}
    if architecture not in makers:
        raise UserError(f"{file.path} is of the architecture {architecture!r}: minillm opens {' and '.join(makers)}")
    make_config, kind, names = makers[architecture]
    layers = file.setting(f"{architecture}.block_count", int)
    if f"blk.{layers - 1}.attn_norm.weight" not in file:  # before anything is made of that size
        raise UserError(f"{file.path} should have {layers} blocks, and has no tensor of the last one")
    config = make_config(file)
    model = kind(config, seed=None, dtype=dtype)
    for name, parameter in model.parameters().items():
        value = file.tensor(_stored_name(name, names), parameter.value.dtype)
        if kind is Llama and name.endswith(("q_proj.weight", "k_proj.weight")):
            value = interleaved_to_halves(value, config.n_head if "q_proj" in name else config.n_kv_head)
        if kind is GPT2 and value.ndim == 2 and ".h." in name:
            value = np.ascontiguousarray(value.T)  # minillm stores (in, out), as GPT-2's own files
        if value.shape != parameter.value.shape:
            raise UserError(f"{file.path}: {name} is {value.shape}, the configuration says {parameter.value.shape}")
        parameter.value = value
    return model.eval()


def _stored_name(name: str, names: dict[str, str]) -> str:
    """ "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight" """
    stem, _, suffix = name.rpartition(".")
    parts = stem.split(".")
    if stem in names:
        return f"{names[stem]}.{suffix}"
    number = next(index for index, part in enumerate(parts) if part.isdigit())
    return f"blk.{parts[number]}.{names['.'.join(parts[number + 1 :])]}.{suffix}"


def _llama_config(file: GGUF) -> LlamaConfig:
    heads = file.setting("llama.attention.head_count", int)
    width = file.setting("llama.embedding_length", int)
    scaling = file.settings.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", ""):
        raise UserError(f"{file.path}: rotary scaling of the type {scaling!r} is not computed here")
    if "rope_freqs.weight" in file:
        raise UserError(
            f"{file.path}: it scales its rotary frequencies by a table (rope_freqs), which is not computed here"
        )
    head_width = file.setting("llama.attention.key_length", int, width // max(heads, 1))
    if file.setting("llama.rope.dimension_count", int, head_width) != head_width:
        raise UserError(f"{file.path}: it turns only part of each head, which is not computed here")
    return LlamaConfig(
        vocab_size=_vocab_size(file),
        context_length=file.setting("llama.context_length", int),
        n_layer=file.setting("llama.block_count", int),
        n_head=heads,
        n_kv_head=file.setting("llama.attention.head_count_kv", int, heads),
        d_model=width,
        d_ff=file.setting("llama.feed_forward_length", int),
        head_width=head_width,
        rms_norm_eps=file.setting("llama.attention.layer_norm_rms_epsilon", float, 1e-5),
        rope_theta=file.setting("llama.rope.freq_base", float, 10000.0),
        tie_embeddings="output.weight" not in file,
    )


def _gpt2_config(file: GGUF) -> GPT2Config:
    return GPT2Config(
        vocab_size=_vocab_size(file),
        context_length=file.setting("gpt2.context_length", int),
        n_layer=file.setting("gpt2.block_count", int),
        n_head=file.setting("gpt2.attention.head_count", int),
        d_model=file.setting("gpt2.embedding_length", int),
        d_ff=file.setting("gpt2.feed_forward_length", int),
        layer_norm_eps=file.setting("gpt2.attention.layer_norm_epsilon", float, 1e-5),
        tie_embeddings="output.weight" not in file,
        bias="blk.0.attn_qkv.bias" in file,
    )


def _vocab_size(file: GGUF) -> int:
    if "token_embd.weight" not in file:
        raise UserError(f"{file.path} has no tensor token_embd.weight: the file is incomplete")
    return int(file._tensors["token_embd.weight"].shape[1])


# ------------------------------------------------------------------------------------------------- is it what it says


def check_gguf(path: Path) -> None:
    """Raises UserError unless every count, length and offset in the header fits the file. Allocates nothing large."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(path, data).check()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is empty") from None  # mmap's word for it


class _Header:
    """Walks through a header as the format describes it, without keeping what it finds."""

    def __init__(self, path: Path, data):
        self.path, self.data, self.at = path, data, 0

    def check(self) -> None:
        if self.data[:4] != MAGIC:
            raise self.broken("it does not begin with GGUF")
        self.at = 4
        version, tensors, keys = self.number("<I"), self.number("<Q"), self.number("<Q")
        if version not in VERSIONS:
            raise UserError(f"{self.path}: version {version} of GGUF; minillm reads {' and '.join(map(str, VERSIONS))}")
        alignment, seen = 32, set()
        for _ in range(self.counted(keys, 13, "keys")):
            key = self.string("a key")
            if key in seen:
                raise self.broken(f"{key[:60]!r} stands there twice")
            seen.add(key)
            kind = self.number("<I")
            if key == b"general.alignment":
                if kind != 4:
                    raise self.broken("general.alignment is no whole number")
                alignment = struct.unpack_from("<I", self.data, self.at)[0]
            self.value(kind, key)
        if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise self.broken(f"its alignment is {alignment}")
        offsets = [self.tensor() for _ in range(self.counted(tensors, 24, "tensors"))]
        start = self.at + -self.at % alignment
        for name, offset in offsets:
            if start + offset > len(self.data) or offset % alignment:
                raise self.broken(
                    f"tensor {name[:60]!r} stands at {offset}, outside the file of {len(self.data)} bytes"
                )

    def tensor(self) -> tuple[bytes, int]:
        name, dimensions = self.string("a tensor"), self.number("<I")
        if not 1 <= dimensions <= 4:
            raise self.broken(f"tensor {name[:60]!r} has {dimensions} dimensions")
        shape = [self.number("<Q") for _ in range(dimensions)]
        if not all(0 < n < LARGEST_DIMENSION for n in shape) or math.prod(shape) > 8 * len(self.data):
            raise self.broken(f"tensor {name[:60]!r} of shape {shape} cannot be in a file of {len(self.data)} bytes")
        self.number("<I")
        return name, self.number("<Q")

    def value(self, kind: int, key: bytes, depth: int = 0) -> None:
        if kind == STRING:
            self.string(repr(key[:60]))
        elif kind in SCALAR_BYTES:
            self.skip(SCALAR_BYTES[kind])
        elif kind == ARRAY and depth < 2:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in SCALAR_BYTES:
                self.skip(SCALAR_BYTES[inner] * self.counted(count, SCALAR_BYTES[inner], f"values of {key[:60]!r}"))
            else:
                for _ in range(self.counted(count, 8, f"values of {key[:60]!r}")):
                    self.value(inner, key, depth + 1)
        else:
            raise self.broken(f"{key[:60]!r} has a value of the unknown type {kind}")

    def string(self, what: str) -> bytes:
        length = self.number("<Q")
        if length > LONGEST_STRING:
            raise self.broken(f"{what} should be {length} bytes long")
        start = self.at
        self.skip(length)
        return self.data[start : self.at]

    def number(self, form: str) -> int:
        start = self.at
        self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)[0]

    def skip(self, count: int) -> None:
        if self.at + count > len(self.data):
            raise self.broken(f"it ends at {len(self.data)} bytes, in the middle of its header")
        self.at += count

    def counted(self, count: int, least_bytes: int, what: str) -> int:
        if count * least_bytes > len(self.data) - self.at:
            raise self.broken(f"it should have {count} {what}, more than fit into {len(self.data)} bytes")
        return count

    def broken(self, why: str) -> UserError:
        return UserError(f"{self.path} is damaged: {why}")
