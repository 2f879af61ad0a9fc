"""python -m benchmarks.bias: a bias is added, and the sum of its gradients over rows."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import BIAS


def torch_forward(torch, a):
    return a.z + a.bias


BENCHMARK = Benchmark(
    BIAS,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward_bytes=lambda rows, width: 4 * rows * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
