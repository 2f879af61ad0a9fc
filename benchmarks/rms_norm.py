"""python -m benchmarks.rms_norm: RMS norm, forward and backward."""

from benchmarks.kernel import Operation, main


def inputs(rng, rows, width):
    x, dy = rng.normal(size=(2, rows, width))
    return dict(x=x, dy=dy, weight=rng.normal(size=width))


def forward(op, a):
    y, saved = op.rms_norm_forward(a.x, a.weight)
    return [y], saved


def backward(op, a, saved):
    return op.rms_norm_backward(a.dy, saved)


def torch_forward(torch, a):
    return torch.nn.functional.rms_norm(a.x, a.weight.shape, a.weight, eps=1e-5)


OPERATION = Operation(
    name="rms_norm",
    size_names=("rows", "width"),
    sizes=((4096, 768), (8192, 2048), (8192, 4096)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda rows, width: 8 * rows * width,
    backward=backward,
    backward_bytes=lambda rows, width: 12 * rows * width,
    torch_forward=torch_forward,
    differentiated=("x", "weight"),
)

if __name__ == "__main__":
    main(OPERATION)
