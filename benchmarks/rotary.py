"""python -m benchmarks.rotary: rotary embedding of the queries (or keys) of a layer, forward and backward."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import ROTARY


def torch_forward(torch, a):
    x1, x2 = a.x.chunk(2, dim=-1)
    return torch.cat([x1 * a.cos - x2 * a.sin, x2 * a.cos + x1 * a.sin], dim=-1)


BENCHMARK = Benchmark(
    ROTARY,
    forward_bytes=lambda batch, heads, time, width: 8 * batch * heads * time * width,
    backward_bytes=lambda batch, heads, time, width: 8 * batch * heads * time * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
