"""python -m benchmarks.gelu: bias and GELU (the tanh form), forward and backward."""

from benchmarks.kernel import Operation, main


def inputs(rng, rows, width):
    x, dy = rng.normal(size=(2, rows, width))
    return dict(x=x, dy=dy, bias=rng.normal(size=width))


def forward(op, a):
    y, saved = op.gelu_forward(a.x, a.bias)
    return [y], saved


def backward(op, a, saved):
    return op.gelu_backward(a.dy, saved)


def torch_forward(torch, a):
    return torch.nn.functional.gelu(a.x + a.bias, approximate="tanh")


OPERATION = Operation(
    name="gelu",
    size_names=("rows", "width"),
    sizes=((4096, 3072), (16384, 3072), (8192, 6400)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward=backward,
    backward_bytes=lambda rows, width: 12 * rows * width,
    torch_forward=torch_forward,
    differentiated=("x", "bias"),
)

if __name__ == "__main__":
    main(OPERATION)
