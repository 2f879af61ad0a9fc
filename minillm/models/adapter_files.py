"""LoRA's matrices in a folder of their own, as the library `peft` names them.

adapter_config.json          rank, alpha, and which model they belong to
adapter_model.safetensors    the matrices: a thousandth of the model
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

from minillm.backend import to_host
from minillm.errors import UserError
from minillm.files import read_json, replacing, save_tensors, write_atomically
from minillm.layers.lora import LoRALinear
from minillm.models.fine_tuning import LoRA, add_lora, merged
from minillm.models.weight_files import file_inside
from minillm.tensor_file import read_header

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, LARGEST_RANK = "base_model.model.", 1 << 16


def save_adapter(model, folder: Path, base: str) -> None:
    """Write the LoRA matrices of a model; `base` is the folder or name of the model without them.

    Raises UserError if `folder` is that model's: it would be taken for its own adapter.
    """
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
    targets = {path.rpartition(".")[2] for path, layer in model.layers() if isinstance(layer, LoRALinear)}
    contents = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": model.lora.rank,
        "lora_alpha": model.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": type(model).__name__ == "GPT2",
        "target_modules": sorted(targets),
        "inference_mode": True,
    }
    write_atomically(folder / ADAPTER_CONFIG, (json.dumps(contents, indent=2) + "\n").encode("utf-8"))


def adapter_base(folder: Path) -> str:
    """The folder or name of the model that the adapter in `folder` belongs to."""
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path does not name a model")
    return base


def apply_adapter(model, folder: Path):
    """`model` with the adapter in `folder` merged into its weights: a plain model, in evaluation mode."""
    path = folder / ADAPTER_CONFIG
    contents = read_json(path)
    rank, alpha = contents.get("r"), contents.get("lora_alpha")
    if contents.get("peft_type") != "LORA" or not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
        raise UserError(f"{path}: not a LoRA (peft_type {contents.get('peft_type')!r:.99}, r {rank!r:.99})")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise UserError(f"{path}: lora_alpha is {alpha!r:.99}, expected a number")
    unknown = [name for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if contents.get(name)]
    if unknown:
        raise UserError(f"{path}: minillm does not compute {unknown[0]}")
    add_lora(model, LoRA(rank, float(alpha)))
    parameters = {n: p for n, p in model.parameters().items() if n.endswith((".lora_A", ".lora_B"))}
    weights = folder / ADAPTER_WEIGHTS
    stored = read_header(file_inside(weights, folder))
    names = {f"{PREFIX}{name}.weight": name for name in parameters}
    if unknown := sorted(set(stored) - set(names)):
        raise UserError(f"{weights}: tensor {unknown[0]} does not belong to a LoRA of this model")
    for their_name, name in names.items():
        if their_name not in stored:  # a layer that was not adapted: its product with B = 0 adds nothing
            continue
        tensor, parameter = stored[their_name], parameters[name]
        if tensor.shape != parameter.value.shape:
            raise UserError(f"{weights}: tensor {their_name} has shape {tensor.shape}, not {parameter.value.shape}")
        parameter.value = tensor.read(parameter.value.dtype)
    return merged(model).eval()
