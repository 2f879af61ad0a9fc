"""The benchmarks run, on what is there: tiny sizes, and no time is judged."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minillm
from benchmarks import (
    attention,
    common,
    cpu_vs_gpu,
    gpu_timing,
    gradcheck,
    kernel,
    minute,
    opening,
    packing,
    page_overhead,
    profile_step,
    published,
    train_step,
    train_step_memory,
)
from minillm.data import corpora
from minillm.errors import UserError
from minillm.kernels.simulator import compiler_available
from minillm.web.play import train

ROOT = Path(__file__).parents[1]
SMALL = "--batch-size 1 --context-length 16 --vocab-size 64".split()


def run(monkeypatch, capsys, benchmark, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
    benchmark.main()
    return capsys.readouterr().out


def measured(text: str, columns: int) -> dict[str, list[float]]:
    """Layer -> the numbers of its row."""
    rows = [row.rsplit(None, columns + 1) for row in text.splitlines() if "d_model" not in row]
    return {
        row[0].strip(): [float(number) for number in row[2:]]
        for row in rows
        if len(row) == columns + 2 and row[1] == "64"
    }


LAYERS = {"embedding", "layer norm", "attention", "MLP", "head and loss", "clip and AdamW", "whole step"}


def test_cpu_vs_gpu_without_a_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cpu_vs_gpu, "usable", lambda device: print("no GPU: none here") or [])
    monkeypatch.setattr(cpu_vs_gpu.common, "RESULTS", tmp_path)
    monkeypatch.setattr(train_step, "default_workers", lambda batch_size, context_length, device: 2)
    size = ["--batch-size", 2, "--context-length", 16, "--vocab-size", 64]
    shown = run(monkeypatch, capsys, cpu_vs_gpu, "--widths", 64, *size, "--repeats", 1, "--write")
    assert shown.count("no GPU") == 1 and "pays" not in shown
    assert measured(shown, 1).keys() == LAYERS and min(min(row) for row in measured(shown, 1).values()) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not compiler_available(), reason="the simulator needs a C++ compiler (apt install g++)")
def test_cpu_vs_gpu_on_the_way_of_a_gpu(monkeypatch, capsys):
    shown = run(monkeypatch, capsys, cpu_vs_gpu, "--device", "cudasim", "--widths", 64, *SMALL, "--repeats", 1)
    assert measured(shown, 3).keys() == LAYERS


def test_where_the_gpu_begins_to_pay_and_its_chart(tmp_path):
    times = {64: (1, 2), 128: (3, 2), 256: (3, 4), 512: (9, 5), 768: (9, 5)}
    rows = [{"layer": "MLP", "d_model": width, "cpu": cpu, "cuda": gpu} for width, (cpu, gpu) in times.items()]
    rows += [{"layer": "attention", "d_model": width, "cpu": 1, "cuda": 2} for width in times]
    found = cpu_vs_gpu.pays_from(rows, "cuda")
    assert found == {"MLP": 512, "attention": None}
    cpu_vs_gpu.draw(rows, found, "cuda", "made up, for the test", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.peers
def test_train_step_beside_pytorch(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(train_step, "shares_of_products", lambda *arguments: {})
    shown = run(monkeypatch, capsys, train_step, *SMALL, "--blocks", 2, "--steps", 1, "--without-compile")
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.endswith(("MB", "n/a"))}
    assert float(rows["minillm"][1].replace(",", "")) > 0 and rows["minillm"][3] == "n/a"  # this processor has no peak
    assert float(rows["minillm"][4]) > 0 and rows["torch"][4] == "n/a"  # PyTorch keeps no account on a CPU
    assert "torch takes" in shown


def test_train_step_of_processes_beside_threads(monkeypatch, capsys, tmp_path):
    """Two processes, whose second one takes each step with the first, and ends with it."""
    monkeypatch.setattr(train_step, "shares_of_products", lambda *arguments: {})
    monkeypatch.setattr(train_step, "default_workers", lambda batch_size, context_length, device: 2)
    monkeypatch.setattr(train_step, "torch_contestants", lambda *arguments: {})
    monkeypatch.setattr(train_step.common, "RESULTS", tmp_path)
    arguments = [*SMALL, "--blocks", 2, "--steps", 1, "--processes", 2, "--threads-too", "--write"]
    shown = run(monkeypatch, capsys, train_step, *arguments)
    assert "minillm: 2 processes, 1 thread each: as asked for" in shown
    assert "minillm, threads takes" in shown
    (written,) = tmp_path.iterdir()
    found = json.loads(written.read_text())
    assert found["minillm_has"].startswith("2 processes") and set(found["results"]) == {"minillm", "minillm, threads"}


def test_each_preset_has_its_result_file():
    names = [
        train_step.names_of(SimpleNamespace(device=device, preset=preset, dtype="float32"))
        for device, preset in (("cpu", train_step.DEFAULT), ("cpu", "gpt2"), ("cuda", train_step.DEFAULT))
    ]
    assert names == [[], ["gpt2"], [train_step.DEFAULT, "float32"]]


needs_linux = pytest.mark.skipif(
    not train_step_memory.CLEAR.exists(), reason="the highest memory is forgotten on Linux"
)


MEMORY_OF_A_STEP = """
import numpy as np
from benchmarks import train_step_memory

class Trainer:
    kept = None

    def step(self, ids, targets):
        self.kept = np.ones(5_000_000) if self.kept is None else self.kept
        np.ones(15_000_000).sum()

before = train_step_memory.resident("VmRSS")
print(train_step_memory.peak_of(Trainer(), (None, None)) - before)
"""


@needs_linux
def test_the_memory_of_a_step_is_what_it_keeps():
    """A contestant that has 120 MB for the time of each step, and 40 MB after the first: 160. In a
    process of its own: this one may have free memory that counts as resident.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_A_STEP], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == pytest.approx(160e6, rel=0.1)


@needs_linux
def test_the_memory_of_presets(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train_step_memory, "SHAPES", {"shakespeare-char-cpu": (1, 8), "shakespeare-char": (1, 8)})
    monkeypatch.setattr(train_step_memory, "is_there", lambda name: name != "torch.compile")
    monkeypatch.setattr(train_step_memory, "in_a_process", lambda name, preset: {"minillm": 2e6, "torch": 4e6}[name])
    monkeypatch.setattr(train_step_memory.common, "RESULTS", tmp_path)
    shown = run(monkeypatch, capsys, train_step_memory, "--write")
    assert "shakespeare-char, 1 x 8: minillm 2 MB, torch 4 MB" in shown
    found = json.loads((tmp_path / "train_step_memory.json").read_text())["presets"]
    assert found["shakespeare-char-cpu"]["peak_megabytes"] == {"minillm": 2.0, "torch": 4.0}
    monkeypatch.setattr(train_step_memory, "in_a_process", lambda name, preset: 6e6)
    run(monkeypatch, capsys, train_step_memory, "--write", "--presets", "shakespeare-char")
    again = json.loads((tmp_path / "train_step_memory.json").read_text())["presets"]
    assert again["shakespeare-char"]["peak_megabytes"] == {"minillm": 6.0, "torch": 6.0}
    assert again["shakespeare-char-cpu"] == found["shakespeare-char-cpu"]  # what is not measured now stays


@needs_linux
def test_a_contestant_measures_itself_in_its_process():
    """More than the weights, their gradients and two moments: 4 x 4 bytes for each of 800,000."""
    assert 4 * 4 * 800_000 < train_step_memory.in_a_process("minillm", "shakespeare-char-cpu") < 200e6


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preset", "llama-small"], "is no GPT-2"),
        (["--dtype", "bfloat16"], "is for --device cuda"),
        (["--device", "cuda"], "there is no such device"),
    ],
)
def test_train_step_refuses(monkeypatch, capsys, arguments, message):
    def nowhere(array, device):
        if device != "cpu":
            raise UserError("there is no such device")

    monkeypatch.setattr(train_step, "to_device", nowhere)
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, train_step, *arguments)
    assert message in capsys.readouterr().err


class Machine:
    """A host and a GPU by a clock of their own, with the face of CuPy that gpu_timing.py uses.

    The host needs 5 ms to ask for a call, the device 1 ms for its work. The device begins when it is asked, or later when
    it is busy.
    """

    def __init__(self):
        self.host = self.device = 0.0
        self.cuda = SimpleNamespace(
            Event=lambda: self,
            Device=lambda: SimpleNamespace(synchronize=self.synchronize),
            get_current_stream=lambda: SimpleNamespace(launch_host_func=lambda function, seconds: self.busy(seconds)),
            get_elapsed_time=lambda start, end: 1e3 * (self.marks[-1] - self.marks[-2]),
        )
        self.marks = []

    def busy(self, seconds):
        self.device = max(self.device, self.host) + seconds

    def work(self, number):
        self.host += 0.005
        self.busy(0.001)

    def record(self):
        self.marks.append(max(self.device, self.host))

    def synchronize(self):
        self.host = max(self.host, self.device)

    def perf_counter(self):
        return self.host

    def sleep(self, seconds):
        raise AssertionError("the host sleeps")


def test_the_time_of_a_gpu_is_without_the_launches(monkeypatch):
    machine = Machine()
    monkeypatch.setitem(sys.modules, "cupy", machine)
    monkeypatch.setattr(gpu_timing, "time", machine)
    assert gpu_timing.device_seconds(machine.work) == pytest.approx(0.001)
    monkeypatch.setattr(gpu_timing, "SLACK", 0.0)  # without holding up the stream it is the host that is measured
    assert gpu_timing.device_seconds(machine.work) == pytest.approx(0.005, rel=0.2)


def test_counting_needs_no_measuring(monkeypatch, capsys):
    monkeypatch.setattr(attention, "measure", lambda *arguments: pytest.fail("something is measured"))
    monkeypatch.setattr(attention, "simulated_counts", lambda: print("counted"))
    assert run(monkeypatch, capsys, attention, "--only-simulate") == "counted\n"


def test_long_sequences_are_left_out_on_a_cpu(monkeypatch, capsys):
    """16,384 tokens in NumPy would take longer than everything else."""
    monkeypatch.setattr(attention, "LONGEST_ON_CPU", 8)
    arguments = SimpleNamespace(repeats=1, tokens=16, channels=8)
    assert attention.measure([attention.NumPy()], None, 4, 16, arguments) == []
    assert "left out: on a CPU up to T = 8" in capsys.readouterr().out
    assert len(attention.measure([attention.NumPy()], None, 4, 8, arguments)) == 2


def test_pytorch_without_a_gpu_is_left_out(monkeypatch, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(train_step, "torch_sees_a_gpu", lambda: False)
    assert train_step.torch_contestants(None, SimpleNamespace(device="cuda")) == {}
    assert "PyTorch is left out" in capsys.readouterr().out


SIZES = {
    "adamw": (1, 8),
    "bias": (4, 8),
    "cross_entropy": (5, 30),
    "dropout": (4, 8),
    "embedding": (9, 5, 4),
    "gelu": (4, 8),
    "global_norm": (1, 8),
    "layer_norm": (4, 8),
    "residual_bias": (4, 8),
    "residual_layer_norm": (4, 8),
    "residual_rms_norm": (4, 8),
    "rms_norm": (4, 8),
    "rotary": (1, 2, 3, 4),
    "swiglu": (4, 8),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_benchmark_of_an_operation(monkeypatch, capsys, name):
    monkeypatch.setattr(kernel, "available_ways", lambda benchmark: (["numpy"], ["cupy: none here"]))
    rows = rows_of_operation(monkeypatch, capsys, name)
    assert {row[1] for row in rows} == {"numpy"}
    assert len(rows) == (1 if name in ("adamw", "global_norm") else 2)


@pytest.mark.peers
@pytest.mark.parametrize("name", sorted(SIZES.keys() - {"dropout"}))
def test_the_benchmark_of_an_operation_agrees_with_pytorch(monkeypatch, capsys, name):
    pytest.importorskip("torch")
    monkeypatch.setattr(kernel, "available_ways", lambda benchmark: (["numpy", "torch cpu"], []))
    assert max(float(row[-1]) for row in rows_of_operation(monkeypatch, capsys, name)) < 1e-4


def rows_of_operation(monkeypatch, capsys, name):
    """The cells of the rows of the table, of which the first is the size."""
    module = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", ["benchmark", "--repeats", "1", "--size", *map(str, SIZES[name])])
    kernel.main(module.BENCHMARK)
    size = " x ".join(map(str, SIZES[name]))
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith(size)]
    return [[size, *line.removeprefix(size).split()] for line in shown]


def test_a_line_of_attention_fits_80_columns():
    row = dict(way="tensor cores bf16", direction="backward", shape=dict(B=1, H=2, T=16384, D=128), error=1.23e-7)
    row |= dict(median_ms=12345.678, p20_ms=12345.678, p80_ms=12345.678, tflops=1234.567, share_of_peak=0.99)
    assert len(attention.line(row)) <= 80


def test_the_cost_of_the_page(monkeypatch, capsys):
    monkeypatch.setattr(train, "Session", train.Session)
    shown = run(monkeypatch, capsys, page_overhead, "--client", "--preset", "simulator", "--steps", 3, "--pairs", 2)
    heading, _, *rows, browser, verdict = shown.splitlines()
    assert heading == "2 blocks of 3 steps, beside 3 without the page"
    assert [row[:15].strip() for row in rows] == ["time", "processor time"]
    assert all(float(word) > 0 for row in rows for word in re.findall(r"\d+\.\d+", row))
    assert re.fullmatch(r"the browser had \d+\.\d% of a core", browser) and verdict.startswith("at most 5% slower: ")


def test_whether_the_page_costs_too_much():
    """By the time where it settles it, else by the processor time; the interval is that of a sign test."""
    wide, low, high = (
        page_overhead.Ratio(1.1, 0.9, 1.4),
        page_overhead.Ratio(1, 0.99, 1.05),
        page_overhead.Ratio(1.2, 1.1, 1.3),
    )
    assert page_overhead.verdict(low, high) == "at most 5% slower: yes, by the time"
    assert page_overhead.verdict(high, low) == "at most 5% slower: no, by the time"
    assert page_overhead.verdict(wide, low).startswith(
        "at most 5% slower: yes, by the processor time; the time did not settle"
    )
    assert page_overhead.verdict(wide, high).startswith(
        "at most 5% slower: no, by the processor time; the time did not settle"
    )
    assert page_overhead.verdict(wide, wide).startswith("at most 5% slower: not settled")
    values = [float(number) for number in range(20, 0, -1)]
    assert page_overhead.ratio(values) == (10.5, 6, 15) and page_overhead.ratio(values[:3]) == (19, 18, 20)
    assert page_overhead.ratio(values[:6]) == (17.5, 15, 20) and page_overhead.ratio(values[:9]) == (16, 13, 19)


PRINTED = {
    gradcheck: (["layer_norm"], "largest relative error 6.2e-10 in x", {"largest_error": 6.2e-10}),
    published: (
        ["--seeds", "1", "2"],
        "best model: step 3, on the whole validation text (111,539 tokens): loss 1.5000, perplexity 4.482",
        {"losses": {"1": 1.5, "2": 1.5}, "mean": 1.5},
    ),
    profile_step: ([], "step 1\npart   calls  ms\nthe step: 2 ms", {"lines": ["part   calls  ms", "the step: 2 ms"]}),
}


@pytest.mark.parametrize("benchmark", PRINTED, ids=lambda benchmark: benchmark.__name__)
def test_what_a_command_prints_is_kept(monkeypatch, capsys, tmp_path, benchmark):
    arguments, printed, expected = PRINTED[benchmark]
    done = SimpleNamespace(stdout=printed, stderr="", returncode=0)
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "origin", dict)
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *arguments, **settings: done)
    run(monkeypatch, capsys, benchmark, *arguments, "--write")
    found = json.loads(next(tmp_path.iterdir()).read_text())
    assert {name: found[name] for name in expected} == expected
    done.stdout, done.stderr, done.returncode = "", "minillm: no such file", 2
    with pytest.raises(UserError, match="exit code 2"):
        run(monkeypatch, capsys, benchmark, *arguments)


def test_packed_rows_beside_padded_ones(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    size = "--conversations 6 --batch-size 2 --context-length 24 --d-model 64 --n-layer 1 --vocab-size 16 --repeats 1"
    shown = run(monkeypatch, capsys, packing, *size.split(), "--write")
    rows = {
        line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.startswith(("padded ", "packed  "))
    }
    assert int(rows["packed"][0]) < int(rows["padded"][0]) == 6 and "times as fast" in shown
    assert json.loads((tmp_path / "packing.json").read_text())["rows"]["padded"]["rows"] == 6


def test_both_kinds_of_rows_have_the_same_loss():
    texts = [np.arange(length + 1) % 7 for length in (5, 2, 9, 3)]
    model = minillm.GPT2(
        minillm.GPT2Config(vocab_size=7, context_length=10, n_layer=1, n_head=2, d_model=8), dtype="float64"
    )
    losses = []
    for rows, time in (([[text] for text in texts], None), (packing.first_fit(texts, 10), 10)):
        batches = packing.batches_of(rows, 2, time)
        losses.append(sum(model.loss(ids, targets, count=1, starts=starts) for ids, targets, starts in batches))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.slow
def test_opening_in_fresh_processes(monkeypatch, capsys, tmp_path):
    pytest.importorskip("gguf", reason="the file is written by the package gguf")

    def tiny(run, environment):
        config = minillm.GPT2Config(vocab_size=300, context_length=8, n_layer=1, n_head=1, d_model=8)
        minillm.GPT2(config, seed=0).save_pretrained(run)
        opening.random_tokenizer(300).save_pretrained(run)

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(opening, "_train_a_step", tiny)
    monkeypatch.setattr(opening, "VOCABULARY", 300)
    shown = run(monkeypatch, capsys, opening, "--layers", "1", "--rounds", "1", "--write")
    found = json.loads((tmp_path / "opening.json").read_text())["median_seconds"]
    assert list(found) == ["numpy", "version", "first_token", "gguf_model", "gguf_tokenizer"]
    assert all(0 < seconds < 60 for seconds in found.values()) and all(name in shown for name in found)


def test_a_minute_of_each_recipe_on_a_short_text(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(corpora.CORPORA, "python-docs", lambda: "The quick brown fox jumps over the lazy dog. " * 100)
    monkeypatch.setattr(minute, "CALIBRATION_SECONDS", 0.01)
    monkeypatch.setattr(minute.common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(minute, "PICTURE", tmp_path / "minute.png")
    shown = run(monkeypatch, capsys, minute, "--seconds", 0.3, "--seeds", 1, 2, "--without-peers", "--write")
    rows = json.loads((tmp_path / "results" / "minute.json").read_text())["contestants"]
    assert list(rows) == ["minillm", "minillm, former default"] and all(shown.count(name) for name in rows)
    for first, second in rows.values():
        assert (first["seed"], second["seed"]) == (1, 2) and first["nats_per_token"] != second["nats_per_token"]
        text = corpora.CORPORA["python-docs"]()[-450:]
        assert 0 < first["bits_per_byte"] * len(text) * np.log(2) / first["nats_per_token"] < len(text)  # its tokens
        assert first["training_seconds"] == pytest.approx(first["steps"] * first["milliseconds_per_step"] / 1e3)
        assert first["curve_of_seconds_and_nats"][0][0] == 0
    assert (tmp_path / "minute.png").is_file()


def test_nanogpts_recipe_learns_in_a_part_of_a_minute(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(corpora.CORPORA, "python-docs", lambda: "The quick brown fox jumps over the lazy dog. " * 100)
    monkeypatch.setattr(minute, "CALIBRATION_SECONDS", 0.01)
    recipe = minute.TorchRecipe()
    assert recipe.seconds_of_a_step() > 0
    trained = recipe.train(12, seed=1)
    losses = [loss for _, loss in trained.curve]
    assert len(losses) == minute.EVALUATIONS + 1 and losses[-1] < losses[0] - 0.05
    assert trained.evaluation.tokens == len(recipe.tokens[minute.VALIDATION]) - 1
