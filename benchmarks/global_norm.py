"""python -m benchmarks.global_norm: the norm of the gradients of a GPT-2 of some depth and width."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import GLOBAL_NORM


def gpt2_shapes(n_layer, d_model):
    """The shapes of the parameters of a GPT-2 with a vocabulary of 50,257."""
    c = d_model
    block = ((c,), (c,), (c, 3 * c), (3 * c,), (c, c), (c,), (c,), (c,), (c, 4 * c), (4 * c,), (4 * c, c), (c,))
    return (50257, c), (1024, c), *(block * n_layer), (c,), (c,)


def elements(n_layer, d_model):
    """How many numbers these arrays hold."""
    return (50257 + 1024 + 2) * d_model + n_layer * (12 * d_model**2 + 13 * d_model)


def torch_forward(torch, a):
    return torch.nn.utils.get_total_norm(a.gradients)


BENCHMARK = Benchmark(
    GLOBAL_NORM,
    forward_bytes=lambda n_layer, d_model: 4 * elements(n_layer, d_model),
    torch_forward=torch_forward,
    dimensions=("n_layer", "d_model"),
    small=(1, 8),
    sizes=((4, 128), (12, 768)),
    expand=gpt2_shapes,
)

if __name__ == "__main__":
    main(BENCHMARK)
