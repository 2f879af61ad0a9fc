"""Lesson: many hands, one result.

Several ranks, each of which computes with a part of the batch, have to end up with the same
weights. For this they need the sum of their gradients, and two collectives make it
(sums_over_ranks.py). Between the two each number has one owner: sharded_chain.py has what follows
from this, ZeRO, by hand. A matrix can be shared as well: split_matrices.py.

A sum of floating-point numbers depends on its order, and which rank adds what depends on N. The
tree of minillm/distributed/tree.py is an order that does not.
"""

from __future__ import annotations

import numpy as np

from minillm.distributed.rank_threads import run_ranks
from minillm.lessons import sharded_chain, split_matrices
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.sharded_chain import BLOCKS, LAYOUT, STAGES, Trained, bytes_kept, bytes_sent
from minillm.lessons.split_matrices import WAYS, Compared
from minillm.lessons.sums_over_ranks import PARTS, RANKS, Step, collectives, order_of_sums, part_gradients
from minillm.models.gpt2 import GPT2Config
from minillm.profiling.memory import count_parameters

SHOWN_RANKS = 4  # of the collectives step by step
CHAIN_RANKS = (1, 2, 4)  # that train
SPLIT_RANKS = 2  # that share the two matrices
GPT2_SMALL = GPT2Config(50257, 1024, n_layer=12, n_head=12, d_model=768)


def measure() -> Measured:
    """The collectives, the order of a sum, ZeRO, and tensor parallelism."""
    steps = collectives(SHOWN_RANKS)
    changed = order_of_sums(part_gradients())
    trained = {
        (ranks, stage): run_ranks(ranks, lambda communicator, stage=stage: sharded_chain.train(communicator, stage))
        for ranks in CHAIN_RANKS
        for stage in STAGES
    }
    ways = {way: split_matrices.compare(SPLIT_RANKS, way) for way in WAYS}
    figures = figures_of(steps, changed, trained, ways)
    return Measured(
        tables=[_steps_table(steps), _order_table(changed), _zero_table(trained), _gpt2_table(), _split_table(ways)],
        findings=findings_of(figures),
        draw=lambda figure: _draw(figure, changed),
        figures=figures,
    )


# ---------------------------------------------------------------------------------------- figures, findings, tables


def figures_of(
    steps: list[Step],
    changed: dict[str, dict[int, float]],
    trained: dict[tuple[int, int], list[Trained]],
    ways: dict[str, Compared],
) -> dict[str, float]:
    """The numbers of the findings."""
    total, length, ranks = sum(step.before for step in steps), steps[0].before.nbytes, len(steps)
    large = np.float32(2**24)
    runs = [(stage, n, rank) for (n, stage), of_ranks in trained.items() for rank in of_ranks]
    of_one = trained[1, 0][0].weights
    right, no_sum, biased = ways.values()
    gpt2 = {stage: _gpt2_bytes(stage, 8) for stage in STAGES}
    figures = {
        "wrong sums": sum(not np.array_equal(step.after, total) for step in steps),
        "wrong slices": sum(not np.array_equal(step.reduced[step.own], total[step.own]) for step in steps),
        "array": length,
        "sent": max(max(step.sent) for step in steps),
        "sent, formula": length * (ranks - 1) / ranks,
        "left first": float((large + np.float32(1)) + np.float32(1)) - float(large),
        "right first": float(large + (np.float32(1) + np.float32(1))) - float(large),
        "as they come: most": max(changed["as they come"].values()),
        "along the tree: most": max(changed["along the tree"].values()),
        "bytes off the formula": max(_off_the_formula(stage, n, rank.kept) for stage, n, rank in runs),
        "sent off the formula": max(abs(rank.sent - bytes_sent(stage, LAYOUT.size, n)) for stage, n, rank in runs),
        "runs": len(trained),
        "other weights": sum(rank.weights != of_one for _, _, rank in runs),
        "split: apart": max(right.output, *right.gradients.values()),
        "split: sums off": abs(max(right.sent) - _sum_bytes()) + abs(min(right.sent) - _sum_bytes()),
        "split: error": max(right.checked.values()),
        "no sum: y": no_sum.output,
        "no sum: x": no_sum.checked["x"],
        "no sum: others": max(error for name, error in no_sum.checked.items() if name != "x"),
        "biased: y": biased.output,
        "biased: b": biased.checked["b"],
        "caught": (right.verdict == "passed") + (no_sum.verdict == "wrong") + (biased.verdict == "wrong"),
    }
    figures |= {f"GPT-2, stage {stage}": gigabytes for stage, gigabytes in gpt2.items()}
    return {name: float(number) for name, number in figures.items()}


def findings_of(f: dict[str, float]) -> list[Finding]:
    """Each can fail: with these figures or others."""
    return [
        Finding(
            f"after reduce_scatter each rank has its slice of the sum, after all_gather the whole sum; in each of the two "
            f"it sent {f['sent']:.0f} of {f['array']:.0f} bytes: P (N - 1) / N",
            f["wrong slices"] == f["wrong sums"] == 0 and f["sent"] == f["sent, formula"],
        ),
        Finding(
            f"the order of a sum matters: in float32 (2^24 + 1) + 1 is 2^24 + {f['left first']:.0f}, and 2^24 + (1 + 1) is "
            f"2^24 + {f['right first']:.0f}; of a real gradient up to {f['as they come: most']:.0%} of the numbers change "
            f"with the number of ranks when parts are added as they come",
            f["left first"] != f["right first"] and f["as they come: most"] > 0.1,
        ),
        Finding(
            f"along the tree {f['along the tree: most']:.0%} of them change, for {', '.join(map(str, RANKS))} ranks",
            f["along the tree: most"] == 0,
        ),
        Finding(
            f"ZeRO: what a rank keeps is {f['bytes off the formula']:.0f} bytes off the formula, for every stage and "
            f"number of ranks; GPT-2 of 124 M weights on 8 ranks: {f['GPT-2, stage 0']:.2f} GB each without, "
            f"{f['GPT-2, stage 1']:.2f} with stage 1, {f['GPT-2, stage 2']:.2f} with 2, {f['GPT-2, stage 3']:.2f} with 3",
            f["bytes off the formula"] == 0,
        ),
        Finding(
            f"stages 1 and 2 send no more than data parallelism, stage 3 half as much again ({f['sent off the formula']:.0f} "
            f"bytes off the formula); all {f['runs']:.0f} runs end with the same weights, to the last bit",
            f["sent off the formula"] == f["other weights"] == 0,
        ),
        Finding(
            f"two matrices on {SPLIT_RANKS} ranks: y and all gradients are those of one rank within {f['split: apart']:.0e}, "
            f"with one sum in forward and one in backward",
            f["split: apart"] < 1e-12 and f["split: sums off"] == 0 and f["split: error"] < 1e-6,
        ),
        Finding(
            f"without the sum in backward y is right and the gradient of x is not (error {f['no sum: x']:.1f}); with a bias "
            f"added on each rank y is off by {f['biased: y']:.0%}, and the gradient of b by {f['biased: b']:.0%} of what it "
            f"would be; gradcheck catches both",
            f["no sum: y"] < 1e-12 < 1e-2 < f["no sum: x"]
            and f["no sum: others"] < 1e-6
            and f["biased: y"] > 1e-2
            and f["biased: b"] > 1e-2
            and f["caught"] == 3,
        ),
    ]


def _off_the_formula(stage: int, ranks: int, kept: dict[str, int]) -> float:
    """The largest difference, in bytes, from what the formula says that a rank keeps."""
    formula = bytes_kept(stage, LAYOUT.size, LAYOUT.size // BLOCKS, ranks)
    return max(abs(kept[kind] - formula[kind]) for kind in formula)


def _sum_bytes() -> float:
    """Bytes that a rank sends for a sum of y, in float64."""
    return 2 * 8 * split_matrices.ROWS * split_matrices.WIDTH * (SPLIT_RANKS - 1) / SPLIT_RANKS


def _gpt2_bytes(stage: int, ranks: int) -> float:
    """Gigabytes a rank for GPT-2; its largest block is that of the embeddings."""
    config = GPT2_SMALL
    largest = (config.vocab_size + config.context_length) * config.d_model
    return sum(bytes_kept(stage, count_parameters(config), largest, ranks).values()) / 1e9


def _steps_table(steps: list[Step]) -> Table:
    def text(array, own=slice(None)) -> str:
        mine = range(array.size)[own]
        return " ".join(f"{number:g}" if i in mine else "." for i, number in enumerate(array))

    rows = []
    for rank, step in enumerate(steps):
        arrays = text(step.before), text(step.reduced, step.own), text(step.after)
        rows.append((str(rank), *arrays, "{} + {}".format(*step.sent)))
    columns = ("rank", "before", "after reduce_scatter", "after all_gather", "bytes sent")
    return Table("Step by step; a dot: not yet known", columns, rows)


def _order_table(changed) -> Table:
    return Table(
        f"Numbers of a gradient, the sum of {PARTS} parts, that are not those of one rank",
        ("order", *(f"{ranks} ranks" if ranks > 1 else "1 rank" for ranks in RANKS)),
        [(way, *(f"{share:.1%}" for share in shares.values())) for way, shares in changed.items()],
    )


def _zero_table(trained) -> Table:
    ranks = CHAIN_RANKS[-1]
    rows = []
    for stage in STAGES:
        rank = trained[ranks, stage][0]
        rows.append((str(stage), *(f"{number:,}" for number in rank.kept.values()), f"{rank.sent:,.0f}"))
    columns = ("stage", *trained[ranks, 0][0].kept, "sent in a step")
    return Table(f"Bytes of one of {ranks} ranks; {LAYOUT.size:,} weights in {BLOCKS} blocks", columns, rows)


def _gpt2_table() -> Table:
    many = (1, 8, 64)
    columns = ("stage", *(f"{ranks} ranks" if ranks > 1 else "1 rank" for ranks in many))
    rows = [(str(stage), *(f"{_gpt2_bytes(stage, ranks):.2f}" for ranks in many)) for stage in STAGES]
    return Table(
        f"The same formula, in GB a rank, for GPT-2 with {count_parameters(GPT2_SMALL):,} weights", columns, rows
    )


def _split_table(ways: dict[str, Compared]) -> Table:
    rows = []
    for way, each in ways.items():
        rows.append((way, *(f"{error:.0e}" for error in (each.output, *each.checked.values())), each.verdict))
    title = f"Two matrices on {SPLIT_RANKS} ranks: y beside one rank, gradients beside finite differences"
    return Table(title, ("", "y", *ways[WAYS[0]].checked, "verdict"), rows)


def _draw(figure, changed) -> None:
    left, right = figure.subplots(1, 2)
    ranks = 2 ** np.arange(8)
    for stage in STAGES:
        left.plot(ranks, [_gpt2_bytes(stage, n) for n in ranks], "o-", label=f"stage {stage}")
    left.set(
        xscale="log",
        xticks=ranks,
        xticklabels=ranks,
        ylim=(0, None),
        xlabel="ranks",
        ylabel="GB a rank",
        title="GPT-2 in float32",
    )
    left.legend()
    for (way, shares), style in zip(changed.items(), ("o-", "s-")):
        right.plot(list(shares), [100 * share for share in shares.values()], style, label=way)
    right.set(xlabel="ranks", ylabel="numbers that change (%)", title="the order of a sum")
    right.legend()


LESSON = Lesson(
    title="Many hands, one result",
    claim="Ranks that share the work of a step send 2 P (N - 1) / N bytes each, need not keep what they do not update, "
    "and end with the same bits for any number of ranks, if sums go along one fixed tree.",
    idea="A rank is one of N processes that train one model; each computes the gradient of its part of the batch. Then "
    "all need the sum. In two steps no rank is a bottleneck: each rank adds up one slice of it (reduce_scatter), and "
    "hands its slice to all others (all_gather). Between the two each slice has one owner. If the owner also updates "
    "the weights of its slice, the others need no Adam state for them: this is ZeRO. A matrix can be shared as well: "
    "columns of the first, rows of the second, and one sum in each direction. Here all ranks are threads of one "
    "process, which exchange arrays and count the bytes.",
    measure=measure,
    commands=(
        "minillm train --processes 2 --batch-parts 4 --max-steps 50    # and with --processes 1: the same losses",
        "minillm info    # what is used on this machine",
    ),
    read=(
        "minillm/distributed/communicator.py",
        "minillm/distributed/tree.py",
        "minillm/distributed/rank_threads.py",
        "minillm/lessons/sharded_chain.py",
        "minillm/lessons/split_matrices.py",
    ),
    seconds=6,
)
