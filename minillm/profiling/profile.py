"""Where the time of a training step goes, part by part.

Hooks record when each piece of work of a step begins and ends:

    kernel             a launch of one of our CUDA kernels, by its name
    matrix product     a call of `matmul`, by the layer that makes it
    elementwise        what is left of a layer's forward or backward: NumPy's or CuPy's own operations
    communication      what is exchanged with other ranks, by the name of the collective, and waiting for other threads
    between            what is left of the step: Python, the batch, and on a GPU the time in which it waits for a launch

A piece inside another one counts for itself and not for the outer one, so that the parts add up to
the step. On the CPU several workers may share a batch; each part is then the mean over the workers.
Of several ranks each sees its own step, and the first one reports it. Where a collective goes on
while other work is done (distributed/sharded_gradients.py), its time is what the rank waits for it.

On a GPU the host only hands work over, and its clock says nothing. There a step is taken several
times. Once as always: the time of the whole. Once to see how long the host takes from piece to
piece. Then a few more times, each for a window of some pieces: the stream is held up just before
the window until the host has handed it over, so that work follows work with no gap, and CUDA events
at its boundaries give the time on the device. A window is short because CUDA lets about 1,000
launches pend and then makes the host wait. The difference between the whole and the sum of the
pieces is the launch gap.

Bytes are those of the arrays that a piece takes and gives, read or written once: the least that it
has to move. Operations of a product (N, K) @ (K, M) are 2 N K M; those of attention kernels 4 B H
T^2 D forward, 8 backward (flops.py); others are not counted. The share of peak is that of the
operations of matrix products, and that of the bytes of everything else, of what the device can do
at most (peaks.py); "n/a" where that is not known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from minillm.backend.hooks import add_hook
from minillm.profiling.flops import flops_per_token
from minillm.profiling.peaks import Peaks, peaks_of
from minillm.profiling.profile_recording import (
    HostClock,
    Recorder,
    Span,
    Window,
    clock_of,
    wrapped_communicator,
    wrapped_layers,
    wrapped_step,
)

WARM_UP_STEPS = 3  # before the step that is profiled: caches, pools and compiled kernels are then as they stay
KINDS = ("kernel", "matrix product", "elementwise", "communication", "between")
WINDOW = 300  # boundaries of pieces, on a GPU: with the launches between them about half of what may pend
TRIES = 3  # of a profile by windows
SLACK = 2.0  # how much longer than the host needed in the rehearsal the stream is held up


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

    model_operations: by the formula of flops.py. dtype: as in precision.py.
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
        """Operations a second that the device can do at most with operands of this dtype, if that
        is known.
        """
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
    """Calls a step's function, as `profiler(step, ...)`, and takes it apart.

    After WARM_UP_STEPS calls one is timed as a whole. The next one, or on a GPU one for each
    window, is taken apart; then `done` is called. From then on steps are called and nothing else.
    """

    def __init__(
        self,
        models: list,
        optimizer,
        tokens: int,
        time: int,
        done: Callable[[StepProfile], None],
        sharded=None,
        communicator=None,
    ):
        """models: the model and its replicas; tokens: those of a step; time: those of a window.
        sharded: what takes the optimizer's step, if not itself; communicator: of several ranks.
        """
        self.models, self.optimizer, self.tokens, self.time, self.done = models, optimizer, tokens, time, done
        self.sharded, self.communicator = sharded, communicator
        self.clock = clock_of(models[0].device)
        self._plan = self._planned()
        self._next = next(self._plan)

    def __call__(self, step: Callable, *arguments):
        value = self._next(partial(step, *arguments))
        self._next = next(self._plan, _plainly)
        return value

    def _planned(self) -> Iterator[Callable]:
        """For each call a function that takes the step and returns its value."""
        yield from [_plainly] * WARM_UP_STEPS
        yield self._time
        if self.clock.is_held_up:
            yield from self._by_windows()
        else:
            yield partial(self._take_apart, Recorder(self.clock, self._weight_bytes))
            self.done(self._profile(add_up(self._pieces, self._seconds, len(self.models)), "Python"))

    def _by_windows(self) -> Iterator[Callable]:
        """A rehearsal and the windows; once more from the start where a step was made of other
        pieces than the one before.
        """
        for _ in range(TRIES):
            rehearsal = Recorder(HostClock("host"), self._weight_bytes)
            yield partial(self._take_apart, rehearsal)
            (timeline,) = rehearsal.timelines
            handed_over, seconds = [mark for mark, _ in timeline], [0.0] * len(rehearsal.spans)
            for start in range(0, len(timeline) - 1, WINDOW):
                stop = min(start + WINDOW, len(timeline) - 1)
                window = Window(start, stop, SLACK * (handed_over[stop] - handed_over[start]))
                yield partial(self._take_apart, Recorder(self.clock, window=window))
                if [span.name for span in self._pieces] != [span.name for span in rehearsal.spans]:
                    break
                seconds = [total + more for total, more in zip(seconds, self._seconds)]
            else:
                self.done(self._profile(add_up(rehearsal.spans, seconds, 1), "launch gap"))
                return

    @property
    def _weight_bytes(self) -> int:
        return sum(parameter.value.nbytes for parameter in self.optimizer.parameters.values())

    def _time(self, step):
        self.clock.wait()
        started = time.perf_counter()
        value = step()
        self.clock.wait()
        self._whole = time.perf_counter() - started
        return value

    def _take_apart(self, recorder: Recorder, step):
        """Takes the step; what it is made of is then in _pieces, and what each took in _seconds."""
        name, ranks = type(self.optimizer).__name__, 1 if self.communicator is None else self.communicator.size
        with (
            add_hook(recorder.work),
            wrapped_layers(self.models, recorder),
            wrapped_step(self.sharded or self.optimizer, recorder, name, ranks),
            wrapped_communicator(self.communicator, recorder),
        ):
            started = time.perf_counter()
            value = step()
        self.clock.wait()
        if not self.clock.is_held_up:
            self._whole = time.perf_counter() - started
        self._pieces, self._seconds = recorder.spans, recorder.seconds()
        return value

    def _profile(self, parts: list[Part], rest: str) -> StepProfile:
        """rest: the name of what is left of the whole."""
        model, busy = self.models[0], sum(part.seconds for part in parts)
        whole = max(self._whole, busy)
        parts.append(Part("between", rest, 1, whole - busy, None, None))
        return StepProfile(
            parts=parts,
            seconds=whole,
            tokens=self.tokens,
            model_operations=self.tokens * flops_per_token(model.config, self.time),
            device_name=self.clock.device_name,
            dtype=model.precision,
            workers=len(self.models),
        )


def _plainly(step: Callable):
    return step()


def add_up(spans: list[Span], seconds: list[float], workers: int) -> list[Part]:
    """One part for each kind and name. seconds: of each span, without the spans inside it."""
    parts: dict[tuple[str, str], Part] = {}
    for span, taken in zip(spans, seconds, strict=True):
        part = parts.setdefault((span.kind, span.name), Part(span.kind, span.name))
        part.calls += 1
        part.seconds += taken / workers
        part.bytes = _sum(part.bytes, span.bytes)
        part.operations = _sum(part.operations, span.operations)
    return sorted(parts.values(), key=lambda part: (KINDS.index(part.kind), -part.seconds))


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
