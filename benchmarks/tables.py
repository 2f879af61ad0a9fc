"""The tables of the pages, one function for each: from the contents of result files to lines of Markdown."""

from __future__ import annotations

import math
import statistics

from benchmarks import scale_table
from benchmarks.all import OPERATIONS, PORTIONS, duration
from benchmarks.figures import PAGES, RESULTS, files_of, number, percent, rows, table
from benchmarks.minute import COMPILED, EAGER, FORMER, NOW
from benchmarks.scaling import table_of_predictions, table_of_steps

PEERS = ("torch", "transformers")


# ------------------------------------------------------------------------------------------------------- docs/performance.md


STEPS = tuple(  # of presets that are measured
    name
    for name in ("train_step", "train_step_shakespeare-char", "train_step_gpt2")
    if (RESULTS / f"{name}.json").exists()
)


@table("train_step", STEPS, peers=("torch",))
def train_step(*presets: dict) -> list[str]:
    """A row for each contestant of each preset."""
    lines = []
    for found in presets:
        shape = f"`{found['preset']}`, {found['batch_size']} x {found['context_length']}"
        for name, row in found["results"].items():
            ratio = found.get(f"{name}_over_minillm")
            beside = f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else ""
            times = number(row["milliseconds"]), number(row["tokens_per_second"])
            lines.append([shape, _contestant(name, found), *times, beside])
            shape = ""
    return rows(["preset", "", "ms a step", "tokens/s", "takes, times minillm (median of neighbouring blocks)"], *lines)


@table("train_step_memory", peers=("torch",))
def train_step_memory(found: dict) -> list[str]:
    """A row for each preset, and what of PyTorch's memory minillm's is."""
    lines = []
    for preset, row in found["presets"].items():
        sizes = row["peak_megabytes"]
        peers = [f"{sizes[name]:,.0f} MB" if name in sizes else "not measured" for name in ("torch", "torch.compile")]
        share = f"{sizes['minillm'] / sizes['torch']:.2f}" if "torch" in sizes else ""
        shape = f"`{preset}`, {row['batch_size']} x {row['context_length']}"
        lines.append([shape, f"{sizes['minillm']:,.0f} MB", *peers, share])
    return rows(["preset", "minillm", "PyTorch eager", "PyTorch, compiled", "minillm / eager"], *lines)


def _contestant(name: str, found: dict) -> str:
    processes = found["minillm_has"].partition(",")[0]
    return {
        "minillm": f"minillm, {processes}",
        "minillm, threads": "minillm, threads of one process",
        "torch": "PyTorch eager",
        "torch.compile": "PyTorch, compiled",
    }.get(name, name)


@table("linear_cross_entropy")
def linear_cross_entropy(found: dict) -> list[str]:
    """A row for each way."""
    ways = {
        "fused": "fused (`linear_cross_entropy`)",
        "in place": "`linear`, then `cross_entropy` written over the logits",
        "textbook": "the textbook, an array for each step",
    }
    lines = [
        [text, f"{found['results'][way]['peak_mb']:,.0f} MB", number(found["results"][way]["seconds"])]
        for way, text in ways.items()
    ]
    return rows(["", "peak memory", "seconds"], *lines)


@table("generate", peers=(*PEERS, "llama-cpp-python"))
def generate(found: dict) -> list[str]:
    """For each model and case (texts, tokens of each prompt) a row of each contestant."""
    names, headings, lines = {"gpt2": "GPT-2 124M", "smollm2-135m": "SmolLM2-135M"}, set(), []
    for row in sorted(cases_of(found), key=lambda row: (row["model"], row["texts"], row["prompt_tokens"])):
        case = names.get(row["model"], row["model"]), f"{row['texts']} x {row['prompt_tokens']:,}"
        heading = ["", ""] if case in headings else [*case]
        headings.add(case)
        figures = [number(row[f"{what}_tokens_per_second"]) for what in ("prefill", "decode")]
        bound = percent(row["share_of_bound"]) if row["texts"] == 1 else ""  # of one text; a step of more writes more
        first = f"{number(row['seconds_to_first_token'])} s" if "seconds_to_first_token" in row else ""
        lines.append([*heading, row["writer"], *figures, bound, first])
    figures = ["prompt, tokens/s", "writing, tokens/s", "share of the bound", "first token after"]
    return rows(["", "texts x prompt", "", *figures], *lines)


def cases_of(found: dict) -> list[dict]:
    """The rows of benchmarks/generate.py; of a file without them, those of one text."""
    if "cases" in found:
        return found["cases"]
    case = {"texts": 1, "prompt_tokens": found["prompt_tokens"]}
    return [
        {"model": model, "writer": who, **case, **row}
        for model, contestants in found["models"].items()
        for who, row in contestants.items()
        if isinstance(row, dict)
    ]


STRATEGIES = {
    "greedy": "greedy",
    "multinomial": "multinomial",
    "temperature, top-k, top-p": "temperature, top-k 50, top-p 0.9",
    "top-p": "top-p 0.9",
    "min-p": "min-p 0.05",
    "typical": "typical 0.9",
    "repetition penalty, no 3-gram twice": "repetition penalty, no 3-gram twice (500 tokens)",
}


@table("sampler", peers=PEERS)
def sampler(found: dict) -> list[str]:
    """A row for each strategy that transformers has, too; of its two ways the faster one."""
    lines = []
    for name, text in STRATEGIES.items():
        cells = [text]
        for batch in ("batch 1", "batch 64"):
            row = found[batch][name]
            cells += [
                number(row["minillm"]),
                number(fastest_peer(row)),
                f"{row['ratio']:.1f}" if "ratio" in row else "",
            ]
        lines.append(cells)
    head = ["", "minillm, 1 text", "transformers", "times", "minillm, 64 texts", "transformers", "times"]
    return rows(head, *lines)


def fastest_peer(row: dict) -> float | None:
    """Milliseconds of the faster of transformers' two ways; None where it was not measured."""
    return min((row[name] for name in ("transformers", "transformers, one thread") if name in row), default=None)


@table("page")
def page(found: dict) -> list[str]:
    """A row for each view of Play, and two for the pages of Read."""
    lines = [
        [f"Play, {view.title()}", f"{row['paint_ms']:.0f} ms", f"{row['ready_ms']:.0f} ms", _kilobytes(row)]
        for view, row in found["views"].items()
    ]
    pages = found["pages"]["pages"]
    slowest, largest = (max(pages, key=lambda name: pages[name][what]) for what in ("paint_ms", "bytes"))
    middle = statistics.median(row["paint_ms"] for row in pages.values())
    lines.append([f"Read, the median of {len(pages)} pages", f"{middle:.0f} ms", "", ""])
    slow = f"{pages[slowest]['paint_ms']:.0f} ms ({slowest})"
    lines.append(["Read, the slowest and the largest", slow, "", f"{_kilobytes(pages[largest])} ({largest})"])
    return rows(["", "first paint", "can be used", "bytes"], *lines)


def _kilobytes(row: dict) -> str:
    return f"{row['bytes'] / 1e3:.0f} kB"


OPENED = {  # a case of benchmarks/opening.py -> what one waits for
    "numpy": "Python that imports NumPy, and ends: no first token comes sooner",
    "version": "`minillm --version`",
    "first_token": "`minillm generate RUN`, of the preset `default`, until the first text",
    "gguf_model": "a GGUF file of {megabytes} MB, opened",
    "gguf_tokenizer": "its tokenizer of 49,152 tokens",
}


@table("opening")
def opening(found: dict) -> list[str]:
    """What one waits for before the first token."""
    times = found["median_seconds"]
    lines = [[OPENED[name].format(megabytes=found["gguf_megabytes"]), number(1000 * times[name])] for name in OPENED]
    return rows(["", "ms"], *lines)


@table("packing")
def packing(found: dict) -> list[str]:
    """Padded and packed rows of the same conversations."""
    lines = [
        [name, f"{row['rows']:,}", f"{row['tokens']:,}", percent(row["used"]), number(row["seconds"]),
         number(row["tokens_per_second"])]
        for name, row in found["rows"].items()
    ]  # fmt: skip
    return rows(["", "rows", "tokens computed", "of a conversation", "seconds", "tokens of conversations/s"], *lines)


# --------------------------------------------------------------------------------------------------------- other pages


MINUTE = tuple(name for name in ("minute",) if (RESULTS / f"{name}.json").exists())
NOT_YET = "Not measured yet: `python -m benchmarks.all --only minute`."
README = ("published", "train_step", "generate", "sampler", "linear_cross_entropy", "tokenizer", "gradcheck", *MINUTE)


@table("readme", README, has_origin=False)
def readme(
    run: dict, step: dict, generated: dict, sampled: dict, head: dict, encoded: dict, checked: dict, *minutes: dict
) -> list[str]:
    """README.md's Numbers, each with the date of its file."""
    times, texts = step["results"], encoded["encoding_megabytes_per_second"]["the text"]
    models, drawn = generated["models"]["gpt2"], sampled["batch 1"]["temperature, top-k, top-p"]
    rates = {who: f"{number(models[who]['decode_tokens_per_second'])} tokens/s" for who in models if who in WRITERS}
    memory = {way: f"{head['results'][way]['peak_mb']:,.0f} MB" for way in ("fused", "in place")}
    return [
        "| | minillm | peer | date |",
        "|---|---|---|---|",
        *map(_after_a_minute, minutes),
        _number("nanoGPT's published CPU run, [loss](docs/glossary.md) on the validation text, mean of three seeds", run,
                f"{run['mean']:.3f}", "nanoGPT", f"{run['published']}"),
        _number("a training step of that run", step, f"{number(times['minillm']['milliseconds'])} ms",
                "PyTorch", f"{number(times['torch']['milliseconds'])} ms"),
        _number("GPT-2 124M writes", generated, rates["minillm"], "transformers", rates["transformers"]),
        _number("a token drawn of 50,257: temperature, top-k 50, top-p 0.9", sampled, f"{number(drawn['minillm'])} ms",
                "transformers", f"{number(fastest_peer(drawn))} ms"),
        _number("head and loss of 4,096 tokens, 50,257 words: memory", head, memory["fused"],
                "unfused, in place", memory["in place"]),
        _number("encoding the King James Bible with GPT-2's vocabulary, first time", encoded,
                f"{number(texts['minillm, first time'])} MB/s", "tiktoken", f"{number(texts['tiktoken'])} MB/s"),
        _number("largest relative error of any gradient, finite differences in float64", checked,
                f"{checked['largest_error']:.1e}".replace("e-0", "e-"), "fails above", "1e-6"),
    ]  # fmt: skip


def _after_a_minute(found: dict) -> str:
    """The default preset, what it was before, and nanoGPT's recipe in the way that reached more."""
    losses = {name: mean_of(runs, "nats_per_token") for name, runs in found["contestants"].items()}
    ours = f"{losses[NOW]:.2f}, with the former preset {losses[FORMER]:.2f}"
    peers = [losses[name] for name in (EAGER, COMPILED) if name in losses]
    theirs = f"{min(peers):.2f}" if peers else "not measured"
    what = f"[loss](docs/performance.md#a-minute) on the validation text after {found['seconds']:g} seconds of training"
    return _number(what, found, ours, "nanoGPT's recipe", theirs)


WRITERS = ("minillm", "transformers")


def _number(what: str, found: dict, ours: str, peer: str, theirs: str) -> str:
    return f"| {what} | {ours} | {peer} {theirs} | {found['origin']['date']} |"


ENCODED = {
    "the text, 1 MB": "of English",
    "the text": "of English",
    "Python's own modules": "of Python's own modules",
    "names of characters": "of the names of characters",
    "random letters": "of random letters and spaces",
    "without a space, 250 kB": "of letters without a space",
    "without a space, 500 kB": "of letters without a space",
    "without a space, 1000 kB": "of letters without a space",
}


@table("tokenizer", peers=("tokenizers", "tiktoken"))
def tokenizer(found: dict) -> list[str]:
    """Learning a vocabulary, and encoding with one."""
    learned, encoded = found["training_seconds"], found["encoding_megabytes_per_second"]
    lines = [["learning 8,192 tokens", *_beside(learned, "minillm", "tokenizers", "s")]]
    for text, name in ENCODED.items():
        row = encoded[text]
        size = f"{row['megabytes']:.1f} MB" if row["megabytes"] >= 0.95 else f"{1000 * row['megabytes']:.0f} kB"
        lines.append([f"encoding {size} {name}, first time", *_beside(row, "minillm, first time", "tiktoken", "MB/s")])
    return rows(["", "minillm", "peer"], *lines)


TRAINED = tuple(name for name in ("tokenizer_training",) if (RESULTS / f"{name}.json").exists())


@table("tokenizer_training", TRAINED, peers=("tokenizers",))
def tokenizer_training(*found: dict) -> list[str]:
    """A row for each way to learn from a large file."""
    lines = [
        [f"{way}, {run['megabytes']:,.0f} MB", f"{row['tokens']:,}", f"{number(row['seconds'])} s",
         f"{row['peak_megabytes']:,.0f} MB"]
        for run in found
        for way, row in run["results"].items()
    ]  # fmt: skip
    return rows(["", "tokens", "time", "peak memory"], *(lines or [["not measured yet", "", "", ""]]))


def _beside(row: dict, ours: str, peer: str, unit: str) -> list[str]:
    theirs = f"{peer} {number(row[peer])} {unit}" if peer in row else f"{peer}: not installed"
    return [f"{number(row[ours])} {unit}", theirs]


@table("stored_weights")
def stored_weights(found: dict) -> list[str]:
    """A row for each kind of weights."""
    lines = [
        [row["weights"], f"{row['weights_megabytes']:.1f}", f"{row['allocated_beside_them_megabytes']:.1f}",
         number(row["tokens_per_second"]), number(row["tokens_per_second_batch_of_8"]),
         number(row["prompt_tokens_per_second"])]
        for row in found["rows"]
    ]  # fmt: skip
    texts = "tokens/s", "tokens/s, 8 texts", f"tokens/s of a prompt of {found['prompt']}"
    return rows(["weights", "MB", "MB allocated beside them", *texts], *lines)


@table("speculative")
def speculative(found: dict) -> list[str]:
    """A real model with look-up, and a draft of three kinds; without --model there is no real one."""
    shown = {
        ("real", "real, copy", "look-up"): "SmolLM2-135M, look-up: copy a text",
        ("real", "real, edit", "look-up"): "the same: change a program",
        ("real", "real, question", "look-up"): "the same: a question whose answer is new",
        ("gpt2", "draft, ceiling", "draft"): "GPT-2 124M's shape, a draft that is always right",
        ("gpt2", "draft, between", "draft"): "the same, a draft that is right every other time",
        ("gpt2", "draft, floor", "draft"): "the same, a draft that is never right",
    }
    lines = []
    for (part, group, way), text in shown.items():
        row = found[part][group][way] if part in found else dict.fromkeys(("times_plain", "tokens_per_pass"))
        accepted = percent(row["accepted_share"]) if part in found else "not measured"
        lines.append([text, number(row["times_plain"]), accepted, number(row["tokens_per_pass"])])
    return rows(["", "times as fast", "accepted", "tokens a pass"], *lines)


@table("profile_step")
def profile_step(found: dict) -> list[str]:
    """What a run printed, as it is."""
    return ["```text", *found["lines"], "```"]


@table("published")
def published(found: dict) -> list[str]:
    """Loss and perplexity of each seed of nanoGPT's run."""
    losses = found["losses"]
    return rows(
        ["`--seed`", *losses, "mean"],
        ["loss", *(f"{loss:.4f}" for loss in losses.values()), f"**{found['mean']:.4f}**"],
        ["perplexity", *(f"{math.exp(loss):.3f}" for loss in losses.values()), ""],
    )


@table("minute", MINUTE, peers=("torch",))
def minute(*measured: dict) -> list[str]:
    """A row for each contestant, means over its seeds; below them the learning curves."""
    if not measured:
        return [NOT_YET]
    (found,) = measured
    lines = []
    for name, runs in found["contestants"].items():
        losses, names = [run["nats_per_token"] for run in runs], ("bits_per_byte", "steps", "milliseconds_per_step")
        bits, steps, milliseconds, compiling = (mean_of(runs, name) for name in (*names, "compile_seconds"))
        spread = f"{mean_of(runs, 'nats_per_token'):.3f} ({min(losses):.3f} to {max(losses):.3f})"
        before = f"{compiling:.0f} s" if compiling else ""
        lines.append([name, spread, f"{bits:.3f}", f"{steps:,.0f}", number(milliseconds), before])
    head = ["", "loss, nats a token (of the seeds)", "bits a byte", "steps", "ms a step", "compiled before, in"]
    return [*rows(head, *lines), "", f"![validation loss over {found['seconds']:g} seconds](minute.png)"]


def mean_of(runs: list[dict], name: str) -> float:
    return statistics.mean(run[name] for run in runs)


@table("benchmarks", (), has_origin=False)
def benchmarks() -> list[str]:
    """What `python -m benchmarks.all` runs; the operations in one row."""
    lines = []
    for portion in PORTIONS:
        if portion.name not in OPERATIONS:
            pages = [page.name for page in PAGES if portion.name in files_of(page.read_text(encoding="utf-8"))]
            file = f"[{portion.name}](results/{portion.name}.json)" if portion.result.exists() else "not measured"
            peers = ", ".join(portion.peers)
            lines.append([f"`{portion.command}`", portion.question, peers, duration(portion), file, ", ".join(pages)])
    names = ", ".join(f"`{name}`" for name in OPERATIONS)
    lines.append([names, "one operation, forward and backward", "torch", "", "", ""])
    return rows(["command", "question", "peers", "took", "result", "shown in"], *lines)


# ---------------------------------------------------------------------------------------------- of the model of scale


@table("scaling.two_workers", peers=("torch",))
def two_workers(found: dict) -> list[str]:
    """The measured steps of two workers."""
    head, rule, *lines = table_of_steps(found)
    return [head, rule, *(line for line in lines if "| 2 |" in line)]


table("scaling.steps", peers=("torch", "mpich"))(table_of_steps)
table("scaling.predictions", has_origin=False)(table_of_predictions)
for _number_of_table, _name in enumerate(scale_table.NAMES):
    table(f"scaling.{_name}", has_origin=False)(
        lambda found, at=_number_of_table: scale_table.tables(found["core"])[at]
    )
