"""python -m benchmarks.dropout: dropout with p = 0.1, forward and backward.

PyTorch draws another mask, so that its results could not be compared: it is left out.
"""

from benchmarks.kernel import Operation, main


def inputs(rng, rows, width):
    x, dy = rng.normal(size=(2, rows, width))
    return dict(x=x, dy=dy)


def forward(op, a):
    y, saved = op.dropout_forward(a.x, 0.1, (0, "dropout", 1))
    return [y], saved


def backward(op, a, saved):
    return [op.dropout_backward(a.dy, saved)]


OPERATION = Operation(
    name="dropout",
    size_names=("rows", "width"),
    sizes=((4096, 768), (16384, 768)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward=backward,
    backward_bytes=lambda rows, width: 8 * rows * width,
)

if __name__ == "__main__":
    main(OPERATION)
