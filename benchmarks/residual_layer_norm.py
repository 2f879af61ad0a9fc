"""python -m benchmarks.residual_layer_norm: residual add and layer norm in one, forward and backward."""

from benchmarks.kernel import Operation, main


def inputs(rng, rows, width):
    x, delta, dsum, dy = rng.normal(size=(4, rows, width))
    return dict(x=x, delta=delta, dsum=dsum, dy=dy, weight=rng.normal(size=width), bias=rng.normal(size=width))


def forward(op, a):
    return op.residual_layer_norm_forward(a.x, a.delta, a.weight, a.bias)


def backward(op, a, saved):
    return op.residual_layer_norm_backward(a.dsum, a.dy, saved)


def torch_forward(torch, a):
    total = a.x + a.delta
    return total, torch.nn.functional.layer_norm(total, a.weight.shape, a.weight, a.bias)


OPERATION = Operation(
    name="residual_layer_norm",
    size_names=("rows", "width"),
    sizes=((4096, 768), (16384, 768), (8192, 1600)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda rows, width: 16 * rows * width,
    backward=backward,
    backward_bytes=lambda rows, width: 16 * rows * width,
    torch_forward=torch_forward,
    differentiated=("x", "weight", "bias"),
)

if __name__ == "__main__":
    main(OPERATION)
