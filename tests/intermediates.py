"""Every tensor of a pass, and its gradient, beside PyTorch's: what `cmp` of makemore's part 4 prints, for whole models.

    python tests/intermediates.py gpt2|llama|qwen3

minillm's numbers are those of the pass as it runs. Rows of `minillm inspect`, and parameters, are taken by its recorder.
What an operation makes on the way is taken from its own lines (LINES): a copy of a variable when its line has run, since
a later line may write over it: scores become probabilities in place, and dp becomes ds.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

import minillm
from minillm.checks.case import randomised
from minillm.inspection import record
from minillm.layers import attention, cross_entropy, gelu, layer_norm, linear, rms_norm, swiglu
from minillm.layers.layer import Layer
from minillm.models.qwen3 import Qwen3, Qwen3Config

TOLERANCE = 1e-12  # of the norm of the difference, relative to the norm of PyTorch's tensor
SHAPE = dict(vocab_size=23, context_length=12, n_layer=2, d_model=16, d_ff=24)
GROUPED = SHAPE | dict(n_head=4, n_kv_head=2, head_dim=6)
MODELS = {
    "gpt2": lambda: minillm.GPT2(minillm.GPT2Config(**SHAPE, n_head=4), dtype="float64"),
    "llama": lambda: minillm.Llama(minillm.LlamaConfig(**GROUPED), dtype="float64"),
    "qwen3": lambda: Qwen3(Qwen3Config(**GROUPED), dtype="float64"),
}

# Function -> the beginning of a statement -> its variable, the tensor that it is then, and whether its value or gradient.
# Names that begin with a dot follow that of the layer. Other variables are no tensors of PyTorch's: what the derivation in
# the file's docstring has put together.
VALUE, GRADIENT = "value", "gradient"
LINES = {
    layer_norm.layer_norm_forward: {
        "C = x.shape[-1]": ("x", ".x", VALUE),
        "normed = rows - (rows @ average)[:, None]": ("normed", ".centered", VALUE),
        "variance = xp.square(normed) @ average": ("variance", ".variance", VALUE),
        "rstd = 1 / xp.sqrt(variance + rows.dtype.type(eps))": ("rstd", ".rstd", VALUE),
        "normed *= rstd[:, None]": ("normed", ".normed", VALUE),
        "y = normed * weight": ("y", ".scaled", VALUE),
        "y += bias": ("y", "", VALUE),
    },
    layer_norm.layer_norm_backward: {
        "dy_rows = upcast(dy).reshape(N, C)": ("dy_rows", "", GRADIENT),
        "dnormed = dy_rows * weight": ("dnormed", ".normed", GRADIENT),
        "dx *= rstd[:, None]": ("dx", ".x", GRADIENT),
    },
    rms_norm.rms_norm_forward: {
        "C = x.shape[-1]": ("x", ".x", VALUE),
        "rstd = 1 / xp.sqrt(xp.square(rows) @ average + rows.dtype.type(eps))": ("rstd", ".rstd", VALUE),
        "normed = rows * rstd[:, None]": ("normed", ".normed", VALUE),
    },
    rms_norm.rms_norm_backward: {
        "dy_rows = upcast(dy).reshape(N, C)": ("dy_rows", "", GRADIENT),
        "dx = dy_rows * weight": ("dx", ".normed", GRADIENT),
        "dx *= rstd[:, None]": ("dx", ".x", GRADIENT),
    },
    linear.linear_forward: {
        "rows = x.reshape(-1, x.shape[-1])": ("x", ".x", VALUE),
    },
    linear.linear_backward: {
        "dx = matmul(dy_rows, w.T, dx, add=dx is not None).reshape(x.shape)": ("dx", ".x", GRADIENT),
    },
    attention.attend: {
        "s = matmul(q * scale, transpose(k))": ("s", ".scores", VALUE),
        "s += mask": ("s", ".masked", VALUE),
        "p, _ = softmax_forward(s, out=s)": ("p", ".p", VALUE),
        "y = matmul(dropped(p, factor), v, out=out)": ("y", ".attention", VALUE),
    },
    attention.attend_backward: {
        "dp = matmul(dy, transpose(v))": ("dp", ".p", GRADIENT),
        "ds *= p": ("ds", ".masked", GRADIENT),
        "ds *= scale": ("ds", ".products", GRADIENT),
        "dq = matmul(ds, k)": ("dq", ".q", GRADIENT),
        "dk = matmul(transpose(ds), q)": ("dk", ".k_repeated", GRADIENT),
        "dv = matmul(transpose(dropped(p, factor)), dy)": ("dv", ".v_repeated", GRADIENT),
    },
    attention.attention_forward: {
        "q, k, v = upcast(q), upcast(k), upcast(v)": ("q", ".q", VALUE),
        "k, v = repeat_heads(k, H), repeat_heads(v, H)": ("k", ".k_repeated", VALUE),
        "k_quick, first = quick_to_transpose(k), first_keys(starts, window)": ("k_quick", ".k_repeated", VALUE),
    },
    attention.attention_backward: {
        "like, dy, gradients = dy, upcast(dy), None": ("dy", ".attention", GRADIENT),
        "v_quick = quick_to_transpose(v)": ("v_quick", ".v_repeated", VALUE),
        "dk, dv = sum_heads(dk, n_kv_head), sum_heads(dv, n_kv_head)": ("dk", ".k", GRADIENT),
    },
    gelu.gelu_forward: {
        "x = x + bias": ("x", ".before", VALUE),
        "gate += 0.5": ("gate", ".gate", VALUE),
        "gate *= x": ("gate", ".u", VALUE),
    },
    gelu.gelu_backward: {
        "xp, like, dy = array_module(dy), dy, upcast(dy)": ("dy", ".gelu", GRADIENT),
        "dx = xp.multiply(slope, dy, out=slope)": ("dx", ".before", GRADIENT),
    },
    swiglu.swiglu_forward: {
        "s *= gate.dtype.type(0.5)": ("s", ".sigmoid", VALUE),
        "h = gate * s": ("h", ".silu", VALUE),
        "h *= up": ("h", ".swiglu", VALUE),
    },
    swiglu.swiglu_backward: {
        "like, dh = dh, upcast(dh)": ("dh", ".swiglu", GRADIENT),
        "dup *= dh": ("dup", ".up_proj", GRADIENT),
        "dgate *= dh": ("dgate", ".gate_proj", GRADIENT),
    },
    cross_entropy.cross_entropy_forward: {
        "z = upcast(given)": ("z", "logits", VALUE),
        "z -= row_max(z)": ("z", "loss.shifted", VALUE),
        "at_target = z[rows, t]": ("at_target", "loss.at_target", VALUE),
        "p = xp.exp(z, out=z)": ("p", "loss.exponentials", VALUE),
        "total = row_sum(p)[:, 0]": ("total", "loss.total", VALUE),
        "losses = xp.log(total) - (1 - label_smoothing) * at_target - label_smoothing * at_average": (
            "losses",
            "loss.losses",
            VALUE,
        ),
        "loss = before + xp.where(counted, losses, 0).sum(dtype=exact) / count": ("loss", "loss", VALUE),
        "p *= (scale / total)[:, None]": ("p", "loss.probabilities / count", VALUE),
        "p[rows, t] -= (1 - label_smoothing) * scale": ("p", "logits", GRADIENT),
    },
}


class Row(NamedTuple):
    """A tensor, or its gradient, beside PyTorch's. difference: the largest of an element. error: of the norms, relative."""

    name: str
    which: str
    shape: tuple[int, ...]
    exact: bool
    difference: float
    error: float

    @property
    def is_equal(self) -> bool:
        return self.error <= TOLERANCE


def compared(model, ids, targets) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows in the order in which minillm computes them, and what the twin has and minillm never forms.

    Raises KeyError for a tensor of minillm's that the twin does not have.
    """
    from torch_twins import pass_of  # PyTorch takes seconds to import, and may be missing

    twin = pass_of(model, ids, targets)
    theirs = {}
    for name, tensor in (twin.t | twin.parameters).items():
        theirs[name, VALUE] = tensor.detach().numpy()
        if tensor.grad is not None:
            theirs[name, GRADIENT] = tensor.grad.numpy()
    ours = tensors_of(model, ids, targets)
    rows = [_row((name, which), array, theirs[name, which]) for name, which, array in ours]
    seen = {(row.name, row.which) for row in rows}
    return rows, [key for key in theirs if key not in seen]


def _row(key, ours, theirs) -> Row:
    if ours.size != theirs.size or ours.ndim > theirs.ndim:
        return Row(*key, ours.shape, False, np.inf, np.inf)
    theirs = theirs.reshape(ours.shape)  # operations see (B, T, C) as rows (B T, C)
    finite = np.isfinite(theirs)  # masked scores are -inf
    same_places = (ours[~finite] == theirs[~finite]).all() and np.isfinite(ours[finite]).all()
    difference = np.where(finite, ours, 0) - np.where(finite, theirs, 0)
    size = np.linalg.norm(theirs[finite])
    error = np.linalg.norm(difference) / size if size else np.linalg.norm(difference)
    largest = float(np.abs(difference).max(initial=0.0))
    return Row(*key, ours.shape, bool((ours == theirs).all()), largest, float(error) if same_places else np.inf)


def tensors_of(model, ids, targets) -> list[tuple[str, str, np.ndarray]]:
    """(name, "value" or "gradient", a copy) of minillm's tensors, in the order of the pass.

    Where the recorder and a line, or two lines, have the same numbers of a tensor, it is there once.
    """
    seen: list[
        tuple[object, str, np.ndarray]
    ] = []  # of the recorder a row, which gets its name in the course of the pass

    def see(row, which, array):
        seen.append((row, VALUE if which == "values" else GRADIENT, np.array(array)))

    with lines_watched(lambda name, which, array: seen.append((name, which, np.array(array)))):
        record(model, ids, targets, see=see)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for row, which, array in seen:
        others = found.setdefault((row if isinstance(row, str) else row.name, which), [])
        if not any(np.array_equal(array.ravel(), other.ravel()) for other in others):
            others.append(array)
    return [(*key, array) for key, arrays in found.items() for array in arrays]


@contextmanager
def lines_watched(see) -> Iterator[None]:
    """Call see(name, which, array) after each of LINES that runs."""
    places = {
        (function.__code__.co_filename, function.__name__): dict(_numbered(function, statements))
        for function, statements in LINES.items()
    }

    def on_call(frame, event, argument):
        file = frame.f_code.co_filename.removesuffix(" with a fault")  # of planting.py
        lines = places.get((file, frame.f_code.co_name))
        return None if lines is None else on_lines(lines)

    def on_lines(lines):
        last = None

        def on_event(frame, event, argument):
            nonlocal last
            if last in lines and frame.f_lineno != last or event == "return":
                for variable, name, which in (lines[last],) if last in lines else ():
                    see(_full(name, frame), which, frame.f_locals[variable])
            last = frame.f_lineno
            return on_event

        return on_event

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)


def _numbered(function, statements) -> Iterator[tuple[int, tuple[str, str, str]]]:
    lines, first = inspect.getsourcelines(function)
    for statement, place in statements.items():
        numbers = [number for number, line in enumerate(lines, first) if line.strip().startswith(statement)]
        if not numbers:
            raise LookupError(f"{function.__name__} has no line {statement!r}")
        yield from ((number, place) for number in numbers)


def _full(name: str, frame) -> str:
    """With the name of the layer that called the function in front."""
    if not name.startswith(".") and name:
        return name
    while not isinstance(frame.f_locals.get("self"), Layer):
        frame = frame.f_back
    return frame.f_locals["self"].name + name


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """ids and targets (B, T), of tokens that occur several times."""
    tokens = np.random.default_rng(1).integers(SHAPE["vocab_size"], size=(2, 11))
    return tokens[:, :-1], tokens[:, 1:]


def model_of(kind: str):
    """A model of MODELS with weights of ordinary size, so that every gradient is one."""
    return randomised(MODELS[kind]())


def table(rows: list[Row]) -> str:
    """A line a tensor, as `cmp` prints it."""
    return "\n".join(
        f"{row.name:<40} {row.which:<8} {str(row.shape):<15} exact: {str(row.exact):<5} "
        f"approximate: {str(row.is_equal):<5} maxdiff: {row.difference:.1e}"
        for row in rows
    )


def main() -> None:
    kind = sys.argv[1] if sys.argv[1:] else "gpt2"
    rows, never_formed = compared(model_of(kind), *inputs())
    print(table(rows))
    right = sum(row.is_equal for row in rows)
    print(f"{right} of {len(rows)} equal PyTorch's to {TOLERANCE:.0e}; {len(never_formed)} that minillm never forms:")
    print(", ".join(f"{name} ({which})" for name, which in never_formed))
    sys.exit(right < len(rows))


if __name__ == "__main__":
    main()
