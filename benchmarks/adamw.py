"""python -m benchmarks.adamw: one AdamW step over the parameters of a GPT-2 of some depth and width."""

from benchmarks.global_norm import elements, gpt2_shapes
from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import ADAMW
from minillm.checks.cases_optim import DECAY, SETTINGS


def torch_forward(torch, a):
    if not hasattr(a, "optimizer"):  # made at the first step: making it is not what is measured
        a.optimizer = torch_optimizer(torch, a)
    a.optimizer.step()
    return a.values


def torch_optimizer(torch, a):
    """PyTorch's AdamW at the same step, with the same moments."""
    for value, gradient in zip(a.values, a.gradients):
        value.grad = gradient
    matrices, vectors = ([v for v in a.values if (v.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **SETTINGS, fused=True)
    for value, first, second in zip(a.values, a.first, a.second):
        step = torch.tensor(float(a.steps[0] - 1), device=value.device)
        optimizer.state[value] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    return optimizer


BENCHMARK = Benchmark(
    ADAMW,
    forward_bytes=lambda n_layer, d_model: 28 * elements(n_layer, d_model),
    torch_forward=torch_forward,
    dimensions=("n_layer", "d_model"),
    small=(1, 8),
    sizes=((4, 128), (12, 768)),
    expand=gpt2_shapes,
    settings={"steps": (1,), "gradient_scale": 1.0},
)

if __name__ == "__main__":
    main(BENCHMARK)
