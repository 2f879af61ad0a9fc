"""Where the time of a training step goes, part by part.

A step is taken while watchers note when each piece of work begins and ends:

    kernel             a launch of one of our CUDA kernels, by its name
    matrix product     a call of `matmul`, by the layer that makes it
    elementwise        what is left of a layer's forward or backward: NumPy's or CuPy's own operations
    between            what is left of the step: Python, the batch, and on a GPU the time in which it waits for a launch

A piece inside another one counts for itself and not for the outer one, so that the parts add up to the step. On the CPU several
workers may share a batch; each part is then the mean over the workers.

On a GPU the host only hands work over, and its clock says nothing. There the step is taken twice. Once as always: the time of
the whole. Once with the stream held up until the host has handed over everything: work then follows work with no gap, and CUDA
events before and after each piece give its time on the device. The difference between the whole and the sum of the pieces is
the launch gap.

Bytes are those of the arrays that a piece takes and gives, read or written once: the least that it has to move. Operations of a
product (N, K) @ (K, M) are 2 N K M; those of attention kernels 4 B H T^2 D forward, 8 backward (operations.py); others are not
counted. The share of peak is that of the operations of matrix products, and that of the bytes of everything else, of what the
device can do at most (peaks.py); "n/a" where that is not known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from minillm.peaks import Peaks, peaks_of
from minillm.training.operations import operations_of_a_token
from minillm.training.profile_recording import Recorder, Span, clock_of, wrapped_layers, wrapped_step
from minillm.watching import watching

WARM_UP_STEPS = 3  # before the step that is profiled: caches, pools and compiled kernels are then as they stay
KINDS = ("kernel", "matrix product", "elementwise", "between")
SLACK = 1.5  # how much longer than the host needs the stream is held up


@dataclass
class Part:
    """A row of the table. bytes and operations are None where they are not known."""

    kind: str
    name: str
    calls: int = 0
    seconds: float = 0.0
    bytes: int | None = 0
    operations: int | None = 0


@dataclass(frozen=True)
class StepProfile:
    """A step: its parts, which add up to `seconds`.

    model_operations: by the formula of operations.py. dtype: as in precision.py.
    """

    parts: list[Part]
    seconds: float
    tokens: int
    model_operations: int
    device_name: str
    dtype: str
    workers: int = 1

    @property
    def peaks(self) -> Peaks | None:
        return peaks_of(self.device_name)

    @property
    def peak_operations(self) -> float | None:
        """Operations a second that the device can do at most with operands of this dtype, if that is known."""
        rate = getattr(self.peaks, self.dtype, None) if self.peaks else None
        return rate * 1e12 if rate else None

    @property
    def utilisation(self) -> float | None:
        """Model FLOP utilisation: the model's operations a second, of the peak."""
        return self.model_operations / self.seconds / self.peak_operations if self.peak_operations else None

    def share_of_peak(self, part: Part) -> float | None:
        if part.kind == "matrix product" or (part.kind == "kernel" and part.operations):
            amount, peak = part.operations, self.peak_operations
        else:
            amount, peak = part.bytes, self.peaks.bandwidth * 1e9 if self.peaks else None
        return amount / part.seconds / peak if amount and peak and part.seconds else None


# --------------------------------------------------------------------------------------------------------- profiling


class Profiler:
    """Calls a step's function, as `profiler(step, ...)`, and takes one of the calls apart.

    After WARM_UP_STEPS calls one is timed as a whole, and the next one is taken apart and told to `done`. From then on steps
    are called and nothing else.
    """

    def __init__(self, models: list, optimizer, tokens: int, time: int, done: Callable[[StepProfile], None]):
        """models: the model and its replicas; tokens: those of a step; time: those of a window."""
        self.models, self.optimizer, self.tokens, self.time, self.done = models, optimizer, tokens, time, done
        self.clock = clock_of(models[0].device)
        self._calls = 0
        self._whole = self._handed_over = 0.0

    def __call__(self, step: Callable, *arguments):
        self._calls += 1
        if self._calls == WARM_UP_STEPS + 1:
            return self._time(step, arguments)
        if self._calls == WARM_UP_STEPS + 2:
            return self._take_apart(step, arguments)
        return step(*arguments)

    def _time(self, step, arguments):
        self.clock.wait()
        started = time.perf_counter()
        value = step(*arguments)
        self._handed_over = time.perf_counter() - started
        self.clock.wait()
        self._whole = time.perf_counter() - started
        return value

    def _take_apart(self, step, arguments):
        clock = self.clock
        recorder = Recorder(clock, sum(p.value.nbytes for p in self.optimizer.parameters.values()))
        with watching(recorder.work), wrapped_layers(self.models, recorder), wrapped_step(self.optimizer, recorder):
            clock.hold_up(SLACK * self._handed_over)
            started = clock.now()
            value = step(*arguments)
            ended = clock.now()
        clock.wait()
        parts = add_up(recorder.spans, clock, len(self.models))
        busy = sum(part.seconds for part in parts)
        whole = max(self._whole, busy) if clock.is_held_up else clock.seconds(started, ended)
        parts.append(Part("between", "launch gap" if clock.is_held_up else "Python", 1, whole - busy, None, None))
        self.done(self._profile(parts, whole))
        return value

    def _profile(self, parts: list[Part], whole: float) -> StepProfile:
        model = self.models[0]
        return StepProfile(
            parts=parts,
            seconds=whole,
            tokens=self.tokens,
            model_operations=self.tokens * operations_of_a_token(model.config, self.time),
            device_name=self.clock.device_name,
            dtype=model.precision,
            workers=len(self.models),
        )


def add_up(spans: list[Span], clock, workers: int) -> list[Part]:
    """One part for each kind and name, in the order in which they first came; what lies inside counts once."""
    inside: dict[int, float] = {}
    for span in spans:
        if span.outer is not None:
            inside[id(span.outer)] = inside.get(id(span.outer), 0.0) + clock.seconds(span.start, span.end)
    parts: dict[tuple[str, str], Part] = {}
    for span in spans:
        part = parts.setdefault((span.kind, span.name), Part(span.kind, span.name))
        part.calls += 1
        part.seconds += (clock.seconds(span.start, span.end) - inside.get(id(span), 0.0)) / workers
        part.bytes = _sum(part.bytes, span.bytes)
        part.operations = _sum(part.operations, span.operations)
    return sorted(parts.values(), key=lambda part: (KINDS.index(part.kind), -part.seconds))


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
