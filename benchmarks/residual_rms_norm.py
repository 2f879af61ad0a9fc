"""python -m benchmarks.residual_rms_norm: residual add and RMS norm in one, forward and backward."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import RESIDUAL_RMS_NORM


def torch_forward(torch, a):
    total = a.x + (a.delta + a.delta_bias)
    return total, torch.nn.functional.rms_norm(total, a.weight.shape, a.weight, a.eps)


BENCHMARK = Benchmark(
    RESIDUAL_RMS_NORM,
    forward_bytes=lambda rows, width: 16 * rows * width,
    backward_bytes=lambda rows, width: 16 * rows * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
