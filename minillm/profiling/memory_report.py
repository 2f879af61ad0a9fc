"""The table of `minillm info --model`: what training a model takes, per part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minillm.backend.arrays import to_device
from minillm.errors import UserError
from minillm.models.architectures import architecture_of, config_from_dict
from minillm.models.presets import PRESETS
from minillm.pretrained import from_pretrained
from minillm.profiling.memory import PARTS, Estimate, Workload, count_parameters, estimate
from minillm.profiling.memory_advice import format_bytes, memory_of

LEGEND = (
    "weights and AdamW's two moments are float32 (float64 for float64) whatever the products are computed in;",
    "on a device, the weights of products in bfloat16 have a rounded copy;",
    "activations: what layers keep for backward; workspace: arrays that come and go;",
    "gradients: those that exist at the peak, when the sum of all is largest; some come later.",
)
RANKS_LEGEND = (
    "transport: what a rank receives from others before it adds it; weights: with those that are gathered for a while."
)


def memory_report(
    source: str,
    batch_size: int | None = None,
    context_length: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    checkpoint_activations: bool = False,
    dropout: float | None = None,
    vocab_size: int | None = None,
    processes: int = 1,
    zero: int = 1,
    threads: int | None = None,
    batch_parts: int | None = None,
) -> str:
    """The table for a preset or a model that exists.

    What is None is the preset's, or for a model 8 windows of its context; threads: one of each
    process, where there are several; batch_parts: as many as all processes have threads.

    Raises UserError for what is neither, or a context that the model does not have.
    """
    config, batch = shape_of(source, context_length, dropout, vocab_size)
    workload = Workload(
        config,
        batch if batch_size is None else batch_size,
        dtype=dtype,
        device=device,
        checkpoint_activations=checkpoint_activations,
        workers=threads if processes == 1 or threads else 1,
        parts=batch_parts or (processes * (threads or 1) if processes > 1 else None),
        processes=processes,
        zero=zero,
    )
    if workload.n_parts > workload.batch_size:
        raise UserError(
            f"a batch of {workload.batch_size} windows has no {workload.n_parts} parts: give a larger --batch"
        )
    if workload.n_parts < processes:
        raise UserError(f"{processes} processes for {workload.n_parts} parts of a batch: some would have nothing to do")
    return table(source, workload, estimate(workload))


def shape_of(source: str, context_length: int | None, dropout: float | None, vocab_size: int | None):
    """(configuration, windows in a batch) of a preset or a model."""
    changes = {"context_length": context_length, "dropout": dropout, "vocab_size": vocab_size}
    changes = {name: value for name, value in changes.items() if value is not None}
    if source in PRESETS and PRESETS[source].model:
        preset = PRESETS[source]
        fields = {"vocab_size": preset.vocab_size, **preset.model, **changes}
        return config_from_dict({"model_type": preset.architecture, **fields}), preset.training["batch_size"]
    if vocab_size is not None:
        raise UserError("--vocab-size: a model that exists has its own vocabulary; leave it out")
    config = _opened(source).config
    if context_length is not None and context_length > config.context_length:
        raise UserError(f"--context {context_length}: the model was made for {config.context_length} tokens")
    return replace(config, **changes), PRESETS["fine-tune"].training["batch_size"]


def _opened(source: str):
    try:
        return from_pretrained(source)
    except UserError as error:
        presets = ", ".join(name for name, preset in PRESETS.items() if preset.model)
        raise UserError(f"--model {source} is no preset ({presets}), and as a model: {error}") from None


def table(source: str, workload: Workload, result: Estimate) -> str:
    """The estimate as text: the parts, what each kind of layer keeps, and where the peak is."""
    config, checkpointing = workload.config, ", activations checkpointed" if workload.checkpoint_activations else ""
    lines = [
        f"{source}: {architecture_of(config).display_name}, {count_parameters(config):,} parameters; a step of "
        f"{workload.batch_size} x {workload.time} tokens, {workload.dtype}, on {workload.device}{checkpointing}"
    ]
    if workload.processes > 1:
        lines.append(
            f"What one of {workload.processes} ranks takes, with {workload.threads} threads, where they share no memory; "
            f"ZeRO-{workload.zero}; batches in {workload.n_parts} parts."
        )
    if (scaling := getattr(config, "rope_scaling", None)) is not None:
        lines.append(f"Rotary scaling: {scaling.title}; a context of {config.context_length:,} tokens.")
    for part in PARTS:
        if part == "transport" and not result.transport:
            continue
        lines.append(_row(part, getattr(result, part)))
        if part == "activations":
            largest = sorted(result.saved.items(), key=lambda item: -item[1])
            lines += [_row(f"  {name}", size) for name, size in largest if size]
    lines += [_row("total", result.total), *LEGEND, f"The peak is reached in: {result.moment}."]
    free = _free(workload.device)
    if free is not None:
        where = "this GPU" if workload.device == "cuda" else "this machine"
        lines.append(f"Free on {where} now: {format_bytes(free)}.")
    if workload.processes > 1:
        lines.append(RANKS_LEGEND)
    return "\n".join(lines)


def _free(device: str) -> int | None:
    """Bytes that are free on a device; None where this machine does not have it."""
    try:
        to_device(np.zeros(1), device)
    except UserError:
        return None
    return memory_of(device).free


def _row(name: str, size: int) -> str:
    return f"{name:<24} {size / 1e6:12,.1f} MB"
