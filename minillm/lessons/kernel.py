"""Lesson: what a GPU kernel does, on the example of attention.

A GPU computes so fast that most kernels wait for memory: to a first approximation, the cost of a
kernel is the number of bytes that it moves. Attention of one head, q, k, v (T, D), has small inputs
and results, 16 T D bytes in float32, but between them is a matrix with a score for each pair of
tokens:

    S = q k^T / sqrt(D)     (T, T)        P = softmax(S)     (T, T)        y = P v     (T, D)

The naive kernels (kernels/attention/naive.cu) follow the formulas: one writes S, one turns it into
P, one reads P. Each number of S and of y is a sum of products, and both factors are read from
memory for every product. Only pairs with j <= i count, so that is 8 T^2 D bytes for the two matrix
products. For S it is more: each thread of a warp reads another row of k, and a whole sector is
loaded for a single number. The tiled kernels (tiled.cu) are a step on the way: each loaded number
is used for 32 results, but the matrix is still written.

The flash kernel (flash.cu; Dao et al., "FlashAttention", 2022) loads 64 queries into shared memory,
close to the processors, and then tiles of 64 keys and values one after the other. A tile of S is
computed, used for running sums, and discarded. This works because a softmax can be summed up in
parts: with m the largest score so far, l the sum of exp(S - m) and o the sum of exp(S - m) v, a
tile with the largest score m' is added by

    l = l exp(m - m') + sum_j exp(S_j - m')        o = o exp(m - m') + sum_j exp(S_j - m') v_j

and at the end y = o / l. So q is read once and y is written once, 8 T D bytes, and k and v are read
once for each 64 queries that see them: with n = T / 64, n (n + 1) / 2 times 8 * 64 D bytes. That is
still of order T^2, but T^2 D / 16 bytes instead of 8 T^2 D. Nothing of order T^2 is written or
saved for backward: L = m + log l of each row is enough to recompute a tile of P.

The simulator counts the sectors of 32 bytes that the threads of a warp access. It has no cache. A
GPU serves many repeated reads from its caches, so there the naive kernels do better than in this
count; but the matrix has to be written in any case.
"""

from __future__ import annotations

import platform
import tracemalloc
from functools import partial
from importlib import import_module
from typing import NamedTuple

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.kernels.simulator import CompilerMissing, compiler_available, configured
from minillm.kernels.simulator.profile import SECTOR_BYTES
from minillm.layers.attention import attention_forward
from minillm.lessons.lesson import Finding, Lesson, Measured, Table

RUNGS = {"naive": "tab:red", "tiled": "tab:gray", "flash": "tab:blue"}  # -> its colour in the picture
A_ROW = 256  # bytes: no array of the kernels is smaller
TIMES = (64, 128, 256, 512)
WIDTH = 64
TILE = 64  # queries that a block of the flash kernel works on
PARTS = {"matmul_abt": "S = q k^T", "softmax_forward": "P = softmax(S)", "matmul_ab": "y = P v"}


class Count(NamedTuple):
    """One forward pass of one head.

    moved: bytes read and written. written: bytes written. held: bytes saved until backward, y
    included. parts: bytes moved, by kernel. error: relative, against NumPy in float64.
    """

    moved: int
    written: int
    held: int
    parts: dict[str, int]
    error: float


def measure() -> Measured:
    """Count the bytes of each rung for growing T.

    Raises UserError where the simulator cannot run.
    """
    require_simulator()
    counts = {rung: {time: count(rung, time) for time in TIMES} for rung in RUNGS}
    longest, before = TIMES[-1], TIMES[-2]
    figures = {}
    for rung in RUNGS:
        last, previous = counts[rung][longest], counts[rung][before]
        for what in ("moved", "written", "held"):
            figures[f"{rung}: {what}"] = float(getattr(last, what))
            figures[f"{rung}: {what} grows"] = getattr(last, what) / getattr(previous, what)
        figures[f"{rung}: error"] = max(of.error for of in counts[rung].values())
    figures["times fewer"] = figures["naive: moved"] / figures["flash: moved"]
    figures["times fewer, shortest"] = counts["naive"][TIMES[0]].moved / counts["flash"][TIMES[0]].moved
    figures["expected"] = max(abs(of.moved / expected_of_flash(time) - 1) for time, of in counts["flash"].items())
    return Measured(
        tables=[moved_table(counts), parts_table(counts)],
        findings=findings_of(figures),
        draw=partial(_draw, counts=counts),
        figures=figures,
    )


def require_simulator() -> None:
    """Raises UserError where kernels cannot be simulated: it takes Linux and g++."""
    if platform.system() != "Linux":
        raise UserError(
            "lesson kernel counts bytes in the CUDA simulator, which needs Linux and g++: run it there or in a Linux "
            "container (minillm lesson lists the others, which run here too)"
        )
    if not compiler_available():
        raise CompilerMissing()


def count(rung: str, time: int) -> Count:
    """Run a rung's forward pass in the simulator, for one head of `time` tokens, causal."""
    operation = import_module(f"minillm.kernels.attention.{rung}")
    numbers = stream("lesson kernel", time).normal((3, 1, 1, time, WIDTH)).astype(np.float32)
    q, k, v = (to_device(x, "cudasim") for x in numbers)
    with configured(mode="profile") as profile:
        held, result = held_after(lambda: operation.attention_forward(q, k, v))
    expected, _ = attention_forward(*numbers.astype(np.float64))
    in_memory = [line for line in profile.lines if line.space == "global"]
    parts: dict[str, int] = {}
    for line in in_memory:
        parts[line.kernel] = parts.get(line.kernel, 0) + SECTOR_BYTES * line.actual
    return Count(
        moved=SECTOR_BYTES * profile.total("global").actual,
        written=SECTOR_BYTES * sum(line.actual for line in in_memory if line.kind == "store"),
        held=held,
        parts=parts,
        error=float(np.linalg.norm(to_host(result[0]) - expected) / np.linalg.norm(expected)),
    )


def held_after(function):
    """(bytes of the arrays that a function created and its result keeps alive, the result). Smaller
    ones are the arguments of launches, which are kept for the next launch.
    """
    tracemalloc.start()
    try:
        result = function()
        arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
        return sum(trace.size for trace in arrays.traces if trace.size >= A_ROW), result
    finally:
        tracemalloc.stop()


def expected_of_flash(time: int) -> float:
    """Bytes by the formula above; `time` is a multiple of TILE.

    >>> expected_of_flash(128)
    163840.0
    """
    blocks = time / TILE
    return 8 * time * WIDTH + 8 * TILE * WIDTH * blocks * (blocks + 1) / 2


# --------------------------------------------------------------------------------------- as tables, and as a picture


def findings_of(figures) -> list[Finding]:
    def grows(rung, what):
        return figures[f"{rung}: {what} grows"]

    longest, before = TIMES[-1], TIMES[-2]
    worst = [figures[f"{rung}: error"] for rung in RUNGS]
    return [
        Finding(f"all compute the same attention (relative error at most {np.max(worst):.0e})", np.max(worst) < 1e-6),
        Finding(
            f"from {before} to {longest} tokens T^2 grows by a factor of 4. Naive moves {grows('naive', 'moved'):.2f} "
            f"times as much, writes {grows('naive', 'written'):.2f} and keeps {grows('naive', 'held'):.2f} times as "
            "much",
            grows("naive", "moved") > 3.9 and grows("naive", "written") > 3.5 and grows("naive", "held") > 3.5,
        ),
        Finding(
            f"T grows by a factor of 2. Flash writes {grows('flash', 'written'):.2f} and keeps "
            f"{grows('flash', 'held'):.2f} times as much; it moves {grows('flash', 'moved'):.2f} times as much",
            abs(grows("flash", "written") - 2) < 0.01 and abs(grows("flash", "held") - 2) < 0.01,
        ),
        Finding(
            f"flash moves {figures['times fewer, shortest']:,.0f} times fewer bytes at {TIMES[0]} tokens, "
            f"{figures['times fewer']:,.0f} times fewer at {longest}",
            100 < figures["times fewer"] and figures["times fewer, shortest"] < figures["times fewer"],
        ),
        Finding(
            f"it moves q and y once, and k and v once for each {TILE} queries: the count is within "
            f"{figures['expected']:.1%} of that",
            figures["expected"] < 0.02,
        ),
    ]


def moved_table(counts) -> Table:
    rows = []
    for time in TIMES:
        of = {rung: counts[rung][time] for rung in RUNGS}
        moved, held = ([getattr(of[rung], what) for rung in RUNGS] for what in ("moved", "held"))
        rows.append((f"{time}", *(f"{number:,}" for number in moved), f"{held[0]:,}", f"{held[2]:,}"))
    columns = ("tokens", *RUNGS, "naive saves", "flash saves")
    return Table(f"Bytes moved, one head of width {WIDTH}, forward; bytes saved for backward", columns, rows)


def parts_table(counts) -> Table:
    rows = []
    for kernel, formula in PARTS.items():
        rows.append((formula, *(f"{counts[rung][TIMES[-1]].parts[kernel]:,}" for rung in ("naive", "tiled")), ""))
    rows.append(("all in one", "", "", f"{counts['flash'][TIMES[-1]].moved:,}"))
    return Table(f"Bytes by kernel, {TIMES[-1]} tokens", ("kernel", *RUNGS), rows)


def _draw(figure, counts) -> None:
    figure.set_size_inches(12, 4.8)
    grid = figure.add_gridspec(2, 3, width_ratios=(0.8, 1.2, 1.2))
    naive, flash, moved, kept = (
        figure.add_subplot(grid[place]) for place in ((0, 0), (1, 0), np.s_[:, 1], np.s_[:, 2])
    )
    _draw_matrix(naive, "naive: the T x T matrix is in memory", whole=True)
    _draw_matrix(flash, "flash: a tile at a time, near the processor", whole=False)
    for axis, what, title in ((moved, "moved", "bytes moved"), (kept, "held", "bytes saved for backward")):
        for rung, color in RUNGS.items():
            style = dict(linestyle="--", linewidth=3) if (rung, what) == ("tiled", "held") else {}
            numbers = [getattr(counts[rung][time], what) for time in TIMES]
            axis.loglog(TIMES, numbers, marker="o", color=color, label=rung, **style)
        for power, rung in ((2, "naive"), (1, "flash")):
            start = getattr(counts[rung][TIMES[0]], what) / 3
            guide = [start * (time / TIMES[0]) ** power for time in TIMES]
            axis.loglog(TIMES, guide, color="black", linewidth=0.7, linestyle=":")
            axis.annotate(
                "T^2" if power == 2 else "T", (TIMES[-1], guide[-1]), xytext=(2, -3), textcoords="offset points"
            )
        axis.set_xticks(TIMES, TIMES)
        axis.minorticks_off()
        axis.set(xlabel="tokens T", title=title)
    moved.legend()


def _draw_matrix(axis, title, whole) -> None:
    """The T x T scores in tiles: all of them in memory, the masked part pale; or one tile at a
    time.
    """
    tiles, row, column = 8, 5, 3
    for i, j in np.ndindex(tiles, tiles):
        color = RUNGS["naive"] if whole else "white"
        if whole or j <= i:
            axis.add_patch(_square(i, j, facecolor=color, edgecolor="0.7", alpha=0.7 if j <= i else 0.2))
    if not whole:
        axis.add_patch(_square(row, column, facecolor=RUNGS["flash"], edgecolor="black"))
        axis.annotate("", (row + 1, row + 0.5), (0, row + 0.5), arrowprops=dict(arrowstyle="->"))
        axis.annotate("64 queries ", (0, row + 0.5), ha="right", va="center", fontsize=9)
        axis.annotate("tiles of keys and values, one by one", (0, tiles + 0.6), va="center", fontsize=9)
    axis.set(xlim=(-3.5, tiles + 0.5), ylim=(tiles + 1.2, -0.3), aspect="equal")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def _square(row, column, **style):
    return import_module("matplotlib.patches").Rectangle((column, row), 1, 1, **style)


LESSON = Lesson(
    title="What a GPU kernel does: attention without its matrix",
    claim="Programmed formula by formula, attention moves, writes and saves a number of bytes that grows with the "
    "square of the number of tokens T. The flash kernel gives the same result, writes and saves only a multiple of T, "
    "and moves some hundred times fewer bytes.",
    idea="A GPU has thousands of small processors that compute far faster than memory can deliver. Each group of them "
    "has a small memory of its own close by, the shared memory. A kernel, the program that all of them run, is fast if "
    "it loads a number once and uses it often. Attention compares each token with all tokens before it: a matrix of "
    "scores. The naive kernels write it to memory and read it again. The tiled ones do so too, but share the numbers "
    "that they load. The flash kernel computes the matrix tile by tile, uses each tile at once, and discards it. "
    "No GPU is needed here: the simulator runs the CUDA files as they are, and counts.",
    measure=measure,
    commands=(
        "minillm simulate naive --profile      # the source, with the sectors that each line accesses",
        "minillm simulate flash --profile",
        "minillm simulate flash --check        # no data races, no access out of bounds",
    ),
    seconds=8,
    read=("kernels/attention/naive.cu", "kernels/attention/flash.cu", "docs/simulator.md"),
)
