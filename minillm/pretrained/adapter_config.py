"""adapter_config.json of the library `peft`: how each pair of matrices is scaled.

Every key is used or refused by name.

Source: peft, LoraConfig; Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with
LoRA" (2023).

    y = x W + b + s (x A^T) B^T        s = alpha / r, or alpha / sqrt(r) with use_rslora
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import regex

from minillm.errors import UserError

LARGEST_RANK = 1 << 16
PATTERN_SECONDS = 1.0  # time limit: a pattern from an untrusted file may take for ever
USED = {
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "init_lora_weights", "task_type",
    "base_model_name_or_path", "revision", "target_modules",
}  # fmt: skip
# settings of training, or of features that are refused; the layers are known from the tensors
WITHOUT_EFFECT = {
    "arrow_config", "auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_dtype", "lora_ga_config",
    "lorap_emb_lr", "lorap_lr_ratio", "megatron_core", "peft_version", "qalora_group_size", "runtime_config",
}  # fmt: skip
KEEP_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva", "mica")  # the others change its weights, too
TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")


class AdapterScales:
    """Rank and scale of each layer's pair. Raises UserError for an unsupported key."""

    def __init__(self, contents: dict, path: Path):
        self.path, self.contents = path, contents
        rank = contents.get("r")
        if contents.get("peft_type") != "LORA" or not _is_rank(rank):
            raise UserError(f"{path}: not a LoRA (peft_type {contents.get('peft_type')!r:.99}, r {rank!r:.99})")
        if not _is_alpha(contents.get("lora_alpha")):
            raise UserError(f"{path}: lora_alpha is {contents.get('lora_alpha')!r:.99}, expected a number")
        for name, value in contents.items():
            if value and name not in USED | WITHOUT_EFFECT:
                raise UserError(f"{path}: minillm does not compute {name} ({value!r:.99})")
        if contents.get("bias", "none") not in (None, "none"):
            raise UserError(f"{path}: minillm does not compute bias {contents['bias']!r:.99}")
        kind = contents.get("init_lora_weights")
        kind = kind.lower() if isinstance(kind, str) else kind
        if kind not in KEEP_THE_BASE or isinstance(kind, (int, float)) and not isinstance(kind, bool):
            raise UserError(
                f"{path}: init_lora_weights is {kind!r:.99}, which changes the weights of the base, and minillm does not "
                "compute that; convert the adapter with peft: path_initial_model_for_weight_conversion of save_pretrained"
            )
        if contents.get("task_type") not in TASKS:
            raise UserError(f"{path}: task_type is {contents['task_type']!r:.99}, minillm computes CAUSAL_LM")
        for name, is_right in (("rank_pattern", _is_rank), ("alpha_pattern", _is_alpha)):
            pattern = contents.get(name) or {}
            if not isinstance(pattern, dict) or not all(map(is_right, pattern.values())):
                raise UserError(f"{path}: {name} is {pattern!r:.99}, expected an object of numbers")
        self._stabilised = contents.get("use_rslora", False)
        if self._stabilised not in (None, True, False):
            raise UserError(f"{path}: use_rslora is {self._stabilised!r:.99}, expected true or false")

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale s for the layer of that path."""
        rank = self._of_pattern("rank_pattern", module, self.contents["r"])
        alpha = self._of_pattern("alpha_pattern", module, self.contents["lora_alpha"])
        return rank, float(alpha) / (math.sqrt(rank) if self._stabilised else rank)

    def check_targets(self, layers: list[str], adapted: set[str]) -> None:
        """Raises UserError if a kind of layer in target_modules has no matrices."""
        targets = self.contents.get("target_modules")
        if not isinstance(targets, list):  # a pattern, or "all-linear"
            return
        for target in targets:
            meant = [path for path in layers if path == target or path.endswith(f".{target}")]
            if meant and not adapted & set(meant) and not self.contents.get("exclude_modules"):
                raise UserError(
                    f"{self.path}: target_modules names {target!r:.99}, which has no matrices: the adapter is incomplete"
                )

    def _of_pattern(self, name: str, module: str, default):
        """The value of the first pattern that matches the end of the path, as in peft."""
        for pattern, value in (self.contents.get(name) or {}).items():
            try:
                if regex.fullmatch(rf"(.*\.)?({pattern})", module, timeout=PATTERN_SECONDS):
                    return value
            except (regex.error, TimeoutError) as error:
                raise UserError(
                    f"{self.path}: {name} has the pattern {pattern!r:.99}, which cannot be used ({error})"
                ) from None
        return default


def _is_rank(value) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_RANK


def _is_alpha(value) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
