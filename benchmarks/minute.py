"""python -m benchmarks.minute: what a model has learned after a minute, minillm beside nanoGPT's recipe in PyTorch.

    python -m benchmarks.minute                      every contestant, 60 seconds of training each: about 6 minutes
    python -m benchmarks.minute --seconds 10         the same in short
    python -m benchmarks.minute --seeds 1 2 3        three runs of each, in turns; the order is reversed for every second seed

All learn the default text (the language reference of this Python), cut into byte pairs by the tokenizer of minillm's preset
`default`, and are judged on the whole validation text, in windows of their own context: in nats a token, and in bits a byte.
A schedule has to end when the minute does. So the seconds of a step are measured first, and then a run is made of the steps
that fit: what it really took is written beside it. The minute is one of training steps alone. Not counted: opening (reading
the text, learning the tokenizer, making the model), evaluations, checkpoints, and the compilation of torch.compile, which is
written beside it, measured with an empty cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np

from benchmarks import common
from minillm.backend.random_streams import stream
from minillm.data import load_text, random_windows, split_text
from minillm.models.gpt2 import GPT2Config
from minillm.optim import make_schedule
from minillm.training import train
from minillm.training.evaluation import Evaluation, evaluate, evaluate_whole
from minillm.training.examples import TRAINING, VALIDATION
from minillm.training.from_preset import settings_from
from minillm.training.loop import Reporter
from minillm.training.run import start_run

PICTURE = Path(__file__).parent.parent / "docs" / "minute.png"
CALIBRATION_SECONDS = 4
NOT_COUNTED = 3  # steps at the beginning of a measurement
EVALUATIONS = 6  # along a run, for the learning curve
CURVE_WINDOWS = 100  # of the validation text, in each of them

NOW, FORMER = "minillm", "minillm, former default"
EAGER, COMPILED = "nanoGPT's recipe, PyTorch", "nanoGPT's recipe, torch.compile"

# The preset `default` up to November 2026, and the published settings of nanoGPT's run on a CPU (shakespeare-char-cpu).
FORMER_DEFAULT = dict(optimizer="adamw", lr=3e-3, min_lr=3e-4, warmup_steps=100, schedule="cosine", batch_size=16)
FORMER_DEFAULT |= dict(beta2=0.99, model_type="gpt2", n_layer=4, n_head=4, d_model=128, context_length=64, dropout=0.0)
FORMER_DEFAULT |= dict(weight_decay=0.1, bias=False)
NANOGPT = dict(n_layer=4, n_head=4, d_model=128, context_length=64, dropout=0.0, bias=False)
NANOGPT_BATCH, NANOGPT_SCHEDULE = 12, dict(name="cosine", lr=1e-3, min_lr=1e-4, warmup_steps=100)
NANOGPT_ADAMW = dict(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)


class Trained(NamedTuple):
    """seconds of all steps together; the last model's losses; (seconds, nats a token) along the way."""

    seconds: float
    evaluation: Evaluation
    bits_per_byte: float
    curve: list[tuple[float, float]]


# -------------------------------------------------------------------------------------------------------- contestants


class MinillmRecipe:
    """A run of `minillm train` with these options, of its own folder."""

    compiled = False
    compile_seconds = 0.0

    def __init__(self, given: dict):
        self.given = given

    def seconds_of_a_step(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            run = self._open(folder, seed=0, max_steps=100_000)
            reporter = self._times_of(run)
            self.opening_seconds = time.perf_counter() - started
            train(run, reporter, stop_after=NOT_COUNTED + 1)
            steps = math.ceil(CALIBRATION_SECONDS / reporter.seconds[-1])
            train(run, reporter, stop_after=NOT_COUNTED + 1 + steps)
        return mean(reporter.seconds[-steps:])

    def train(self, steps: int, seed: int) -> Trained:
        with tempfile.TemporaryDirectory() as folder:
            run = self._open(folder, seed, steps)
            reporter = self._times_of(run)
            train(run, reporter)
            last = evaluate_whole(run.model, run.examples, VALIDATION)
        return Trained(sum(reporter.seconds), last, last.bits_per_byte(predicted_bytes(run.tokenizer)), reporter.curve)

    def _times_of(self, run) -> StepTimes:
        return StepTimes(run.settings.batch_size * run.model.config.context_length)

    def _open(self, folder: str, seed: int, max_steps: int):
        more = dict(seed=seed, max_steps=max_steps, sample_tokens=0, eval_windows=CURVE_WINDOWS)
        more["eval_interval"] = max(1, max_steps // EVALUATIONS)
        settings, model, _ = settings_from({**self.given, **more})
        return start_run(settings, model, Path(folder) / "run")


class StepTimes(Reporter):
    """Keeps the seconds of each step, of so many tokens, and the validation losses by the seconds before them."""

    def __init__(self, tokens: int):
        self.tokens, self.seconds, self.curve = tokens, [], []

    def on_step(self, step, loss, lr, gradient_norm, tokens_per_second):
        self.seconds.append(self.tokens / tokens_per_second)

    def on_evaluation(self, step, train, validation, is_best):
        self.curve.append((sum(self.seconds), validation.loss))


class TorchRecipe:
    """nanoGPT's recipe in PyTorch: its model, batch, schedule, clipping and AdamW, on the same tokens."""

    def __init__(self, compiled: bool = False):
        self.compiled, self.compile_seconds = compiled, 0.0

    def seconds_of_a_step(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            run = MinillmRecipe({})._open(folder, seed=0, max_steps=1)  # the same text and tokenizer
            self.tokenizer, tokens = run.tokenizer, run.examples.tokens
            self.tokens = {part: np.array(ids) for part, ids in tokens.items()}
            trainer = self._trainer()
            self.opening_seconds = time.perf_counter() - started
        first = self._seconds_of(trainer, 0, 1)
        self._seconds_of(trainer, 1, NOT_COUNTED)
        second = self._seconds_of(trainer, 0, 1)
        self.compile_seconds = first - second if self.compiled else 0.0
        steps = math.ceil(CALIBRATION_SECONDS / second)
        return self._seconds_of(trainer, 0, steps) / steps

    def train(self, steps: int, seed: int) -> Trained:
        import torch

        torch.manual_seed(seed)
        trainer, schedule = self._trainer(), make_schedule(max_steps=steps, **NANOGPT_SCHEDULE)
        if self.compiled:
            self._compile_again(trainer)
        seconds, curve = 0.0, []
        for first in range(0, steps, max(1, steps // EVALUATIONS)):
            curve.append((seconds, self._evaluate(trainer, CURVE_WINDOWS).loss))
            last = min(steps, first + max(1, steps // EVALUATIONS))
            seconds += self._seconds_of(trainer, first, last - first, schedule, seed)
        evaluation = self._evaluate(trainer)
        curve.append((seconds, self._evaluate(trainer, CURVE_WINDOWS).loss))
        return Trained(seconds, evaluation, evaluation.bits_per_byte(predicted_bytes(self.tokenizer)), curve)

    def _trainer(self):
        from benchmarks.torch_gpt2 import TorchTrainer

        config = GPT2Config(**NANOGPT, vocab_size=self.tokenizer.vocab_size)
        return TorchTrainer(config, **NANOGPT_ADAMW, compiled=self.compiled)

    def _compile_again(self, trainer) -> None:
        """What a new trainer's compilation takes was measured before: its code is loaded from the cache, uncounted."""
        ids, targets = self._batch(0, 0)
        trainer._loss(*map(trainer._placed, (ids, targets))).backward()
        trainer.optimizer.zero_grad(set_to_none=True)

    def _batch(self, step: int, seed: int):
        size = NANOGPT_BATCH, NANOGPT["context_length"]
        return random_windows(self.tokens[TRAINING], *size, stream(seed, "batch", step))

    def _seconds_of(self, trainer, first: int, steps: int, schedule=lambda step: 0.0, seed: int = 0) -> float:
        """Take these steps."""
        started = time.perf_counter()
        for step in range(first, first + steps):
            for group in trainer.optimizer.param_groups:
                group["lr"] = schedule(step)
            trainer.step(*self._batch(step, seed))
        return time.perf_counter() - started

    def _evaluate(self, trainer, limit: int | None = None) -> Evaluation:
        import torch

        def loss(ids, targets) -> float:
            with torch.no_grad():
                return trainer.model.loss(torch.from_numpy(ids.copy()), torch.from_numpy(targets.copy())).item()

        return evaluate(loss, self.tokens[VALIDATION], 16, NANOGPT["context_length"], limit)


def predicted_bytes(tokenizer) -> int:
    """Bytes of the validation text behind its first token, which is not predicted."""
    text = split_text(load_text(["python-docs"]))[1]
    return len(text.encode()) - len(tokenizer.decode(tokenizer.encode(text)[:1]).encode())


# ----------------------------------------------------------------------------------------------------------- the minute


def contestants(peers: bool = True) -> dict:
    """Name -> recipe; those of PyTorch, if asked for, where it is installed, compiled where there is a compiler."""
    found = {NOW: MinillmRecipe({}), FORMER: MinillmRecipe(FORMER_DEFAULT)}
    if not peers:
        return found
    if importlib.util.find_spec("torch") is None:
        print('PyTorch is not installed: pip install "minillm[bench]" brings the comparison')
        return found
    found[EAGER] = TorchRecipe()
    if shutil.which("g++"):
        found[COMPILED] = TorchRecipe(compiled=True)
    return found


def measure(recipe, seconds: float, seed: int) -> dict:
    """Train a recipe for so many seconds; the figures of a row."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # empty: the first compilation is paid as a new user pays it
        if recipe.compiled:
            importlib.import_module("torch._dynamo").reset()
        step = recipe.seconds_of_a_step()
        steps = max(1, int(seconds / step))
        trained = recipe.train(steps, seed)
    return {
        "seed": seed,
        "nats_per_token": trained.evaluation.loss,
        "bits_per_byte": trained.bits_per_byte,
        "steps": steps,
        "milliseconds_per_step": trained.seconds / steps * 1e3,
        "training_seconds": trained.seconds,
        "compile_seconds": recipe.compile_seconds,
        "opening_seconds": recipe.opening_seconds,
        "curve_of_seconds_and_nats": trained.curve,
    }


def draw(rows: dict[str, list[dict]], path: Path) -> None:
    """The learning curves of the first seed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('no picture: pip install "minillm[plots]" brings matplotlib')
        return
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    for name, runs in rows.items():
        axes.plot(*zip(*runs[0]["curve_of_seconds_and_nats"]), label=f"{name}: {runs[0]['nats_per_token']:.2f}")
    axes.set(xlabel="seconds of training, two cores", ylabel="validation loss, nats a token")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337])
    parser.add_argument("--without-peers", action="store_true", help="leave PyTorch out")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/minute.json and docs/minute.png")
    options = parser.parse_args()
    recipes = contestants(not options.without_peers)
    rows = {name: [] for name in recipes}
    print(
        f"{'after ' + format(options.seconds, 'g') + ' seconds':<50} {'nats/token':>10} {'bits/byte':>9} {'steps':>6} ms a step"
    )
    for turn, seed in enumerate(options.seeds):
        for name in list(recipes)[:: -1 if turn % 2 else 1]:
            row = measure(recipes[name], options.seconds, seed)
            rows[name].append(row)
            print(
                f"{name:<50} {row['nats_per_token']:>10.3f} {row['bits_per_byte']:>9.3f} {row['steps']:>6,} "
                f"{row['milliseconds_per_step']:.1f}, trained {row['training_seconds']:.1f} s, compiled "
                f"{row['compile_seconds']:.1f} s, opened {row['opening_seconds']:.1f} s",
                flush=True,
            )
    if options.write:
        common.write_results("minute", {"seconds": options.seconds, "contestants": rows})
        draw(rows, PICTURE)


if __name__ == "__main__":
    main()
