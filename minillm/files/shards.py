"""The safetensors files of a model folder: one, or several ("shards") with an index that says which
tensor is in which.
"""

from __future__ import annotations

import re
from pathlib import Path

import safetensors

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.files.kinds import OTHER_FORM
from minillm.files.safetensors_file import StoredTensor, read_header

PARAMETERS_FORMAT = "minillm parameters"  # in the metadata of parameter_files.py
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "consolidated.00.pth",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.bin",
)
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
OTHER_WEIGHTS = {
    "*.gguf": "a GGUF file, which is to be named itself in place of the folder",
    "*.onnx": "ONNX",
    "onnx/*.onnx": "ONNX",
    "*.h5": "TensorFlow's HDF5",
    "*.msgpack": "Flax's msgpack",
    "*.npz": "NumPy's npz",
    "openvino_model.*": "OpenVINO's",
    "*.ot": "rust_model.ot of rust-bert",
}


def open_weights(folder: Path) -> tuple[dict[str, StoredTensor], Path]:
    """(the tensors of a folder by name, the file that a message about all of them should name)

    Raises UserError for a folder without safetensors files, with broken ones, or with links that
    lead out of it.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.exists() or single.is_symlink():
        found = read_header(file_inside(single, folder))
        refuse_parameters(single)
        return found, single
    if index.exists() or index.is_symlink():
        return _open_shards(file_inside(index, folder), folder), index
    if parts := sorted(path.name for path in folder.iterdir() if SHARD.fullmatch(path.name)):
        return _join_shards(folder, parts), folder / parts[0]
    if pickle := next((path for pattern in PICKLES for path in folder.glob(pattern)), None):
        raise UserError(
            f"{folder} holds its weights as a pickle ({pickle.name}), which can run any program when it is opened: get the "
            f"model in safetensors format ({WEIGHTS_FILE}), or convert it where you trust it with transformers: "
            "model.save_pretrained(folder, safe_serialization=True)"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name != "adapter_model.safetensors")
    if others:
        raise UserError(
            f"{single} is missing; {folder} holds {', '.join(others[:3])}: if it is the whole model in Hugging Face's form, "
            f"rename it to {WEIGHTS_FILE}"
        )
    for pattern, kind in OTHER_WEIGHTS.items():
        if found := sorted(folder.glob(pattern)):
            raise UserError(f"{folder} holds its weights as {kind} ({found[0].name}): {OTHER_FORM}")
    raise UserError(f"{single} is missing: the model folder is incomplete")


def refuse_parameters(path: Path) -> None:
    """Raises UserError for a file of `minillm.save_parameters`: its model is not the one that a
    config.json describes.
    """
    with safetensors.safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}).get("format") == PARAMETERS_FORMAT:
            raise UserError(
                f"{path} was written by minillm.save_parameters: build its model in Python, and call "
                "minillm.load_parameters(model, file)"
            )


def _join_shards(folder: Path, names: list[str]) -> dict[str, StoredTensor]:
    """The tensors of shards whose index is missing: their names say how many there should be."""
    numbers = {tuple(SHARD.fullmatch(name).groups()) for name in names}
    counts = {count for _, count in numbers}
    if len(counts) > 1:
        raise UserError(f"{folder} holds shards of two models ({names[0]}, {names[-1]}), and {INDEX_FILE} is not there")
    count = counts.pop()
    for number in range(1, int(count) + 1):
        if (wanted := f"model-{number:0{len(count)}}-of-{count}.safetensors") not in names:
            raise UserError(f"{folder / wanted} is missing: it is one of {int(count)} shards")
    found = {}
    for name in names:
        tensors = read_header(file_inside(folder / name, folder))
        if twice := sorted(set(tensors) & set(found)):
            raise UserError(f"{folder / name} holds tensor {twice[0]!r}, which an earlier shard holds, too")
        found |= tensors
    return found


def _open_shards(index: Path, folder: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index}: weight_map is not an object that names a file for each tensor")
    found = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UserError(f"{index} names {shard!r}, which is no safetensors file of the folder")
        tensors = read_header(file_inside(folder / shard, folder))
        for name in tensors:
            if weight_map.get(name) != shard:
                raise UserError(f"{folder / shard} holds tensor {name!r}, which {index.name} does not say")
        found |= tensors
    if missing := sorted(set(weight_map) - set(found)):
        raise UserError(
            f"{folder / weight_map[missing[0]]}: tensor {missing[0]!r} is missing, which {index.name} names"
        )
    return found


def file_inside(path: Path, folder: Path) -> Path:
    """The path, if what it leads to is in the folder.

    A snapshot in the Hugging Face cache links to its blobs folder.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots" and (root.parent.parent / "blobs").is_dir():
        root = root.parent.parent
    if not path.resolve().is_relative_to(root):
        raise UserError(
            f"{path} is a link that leads out of the folder, to {path.resolve()}: put the file itself there"
        )
    return path
