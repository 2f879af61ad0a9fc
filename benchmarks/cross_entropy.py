"""python -m benchmarks.cross_entropy: loss and gradient of logits, which is written over them.

PyTorch's forward is the loss alone, and its backward makes the gradient in an array of its own; ours does both in
forward.
"""

from benchmarks.kernel import Operation, main


def inputs(rng, rows, vocabulary):
    return dict(logits=rng.normal(size=(rows, vocabulary)) * 3, targets=rng.integers(vocabulary, size=rows))


def forward(op, a):
    loss, saved = op.cross_entropy_forward(a.logits, a.targets)
    return [loss], saved


def backward(op, a, saved):
    return [op.cross_entropy_backward(1.0, saved)]


def torch_forward(torch, a):
    return torch.nn.functional.cross_entropy(a.logits, a.targets)


OPERATION = Operation(
    name="cross_entropy",
    size_names=("rows", "vocabulary"),
    sizes=((512, 50257), (4096, 50257), (16384, 256)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda rows, vocabulary: 8 * rows * vocabulary,
    backward=backward,
    backward_bytes=lambda rows, vocabulary: 8 * rows * vocabulary,
    torch_forward=torch_forward,
    differentiated=("logits",),
)

if __name__ == "__main__":
    main(OPERATION)
