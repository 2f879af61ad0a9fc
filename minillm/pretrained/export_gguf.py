"""Writing a model as a GGUF file, which llama.cpp opens, with its tokenizer and chat template.

The keys and the names of tensors are those of llama.cpp's converter; gguf.py reads them back.
Norms, biases, position embeddings and rotary factors stay float32, as there. The tensors are read,
turned, rounded and written one by one, a part of a large one at a time.

q8_0 stores blocks of 32 numbers of a row as whole numbers q from -127 to 127 and one step d:

    d = max |x| / 127        q = round(x / d)        x' = q d', where d' is d as float16

so that |x' - x| <= (1/2 + 127 / 2048) d: half a step, and the rounding of the step. A tensor whose
rows are no multiple of 32 is stored as f16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.errors import MissingExtra, UserError
from minillm.files.atomic import replacing
from minillm.files.number_types import BYTES, stored
from minillm.models.carried import DEFAULT_TEMPLATE, Carried
from minillm.models.llama_names import rows_to_interleaved
from minillm.pretrained.carried import GGUF_SAMPLING
from minillm.pretrained.export_tokenizer import tokenizer_settings
from minillm.pretrained.gguf import turned_in_gguf
from minillm.pretrained.weights import Weights

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # general.file_type
BLOCK, BLOCK_BYTES = 32, 34  # of q8_0
ALIGNMENT = 32  # bytes, GGUF's usual one
PART = 1 << 24  # numbers that are rounded at a time
POSITIONS = "position_embd.weight"
GGUF_NAMES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}  # our names of types -> GGUF's


class Tensor(NamedTuple):
    """A tensor of the file: its name, shape (out, in) and type, and what reads it as float32."""

    name: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[[], np.ndarray]

    def size(self) -> int:
        """Bytes in the file."""
        count = math.prod(self.shape)
        return count // BLOCK * BLOCK_BYTES if self.kind == "q8_0" else count * BYTES[self.kind]


def write_gguf(
    weights: Weights,
    path: Path,
    kind: str,
    tokenizer,
    carried: Carried,
    about: dict[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a model as the GGUF file `path`; returns notes on what the file does not say.

    kind: one of FILE_TYPES. tokenizer: None for a file without one, which llama.cpp opens for ids
    alone. about: keys general.*. progress: is given the bytes that are written, and all of them.
    Raises MissingExtra without the package gguf, and UserError for a model or tokenizer that GGUF
    cannot hold, before anything is written, and for a number that f16 cannot.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtra(f"writing {path.name}", "the package gguf", "gguf") from None
    architecture, config = weights.kind, weights.config
    if why := architecture.gguf_refusal(config):
        raise UserError(f"{path}: a GGUF file cannot say {why}; export the model to a folder")
    try:
        tensors = list(_tensors(weights, kind))
        settings, notes = _settings(weights, kind, tokenizer, carried, about)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    notes += filter(None, [architecture.gguf_note(config), _odd_rows(tensors, kind)])
    with replacing(path) as temporary:
        _write_header(gguf, temporary, architecture.gguf_name, settings, tensors)
        total, done = sum(tensor.size() for tensor in tensors), 0
        with open(temporary, "ab") as file:
            for tensor in tensors:
                _align(file)
                for part in _encoded(tensor, gguf):
                    file.write(part)
                    done += len(part)
                    if progress is not None:
                        progress(done, total)
            _align(file)
    return notes


# ----------------------------------------------------------------------------------------------------------- the keys


def _settings(weights: Weights, kind: str, tokenizer, carried: Carried, about: dict) -> tuple[dict, list[str]]:
    config = weights.config
    settings = {"general.type": "model", **about, "general.file_type": FILE_TYPES[kind]}
    settings |= {"general.quantization_version": 2}  # of q8_0's blocks
    settings |= _sampling(carried.generation)
    settings |= weights.kind.config_to_gguf(config)
    if tokenizer is None:
        return settings | {"tokenizer.ggml.model": "none"}, []
    ends = carried.generation.get("eos_token_id", carried.ids.get("eos_token_id"))
    keys, notes = tokenizer_settings(tokenizer, config.vocab_size, {**carried.ids, "eos_token_id": ends})
    return settings | keys | _templates(carried.templates), notes


def _sampling(generation: dict) -> dict:
    """How the makers of a model let it write, where they let it be sampled."""
    if not generation.get("do_sample"):
        return {}
    kinds = {"top_k": int}
    return {
        f"general.sampling.{theirs}": kinds.get(theirs, float)(generation[ours])
        for theirs, ours in GGUF_SAMPLING.items()
        if isinstance(generation.get(ours), (int, float))
    }


def _templates(templates: dict[str, str]) -> dict:
    key = "tokenizer.chat_template"
    named = {f"{key}.{name}": text for name, text in templates.items() if name != DEFAULT_TEMPLATE}
    found = {key: templates[DEFAULT_TEMPLATE]} if DEFAULT_TEMPLATE in templates else {}
    return found | ({f"{key}s": [name.removeprefix(f"{key}.") for name in named], **named} if named else {})


def _write_header(gguf, path: Path, architecture: str, settings: dict, tensors: list[Tensor]) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    kinds = gguf.GGUFValueType
    types = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING, list: kinds.ARRAY}
    for key, value in settings.items():
        writer.add_key_value(key, value, types[type(value)])
    for tensor in tensors:
        quantised = gguf.GGMLQuantizationType[GGUF_NAMES[tensor.kind]]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype("f4"), tensor.size(), raw_dtype=quantised)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


# -------------------------------------------------------------------------------------------------------- the tensors


def _tensors(weights: Weights, kind: str) -> Iterator[Tensor]:
    """All tensors, in the order of the parameters."""
    architecture, config = weights.kind, weights.config
    turned = turned_in_gguf(architecture(config, seed=None))
    heads = architecture.heads_of_rows(config) if architecture.gguf_moves_rows and not config.rope_interleaved else {}
    for name, factors in architecture.extra_tensors_to_gguf(config).items():
        yield Tensor(name, factors.shape, "f32", lambda factors=factors: factors)
    for name, shape in weights.shapes.items():
        read = _reader(weights, name, name in turned, heads.get(name.split(".")[-2]))
        shape = shape[::-1] if name in turned else shape
        stored_name = architecture.gguf_tensor(name)
        yield Tensor(stored_name, shape, _kind_of(stored_name, shape, kind), read)
    for name, shape in architecture.zero_tensors(config).items():
        yield Tensor(architecture.gguf_tensor(name), shape, "f32", lambda shape=shape: np.zeros(shape, np.float32))


def _kind_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    if len(shape) < 2 or name == POSITIONS:
        return "f32"
    return "f16" if kind == "q8_0" and shape[-1] % BLOCK else kind


def _reader(weights: Weights, name: str, is_turned: bool, heads: int | None) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        value = weights.read(name)
        value = value.T if is_turned else value
        return rows_to_interleaved(value, heads) if heads else value

    return read


def _encoded(tensor: Tensor, gguf) -> Iterator[bytes]:
    """The bytes of a tensor, part by part: as many rows as make PART numbers, at least one."""
    value = tensor.read()
    rows = value if value.ndim > 1 else value[None]
    step = max(1, PART // rows.shape[-1])
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step], np.float32)
        if tensor.kind == "q8_0":
            yield gguf.quants.quantize(part, gguf.GGMLQuantizationType.Q8_0).tobytes()
        else:
            yield stored(part, tensor.kind, tensor.name).tobytes()


def _odd_rows(tensors: list[Tensor], kind: str) -> str | None:
    odd = [tensor for tensor in tensors if kind == "q8_0" and tensor.kind == "f16"]
    if not odd:
        return None
    return (
        f"{len(odd)} tensors are f16, because q8_0 needs rows of a multiple of {BLOCK} numbers: {odd[0].name} has rows of "
        f"{odd[0].shape[-1]}"
    )


def _align(file) -> None:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
