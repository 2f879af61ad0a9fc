"""python -m benchmarks.muon: Muon beside AdamW on the default text, the time of a step; with --train
the loss.

The time of a step: one run with each optimizer in one process, steps alternating. The loss: AdamW
with the settings and the GPT-2 that the default preset once had, and Muon with a share of its steps
(the schedule ends with them), each with several seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.common import write_results
from benchmarks.minute import FORMER_DEFAULT
from minillm.backend.threads import default_workers
from minillm.training import train
from minillm.training.data_parallel import DataParallel
from minillm.training.from_preset import settings_from
from minillm.training.loop import Reporter
from minillm.training.prefetch import BatchPrefetcher
from minillm.training.run import start_run
from minillm.training.step import train_step

ADAMW = {**FORMER_DEFAULT, "max_steps": 1200}
MUON = {**ADAMW, "optimizer": "muon", "lr": 0.02, "min_lr": 0.002, "adamw_lr": 3e-3}


class LastLoss(Reporter):
    """Keeps the validation losses, by step."""

    def __init__(self):
        self.losses = {}

    def on_evaluation(self, step, train, validation, is_best):
        self.losses[step] = validation.loss


def open_run(folder: Path, given: dict):
    """A new run on the default text."""
    settings, fields, _ = settings_from({**given, "sample_tokens": 0})
    return start_run(settings, fields, folder)


def final_loss(given: dict) -> dict:
    """Validation losses of a whole run, by step."""
    with tempfile.TemporaryDirectory() as folder:
        run, reporter = open_run(Path(folder) / "run", given), LastLoss()
        train(run, reporter)
    return reporter.losses


def compare_losses(seeds: int, share: float) -> dict:
    """The last validation loss of AdamW, and of Muon after `share` of its steps, for each seed."""
    steps = ADAMW["max_steps"]
    found = {"steps": {"adamw": steps, "muon": round(steps * share)}, "muon": MUON, "losses": []}
    for seed in range(1, seeds + 1):
        adamw = final_loss({**ADAMW, "seed": seed})[steps]
        muon = final_loss({"seed": seed, **MUON, "max_steps": round(steps * share)})[round(steps * share)]
        found["losses"].append({"seed": seed, "adamw": adamw, "muon": muon})
        print(f"seed {seed}: AdamW {adamw:.4f} after {steps} steps, Muon {muon:.4f} after {round(steps * share)}")
    found["median"] = {name: median(each[name] for each in found["losses"]) for name in ("adamw", "muon")}
    print("median: AdamW {adamw:.4f}, Muon {muon:.4f}".format(**found["median"]))
    return found


def compare_steps(steps: int) -> dict:
    """Seconds of a step with each optimizer, in turns: by the clock, and of all cores together."""
    times = {"adamw": [], "muon": []}
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: open_run(Path(folder) / name, MUON if name == "muon" else ADAMW) for name in times}
        for step in range(steps + 2):
            for name, run in runs.items():
                workers = default_workers(run.settings.batch_size, run.model.config.context_length, "cpu")
                with DataParallel(run.model, workers) as parallel, BatchPrefetcher(run, ahead=False) as batches:
                    train_step(run, parallel, batches, 1e-3)
                    clock, cores = time.perf_counter(), time.process_time()
                    train_step(run, parallel, batches, 1e-3)
                    if step >= 2:
                        times[name].append((time.perf_counter() - clock, time.process_time() - cores))
    found = {"steps": steps}
    for index, what in enumerate(("clock", "cores")):
        seconds = {name: median(each[index] for each in measured) for name, measured in times.items()}
        ratio = median(muon[index] / adamw[index] for adamw, muon in zip(times["adamw"], times["muon"]))
        found[what] = {**seconds, "ratio": ratio}
        print(f"{what}: AdamW {seconds['adamw'] * 1e3:.1f} ms, Muon {seconds['muon'] * 1e3:.1f} ms, ratio {ratio:.2f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="compare the losses (six runs of a minute)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.75, help="Muon's steps as a share of AdamW's")
    parser.add_argument("--steps", type=int, default=60, help="steps that are timed")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/muon_steps.json or _losses")
    options = parser.parse_args()
    name = "muon_losses" if options.train else "muon_steps"
    found = compare_losses(options.seeds, options.share) if options.train else compare_steps(options.steps)
    if options.write:
        write_results(name, found)


if __name__ == "__main__":
    main()
