"""python -m benchmarks.head: projection to logits, cross-entropy, and the gradients of both, on a GPU.

Ours makes the gradients in forward, chunk by chunk, and forms no B*T*V logits (layers/linear_cross_entropy.py); PyTorch
makes all logits, and their gradient in backward. So compare the sums of both directions. Memory on the CPU:
benchmarks/linear_cross_entropy.py.
"""

from dataclasses import replace

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import LINEAR_CROSS_ENTROPY, at


def torch_forward(torch, a):
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(a.x, a.weight), a.targets)


BENCHMARK = Benchmark(
    replace(LINEAR_CROSS_ENTROPY, low_precision=("x",), benchmark=[at(8192, 768, 50257, dtype="float32", scale=0.02)]),
    forward_bytes=lambda rows, width, vocabulary: 8 * (rows + vocabulary) * width,
    backward_bytes=lambda rows, width, vocabulary: 4 * rows * width,
    torch_forward=torch_forward,
    small=(8, 16, 64),
)

if __name__ == "__main__":
    main(BENCHMARK)
