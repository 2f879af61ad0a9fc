"""A step's profile as a table for people."""

from __future__ import annotations

from textwrap import fill

from minillm.profiling.profile import KINDS, Part, StepProfile

WIDE = [("calls", 6), ("ms", 9), ("share", 6), ("MB", 9), ("GB/s", 7), ("GFLOP", 8), ("GFLOP/s", 9), ("of peak", 7)]
NARROW = [column for column in WIDE if column[0] not in ("MB", "GFLOP")]
NAME_WIDTH = 44  # columns for a part's name where there is room
SMALL = 0.005  # parts below this share of the step are added up


def profile_table(profile: StepProfile, width: int = 120) -> str:
    """The parts by kind, the largest first, with their sums; what is small is one row of its kind;
    then the whole.

    width: columns of the terminal; a narrow one gets no MB and no GFLOP, only those per second.
    """
    columns = WIDE if width >= NAME_WIDTH + sum(size + 1 for _, size in WIDE) else NARROW
    names = max(16, min(NAME_WIDTH, width - sum(size + 1 for _, size in columns)))
    lines = [_row("part", [name for name, _ in columns], columns, names)]
    for kind in KINDS:
        parts = [part for part in profile.parts if part.kind == kind]
        if len(parts) == 1:
            lines.append(_line(profile, parts[0], f"{kind}: {parts[0].name}", columns, names))
        elif parts:
            lines.append(_line(profile, _sum_of(kind, parts), kind, columns, names))
            lines += [_line(profile, part, f"  {part.name}", columns, names) for part in _shown(parts, profile.seconds)]
    return "\n".join([*lines, *(fill(line, width, break_long_words=False) for line in _conclusion(profile))])


def _shown(parts: list[Part], whole: float) -> list[Part]:
    large = [part for part in parts if part.seconds >= SMALL * whole]
    small = [part for part in parts if part.seconds < SMALL * whole]
    if len(small) < 2:
        return large + small
    return [*large, _sum_of(f"{len(small)} smaller ones", small)]


def _sum_of(name: str, parts: list[Part]) -> Part:
    sizes, operations = ([getattr(part, what) for part in parts] for what in ("bytes", "operations"))
    return Part(
        parts[0].kind,
        name,
        sum(part.calls for part in parts),
        sum(part.seconds for part in parts),
        None if None in sizes else sum(sizes),
        None if None in operations else sum(operations),
    )


def _line(profile: StepProfile, part: Part, name: str, columns, names: int) -> str:
    share = profile.share_of_peak(part)
    byte_rate, rate = (
        amount / part.seconds if amount and part.seconds else None for amount in (part.bytes, part.operations)
    )
    cells = {
        "calls": str(part.calls),
        "ms": f"{part.seconds * 1e3:.3f}",
        "share": f"{part.seconds / profile.seconds:.1%}",
        "MB": _number(part.bytes, 1e6, 1),
        "GB/s": _number(byte_rate, 1e9, 1),
        "GFLOP": _number(part.operations, 1e9, 3),
        "GFLOP/s": _number(rate, 1e9, 1),
        "of peak": f"{share:.0%}" if share else "n/a",
    }
    return _row(name, [cells[column] for column, _ in columns], columns, names)


def _row(name: str, cells: list[str], columns, names: int) -> str:
    name = name if len(name) <= names else name[: names - 1] + "…"
    return " ".join([f"{name:<{names}}", *(f"{cell:>{size}}" for cell, (_, size) in zip(cells, columns))])


def _rate(operations_per_second: float) -> str:
    tera = operations_per_second >= 1e12
    return f"{operations_per_second / (1e12 if tera else 1e9):.1f} {'TFLOP/s' if tera else 'GFLOP/s'}"


def _number(amount: float | None, unit: float, digits: int) -> str:
    return f"{amount / unit:.{digits}f}" if amount else "-"


LEGEND = (
    "MB: read and written; GFLOP: billions of operations, a multiply-add is two; share of peak: against peaks.py;",
    "N: weights in products, L: layers, H: heads, D: width of a head, T: tokens of context.",
)


def _conclusion(profile: StepProfile) -> list[str]:
    rate, speed = profile.model_operations / profile.seconds, profile.tokens / profile.seconds
    lines = [
        f"the step: {profile.seconds * 1e3:.3f} ms, {profile.tokens:,} tokens, {speed:,.0f} tokens/s",
        f"by the formula 6 N + 12 L H D T a token: {profile.model_operations / 1e9:.3f} GFLOP, {_rate(rate)}",
    ]
    if profile.utilisation is None:
        lines[-1] += f"; utilisation n/a: the peak of {profile.device_name} in {profile.dtype} is not in the table"
    else:
        lines[-1] += f", {profile.utilisation:.1%} of the peak of {profile.device_name} in {profile.dtype}"
    if profile.workers > 1:
        lines.append(f"times are means of {profile.workers} workers; one that waits for another is in between")
    return [*lines, *LEGEND]
