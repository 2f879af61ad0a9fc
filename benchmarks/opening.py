"""python -m benchmarks.opening: how long one waits for a model to open, and for the first token of `minillm generate`.

    python -m benchmarks.opening                     7 rounds of fresh processes, in turns: about a minute
    python -m benchmarks.opening --gguf MODEL.gguf   a real file instead of one of SmolLM2-135M's shape and random weights

    numpy               a process that imports NumPy, and ends: no first token comes sooner
    version             `minillm --version`, and ends
    first_token         `minillm generate RUN` until the first text is there, of a run of the preset `default`
    gguf_model          `from_pretrained` of the file (540 MB in float32), in a process that has imported minillm
    gguf_tokenizer      `tokenizer_of` of the same file (49,152 tokens), after it

Files are in the system's cache, and modules are compiled: each process comes after one like it that is not counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import write_results

VOCABULARY, LONGEST_TOKEN = 49_152, 12  # bytes
OPEN = """
import sys, time
from minillm.pretrained import from_pretrained, tokenizer_of
started = time.perf_counter()
model = from_pretrained(sys.argv[1])
opened = time.perf_counter()
tokenizer_of(sys.argv[1])
print(opened - started, time.perf_counter() - opened)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="a file to open")
    parser.add_argument("--layers", type=int, default=30, help="of the model that is made: fewer for a quick try")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/opening.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder, "compiled"))
        run, gguf = Path(folder, "run"), arguments.gguf or Path(folder, "model.gguf")
        _train_a_step(run, environment)
        if not arguments.gguf:
            write_gguf(gguf, arguments.layers)
        rounds = [measure(run, gguf, environment) for _ in range(arguments.rounds + 1)][1:]
        megabytes = gguf.stat().st_size / 1e6
    results = {name: median(each[name] for each in rounds) for name in rounds[0]}
    for name, seconds in results.items():
        print(f"{name:<20} {1000 * seconds:7.0f} ms")
    if arguments.write:
        write_results("opening", {"rounds": len(rounds), "gguf_megabytes": round(megabytes), "median_seconds": results})


def measure(run: Path, gguf: Path, environment: dict) -> dict[str, float]:
    """Seconds of each case, in processes of their own."""
    minillm = [sys.executable, "-m", "minillm"]
    found = {
        "numpy": _seconds([sys.executable, "-c", "import numpy"], environment),
        "version": _seconds([*minillm, "--version"], environment),
        "first_token": _seconds([*minillm, "generate", run, "--max-tokens", "1", "--prompt", "The"], environment),
    }
    done = subprocess.run(
        [sys.executable, "-c", OPEN, gguf], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found["gguf_model"], found["gguf_tokenizer"] = map(float, done.stdout.split())
    return found


def _seconds(command: list, environment: dict) -> float:
    """From the start of a process until it writes its first byte to standard output, or ends."""
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(1)
        seconds = time.perf_counter() - started
        process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds


def _train_a_step(run: Path, environment: dict) -> None:
    command = [sys.executable, "-m", "minillm", "train", "--max-steps", "1", "--eval-windows", "1", "--out", run]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write_gguf(path: Path, layers: int) -> None:
    """A file of SmolLM2-135M's shape with random weights, and as many tokens."""
    import minillm

    shape = dict(n_head=9, n_kv_head=3, d_model=576, d_ff=1536, tie_embeddings=True, context_length=2048)
    config = minillm.LlamaConfig(vocab_size=VOCABULARY, n_layer=layers, **shape)
    minillm.export(minillm.Llama(config, seed=1), path, "f32", random_tokenizer(VOCABULARY))


def random_tokenizer(size: int):
    """Byte pairs of random merges."""
    import minillm

    rng, tokens, merges = np.random.default_rng(0), [bytes([byte]) for byte in range(256)], []
    known = set(tokens)
    while len(tokens) < size:
        a, b = map(int, rng.integers(len(tokens), size=2))
        token = tokens[a] + tokens[b]
        if token not in known and len(token) <= LONGEST_TOKEN:
            known.add(token)
            merges.append((a, b, len(tokens)))
            tokens.append(token)
    return minillm.BytePairTokenizer(tokens, merges, "smollm")


if __name__ == "__main__":
    main()
