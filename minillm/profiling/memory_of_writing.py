"""The table of `minillm info --model MODEL --dtype stored`: what a model takes that only writes.

    total = weights as the file has them + the expanded block of each thread + keys and values

A model that learns takes more, for gradients, moments and activations: memory_report.py.
"""

from __future__ import annotations

from minillm.backend.threads import thread_count
from minillm.errors import UserError
from minillm.layers.stored_product import BLOCK
from minillm.layers.stored_weight import StoredWeight
from minillm.models.presets import PRESETS
from minillm.pretrained import from_pretrained
from minillm.profiling.memory_advice import format_bytes, memory_of


def writing_report(source: str, weights: str, context_length: int | None = None) -> str:
    """The table for a model that exists. weights: see pretrained/stored_weights.py.

    context_length: how long a text gets; None: as long as the model's context. Raises UserError for
    a preset, which has no file, and for a text that is longer than the context.
    """
    if source in PRESETS:
        raise UserError(f"--dtype {weights} is about the file of a model: {source} is a preset, which has none")
    model = from_pretrained(source, weights=weights)
    config = model.config
    tokens = config.context_length if context_length is None else context_length
    if tokens > config.context_length:
        raise UserError(f"--context {tokens}: the model was made for {config.context_length} tokens")
    values = [parameter.peek() for parameter in set(model.parameters().values())]
    kept = [value for value in values if isinstance(value, StoredWeight)]
    formats = ", ".join(sorted({value.format.name for value in kept}))
    what = f"matrices stay {formats}" if kept else "the file has no matrix of 16 bits or fewer"
    parts = {
        "matrices": sum(value.nbytes for value in kept),
        "other weights": sum(value.nbytes for value in values) - sum(value.nbytes for value in kept),
        "blocks of float32": 4 * BLOCK * (thread_count() or 1) if kept else 0,
        f"keys and values of {tokens:,} tokens": cache_bytes(config, tokens),
    }
    expanded = 4 * sum(value.size for value in values)
    return "\n".join([
        f"{source}: {type(model).display_name}, {sum(value.size for value in values):,} parameters; writing: {what}",
        *(_row(name, size) for name, size in parts.items()),
        _row("total", sum(parts.values())),
        f"All weights in float32 would take {format_bytes(expanded)}.",
        f"Free on this machine now: {format_bytes(memory_of('cpu').free)}.",
    ])  # fmt: skip


def cache_bytes(config, tokens: int) -> int:
    """The keys and values that layers keep of so many tokens of one text, in float32."""
    heads = getattr(config, "n_kv_head", None) or config.n_head
    width = getattr(config, "head_dim", None) or config.d_model // config.n_head
    return 4 * 2 * config.n_layer * tokens * heads * width


def _row(name: str, size: int) -> str:
    return f"{name:<36} {size / 1e6:12,.1f} MB"
