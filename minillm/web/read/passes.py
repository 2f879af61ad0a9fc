"""The small real passes of each operation, which Read shows the numbers of.

passes(operation)         on the inputs of its case (minillm.checks.cases), and of the other cases of its module
model_passes(operation)   a step of training and some tokens of small models: what only a model calls, such as `decode`

All are in float32, as in training. The sizes are in PROBLEMS and MODELS: each letter of a shape has
another number, so that a shape says which axis is which. Random numbers come from fixed keys: every
run gives the same numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minillm.checks.agreement import placed
from minillm.checks.case import KEY, Case, Problem, array, at
from minillm.checks.cases import CASES
from minillm.checks.cases_attention import ROTARY_ATTENTION, SELF_ATTENTION
from minillm.checks.cases_models import FUSED_BLOCK, RECOMPUTE, RESIDUAL_BLOCK
from minillm.generation.decoder import Decoder, left_padded
from minillm.layers import dpo, fused_block, linear_cross_entropy, lora, recompute, rotary, rotary_scaling
from minillm.layers.cache import Cache
from minillm.layers.documents import packed_starts
from minillm.layers.layer import decode_problem
from minillm.layers.linear import Linear
from minillm.layers.rotary_scaling import Llama3Scaling
from minillm.lessons import gpt_page
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.models.language_model import LanguageModel
from minillm.models.llama import Llama, LlamaConfig
from minillm.models.mistral import Mistral, MistralConfig
from minillm.models.qwen3 import Qwen3, Qwen3Config
from minillm.optim import OPTIMIZERS, AdamW, clip, muon
from minillm.optim.adamw import adamw_formula
from minillm.optim.optimizer import Optimizer
from minillm.web.read.operation import Operation

Pass = Callable[[], object]

# Name of a case -> the sizes of its passes. The first one is shown; further ones are for other
# branches.
PROBLEMS: dict[str, tuple[Problem, ...]] = {
    "linear": (at(2, 5, 7, 3), at(2, 5, 7, 3, transposed=True)),
    "linear with lora": (at(2, 5, 7, 3, rank=4), at(2, 5, 7, 3, rank=4, transposed=True)),
    "lora": (at(2, 5, 7, 3, rank=4),),
    "embedding": (at(8, 11, 6), at(8, 11, 6, accumulate=True)),
    "layer_norm": (at(2, 5, 12),),
    "rms_norm": (at(2, 5, 12),),
    "residual_layer_norm": (at(2, 5, 12),),
    "residual_rms_norm": (at(2, 5, 12),),
    "residual_bias": (at(2, 5, 12),),
    "bias": (at(2, 5, 12),),
    "residual": (at(2, 5, 12),),
    "gelu": (at(2, 5, 12), at(2, 5, 12, approximate="none"), at(2, 5, 12, biased=False)),
    "mlp": (at(2, 5, 6, 24),),
    "swiglu": (at(2, 5, 9),),
    "swiglu MLP": (at(2, 5, 6, 9, biased=False),),
    "softmax": (at(2, 5, 11),),
    "dropout": (at(2, 5, 12),),
    "rotary": (at(2, 3, 5, 8), at(2, 3, 5, 8, interleaved=True)),
    "causal self-attention": (at(3, 5, 8),),
    "attention": (
        at(2, 6, 3, 5, 4, dropout=0.2),
        at(2, 6, 3, 131, 4, causal=False, dropout=0.2),  # two blocks of queries, 128 and 3
        at(2, 6, 3, 131, 4),
        at(2, 6, 3, 131, 4, window=7),
        at(2, 6, 3, 131, 4, documents=((100, 31), (100, 31))),
        at(2, 6, 3, 131, 4, documents=((100, 31), (100, 31)), window=7),
    ),
    "rotary_attention": (at(2, 5, 14, 6, 3, 4), at(2, 5, 14, 6, 3, 4, normed=True, window=3)),
    "recompute": (at(3, 5, 8),),
    "fused block": (
        at(2, 3, 4, kind=GPT2),
        at(2, 3, 4, kind=GPT2, dropout=0.1),
        at(2, 3, 4, kind=Llama, attention_bias=True, mlp_bias=True),
    ),
    "cross_entropy": (at(2, 5, 11, ignored=(4,)), at(2, 5, 11, ignored=(4,), label_smoothing=0.1)),
    "linear_cross_entropy": (at(2, 5, 6, 11, ignored=(4,)),),
    "sequence_log_probability": (at(2, 5, 6, 11, prompt=2, padding=1),),
    "column_linear": (at(2, 5, 7, 6), at(2, 5, 7, 6, transposed=True)),
    "row_linear": (at(2, 5, 14, 3), at(2, 5, 14, 3, transposed=True)),
    "column-parallel lora": (at(2, 5, 7, 6, rank=4),),
    "row-parallel lora": (at(2, 5, 14, 3, rank=4),),
    "heads_rms_norm": (at(2, 5, 6, 4),),
    "vocabulary_embedding": (at(8, 11, 6),),
    "vocabulary_head": (at(2, 5, 6, 11),),
    "vocabulary_cross_entropy": (at(2, 5, 6, 11, ignored=(4,)), at(2, 5, 6, 11, label_smoothing=0.1)),
    "dpo": (at(4), at(4, label_smoothing=0.1)),
    "adamw": (at((7, 5), (5,)), at((7, 5), (5,), decoupled=False)),
    "global_norm": (at((7, 5), (5,)),),
}
# Of the attention ladder; flash has kernels for heads of 32 and more.
RUNG = at(2, 6, 3, 5, 32, dropout=0.2)
PACKED_RUNG = at(2, 6, 3, 5, 32, documents=((2, 3), (1, 4)))
SHAPE = dict(vocab_size=11, context_length=20, n_layer=1)
WIDE = SHAPE | dict(n_head=6, n_kv_head=3, head_dim=16, d_model=14, d_ff=9)
MODELS: tuple[tuple[type, object], ...] = (
    (GPT2, GPT2Config(**SHAPE, n_head=3, d_model=12, d_ff=10, dropout=0.1)),
    (Llama, LlamaConfig(**WIDE)),
    (Llama, LlamaConfig(**WIDE, rope_interleaved=True)),
    (Qwen3, Qwen3Config(**WIDE)),
    (Mistral, MistralConfig(**WIDE, sliding_window=3)),
)


def passes(operation: Operation) -> Iterator[Pass]:
    """The passes of an operation, none for one that only a model calls. What a pass needs is made
    before it is yielded. The first ones are those to show.
    """
    yield from _PASSES.get(operation.group, _layer_passes)(operation)


def model_passes(operation: Operation) -> Iterator[Pass]:
    """The passes of each small model, that of the operation's case first, and of a changed one."""
    for kind, config in sorted(MODELS, key=lambda each: each[0].__module__ != f"minillm.models.{operation.case}"):
        model = kind(config, seed=0)
        ids = _ids(2, 6)
        yield lambda model=model, ids=ids: _step(model, ids)
        yield lambda model=model, ids=ids: _step(model, ids, packed(5))
        yield lambda model=model, ids=ids: _read(model, ids)
    model = GPT2(MODELS[0][1], seed=0)  # a head with a bias: its loss is computed from the logits
    model.lm_head = Linear(model.lm_head.weight, np.zeros(SHAPE["vocab_size"], np.float32), transposed=True)
    yield lambda: _step(model, _ids(2, 6))
    yield lambda: _step(model, _ids(2, 6), packed(5))


# -------------------------------------------------------------------------------------------------------- layers, losses


def _layer_passes(operation: Operation) -> Iterator[Pass]:
    cases = [case for case in CASES if case.home == operation.module and case.name in PROBLEMS]
    for case in sorted(cases, key=lambda case: case.name != operation.case):
        for problem in PROBLEMS[case.name]:
            if case.layer and case.layer(case.module, case.make(problem)) is not None:
                yield _of_layer(case, placed(case, case.make(problem), "cpu"))
            if case.forward:
                yield _of_functions(case, placed(case, case.make(problem), "cpu"), case.module)
    yield from _FURTHER.get(operation.name, ())


def _of_functions(case: Case, a: SimpleNamespace, module) -> Pass:
    def run():
        _, saved = case.forward(module, a)
        if case.backward:
            case.backward(module, a, saved)

    return run


def _of_layer(case: Case, a: SimpleNamespace) -> Pass:
    """Forward and backward; then, where the layer has a `decode` of its own, that of the same
    input.
    """

    def run():
        layer = case.layer(case.module, a).train()
        inputs = [getattr(a, name) for name in case.layer_inputs]
        takes_key = "rng_key" in inspect.signature(layer.forward).parameters
        y = layer.forward(*inputs, **({"rng_key": KEY} if takes_key else {}))
        layer.backward(array("dy", *y.shape).astype(y.dtype) if np.ndim(y) else 1.0)
        if decode_problem(layer) is None and inputs[0].ndim == (2 if inputs[0].dtype.kind == "i" else 3):
            cache = Cache(inputs[0], len(inputs[0]))
            cache.start(inputs[0].shape[1])
            layer.eval().decode(inputs[0], cache)

    return run


def _further_of_loss() -> None:
    """Chunks of 4 rows, and a vocabulary of two strips."""
    case = next(case for case in CASES if case.name == "linear_cross_entropy")
    a = placed(case, case.make(at(2, 5, 6, linear_cross_entropy.STRIP_ROWS + 3)), "cpu")
    linear_cross_entropy.linear_cross_entropy_forward(a.x, a.weight, a.targets, chunk_rows=4)


def _further_of_log_probability() -> None:
    """Of logits; and a vocabulary of two strips."""
    case = next(case for case in CASES if case.name == "sequence_log_probability")
    for problem in (at(2, 5, 11, 11), at(2, 5, 6, linear_cross_entropy.STRIP_ROWS + 3)):
        a = placed(case, case.make(problem), "cpu")
        a.weight = None if problem.size[-1] == 11 else a.weight
        _of_functions(case, a, case.module)()


def _further_of_dpo() -> None:
    """The rewards of four pairs."""
    given = [array(name, 4).astype(np.float32) for name in ("c", "r", "ref_c", "ref_r")]
    dpo.ordered_share(dpo.dpo_rewards(*given, 0.1))


def _further_of_rotary() -> None:
    rotary.rotary_tables(5, 8, scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192))
    for shape in ((48, 14), (48,)):
        rotary.interleaved_to_halves(array("weight", *shape), 6)


def _rotary_scalings() -> None:
    """Each kind with a text beyond the original context of 16 tokens."""
    factors, theta = (1.0, 1.5, 2.0, 4.0), 10000.0 ** (-2 * np.arange(4) / 8)
    for scaling in (
        rotary_scaling.LinearScaling(4.0),
        rotary_scaling.DynamicScaling(4.0, 16),
        rotary_scaling.YarnScaling(4.0, 16),
        Llama3Scaling(4.0, 1.0, 4.0, 16),
        rotary_scaling.LongRopeScaling(factors, factors, 16),
        rotary_scaling.ProportionalScaling(0.5),
        rotary_scaling.TableScaling(factors),
    ):
        scaling.stretched(theta, 10000.0, 32)


def _further_of_lora() -> None:
    for transposed in (False, True):
        weight = array("weight", *((3, 7) if transposed else (7, 3)))
        base = Linear(weight, transposed=transposed)
        lora.LoRALinear(base, array("a", 4, 7), array("b", 3, 4), alpha=2.0).merged_weight()


def _further_of_attention(case: Case) -> Pass:
    """The layer, on packed documents."""

    def run():
        a = placed(case, case.make(PROBLEMS[case.name][0]), "cpu")
        layer = case.layer(case.module, a).train()
        y = layer.forward(a.x, KEY, np.concatenate([packed(a.x.shape[1])] * 2)[: len(a.x)])
        layer.backward(array("dy", *y.shape).astype(y.dtype))

    return run


def _further_of_recompute() -> None:
    """A block on packed documents, recomputed and not."""
    a = placed(RECOMPUTE, RECOMPUTE.make(PROBLEMS["recompute"][0]), "cpu")
    block = RESIDUAL_BLOCK.layer(RESIDUAL_BLOCK.module, a).train()
    starts = np.concatenate([packed(a.x.shape[1])] * 2)[: len(a.x)]
    for again in (True, False):
        y, saved = recompute.run_blocks([block], a.x, KEY, again, starts)
        recompute.run_blocks_backward([block], array("dy", *y.shape).astype(y.dtype), saved)


def _further_of_fused_blocks() -> None:
    """Blocks that are fused, and what they call, on packed documents."""
    for problem in PROBLEMS["fused block"]:
        a = placed(FUSED_BLOCK, FUSED_BLOCK.make(problem), "cpu", "float64")
        block = FUSED_BLOCK.layer(FUSED_BLOCK.module, a).block.train()
        starts = np.concatenate([packed(a.x.shape[1])] * 2)[: len(a.x)]
        y, saved = fused_block.fused_block_forward(block.parts(), a.x, KEY, starts)
        fused_block.fused_block_backward(array("dy", *y.shape), saved)


def packed(T: int) -> np.ndarray:
    """starts (2, T): two documents in each row."""
    return np.stack([packed_starts((2, T - 2), T), packed_starts((1, T - 1), T)])


# Functions that neither the cases nor the models call.
_FURTHER: dict[str, tuple[Pass, ...]] = {
    "linear_cross_entropy": (_further_of_loss,),
    "sequence_log_probability": (_further_of_log_probability,),
    "dpo": (_further_of_dpo,),
    "rotary": (_further_of_rotary,),
    "rotary_scaling": (_rotary_scalings,),
    "lora": (_further_of_lora,),
    "attention": (_further_of_attention(SELF_ATTENTION),),
    "rotary_attention": (_further_of_attention(ROTARY_ATTENTION),),
    "recompute": (_further_of_recompute,),
    "layer_norm": (_further_of_fused_blocks,),
    "rms_norm": (_further_of_fused_blocks,),
    "residual_layer_norm": (_further_of_fused_blocks,),
    "residual_rms_norm": (_further_of_fused_blocks,),
    "fused_block": (_further_of_fused_blocks,),
}


# -------------------------------------------------------------------------------------------------------------- models


def _step(model: LanguageModel, ids, starts=None) -> None:
    model.train()
    model.loss(ids[:, :-1], ids[:, 1:], rng_key=KEY, starts=starts)
    model.backward()
    _, head = model.log_probabilities(ids[:, :-1], ids[:, 1:], rng_key=KEY)
    model.backward_log_probabilities(array("dlogp", len(ids)), head)


def _read(model: LanguageModel, ids) -> None:
    """All logits and their backward; then prompts of one length, of several lengths, and one alone,
    each with more tokens behind it.
    """
    logits = model.train().forward(ids[:, :-1], rng_key=KEY)
    model.backward(array("dlogits", *logits.shape).astype(logits.dtype))
    model.eval().next_token_logits(ids)
    model.logits_of(model.hidden(ids))
    several = Decoder(model)
    several.read(ids[:, :4])
    several.read(ids[:, 3:])
    padded = Decoder(model)
    padded.read(*left_padded([ids[0, :4].tolist(), ids[1, :2].tolist()]))
    padded.read(ids[:, :1])
    alone = Decoder(model)
    alone.read(ids[:1, :4])
    alone.read(ids[:1, :1])


def _ids(B: int, T: int) -> np.ndarray:
    return np.random.default_rng(0).integers(SHAPE["vocab_size"], size=(B, T))


# ---------------------------------------------------------------------------------------------------------- optimizers


def _optimizer_passes(operation: Operation) -> Iterator[Pass]:
    """The second step of an optimizer on a small GPT-2, whose moments are no longer zero."""
    optimizer, parameters = _after_one_step(OPTIMIZERS.get(operation.name, AdamW))
    if operation.name in OPTIMIZERS:
        yield lambda: optimizer.step()
    yield lambda: clip(parameters, 0.5, 2)
    for case in (case for case in CASES if case.home == operation.module and case.name in PROBLEMS):
        for problem in PROBLEMS[case.name]:
            yield _of_functions(case, placed(case, case.make(problem), "cpu"), case.module)
    if operation.name == "adamw":
        w, g, m, v = (array(name, 7, 5).astype(np.float32) for name in "wgmv")
        yield lambda: adamw_formula(w, g, m, v * v, 1e-3, (0.9, 0.99), 1e-8, 0.1, 2)
    if operation.name == "muon":
        yield _formula_of_muon


def _formula_of_muon() -> None:
    """The formula, which is slower than what the optimizer does."""
    w, g, m = (array(name, 3, 8).astype(np.float32) for name in ("w", "g", "m"))
    muon.muon_formula(w, g, m, lr=0.02, momentum=0.95, decay=0.1, outputs_axis=1)


def _after_one_step(kind: type[Optimizer]) -> tuple[Optimizer, dict]:
    model, ids = GPT2(MODELS[0][1], seed=0), _ids(2, 6)
    optimizer = kind(model.parameters(), lr=1e-3, weight_decay=0.1)
    for is_last in (False, True):
        model.zero_grad()
        _step(model, ids)
        if not is_last:
            optimizer.step()
    return optimizer, model.parameters()


# ------------------------------------------------------------------------------------------- kernels, and the one page


def _rung_passes(operation: Operation) -> Iterator[Pass]:
    """Attention by the kernels of a rung, in the simulator."""
    case = next(case for case in CASES if case.name == operation.case)
    name = operation.name.removeprefix("attention_")
    kernel = next(kernel for kernel in case.kernel if kernel.name == name)
    for problem in (RUNG, PACKED_RUNG):
        yield _of_functions(case, placed(case, case.make(problem), "cudasim"), import_module(kernel.module))


def _page_passes(operation: Operation) -> Iterator[Pass]:
    """A step of the model of gpt_page.py on its own text, and two tokens of what it writes."""
    text = Path(gpt_page.__file__).read_text(encoding="utf-8")
    alphabet, ids = np.unique(list(text), return_inverse=True)
    T, C, layers, heads = 7, 20, 2, 5
    w = gpt_page.new_weights(len(alphabet), T, C, layers, np.random.default_rng(0))
    w = {name: value.astype(np.float32) for name, value in w.items()}

    def run():
        rng = np.random.default_rng(0)
        for _ in gpt_page.train(w, ids, 1, heads, rng, B=2):
            pass
        gpt_page.generate(w, ids[:1], 2, heads, rng)

    yield run


_PASSES = {
    "optimizers": _optimizer_passes,
    "models": lambda operation: iter(()),
    "attention ladder": _rung_passes,
    "one page": _page_passes,
}
