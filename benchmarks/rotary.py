"""python -m benchmarks.rotary: rotary embedding of the queries (or keys) of a layer, forward and backward."""

from benchmarks.kernel import Operation, main
from minillm.layers.rotary import rotary_tables


def inputs(rng, batch, heads, time, width):
    x, dy = rng.normal(size=(2, batch, heads, time, width))
    cos, sin = rotary_tables(time, width)
    return dict(x=x, dy=dy, cos=cos, sin=sin)


def forward(op, a):
    y, saved = op.rotary_forward(a.x, a.cos, a.sin)
    return [y], saved


def backward(op, a, saved):
    return [op.rotary_backward(a.dy, saved)]


def torch_forward(torch, a):
    x1, x2 = a.x.chunk(2, dim=-1)
    return torch.cat([x1 * a.cos - x2 * a.sin, x2 * a.cos + x1 * a.sin], dim=-1)


OPERATION = Operation(
    name="rotary",
    size_names=("batch", "heads", "time", "width"),
    sizes=((4, 12, 1024, 64), (4, 32, 2048, 128)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda batch, heads, time, width: 8 * batch * heads * time * width,
    backward=backward,
    backward_bytes=lambda batch, heads, time, width: 8 * batch * heads * time * width,
    torch_forward=torch_forward,
    differentiated=("x",),
)

if __name__ == "__main__":
    main(OPERATION)
