"""GPT-2 as a Hugging Face model folder: config.json and model.safetensors, with the names that `transformers` uses.

What minillm saves, `transformers` opens, and the other way round. GPT-2 in `transformers` always has biases: a model
without them is saved with biases of zero and `"bias": false` in config.json, which only minillm reads.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

from minillm.backend import to_host
from minillm.errors import UserError
from minillm.files import read_json, replacing, write_atomically
from minillm.models.gpt2 import GPT2, GPT2Config

CONFIG_FILE, WEIGHTS_FILE, GENERATION_FILE = "config.json", "model.safetensors", "generation_config.json"
CAUSAL_MASK_BUFFERS = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")  # constants in OpenAI's own files

_HF_FIELDS = {  # ours -> Hugging Face's
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "d_model": "n_embd",
    "d_ff": "n_inner",
    "tie_embeddings": "tie_word_embeddings",
    "activation": "activation_function",
    "layer_norm_eps": "layer_norm_epsilon",
}


# --------------------------------------------------------------------------------------------------------------- saving


def save_gpt2(model: GPT2, folder: str | Path) -> None:
    """Write config.json, generation_config.json and model.safetensors into `folder`, each of them atomically."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_gpt2_config(model.config, folder)
    save_gpt2_weights(model, folder / WEIGHTS_FILE)


def save_gpt2_config(config: GPT2Config, folder: Path) -> None:
    """Write config.json and generation_config.json."""
    write_atomically(folder / CONFIG_FILE, _json(config_to_hugging_face(config)))
    write_atomically(folder / GENERATION_FILE, _json({"do_sample": True, "max_length": config.context_length}))


def save_gpt2_weights(model: GPT2, path: Path) -> None:
    """Write the weights as one safetensors file."""
    tensors = {name: to_host(parameter.value) for name, parameter in model.parameters().items()}
    if not model.config.bias:
        tensors |= {name: np.zeros(shape, np.float32) for name, shape in _zero_biases(model.config).items()}
    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, temporary, {"format": "pt"})


def config_to_hugging_face(config: GPT2Config) -> dict:
    """The contents of config.json."""
    fields = {theirs: getattr(config, ours) for ours, theirs in _HF_FIELDS.items()}
    dropouts = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **fields,
        **dropouts,
        "bias": config.bias,
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def _zero_biases(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the biases that a model without biases does not have."""
    c, f = config.d_model, config.d_ff
    widths = {"ln_1": c, "attn.c_attn": 3 * c, "attn.c_proj": c, "ln_2": c, "mlp.c_fc": f, "mlp.c_proj": c}
    shapes = {
        f"transformer.h.{index}.{part}.bias": (width,)
        for index in range(config.n_layer)
        for part, width in widths.items()
    }
    return shapes | {"transformer.ln_f.bias": (c,)}


def _json(contents: dict) -> bytes:
    return (json.dumps(contents, indent=2) + "\n").encode("utf-8")


# -------------------------------------------------------------------------------------------------------------- opening


def load_gpt2(folder: str | Path, dtype="float32") -> GPT2:
    """The model of a folder with config.json and model.safetensors, in evaluation mode.

    Raises UserError naming the file, and the tensor, that is missing, too many, of the wrong shape or not finite.
    """
    folder = Path(folder)
    config = config_from_hugging_face(read_json(folder / CONFIG_FILE), folder / CONFIG_FILE)
    model = GPT2(config, seed=None, dtype=dtype)
    load_gpt2_weights(model, folder / WEIGHTS_FILE)
    return model.eval()


def config_from_hugging_face(contents: dict, path: Path) -> GPT2Config:
    """The configuration in the contents of a config.json at `path` (for messages)."""
    if contents.get("model_type") != "gpt2":
        raise UserError(f'{path}: model_type is {contents.get("model_type")!r}, expected "gpt2"')
    fields = {ours: contents[theirs] for ours, theirs in _HF_FIELDS.items() if theirs in contents}
    missing = [
        _HF_FIELDS[name]
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "d_model")
        if name not in fields
    ]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; is this the config.json of a complete model folder?")
    try:
        return GPT2Config(**fields, dropout=contents.get("resid_pdrop", 0.0), bias=contents.get("bias", True))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def load_gpt2_weights(model: GPT2, path: Path) -> None:
    """Read a safetensors file into the model's parameters."""
    if not path.is_file():
        raise UserError(f"{path} is missing: the model folder is incomplete")
    wanted = model.parameters()
    zero_biases = {} if model.config.bias else _zero_biases(model.config)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            stored = {_full_name(name): name for name in file.keys() if not CAUSAL_MASK_BUFFERS.fullmatch(name)}
            _check_names(set(stored), set(wanted), set(zero_biases), path)
            for name, parameter in wanted.items():
                tensor = _read_tensor(file, stored[name], path, parameter.value.shape)
                parameter.value[...] = tensor
            for name, shape in zero_biases.items():
                if name in stored and _read_tensor(file, stored[name], path, shape).any():
                    raise UserError(f'{path}: {name} is not zero, but config.json says "bias": false')
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a complete safetensors file: {error}") from None


def _full_name(name: str) -> str:
    """OpenAI's own files leave out the leading "transformer."."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def _check_names(stored: set[str], wanted: set[str], optional: set[str], path: Path) -> None:
    if missing := sorted(wanted - stored):
        raise UserError(f"{path}: tensor {missing[0]} is missing{_and_more(missing)}, which config.json calls for")
    tied_copy = {"lm_head.weight"} - wanted  # some writers store the tied head a second time
    if extra := sorted(stored - wanted - optional - tied_copy):
        raise UserError(f"{path}: tensor {extra[0]}{_and_more(extra)} does not belong to the model of config.json")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _read_tensor(file, name: str, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    header = file.get_slice(name)
    if tuple(header.get_shape()) != tuple(shape):
        raise UserError(f"{path}: tensor {name} has shape {tuple(header.get_shape())}, config.json calls for {shape}")
    if header.get_dtype() not in ("F16", "F32", "F64"):
        raise UserError(f"{path}: tensor {name} is stored as {header.get_dtype()}; use F32, F16 or F64")
    tensor = file.get_tensor(name)
    finite = np.isfinite(tensor)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise UserError(f"{path}: tensor {name} is not finite: {tensor[where]} at {where}")
    return tensor
