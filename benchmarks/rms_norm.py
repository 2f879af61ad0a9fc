"""python -m benchmarks.rms_norm: RMS norm, forward and backward."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import RMS_NORM


def torch_forward(torch, a):
    return torch.nn.functional.rms_norm(a.x, a.weight.shape, a.weight, a.eps)


BENCHMARK = Benchmark(
    RMS_NORM,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward_bytes=lambda rows, width: 12 * rows * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
