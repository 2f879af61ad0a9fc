"""Copies from and to pinned memory on a stream, unified memory, and the pool that hands out the blocks."""

import cupy as cp
import cupyx
import numpy as np

count = 1024
pinned = cupyx.empty_pinned(count, np.float32)
pinned[...] = np.arange(count)
back = cupyx.zeros_pinned(count, np.float32)
stream = cp.cuda.Stream(non_blocking=True)
with stream:
    x = cp.empty(count, cp.float32)
    x.set(pinned, stream=stream)
    y = x * x
    y.get(stream=stream, out=back)
stream.synchronize()
np.testing.assert_array_equal(back, np.arange(count, dtype=np.float32) ** 2)

pool = cp.get_default_memory_pool()
used = pool.used_bytes()
block = cp.empty(1 << 20, cp.uint8)
assert pool.used_bytes() - used == 1 << 20
del block
pool.free_all_blocks()
free, total = cp.cuda.Device().mem_info
print("copied:", back[:4], "free below total:", free < total)
