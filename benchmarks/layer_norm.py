"""python -m benchmarks.layer_norm: layer norm, forward and backward."""

from benchmarks.kernel import Operation, main


def inputs(rng, rows, width):
    x, dy = rng.normal(size=(2, rows, width))
    return dict(x=x, dy=dy, weight=rng.normal(size=width), bias=rng.normal(size=width))


def forward(op, a):
    y, saved = op.layer_norm_forward(a.x, a.weight, a.bias)
    return [y], saved


def backward(op, a, saved):
    return op.layer_norm_backward(a.dy, saved)


def torch_forward(torch, a):
    return torch.nn.functional.layer_norm(a.x, a.weight.shape, a.weight, a.bias)


OPERATION = Operation(
    name="layer_norm",
    size_names=("rows", "width"),
    sizes=((4096, 768), (16384, 768), (8192, 1600)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward=backward,
    backward_bytes=lambda rows, width: 12 * rows * width,
    torch_forward=torch_forward,
    differentiated=("x", "weight", "bias"),
)

if __name__ == "__main__":
    main(OPERATION)
