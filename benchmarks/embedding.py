"""python -m benchmarks.embedding: rows of a table, and its gradient. Ids follow Zipf's law, as words do."""

import numpy as np

from benchmarks.kernel import Operation, main


def inputs(rng, tokens, vocabulary, width):
    ids = np.minimum(rng.zipf(1.2, size=tokens) - 1, vocabulary - 1)
    return dict(ids=ids, weight=rng.normal(size=(vocabulary, width)), dy=rng.normal(size=(tokens, width)))


def forward(op, a):
    y, saved = op.embedding_forward(a.ids, a.weight)
    return [y], saved


def backward(op, a, saved):
    return [op.embedding_backward(a.dy, saved)]


def torch_forward(torch, a):
    return torch.nn.functional.embedding(a.ids, a.weight)


OPERATION = Operation(
    name="embedding",
    size_names=("tokens", "vocabulary", "width"),
    sizes=((16384, 50257, 768), (16384, 65, 384)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda tokens, vocabulary, width: 8 * tokens * width,
    backward=backward,
    backward_bytes=lambda tokens, vocabulary, width: 4 * (tokens + vocabulary) * width,
    torch_forward=torch_forward,
    differentiated=("weight",),
)

if __name__ == "__main__":
    main(OPERATION)
