"""Prints docs/mutants.md: how many mutants each name has, and why some of them survive.

python tests/mutants_page.py > docs/mutants.md        tries them all: some minutes
"""

from collections import Counter

from minillm.checks.mutation.equivalent import known_as_equal
from minillm.checks.mutation.run import Result, mutate

PAGE = """\
# Mutants

[Planted faults](planted-faults.md) are chosen by people. Mutants are made by rule, from the syntax tree of a backward
pass: a term, a factor, a sum, a transpose, a `keepdims`, a mask or a statement is dropped; a sign, an axis, a constant,
an operator, a border, a slice, a subscript of `einsum` is another one; an operand is mistaken for another of the same
shape; a mean is taken for a sum, `=` for `+=`, one branch for the other; results and arguments change places. One change
at a time, and the gradient check has to notice.

```console
$ minillm gradcheck --mutate layer_norm softmax dpo
name        mutants  caught  same function  survive
layer_norm      {layer_norm.tried}     {layer_norm.caught}              0        0
softmax          {softmax.tried}      {softmax.caught}              0        0
dpo              {dpo.tried}      {dpo.caught}              1        0
{sum.tried} mutants, {sum.caught} caught, 1 the same function, 0 survive
```

Without names all are tried, in a minute or two. Finite differences are of forward alone, which a fault in backward does
not change: a number is measured once, and a mutant costs one forward and one backward. Optimizers have no gradient. Their
steps are compared with the formula of their paper, written out a number at a time
([optimizer_formulas.py](../minillm/checks/optimizer_formulas.py)).

What survives is looked at. Either the check has a hole, which is mended by better inputs
([cases_paths.py](../minillm/checks/cases_paths.py) has those that mutants found: a second block of queries, a loss that
is a part of a larger one, a gradient that is added to another, ...). Or the mutant is the same function in other words;
then it is in [equivalent.txt](../minillm/checks/mutation/equivalent.txt) with the reason, and `--all` shows it. A test
fails for a survivor that is not in this list, and for an entry that is noticed by now. A backward of your own:
[your-own.md](your-own.md).

This page is generated (`python tests/mutants_page.py > docs/mutants.md`); the tests compare it with what they find.

{table}

## Why the others are the same function

{reasons}
"""


class Counts:
    """Of one name, or of several: tried, caught, and the same function."""

    def __init__(self, *results: Result):
        self.tried = sum(len(result.outcomes) for result in results)
        self.caught = sum(len(result.caught) for result in results)
        self.equal = sum(len(result.equal) for result in results)


def row(result: Result) -> str:
    """The line of the table for a name."""
    counts = Counts(result)
    return f"| {result.name} | {counts.tried} | {counts.caught} | {counts.equal} |"


def reasons() -> str:
    """A line for each reason: how many mutants, and in which files."""
    found: dict[str, Counter] = {}
    for (file, *_), reason in known_as_equal().items():
        found.setdefault(reason, Counter())[file.rpartition(".")[2]] += 1
    lines = ["| mutants | reason | in |", "|---|---|---|"]
    for reason, files in sorted(found.items(), key=lambda item: -sum(item[1].values())):
        lines.append(f"| {sum(files.values())} | {reason} | {', '.join(files)} |")
    return "\n".join(lines)


def page() -> str:
    """The text of docs/mutants.md."""
    results = list(mutate(confirm=False))
    shown = {result.name: result for result in results}
    every = Counts(*results)
    table = ["| name | mutants | caught | same function |", "|---|---|---|---|", *map(row, results)]
    table.append(f"| **all** | {every.tried:,} | {every.caught:,} | {every.equal} |")
    few = [shown[name] for name in ("layer_norm", "softmax", "dpo")]
    counts = {result.name: Counts(result) for result in few}
    return PAGE.format(**counts, sum=Counts(*few), table="\n".join(table), reasons=reasons())


if __name__ == "__main__":
    print(page(), end="")
