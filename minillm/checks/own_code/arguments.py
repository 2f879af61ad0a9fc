"""Which argument of a backward gets what: the gradient from above, what forward kept, an input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minillm.checks.own_code.names import LABELS, SETTINGS
from minillm.checks.own_code.source import REQUIRED, Code, base_name, same_name
from minillm.checks.own_code.values import HELP, Ask

CACHES = ("cache", "caches", "saved", "ctx", "context", "memory", "tape", "residuals", "saved_tensors", "tmp", "stash")
UPSTREAM = (
    "dout", "dvalues", "dy", "dz", "da", "dh", "dH", "dL", "dldy", "dloss", "d_out", "dL_dout", "d_L_d_out", "delta", "error",
    "grad", "grads", "grad_output", "grad_out", "output_grad", "out_grad", "upstream", "upstream_grad", "gradient",
    "output_gradient", "loss_gradient", "accum_grad", "output_error", "error_signal", "incoming", "top_diff", "g", "gy", "eta",
)  # fmt: skip
RATES = ("learning_rate", "lr", "learn_rate", "alpha", "eta", "step_size")


@dataclass(frozen=True)
class Source:
    """Where the value of an argument comes from.

    kind: "upstream", "kept", "named", "buffer" or "value".
    """

    argument: str
    kind: str
    what: object = None


def is_cache(name: str | None, value) -> bool:
    """Whether what forward returns at a place is what it keeps for backward."""
    if name and (name.lower() in CACHES or name.lower().endswith(("cache", "caches", "saved", "_ctx"))):
        return True
    return value is not None and not isinstance(value, (np.ndarray, np.number, float, int, complex))


def bind(
    forward: Code,
    backward: Code,
    inputs: dict,
    returned: dict[str, object],
    buffers: tuple[str, ...] = (),
    is_method: bool = False,
) -> list[Source]:
    """A Source for each argument of `backward`.

    inputs: what forward was given; returned: what it returned, by name; buffers: arguments of
    forward that it writes its results into; is_method: the first argument is dy, whatever its name.
    Raises Ask where an argument cannot be told.
    """
    outputs = [name for name, value in returned.items() if not is_cache(name, value)]
    caches = [name for name in returned if name not in outputs]
    named = {**inputs, **returned}
    defaults = {argument.name: argument.default for argument in forward.arguments if argument.default is not REQUIRED}
    found: list[Source] = []
    for position, argument in enumerate(backward.arguments):
        name, base = argument.name, base_name(argument.name)
        free = [
            o for o in outputs if Source("", "upstream", o).what not in [s.what for s in found if s.kind == "upstream"]
        ]
        if name in named and not (position == 0 and name.lower() in UPSTREAM and name not in inputs):
            found.append(Source(name, "named", name))
        elif base and (match := _match(base, (*outputs, *buffers))) and match not in inputs_only(inputs, buffers):
            found.append(Source(name, "upstream", match))
        elif base and (match := _match(base, tuple(inputs))) and backward.writes_into(name):
            found.append(Source(name, "buffer", match))
        elif is_cache(name, None):
            found.append(Source(name, "kept", _kept(name, caches, outputs[1:])))
        elif position == 0 and free and (base or name in UPSTREAM or name.lower() in UPSTREAM):
            found.append(Source(name, "upstream", free[0]))
        elif name in defaults:  # what forward is called without
            if argument.default is REQUIRED:
                found.append(Source(name, "value", defaults[name]))
        elif name in RATES:
            found.append(Source(name, "value", 1.0))
        elif match := _match(name, tuple(named)):
            found.append(Source(name, "named", match))
        elif (
            position == 0 and free and (is_method or len([a for a in backward.arguments if a.default is REQUIRED]) > 1)
        ):
            found.append(Source(name, "upstream", free[0]))
        elif argument.default is not REQUIRED:
            continue
        elif free and base and not caches:
            found.append(Source(name, "upstream", free[0]))
        elif name in SETTINGS:
            found.append(Source(name, "value", SETTINGS[name]))
        elif len(caches) == 1 and not any(s.what == caches[0] for s in found):
            found.append(Source(name, "kept", caches[0]))
        elif free and name in UPSTREAM and not any(s.kind == "upstream" for s in found):  # linear_vjp(x, w, g)
            found.append(Source(name, "upstream", free[0]))
        elif len(inputs) == 1:  # relu_backward(dout, z) of relu(x)
            found.append(Source(name, "named", next(iter(inputs))))
        else:
            raise Ask(
                f"{backward.name}: what its argument {name} is cannot be told: it is no argument of {forward.name}, and "
                f"nothing that {forward.name} returns has this name. Name it alike, or return it in a cache"
            )
    return found


def _kept(name: str, caches: list[str], beside: list[str]) -> str | tuple[str, ...] | None:
    """What forward returned for an argument such as `cache`: of `return y, x` the array x itself,
    of `return y, mean, rstd` the tuple of both. beside: the arrays that are returned beside y.
    """
    if caches:
        return _match(name, tuple(caches)) or caches[0]
    return beside[0] if len(beside) == 1 else tuple(beside) or None


def inputs_only(inputs: dict, buffers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in inputs if name not in buffers)


def assigned(
    names: list[str | None], tensors: list[str], shapes: dict[str, tuple], gradients: list
) -> dict[str, object]:
    """Tensor -> gradient, of what backward returned: by its names, else in the tensors' order.

    names: those in the text of its `return`. Raises Ask where neither tells.
    """
    if len(names) == len(gradients):
        found = [
            next((t for t in tensors if name and _is_of(name, t, exact)), None) for name in names for exact in (True,)
        ]
        found = [
            f or next((t for t in tensors if name and _is_of(name, t, False)), None) for f, name in zip(found, names)
        ]
        pairs = [(tensor, gradient) for tensor, gradient in zip(found, gradients) if gradient is not None]
        known = [tensor for tensor, _ in pairs if tensor]
        if len(known) == len(pairs) and len(set(known)) == len(known):
            return dict(pairs)
    if len(gradients) == len(tensors):
        return {tensor: gradient for tensor, gradient in zip(tensors, gradients) if gradient is not None}
    given = [gradient for gradient in gradients if gradient is not None]
    if len(given) == 1 and tensors:
        alike = [tensor for tensor in tensors if shapes[tensor] == np.shape(given[0])]
        alike.sort(key=lambda tensor: tensor.lower() in LABELS)
        return {alike[0] if alike else tensors[0]: given[0]}
    raise Ask(
        f"backward returns {len(gradients)} gradients for {len(tensors)} arrays ({', '.join(tensors)}): "
        f"which is whose cannot be told. Name them in its return: {', '.join('d' + tensor for tensor in tensors)}"
    )


def ask_for(owner: str, names, why: str = "") -> Ask:
    """The question for the shapes of arguments."""
    first = next(iter(names))
    listed = " and ".join(names)
    return Ask(f"{owner}: nothing tells the shape of {listed}{why and ' (' + why + ')'}: write {HELP.format(first)}")


def _is_of(gradient: str, tensor: str, exact: bool) -> bool:
    base = base_name(gradient) or gradient
    key = tensor.split("[")[-1].strip("]'\"") if "[" in tensor else tensor.split(".")[-1]
    if exact:
        return base == key
    return same_name(base, key) or same_name(base.removesuffix("_prev"), key.removesuffix("_prev"))


def _match(name: str, names) -> str | None:
    return name if name in names else next((each for each in names if same_name(name, each)), None)
