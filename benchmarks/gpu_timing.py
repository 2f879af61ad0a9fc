"""How long a GPU takes for work, without the time in which the host asks for it.

One call between two synchronisations measures Python: the host needs 40 to 300 microseconds to ask for a kernel that a GPU does
in 20. So calls pile up in the stream behind a function of the host that sleeps, and follow each other without a gap; CUDA
events before the first and after the last of them give their time.

CUDA lets about 1,000 launches pend in a stream; then it makes the host wait, and the gaps are back. CALLS stays well below.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

CALLS = 10  # that pile up; an operation of plain CuPy has up to 30 launches
LONG = 0.01  # seconds of a call beside which a launch does not count: it is timed alone
SLACK = 2.0  # how much longer than the host needed the stream is held up
CACHES = 4  # inputs that are used in turn are together this many times as large as the L2 cache


def device_seconds(work: Callable[[int], object], calls: int = CALLS) -> float:
    """Seconds of the device for one call: the mean over calls of `work(number)`, number from 0 to calls - 1.

    A call that takes longer than LONG is timed by itself. PyTorch's default stream and CuPy's are the same one, the legacy
    stream of the device.
    """
    cupy = importlib.import_module("cupy")
    started = time.perf_counter()
    _seconds_of_the_host(cupy, work, 1)
    calls = 1 if time.perf_counter() - started > LONG else calls
    handed_over = _seconds_of_the_host(cupy, work, calls)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.cuda.get_current_stream().launch_host_func(time.sleep, SLACK * handed_over)
    start.record()
    for number in range(calls):
        work(number)
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) / 1e3 / calls


def _seconds_of_the_host(cupy, work, calls: int) -> float:
    """How long the host takes to ask for all calls; waits for them before and afterwards."""
    cupy.cuda.Device().synchronize()
    started = time.perf_counter()
    for number in range(calls):
        work(number)
    handed_over = time.perf_counter() - started
    cupy.cuda.Device().synchronize()
    return handed_over


def sets_of_inputs(input_bytes: int, calls: int = CALLS) -> int:
    """How many copies of its inputs a benchmark takes in turn, so that none is found in the L2 cache again."""
    attributes = importlib.import_module("cupy").cuda.Device().attributes
    return sets_for(input_bytes, attributes["L2CacheSize"], calls)


def sets_for(input_bytes: int, cache_bytes: int, calls: int) -> int:
    """
    >>> sets_for(12_582_912, 50 * 2**20, 10), sets_for(2**30, 50 * 2**20, 10), sets_for(1000, 50 * 2**20, 10)
    (10, 1, 10)
    """
    return min(calls, max(1, -(-CACHES * cache_bytes // max(1, input_bytes))))
