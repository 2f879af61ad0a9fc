"""The table of a pass as text: which rows are shown, and how."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from textwrap import fill

from minillm.checks.verdicts import TOLERANCE, UNTOLD
from minillm.errors import UserError
from minillm.inspection.checking import Check
from minillm.inspection.recording import Record, Tensor
from minillm.inspection.tensor_stats import TensorStats
from minillm.inspection.text import Closer, Inspection

FEW_BLOCKS = 2  # are shown whole
BLOCK = re.compile(r"[a-z]+\.(\d+)(?=\.|$| )")  # h.3 in h.3.attn, in h.3, and in the folded "h.3 +"
HEADINGS = ("shape", "mean", "std", "max abs", "|gradient|", "saved bytes", "ops forward", "backward")
LEAST_NEEDED = ("ops forward", "backward", "mean", "saved bytes", "max abs")  # in the order in which they are left out
UNLIMITED = 1000  # columns
NOTES = """\
std: standard deviation; max abs: the largest absolute value; |gradient|: the norm of dloss/dtensor.
saved: what layers hold for backward, each buffer once; views belong to the tensor they look into, weights are not counted.
ops: operations of matrix products, a multiply-add is two; attention is causal, so only pairs j <= i are counted."""


def format_table(
    inspection: Inspection, blocks: Iterable[int] = (), every_block: bool = False, width: int = UNLIMITED
) -> str:
    """The table, in at most `width` columns where they suffice for names and values: those least
    needed are left out.

    blocks: those to be shown whole, 0 the first; every other one is a single row, in which the
    numbers of all its tensors come together. Without any, a model of few blocks is shown whole, and
    of a deeper one the first block."""
    record, count = inspection.record, inspection.model.config.n_layer
    whole = blocks_shown(count, list(blocks), every_block)
    activations = [_cells(tensor) for tensor in folded(record.activations, whole)]
    parameters = [_cells(tensor) for tensor in folded(record.parameters, whole)]
    total = ("total", "", "", "", "", "", *(f"{number:,}" for number in _sums(record.tensors)))
    blank = ("",) * len(total)
    heading = ("parameters", *blank[1:])
    rows = [("tensor", *HEADINGS), *activations, blank, heading, *parameters, blank, total]
    rows, left_out = _fitted(rows, width)
    notes = NOTES
    if left_out:
        notes += f"\nLeft out in {width} columns: {', '.join(left_out)}; --json has all."
    if len(whole) < count:
        notes += (
            f"\nA row marked + is a whole block, {count - len(whole)} of {count}: --layer N opens one, --all opens all."
        )
    head, end = (_filled(text, width) for text in (_headline(inspection), f"{notes}\n{_loss_line(inspection)}"))
    return "\n".join((head, "", *_aligned(rows), "", end))


def json_lines(inspection: Inspection) -> str:
    """A line for every tensor, and one with the totals."""
    record = inspection.record
    rows = [*json_rows(record.activations), *json_rows(record.parameters), json_totals(record)]
    return "\n".join(map(json.dumps, rows))


def json_rows(tensors: list[Tensor]) -> list[dict]:
    """The numbers of tensors, as `json_lines` has them."""
    return [{key: _finite(value) for key, value in _fields(tensor).items()} for tensor in tensors]


def json_totals(record: Record) -> dict:
    """The totals of a pass, as `json_lines` has them."""
    saved, forward, backward = _sums(record.tensors)
    end = {"loss": record.loss, "perplexity": _perplexity(record.loss), "tokens": record.tokens, "saved_bytes": saved}
    end |= {"forward_operations": forward, "backward_operations": backward}
    return {key: _finite(value) for key, value in end.items()}


def format_closer(closer: Closer, width: int = UNLIMITED) -> str:
    """One tensor: the code, and the check. Text is broken at `width` columns, code is not."""
    tensor = closer.tensor
    what = "learned; the lines marked > read it" if tensor.place is None else "computed by the lines marked >"
    parts = [f"{tensor.name} {_shape(tensor.shape)}, {what}"]
    parts += [str(passage) for passage in closer.forward]
    parts.append(f"The gradient of {tensor.name}, norm {_number(tensor.gradient.norm)}")
    parts += [str(passage) for passage in closer.backward]
    return "\n\n".join((*parts, _filled(_format_check(closer.check), width)))


def _format_check(check: Check) -> str:
    rows = [("element", "by backward", "finite difference", "known to", "relative error")]
    for element in check.elements:
        measured = (f"{element.analytic:.10g}", f"{element.numeric:.10g}", f"{element.uncertainty:.0e}")
        rows.append((_shape(element.index), *measured, f"{element.error:.1e}"))
    return "\n".join(("Finite differences of the loss, float64:", *_aligned(rows, names=1), verdict_of(check)))


def verdict_of(check: Check) -> str:
    """What a check found, in a sentence."""
    worst = check.worst
    if check.passed:
        return f"passed: the largest relative error is {worst.error:.1e}, the tolerance {TOLERANCE:g}"
    if check.verdict == UNTOLD:
        return f"cannot be told here, at {worst.index}: {worst.reason}. This is no pass: try another text"
    return (
        f"FAILED {check.tensor}: its gradient is wrong at {worst.index}: backward gives {worst.analytic:.10g}, finite "
        f"differences give {worst.numeric:.10g}, relative error {worst.error:.1e} (tolerance {TOLERANCE:g})"
    )


# -------------------------------------------------------------------------------------------------------- which rows


def blocks_shown(count: int, chosen: list[int], every_block: bool) -> set[int]:
    """The blocks to be shown whole, of `count`. Raises UserError for a chosen one out of range."""
    for block in chosen:
        if not 0 <= block < count:
            raise UserError(f"--layer {block}: the model has the blocks 0 to {count - 1}")
    if every_block or (not chosen and count <= FEW_BLOCKS):
        return set(range(count))
    return set(chosen or [0])


def folded(tensors: list[Tensor], whole: set[int]) -> list[Tensor]:
    """The rows, with each block that is not to be shown whole in one of them."""
    rows: list[Tensor] = []
    for tensor in tensors:
        block = block_of(tensor.name)
        if block is None or block in whole:
            rows.append(tensor)
        elif rows and block_of(rows[-1].name) == block:
            rows[-1] = _together(rows[-1], tensor)
        else:
            rows.append(_together(Tensor("", (0,), TensorStats(), gradient=TensorStats(), frozen=True), tensor))
    return rows


def block_of(name: str) -> int | None:
    """The number of the block that a tensor belongs to; None for one outside of the blocks."""
    found = BLOCK.match(name)
    return int(found[1]) if found else None


def _together(folded: Tensor, tensor: Tensor) -> Tensor:
    """Of activations, the numbers of the later one, which is nearer to the block's output, with
    what both keep and compute; of parameters, the numbers of both.
    """
    is_parameter = tensor.place is None
    gradient = tensor.gradient or TensorStats()
    return Tensor(
        f"{BLOCK.match(tensor.name)[0]} +",
        (folded.values.count + tensor.values.count,) if is_parameter else tensor.shape,
        folded.values + tensor.values if is_parameter else tensor.values,
        gradient=folded.gradient + gradient if is_parameter else gradient,
        saved_bytes=folded.saved_bytes + tensor.saved_bytes,
        flops=tuple(a + b for a, b in zip(folded.flops, tensor.flops)),
        frozen=folded.frozen and tensor.frozen,
        place=tensor.place,
    )


# --------------------------------------------------------------------------------------------------------- how they look


def _headline(inspection: Inspection) -> str:
    model, record = inspection.model, inspection.record
    kind = type(model).__name__
    numbers = sum(tensor.values.count for tensor in record.parameters)
    head = f"{kind}, {numbers:,} parameters, {model.precision} on {model.device}"
    text = f"{record.tokens} tokens, each to predict the next: {' '.join(map(readable, inspection.tokens))}"
    return f"{head}\n{text}"


def readable(token: str) -> str:
    """A token with its spaces and line ends to be seen; one without text, such as the start of a
    text, as <>.
    """
    return json.dumps(token, ensure_ascii=False)[1:-1].replace(" ", "·") or "<>"


def _loss_line(inspection: Inspection) -> str:
    loss, tokens = inspection.record.loss, inspection.record.tokens
    counted = "1 predicted token" if tokens == 1 else f"{tokens} predicted tokens"
    return f"loss {loss:.4f}  perplexity {_perplexity(loss):.4f}  over {counted}, dropout off"


def _cells(tensor: Tensor) -> tuple[str, ...]:
    values = tensor.values
    gradient = "frozen" if tensor.frozen else "" if tensor.gradient is None else _number(tensor.gradient.norm)
    numbers = (_number(values.mean), _number(values.std), _number(values.max_abs), gradient)
    return tensor.name, _shape(tensor.shape), *numbers, *map(_count, (tensor.saved_bytes, *tensor.flops))


def _sums(tensors: list[Tensor]) -> tuple[int, int, int]:
    columns = zip(*((tensor.saved_bytes, *tensor.flops) for tensor in tensors))
    return tuple(sum(column) for column in columns)


def _fields(tensor: Tensor) -> dict:
    forward, backward = tensor.flops
    return {
        "tensor": tensor.name,
        "kind": "parameter" if tensor.place is None else "activation",
        "shape": tensor.shape,
        "mean": tensor.values.mean,
        "std": tensor.values.std,
        "max_abs": tensor.values.max_abs,
        "gradient_norm": None if tensor.gradient is None else tensor.gradient.norm,
        "saved_bytes": tensor.saved_bytes,
        "forward_operations": forward,
        "backward_operations": backward,
    }


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf if loss >= 700 else math.nan


def _finite(value):
    """JSON has no NaN and no infinity: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _fitted(rows: list[tuple[str, ...]], width: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows without the columns that do not fit, and the headings of these, the least needed
    first.
    """
    left_out = []
    for heading in LEAST_NEEDED:
        if max(map(len, _aligned(rows))) <= width:
            break
        at = rows[0].index(heading)
        rows = [(*row[:at], *row[at + 1 :]) for row in rows]
        left_out.append(heading)
    return rows, left_out


def _filled(text: str, width: int) -> str:
    """A text with its long lines broken between words, tables included only where they do
    not fit.
    """
    lines = (line if len(line) <= width else fill(line, width, break_long_words=False) for line in text.split("\n"))
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]], names: int = 2) -> list[str]:
    """Rows of cells as lines: the first `names` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    sides = ["<" if column < names else ">" for column in range(len(widths))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths)).rstrip() for row in rows
    ]
