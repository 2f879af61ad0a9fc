"""python -m benchmarks.generate: how fast a model reads and writes, beside transformers and llama.cpp.

A prompt is read (prefill), then tokens are written (decode): GPT-2 124M and the shape of SmolLM2-135M in float32, with random
weights (speed does not depend on their values), one text, batches of 8 and 64 texts, and a context of 4,096 tokens where the
model has one. llama.cpp reads the F32 file that `export` writes, and takes part with one text. A token of one text reads
every weight once, so no program can write faster than

    bound = memory bandwidth / bytes of the weights

with the bandwidth that this machine shows when all cores read one large array. The contestants and this measurement take
turns, so that all see the same machine. `--cases` and names of models choose portions, and
`--write` then replaces their rows alone. The time to the first token is that of a new process: start, import, opening the
folder (whose files are in the system's cache), reading a prompt of 16 tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

import minillm
from benchmarks import common
from benchmarks.writers import Minillm, contestants
from minillm.backend.threads import cores
from minillm.models.presets import find_preset

VOCABULARY = {"gpt2": 50257, "smollm2-135m": 49152}
ROUNDS = {"1x128": 7, "8x128": 3, "64x32": 3, "1x4096": 2}  # of each case, TEXTSxPROMPT
FIRST_TOKEN_CASE = (1, 128)
NAMES = ("model", "writer", "texts", "prompt_tokens")  # of a row
FIRST_TOKEN = {
    "minillm": """
import sys, numpy as np, minillm
from minillm.generation.decoder import Decoder
print(Decoder(minillm.from_pretrained(sys.argv[1])).read(np.arange(16)[None]).argmax())
""",
    "transformers": """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with torch.inference_mode():
    print(model(torch.arange(16)[None], use_cache=True, logits_to_keep=1).logits.argmax())
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(VOCABULARY), help=f"of {', '.join(VOCABULARY)}")
    parser.add_argument("--cases", nargs="+", default=None, help="TEXTSxPROMPT, as 8x128; by default all below")
    parser.add_argument("--prompt", type=int, help="one text with so many tokens, in place of --cases")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that are written in a round")
    parser.add_argument("--rounds", type=int, help="by default more of the short ones")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument(
        "--write", action="store_true", help="write benchmarks/results/generate.json, or these cases of it"
    )
    arguments = parser.parse_args()

    cases = [f"1x{arguments.prompt}"] if arguments.prompt else arguments.cases or list(ROUNDS)
    rows = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            random_model(name).save_pretrained(folder)
            model = minillm.from_pretrained(folder)
            for case in cases:
                texts, prompt = map(int, case.split("x"))
                if prompt + arguments.tokens > model.config.context_length:
                    print(f"{name} {case}: no, its context is {model.config.context_length} tokens")
                    continue
                rounds = arguments.rounds or ROUNDS.get(case, 3)
                rows += compare(name, model, Path(folder), texts, prompt, rounds, arguments)
    if arguments.write:
        write(rows)


def compare(name: str, model, folder: Path, texts: int, prompt: int, rounds: int, arguments) -> list[dict]:
    """All contestants on one model and one case; prints and returns their figures."""
    writers = {"minillm": Minillm(model)}
    if not arguments.without_peers:
        writers = contestants(model, folder, texts, prompt + arguments.tokens)
    ids = np.random.default_rng(0).integers(0, VOCABULARY[name], (texts, prompt))
    for writer in writers.values():
        time_round(writer, ids[:, :8], 2)  # warms up
    figures, speeds, measure_bandwidth = {who: [] for who in writers}, [], Bandwidth()
    for _ in range(rounds):
        speeds.append(measure_bandwidth())
        for who, writer in writers.items():
            figures[who].append(time_round(writer, ids, arguments.tokens))
    weight_bytes, bandwidth = bytes_read_for_a_token(model), median(speeds)
    bound = bandwidth / weight_bytes
    print(
        f"{name} {texts}x{prompt}: {weight_bytes / 1e6:.0f} MB of weights, {bandwidth / 1e9:.1f} GB/s: "
        f"at most {bound:.1f} steps/s"
    )
    rows = []
    for who, each in figures.items():
        prefill, step = (median(column) for column in zip(*each))
        row = {
            "model": name,
            "writer": who,
            "texts": texts,
            "prompt_tokens": prompt,
            "weight_megabytes": weight_bytes / 1e6,
            "bandwidth_gigabytes_per_second": bandwidth / 1e9,
            "prefill_tokens_per_second": texts * prompt / prefill,
            "decode_tokens_per_second": texts / step,
            "share_of_bound": 1 / step / bound,
        }
        shown = f"  {who:<13} prefill {texts * prompt / prefill:8.0f} tokens/s  decode {texts / step:7.1f} tokens/s"
        if texts == 1:
            shown += f"  {1 / step / bound:4.0%} of the bound"
        if (texts, prompt) == FIRST_TOKEN_CASE and who in FIRST_TOKEN:
            first = median(time_to_first_token(FIRST_TOKEN[who], folder) for _ in range(3))
            row["seconds_to_first_token"] = first
            shown += f"  first token after {first:.2f} s"
        print(shown, flush=True)
        rows.append(row)
    return rows


def write(rows: list[dict]) -> None:
    """results/generate.json with these rows in place of those of the same model, writer and case.

    "cases" has all rows; "models" those of one text with a short prompt, by model and writer.
    """

    def case_of(row):
        return row["model"], row["texts"], row["prompt_tokens"], row["writer"]

    path = common.RESULTS / "generate.json"
    before = json.loads(path.read_text()).get("cases", []) if path.exists() else []
    kept = {case_of(row): row for row in before + rows}
    models = {}
    for (name, texts, prompt, who), row in kept.items():
        if (texts, prompt) == FIRST_TOKEN_CASE:
            shared = {key: row[key] for key in ("weight_megabytes", "bandwidth_gigabytes_per_second")}
            measured = {key: value for key, value in row.items() if key not in NAMES and key not in shared}
            models.setdefault(name, shared)[who] = measured
    common.write_results(
        "generate",
        {"weights": "random", "prompt_tokens": FIRST_TOKEN_CASE[1], "models": models, "cases": list(kept.values())},
    )


def random_model(name: str):
    """The preset's model with normal weights: what is computed does not depend on them."""
    preset, generator = find_preset(name), np.random.default_rng(0)
    kinds = {"gpt2": (minillm.GPT2, minillm.GPT2Config), "llama": (minillm.Llama, minillm.LlamaConfig)}
    model_class, config_class = kinds[preset.architecture]
    model = model_class(config_class(**preset.model, vocab_size=VOCABULARY[name]), seed=None)
    for parameter in model.parameters().values():
        parameter.value = 0.02 * generator.standard_normal(parameter.value.shape, dtype=np.float32)
    return model


def bytes_read_for_a_token(model) -> int:
    """The weights without the tables of which a token reads one row: positions, and embeddings that are no output head."""
    tables = {"transformer.wpe.weight"}
    if not model.config.tie_embeddings:
        tables |= {"transformer.wte.weight", "model.embed_tokens.weight"}
    return sum(parameter.value.nbytes for name, parameter in model.parameters().items() if name not in tables)


class Bandwidth:
    """Bytes a second at which all cores together read a large array: the best of plain sums and two matrix products."""

    def __init__(self, megabytes: int = 512):
        self.tall = np.ones((megabytes * 256, 1024), np.float32)
        self.wide = self.tall.reshape(1024, -1)
        self.parts = np.array_split(self.tall, cores())
        self.row, self.column = np.ones(1024, np.float32), np.ones(1024, np.float32)

    def __call__(self) -> float:
        with ThreadPoolExecutor(len(self.parts)) as pool:
            ways = (
                lambda: list(pool.map(np.sum, self.parts)),
                lambda: self.tall @ self.row,
                lambda: self.column @ self.wide,
            )
            return self.tall.nbytes / min(common.median_seconds(way, repeats=3) for way in ways)


def time_round(contestant, prompt, tokens: int) -> tuple[float, float]:
    """(seconds for the prompt, median seconds of a step)"""
    started = time.perf_counter()
    token = contestant.read(prompt)
    prefill = time.perf_counter() - started
    times = []
    for _ in range(tokens):
        started = time.perf_counter()
        token = contestant.step(token)
        times.append(time.perf_counter() - started)
    return prefill, median(times)


def time_to_first_token(program: str, folder: Path) -> float:
    """Seconds from starting a Python process to the id that it prints."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
