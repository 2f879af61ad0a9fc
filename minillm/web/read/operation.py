"""What Read has a page for: operations, and their places in the sources.

OPERATIONS                  name -> Operation, in reading order: all pages
sources(operation)          name of a function -> Source: the Python functions of its pairs
kernel_sources(operation)   name of a file -> Source: its CUDA sources

A file in layers/ or optim/ with a backward function, and a .cu file in kernels/, belongs to an
operation: a test looks for those that do not.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import minillm
from minillm import kernels

ROOT = Path(minillm.__file__).parents[1]
KERNELS = Path(kernels.__file__).parent


@dataclass(frozen=True)
class Pair:
    """A forward function and its backward, by their names in the module, such as "Linear.forward".

    Without a backward it is a function that a forward calls, or one that has no gradient.
    """

    forward: str
    backward: str | None = None


@dataclass(frozen=True)
class Operation:
    """One page.

    name      of the page and of `minillm read NAME`.       title     one line.
    group     one of GROUPS.
    module    with derivation (its docstring), forward and backward.
    pairs     in reading order.
    kernels   CUDA sources, below the folder of minillm.kernels, in reading order.
    case      the name of the one of checks.cases.CASES whose inputs are those of the small real
              pass; "" for a pass of its own.
    story     the module whose docstring is the derivation, if not `module`.
    """

    name: str
    title: str
    group: str
    module: str
    pairs: tuple[Pair, ...]
    kernels: tuple[str, ...] = ()
    case: str = ""
    story: str = ""

    @property
    def home(self) -> ModuleType:
        """The module itself."""
        return import_module(self.module)

    @property
    def derivation(self) -> str:
        """The docstring of the module that derives it."""
        return inspect.cleandoc(import_module(self.story or self.module).__doc__)


@dataclass(frozen=True)
class Source:
    """A function, or a CUDA source, as it is in its file.

    first: the number of its first line there.
    """

    function: str
    path: Path
    first: int
    lines: tuple[str, ...]

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.first + len(self.lines) - 1

    @cached_property
    def tree(self) -> ast.FunctionDef:
        """Its syntax tree, with line numbers and columns of the file. Of Python functions only."""
        return function_tree(_module_tree(self.path, self.path.stat().st_mtime_ns), self.function)


@dataclass(frozen=True)
class Place:
    """Lines of a function: first to last, both included, as numbered in the file."""

    function: str
    first: int
    last: int


@dataclass(frozen=True)
class Tie:
    """A backward statement and the forward statements that it differentiates."""

    backward: Place
    forward: tuple[Place, ...]


@dataclass(frozen=True)
class Seen:
    """A name after a line ran in the small real pass (values.py).

    norm: Euclidean, of the finite numbers; values: the first few, of which some may be infinite.
    None and () where the memory holds no numbers yet. times: how often the line ran; this is the
    first time.
    """

    function: str
    line: int
    name: str
    shape: tuple[int, ...]
    norm: float | None
    values: tuple[float, ...]
    dtype: str = "float32"
    times: int = 1


# ------------------------------------------------------------------------------------------------------- the sources


def sources(operation: Operation) -> dict[str, Source]:
    """Name -> Source for every Python function of an operation, in reading order: a pair's forward,
    then its backward.

    Raises LookupError, naming function and file, for a function that the module does not have.
    """
    path = Path(operation.home.__file__)
    lines = path.read_text(encoding="utf-8").splitlines()
    tree = _module_tree(path, path.stat().st_mtime_ns)
    found = {}
    for pair in operation.pairs:
        for name in filter(None, (pair.forward, pair.backward)):
            node = function_tree(tree, name)
            if node is None:
                raise LookupError(f"{path}: no function {name}, which the operation {operation.name} has")
            first = min(part.lineno for part in (node, *node.decorator_list))
            found[name] = Source(name, path, first, tuple(lines[first - 1 : node.end_lineno]))
    return found


def kernel_sources(operation: Operation) -> dict[str, Source]:
    """Name -> Source for every CUDA source of an operation, such as "attention/flash.cu", whole."""
    found = {}
    for name in operation.kernels:
        text = (KERNELS / name).read_text(encoding="utf-8")
        found[name] = Source(name, KERNELS / name, 1, tuple(text.splitlines()))
    return found


def function_tree(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """The function, or the method "Class.name", in the syntax tree of a module; None without it."""
    body = tree.body
    for part in name.split("."):
        node = next((n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == part), None)
        if node is None:
            return None
        body = node.body
    return node if isinstance(node, ast.FunctionDef) else None


@cache
def _module_tree(path: Path, changed: int) -> ast.Module:
    """changed: when the file was written last, so that one that changed is read again."""
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path) -> str:
    """A path as editors open it from the root of the sources."""
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()


# ---------------------------------------------------------------------------------------------------- all operations

GROUPS = ("layers", "losses", "shared by ranks", "optimizers", "models", "attention ladder", "one page")


def _pairs(*names: str) -> tuple[Pair, ...]:
    """ "linear" is linear_forward and linear_backward, "Linear" the methods of a class, "a / b" two
    names as they are, and "a /" a function without a backward.
    """
    pairs = []
    for name in names:
        forward, slash, backward = (part.strip() for part in name.partition("/"))
        if slash:
            pairs.append(Pair(forward, backward or None))
        else:
            joint = "." if name[:1].isupper() else "_"
            pairs.append(Pair(f"{name}{joint}forward", f"{name}{joint}backward"))
    return tuple(pairs)


def _layer(name: str, title: str, *pairs: str, kernels: tuple[str, ...] = (), case: str | None = None, group="layers"):
    case = name if case is None else case
    return Operation(name, title, group, f"minillm.layers.{name}", _pairs(*pairs), kernels, case)


def _optimizer(name: str, title: str, module: str, *pairs: str, kernels: tuple[str, ...] = (), case: str = ""):
    home, story = f"minillm.optim.{module}", f"minillm.optim.{name}"
    return Operation(name, title, "optimizers", home, _pairs(*pairs), kernels, case, "" if home == story else story)


def _model(name: str, title: str, *pairs: str, case: str) -> Operation:
    return Operation(name, title, "models", f"minillm.models.{name}", _pairs(*pairs), case=case)


def _layers_in(module: str) -> list[str]:
    """The classes of a module that have forward and backward, in its order."""
    tree = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
    methods = {
        each.name: {part.name for part in each.body if isinstance(part, ast.FunctionDef)}
        for each in tree.body
        if isinstance(each, ast.ClassDef)
    }
    return [name for name, own in methods.items() if own >= {"forward", "backward"}]


def _rung(name: str, title: str, module: str, pairs: str, *shared: str) -> Operation:
    """A rung of the attention ladder. shared: the headers with a part of its formulas."""
    headers = tuple(f"attention/{header}" for header in shared)
    return Operation(
        f"attention_{name}",
        title,
        "attention ladder",
        f"minillm.kernels.attention.{module}",
        _pairs(pairs),
        (f"attention/{name}.cu", *headers),
        "attention",
        "minillm.layers.attention",
    )


_ALL = (
    _layer(
        "linear",
        "Linear: a learned matrix applied to every row",
        "linear",
        "Linear",
        kernels=("skinny_matmul.cu",),
    ),
    _layer(
        "bias",
        "Bias: a number for each channel, the same for every row",
        "bias",
        kernels=("bias.cu", "columns.cuh", "column_sum.cuh"),
    ),
    _layer(
        "embedding",
        "Embedding: a table with a row for each token",
        "embedding",
        "Embedding",
        kernels=("embedding.cu",),
    ),
    _layer(
        "layer_norm",
        "Layer norm: mean 0 and variance 1 for every token",
        "layer_norm",
        "LayerNorm",
        kernels=("layer_norm.cu", "layer_norm.cuh"),
    ),
    _layer(
        "rms_norm",
        "RMS norm: a layer norm without the mean",
        "rms_norm",
        "RMSNorm",
        kernels=("rms_norm.cu", "rms_norm.cuh"),
    ),
    _layer("gelu", "GELU: a value times the share of it that passes", "gelu", "GELU", kernels=("gelu.cu",)),
    _layer("mlp", "MLP: two linear layers with a GELU between them", "MLP"),
    _layer(
        "swiglu",
        "SwiGLU: an MLP in which one projection gates another",
        "swiglu",
        "SwiGLU",
        kernels=("swiglu.cu",),
        case="swiglu MLP",
    ),
    _layer("softmax", "Softmax: scores to probabilities", "softmax", "Softmax", kernels=("largest.cu",)),
    _layer(
        "attention",
        "Attention: every token reads the tokens before it",
        "attend / attend_backward",
        "dropped /",
        "row_dot /",
        "attention",
        "repeat_heads / sum_heads",
        "CausalSelfAttention",
        kernels=("attention/flash.cu",),
        case="causal self-attention",
    ),
    _layer(
        "cached_attention",
        "Attention of new tokens to a cache",
        "cached_attention /",
        "_attention_of_one_token /",
        "_part_of_one_token /",
        "_exponentials /",
        kernels=("attention/decode.cu",),
        case="",
    ),
    _layer(
        "rotary",
        "Rotary embedding: positions as rotations",
        "rotary",
        "_rotate /",
        "rotary_tables /",
        kernels=("rotary.cu",),
    ),
    _layer(
        "rotary_scaling",
        "Rotary scaling: other angles for longer texts",
        "LinearScaling.stretched /",
        "DynamicScaling.stretched /",
        "YarnScaling.stretched /",
        "Llama3Scaling.stretched /",
        "LongRopeScaling.stretched /",
        "ProportionalScaling.stretched /",
        "TableScaling.stretched /",
        case="",
    ),
    _layer("rotary_attention", "Rotary attention: attention as in Llama", "RotarySelfAttention"),
    _layer(
        "dropout",
        "Dropout: values set to zero at random",
        "dropout",
        "dropout_factor /",
        "Dropout",
        kernels=("dropout.cu",),
    ),
    _layer("residual", "Residual: a branch is added to what it read", "residual"),
    _layer(
        "residual_bias",
        "Residual add with the branch's bias as one operation",
        "residual_bias",
        kernels=("residual_bias.cu", "columns.cuh"),
    ),
    _layer(
        "residual_layer_norm",
        "Residual add and layer norm as one operation",
        "residual_layer_norm",
        "sum_of_rows /",
        "layer_norm_of_sum / layer_norm_of_sum_backward",
        kernels=("residual_layer_norm.cu", "layer_norm.cuh"),
    ),
    _layer(
        "residual_rms_norm",
        "Residual add and RMS norm as one operation",
        "residual_rms_norm",
        "rms_norm_of_sum / rms_norm_of_sum_backward",
        kernels=("residual_rms_norm.cu", "rms_norm.cuh"),
    ),
    _layer(
        "fused_block",
        "A block in fewer trips to memory",
        "fused_block",
        "_branch / _branch_backward",
        case="fused block",
    ),
    _layer("lora", "LoRA: a small addition to a large weight", "lora", "LoRALinear", case="linear with lora"),
    _layer(
        "recompute",
        "Recomputation: less memory for a second forward pass",
        "recomputed",
        "run_blocks / run_blocks_backward",
    ),
    _layer(
        "cross_entropy",
        "Cross-entropy: the price of the token that came",
        "cross_entropy",
        "CrossEntropy",
        kernels=("cross_entropy.cu",),
        group="losses",
    ),
    _layer(
        "linear_cross_entropy",
        "Head and cross-entropy without the logits in memory",
        "linear_cross_entropy",
        "LinearCrossEntropy",
        group="losses",
    ),
    _layer(
        "sequence_log_probability",
        "The log-probability of a whole answer",
        "sequence_log_probability",
        "_logits /",
        "_chunks /",
        "counted_spans /",
        "SequenceLogProbability",
        group="losses",
    ),
    _layer(
        "dpo",
        "DPO: one answer preferred to another",
        "dpo",
        "sigmoid /",
        "dpo_rewards /",
        "ordered_share /",
        group="losses",
    ),
    _layer(
        "column_linear",
        "Column-parallel linear: ranks share the outputs",
        "column_linear",
        "ColumnLinear",
        group="shared by ranks",
    ),
    _layer(
        "row_linear",
        "Row-parallel linear: ranks share the inputs",
        "row_linear",
        "RowLinear",
        group="shared by ranks",
    ),
    _layer(
        "lora_ranks",
        "LoRA of a layer that ranks share",
        "column_lora",
        "row_lora",
        "ColumnLoRALinear",
        "RowLoRALinear",
        case="column-parallel lora",
        group="shared by ranks",
    ),
    _layer(
        "heads_rms_norm",
        "RMS norm over heads that ranks share",
        "heads_rms_norm",
        "HeadsRMSNorm",
        group="shared by ranks",
    ),
    _layer(
        "vocabulary_embedding",
        "Embedding of a vocabulary that ranks share",
        "vocabulary_embedding",
        group="shared by ranks",
    ),
    _layer(
        "vocabulary_head",
        "Head of a vocabulary that ranks share",
        "vocabulary_head",
        "VocabularyHead",
        group="shared by ranks",
    ),
    _layer(
        "vocabulary_cross_entropy",
        "Head and cross-entropy of a vocabulary that ranks share",
        "vocabulary_cross_entropy",
        "_loss_of_chunk /",
        "VocabularyCrossEntropy",
        group="shared by ranks",
    ),
    _optimizer(
        "adamw",
        "AdamW: steps of about lr, where recent gradients agree",
        "adamw",
        "adamw_formula /",
        "adamw_update /",
        "_update_block /",
        kernels=("adamw.cu",),
        case="adamw",
    ),
    _optimizer("adam", "Adam: the decay goes through the moments", "adamw", "_update_block /", kernels=("adamw.cu",)),
    _optimizer("sgd", "SGD with momentum", "sgd", "sgd_formula /", "SGD.update /"),
    _optimizer(
        "muon",
        "Muon: every matrix takes steps of one length in all directions",
        "muon",
        "orthogonalised_formula /",
        "muon_formula /",
        "orthogonalised /",
        "_factor /",
        "muon_update /",
        "Muon.update_all /",
    ),
    _optimizer("lion", "Lion: steps of one length, along signs", "lion", "lion_formula /", "Lion.update /"),
    _optimizer(
        "global_norm",
        "Global norm: gradients clipped as one long vector",
        "global_norm",
        "global_norm /",
        "clipped_norm /",
        "clip_scale /",
        "_sum_of_squares /",
        kernels=("global_norm.cu",),
        case="global_norm",
    ),
    _model("gpt2", "GPT-2: from tokens to the last norm", *_layers_in("minillm.models.gpt2"), case="gpt2"),
    _model("llama", "Llama: from tokens to the last norm", *_layers_in("minillm.models.llama"), case="llama"),
    _model(
        "language_model",
        "A language model: body, head and loss",
        "LanguageModel.loss / LanguageModel.backward",
        "LanguageModel._loss_of_logits /",
        "LanguageModel.log_probabilities / LanguageModel.backward_log_probabilities",
        "LanguageModel._changed_logits /",
        "LanguageModel._forward_with /",
        "LanguageModel.forward /",
        "LanguageModel._hidden /",
        "LanguageModel._logits /",
        case="gpt2",
    ),
    _rung("naive", "Attention, rung 1: the formulas, one kernel each", "matrix", "forward / backward", "softmax.cuh"),
    _rung("tiled", "Attention, rung 2: through shared memory", "matrix", "forward / backward", "softmax.cuh"),
    _rung("online", "Attention, rung 3: no T x T matrix", "online", "attention", "delta.cuh"),
    _rung("flash", "Attention, rung 4: register tiling", "flash", "attention", "mask.cuh"),
    _rung(
        "flash_tensor_cores",
        "Attention, rung 5: matrix instructions",
        "flash_tensor_cores",
        "attention",
        "warp_tiles.cuh",
        "operands.cuh",
        "mask.cuh",
    ),
    Operation(
        "gpt_page",
        "A GPT on one page: model, loss, gradients, AdamW",
        "one page",
        "minillm.lessons.gpt_page",
        _pairs(
            "linear / linear_backward",
            "layer_norm / layer_norm_backward",
            "softmax /",
            "attention / attention_backward",
            "gelu / gelu_backward",
            "cross_entropy /",
            "pair /",
            "forward / backward",
            "adamw /",
        ),
    ),
)
OPERATIONS = {operation.name: operation for operation in _ALL}
