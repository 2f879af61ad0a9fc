"""The figures in the sentences of the pages: a name, and how it is made of the result file that it begins with."""

from __future__ import annotations

from benchmarks.figures import figure, number, percent

figure("train_step.products", lambda found: percent(found["matrix_product_share"]))
figure("train_step.of_machine", lambda found: percent(found["fraction_of_machine_rate"]))
figure("train_step.memory", lambda found: f"{found['results']['minillm']['peak_megabytes']:.0f} MB")

figure("packing.times", lambda found: f"{found['times_as_fast']:.2f} times")
figure("packing.padded_used", lambda found: percent(found["rows"]["padded"]["used"]))
figure("packing.packed_used", lambda found: percent(found["rows"]["packed"]["used"]))

figure("page.token", lambda found: f"{found['token']['ms']:.0f} ms")
figure("page.token_all_stages", lambda found: f"{found['token, all stages']['ms']:.0f} ms")
figure("page.read", lambda found: f"{found['pages']['seconds_for_all']:.0f} seconds")

figure("speculative.five", lambda found: _range([sizes["5"] / sizes["1"] for sizes in found["passes"].values()]))

figure("muon_losses.muon", lambda found: f"{found['median']['muon']:.3f}")
figure("muon_losses.adamw", lambda found: f"{found['median']['adamw']:.3f}")
figure("muon_steps.muon", lambda found: f"{number(1e3 * found['clock']['muon'])} ms")
figure("muon_steps.adamw", lambda found: f"{number(1e3 * found['clock']['adamw'])} ms")
figure("muon_steps.ratio", lambda found: f"{found['clock']['ratio']:.2f} times")


def _range(values: list[float], digits: int = 1, unit: str = "times") -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f} {unit}"


def _of_two(found: dict) -> str:
    """How many times as fast as one process two are, for each size."""
    steps = {(row["size"], row["workers"], row["contestant"]): row["milliseconds"] for row in found["steps"]}
    sizes = dict.fromkeys(row["size"] for row in found["steps"])
    *first, last = (f"{steps[size, 1, 'processes'] / steps[size, 2, 'processes']:.1f}" for size in sizes)
    return f"{', '.join(first)} and {last} times"


def _link(found: dict, name: str) -> str:
    """Latency and bandwidth of a collective between two ranks, over the sizes of models."""
    links = [row[name] for row in found["calibration"] if row["workers"] == 2]
    latency = _range([1e3 * link["latency"] for link in links], 2, "ms")
    return f"{latency} and {_range([link['bandwidth'] / 1e9 for link in links], 1, 'GB/s')}"


def _ddp(found: dict) -> str:
    two = [row for row in found["ratios"] if row["workers"] == 2 and row["theirs"] == "DDP"]
    return _range([row["median"] for row in two if row["ours"] == "processes"])


figure("scaling.two_processes", _of_two)
figure("scaling.ddp", _ddp)
figure("scaling.reduce_processes", lambda found: _link(found, "processes reduce_scatter"))
figure("scaling.reduce_mpi", lambda found: _link(found, "mpi reduce_scatter"))
figure("scaling.gather_mpi", lambda found: _link(found, "mpi all_gather"))
figure("scaling.core", lambda found: f"{found['core']['operations_per_second'] / 1e9:.0f} GFLOP/s")
