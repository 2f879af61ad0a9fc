"""What `minillm exercise` does: list, begin, judge, give a hint."""

from __future__ import annotations

from pathlib import Path

from minillm.checks.exercises.judging import judge
from minillm.checks.exercises.progress import keep_stars, next_hint, stars_so_far
from minillm.checks.exercises.verdict import Verdict, star_text
from minillm.files.atomic import write_atomically
from minillm.kernels.exercises.registry import EXERCISES, Exercise


def listing() -> str:
    """All exercises with the stars so far, and which one to do next."""
    stars = stars_so_far()
    width = max(len(each.name) for each in EXERCISES) + 1
    rows = [
        f"{number:>2}  {star_text(stars.get(each.name, 0))}  {each.name:<{width}} {each.summary}"
        for number, each in enumerate(EXERCISES, start=1)
    ]
    solved = sum(each.name in stars for each in EXERCISES)
    reached = sum(stars.get(each.name, 0) for each in EXERCISES)
    rows.append(f"{solved} of {len(EXERCISES)} solved, {reached} of {3 * len(EXERCISES)} stars")
    return "\n".join([*rows, *_suggestion(stars)])


def begin(exercise: Exercise) -> str:
    """Put the skeleton into the current folder; the task, and what to do with the file."""
    write_atomically(Path(exercise.file), exercise.skeleton.read_bytes())
    number = EXERCISES.index(exercise) + 1
    return "\n".join(
        [
            f"exercise {number} of {len(EXERCISES)}: {exercise.name}",
            "",
            exercise.text,
            "",
            f"wrote {exercise.file}: edit it, then `minillm exercise {exercise.name}` judges it",
            f"a hint: minillm exercise {exercise.name} --hint",
        ]
    )


def judged(exercise: Exercise, path: Path, seed: int) -> tuple[Verdict, str]:
    """The verdict on a file, which is remembered, and the report with what to do next."""
    verdict = judge(exercise, path, seed)
    rows = [verdict.text()]
    if not verdict.solved:
        own = "" if path == Path(exercise.file) else f" {path}"
        rows.append(f"the same inputs again: minillm exercise {exercise.name}{own} --seed {seed}")
        return verdict, "\n".join(rows)
    keep_stars(exercise.name, verdict.stars)
    rows.append(f"{star_text(verdict.stars)}  solved")
    return verdict, "\n".join([*rows, *_suggestion(stars_so_far() | {exercise.name: verdict.stars}, exercise)])


def hint_of(exercise: Exercise) -> str:
    """The next hint; after the last one that one again."""
    hints = exercise.hints
    number = next_hint(exercise.name, len(hints))
    return f"hint {number + 1} of {len(hints)}: {hints[number]}"


def _suggestion(stars: dict[str, int], after: Exercise = EXERCISES[-1]) -> list[str]:
    """The next exercise that is not solved; behind the last one comes the first."""
    place = EXERCISES.index(after) + 1
    left = [each.name for each in (*EXERCISES[place:], *EXERCISES[:place]) if each.name not in stars]
    if left:
        return [f"next: minillm exercise {left[0]}"]
    improvable = [each.name for each in EXERCISES if stars[each.name] < 3]
    return [f"next: more stars for {improvable[0]}"] if improvable else ["all solved, with all stars"]
