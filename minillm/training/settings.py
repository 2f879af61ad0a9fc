"""Settings of a training run: everything but the shape of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from minillm.backend.precision import activation_dtype
from minillm.data.special import check_choice
from minillm.errors import UserError
from minillm.models.config import option
from minillm.optim import OPTIMIZERS, make_schedule
from minillm.optim.muon import check_of_muon
from minillm.optim.optimizer import check_settings

RUN, MODEL, STEPS, EVALUATION = "The run", "The model", "How it learns", "Evaluation"


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a run; they are stored in the run folder, and a resumed run uses them again.

    data: a corpus name, or files. chat_data: files of conversations in its place, with init;
    chat_validation: files to validate on, () for every tenth of them; chat_template: "" for the
    model's own, or the plain one (pretrained/training_template.py); packing: whether short
    conversations share a row. preference_data, preference_validation: files of pairs in its place;
    dpo_beta, dpo_label_smoothing: layers/dpo.py. batch_size: windows, or pairs, in a batch;
    gradient_accumulation: batches a step. batch_parts: S, parts of a batch whose gradients are
    computed alone and added along a tree (distributed/tree.py): what the last bits depend on, and
    no number of processes and threads; 0 becomes the workers of the machine that starts the run.
    max_steps: where the schedule ends. lr rises over warmup_steps and falls to min_lr (schedule
    "cosine" or "linear") or stays ("constant"). checkpoint_activations: compute each block again in
    backward, for less memory. gradient_clip: largest global norm of the gradient, 0 for no limit.
    eval_interval: steps between evaluations; eval_windows: windows of each split that they read (0:
    all). early_stop: evaluations without a better validation loss after which training ends, 0 for
    never. sample_tokens: length of the text written at an evaluation, 0 for none. dtype: "float32",
    "float64", "tf32" or "bfloat16" (backend/precision.py); what is stored is float32 for all but
    float64. special: how special tokens in the text are read, one of data/special.py's CHOICES, ""
    for the end of text alone. tokenizer: "char" (every character a token) or "bpe" (byte pairs
    learned from the training text) with vocab_size tokens, 0 for 1024. init: the model to continue
    from, "" for a new one. extend_with: the kind of rotary scaling by which it gets a longer
    context, "" for none. freeze: patterns of names of parameters that do not learn. lora_rank: rank
    of LoRA's matrices, 0 for no LoRA; they become the run folder's model, or with merge are added
    to the weights there.

    Each field is an option of `minillm train`; `least` in its metadata is the smallest whole number
    allowed. Raises UserError for settings that make no sense.
    """

    data: tuple[str, ...] = option(
        ("python-docs",),
        "What to learn from: python-docs (built in), shakespeare (downloaded once), or UTF-8 text files.",
        RUN,
    )
    chat_data: tuple[str, ...] = option(
        (), "With --init: learn to answer, from files of conversations, JSON lines with messages; may be repeated.", RUN
    )
    chat_validation: tuple[str, ...] = option(
        (), "Conversations to validate on; if left out, every tenth of --chat-data.", RUN
    )
    chat_template: str = option(
        "",
        "How conversations become text: one of the model's templates by name, a .jinja file, or plain. If left out, "
        "the model's own, and plain for a model without.",
        RUN,
    )
    preference_data: tuple[str, ...] = option(
        (),
        "With --init: learn which of two answers is better (DPO), from files of pairs, JSON lines with chosen and "
        "rejected; may be repeated.",
        RUN,
    )
    preference_validation: tuple[str, ...] = option(
        (), "Pairs to validate on; if left out, every tenth of --preference-data.", RUN
    )
    packing: bool = option(True, "Short conversations share a row, without attention between them.", RUN)
    seed: int = option(1337, "The same seed gives the same run.", RUN, least=0)
    batch_size: int = option(12, "Windows of text in a batch.", STEPS, least=1)
    gradient_accumulation: int = option(1, "Batches whose gradients make one step.", STEPS, least=1)
    batch_parts: int = option(
        0,
        "Parts of a batch, each for one core; the same number gives the same bits on any number of processes. 0: as many "
        "as are faster here.",
        STEPS,
        least=0,
    )
    max_steps: int = option(2000, "Steps in all: where the schedule ends.", STEPS, least=1)
    optimizer: str = option(
        "adamw",
        "adamw, adam (decay as L2 penalty), sgd (momentum beta1), lion, or muon (adamw for vectors, tables).",
        STEPS,
    )
    lr: float = option(1e-3, "Highest learning rate.", STEPS)
    min_lr: float = option(1e-4, "Learning rate at the end; if only --lr is given, in proportion to it.", STEPS)
    warmup_steps: int = option(100, "Steps over which the learning rate rises.", STEPS, least=0)
    schedule: str = option("cosine", "cosine, linear or constant, after the warm-up.", STEPS)
    beta1: float = option(0.9, "Decay of the mean of gradients.", STEPS)
    beta2: float = option(0.99, "Decay of the mean of squared gradients.", STEPS)
    eps: float = option(1e-8, "Added to the root of the second moment.", STEPS)
    momentum: float = option(0.95, "Of muon: decay of the mean of a matrix's gradients.", STEPS)
    adamw_lr: float = option(
        0.0,
        "Of muon: highest learning rate of what adamw changes, embeddings and vectors; 0: --lr. If only --lr is given, in "
        "proportion to it.",
        STEPS,
    )
    weight_decay: float = option(0.1, "Decay of matrices (not of biases and norms).", STEPS)
    gradient_clip: float = option(1.0, "Largest norm of the gradient; 0: no limit.", STEPS)
    dpo_beta: float = option(
        0.1, "With --preference-data: how much it costs to go away from the model of --init; less goes farther.", STEPS
    )
    dpo_label_smoothing: float = option(
        0.0, "With --preference-data: share of the pairs whose answers may be swapped (conservative DPO).", STEPS
    )
    label_smoothing: float = option(0.0, "Share of the target spread over all tokens.", STEPS)
    checkpoint_activations: bool = option(
        False, "Less memory for a third more time: backward computes each block again.", STEPS
    )
    eval_interval: int = option(250, "Steps between evaluations (and checkpoints).", EVALUATION, least=1)
    eval_windows: int = option(200, "Windows of each split that an evaluation reads; 0: all.", EVALUATION, least=0)
    early_stop: int = option(
        0, "Stop after so many evaluations without a better validation loss; 0: never.", EVALUATION, least=0
    )
    sample_tokens: int = option(120, "Tokens of sample text at an evaluation; 0: none.", EVALUATION, least=0)
    dtype: str = option(
        "float32",
        "float32, float64, or on a GPU tf32 or bfloat16: matrix products of fewer bits, weights in float32.",
        MODEL,
    )
    special: str = option(
        "",
        "Special tokens in the text: read them as tokens (allow), as letters (text), or refuse them. If left out, "
        "the model's end of text, such as <|endoftext|> between documents, is a token, and others are refused.",
        RUN,
    )
    tokenizer: str = option("char", "char (every character a token) or bpe (byte pairs learned from the text).", RUN)
    vocab_size: int = option(0, "With --tokenizer bpe: tokens; 1024 if not given.", RUN, least=0, show_default=False)
    init: str = option("", "Continue from this model, with its tokenizer: a folder, a file or a hub name.", RUN)
    extend_with: str = option(
        "",
        "With --init and a longer --context-length: the rotary scaling that reads it, linear, dynamic, yarn or llama3.",
        RUN,
    )
    freeze: tuple[str, ...] = option(
        (), "Parameters that do not learn, by a pattern of their names, as *.wte.*; may be repeated.", RUN
    )
    lora_rank: int = option(0, "With --init: learn only LoRA matrices of this rank; 8 is usual.", RUN, least=0)
    merge: bool = option(False, "Add LoRA's matrices to the weights of the run folder's model.", RUN)

    def __post_init__(self):
        object.__setattr__(self, "data", tuple(self.data))
        object.__setattr__(self, "freeze", tuple(self.freeze))
        object.__setattr__(self, "chat_data", tuple(self.chat_data))
        object.__setattr__(self, "chat_validation", tuple(self.chat_validation))
        object.__setattr__(self, "preference_data", tuple(self.preference_data))
        object.__setattr__(self, "preference_validation", tuple(self.preference_validation))
        self._check_preferences()
        self._check_chat()
        for field in fields(self):
            self._check_whole(field.name, field.metadata.get("least"))
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
        if self.batch_parts > self.batch_size:
            raise UserError(
                f"--batch-parts is {self.batch_parts}: a batch of {self.batch_size} has no more parts than that"
            )
        if self.lora_rank and not self.init:
            raise UserError("--lora-rank adds to a model that exists: name it with --init")
        if self.extend_with and not self.init:
            raise UserError("--extend-with gives a longer context to a model that exists: name it with --init")
        if self.extend_with and self.lora_rank and not self.merge:
            raise UserError("--extend-with changes the model, and an adapter alone cannot say so: add --merge")
        if self.merge and not self.lora_rank:
            raise UserError("--merge merges the matrices of LoRA: give their rank with --lora-rank")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing is {self.label_smoothing}: it must be at least 0 and below 1")
        self.make_schedule()  # checks the learning rates
        check_settings(self.lr, (self.beta1, self.beta2), self.eps, self.weight_decay)
        check_of_muon(self.momentum, self.adamw_lr)
        activation_dtype(self.dtype)  # raises where there is none

    @property
    def files(self) -> tuple[str, ...]:
        """All that the run learns from and is validated on."""
        pairs = (*self.preference_data, *self.preference_validation)
        return (*self.data, *self.chat_data, *self.chat_validation, *pairs)

    def _check_preferences(self) -> None:
        if not self.preference_data:
            changed = [name for name in PREFERENCE_SETTINGS if getattr(self, name) != getattr(TrainingSettings, name)]
            if changed:
                raise UserError(f"--{changed[0].replace('_', '-')} is of preferences: name them with --preference-data")
            return
        if not self.init:
            raise UserError("--preference-data changes a model that can write: name it with --init")
        if self.chat_data:
            raise UserError(
                "--chat-data are conversations and --preference-data are pairs: a run learns from one of them"
            )
        if self.data not in ((), TrainingSettings.data):
            raise UserError("--data is a text and --preference-data are pairs: a run learns from one of them")
        if self.special == "text":
            raise UserError("--special text: a pair is read with its special tokens; refuse them, or leave it out")
        if not (math.isfinite(self.dpo_beta) and self.dpo_beta > 0):
            raise UserError(f"--dpo-beta is {self.dpo_beta}: it must be a finite number above 0; 0.1 is usual")
        if not 0 <= self.dpo_label_smoothing < 0.5:
            raise UserError(f"--dpo-label-smoothing is {self.dpo_label_smoothing}: it must be at least 0 and below 0.5")
        if self.label_smoothing:
            raise UserError("--label-smoothing is of tokens: for pairs use --dpo-label-smoothing")
        object.__setattr__(self, "data", ())

    def _check_chat(self) -> None:
        if not self.chat_data:
            of_chat = ("chat_validation",) if self.preference_data else ("chat_validation", "chat_template")
            named = [name for name in of_chat if getattr(self, name)]
            if named:
                raise UserError(f"--{named[0].replace('_', '-')} belongs to conversations: name them with --chat-data")
            return
        if not self.init:
            raise UserError("--chat-data teaches a model to answer: name the model that it continues from with --init")
        if self.data not in ((), TrainingSettings.data):
            raise UserError("--data is a text and --chat-data are conversations: a run learns from one of them")
        if self.special == "text":
            raise UserError(
                "--special text: a conversation is read with its special tokens; refuse them, or leave it out"
            )
        object.__setattr__(self, "data", ())

    def make_schedule(self):
        """The function step -> learning rate."""
        return make_schedule(self.schedule, self.lr, self.max_steps, self.warmup_steps, self.min_lr)

    def make_optimizer(self, parameters):
        """The optimizer for a model's parameters."""
        kind, betas = OPTIMIZERS[self.optimizer], (self.beta1, self.beta2)
        more = {name: getattr(self, name) for name in kind.more_settings}
        return kind(parameters, self.lr, betas, self.eps, self.weight_decay, **more)

    def _check_whole(self, name: str, least: int | None) -> None:
        value = getattr(self, name)
        if least is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise UserError(f"{name} is {value!r}: it must be a whole number of at least {least}")


TOKENIZERS = ("char", "bpe")
PREFERENCE_SETTINGS = ("preference_validation", "dpo_beta", "dpo_label_smoothing")
SETTING_NAMES = tuple(field.name for field in fields(TrainingSettings))
