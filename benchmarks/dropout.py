"""python -m benchmarks.dropout: dropout with p = 0.1, forward and backward.

PyTorch draws another mask, so that its results have no error.
"""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import DROPOUT


def torch_forward(torch, a):
    return torch.nn.functional.dropout(a.x, a.p)


BENCHMARK = Benchmark(
    DROPOUT,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward_bytes=lambda rows, width: 8 * rows * width,
    torch_forward=torch_forward,
    torch_draws=True,
)

if __name__ == "__main__":
    main(BENCHMARK)
