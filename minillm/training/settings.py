"""What a training run is told: everything but the shape of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from minillm.backend.precision import activation_dtype
from minillm.data.special import check_choice
from minillm.errors import UserError
from minillm.optim import OPTIMIZERS, make_schedule
from minillm.optim.optimizer import check_settings


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a run; they are stored in the run folder, and a resumed run uses them again.

    data: a corpus name, or files. batch_size: windows in a batch; gradient_accumulation: batches a step. max_steps: where
    the schedule ends. lr rises over warmup_steps and falls to min_lr (schedule "cosine" or "linear") or stays ("constant").
    checkpoint_activations: compute each block again in backward, for less memory. gradient_clip: largest global norm of the
    gradient, 0 for no limit. eval_interval: steps between evaluations; eval_windows: windows of each split that they look at
    (0: all). early_stop: evaluations without a better validation loss after which training ends, 0 for never.
    sample_tokens: length of the text written at an evaluation, 0 for none. dtype: "float32", "float64", "tf32" or "bfloat16"
    (minillm/backend/precision.py); what is stored is float32 for all but float64.
    special: how special tokens in the text are read, one of data/special.py's CHOICES, "" for the end of text alone.
    tokenizer: "char" (every character a token) or "bpe" (byte pairs learned from the training text) with vocab_size tokens, 0
    for 1024. init: the model to continue from, "" for a new one. freeze: patterns of names of parameters that do not learn.
    lora_rank: rank of LoRA's matrices, 0 for no LoRA; they become the run folder's model, or with merge are added to the
    weights there.

    Raises UserError for settings that make no sense.
    """

    data: tuple[str, ...] = ("python-docs",)
    seed: int = 1337
    batch_size: int = 12
    gradient_accumulation: int = 1
    max_steps: int = 2000
    optimizer: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup_steps: int = 100
    schedule: str = "cosine"
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    label_smoothing: float = 0.0
    checkpoint_activations: bool = False
    eval_interval: int = 250
    eval_windows: int = 200
    early_stop: int = 0
    sample_tokens: int = 120
    dtype: str = "float32"
    special: str = ""
    tokenizer: str = "char"
    vocab_size: int = 0
    init: str = ""
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    merge: bool = False

    def __post_init__(self):
        object.__setattr__(self, "data", tuple(self.data))
        object.__setattr__(self, "freeze", tuple(self.freeze))
        self._check_whole(1, "batch_size", "gradient_accumulation", "max_steps", "eval_interval")
        self._check_whole(
            0, "seed", "warmup_steps", "eval_windows", "early_stop", "sample_tokens", "lora_rank", "vocab_size"
        )
        check_choice(self.special)
        if self.tokenizer not in TOKENIZERS:
            raise UserError(f'unknown tokenizer "{self.tokenizer}": use one of {", ".join(TOKENIZERS)}')
        if self.vocab_size and self.tokenizer != "bpe":
            raise UserError(
                "--vocab-size is that of byte pairs: use it with --tokenizer bpe; characters are what the text has"
            )
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f'unknown optimizer "{self.optimizer}": use one of {", ".join(OPTIMIZERS)}')
        if not (math.isfinite(self.gradient_clip) and self.gradient_clip >= 0):
            raise UserError(f"gradient_clip is {self.gradient_clip}: it must be a finite number, 0 for no limit")
        if self.lora_rank and not self.init:
            raise UserError("--lora-rank adds to a model that exists: name it with --init")
        if self.merge and not self.lora_rank:
            raise UserError("--merge merges the matrices of LoRA: give their rank with --lora-rank")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing is {self.label_smoothing}: it must be at least 0 and below 1")
        self.make_schedule()  # checks the learning rates
        check_settings(self.lr, (self.beta1, self.beta2), self.eps, self.weight_decay)
        activation_dtype(self.dtype)  # raises where there is none

    def make_schedule(self):
        """The function step -> learning rate."""
        return make_schedule(self.schedule, self.lr, self.max_steps, self.warmup_steps, self.min_lr)

    def make_optimizer(self, parameters):
        """The optimizer for a model's parameters."""
        betas = (self.beta1, self.beta2)
        return OPTIMIZERS[self.optimizer](parameters, self.lr, betas, self.eps, self.weight_decay)

    def _check_whole(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} is {value!r}: it must be a whole number of at least {least}")


TOKENIZERS = ("char", "bpe")
SETTING_NAMES = tuple(field.name for field in fields(TrainingSettings))
