"""python -m benchmarks.layer_norm: layer norm, forward and backward."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import LAYER_NORM


def torch_forward(torch, a):
    return torch.nn.functional.layer_norm(a.x, a.weight.shape, a.weight, a.bias, a.eps)


BENCHMARK = Benchmark(
    LAYER_NORM,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward_bytes=lambda rows, width: 12 * rows * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
