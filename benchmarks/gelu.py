"""python -m benchmarks.gelu: bias and GELU (the tanh form), forward and backward."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import GELU


def torch_forward(torch, a):
    return torch.nn.functional.gelu(a.x + a.bias, approximate=a.approximate)


BENCHMARK = Benchmark(
    GELU,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward_bytes=lambda rows, width: 12 * rows * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
