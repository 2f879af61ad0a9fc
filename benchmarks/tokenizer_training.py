"""python -m benchmarks.tokenizer_training: learning 32,000 byte pairs from a large file, beside tokenizers, on all cores.

    python -m benchmarks.tokenizer_training                  100 MB
    python -m benchmarks.tokenizer_training --size 1GB       with --write benchmarks/results/tokenizer_training.json

The text is made from the King James Bible, Python's own modules and the names of characters, with a seed: stretches of
consecutive words, of which 3 in 100 are replaced by invented ones (two halves of real words, a number now and then), so
that new words come as long as the text goes on, as in real texts. Each way runs in a process of its own, from the file
to the vocabulary in memory; imports are not counted. The memory is the largest sum of the proportional set sizes of
the process and its workers, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import write_results
from benchmarks.tokenizer import king_james, texts
from minillm.errors import UserError

VOCABULARY = 32_000
UNITS = {"MB": 10**6, "GB": 10**9}
STRETCH = 2000  # words in a row from one place of a real text
INVENTED = 0.03  # of the words
LOOK = 0.1  # seconds between two looks at the memory


def main() -> None:
    parser = argparse.ArgumentParser(description="learning byte pairs from a large file: ours, tokenizers")
    parser.add_argument("--size", default="100MB", help="of the text, such as 100MB or 1GB")
    parser.add_argument("--text", type=Path, help="a text of your own in its place")
    parser.add_argument("--vocab-size", type=int, default=VOCABULARY)
    parser.add_argument("--workers", type=int, default=0, help="of minillm; 0: one for each core")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/tokenizer_training.json")
    parser.add_argument("--learn", choices=WAYS, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.learn:
        seconds, tokens = WAYS[arguments.learn](str(arguments.text), arguments.vocab_size, arguments.workers)
        print(json.dumps({"seconds": seconds, "tokens": tokens}))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.text or make_text(Path(folder) / "text.txt", bytes_of(arguments.size))
        size = path.stat().st_size
        print(f"text: {size / 1e6:,.0f} MB, {arguments.vocab_size:,} tokens", flush=True)
        rows = {way: measured(way, path, arguments) for way in WAYS if way != "tokenizers" or is_installed()}
    if arguments.write:
        found = {"megabytes": size / 1e6, "vocabulary": arguments.vocab_size, "cores": len(os.sched_getaffinity(0))}
        write_results("tokenizer_training", {**found, "results": rows})


# ---------------------------------------------------------------------------------------------------------- the two ways


def minillm_way(path: str, vocab_size: int, workers: int) -> tuple[float, int]:
    """As `minillm tokenizer train` does it."""
    from minillm.cli.tokenizer import learn
    from minillm.data.encode_files import Reading

    started = time.perf_counter()
    tokenizer = learn([path], vocab_size, [], "gpt2", 0, Reading(workers))
    return time.perf_counter() - started, tokenizer.vocab_size


def tokenizers_way(path: str, vocab_size: int, workers: int) -> tuple[float, int]:
    """The library reads the file itself, and uses all cores."""
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):  # benchmarks.tokenizer asks for one thread
        os.environ.pop(name, None)
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    started = time.perf_counter()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([path], trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    return time.perf_counter() - started, tokenizer.get_vocab_size()


WAYS = {"minillm": minillm_way, "tokenizers": tokenizers_way}


def is_installed() -> bool:
    """Whether the peer is there; if not, that is said."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        print("not measured: tokenizers is not installed (extra bench)")
        return False
    return True


def measured(way: str, path: Path, arguments) -> dict[str, float]:
    """Seconds and peak memory of one way."""
    command = [sys.executable, "-m", "benchmarks.tokenizer_training", "--learn", way, "--text", str(path)]
    command += ["--vocab-size", str(arguments.vocab_size), "--workers", str(arguments.workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(proportional_set, tree(process.pid))))
        time.sleep(LOOK)
    if process.returncode:
        raise UserError(f"{way} ended with exit code {process.returncode}")
    row = {**json.loads(process.stdout.read()), "peak_megabytes": round(peak / 1000, 1)}
    print(
        f"{way:<12} {row['seconds']:>7.1f} s  {row['peak_megabytes']:>8,.0f} MB  {row['tokens']:,} tokens", flush=True
    )
    return row


def tree(pid: int) -> Iterator[int]:
    """A process and those that it has started."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield from tree(child)


def proportional_set(pid: int) -> float:
    """Kilobytes of a process; what several share counts in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith("Pss:")), 0.0)


# -------------------------------------------------------------------------------------------------------------- the text


def bytes_of(size: str) -> int:
    """A size as people write it: 100MB, 1GB."""
    number, unit = size[:-2], size[-2:].upper()
    if unit not in UNITS or not number.replace(".", "", 1).isdecimal():
        raise UserError(f"--size is {size}: it must be a number with its unit, as 100MB or 1GB")
    return round(float(number) * UNITS[unit])


def make_text(path: Path, size: int, seed: int = 0) -> Path:
    """Write a text of about `size` bytes: see above."""
    rng = np.random.default_rng(seed)
    sources = [king_james(), *(text for name, text in texts("").items() if name in REAL)]
    words = [source.split(" ") for source in sources]
    halves = sorted({word for each in words for word in each if word.isalpha() and word.isascii() and len(word) > 3})
    fronts, backs = (
        [half(word) for word in halves] for half in (lambda w: w[: len(w) // 2], lambda w: w[len(w) // 2 :])
    )
    written = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        while written < size:
            each = words[rng.choice(len(words), p=SHARES)]
            start = int(rng.integers(max(1, len(each) - STRETCH)))
            stretch = each[start : start + STRETCH]
            at = np.flatnonzero(rng.random(len(stretch)) < INVENTED)
            # Zipf's law for both halves: few are frequent, and most combinations are new
            choice = (rng.zipf(1.2, (2, len(at))) - 1) % len(halves)
            for place, front, back, kind in zip(at.tolist(), *choice.tolist(), rng.random(len(at)).tolist()):
                stretch[place] = str(front * back) if kind < 0.1 else fronts[front] + backs[back]
            text = " ".join(stretch) + "\n"
            written += len(text.encode())
            file.write(text)
    return path


REAL, SHARES = ("Python's own modules", "names of characters"), (0.7, 0.25, 0.05)


if __name__ == "__main__":
    main()
