"""python -m benchmarks.residual_bias: x + (branch + bias), forward and backward."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import RESIDUAL_BIAS


def torch_forward(torch, a):
    return a.x + (a.branch + a.bias)


BENCHMARK = Benchmark(
    RESIDUAL_BIAS,
    forward_bytes=lambda rows, width: 12 * rows * width,
    backward_bytes=lambda rows, width: 4 * rows * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
