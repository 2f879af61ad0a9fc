"""python -m benchmarks.global_norm: the norm of the gradients of a GPT-2 of some depth and width."""

from benchmarks.kernel import Operation, main


def gpt2_tensors(rng, n_layer, d_model):
    """Arrays with the shapes of the parameters of a GPT-2 with a vocabulary of 50,257."""
    c = d_model
    block = ((c,), (c,), (c, 3 * c), (3 * c,), (c, c), (c,), (c,), (c,), (c, 4 * c), (4 * c,), (4 * c, c), (c,))
    return [rng.normal(size=shape) for shape in ((50257, c), (1024, c), *(block * n_layer), (c,), (c,))]


def elements(n_layer, d_model):
    """How many numbers these arrays hold."""
    return (50257 + 1024 + 2) * d_model + n_layer * (12 * d_model**2 + 13 * d_model)


def inputs(rng, n_layer, d_model):
    return dict(gradients=gpt2_tensors(rng, n_layer, d_model))


def forward(op, a):
    return [op.global_norm(a.gradients)], None


def torch_forward(torch, a):
    return torch.nn.utils.get_total_norm(a.gradients)


OPERATION = Operation(
    name="global_norm",
    size_names=("n_layer", "d_model"),
    sizes=((4, 128), (12, 768)),
    inputs=inputs,
    forward=forward,
    forward_bytes=lambda n_layer, d_model: 4 * elements(n_layer, d_model),
    torch_forward=torch_forward,
    layer="minillm.optim.global_norm",
)

if __name__ == "__main__":
    main(OPERATION)
