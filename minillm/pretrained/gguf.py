"""GGUF files: llama.cpp's models, weights of any of its types, and the tokenizer
(gguf_tokenizer.py), in one file.

`read_header` reads what is in them and sees that all counts, lengths and offsets fit the file;
weights are expanded as gguf_types.py says. A file that was split is joined. What keys and
tensors mean is in gguf_keys.py. Weights are expanded once, to float32 or float64. llama.cpp rotates
interleaved pairs in some architectures, whose rows of query and key weights have been moved for it;
here they are moved back, and the model is that of the Hugging Face folder it was made from.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.errors import UserError
from minillm.files.number_formats import FORMATS
from minillm.files.safetensors_file import first_not_finite
from minillm.layers.linear import Linear
from minillm.layers.stored_weight import StoredWeight
from minillm.models.language_model import LanguageModel
from minillm.models.llama_names import rows_to_halves
from minillm.pretrained.gguf_check import MAGIC, TensorPlace, read_header
from minillm.pretrained.gguf_keys import check_keys, check_tensors, model_class_of
from minillm.pretrained.gguf_types import PLAIN, TensorType, expanded, format_of, tensor_type
from minillm.pretrained.stored_weights import EXPANDED, check_finite, fill
from minillm.tokenizers.byte_spelling import spell

NO_TOKEN = spell(b"\xff")  # named as BOS and EOS by files of models that have none: no text has this byte
SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")  # as llama.cpp's gguf-split names the parts


class Settings:
    """The keys and values of a file that is read, or of one that is to be written."""

    def __init__(self, path: Path, settings: dict):
        self.path, self.settings = path, settings

    def setting(self, key: str, kind, default=None):
        """The value of a key of the type `kind`.

        Raises UserError for another type, or a missing key without default.
        """
        value = self.settings.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
            raise UserError(f"{self.path}: {key} is {value!r:.60}, expected {getattr(kind, '__name__', kind)}")
        # stored as float32: the shortest decimal number, 1e-05 and not 9.999999747378752e-06
        return float(str(np.float32(value))) if kind is float else value


class GGUF(Settings):
    """An open file: `settings`, its keys and values, and `tensor`, its weights.

    Raises UserError if it is invalid.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        settings, places = read_header(self.path)
        super().__init__(self.path, settings)
        self._tensors = _mapped(self.path, places)
        if self.settings.get("split.count", 1) != 1:
            self._join()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self):
        """The names of all tensors."""
        return self._tensors.keys()

    def type_of(self, name: str) -> str:
        """How the numbers of a tensor are stored: "F32", "Q8_0"."""
        return self._tensors[name].tensor_type.name

    def vocab_size(self) -> int:
        """The rows of the token embedding."""
        if "token_embd.weight" not in self:
            raise UserError(
                f"{self.path} has no tensor token_embd.weight: the file is incomplete, or a vocabulary alone"
            )
        shape = self._tensors["token_embd.weight"].shape
        if len(shape) != 2:
            raise UserError(f"{self.path}: token_embd.weight has {len(shape)} dimensions, expected 2")
        return int(shape[1])

    def _join(self) -> None:
        """Add the tensors of the other parts of a split file; the keys are in the first part."""
        count, expected = self.settings.get("split.count"), self.settings.get("split.tensors.count")
        match = SPLIT_NAME.fullmatch(self.path.name)
        if not match or int(match[3]) != count:
            raise UserError(
                f"{self.path} is one of {count} parts of a split GGUF file: put the others beside it and keep their names, "
                f"NAME-00001-of-{count:05}.gguf"
            )
        self.settings, self._tensors = {}, {}
        for number in range(1, count + 1):
            path = self.path.with_name(f"{match[1]}-{number:05}-of-{count:05}.gguf")
            if not path.is_file():
                raise UserError(f"{self.path} is one of {count} parts of a split GGUF file, and {path} is missing")
            settings, places = read_header(path)
            tensors = _mapped(path, places)
            if settings.get("split.no") != number - 1 or settings.get("split.count") != count:
                raise UserError(
                    f"{path} is not part {number} of {count}: it says part {settings.get('split.no')!r:.20}"
                )
            if twice := sorted(set(tensors) & set(self._tensors)):
                raise UserError(f"{path}: tensor {twice[0]} is in an earlier part as well")
            self.settings = {**settings, **self.settings}
            self._tensors |= tensors
        if expected is not None and expected != len(self._tensors):
            raise UserError(
                f"{self.path}: its {count} parts should hold {expected} tensors, they hold {len(self._tensors)}"
            )

    def tensor(self, name: str, dtype) -> np.ndarray:
        """A dequantised tensor; its shape is (out, in), as in Hugging Face files."""
        if name not in self._tensors:
            raise UserError(f"{self.path} has no tensor {name}: the file is incomplete")
        stored = self._tensors[name]
        shape = tuple(int(n) for n in reversed(stored.shape))
        try:
            values = expanded(stored.data, stored.tensor_type).reshape(shape).astype(dtype, copy=False)
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

    def matrix(self, name: str) -> StoredWeight | None:
        """A matrix (out, in) as it is stored; None for what is no matrix, or has more than 16 bits
        a number.
        """
        stored = self._tensors.get(name)
        if stored is None or len(stored.shape) != 2:
            return None
        kind, (columns, rows) = stored.tensor_type, map(int, stored.shape)
        is_number = kind.block == 1  # each for itself, as in F32
        if is_number and kind.name not in FORMATS or columns % kind.block:
            return None
        return StoredWeight(stored.data.view(np.uint8).reshape(rows, -1), format_of(kind))


class StoredTensor(NamedTuple):
    """A tensor in the file: its type, its shape as GGUF has it, the fastest axis first, and its
    numbers or, of types that are packed, the bytes of its rows.
    """

    tensor_type: TensorType
    shape: tuple[int, ...]
    data: np.ndarray


def _mapped(path: Path, places: list[TensorPlace]) -> dict[str, StoredTensor]:
    """The tensors of one file by name, in a private map of it: training changes the numbers in
    memory, never the file.
    """
    data = np.asarray(np.memmap(path, mode="c"))
    tensors = {}
    for name, shape, number, start in places:
        kind = tensor_type(number, path)
        try:
            plain = getattr(np, PLAIN.get(kind.name, "uint8"))
            size = math.prod(shape) * kind.block_bytes // kind.block
            rows = (*reversed(shape[1:]), -1)
            tensors[name] = StoredTensor(kind, shape, data[start : start + size].view(plain).reshape(rows))
            if tensors[name].data.nbytes != size or shape[0] % kind.block:
                raise ValueError(f"tensor {name[:60]!r} is cut off, or its rows are no whole blocks of {kind.name}")
        except ValueError as error:
            raise UserError(f"{path} is damaged, or newer than minillm: {error}") from None
    return tensors


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


@dataclass(frozen=True)
class GGUFWeights:
    """The weights of a file as parameters of the model that it holds, each expanded when it is
    read.

    shapes: of the parameters, by name. turned: names of those that GGUF stores transposed.
    """

    file: GGUF
    kind: type[LanguageModel]
    config: object
    shapes: dict[str, tuple[int, ...]]
    turned: frozenset[str]

    def read(self, name: str, dtype) -> np.ndarray:
        """The value of a parameter. Raises UserError for a tensor that is missing or damaged."""
        stored, shape = self.kind.gguf_tensor(name), self.shapes[name]
        if self.kind.gguf_zero_biases and name.endswith(".bias") and stored not in self.file:
            return np.zeros(shape, dtype)
        value = self.file.tensor(stored, dtype)
        if name in self.turned:
            value = np.ascontiguousarray(value.T)  # GGUF has (out, in)
        if value.shape != shape:
            raise UserError(f"{self.file.path}: {name} is {value.shape}, the configuration says {shape}")
        moved = self.kind.heads_of_rows(self.config) if self.kind.gguf_moves_rows else {}
        return rows_to_halves({name: value}, moved)[name]

    def matrix(self, name: str) -> StoredWeight | None:
        """The value of a parameter as the file holds it; None where it has to be read.

        Rows that were moved stay where they are, with their order beside them. Raises UserError for
        numbers that are not finite.
        """
        weight = self.file.matrix(self.kind.gguf_tensor(name))
        if weight is None:
            return None
        if self.kind.gguf_moves_rows:
            rows = np.arange(len(weight))
            order = rows_to_halves({name: rows}, self.kind.heads_of_rows(self.config))[name]
            weight = weight if order is rows else StoredWeight(weight.stored, weight.format, order)
        if name in self.turned:
            weight = weight.T  # GGUF has (out, in)
        if weight.shape != self.shapes[name]:
            raise UserError(f"{self.file.path}: {name} is {weight.shape}, the configuration says {self.shapes[name]}")
        check_finite(weight, f"{self.file.path}: {name}")
        return weight


def open_gguf_weights(path: str | Path) -> GGUFWeights:
    """The weights of a file. Raises UserError for what no architecture of ours computes."""
    file = open_gguf(path)
    kind = model_class_of(file)
    check_keys(file, kind)
    layers = file.setting(f"{kind.gguf_name}.block_count", int)
    if f"blk.{layers - 1}.attn_norm.weight" not in file:  # before anything is made of that size
        raise UserError(f"{file.path} should have {layers} blocks, and has no tensor of the last one")
    config = kind.config_from_gguf(file)
    model = kind(config, seed=None)
    shapes = {name: tuple(parameter.value.shape) for name, parameter in model.parameters().items()}
    check_tensors(file, {*map(kind.gguf_tensor, shapes), *kind.gguf_extra_tensors}, kind)
    return GGUFWeights(file, kind, config, shapes, turned_in_gguf(model))


def turned_in_gguf(model: LanguageModel) -> frozenset[str]:
    """The parameters whose matrices GGUF stores transposed: GPT-2's, which are (in, out)."""
    linears = ((path, layer) for path, layer in model.layers() if isinstance(layer, Linear))
    return frozenset(f"{path}.weight" for path, layer in linears if not layer.transposed)


def load_gguf(path: str | Path, dtype="float32", weights: str = EXPANDED):
    """The model in a GGUF file, in evaluation mode. weights: see stored_weights.py.

    Raises UserError for what no architecture of ours computes.
    """
    opened = open_gguf_weights(path)
    model = opened.kind(opened.config, seed=None, dtype=dtype)
    return fill(model, lambda name: None if weights == EXPANDED else opened.matrix(name), opened.read)
