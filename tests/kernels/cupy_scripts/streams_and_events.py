"""Two streams, events between them, and the time between two events."""

import cupy as cp
import numpy as np
from cupyx.profiler import benchmark

first, second = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
x = cp.arange(1000, dtype=cp.float32)
ready, start, end = cp.cuda.Event(), cp.cuda.Event(), cp.cuda.Event()
with first:
    start.record()
    doubled = x * 2
    ready.record()
second.wait_event(ready)
with second:
    shifted = doubled + 1
    end.record()
end.synchronize()
first.synchronize()
cp.cuda.Device().synchronize()
np.testing.assert_array_equal(shifted.get(), np.arange(1000, dtype=np.float32) * 2 + 1)
assert start.done and end.done and cp.cuda.get_elapsed_time(start, end) >= 0
times = benchmark(lambda: x + 1, n_repeat=3, n_warmup=1)
assert times.gpu_times.shape == (1, 3) and cp.cuda.get_current_stream() == cp.cuda.Stream.null
print("events passed:", ready.done)
