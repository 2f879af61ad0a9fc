"""python -m benchmarks.swiglu: the gate of Llama's MLP, g sigmoid(g) u, forward and backward."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import SWIGLU


def torch_forward(torch, a):
    return torch.nn.functional.silu(a.gate) * a.up


BENCHMARK = Benchmark(
    SWIGLU,
    forward_bytes=lambda rows, width: 12 * rows * width,
    backward_bytes=lambda rows, width: 20 * rows * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
