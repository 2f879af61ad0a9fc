"""The benchmarks of whole steps run, on what is there: tiny sizes, and no time is judged."""

import sys

import pytest

from benchmarks import cpu_vs_gpu, train_step
from minillm.errors import UserError
from minillm.kernels.simulator import compiler_available

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
