"""python -m benchmarks.cross_entropy: loss and gradient of logits in float32, which is written over them.

PyTorch's forward is the loss alone, and its backward makes the gradient in an array of its own; ours does both in
forward.
"""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import CROSS_ENTROPY


def torch_forward(torch, a):
    return torch.nn.functional.cross_entropy(a.logits, a.targets)


BENCHMARK = Benchmark(
    CROSS_ENTROPY,
    forward_bytes=lambda rows, vocabulary: 8 * rows * vocabulary,
    backward_bytes=lambda rows, vocabulary: 8 * rows * vocabulary,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
