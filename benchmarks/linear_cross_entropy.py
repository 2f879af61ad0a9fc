"""python -m benchmarks.linear_cross_entropy: memory and time of the head and its loss, fused and unfused.

For x (4096, 768) and a vocabulary of 50,257, loss and gradients are computed in three ways, each in a process of its own:

    fused       linear_cross_entropy, in chunks of rows
    in place    linear, then cross_entropy, which writes its gradient over the logits
    textbook    linear, then softmax, logarithm, mean and gradient as arrays of their own

Counted is the peak of the memory that the operation allocates (NumPy reports it to tracemalloc), beyond x, the weight and
the buffer of the weight's gradient, which all three are given. The peak of the whole process is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import tracemalloc

import numpy as np

from minillm.checks.cases import LINEAR_CROSS_ENTROPY, at
from minillm.layers.cross_entropy import cross_entropy_forward
from minillm.layers.linear import linear_backward, linear_forward
from minillm.layers.linear_cross_entropy import linear_cross_entropy_forward


def fused(x, weight, targets, dweight):
    loss, (dx, _) = linear_cross_entropy_forward(x, weight, targets, dweight=dweight)
    return loss, dx


def in_place(x, weight, targets, dweight):
    logits, saved = linear_forward(x, weight, transposed=True)
    loss, dlogits = cross_entropy_forward(logits, targets)
    del logits
    dx, gradient, _ = linear_backward(dlogits, saved)
    dweight += gradient
    return loss, dx


def textbook(x, weight, targets, dweight):
    logits, saved = linear_forward(x, weight, transposed=True)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    rows = np.arange(len(targets))
    loss = -log_p[rows, targets].mean(dtype=np.float64)
    dlogits = np.exp(log_p)
    dlogits[rows, targets] -= 1
    dlogits /= len(targets)
    dx, gradient, _ = linear_backward(dlogits, saved)
    dweight += gradient
    return loss, dx


ROWS, WIDTH, VOCABULARY = LINEAR_CROSS_ENTROPY.benchmark[0].size
WAYS = {"fused": fused, "in place": in_place, "textbook": textbook}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--vocab-size", type=int, default=VOCABULARY)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/linear_cross_entropy.json")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # what the processes below are started with
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    own = [
        f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in ("rows", "width", "vocab_size", "repeats")
    ]
    results = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.linear_cross_entropy", *own, "--way", way]
        results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"x ({arguments.rows}, {arguments.width}), vocabulary {arguments.vocab_size}, float32")
    print(f"{'':<10} {'peak of the operation':>22} {'peak of the process':>20} {'seconds':>8} {'loss':>9}")
    for way, row in results.items():
        print(
            f"{way:<10} {row['peak_mb']:>19.0f} MB {row['process_mb']:>17.0f} MB {row['seconds']:>8.2f} {row['loss']:>9.5f}"
        )
    ratios = {way: results[way]["peak_mb"] / results["fused"]["peak_mb"] for way in ("in place", "textbook")}
    print(
        f"the fused way peaks {ratios['in place']:.1f} times below in place, {ratios['textbook']:.1f} below the textbook"
    )
    if arguments.write:
        from benchmarks import common

        common.write_results("linear_cross_entropy", {"results": results, "peak_ratio": ratios})


def measure(arguments) -> dict:
    """Peak memory and the median time of one way, in this process."""
    sizes = arguments.rows, arguments.width, arguments.vocab_size
    a = LINEAR_CROSS_ENTROPY.make(at(*sizes, **dict(LINEAR_CROSS_ENTROPY.benchmark[0].settings)))
    x, weight, targets = a.x, a.weight, a.targets
    dweight = np.zeros_like(weight)
    way = WAYS[arguments.way]
    tracemalloc.start()
    loss, _ = way(x, weight, targets, dweight)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    times = []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        way(x, weight, targets, dweight)
        times.append(time.perf_counter() - started)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {
        "peak_mb": peak / 1e6,
        "process_mb": process,
        "seconds": sorted(times)[len(times) // 2],
        "loss": float(loss),
    }


if __name__ == "__main__":
    main()
