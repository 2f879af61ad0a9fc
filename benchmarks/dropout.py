"""python -m benchmarks.dropout: dropout with p = 0.1, forward and backward.

PyTorch draws another mask, so that its results could not be compared: it is left out.
"""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import DROPOUT

BENCHMARK = Benchmark(
    DROPOUT,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward_bytes=lambda rows, width: 8 * rows * width,
)

if __name__ == "__main__":
    main(BENCHMARK)
