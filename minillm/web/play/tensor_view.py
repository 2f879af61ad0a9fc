"""What the page says of one tensor: code, formula, what it comes from, and where it goes."""

from __future__ import annotations

import inspect
import re
import sys

from minillm.inspection.recording import Record, Tensor
from minillm.inspection.source_lines import forward_passages, gradient_passages
from minillm.inspection.table import json_rows
from minillm.web.play.reading import columns

# What the derivations call the arguments of the functions.
LETTERS = {"weight": "w", "bias": "b", "gate": "g", "up": "u"}
NAMED = {"logits": "dL/dz"}  # in the derivation of the loss


def described(tensor: Tensor, recorded: Record) -> dict:
    """The tensor's numbers, and its places in the code and in the pass, as JSON."""
    readers = [row.name for row in recorded.activations if tensor in row.reads]
    readers += [row.name for call, _ in tensor.uses for row in call.tensors if row.name not in readers]
    return {
        "row": json_rows([tensor])[0],
        "from": [other.name for other in tensor.reads],
        "to": readers,
        "formulas": formulas_of(tensor),
        **columns(forward_passages(tensor), [] if tensor.gradient is None else gradient_passages(tensor)),
    }


def formulas_of(tensor: Tensor) -> list[dict]:
    """The derivations in the modules of the operations that compute a tensor and its gradient.

    Each has a title, the first line of the module's docstring; its module; and the lines that are
    formulas. Marked are those that define the tensor or its gradient, as far as they are found by
    their letters.
    """
    symbols: dict[str, list[str]] = {}
    for call, name in tensor.uses:
        symbols.setdefault(call.function.__module__, []).append(_letter(f"d{name}"))
    if tensor.call is not None:
        name = tensor.place.key if tensor.place.side == "input" else "y"
        symbols.setdefault(tensor.call.function.__module__, []).extend([str(name), _letter(f"d{name}")])
    origin = tensor.origin.function if tensor.origin is not None else None
    if getattr(origin, "__name__", "").endswith("_backward"):
        symbols.setdefault(origin.__module__, []).append("dx")
    derivations = (_derivation(module, wanted) for module, wanted in symbols.items())
    return [derivation for derivation in derivations if derivation["lines"]]


def _letter(name: str) -> str:
    """dweight -> dw, dlogits -> dL/dz: as derivations write it."""
    return NAMED.get(name[1:]) or f"d{LETTERS.get(name[1:], name[1:])}"


def _derivation(module: str, symbols: list[str]) -> dict:
    text = inspect.cleandoc(sys.modules[module].__doc__ or "").splitlines()
    wanted = "|".join(map(re.escape, symbols))
    defines = re.compile(rf"(?<![\w/])({wanted})(_\w+)?\s+=")
    lines = [{"text": line[4:], "marked": bool(defines.search(line))} for line in text if line.startswith("    ")]
    return {"title": text[0] if text else "", "module": module, "lines": lines}
