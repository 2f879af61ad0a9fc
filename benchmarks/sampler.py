"""python -m benchmarks.sampler: what choosing a token costs, beside transformers on the CPU.

From logits of a vocabulary of 50,257 (GPT-2's) to ids, for one text and for 64. The logits are normal with a standard
deviation of 4, so that some 270 tokens hold nine tenths of the probability, as where a language model hesitates. transformers
runs the processors that its own `generate` would put together, then softmax and multinomial (argmax where the temperature is
0), once with all the threads that torch takes and once with one, as minillm does; what counts is the faster of the two. All
take turns, and each figure is the median of its turns. On a machine that has other work to do, long calls are interrupted and
short ones are not: the ratio of the fastest turns says what is left of the advantage without that.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np

from benchmarks import common
from minillm.sampler import History, Sampler

VOCABULARY = 50257
HISTORY = 500  # tokens that penalties look at

# What is measured: minillm's settings and transformers', None where it has no such thing.
STRATEGIES = {
    "greedy": (dict(temperature=0), dict(do_sample=False, top_k=None)),
    "multinomial": (dict(), dict()),
    "temperature, top-k, top-p": (
        dict(temperature=0.8, top_k=50, top_p=0.9),
        dict(temperature=0.8, top_k=50, top_p=0.9),
    ),
    "top-k": (dict(top_k=50), dict(top_k=50)),
    "top-p": (dict(top_p=0.9), dict(top_p=0.9)),
    "min-p": (dict(min_p=0.05), dict(min_p=0.05)),
    "typical": (dict(typical_p=0.9), dict(typical_p=0.9)),
    "epsilon": (dict(epsilon_cutoff=3e-4), dict(epsilon_cutoff=3e-4)),
    "eta": (dict(eta_cutoff=3e-4), dict(eta_cutoff=3e-4)),
    "repetition penalty, no 3-gram twice": (
        dict(repetition_penalty=1.1, no_repeat_ngram=3),
        dict(repetition_penalty=1.1, no_repeat_ngram_size=3),
    ),
    "presence and frequency penalty": (dict(presence_penalty=0.5, frequency_penalty=0.5), None),
    "DRY": (dict(dry_multiplier=0.8), None),
    "top-n-sigma": (dict(top_n_sigma=1.0), None),
    "XTC": (dict(xtc_probability=1.0, xtc_threshold=0.01), None),
    "mirostat": (dict(mirostat_tau=5.0), None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=9, help="of the large batch; the small one gets four times as many"
    )
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/sampler.json")
    arguments = parser.parse_args()
    peer = None if arguments.without_peers else transformers_or_none()
    results = {}
    for batch in (1, 64):
        results[f"batch {batch}"] = compare(batch, peer, arguments.rounds * (4 if batch == 1 else 1))
    results[f"the {KEPT} largest of a row"] = compare_with_partition(arguments.rounds)
    if arguments.write:
        common.write_results("sampler", {"vocabulary": VOCABULARY, "history": HISTORY, **results})


def compare(batch: int, peer, rounds: int) -> dict:
    """All strategies for one batch; prints and returns their figures in milliseconds."""
    logits, texts = inputs(batch)
    print(f"{f'batch {batch}, milliseconds':<38}   minillm   transformers   one thread   times faster   the fastest")
    rows = {}
    for name, (ours, theirs) in STRATEGIES.items():
        contestants = {"minillm": minillm_sampler(ours, logits, texts)}
        if peer is not None and theirs is not None:
            contestants |= peer(theirs, logits, texts)
        row = rows[name] = take_turns(contestants, rounds)
        line = f"  {name:<36}" + "".join(f"{row[who]:>{width}.2f}" for who, width in zip(contestants, (10, 15, 13)))
        if "ratio" in row:
            line += f"{row['ratio']:>15.1f}{row['ratio_of_fastest']:>14.1f}"
        print(line)
    return rows


KEPT = 50


def compare_with_partition(rounds: int) -> dict:
    """The search for the largest logits against the partition of whole rows that it spares."""
    from minillm.sampler.cuts import top_k_ids

    logits, _ = inputs(64)
    place = VOCABULARY - KEPT
    ways = {
        "minillm": lambda: top_k_ids(logits, KEPT),
        "numpy.argpartition": lambda: np.argpartition(logits, place, axis=1),
    }
    row = take_turns(ways, rounds)
    print(
        f"the {KEPT} largest of each of 64 rows: {row['minillm']:.2f} ms, "
        f"numpy.argpartition {row['numpy.argpartition']:.2f} ms, {row['ratio']:.1f} times"
    )
    return row


def inputs(batch: int):
    """logits (batch, VOCABULARY) float32 and texts (batch, HISTORY), in which tokens and phrases come again."""
    generator = np.random.default_rng(0)
    logits = 4 * generator.standard_normal((batch, VOCABULARY), dtype=np.float32)
    texts = generator.integers(0, 200, (batch, HISTORY))
    texts[:, -20:] = texts[:, 100:120]
    return logits, texts


def take_turns(contestants: dict, rounds: int) -> dict:
    """Name -> median milliseconds of a call; of the best of the others to minillm the ratio, and that of the fastest calls.

    The first round warms up and is not counted. minillm comes last: the threads of the one before it still wait actively,
    and should slow down none of the others.
    """
    times = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, call in reversed(contestants.items()):
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - started))
    row = {name: median(figures) for name, figures in times.items()}
    others = [figures for name, figures in times.items() if name != "minillm"]
    if others:
        row["ratio"] = min(map(median, others)) / row["minillm"]
        row["ratio_of_fastest"] = min(map(min, others)) / min(times["minillm"])
    return row


def minillm_sampler(settings: dict, logits, texts):
    sampler = Sampler(**settings)
    history = History(texts.tolist(), [0] * len(texts))
    return lambda: sampler.sample(logits, history)


def transformers_or_none():
    """A function like minillm_sampler that yields both contestants of transformers; None where it is not installed."""
    try:
        import torch
        import transformers
    except ImportError:
        print('transformers is not installed: pip install "minillm[test-peers]" brings the comparison')
        return None
    shape = dict(n_layer=1, n_head=1, n_embd=8, n_positions=8, vocab_size=8, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))  # it only lends its way to put them together

    all_threads = torch.get_num_threads()

    def peer(settings: dict, logits, texts):
        config = transformers.GenerationConfig(**{"do_sample": True, "top_k": 0, **settings})
        ids, scores = torch.from_numpy(texts), torch.from_numpy(logits)
        processors = model._get_logits_processor(config, input_ids_seq_length=ids.shape[1])

        def call(threads):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                processed = processors(ids, scores)
                if not config.do_sample:
                    return processed.argmax(dim=-1)
                return torch.multinomial(processed.softmax(dim=-1), 1)

        return {"transformers": lambda: call(all_threads), "transformers, one thread": lambda: call(1)}

    return peer


if __name__ == "__main__":
    main()
