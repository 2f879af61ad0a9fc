"""python -m benchmarks.scaling: the step time of 1, 2 and 4 processes and threads, beside PyTorch DDP with gloo, in one run.

Three sizes of GPT-2 with tied head, no dropout. Contestants of N workers, which take turns:

    threads      one process of minillm with N threads
    processes    N processes of minillm that share memory
    mpi          N processes of minillm under mpiexec
    torch        one process of PyTorch with N threads
    DDP          N processes of PyTorch, DistributedDataParallel over gloo

Each works in processes of its own, which sleep while another has its turn. A block is some steps, its figure their median; a
result is the median over the quieter half of them. The machine may have other work: how quiet a block was is known from
how long its processes waited for a core (/proc/PID/schedstat), not from its time. A ratio is that of neighbouring blocks.

With 1 and 2 workers the parts of a step are measured in the same turns, without the step: forward and backward of a part of
the batch on N cores at once, the optimizer's update of a share, and collectives on arrays of several sizes, which give a
latency and a time for each byte. What a step takes beside these is that of a tiny model, measured first. From these the
model of scale_model.py predicts the step. More workers than cores are measured and not predicted.

--write makes benchmarks/results/scaling.json; --show prints it as the tables of docs/scaling.md, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from statistics import median

import minillm
from benchmarks import common
from benchmarks.scaling_contestants import Contestant, Running, available_bytes
from benchmarks.scaling_prediction import figures_of_core, fitted, predicted_step
from minillm.backend.threads import cores
from minillm.errors import UserError
from minillm.models.presets import find_preset
from minillm.profiling.memory import count_parameters

WORKERS = (1, 2, 4)
OURS = ("processes", "mpi")
COLLECTIVES = ("reduce_scatter", "all_gather")
ORDER = ("torch", "threads", "DDP", "processes", "part", "mpi", "processes collectives", "mpi collectives")
ARRAYS = [1 << power for power in (12, 15, 18, 21, 24, 26)]  # bytes


@dataclass(frozen=True)
class Size:
    """A model and its batch. starts: of all processes, one where workers are more than cores; blocks:
    turns of each contestant after each start; steps: in a block; uncounted: before them, where a cold cache matters.
    """

    name: str
    config: minillm.GPT2Config
    batch_size: int
    starts: int
    blocks: int
    steps: int
    uncounted: int


def main() -> None:
    arguments = parse_arguments()
    if arguments.show:
        results = json.loads((common.RESULTS / "scaling.json").read_text())
        print("\n\n".join("\n".join(table) for table in (table_of_steps(results), table_of_predictions(results))))
        return
    results = {"sizes": {}, "steps": [], "ratios": [], "predictions": [], "calibration": [], "fixed": {}}
    for workers in arguments.workers:
        results["fixed"] |= overheads(workers, arguments)
    for size in sizes(arguments.sizes):
        shape = {"parameters": count_parameters(size.config), "batch_size": size.batch_size}
        results["sizes"][size.name] = {**shape, "context_length": size.config.context_length}
        print(
            f"{size.name}: {shape['parameters']:,} parameters, {size.batch_size} x {size.config.context_length} tokens a step"
        )
        for workers in arguments.workers:
            measure(size, workers, arguments, results)
    if arguments.write:
        common.write_results(
            "scaling", {"cores": cores(), **results, "core": figures_of_core(results, sizes(arguments.sizes))}
        )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["0.8M", "10M", "124M"], help="some of tiny, 0.8M, 10M, 124M")
    parser.add_argument("--workers", nargs="+", type=int, default=WORKERS)
    parser.add_argument("--contestants", nargs="+", default=["threads", "processes", "mpi", "torch", "DDP"])
    parser.add_argument("--starts", type=int, help="of all processes; by default 3, 3 and 2, by size")
    parser.add_argument("--blocks", type=int, help="turns of each contestant after a start; by default 5, 4 and 3")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/scaling.json")
    parser.add_argument("--show", action="store_true", help="print benchmarks/results/scaling.json as tables")
    return parser.parse_args()


def sizes(names) -> list[Size]:
    small = find_preset("shakespeare-char-cpu")
    found = {
        "tiny": (dict(vocab_size=16, n_layer=1, n_head=1, d_model=16, context_length=8, bias=False), 4, 1, 12, 4, 1),
        "0.8M": (dict(vocab_size=small.vocab_size, **small.model), 12, 3, 5, 2, 1),
        "10M": (dict(vocab_size=65, n_layer=6, n_head=6, d_model=384, context_length=64, bias=False), 8, 3, 4, 1, 0),
        "124M": ({**find_preset("gpt2").model, "vocab_size": 50257, "context_length": 64}, 4, 2, 3, 1, 0),
    }
    return [
        Size(name, minillm.GPT2Config(**{"dropout": 0.0, "tie_embeddings": True, **shape}), *others)
        for name, (shape, *others) in found.items()
        if name in names
    ]


# ----------------------------------------------------------------------------------------------------------- measuring


def contestants_of(workers: int, names) -> list[Contestant]:
    """Those with so many workers. One worker is a thread and a process at once."""
    found = {
        "threads": Contestant("threads", "threads", 1, workers),
        "processes": Contestant("processes", "processes", workers, 1),
        "mpi": Contestant("mpi", "mpi", workers, 1),
        "torch": Contestant("torch", "torch", 1, workers),
        "DDP": Contestant("DDP", "torch", workers, 1),
    }
    same = {"threads", "DDP"} if workers == 1 else set()
    return [contestant for name, contestant in found.items() if name in names and name not in same]


def calibrators_of(workers: int, names) -> list[Contestant]:
    """What the model's numbers are measured with, where there is a core for each worker."""
    if workers > cores():
        return []
    timers = [Contestant(f"{kind} collectives", kind, workers, 1, "collectives") for kind in OURS]
    return [Contestant("part", "part", workers, 1), *(timer for timer in timers if workers > 1 and timer.kind in names)]


def measure(size: Size, workers: int, arguments, results: dict) -> None:
    """All contestants with so many workers: print and keep what they took."""
    everyone = contestants_of(workers, arguments.contestants)
    rounds: dict[str, list[dict]] = {}
    starts = (arguments.starts or size.starts) if workers <= cores() else 1
    for together in in_memory(everyone, calibrators_of(workers, arguments.contestants), size):
        rounds = {**measured_together(size, together, arguments.blocks or size.blocks, starts), **rounds}
    steps = {name: chosen(rounds[name], "step") for name in (each.name for each in everyone)}
    for name, values in steps.items():
        row = {"size": size.name, "workers": workers, "contestant": name, **summary(values)}
        results["steps"].append({**row, "waited": median(chosen(rounds[name], "waited"))})
        print(f"  {workers} {name:<12} {row['milliseconds']:>9.2f} ms  ({row['lowest']:.2f} to {row['highest']:.2f})")
    for ours, theirs in (("threads", "torch"), ("processes", "torch"), ("processes", "DDP"), ("mpi", "DDP")):
        if ours in steps and theirs in steps:
            ratio = ratio_of(rounds[ours], rounds[theirs])
            results["ratios"].append({"size": size.name, "workers": workers, "ours": ours, "theirs": theirs, **ratio})
            print(f"  {workers} {theirs} takes {ratio['median']:.2f} times as long as {ours}")
    if "part" in rounds:
        predict(size, workers, rounds, steps, results)


def in_memory(everyone: list[Contestant], calibrators: list[Contestant], size: Size) -> list[list[Contestant]]:
    """All of them at once, or minillm with its calibrators and then PyTorch with minillm's processes."""
    bytes_of_model = 4 * count_parameters(size.config)
    if sum(each.memory(bytes_of_model) for each in everyone + calibrators) < 0.8 * available_bytes():
        return [everyone + calibrators]
    ours = [each for each in everyone if each.kind != "torch"]
    theirs = [each for each in everyone if each.kind == "torch"]
    return [ours + calibrators, *([each, *(one for one in ours if one.name == "processes")] for each in theirs)]


def measured_together(size: Size, together: list[Contestant], blocks: int, starts: int = 1) -> dict[str, list[dict]]:
    """Name -> a dict of figures for each block, in turns. starts: all processes are started so often,
    as two processes of the same program can differ for as long as they live (where their memory lies).
    """
    rounds: dict[str, list[dict]] = {each.name: [] for each in together}
    in_turn = sorted(together, key=lambda each: ORDER.index(each.name))
    for _ in range(starts):
        with Running(together, size.config, size.batch_size, ARRAYS[-1]) as running:
            for each in together:
                if each.task == "train":  # the first step finds no memory
                    running.ask(each, "parts" if each.kind == "part" else "steps", 1, 0)
            for _ in range(blocks):
                for each in in_turn:
                    rounds[each.name].append(block_of(running, each, size))
    return rounds


def block_of(running: Running, contestant: Contestant, size: Size) -> dict:
    """The figures of a turn: the medians of what its slowest process took."""
    found = {}
    with running.watched(contestant) as load:
        if contestant.task == "collectives":
            for name in COLLECTIVES:
                for count in ARRAYS:
                    found[name, count] = median(running.ask(contestant, "collective", name, count, 2))
        elif contestant.kind == "part":
            times = running.ask(contestant, "parts", size.uncounted, size.steps)
            found["step"], found["update"] = median(times[::2]), median(times[1::2])
        else:
            found["step"] = median(running.ask(contestant, "steps", size.uncounted, size.steps))
    return {**found, "waited": load.waited}


def chosen(blocks: list[dict], figure) -> list[float]:
    """A figure in the quieter half of the blocks."""
    ordered = sorted(blocks, key=lambda block: block["waited"])
    return [block[figure] for block in ordered[: -(-len(blocks) // 2)]]


def quiet_pairs(blocks: list[dict], others: list[dict]) -> list[int]:
    """The turns whose two blocks were quieter together than in half of the turns."""
    order = sorted(range(len(blocks)), key=lambda turn: blocks[turn]["waited"] + others[turn]["waited"])
    return order[: -(-len(order) // 2)]


def summary(values: list[float]) -> dict:
    found = {"milliseconds": median(values), "lowest": min(values), "highest": max(values)}
    return {**{name: 1e3 * seconds for name, seconds in found.items()}, "blocks": len(values)}


def ratio_of(ours: list[dict], theirs: list[dict]) -> dict:
    pairs = [theirs[turn]["step"] / ours[turn]["step"] for turn in quiet_pairs(ours, theirs)]
    return {"median": median(pairs), "lowest": min(pairs), "highest": max(pairs)}


# ---------------------------------------------------------------------------------------------------------- prediction


def overheads(workers: int, arguments) -> dict[str, float]:
    """What a step takes beside what the model counts, by contestant: measured with a tiny model, whose step is hardly
    anything else.
    """
    calibrators = calibrators_of(workers, arguments.contestants)
    ours = [each for each in contestants_of(workers, arguments.contestants) if each.name in OURS]
    (tiny,) = sizes(["tiny"])
    rounds = measured_together(tiny, ours + calibrators, arguments.blocks or tiny.blocks) if calibrators else {}
    found = {}
    for each in ours if calibrators else ():
        beside = [
            block["step"] - guess for guess, block in zip(guesses(tiny, workers, each.name, rounds), rounds[each.name])
        ]
        found[f"{workers} {each.name}"] = max(0.0, median(beside))
    return found


def guesses(size: Size, workers: int, kind: str, rounds, fixed: float = 0.0) -> list[float]:
    """The predicted step of each turn."""
    links, parameters = links_of(rounds.get(f"{kind} collectives", [])), count_parameters(size.config)
    figures = [(block["step"], block["update"]) for block in rounds["part"]]
    return [predicted_step(parameters, *each, workers, links, fixed) for each in figures]


def predict(size: Size, workers: int, rounds, steps, results) -> None:
    """Beside what was measured, what the model makes of its numbers. The error is that of blocks of
    the same turn, as a ratio is: both had the same machine.
    """
    numbers = {"size": size.name, "workers": workers}
    numbers |= {f"{what}_seconds": median(chosen(rounds["part"], what)) for what in ("step", "update")}
    for kind in (kind for kind in OURS if kind in steps):
        for name, link in links_of(rounds.get(f"{kind} collectives", [])).items():
            numbers[f"{kind} {name}"] = {"latency": link.latency, "bandwidth": link.bandwidth}
        predicted = guesses(size, workers, kind, rounds, results["fixed"].get(f"{workers} {kind}", 0.0))
        turns = quiet_pairs(rounds["part"], rounds[kind])
        ratio = median(predicted[turn] / rounds[kind][turn]["step"] for turn in turns)
        measured = median(steps[kind])
        row = {"size": size.name, "workers": workers, "contestant": kind}
        row |= {"predicted": 1e3 * ratio * measured, "measured": 1e3 * measured, "error": ratio - 1}
        results["predictions"].append(row)
        print(
            f"  {workers} {kind}: predicted {row['predicted']:.2f} ms, measured {row['measured']:.2f}, {ratio - 1:+.1%}"
        )
    results["calibration"].append(numbers)


def links_of(timed: list[dict]) -> dict:
    """Collective -> its latency and bandwidth; empty for one rank, which has none."""
    return {
        name: fitted({count: median(chosen(timed, (name, count))) for count in ARRAYS}) for name in COLLECTIVES if timed
    }


# -------------------------------------------------------------------------------------------------------------- tables


def table_of_steps(results: dict) -> list[str]:
    """Milliseconds a step; beside those of minillm how many times as long the peer takes."""
    lines = [
        "| size | workers | threads | processes | mpi | torch, threads | DDP | torch / threads | DDP / processes | DDP / mpi |"
    ]
    lines.append("|---|---|" + "---|" * 8)
    ratios = {(r["size"], r["workers"], r["ours"], r["theirs"]): f"{r['median']:.2f}" for r in results["ratios"]}
    steps = {(r["size"], r["workers"], r["contestant"]): f"{r['milliseconds']:,.1f}" for r in results["steps"]}
    for size, workers in dict.fromkeys((row["size"], row["workers"]) for row in results["steps"]):
        cells = [steps.get((size, workers, name), "") for name in ("threads", "processes", "mpi", "torch", "DDP")]
        pairs = [("threads" if workers > 1 else "processes", "torch"), ("processes", "DDP"), ("mpi", "DDP")]
        cells += [ratios.get((size, workers, *pair), "") for pair in pairs]
        lines.append(f"| {size} | {workers} | {' | '.join(cells)} |")
    return lines


def table_of_predictions(results: dict) -> list[str]:
    lines = ["| size | workers | transport | predicted, ms | measured, ms | error |", "|---|---|---|---|---|---|"]
    for row in results["predictions"]:
        figures = f"{row['predicted']:,.1f} | {row['measured']:,.1f} | {row['error']:+.0%}"
        lines.append(f"| {row['size']} | {row['workers']} | {row['contestant']} | {figures} |")
    return lines


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
