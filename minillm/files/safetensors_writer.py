"""Writing safetensors files tensor by tensor, and in several parts ("shards").

Only one tensor is in memory at a time. The format is that of safetensors_file.py; how tensors are
spread over shards, and the index of them, is as the library huggingface_hub has it: in their order,
a new shard where the next tensor would make it larger than the limit.

    model-00001-of-00002.safetensors
    model-00002-of-00002.safetensors
    model.safetensors.index.json        {"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import json_bytes, replacing, write_atomically
from minillm.files.number_types import BYTES
from minillm.files.shards import INDEX_FILE, WEIGHTS_FILE

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)


def write_shards(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    kind: str,
    read: Callable[[str], np.ndarray],
    limit: int | None = None,
) -> list[str]:
    """Write tensors as model.safetensors, or as shards of at most `limit` bytes and their index;
    returns the names of the files.

    kind: how numbers are stored, as in number_types.py. read: gives a tensor, in these numbers. A
    tensor above the limit has a shard of its own.
    """
    parts = _parts(shapes, BYTES[kind], limit)
    count = len(parts)
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [WEIGHTS_FILE]
    for name, part in zip(names, parts):
        _write(folder / name, {tensor: shapes[tensor] for tensor in part}, kind, read)
    if count > 1:
        numbers = sum(map(math.prod, shapes.values()))
        index = {
            "metadata": {"total_parameters": numbers, "total_size": numbers * BYTES[kind]},
            "weight_map": {tensor: name for name, part in zip(names, parts) for tensor in part},
        }
        write_atomically(folder / INDEX_FILE, json_bytes(index))
        names.append(INDEX_FILE)
    return names


def size_in_bytes(text: str) -> int:
    """A size as people write it. Raises UserError for anything else.

    >>> size_in_bytes("5GB"), size_in_bytes("1.5 MiB"), size_in_bytes("300")
    (5000000000, 1572864, 300)
    """
    match = SIZE.fullmatch(text.strip())
    size = (
        0
        if match is None
        else int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))
    )
    if not size:
        raise UserError(f'the size of a shard is "{text}": write it as 5GB, 500MB or 1GiB')
    return size


def _parts(shapes: dict[str, tuple[int, ...]], item_bytes: int, limit: int | None) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * item_bytes
        if limit is not None and parts[-1] and filled + size > limit:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _write(path: Path, shapes: dict[str, tuple[int, ...]], kind: str, read: Callable[[str], np.ndarray]) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * BYTES[kind]
        header[name] = {"dtype": DTYPES[kind], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            tensor = read(name)
            assert tensor.shape == shape and tensor.itemsize == BYTES[kind], name
            file.write(memoryview(tensor).cast("B"))
