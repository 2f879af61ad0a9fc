"""python -m benchmarks.swiglu: the gate of Llama's MLP, g sigmoid(g) u, forward and backward."""

from benchmarks.kernel import Operation, main


def inputs(rng, rows, width):
    gate, up, dh = rng.normal(size=(3, rows, width))
    return dict(gate=gate, up=up, dy=dh)


def forward(op, a):
    h, saved = op.swiglu_forward(a.gate, a.up)
    return [h], saved


def backward(op, a, saved):
    return op.swiglu_backward(a.dy, saved)


def torch_forward(torch, a):
    return torch.nn.functional.silu(a.gate) * a.up


OPERATION = Operation(
    name="swiglu",
    size_names=("rows", "width"),
    sizes=((4096, 2048), (16384, 2048), (8192, 5632)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda rows, width: 12 * rows * width,
    backward=backward,
    backward_bytes=lambda rows, width: 20 * rows * width,
    torch_forward=torch_forward,
    differentiated=("gate", "up"),
)

if __name__ == "__main__":
    main(OPERATION)
