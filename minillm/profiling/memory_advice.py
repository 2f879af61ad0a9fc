"""What to say when memory runs out: what was asked for, what is free, and which change would make
the run fit.

A change fits if what it takes by `estimate` (memory.py) is at most nine tenths of what the run can
have: what is free, and what this process holds already and would not hold otherwise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from minillm.distributed.communicator import RankLost
from minillm.distributed.last_words import OUT_OF_MEMORY
from minillm.errors import UserError
from minillm.profiling.memory import PARTS, Workload, estimate

MARGIN = 0.9  # of what can be had: estimates are right to a tenth
SHORTEST = 8  # the shortest context that is advised is an eighth of the one wanted: less is another task
NARROWER = {"float64": "float32", "float32": "bfloat16", "tf32": "bfloat16"}
CUDA_SAYS = ("out of memory", "OUT_OF_MEMORY", "ALLOC_FAILED", "MemoryAllocation")


class OutOfMemory(UserError):
    """There was not enough memory; the message says what would help."""


class Memory(NamedTuple):
    """Bytes: what is free, and what the arrays of this process could have in all."""

    free: int
    available: int


@contextmanager
def explain_oom(workload: Workload) -> Iterator[None]:
    """Inside, running out of memory raises OutOfMemory, which says what would make the workload
    fit; also where one of several ranks has run out of it.
    """
    try:
        yield
    except RankLost as lost:
        if not lost.why.startswith(OUT_OF_MEMORY):
            raise
        refused = MemoryError(lost.why.removeprefix(OUT_OF_MEMORY).partition(";")[0].lstrip(": "))
        where = str(lost).partition(": ")[0]  # rank, step and collective
        message = f"{explain(workload, refused, memory_of(workload.device))}; {where}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = explain(workload, error, memory_of(workload.device))
    else:
        return
    raise OutOfMemory(message)  # here, where the error and the arrays of its frames are gone


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is NumPy's or CuPy's MemoryError, or an error of a CUDA library that says the
    same.
    """
    from_cuda = type(error).__module__.startswith("cupy") and any(words in str(error) for words in CUDA_SAYS)
    return isinstance(error, MemoryError) or from_cuda


def explain(workload: Workload, error: Exception, memory: Memory) -> str:
    """The whole message, in one line."""
    taken = estimate(workload)
    parts = ", ".join(f"{part} {format_bytes(getattr(taken, part))}" for part in PARTS)
    return (
        f"out of memory on {workload.device}: {request(error)}; {format_bytes(memory.free)} are free. This run takes about "
        f"{format_bytes(taken.total)} ({parts}) and can have {format_bytes(memory.available)}. "
        f"{advice(workload, memory.available)}"
    )


def explain_shortly(error: MemoryError) -> str:
    """One line for a command of which no workload is known."""
    device = "cuda" if type(error).__module__.startswith("cupy") else "cpu"
    free = format_bytes(memory_of(device).free)
    return (
        f"out of memory on {device}: {request(error)}; {free} are free: a smaller --batch-size, a shorter text or a smaller "
        "model takes less"
    )


def request(error: Exception) -> str:
    """What the failed request was, as NumPy or CuPy says it."""
    text = " ".join(str(error).split()).rstrip(".") or "a request for memory was refused"
    return text[0].lower() + text[1:]


def format_bytes(size: int) -> str:
    """A number of bytes as people write it.

    >>> format_bytes(1_234_000_000), format_bytes(56_700_000), format_bytes(900)
    ('1.23 GB', '57 MB', '0.00 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


# ------------------------------------------------------------------------------------------------------------- advice


def advice(workload: Workload, available: int) -> str:
    """Which changes make it fit, each alone; if none does, several together; or that none can."""
    if _fits(workload, available):
        return "By that it should have fitted: does another program take memory, or a long sample or evaluation?"
    changes = [change for change in single_changes(workload, available) if _fits(change[1], available)]
    if changes:
        return f"It would fit with {', or '.join(f'{options} ({_total(changed)})' for options, changed in changes)}"
    options, changed = _together(workload, available)
    if _fits(changed, available):
        return f"No single change is enough, but {options} together are ({_total(changed)})"
    fixed = estimate(changed).weights + estimate(changed).moments
    return (
        f"No setting is enough: even with {options} it takes {_total(changed)}, of which weights and moments are "
        f"{format_bytes(fixed)}: use a smaller model"
    )


def single_changes(workload: Workload, available: int) -> list[tuple[str, Workload]]:
    """(options of the command line, the changed workload): the largest batch and context that fit,
    or the smallest there are; the narrower dtype; checkpointing.
    """
    changes = []
    if workload.batch_size > 1:
        changes.append(_smaller_batch(workload, available))
    if workload.time >= SHORTEST:
        changes.append(_shorter_context(workload, available))
    if workload.dtype in NARROWER:
        dtype = NARROWER[workload.dtype]
        changes.append((f"--dtype {dtype}", replace(workload, dtype=dtype)))
    if not workload.checkpoint_activations:
        changes.append(("--checkpoint-activations", replace(workload, checkpoint_activations=True)))
    return changes


def _smaller_batch(workload: Workload, available: int) -> tuple[str, Workload]:
    """By bisection: what fits gets no larger with a smaller batch."""
    fitting, failing = 1, workload.batch_size
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fits = _fits(replace(workload, batch_size=middle), available)
        fitting, failing = (middle, failing) if fits else (fitting, middle)
    return f"--batch-size {fitting}", replace(workload, batch_size=fitting)


def _shorter_context(workload: Workload, available: int) -> tuple[str, Workload]:
    """By halves, down to an eighth."""
    shortest, time = workload.time // SHORTEST, workload.time // 2
    while time > shortest and not _fits(_with_context(workload, time), available):
        time //= 2
    return f"--context-length {time}", _with_context(workload, time)


def _with_context(workload: Workload, time: int) -> Workload:
    return replace(workload, config=replace(workload.config, context_length=time), context_length=None)


def _together(workload: Workload, available: int) -> tuple[str, Workload]:
    """One change after the other, until it fits: checkpointing, a smaller batch, a narrower dtype,
    a shorter context.
    """
    chosen = []
    for change in (_with_checkpointing, _smaller_batch, _narrower, _shorter_context):
        if _fits(workload, available):
            break
        option, changed = change(workload, available)
        if estimate(changed).total < estimate(workload).total:
            chosen.append(option)
            workload = changed
    return " ".join(chosen) or "one window at a time", workload


def _with_checkpointing(workload: Workload, available: int) -> tuple[str, Workload]:
    return "--checkpoint-activations", replace(workload, checkpoint_activations=True)


def _narrower(workload: Workload, available: int) -> tuple[str, Workload]:
    dtype = NARROWER.get(workload.dtype, workload.dtype)
    return f"--dtype {dtype}", replace(workload, dtype=dtype)


def _fits(workload: Workload, available: int) -> bool:
    return estimate(workload).total <= MARGIN * available


def _total(workload: Workload) -> str:
    return format_bytes(estimate(workload).total)


# ------------------------------------------------------------------------------------------------------ what there is


def memory_of(device: str) -> Memory:
    """The memory of a device as it is now.

    On a GPU what this process's pool holds is available, too; on the host its resident memory is,
    within the limit that the system sets for its address space (ulimit -v).
    """
    if device == "cuda":
        cupy = sys.modules["cupy"]
        free, _ = cupy.cuda.runtime.memGetInfo()
        return Memory(free, free + cupy.get_default_memory_pool().total_bytes())
    if not Path("/proc/self/status").is_file():  # not Linux: only the total is known
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        total = pages * os.sysconf("SC_PAGE_SIZE") if pages else 0
        return Memory(total, total)
    free, resident = _kilobytes("/proc/meminfo", "MemAvailable"), _kilobytes("/proc/self/status", "VmRSS")
    limit = _address_space_limit()
    if limit is not None:
        free = min(free, max(0, limit - _kilobytes("/proc/self/status", "VmSize")))
    return Memory(free, free + resident)


def _kilobytes(path: str, name: str) -> int:
    """The bytes in a line "NAME:   123 kB" of a file of /proc."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _address_space_limit() -> int | None:
    import resource  # which Windows does not have

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit
