"""LoRA's matrices in a separate folder, in the format of the library `peft`.

adapter_config.json          rank, alpha, and which model they belong to
adapter_model.safetensors    the matrices: a thousandth of the model
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np

from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.files.atomic import read_json, replacing, save_tensors, write_atomically
from minillm.files.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from minillm.files.safetensors_file import StoredTensor, read_header
from minillm.files.shards import file_inside
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear
from minillm.models.language_model import LanguageModel
from minillm.models.structure import refuse_changed
from minillm.pretrained.adapter_config import AdapterScales

PREFIX = "base_model.model."
# peft's names, with or without its prefix, and with the adapter's name if it was saved by hand
MATRIX = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight")


def save_adapter(model, folder: Path, base: str) -> None:
    """Write the LoRA matrices of a model; `base` is the folder or name of the model without them.

    Raises UserError for a model that differs from its configuration (apart from LoRA), and if
    `folder` is that model's own folder, which would become an adapter of itself.
    """
    refuse_changed(model, "be saved as an adapter")
    folder.mkdir(parents=True, exist_ok=True)
    if Path(base).exists() and os.path.samefile(base, folder):
        raise UserError(f"{folder} is the model that the adapter belongs to: write the adapter to another folder")
    tensors = {
        f"{PREFIX}{name}.weight": np.ascontiguousarray(to_host(parameter.value))
        for name, parameter in model.parameters().items()
        if name.endswith((".lora_A", ".lora_B"))
    }
    with replacing(folder / ADAPTER_WEIGHTS) as temporary:
        save_tensors(tensors, temporary, {"format": "pt"})
    adapted = {path: layer for path, layer in model.layers() if isinstance(layer, LoRALinear)}
    contents = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": model.lora.rank,
        "lora_alpha": model.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": not any(layer.transposed for layer in adapted.values()),
        "target_modules": sorted({path.rpartition(".")[2] for path in adapted}),
        "inference_mode": True,
    }
    write_atomically(folder / ADAPTER_CONFIG, (json.dumps(contents, indent=2) + "\n").encode("utf-8"))


def adapter_base(folder: Path) -> str:
    """The folder or name of the model that the adapter in `folder` belongs to."""
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path does not name a model")
    return base


def adapter_revision(folder: Path) -> str | None:
    """The branch, tag or commit of the adapter's base on the hub; None: the newest."""
    revision = read_json(folder / ADAPTER_CONFIG).get("revision")
    if revision is not None and not isinstance(revision, str):
        raise UserError(f"{folder / ADAPTER_CONFIG}: revision is {revision!r:.99}, expected a text")
    return revision or None


def apply_adapter(model, folder: Path):
    """`model` with the adapter in `folder` merged into its weights, in evaluation mode.

    Raises UserError for an adapter of another model, and for any unsupported part of it, by name.
    """
    path = folder / ADAPTER_CONFIG
    scales = AdapterScales(read_json(path), path)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file() and (folder / "adapter_model.bin").is_file():
        raise UserError(
            f"{folder} holds its adapter as a pickle (adapter_model.bin), which can run any program when it is opened: get it "
            f"as {ADAPTER_WEIGHTS}, or convert it where you trust it with peft: model.save_pretrained(folder)"
        )
    pairs = _pairs(read_header(file_inside(weights, folder)), weights, model)
    layers = dict(model.layers())
    for module, (stored_module, a, b) in pairs.items():
        layer = layers.get(module)
        if type(layer) is not Linear or layer is model.lm_head and model.config.tie_embeddings:
            raise UserError(f"{weights}: tensor {a.name} does not belong to a LoRA of this model")
        rank, scale = scales.of(stored_module)
        inputs, outputs = layer.weight.value.shape[::-1] if layer.transposed else layer.weight.value.shape
        for tensor, shape in ((a, (rank, inputs)), (b, (outputs, rank))):
            if tensor.shape != shape:
                raise UserError(f"{weights}: tensor {tensor.name} has shape {tensor.shape}, not {shape}")
        dtype = layer.weight.value.dtype
        adapted = LoRALinear(layer, a.read(dtype), b.read(dtype), scale * rank)
        layer.weight.value, layer.weight.frozen = adapted.merged_weight(), False
        if hasattr(layer, "bias"):
            layer.bias.frozen = False
    scales.check_targets(list(layers), set(pairs))
    return model.eval()


def _pairs(
    stored: dict[str, StoredTensor], weights: Path, model: LanguageModel
) -> dict[str, tuple[str, StoredTensor, StoredTensor]]:
    """Path of a layer -> (its path as the file has it, A, B).

    Raises UserError for tensors that are no such pair.
    """
    found = {}
    for name, tensor in stored.items():
        match = MATRIX.fullmatch(name)
        if match is None:
            raise UserError(f"{weights}: tensor {name} does not belong to a LoRA of this model")
        module = model.full_name(f"{match[1]}.weight").removesuffix(".weight")
        matrices = found.setdefault(module, {})
        if match[2] in matrices:
            raise UserError(f"{weights} holds lora_{match[2]} of {module} twice: it holds more than one adapter")
        matrices[match[2]] = match[1], tensor
    for module, matrices in found.items():
        if missing := {"A", "B"} - set(matrices):
            raise UserError(f"{weights}: lora_{missing.pop()} of {module} is missing: the file is incomplete")
    return {module: (m["A"][0], m["A"][1], m["B"][1]) for module, m in found.items()}
