"""python -m benchmarks.embedding: rows of a table, and its gradient. Ids follow Zipf's law, as words do."""

from benchmarks.kernel import Benchmark, main
from minillm.checks.cases import EMBEDDING


def torch_forward(torch, a):
    return torch.nn.functional.embedding(a.ids, a.weight)


BENCHMARK = Benchmark(
    EMBEDDING,
    forward_bytes=lambda tokens, vocabulary, width: 8 * tokens * width,
    backward_bytes=lambda tokens, vocabulary, width: 4 * (tokens + vocabulary) * width,
    torch_forward=torch_forward,
)

if __name__ == "__main__":
    main(BENCHMARK)
