"""A few operations captured into a graph, which is launched again with other numbers in the same arrays."""

import cupy as cp
import numpy as np

x, y = cp.arange(64, dtype=cp.float32), cp.empty(64, cp.float32)
stream = cp.cuda.Stream(non_blocking=True)
with stream:
    cp.multiply(x, 2, out=y)  # compiled before the capture
    cp.add(y, 1, out=y)
    stream.begin_capture()
    cp.multiply(x, 2, out=y)
    cp.add(y, 1, out=y)
    graph = stream.end_capture()
x[...] = 10
graph.launch(stream)
stream.synchronize()
np.testing.assert_array_equal(y.get(), np.full(64, 21, np.float32))
print("after the graph:", y[:3])
