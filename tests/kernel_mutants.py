"""Runs all mutants of kernels of minillm, and writes what was found: tests/kernels/kernel_mutants.json and, from it and
from the reasons in tests/kernels/kernel_survivors.py, docs/kernel-mutants.md.

    python tests/kernel_mutants.py                    all kernels
    python tests/kernel_mutants.py gelu flash         these
    python tests/kernel_mutants.py --headers-once flash    without mutants of headers that other kernels have caught
    python tests/kernel_mutants.py --share 4 flash    one of four, by a hash of their text
    python tests/kernel_mutants.py --survivors gelu   those that survived, after a problem is added
    python tests/kernel_mutants.py --rest flash       those that were not among these
    python tests/kernel_mutants.py --page             the page alone

A mutant of a header that several kernels include is caught if one of them catches it. A kernel is run with all mutants of
its headers after they were changed.
"""

import argparse
import json
import platform
import sys
import textwrap
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "kernels"))

from kernel_survivors import reason

from minillm.checks.mutation.kernel_cases import KERNELS_FOLDER, NAMES, KernelSubject, mutate_case
from minillm.checks.mutation.kernel_run import WORDS, sample
from minillm.checks.mutation.kernel_schema import schema_of, shortened

TESTS = Path(__file__).parent
RESULTS = TESTS / "kernels" / "kernel_mutants.json"
PAGE = TESTS.parent / "docs" / "kernel-mutants.md"


def mutants_of(name):
    """All mutants of a kernel: from its text alone."""
    cuda = KernelSubject(name).cuda
    folders = (cuda.path.parent, KERNELS_FOLDER)
    return schema_of(cuda.text, cuda.path.name, folders, platform.machine()).mutants


def digest(mutants):
    """Changes with every mutant."""
    return zlib.crc32("\n".join(mutant.place for mutant in mutants).encode())


def record(results, name, report, share=1, before=None):
    """Put a report into the results; header mutants that it caught are no survivors of others any more. share: one of so
    many mutants is run by now. before: the results of the kernel that the report adds to."""
    results["headers"] = sorted({*results.get("headers", ()), *caught_headers(report)})
    before = before or {"noticed": {}, "survived": [], "not reached": []}
    noticed = Counter(before["noticed"]) + Counter({key: n for key, n in report.counts.items() if key in WORDS})
    tried = {each.mutant.place for each in report.outcomes}
    places = {
        key: [place for place in before[key] if place not in tried]
        + [each.mutant.place for each in report.survivors if each.noticed == outcome]
        for key, outcome in (("survived", ""), ("not reached", "unreached"))
    }
    results.setdefault("kernels", {})[name] = {
        "digest": digest(mutants_of(name)),
        "share": share,
        "problems": report.problems,
        "left out": report.left_out,
        "noticed": dict(sorted(noticed.items())),
        **places,
    }
    for each in results["kernels"].values():
        for key in ("survived", "not reached"):
            each[key] = [place for place in each[key] if hashed(place) not in results["headers"]]


def caught_headers(report):
    """Hashes of the mutants of headers that a run noticed."""
    caught = (each.mutant for each in report.outcomes if not each.survived and each.noticed != "unused")
    return {hashed(mutant.place) for mutant in caught if mutant.file.endswith(".cuh")}


def hashed(place):
    return zlib.crc32(place.encode())


def survivors(results):
    """(kernel, mutant) of all that no check notices."""
    for name, found in results["kernels"].items():
        by_place = {mutant.place: mutant for mutant in mutants_of(name)}
        for place in found["survived"] + found["not reached"]:
            yield name, by_place[place]


TEXT = """\
# Mutants of the CUDA kernels

`minillm simulate NAME --mutate` changes a kernel in one place after the other, by rule from its source text, and says which
changes its checks do not notice. This page has what that found for the kernels of this project. It is generated
(`python tests/kernel_mutants.py`), and a test compares it with the sources: after a change of a kernel its mutants are run
again.

All mutants of a kernel are in one program, which is compiled once for each mode of the simulator; a place that is changed asks
which mutant is chosen. Without a chosen one the program gives the bits of the original source, which is checked in every run.
Each mutant runs in a process of its own, on the small problems of the kernel's case
(`minillm/checks/cases_*.py`, `minillm/checks/mutation/kernel_trials.py`) that reach its place, cheap ones first, until one
of these notices it: the comparison with NumPy in float64 at the tolerance of the case, another order of threads, check mode,
the processor time (half a second and ten times that of the kernel), the end of its process. A mutant of a header is run with
the kernels that include it until one of them notices.

{table}

*Left out*: changes that a compiler does not take, such as a pointer less.

The tests run a part: about 40 mutants of one kernel, and in the slow suite 60 of another one and 10 of one that takes long;
which kernels and which mutants depends on the commit in continuous integration, so that they have their turn, all but those of
`flash_tensor_cores`, whose program takes a minute and a half to compile.

{missing}## The rules

{rules}

## Survivors, and why they are the same function

{reasons}
"""


def page(results):
    """The text of docs/kernel-mutants.md."""
    from minillm.checks.mutation.kernel_rules import RULES

    columns = [key for key in WORDS if any(key in found["noticed"] for found in results["kernels"].values())]
    rows = [f"| kernel | mutants | {' | '.join(columns)} | survived | left out |"]
    rows.append("|---|" + "--:|" * (len(columns) + 3))
    total = Counter()
    for name, found in sorted(results["kernels"].items()):
        alive = len(found["survived"]) + len(found["not reached"])
        counts = Counter(found["noticed"]) + Counter({"survived": alive, "left out": found["left out"]})
        counts["mutants"] = sum(found["noticed"].values()) + alive
        total += counts
        rows.append(_row(f"`{name}`", counts, columns))
    rows.append(_row("all", total, columns))
    by_reason = {}
    for name, mutant in survivors(results):
        why = reason(name, mutant) or "not explained yet"
        line = f"`{mutant.source}`: `{shortened(mutant.before)}` -> `{shortened(mutant.after) or 'nothing'}`"
        by_reason.setdefault(why, {}).setdefault((mutant.file, mutant.function), {})[line] = None
    parts = []
    for why, places in sorted(by_reason.items()):
        parts.append(f"**{why[0].upper()}{why[1:]}.**\n")
        for (file, function), lines in sorted(places.items()):
            parts.append(f"- {file}, `{function}`")
            parts += [f"  - {shortened(line, 132)}" for line in lines]
        parts.append("")
    missing = [f"`{name}`" for name in NAMES if name not in results["kernels"]]
    note = f"Not run yet: {', '.join(missing)}.\n\n" if missing else ""
    shares = {name: found["share"] for name, found in results["kernels"].items()}
    parted = [f"of `{name}` one of {share}" for name, share in sorted(shares.items()) if share > 1]
    partly = f"Not all were run: {', '.join(parted)}, chosen by a hash of their text."
    note += textwrap.fill(partly, 128) + "\n\n" if parted else ""
    rules = "\n".join(f"- *{name}*: {text}" for name, text in RULES.items())
    return TEXT.format(table="\n".join(rows), rules=rules, reasons="\n".join(parts).rstrip(), missing=note)


def _row(name, counts, columns):
    numbers = [counts["mutants"], *(counts[key] for key in columns), counts["survived"], counts["left out"]]
    return f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |"


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--headers-once", action="store_true")
    parser.add_argument("--survivors", action="store_true")
    parser.add_argument("--rest", action="store_true")
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args(arguments)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    caught = set(results.get("headers", ())) if given.headers_once else set()
    for name in [] if given.page else given.names or NAMES:
        before, share = None, given.share
        if given.survivors or given.rest:
            before = results["kernels"][name]
            share = before["share"] if given.survivors else 1
        choose = _survivors if given.survivors else _rest if given.rest else _sampled
        chosen = partial(choose, caught, before or share)
        report = mutate_case(name, chosen, progress=partial(_print_progress, name))
        caught |= caught_headers(report)
        record(results, name, report, share, before)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\r{report.text()}")
    PAGE.write_text(page(results), encoding="utf-8")


def _sampled(caught, share, mutants):
    return [each for each in sample(mutants, share) if hashed(each.place) not in caught]


def _rest(caught, before, mutants):
    known = {each.place for each in sample(mutants, before["share"])}
    return [each for each in mutants if each.place not in known and hashed(each.place) not in caught]


def _survivors(caught, before, mutants):
    places = {*before["survived"], *before["not reached"]}
    return [each for each in mutants if each.place in places]


def _print_progress(name, done, count):
    print(f"\r{name}: {done} of {count}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
