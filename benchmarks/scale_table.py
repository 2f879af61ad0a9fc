"""python -m benchmarks.scale_table: where more ranks stop to pay, on paper, for named models, networks and ways to share.

The tables of docs/scaling.md, from the model in scale_model.py, the networks in networks.py, and the rate of a core as
`python -m benchmarks.scaling --write` measured it here. --write draws docs/scaling.png; `python -m benchmarks.pages` writes
the tables into the page.
"""

from __future__ import annotations

import argparse
import functools
import json
from functools import partial
from pathlib import Path

import minillm
from benchmarks.collective_costs import ALGORITHMS
from benchmarks.networks import GPU_CLUSTERS, Cluster, Device, servers
from benchmarks.scale_model import PAYS, PLANS, Case, fits_from, memory_of_rank, pays_up_to, strong, weak
from minillm.models.presets import find_preset

RANKS = [2**power for power in range(1, 13)]
SHOWN = RANKS[2:]  # 8 to 4,096
CORES = 16  # of a server: so many times the rate of a core here
MEASURED = Path(__file__).parent / "results" / "scaling.json"
NAMES = ("gpt2", "gpt2-xl", "llama-8b", "llama-70b", "memory-gpt2-xl", "memory-llama-8b")  # of its tables
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="draw docs/scaling.png")
    arguments = parser.parse_args()
    print("\n\n".join("\n".join(table) for table in tables(json.loads(MEASURED.read_text())["core"])))
    if arguments.write:
        draw(DOCS / "scaling.png")


@functools.cache
def _tables(operations: float, bandwidth: float) -> list[list[str]]:
    clusters = [*servers(server(operations, bandwidth)), *GPU_CLUSTERS]
    gpt2, gpt2_xl, llama, llama_large = cases()
    where = [where_it_stops(case, clusters) for case in (gpt2, gpt2_xl)]
    where += [where_it_stops(case, GPU_CLUSTERS) for case in (llama, llama_large)]
    return [*where, beside_memory(gpt2_xl, GPU_CLUSTERS[2]), beside_memory(llama, GPU_CLUSTERS[-1])]


def tables(core: dict) -> list[list[str]]:
    """All tables, as lines of Markdown, in the order of NAMES. core: what scaling.json says of a core here."""
    return _tables(core["operations_per_second"], core["bytes_per_second"])


def cases() -> list[Case]:
    """Two GPT-2 with a batch of half a million tokens, two Llamas with one of four million."""
    llama = dict(vocab_size=128_256, context_length=8192, n_kv_head=8, tie_embeddings=False)
    small = minillm.LlamaConfig(n_layer=32, n_head=32, d_model=4096, d_ff=14_336, **llama)
    large = minillm.LlamaConfig(n_layer=80, n_head=64, d_model=8192, d_ff=28_672, **llama)
    return [
        Case("GPT-2 124M", _gpt2("gpt2"), 1024, 8, 512),
        Case("GPT-2 XL, 1.6B", _gpt2("gpt2-xl"), 1024, 8, 512),
        Case("Llama 3 8B", small, 8192, 1, 512, recomputes=True),
        Case("Llama 3 70B", large, 8192, 1, 512, recomputes=True),
    ]


def _gpt2(name: str):
    preset = find_preset(name)
    return minillm.GPT2Config(vocab_size=preset.vocab_size, **preset.model)


def server(operations: float, bandwidth: float) -> Device:
    """A server of CORES cores with this rate, which are as fast together as alone, times their number."""
    return Device(f"{CORES} cores", CORES * operations, 256e9, CORES * bandwidth, parts=CORES)


# -------------------------------------------------------------------------------------------------------------- tables


def where_it_stops(case: Case, clusters: list[Cluster]) -> list[str]:
    """A row for each cluster: the largest number of ranks that pays, weak and strong, for each plan."""
    lines = [
        f"| {case.name} | {' | '.join(map(str, PLANS))} | fits from (ZeRO-1, 2, 3) |",
        "|---|" + "---|" * (len(PLANS) + 1),
    ]
    for cluster in clusters:
        cells, rows = [], [count for count in RANKS if count * cluster.device.parts <= case.all_rows]
        for plan in PLANS:
            most = pays_up_to(partial(weak, cluster, case, plan=plan), RANKS)
            shared = pays_up_to(partial(strong, cluster, case, plan=plan), rows)
            cells.append(f"{_ranks(most, RANKS[-1])} / {_ranks(shared, rows[-1])}")
        fits = [fits_from(cluster, case, zero, [1, *RANKS]) for zero in (1, 2, 3)]
        cells.append(", ".join("never" if count is None else f"{count:,}" for count in fits))
        lines.append(f"| {cluster.name} | {' | '.join(cells)} |")
    return lines


def _ranks(count: int, last: int) -> str:
    """The last number that was tried is not where it stops."""
    return f"{count:,}+" if count == last else f"{count:,}"


def beside_memory(case: Case, cluster: Cluster) -> list[str]:
    """A row for each number of ranks: efficiency of each plan, weak, and a rank's memory with each stage."""
    heads = [*map(str, PLANS), *(f"GB, ZeRO-{zero}" for zero in (1, 2, 3))]
    lines = [f"| {case.name} on {cluster.name} | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for count in SHOWN:
        cells = [f"{weak(cluster, case, count, plan):.0%}" for plan in PLANS]
        cells += [f"{sum(memory_of_rank(case, count, zero).values()) / 1e9:.1f}" for zero in (1, 2, 3)]
        lines.append(f"| {count:,} | {' | '.join(cells)} |")
    return lines


# ------------------------------------------------------------------------------------------------------------- picture


def draw(path: Path) -> None:
    """Efficiency over ranks, weak above and strong below, for two models; memory; and three algorithms."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    (left, middle, memory), (below, beside, algorithms) = figure.subplots(2, 3)
    gpt2, llama = cases()[1:3]
    _efficiency(left, weak, gpt2, PLANS[:2], "weak")
    _efficiency(middle, weak, llama, PLANS[2:], "weak")
    _efficiency(below, strong, gpt2, PLANS[:2], "strong")
    _efficiency(beside, strong, llama, PLANS[2:], "strong")
    left.legend(fontsize=8, loc="lower left")
    _memory(memory, llama)
    _algorithms(algorithms, GPU_CLUSTERS[4], 4 * sum(section.parameters for section in gpt2.sections))
    for axes in (left, middle, memory, below, beside, algorithms):
        axes.set_xscale("log", base=2)
        axes.set_xticks(RANKS[::2], labels=[f"{count:,}" for count in RANKS[::2]])
        axes.set_xlabel("ranks")
        axes.grid(alpha=0.3)
    figure.savefig(path)
    print(f"wrote {path.parent.name}/{path.name}")


def _efficiency(axes, kind, case: Case, plans, name: str) -> None:
    """A colour for each cluster; the first plan dashed, the second a whole line."""
    ranks = [count for count in RANKS if kind is weak or count <= case.all_rows]
    for number, cluster in enumerate(GPU_CLUSTERS):
        for plan, style in zip(plans, ("--", "-")):
            values = [100 * kind(cluster, case, count, plan) for count in ranks]
            axes.plot(ranks, values, style, color=f"C{number}", label=cluster.name if style == "-" else None)
    axes.axhline(100 * PAYS, color="0.4", linewidth=1)
    axes.set(
        title=f"{case.name}, {name} scaling\n{plans[0]} (dashed), {plans[1]}", ylabel="efficiency, %", ylim=(0, 107)
    )


def _memory(axes, case: Case) -> None:
    for zero in (1, 2, 3):
        values = [sum(memory_of_rank(case, count, zero).values()) / 1e9 for count in RANKS]
        axes.plot(RANKS, values, marker="o", markersize=3, label=f"ZeRO-{zero}")
    axes.axhline(GPU_CLUSTERS[-1].device.memory / 1e9, color="0.4", linewidth=1, label="an H100")
    axes.set(title=f"{case.name}: memory of a rank", ylabel="GB", ylim=(0, None))
    axes.legend()


def _algorithms(axes, cluster: Cluster, size: float) -> None:
    for name, algorithm in ALGORITHMS.items():
        axes.plot(RANKS, [1e3 * algorithm(cluster.network, size, count) for count in RANKS], label=name)
    axes.set(title=f"a reduce_scatter of {size / 1e9:.1f} GB\n{cluster.name}", ylabel="ms", yscale="log")
    axes.legend()


if __name__ == "__main__":
    main()
