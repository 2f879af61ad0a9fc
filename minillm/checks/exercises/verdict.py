"""What the judge found: data, the stars, and the report of `minillm exercise`.

    no star         not solved
    one star        solved
    two stars       no count is above TWO_STARS times that of the best known solution
    three stars     no count is above THREE_STARS times that

The counts are sectors, wavefronts and operations (task.py). A backward pass has none: solved, it
has three stars.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from minillm.kernels.exercises.registry import Exercise
from minillm.kernels.exercises.task import Counts

TWO_STARS, THREE_STARS = 2.0, 1.1
UNITS = {
    "sectors": "of 32 bytes of global memory",
    "wavefronts": "of shared memory",
    "operations": "of warps on either memory",
}


@dataclass
class Verdict:
    """file: as the reader named it. seed: of the inputs. right: the sizes that were passed. size:
    the one that was not. problem: what is wrong there, in lines, "" if it is solved. printed: what
    the kernel printed at the first size. counts, best: at the size `measured`, of a solved kernel.
    """

    exercise: Exercise
    file: str
    seed: int
    right: list[str] = field(default_factory=list)
    size: str = ""
    problem: str = ""
    printed: list[str] = field(default_factory=list)
    measured: str = ""
    counts: Counts | None = None
    best: Counts | None = None

    @property
    def solved(self) -> bool:
        return not self.problem

    @property
    def stars(self) -> int:
        """0 to 3."""
        if not self.solved:
            return 0
        if self.counts is None:
            return 3
        return 1 + sum(
            all(count <= factor * best for count, best in zip(self.counts, self.best))
            for factor in (TWO_STARS, THREE_STARS)
        )

    def text(self) -> str:
        """The report, of 80 columns."""
        rows = [f"{self.exercise.name}: {self.file}, inputs of --seed {self.seed}"]
        if self.printed:
            rows += ["  it printed, at the first size:", *(f"    {line}" for line in self.printed)]
        if self.right:
            rows.append(f"  right: {'; '.join(self.right)}")
        if not self.solved:
            at = f"  wrong: {self.size}" if self.size else "  wrong:"
            return "\n".join([*rows, at, self.problem])
        if self.counts is not None:
            rows += _table(self)
            if self.stars == 3 and any(count < best for count, best in zip(self.counts, self.best)):
                rows.append("  better than the best known solution")
        return "\n".join(rows)


def star_text(stars: int) -> str:
    """
    >>> star_text(2)
    '★★☆'
    """
    return "★" * stars + "☆" * (3 - stars)


def _table(verdict: Verdict) -> list[str]:
    rows = [f"  {'':<12} {'yours':>10} {'best known':>11}   ({verdict.measured})"]
    for name, count, best in zip(Counts._fields, verdict.counts, verdict.best):
        mark = "!" if count > TWO_STARS * best else "+" if count > THREE_STARS * best else " "
        rows.append(f"{mark} {name:<12} {count:>10,} {best:>11,}   {UNITS[name]}")
    return rows


def size_text(size: dict[str, int]) -> str:
    """
    >>> size_text({"rows": 3, "width": 5})
    'rows 3, width 5'
    """
    return ", ".join(f"{name} {number}" for name, number in size.items())
