"""python -m benchmarks.generate_gpu: how fast a model on a GPU reads a prompt and writes, beside transformers.

GPT-2 124M and the shape of SmolLM2-135M with random weights, one text at a time, in float32 and bfloat16. Each token reads
every weight once: no program can write faster than the memory's bandwidth / the bytes of the weights. The times are the host's,
from the first token asked for to the last one that has arrived. All take turns in every round.
"""

from __future__ import annotations

import argparse
import importlib
import time
from statistics import median

import numpy as np

import minillm
from benchmarks import common
from benchmarks.kernel import device_bandwidth
from minillm.models.architectures import architecture_of, config_from_dict, make_model
from minillm.models.presets import find_preset

MODELS = {"gpt2": 50257, "smollm2-135m": 49152}  # preset -> vocabulary
PRECISIONS = ("float32", "bfloat16")
BYTES = {"float32": 4, "bfloat16": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=256, help="tokens that are read")
    parser.add_argument("--tokens", type=int, default=128, help="tokens that are written in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a small model and few tokens, to try the command")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/generate_gpu.json")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.prompt, arguments.tokens, arguments.rounds = 4, 4, 1
    print(f"{'model':<14} {'':<9} {'way':<14} {'first token ms':>15} {'tokens/s':>10} {'of the bound':>13}")
    rows = []
    for preset in ["simulator"] if arguments.small else MODELS:
        for precision in PRECISIONS:
            rows += measure(preset, precision, arguments)
    if arguments.write:
        shape = {"prompt": arguments.prompt, "tokens": arguments.tokens}
        common.write_results("generate_gpu", {**shape, "rows": rows})


def measure(preset: str, precision: str, arguments) -> list[dict]:
    """The rows of a model in a precision, which are printed, too."""
    kind, shape = find_preset(preset).architecture, find_preset(preset).model
    config = config_from_dict({"model_type": kind, **shape, "vocab_size": MODELS.get(preset, 64)})
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, arguments.prompt))
    ways = {"minillm": Minillm(config, precision)}
    if not arguments.without_peers and (peer := transformers_model(config, precision)):
        ways["transformers"] = peer
    taken = {name: [] for name in ways}
    for turn in range(arguments.rounds + 1):
        for name, way in ways.items():
            both = way.write(ids, 1), way.write(ids, arguments.tokens)
            if turn:  # the first round compiles and fills pools
                taken[name].append(both)
    return [
        row(preset, precision, name, times, ways["minillm"].weights, arguments.tokens) for name, times in taken.items()
    ]


def row(preset, precision, name, times, weights, tokens) -> dict:
    first, whole = (median(part) for part in zip(*times))
    rate, bandwidth = (tokens - 1) / max(whole - first, 1e-9), device_bandwidth()
    share = rate * weights * BYTES[precision] / (bandwidth * 1e9) if bandwidth else None
    print(
        f"{preset:<14} {precision:<9} {name:<14} {1e3 * first:>15.2f} {rate:>10.0f} {f'{share:.0%}' if share else 'n/a':>13}",
        flush=True,
    )
    found = {"first_token_ms": 1e3 * first, "tokens_per_second": rate, "share_of_bound": share}
    return {"model": preset, "dtype": precision, "way": name, **found}


class Minillm:
    """minillm.generate, greedy."""

    def __init__(self, config, precision):
        self.model = make_model(config, 0, precision).to("cuda")
        self.weights = sum(parameter.value.size for parameter in self.model.parameters().values())

    def write(self, ids, tokens: int) -> float:
        """Seconds for so many tokens after the prompt."""
        started = time.perf_counter()
        for _ in minillm.generate(self.model, ids, max_new_tokens=tokens, sampler=minillm.Sampler(temperature=0)):
            pass
        return time.perf_counter() - started


class Transformers:
    """generate of transformers with its cache, greedy."""

    def __init__(self, torch, model):
        self.torch, self.model = torch, model

    def write(self, ids, tokens: int) -> float:
        started = time.perf_counter()
        with self.torch.inference_mode():
            given = self.torch.from_numpy(ids).to("cuda")
            limits = dict(max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0)
            self.model.generate(given, attention_mask=self.torch.ones_like(given), do_sample=False, **limits)
            self.torch.cuda.synchronize()
        return time.perf_counter() - started


def transformers_model(config, precision) -> Transformers | None:
    """A model of the shape with random weights; None where PyTorch has no GPU, or transformers is not there."""
    try:
        torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    except ImportError as error:
        print(f"transformers is left out: {error}")
        return None
    if not torch.cuda.is_available():
        print("transformers is left out: this build of PyTorch knows no GPU")
        return None
    theirs = transformers.AutoConfig.for_model(**architecture_of(config).config_to_hugging_face(config))
    model = transformers.AutoModelForCausalLM.from_config(theirs)
    return Transformers(torch, model.to("cuda", getattr(torch, precision)).eval())


if __name__ == "__main__":
    main()
