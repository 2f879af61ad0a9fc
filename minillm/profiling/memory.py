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

from dataclasses import dataclass, field

from minillm.backend.threads import cores, default_workers
from minillm.errors import UserError
from minillm.layers.embedding import Embedding
from minillm.optim.adamw import BLOCK
from minillm.profiling.memory_held import HeldByARank, held_by_a_rank
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

PARTS = ("weights", "moments", "gradients", "activations", "workspace", "transport")
DEVICES = ("cpu", "cuda", "cudasim")


@dataclass(frozen=True)
class Workload:
    """The settings of a training run that its memory depends on.

    workers: threads, None for what `train` would choose; parts: of a batch (`--batch-parts`), by
    default as many as workers. learning: how many weights have gradients and moments, None for all
    of them; fewer where some are frozen or LoRA's matrices learn alone. processes, zero: of several
    ranks, of which one is estimated (memory_held.py); workers are the threads of each.
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
    parts: int | None = None
    processes: int = 1
    zero: int = 1

    @property
    def time(self) -> int:
        """T."""
        return self.context_length or self.config.context_length

    @property
    def n_parts(self) -> int:
        """S."""
        if self.device != "cpu":
            return 1
        if self.parts is not None:
            return self.parts
        workers = self.workers or default_workers(self.batch_size, self.time, self.device)
        return min(self.batch_size, workers * self.processes)

    @property
    def threads(self) -> int:
        """Threads that compute parts, of one process."""
        wanted = self.workers or (cores() if self.processes == 1 else 1)
        return max(1, min(wanted, self.n_parts // self.processes))

    @property
    def rows_of_part(self) -> int:
        """Windows of the largest part."""
        return -(-self.batch_size // self.n_parts)


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
        parts=settings.batch_parts or None,
    )


@dataclass(frozen=True)
class Estimate:
    """Bytes at the moment of the largest total.

    moment: the layer at which it is reached. saved: what of the activations each kind of layer
    keeps, by its name. transport: what a rank receives from others before it adds it up.
    """

    weights: int
    moments: int
    gradients: int
    activations: int
    workspace: int
    moment: str
    saved: dict[str, int]
    transport: int = 0

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
    held = held_by_a_rank(workload, weight) if workload.n_parts > 1 or workload.processes > 1 else None
    weights = count_parameters(workload.config) * weight if held is None else held.weights
    learning = weights if workload.learning is None else workload.learning * weight
    moments = 2 * learning if held is None else held.moments
    threads = range(workload.threads)
    peaks = [walk(workload, workload.rows_of_part, weight, held).peak for _ in threads]
    # At the end every worker has all its gradients, and the optimizer works on one block of a
    # tensor at a time.
    scratch = 0 if workload.device != "cpu" else 2 * BLOCK * weight
    at_end = Peak(learning if held is None else 0, {}, scratch, "optimizer")
    if at_end.total > sum(peak.total for peak in peaks):
        peaks = [at_end]
    saved = {"tokens and tables": 2 * workload.batch_size * workload.time * INTEGER + _tables(workload, weight)}
    for peak in peaks:
        for name, size in peak.saved.items():
            saved[name] = saved.get(name, 0) + size
    gradients, workspace = (sum(getattr(peak, name) for peak in peaks) for name in ("gradients", "workspace"))
    transport = 0
    if held is not None:
        gathered = peaks[0].gathered  # the threads of a rank have the same weights
        weights, workspace = weights + gathered, workspace - gathered * len(peaks)
        gradients, transport = gradients + held.gradients, held.transport
    if workload.device != "cpu" and workload.dtype == "bfloat16":
        weights += copies(workload.config)
    return Estimate(weights, moments, gradients, sum(saved.values()), workspace, peaks[0].moment, saved, transport)


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
class Peak:
    """What a thread has at one moment. gathered: of the workspace, the weights that are another
    rank's.
    """

    gradients: int = 0
    saved: dict[str, int] = field(default_factory=dict)
    workspace: int = 0
    moment: str = ""
    gathered: int = 0

    @property
    def total(self) -> int:
        return self.gradients + sum(self.saved.values()) + self.workspace


class Walk:
    """The state of the step: bytes saved by each kind of layer, bytes of gradients; and the largest
    sum so far.

    accumulating: every weight has a gradient already, to which the new one is added, by the
    product itself if in_place. share: of the weights, that learn. gathered: bytes of weights that
    are there for now.
    """

    def __init__(self, gradients: int, accumulating: bool, share: float, in_place: bool):
        self.in_place = in_place
        self.gradients, self.accumulating, self.share = int(gradients * share), accumulating, share
        self.gathered = 0
        self.saved: dict[str, int] = {}
        self.peak = Peak()

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
        workspace += self.gathered
        if self.gradients + sum(self.saved.values()) + workspace > self.peak.total:
            saved = {name: size for name, size in self.saved.items() if size}
            self.peak = Peak(self.gradients, saved, workspace, moment, self.gathered)


def walk(workload: Workload, batch: int, weight: int, held: HeldByARank | None = None) -> Walk:
    """One worker's way through forward and backward, with a part of `batch` windows.

    held: where gradients have arrays that are always there, which are not counted here.
    """
    config, recompute = workload.config, workload.checkpoint_activations
    shapes = Shapes(config, batch, workload.time, workload.dtype, workload.device, recompute)
    below, inside, above = embedding(shapes), block(shapes), head(shapes)
    accumulating = workload.gradient_accumulation > 1
    parameters = count_parameters(config) if accumulating else _buffered_parameters(config)
    share = 1.0 if workload.learning is None else workload.learning / count_parameters(config)
    if shapes.has_copies:  # dW of the head has as many rows as the copy
        parameters += (padded_rows(config.vocab_size) - config.vocab_size) * config.d_model
    # cuBLAS adds to the gradient that is there.
    in_place = workload.device == "cuda"
    if held is None:
        step = Walk(parameters * weight, accumulating, share, in_place)
        ends = of_block = 0
    else:
        step = Walk(0, True, share, in_place)  # a gradient is computed, and then copied to its place
        ends, of_block = held.gathered_ends, held.gathered_block
    step.gathered = ends
    step.forward(below)
    for _ in range(config.n_layer):
        step.gathered = ends + of_block
        step.forward(inside)
        if recompute:
            _forget(step, inside)
            step.keep("inputs of blocks", shapes.stream)
    step.gathered = ends
    step.forward(above)
    step.backward(above)
    step.gathered = of_block
    for _ in range(config.n_layer):
        if recompute:
            step.forward(inside, extra=2 * shapes.stream)  # the head's dx, and dy
        step.backward(inside)
        if recompute:
            step.keep("inputs of blocks", -shapes.stream)
    step.gathered = 0
    step.backward(below)
    return step


def _forget(step: Walk, operations: list[Operation]) -> None:
    for operation in operations:
        step.keep(operation.name, -operation.saved)
