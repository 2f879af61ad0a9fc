"""The keys of a GGUF file: used, without effect, or refused by name.

Source: the keys as llama.cpp reads them (src/llama-model.cpp, src/llama-context.cpp). Which of them
an architecture uses, and for what, its model class says (models/architecture.py). Keys of other
groups (general.*, tokenizer.*, quantize.*, and custom ones) change nothing that is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from minillm.errors import UserError
from minillm.models.architecture import Architecture
from minillm.models.architectures import ARCHITECTURES

# these say something of how the model was made
WITHOUT_EFFECT = {
    "vocab_size",
    "rope.scaling.finetuned",
    "decoder_start_token_id",
}
# these change nothing at one of the values
NEUTRAL = {
    "attention.causal": (True,), "tensor_data_layout": ("Meta AI original pth",), "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,), "attention.max_alibi_bias": (0.0,), "attention.sliding_window": (0,),
    "attention.temperature_length": (0,), "attn_logit_softcapping": (0.0,), "final_logit_softcapping": (0.0,),
    "router_logit_softcapping": (0.0,), "embedding_scale": (0.0, 1.0), "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0), "rope.scaling.attn_factor": (1.0,), "rope.scaling.yarn_log_multiplier": (0.0,),
    "expert_count": (0,), "expert_used_count": (0,), "expert_shared_count": (0,), "use_parallel_residual": (False,),
    "pooling_type": (0,), "leading_dense_block_count": (0,), "nextn_predict_layers": (0,),
}  # fmt: skip
EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate_inp|\w*exps|\w*shexp|(gate|up|down)\.\d+|exp_probs).*")
HEAD_NORMS = re.compile(r"blk\.\d+\.attn_(q|k)_norm\..*")
OTHER_TENSORS = {  # the beginning of a name -> what such a tensor is for
    "cls": "a classifier in place of the head",
    "token_types": "token types",
    "mm.": "pictures or sound",
    "v.": "pictures",
    "a.": "sound",
}


def model_class_of(file) -> type[Architecture]:
    """The model class of the file's architecture; where several have its name, the first that knows
    all of the file's keys.

    Raises UserError for an architecture that minillm does not have.
    """
    architecture = file.setting("general.architecture", str)
    kinds = [kind for kind in ARCHITECTURES.values() if kind.gguf_name == architecture]
    if not kinds:
        names = " and ".join(dict.fromkeys(kind.gguf_name for kind in ARCHITECTURES.values()))
        raise UserError(f"{file.path} is of the architecture {architecture!r}: minillm opens {names}")
    return next((kind for kind in kinds if not any(_unknown_keys(file, kind))), kinds[0])


def check_keys(file, kind: type[Architecture]) -> None:
    """Raises UserError for a key of the architecture that changes the computation, and that its
    model class does not know.
    """
    file_kind = file.settings.get("general.type", "model")
    if file_kind != "model":
        raise UserError(f'{file.path} is of the type "{file_kind}": no whole model, which minillm needs')
    for key, value in _unknown_keys(file, kind):
        if "expert" in key:
            raise UserError(
                f"{file.path}: it is a mixture of experts ({key} is {value!r:.60}), which is not computed here"
            )
        raise UserError(f"{file.path}: {key} is {value!r:.60}, which is not computed here")


def _unknown_keys(file, kind: type[Architecture]) -> Iterator[tuple[str, object]]:
    """Keys of the architecture, with their values, that change the computation and are not among
    those it reads.
    """
    head, used = f"{kind.gguf_name}.", {*kind.gguf_keys, *kind.gguf_extra_keys, *WITHOUT_EFFECT}
    for key, value in file.settings.items():
        name = key.removeprefix(head)
        if key != name and name not in used and not _is_neutral(file, kind, name, value):
            yield key, value


def _is_neutral(file, kind: type[Architecture], name: str, value) -> bool:
    if name in NEUTRAL and any(type(value) is type(neutral) and value == neutral for neutral in NEUTRAL[name]):
        return True
    if name in ("attention.key_length", "attention.value_length"):
        return value == _head_dim(file, kind)
    if name == "attention.scale" and isinstance(value, float):
        return math.isclose(value, _head_dim(file, kind) ** -0.5, rel_tol=1e-6)
    if name == "attention.sliding_window" and type(value) is int:  # a window that no text is longer than
        return value >= file.setting(f"{kind.gguf_name}.context_length", int)
    return False


def check_tensors(file, wanted: set[str], kind: type[Architecture]) -> None:
    """Raises UserError, saying what it is for, for a tensor that is not one of those that the model
    is made of.
    """
    extra = sorted(set(file.names()) - wanted)
    if not extra:
        return
    name, more = extra[0], f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
    if EXPERTS.fullmatch(name):
        raise UserError(f"{file.path}: it is a mixture of experts (tensor {name}{more}), which is not computed here")
    if HEAD_NORMS.fullmatch(name):
        raise UserError(f"{file.path}: it has norms on its heads (tensor {name}{more}), which are not computed here")
    for beginning, use in OTHER_TENSORS.items():
        if name.startswith(beginning):
            raise UserError(f"{file.path}: tensor {name}{more} is for {use}, which is not computed here")
    if name.endswith((".lora_a", ".lora_b")):
        raise UserError(f"{file.path} is a LoRA (tensor {name}{more}): get it in the form of peft, as a folder")
    raise UserError(f"{file.path}: tensor {name}{more} belongs to no part of a {kind.gguf_name} that minillm computes")


def _head_dim(file, kind: type[Architecture]) -> int:
    """D: the key of its own, if the architecture reads it, or C / H."""
    heads = file.setting(f"{kind.gguf_name}.attention.head_count", int)
    width = file.setting(f"{kind.gguf_name}.embedding_length", int) // max(heads, 1)
    key = "attention.key_length"
    return file.setting(f"{kind.gguf_name}.{key}", int, width) if key in kind.gguf_keys else width
