"""python -m benchmarks.packing: a training step on packed conversations beside the same ones padded, one a row.

    python -m benchmarks.packing                                                   a small Llama on the CPU
    python -m benchmarks.packing --device cuda --dtype bfloat16 --d-model 768      on a GPU; also float32, tf32

The conversations have lengths drawn from a log-normal distribution, as chat data has: most are short, a few fill the context.
Packed: a conversation goes into the first row in which it fits, and `starts` keeps the rows' conversations apart. Padded: a row
each, in batches of as many rows, filled up to the longest of the batch, and the padding is not counted in the loss. Both train
on the same tokens; the loss and its gradients are the same sums.

Printed, of each: rows, tokens computed, the share of them that is of a conversation, seconds for all conversations (median),
tokens of conversations a second, and how many times as fast the packed rows are.
"""

from __future__ import annotations

import argparse

import numpy as np

import minillm
from benchmarks import common
from minillm.backend.arrays import to_device, to_host
from minillm.backend.threads import default_workers
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.layers.documents import packed_starts
from minillm.training.data_parallel import DataParallel


def main() -> None:
    arguments = parse_arguments()
    rng = np.random.default_rng(0)
    drawn = np.exp(rng.normal(np.log(arguments.context_length / 6), 0.7, arguments.conversations))
    lengths = np.clip(drawn.astype(int), 2, arguments.context_length)
    texts = [rng.integers(0, arguments.vocab_size, length + 1) for length in lengths]
    config = minillm.LlamaConfig(
        vocab_size=arguments.vocab_size,
        context_length=arguments.context_length,
        n_layer=arguments.n_layer,
        n_head=arguments.d_model // 64,
        d_model=arguments.d_model,
    )
    model = minillm.Llama(config, seed=0, dtype=arguments.dtype).to(arguments.device).train()
    workers = default_workers(arguments.batch_size, arguments.context_length, arguments.device)
    rows = {
        "padded": batches_of([[text] for text in texts], arguments.batch_size, None),
        "packed": batches_of(
            first_fit(texts, arguments.context_length), arguments.batch_size, arguments.context_length
        ),
    }
    print(f"{arguments.device}, {common.processor()}, {workers} workers: {model.precision}, {len(texts)} conversations")
    print(f"{'':8}{'rows':>6}{'tokens':>10}{'used':>7}{'seconds':>10}{'tokens/s':>12}")
    results = {}
    with DataParallel(model, workers) as parallel:
        for name, batches in rows.items():
            seconds = common.median_seconds(lambda batches=batches: train(parallel, batches), arguments.repeats)
            computed = sum(ids.size for ids, _, _ in batches)
            used, count = int(lengths.sum()), sum(len(ids) for ids, _, _ in batches)
            rate = used / seconds
            print(f"{name:8}{count:6}{computed:10,}{used / computed:7.0%}{seconds:10.3f}{rate:12,.0f}")
            results[name] = {"rows": count, "tokens": computed, "used": used / computed, "seconds": seconds}
            results[name]["tokens_per_second"] = rate
    times = results["padded"]["seconds"] / results["packed"]["seconds"]
    print(f"packed rows are {times:.2f} times as fast")
    if arguments.write:
        common.write_results("packing", {"conversations": len(texts), "rows": results, "times_as_fast": times})


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda", "cudasim"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "tf32", "bfloat16"), default="float32")
    parser.add_argument("--conversations", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=8, help="rows in a batch")
    parser.add_argument("--context-length", type=int, default=512)
    parser.add_argument("--d-model", type=int, default=128, help="a multiple of 64, the width of a head")
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/packing.json")
    return parser.parse_args()


def first_fit(texts: list, context_length: int) -> list[list]:
    """The texts of each row: a text goes into the first row that has room for it, the longest first."""
    rows, room = [], []
    for text in sorted(texts, key=len, reverse=True):
        length = len(text) - 1
        place = next((row for row, left in enumerate(room) if left >= length), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(context_length)
        rows[place].append(text)
        room[place] -= length
    return rows


def batches_of(rows: list[list], batch_size: int, time: int | None) -> list[tuple]:
    """(ids, targets, starts) of each batch. time: tokens of a row; None: those of the longest, a text a row, no starts."""
    batches = []
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        width = time or max(len(text) - 1 for row in part for text in row)
        ids, targets = np.zeros((len(part), width), int), np.full((len(part), width), IGNORE_INDEX)
        for place, row in enumerate(part):
            at = 0
            for text in row:
                last = at + len(text) - 1
                ids[place, at:last], targets[place, at:last] = text[:-1], text[1:]
                at = last
        starts = np.stack([packed_starts([len(text) - 1 for text in row], width) for row in part]) if time else None
        batches.append((ids, targets, starts))
    return batches


def train(parallel: DataParallel, batches: list[tuple]) -> None:
    """Loss and gradients of all batches; waits for the device."""
    for ids, targets, starts in batches:
        loss = parallel.loss_and_gradients(ids, targets, starts=starts)
        parallel.model.zero_grad()
    float(to_host(to_device(loss, "cpu")))


if __name__ == "__main__":
    main()
