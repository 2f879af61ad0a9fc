"""Which mutants of a CUDA kernel its checks notice.

Each mutant runs on the problems that reach its place, small ones first, until one of these notices
it:

    numbers     the results differ from NumPy in float64 by more than the kernel is allowed
    order       other bits when threads take turns in another order
    check       check mode complains: a race, a bound, a barrier, memory that was never written

Where a barrier is dropped, check mode is first. A mutant that computes ten times as long as the
kernel is ended (`time`), and so is one that brings down its process (`crash`).
"""

from __future__ import annotations

import os
import re
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from minillm.checks.mutation.kernel_children import allow, in_children
from minillm.checks.mutation.kernel_program import Switch
from minillm.checks.mutation.kernel_schema import Mutant, shortened
from minillm.errors import UserError
from minillm.kernels.simulator import SimulatorError, configured

LEAST_SECONDS, TIMES = 0.5, 10.0  # of processor time that a mutant has, beside the kernel's own
ORDERS = ("ascending", "descending", "shuffled")
SEED = 5
KINDS = (  # of what check mode says -> in two words
    (r"race|written by|read by|conflict|without a barrier", "race"),
    (r"barrier|__syncthreads|__syncwarp|wait for each other|deadlock|never come|collective|lane", "barrier"),
    (r"uninitiali|never written|before", "uninitialised"),
    (r"out-of-bounds|outside|belongs to no array|index", "bound"),
    (r"misaligned", "alignment"),
)


class Subject(Protocol):
    """What is run: a kernel of minillm on the problems of its case, or a kernel of a file.

    problems: what `run` takes, in any order.
    """

    name: str
    problems: Sequence

    def run(self, problem) -> dict[str, np.ndarray]:
        """The results of a problem, by name."""

    def judge(self, problem, results: dict[str, np.ndarray]) -> str:
        """What is wrong with them; "" if nothing is."""


@dataclass(frozen=True)
class Outcome:
    """A mutant, and what noticed it: "numbers", "order", "race", "barrier", ..., "time", "crash".

    "" for one that survived, "unreached" for one whose place no problem runs, and "unused" for one
    in a function that no problem runs. message: what the check says. same_bits: of a survivor,
    whether its results are those of the kernel to the bit.
    """

    mutant: Mutant
    noticed: str
    message: str = ""
    same_bits: bool = False

    @property
    def survived(self) -> bool:
        """Whether nothing noticed it, although its function runs."""
        return self.noticed in ("", "unreached")


@dataclass
class Report:
    """What was found of a kernel."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    left_out: int = 0
    seconds: float = 0.0
    problems: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def survivors(self) -> list[Outcome]:
        """In the order of the files and lines."""
        return sorted(
            (each for each in self.outcomes if each.survived), key=lambda each: (each.mutant.file, each.mutant.line)
        )

    @property
    def counts(self) -> Counter:
        """What noticed -> how many."""
        return Counter(each.noticed for each in self.outcomes)

    def text(self) -> str:
        """The summary of `minillm simulate --mutate`."""
        counts, total = self.counts, len(self.outcomes) - self.counts["unused"]
        caught = total - counts[""] - counts["unreached"]
        rows = [f"{self.name}: {total} mutants, {caught} noticed; problems: {self.problems}"]
        rows += [f"  {name:<14}{count:>6}  {WORDS[name]}" for name, count in counts.most_common() if name in WORDS]
        if counts["unreached"]:
            rows.append(f"  not reached   {counts['unreached']:>6}  no problem runs their place")
        rows.append(f"  survived      {counts['']:>6}")
        if counts["unused"]:
            rows.append(f"  not run       {counts['unused']:>6}  more, in functions that no problem runs")
        rows.append(f"  left out      {self.left_out:>6}  places that do not compile changed, or cannot be read")
        for outcome in self.survivors:
            note = "not reached" if outcome.noticed else "the same bits" if outcome.same_bits else "other bits"
            m = outcome.mutant
            rows.append(f"{m.file}:{m.line}: {m.rule}, {note}")
            rows.append(f"    {m.source}")
            rows.append(f"    {shortened(m.before)}  ->  {shortened(m.after) or 'nothing'}")
        rows += [f"  {note}" for note in self.notes]
        rows.append(f"  {self.seconds:.1f} s, compiling included")
        return "\n".join(rows)


WORDS = {
    "numbers": "the results are wrong",
    "order": "other bits in another order of threads",
    "race": "check mode: a race",
    "bound": "check mode: out of bounds",
    "barrier": "check mode: a barrier or a shuffle that some threads miss",
    "uninitialised": "check mode: memory that was never written",
    "alignment": "check mode: a misaligned access",
    "fault": "check mode: another fault",
    "time": "it does not end",
    "crash": "it brings down its process",
}


@dataclass
class _Measured:
    """What the kernel itself does on a problem: its bits, the mutants that it reaches, and seconds
    by mode. ordered: whether its bits depend on the order of threads, as with atomics on floats.
    """

    problem: object
    bits: dict[str, bytes]
    ordered: bool
    reached: set[int]
    seconds: dict[str, float]


def outcomes_of(
    subject: Subject,
    mutants: Sequence[Mutant],
    switch: Switch,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    original: Callable[[object], dict[str, np.ndarray]] | None = None,
) -> Iterator[Outcome]:
    """Try mutants, `jobs` at a time (None: one a processor).

    switch: chooses them in the compiled program. progress: is called with the number of mutants
    that are done, and of all. original: runs the source without mutants; then its bits have to be
    those of the program without a chosen one. Raises UserError where the kernel itself does not
    pass its checks.
    """
    measured = [_measure(subject, problem, switch, original) for problem in subject.problems]
    measured.sort(key=lambda each: sum(each.seconds.values()))
    reached = set().union(*(each.reached for each in measured))
    pieces = [mutant for mutant in mutants if mutant.number in reached]
    run = {each.body for each in switch.mutants if each.number in reached}
    for mutant in mutants:
        if mutant.number not in reached:
            yield Outcome(mutant, "unreached" if mutant.body in run else "unused")
    done = len(mutants) - len(pieces)

    def work(mutant: Mutant):
        return _tried(subject, mutant, switch, [each for each in measured if mutant.number in each.reached])

    for mutant, found in in_children(pieces, work, jobs or len(os.sched_getaffinity(0))):
        done += 1
        if progress:
            progress(done, len(mutants))
        if isinstance(found, int):
            name = "time" if found == signal.SIGPROF else "crash"
            yield Outcome(mutant, name, signal.Signals(found).name)
        else:
            yield Outcome(mutant, found["noticed"], found["message"], found["same"])


def _measure(subject: Subject, problem, switch: Switch, original) -> _Measured:
    """Run the kernel itself in every way in which its mutants are.

    Raises UserError for a complaint.
    """
    seconds, reached, ordered = {}, set(), False
    first: dict[str, bytes] = {}
    for mode, order in [*(("run", order) for order in ORDERS), ("check", "ascending")]:
        try:
            with configured(mode=mode, order=order, seed=SEED, threads=1):
                if not seconds:
                    subject.run(problem)  # loads what it needs
                switch.note(mode)
                subject.run(problem)
                reached |= switch.reached(mode)
                switch.choose(None, mode)
                started = time.process_time()
                results = subject.run(problem)
                seconds[mode] = time.process_time() - started
        except SimulatorError as error:
            raise UserError(f"{subject.name} itself does not pass its checks ({problem}): {error}") from None
        wrong = subject.judge(problem, results)
        if wrong:
            raise UserError(f"{subject.name} itself does not pass its checks ({problem}): {wrong}")
        bits = bits_of(results)
        first = first or bits
        ordered |= bits != first
    if original is not None:
        with configured(mode="run", threads=1):
            if bits_of(original(problem)) != first:
                raise AssertionError(f"{subject.name}: the program with mutants gives other bits ({problem})")
    return _Measured(problem, first, ordered, reached, seconds)


def _tried(subject: Subject, mutant: Mutant, switch: Switch, measured: list[_Measured]) -> dict:
    """In a child: what notices a mutant."""
    same, bits = True, {}
    for mode, order, each in _steps(mutant, measured):
        switch.choose(mutant.number, mode)
        allow(LEAST_SECONDS + TIMES * each.seconds[mode])
        with configured(mode=mode, order=order, seed=SEED, threads=1):
            try:
                results = subject.run(each.problem)
            except SimulatorError as error:
                return _found(kind_of(str(error)), str(error).split("\n")[0])
        wrong = subject.judge(each.problem, results)
        if wrong:
            return _found("numbers", wrong)
        found = bits_of(results)
        if order == "ascending" and mode == "run":
            same &= found == each.bits
            bits[id(each)] = found
        elif bits.get(id(each), found) != found and not each.ordered:
            return _found("order", f"{order}: other bits than ascending")
    allow(0)
    return {"noticed": "", "message": "", "same": same}


def _steps(mutant: Mutant, measured: list[_Measured]) -> list[tuple[str, str, _Measured]]:
    """(mode, order, problem): the cheap ones first; check mode first where a barrier is dropped."""
    ways = [(("run", order), each) for order in ORDERS for each in measured]
    ways += [(("check", "ascending"), each) for each in measured]
    first = "check" if mutant.rule == "barrier" else ""
    ways.sort(key=lambda way: (way[0][0] != first, way[1].seconds[way[0][0]]))  # stable: ascending is first
    return [(*way, each) for way, each in ways]


def _found(noticed: str, message: str) -> dict:
    return {"noticed": noticed, "message": message, "same": False}


def kind_of(message: str) -> str:
    """The kind of a complaint of the simulator's."""
    return next((kind for pattern, kind in KINDS if re.search(pattern, message)), "fault")


def bits_of(results: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The bits of results by name."""
    return {name: np.ascontiguousarray(value).tobytes() for name, value in results.items() if value is not None}


def sample(mutants: Iterable[Mutant], share: int, number: int = 0) -> list[Mutant]:
    """One in `share` of the mutants, by a hash of their places: the same ones in every run."""
    return [mutant for mutant in mutants if zlib.crc32(mutant.place.encode()) % share == number % share]
