"""The model of scale, and the benchmark that measures its numbers."""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minillm
from benchmarks import scale_table, scaling, scaling_contestants
from benchmarks.collective_costs import ALGORITHMS, Link, Network, bytes_sent, direct_exchange, halving, ring, tree
from benchmarks.networks import A100, GPU_CLUSTERS, HDR, Cluster
from benchmarks.scale_model import (
    NUMBER,
    PLANS,
    Case,
    Collectives,
    Plan,
    Work,
    fits_from,
    memory_of_rank,
    pays_up_to,
    pipelined,
    step_seconds,
    strong,
    weak,
)
from benchmarks.scaling_prediction import fitted, predicted_step
from benchmarks.scaling_trainers import OurTrainer
from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.layout import CELL
from minillm.distributed.rank_threads import run_ranks
from minillm.errors import UserError
from minillm.profiling.flops import flops_per_token
from minillm.profiling.memory import count_parameters

DOCS = Path(__file__).parent.parent / "docs"
LINK = Link(2e-6, 1e9)  # a message 2 us, a byte 1 ns
SMALL = minillm.GPT2Config(
    vocab_size=60, context_length=16, n_layer=3, n_head=2, d_model=32, dropout=0.0, tie_embeddings=True
)
CASE = Case("small", SMALL, 16, 2, 64)


# --------------------------------------------------------------------------------------------------- collectives


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("network", [Network(LINK), Network(LINK, Link(1e-6, 1e10), ranks=8, adapters=2)])
def test_one_rank_sends_nothing(name, network):
    assert ALGORITHMS[name](network, 1e9, 1) == 0


def test_hockneys_formulas():
    flat = Network(LINK)
    assert direct_exchange(flat, 8e6, 8) == ring(flat, 8e6, 8) == pytest.approx(7 * 2e-6 + 7e-3)
    assert halving(flat, 8e6, 8) == pytest.approx(3 * 2e-6 + 7e-3)
    assert tree(flat, 8e6, 8) == pytest.approx(3 * (2e-6 + 8e-3))
    assert halving(flat, 8e6, 6) == pytest.approx(3 * 2e-6 + 8e6 * 5 / 6 * 1e-9)


def test_what_leaves_a_node():
    """Two nodes of four ranks with one adapter, inside ten times as fast."""
    network = Network(LINK, Link(1e-6, 1e10), ranks=4)
    inside, share = 8e6 * 1e-10, 8e6 * 1e-9 * 4  # all bytes of a rank, inside, and through its share of the adapter
    assert direct_exchange(network, 8e6, 8) == pytest.approx(3e-6 + inside * 3 / 8 + 4 * 2e-6 + share / 2)
    assert halving(network, 8e6, 8) == pytest.approx(2e-6 + inside * 3 / 4 + 2e-6 + share / 4 / 2)
    assert ring(network, 8e6, 8) == pytest.approx(6e-6 + 2e-6 + 8e6 * 7 / 8 * 1e-9)
    four_adapters = Network(LINK, Link(1e-6, 1e10), ranks=4, adapters=4)
    assert ring(four_adapters, 8e6, 8) == pytest.approx(6e-6 + 2e-6 + 8e6 * 7 / 8 * 1e-9 / 4)
    assert direct_exchange(network, 8e6, 4) == pytest.approx(3e-6 + inside * 3 / 4)  # in one node


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_bytes_are_those_that_are_counted(ranks):
    """By the communicator, summed over all ranks."""
    count = 4 * 3 * CELL

    def program(communicator):
        nodes = [[(rank, rank + 1)] for rank in range(ranks)]
        communicator.reduce_scatter(Terms(ranks, nodes, [np.ones(count, np.float32)]), equal_bounds(count, ranks))
        communicator.all_gather(np.ones(count, np.float32), equal_bounds(count, ranks))
        communicator.sum(np.ones(count, np.float32))
        communicator.broadcast(np.ones(count, np.float32))
        return communicator.sent

    counted = sum(run_ranks(ranks, program), Counter())
    for name in ("reduce_scatter", "all_gather", "sum"):
        assert counted[name] == ranks * bytes_sent(name, 4 * count, ranks)
    assert counted["broadcast"] == bytes_sent("broadcast", 4 * count, ranks)


def test_a_step_sends_what_the_model_counts():
    """ZeRO-1: 2 P (N - 1) / N, and the step's message."""
    ranks = 4

    def program(communicator):
        trainer = OurTrainer(SMALL, 4, communicator, 1)
        with trainer:
            trainer.step()
        return communicator.sent, trainer.sharded.layout

    found = run_ranks(ranks, program)
    layout = found[0][1]
    size = NUMBER * layout.size
    counted = sum((sent for sent, _ in found), Counter())
    flags = 1 + len(layout.entries)  # whether to stop, and which parameters have a gradient
    message = 8 * (layout.size // CELL + ranks * flags + ranks)  # squares of cells, flags a rank, a loss a part
    assert counted["reduce_scatter"] == ranks * bytes_sent("reduce_scatter", size, ranks)
    assert counted["all_gather"] == ranks * (
        bytes_sent("all_gather", size, ranks) + bytes_sent("all_gather", message, ranks)
    )


# ---------------------------------------------------------------------------------------------------------- a step


WORK = Work([1000, 2000, 3000], [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], update=1e-3, fixed=0.25)
FREE = Collectives(lambda size: 0.0, lambda size: 0.0)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_without_a_network_a_step_is_computation_and_update(plan):
    assert step_seconds(WORK, 1, FREE, plan) == pytest.approx(0.25 + 18 + 6)
    assert step_seconds(WORK, 4, FREE, plan) == pytest.approx(0.25 + 18 + 6 / 4)


def test_what_each_stage_sends():
    """A byte takes a millisecond, and a message, here, nothing."""
    network = Collectives(lambda size: size * 1e-3, lambda size: size * 1e-3)
    alone, squares, size = step_seconds(WORK, 2, FREE, Plan(1)), 8 * 6000 / CELL * 1e-3, 4 * 6000 * 1e-3
    assert step_seconds(WORK, 2, network, Plan(1)) == pytest.approx(alone + squares + 2 * size)
    assert step_seconds(WORK, 2, network, Plan(2)) == pytest.approx(alone + squares + 2 * size)
    blocks = 4 * 2000 * 1e-3  # whose weights are sent twice, embeddings and head once
    assert step_seconds(WORK, 2, network, Plan(3)) == pytest.approx(alone + squares + 2 * size + blocks)


def test_what_overlaps():
    assert pipelined([1, 2, 3], [0, 0, 0], [0, 0, 0]) == 6
    assert pipelined([1, 2, 3], [0, 0, 0], [1, 1, 1]) == 7  # the last reduction alone is waited for
    assert pipelined([1, 1, 1], [0, 0, 0], [5, 5, 5]) == 16  # the network is the slower one
    assert pipelined([2, 2, 2], [1, 1, 1], [0, 0, 0]) == 7  # the first gather alone is waited for
    assert pipelined([1, 1, 1], [4, 4, 4], [0, 0, 0]) == 13
    assert pipelined([3, 3, 3], [1, 1, 1], [1, 1, 1]) == 11


def test_overlap_hides_at_most_what_is_computed():
    network = Collectives(lambda size: size * 1e-3, lambda size: size * 2e-3)
    for zero in (2, 3):
        without, hidden = (step_seconds(WORK, 2, network, Plan(zero, overlaps)) for overlaps in (False, True))
        assert 0 < without - hidden <= sum(WORK.forward) + sum(WORK.backward)


def test_sections_are_the_whole_model():
    llama = minillm.LlamaConfig(
        vocab_size=60, context_length=16, n_layer=2, n_head=2, n_kv_head=1, d_model=32, tie_embeddings=False
    )
    for config in (SMALL, llama):
        sections = Case("", config, 16, 1, 1).sections
        assert len(sections) == config.n_layer + 2
        assert sum(section.parameters for section in sections) == count_parameters(config)
        assert sum(section.operations for section in sections) == pytest.approx(16 * flops_per_token(config, 16))


# ------------------------------------------------------------------------------------------------ where it stops


def test_efficiency_is_one_for_one_rank_and_falls():
    cluster = Cluster("", A100, HDR, direct_exchange, "")
    for kind in (weak, strong):
        values = [kind(cluster, CASE, ranks, Plan(1)) for ranks in (1, 2, 8, 32)]
        assert values[0] == 1 and values == sorted(values, reverse=True)


def test_where_more_ranks_stop_to_pay():
    ranks = [2, 4, 8, 16]
    assert pays_up_to({2: 0.9, 4: 0.8, 8: 0.51, 16: 0.49}.get, ranks) == 8  # half is left
    assert pays_up_to({2: 0.99, 4: 0.9, 8: 0.46, 16: 0.3}.get, ranks) == 4
    assert pays_up_to({2: 1.0, 4: 0.99, 8: 0.54, 16: 0.5}.get, ranks) == 4  # twice the ranks gain less than a tenth
    assert pays_up_to({2: 0.4, 4: 0.4, 8: 0.4, 16: 0.4}.get, ranks) == 1
    assert pays_up_to(lambda count: 0.9, ranks) == 16


def test_memory_of_a_rank():
    count = count_parameters(SMALL)
    for zero in (1, 2, 3):
        assert memory_of_rank(CASE, 8, zero)["moments"] == 2 * 4 * count / 8
    assert memory_of_rank(CASE, 8, 1)["gradients"] == 4 * count == memory_of_rank(CASE, 8, 2)["weights"]
    totals = [sum(memory_of_rank(CASE, 64, zero).values()) for zero in (1, 2, 3)]
    assert totals == sorted(totals, reverse=True) and memory_of_rank(CASE, 8, 1)["activations"] > 0
    assert fits_from(GPU_CLUSTERS[0], CASE, 1, [1, 2]) == 1


def test_a_model_too_large_for_one_stage_fits_with_another():
    llama = scale_table.cases()[3]
    assert fits_from(GPU_CLUSTERS[-1], llama, 1, scale_table.RANKS) is None
    assert fits_from(GPU_CLUSTERS[-1], llama, 3, scale_table.RANKS) > 8


# ---------------------------------------------------------------------------------------------------- measured here


def test_a_line_through_measured_times():
    link = fitted({size: 3e-6 + size / 2e9 for size in (1 << 12, 1 << 18, 1 << 26)})
    assert link.latency == pytest.approx(3e-6) and link.bandwidth == pytest.approx(2e9)


def test_the_predicted_step():
    links = {"reduce_scatter": Link(1.0, 4.0), "all_gather": Link(2.0, 8.0)}
    assert predicted_step(1024, 10.0, 512.0, 1, {}) == 10 + 512
    squares, gradients, weights = 2 + 8 / 8, 1 + 4096 / 4, 2 + 4096 / 8
    assert predicted_step(1024, 10.0, 256.0, 2, links, 3.0) == pytest.approx(
        3 + 10 + 256 + squares + gradients + weights
    )


def run_benchmark(monkeypatch, tmp_path, *contestants) -> dict:
    """The results of one turn of each, with two workers on a tiny model."""
    monkeypatch.setattr(scaling, "ARRAYS", [1 << 12, 1 << 14])
    monkeypatch.setattr(scaling, "cores", lambda: 2)
    monkeypatch.setattr(scaling.common, "RESULTS", tmp_path)
    arguments = [
        "--sizes",
        "tiny",
        "--workers",
        "2",
        "--contestants",
        *contestants,
        "--starts",
        "1",
        "--blocks",
        "1",
        "--write",
    ]
    monkeypatch.setattr(sys, "argv", ["scaling", *arguments])
    scaling.main()
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["contestant"] for row in found["steps"]] == list(contestants)
    assert all(row["milliseconds"] > 0 and row["workers"] == 2 for row in found["steps"])
    return found


needs_linux = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the load is read from Linux's /proc")


@needs_linux
def test_processes_and_what_predicts_them(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scaling, "overheads", lambda workers, arguments: {"2 processes": 0.5})
    found = run_benchmark(monkeypatch, tmp_path, "processes")
    numbers, (prediction,) = found["calibration"][0], found["predictions"]
    assert numbers["processes reduce_scatter"]["bandwidth"] > 0 and numbers["update_seconds"] > 0
    assert prediction["predicted"] > 500  # milliseconds: the overhead alone
    assert prediction["predicted"] == pytest.approx(prediction["measured"] * (1 + prediction["error"]))
    assert "predicted" in capsys.readouterr().out


@needs_linux
@pytest.mark.peers
def test_ddp_and_processes_take_turns(monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.setattr(scaling, "calibrators_of", lambda workers, names: [])
    found = run_benchmark(monkeypatch, tmp_path, "processes", "DDP")
    assert found["ratios"][0]["median"] > 0 and "DDP takes" in capsys.readouterr().out


@needs_linux
def test_a_process_that_ends_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(
        scaling_contestants.Contestant, "commands", lambda *arguments: [[sys.executable, "-c", "exit(3)"]]
    )
    monkeypatch.setattr(scaling, "overheads", lambda workers, arguments: {})
    monkeypatch.setattr(scaling, "calibrators_of", lambda workers, names: [])
    with pytest.raises(UserError, match="threads: a process ended with exit code 3"):
        run_benchmark(monkeypatch, tmp_path, "threads")


def test_what_a_step_takes_beside_its_parts(monkeypatch):
    """Of a tiny model: the step less the part, the update, and for two ranks the collectives."""
    rounds = {
        "processes": [{"step": 9.0, "waited": 0.0}],
        "part": [{"step": 4.0, "update": 1.0, "waited": 0.0}],
        "processes collectives": [
            {(name, size): 1.0 for name in scaling.COLLECTIVES for size in scaling.ARRAYS} | {"waited": 0.0}
        ],
    }
    monkeypatch.setattr(scaling, "cores", lambda: 2)
    monkeypatch.setattr(scaling, "measured_together", lambda size, together, blocks: rounds)
    arguments = SimpleNamespace(contestants=["threads", "processes", "DDP"], blocks=1)
    assert scaling.overheads(2, arguments) == {"2 processes": pytest.approx(9 - 4 - 1 - 3)}
    assert scaling.overheads(1, arguments)["1 processes"] >= 0
    assert scaling.overheads(4, arguments) == {}  # more than the cores


def test_blocks_are_chosen_by_how_long_they_waited_for_a_core():
    blocks = [{"waited": 0.3, "step": 1.0}, {"waited": 0.0, "step": 2.0}, {"waited": 0.04, "step": 3.0}]
    assert scaling.chosen(blocks, "step") == [2.0, 3.0]
    assert scaling.quiet_pairs(blocks, [{"waited": 0.0}, {"waited": 0.9}, {"waited": 0.0}]) == [2, 0]


# ------------------------------------------------------------------------------------------------------ what is shown


def test_what_the_page_says_of_the_results():
    results = json.loads(scale_table.MEASURED.read_text())
    page = (DOCS / "scaling.md").read_text()
    assert results["origin"]["date"] in page
    assert max(abs(row["error"]) for row in results["predictions"]) <= 0.15


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    scale_table.draw(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (DOCS / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"!\[[^]]+\]\(scaling.png\)", (DOCS / "scaling.md").read_text())
