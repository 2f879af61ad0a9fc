"""Imports run one way, and in no circle: the contract of the house.

import-linter checks the order of the rooms. grimp, which it is built on, gives the graph in which circles are looked for.
Imports inside functions count as well: one that hides a circle is still one.
"""

import json
import os
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (  # the upper ones may import the lower ones; rooms beside each other are listed together
    "cli",
    "web",
    "lessons",
    "training | inspection",
    "profiling | checks | pretrained",
    "distributed",
    "generation",
    "sampler | data | tokenizers | optim | models",
    "layers",
    "kernels",
    "backend | files",
    "errors | version",
)
AT_THE_ROOT = {"__init__", "__main__", "errors", "version"}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The package as it is installed, with `kernels` inside: a folder for sys.path."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "minillm", folder / "minillm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernels", folder / "minillm" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def lint(folder):
    """What import-linter says of the package in `folder`: its exit code, and its report."""
    layers = "\n    ".join(f"minillm.{line.replace(' | ', ' : minillm.')}" for line in ROOMS)
    settings = f"""
[importlinter]
root_package = minillm

[importlinter:contract:rooms]
name = imports run one way
type = layers
layers =
    {layers}
"""
    (folder / "contract.ini").write_text(settings)
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    command += ["--config", "contract.ini", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def imports_of(folder) -> dict[str, set[str]]:
    """Module -> the modules of minillm that it imports."""
    program = (
        "import grimp, json; graph = grimp.build_graph('minillm', cache_dir=None); "
        "print(json.dumps({m: sorted(graph.find_modules_directly_imported_by(m)) for m in graph.modules}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return {module: set(imported) for module, imported in json.loads(done.stdout).items()}


def circle(imports: dict[str, set[str]]) -> str:
    """The modules of a circle in the order in which they import each other; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def test_imports_run_one_way(house):
    code, report = lint(house)
    assert code == 0, report


def test_there_is_no_circle(house):
    assert circle(imports_of(house)) == ""


def test_every_room_is_in_the_contract():
    rooms = {path.parent.name for path in (ROOT / "minillm").glob("*/__init__.py")} | {"kernels"}
    loose = {path.stem for path in (ROOT / "minillm").glob("*.py")}
    assert rooms | (loose - {"__init__", "__main__"}) == set(" | ".join(ROOMS).split(" | "))
    assert loose == AT_THE_ROOT


def test_the_contract_bites(house, tmp_path):
    """An import upward is named by both of its ends, though it is inside a function; so is a circle."""
    shutil.copytree(house / "minillm", tmp_path / "minillm")
    with (tmp_path / "minillm" / "layers" / "gelu.py").open("a") as file:
        file.write("\n\ndef planted():\n    from minillm.training.loop import train\n\n    return train\n")
    code, report = lint(tmp_path)
    assert code == 1 and "minillm.layers.gelu -> minillm.training.loop" in report
    found = circle(imports_of(tmp_path))
    assert "minillm.layers.gelu -> minillm.training.loop" in found or "minillm.training.loop" in found
