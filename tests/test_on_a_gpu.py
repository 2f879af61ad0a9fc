"""benchmarks/on_a_gpu.sh: what it notes, and that neither a failure nor a step without an end stops the rest.

An imitation of Python carries the steps out here. The slow tests run the commands themselves on the stand-in for a GPU.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import targets
from minillm.kernels.simulator import compiler_available

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "on_a_gpu.sh"
pytestmark = pytest.mark.skipif(
    not shutil.which("bash") or not shutil.which("timeout"), reason="it needs bash and timeout"
)

IMITATION = """#!/bin/bash
case "$*" in
    *benchmarks.machine*) echo "a machine" ;;
    *--dtype\\ float32*) echo "no such kernel" >&2; exit 3 ;;
    *benchmarks.probe*) sleep 30 ;;
esac
"""
# Ends at once, whatever the tools are given.
TOOL = """#!/bin/bash
while [[ $1 == -* ]]; do shift 2; done
exec "$@"
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    settings = {"OUT": str(folder / "out"), "PYTHON": sys.executable, **environment}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True)


def program(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def outcomes(folder: Path) -> dict[str, tuple[str, int | None]]:
    """Step -> outcome and exit code, of a summary."""
    lines = (folder / "out" / "summary.jsonl").read_text().splitlines()
    return {row["step"]: (row["outcome"], row["exit"]) for row in map(json.loads, lines)}


def test_it_goes_on_after_a_failure_and_ends_in_time(tmp_path):
    ran = run(tmp_path, "1", PYTHON=program(tmp_path / "python", IMITATION), PIECE_SECONDS="2")
    found = outcomes(tmp_path)
    assert found["machine"] == ("ok", 0) and found["train-cpu"] == ("ok", 0)
    assert found["train-float32"] == ("failed", 3) and found["train-bfloat16"] == ("ok", 0)
    assert found["probe"] == ("too long", 124)
    assert found["step-bfloat16"] == found["targets"] == ("not run", None)
    assert (tmp_path / "out" / "machine.txt").read_text() == "a machine\n"
    assert (tmp_path / "out" / "train-float32.txt").read_text() == "no such kernel\n"
    assert ran.returncode == 1 and "train-float32" in ran.stdout
    assert len((tmp_path / "out" / "summary.txt").read_text().splitlines()) == len(found)


def test_what_is_not_installed_is_noted(tmp_path):
    folder = tmp_path / "few"
    for name in ("bash", "cat", "cut", "dirname", "env", "grep", "ln", "mkdir", "sed", "tail", "tee", "timeout"):
        program(folder / name, f'#!{shutil.which("bash")}\nexec {shutil.which(name)} "$@"\n')
    run(tmp_path, "2", PYTHON=program(tmp_path / "python", "#!/bin/bash\n"), PATH=str(folder))
    found = outcomes(tmp_path)
    assert found["memcheck"] == found["racecheck"] == found["ncu"] == ("not run", None)
    assert found["attention"] == ("ok", 0)


@pytest.mark.parametrize("arguments", [(), ("6",), ("1", "--real"), ("fake",)])
def test_other_arguments_are_refused(tmp_path, arguments):
    ran = run(tmp_path, *arguments)
    assert ran.returncode == 2 and "bash benchmarks/on_a_gpu.sh 1|2|3|4|5|all" in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("piece", "12345")
def test_each_command_of_a_piece_runs(tmp_path, real_data, piece):
    pytest.importorskip("cupy")
    if not compiler_available():
        pytest.skip("the stand-in needs a C++ compiler (apt install g++)")
    for tool in ("compute-sanitizer", "ncu"):
        program(tmp_path / "tools" / tool, TOOL)
    path = f"{tmp_path / 'tools'}:{os.environ['PATH']}"
    ran = run(tmp_path, piece, "--fake", PATH=path, MINILLM_TEST_DATA=str(real_data), PIECE_SECONDS="3000")
    wrong = {name: ending for name, ending in outcomes(tmp_path).items() if ending != ("ok", 0)}
    assert not wrong, ran.stdout
    assert ran.returncode == 0


def attention_row(way, direction, width, time, tflops):
    return {"way": way, "direction": direction, "shape": {"B": 1, "H": 1, "T": time, "D": width}, "tflops": tflops}


def test_aims_beside_what_is_measured(tmp_path, monkeypatch, capsys):
    rows = [
        attention_row("tensor cores bf16", "forward", 128, 1024, 250.0),
        attention_row("tensor cores bf16", "backward", 64, 1024, 150.0),
        attention_row("flash", "forward", 64, 1024, 16.0),
        attention_row("torch cuda float32", "forward", 64, 1024, 10.0),
    ]
    step = {"preset": "gpt2", "batch_size": 16, "dtype": "bfloat16"}
    times = {
        "minillm": {"tokens_per_second": 300e3, "peak_megabytes": 7000},
        "torch": {"tokens_per_second": 250e3, "peak_megabytes": 9000},
        "torch.compile": {"tokens_per_second": 350e3, "peak_megabytes": 6000},
    }
    (tmp_path / "attention.json").write_text(json.dumps({"gpu": "NVIDIA H100 80GB HBM3", "rows": rows}))
    (tmp_path / "train_step_gpt2_bfloat16.json").write_text(json.dumps({**step, "results": times}))
    monkeypatch.setattr(sys, "argv", ["targets", str(tmp_path)])
    targets.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and lines[-1] == "4 of 7 reached"
    assert lines[1].endswith("250.0   >=      260.0 TFLOP/s   not reached")
    assert lines[2].endswith("150.0   >=      138.6 TFLOP/s   reached")
    assert lines[3].endswith("16.0   >=       15.0 TFLOP/s   reached")
    assert "torch.compile's x 0.9" in lines[6] and lines[6].endswith("315,000.0 tokens/s  not reached")
    assert lines[7].endswith("7,000.0   <=    6,000.0 MB        not reached")


def test_the_published_rates_are_for_one_card_alone():
    rows = [attention_row("tensor cores bf16", "forward", 128, 1024, 250.0)]
    assert list(targets.attention_aims({"gpu": "NVIDIA L4", "rows": rows})) == []
