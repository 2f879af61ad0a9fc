"""How much memory a training run takes, said before it starts.

    weights + moments + gradients + activations + workspace

The first two are there all the time: AdamW keeps two numbers for each weight. The other three come
and go within a step, so the step is walked through as `train_step` does it: forward adds what each
layer keeps, backward takes it away again from the last layer to the first while gradients come, and
each layer needs a workspace of its own while it runs. The largest sum on that way is what must be
there; it is usually reached in the loss head or in the last block's backward.

    forward     peak = max over layers of  saved so far + saved by it + its workspace
    backward    peak = max over layers of  saved by it and all below + gradients so far and its own + its workspace

memory_operations.py has the layers, with their formulas. Counted are arrays: what CuPy's pool hands
out on "cuda", and what NumPy allocates on "cpu" and "cudasim". Not counted are Python itself and
the libraries (on a GPU, some hundreds of megabytes for the CUDA context and cuBLAS; on a CPU,
OpenBLAS's buffers of some megabytes a thread).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from minillm.backend.threads import default_workers
from minillm.errors import UserError
from minillm.layers.embedding import Embedding
from minillm.optim.adamw import BLOCK
from minillm.profiling.memory_operations import (
    BYTES,
    INTEGER,
    Operation,
    Shapes,
    block,
    causal_numbers,
    copies,
    embedding,
    head,
    model_of,
    padded_rows,
)

PARTS = ("weights", "moments", "gradients", "activations", "workspace")
DEVICES = ("cpu", "cuda", "cudasim")


@dataclass(frozen=True)
class Workload:
    """The settings of a training run that its memory depends on.

    workers: None for what `train` would choose. learning: how many weights have gradients and
    moments, None for all of them; fewer where some are frozen or LoRA's matrices learn alone.
    """

    config: object
    batch_size: int
    context_length: int | None = None  # of the windows; the model's own if None
    dtype: str = "float32"
    device: str = "cpu"
    checkpoint_activations: bool = False
    gradient_accumulation: int = 1
    workers: int | None = None
    learning: int | None = None

    @property
    def time(self) -> int:
        """T."""
        return self.context_length or self.config.context_length

    @property
    def parts_of_batch(self) -> list[int]:
        """Windows of each worker, as DataParallel cuts the batch."""
        workers = self.workers
        if workers is None:
            workers = default_workers(self.batch_size, self.time, self.device)
        bounds = [self.batch_size * i // workers for i in range(workers + 1)]
        return [last - first for first, last in zip(bounds, bounds[1:]) if last > first]


def workload_of(settings, config, device: str, learning: int | None = None) -> Workload:
    """The workload of a run: its TrainingSettings, the configuration of its model, its device, and
    how many weights learn.
    """
    return Workload(
        config,
        settings.batch_size * (2 if settings.preference_data else 1),  # a pair has two rows
        dtype=settings.dtype,
        device=device,
        checkpoint_activations=settings.checkpoint_activations,
        gradient_accumulation=settings.gradient_accumulation,
        learning=learning,
    )


@dataclass(frozen=True)
class Estimate:
    """Bytes at the moment of the largest total.

    moment: the layer at which it is reached. saved: what of the activations each kind of layer
    keeps, by its name.
    """

    weights: int
    moments: int
    gradients: int
    activations: int
    workspace: int
    moment: str
    saved: dict[str, int]

    @property
    def total(self) -> int:
        return sum(getattr(self, part) for part in PARTS)


def estimate(workload: Workload) -> Estimate:
    """The memory of a training step, from the second one on: the first finds no buffers.

    >>> from minillm import GPT2Config
    >>> gpt2 = Workload(GPT2Config(), batch_size=16, device="cuda")
    >>> {part: round(getattr(estimate(gpt2), part) / 1e6) for part in ("weights", "moments")}
    {'weights': 498, 'moments': 996}
    """
    for what, name, names in (("dtype", workload.dtype, BYTES), ("device", workload.device, DEVICES)):
        if name not in names:
            raise UserError(f'unknown {what} "{name}": use one of {", ".join(names)}')
    weight = BYTES[workload.dtype][1]
    weights = count_parameters(workload.config) * weight
    learning = weights if workload.learning is None else workload.learning * weight
    peaks = [_walk(workload, batch, weight).peak for batch in workload.parts_of_batch]
    # At the end every worker has all its gradients, and the optimizer works on one block of a
    # tensor at a time.
    scratch = 0 if workload.device != "cpu" else 2 * BLOCK * weight
    at_end = _Peak(learning, {}, scratch, "optimizer")
    if len(peaks) * learning + scratch > sum(peak.total for peak in peaks):
        peaks = [at_end, *(replace(at_end, workspace=0) for _ in peaks[1:])]
    saved = {"tokens and tables": 2 * workload.batch_size * workload.time * INTEGER + _tables(workload, weight)}
    for peak in peaks:
        for name, size in peak.saved.items():
            saved[name] = saved.get(name, 0) + size
    gradients, workspace = (sum(getattr(peak, name) for peak in peaks) for name in ("gradients", "workspace"))
    if workload.device != "cpu" and workload.dtype == "bfloat16":
        weights += copies(workload.config)
    return Estimate(weights, 2 * learning, gradients, sum(saved.values()), workspace, peaks[0].moment, saved)


def count_parameters(config) -> int:
    """Weights of a model, each counted once.

    >>> from minillm import GPT2Config
    >>> count_parameters(GPT2Config())
    124439808
    """
    return sum(parameter.value.size for parameter in model_of(config).parameters().values())


def _buffered_parameters(config) -> int:
    """Those whose gradient has a buffer that stays: tables of tokens and positions, and the output
    head.
    """
    model = model_of(config)
    weights = [layer.weight for _, layer in model.layers() if isinstance(layer, Embedding)] + [model.lm_head.weight]
    return sum(weight.value.size for weight in set(weights))


def _tables(workload: Workload, number: int) -> int:
    """What is computed once: causal masks (NumPy's attention), cos and sin (rotary attention)."""
    config, time = workload.config, workload.time
    layers = [layer for _, layer in model_of(config).layers()]
    window = next((layer.window for layer in layers if hasattr(layer, "window")), None)
    is_windowed = window is not None and window < time
    tables = causal_numbers(time, window if is_windowed else None) * number if workload.device == "cpu" else 0
    if any(hasattr(layer, "positions") for layer in layers):
        tables += (1 << (time - 1).bit_length()) * config.head_dim * number
    return tables


# ---------------------------------------------------------------------------------------------------- through the step


@dataclass(frozen=True)
class _Peak:
    gradients: int = 0
    saved: dict[str, int] = field(default_factory=dict)
    workspace: int = 0
    moment: str = ""

    @property
    def total(self) -> int:
        return self.gradients + sum(self.saved.values()) + self.workspace


class _Walk:
    """The state of the step: bytes saved by each kind of layer, bytes of gradients; and the largest
    sum so far.

    accumulating: every weight has a gradient already, to which the new one is added, by the
    product itself if in_place. share: of the weights, that learn.
    """

    def __init__(self, gradients: int, accumulating: bool, share: float, in_place: bool):
        self.in_place = in_place
        self.gradients, self.accumulating, self.share = int(gradients * share), accumulating, share
        self.saved: dict[str, int] = {}
        self.peak = _Peak()

    def forward(self, operations: list[Operation], extra: int = 0) -> None:
        for operation in operations:
            self.keep(operation.name, operation.saved)
            self._look(operation.forward + extra, operation.name)

    def backward(self, operations: list[Operation], extra: int = 0) -> None:
        for operation in reversed(operations):
            gradient = int(operation.gradient * self.share)
            self.gradients += 0 if self.accumulating else gradient
            added = gradient if self.accumulating and not self.in_place else 0
            self._look(operation.backward + extra + added, operation.name)
            self.keep(operation.name, -operation.saved)

    def keep(self, name: str, size: int) -> None:
        self.saved[name] = self.saved.get(name, 0) + size

    def _look(self, workspace: int, moment: str) -> None:
        if self.gradients + sum(self.saved.values()) + workspace > self.peak.total:
            saved = {name: size for name, size in self.saved.items() if size}
            self.peak = _Peak(self.gradients, saved, workspace, moment)


def _walk(workload: Workload, batch: int, weight: int) -> _Walk:
    """One worker's way through forward and backward."""
    config, recompute = workload.config, workload.checkpoint_activations
    shapes = Shapes(config, batch, workload.time, workload.dtype, workload.device, recompute)
    below, inside, above = embedding(shapes), block(shapes), head(shapes)
    accumulating = workload.gradient_accumulation > 1
    parameters = count_parameters(config) if accumulating else _buffered_parameters(config)
    share = 1.0 if workload.learning is None else workload.learning / count_parameters(config)
    if shapes.has_copies:  # dW of the head has as many rows as the copy
        parameters += (padded_rows(config.vocab_size) - config.vocab_size) * config.d_model
    # cuBLAS adds to the gradient that is there.
    walk = _Walk(parameters * weight, accumulating, share, in_place=workload.device == "cuda")
    walk.forward(below)
    for _ in range(config.n_layer):
        walk.forward(inside)
        if recompute:
            _forget(walk, inside)
            walk.keep("inputs of blocks", shapes.stream)
    walk.forward(above)
    walk.backward(above)
    for _ in range(config.n_layer):
        if recompute:
            walk.forward(inside, extra=2 * shapes.stream)  # the head's dx, and dy
        walk.backward(inside)
        if recompute:
            walk.keep("inputs of blocks", -shapes.stream)
    walk.backward(below)
    return walk


def _forget(walk: _Walk, operations: list[Operation]) -> None:
    for operation in operations:
        walk.keep(operation.name, -operation.saved)
