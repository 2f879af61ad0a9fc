"""python -m benchmarks.generate: how fast a model reads a prompt (prefill) and writes (decode), beside transformers.

GPT-2 124M and the shape of SmolLM2-135M in float32, with random weights, one text at a time. Completion a token reads every
weight once, so no program can write faster than

    bound = memory bandwidth / bytes of the weights

with the bandwidth that this machine shows when all cores read one large array. The contestants and this measurement take
turns, so that all see the same machine. The time to the first token is that of a new process: start, import, opening the
folder (whose files are in the system's cache), reading a prompt of 16 tokens.
"""

from __future__ import annotations

import argparse
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
from minillm.backend.threads import cores
from minillm.generation.decoder import Decoder
from minillm.models.presets import find_preset

VOCABULARY = {"gpt2": 50257, "smollm2-135m": 49152}
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
    parser.add_argument("--prompt", type=int, default=256, help="tokens that are read")
    parser.add_argument("--tokens", type=int, default=48, help="tokens that are written in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/generate.json")
    arguments = parser.parse_args()

    results = {}
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = compare(name, Path(folder), arguments)
    if arguments.write:
        common.write_results("generate", {"prompt_tokens": arguments.prompt, "models": results})


def compare(name: str, folder: Path, arguments) -> dict:
    """All contestants on one model; prints and returns their figures."""
    random_model(name).save_pretrained(folder)
    model = minillm.from_pretrained(folder)
    weight_bytes = bytes_read_for_a_token(model)
    contestants = {"minillm": Minillm(model)}
    if not arguments.without_peers:
        try:
            contestants["transformers"] = Transformers(folder)
        except ImportError:
            print('transformers is not installed: pip install "minillm[test-peers]" brings the comparison')
    prompt = np.random.default_rng(0).integers(0, VOCABULARY[name], (1, arguments.prompt))
    rounds, speeds, measure_bandwidth = {who: [] for who in contestants}, [], Bandwidth()
    for turn in range(arguments.rounds + 1):
        speeds.append(measure_bandwidth())
        for who, contestant in contestants.items():
            figures = time_round(contestant, prompt, arguments.tokens)
            if turn:  # the first one warms up
                rounds[who].append(figures)
    bandwidth = median(speeds)
    bound = bandwidth / weight_bytes
    print(f"{name}: {weight_bytes / 1e6:.0f} MB of weights, {bandwidth / 1e9:.1f} GB/s: at most {bound:.1f} tokens/s")
    rows = {}
    for who, figures in rounds.items():
        prefill, step = (median(column) for column in zip(*figures))
        first = median(time_to_first_token(FIRST_TOKEN[who], folder) for _ in range(3))
        rows[who] = {
            "prefill_tokens_per_second": arguments.prompt / prefill,
            "decode_tokens_per_second": 1 / step,
            "share_of_bound": 1 / step / bound,
            "seconds_to_first_token": first,
        }
        print(
            f"  {who:<13} prefill {arguments.prompt / prefill:8.0f} tokens/s  decode {1 / step:6.1f} tokens/s  "
            f"{1 / step / bound:4.0%} of the bound  first token after {first:.2f} s"
        )
    return {"weight_megabytes": weight_bytes / 1e6, "bandwidth_gigabytes_per_second": bandwidth / 1e9, **rows}


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


class Minillm:
    """Greedy decoding with minillm."""

    def __init__(self, model):
        self.model = model

    def read(self, prompt):
        self.decoder = Decoder(self.model)
        return self.decoder.read(prompt).argmax(axis=-1)

    def step(self, token):
        return self.decoder.read(token[:, None]).argmax(axis=-1)


class Transformers:
    """Greedy decoding with transformers: its model and its cache, without the bookkeeping of its generate()."""

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(cores())
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def read(self, prompt):
        self.cache = None
        return self._forward(self.torch.from_numpy(prompt))

    def step(self, token):
        return self._forward(token)

    def _forward(self, ids):
        with self.torch.inference_mode():
            output = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.cache = output.past_key_values
            return output.logits[:, -1].argmax(dim=-1, keepdim=True)


def time_to_first_token(program: str, folder: Path) -> float:
    """Seconds from starting a Python process to the id that it prints."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
