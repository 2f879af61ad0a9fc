"""Every backward pass and every optimizer here: all mutants are noticed, or known to be the same function."""

from pathlib import Path

import pytest
from mutants_page import reasons, row

from minillm.checks.mutation.equivalent import entry_of, known_as_equal
from minillm.checks.mutation.run import mutate
from minillm.checks.mutation.targets import names_to_mutate, targets_of
from minillm.checks.optimizer_checks import CHECKS
from minillm.errors import UserError

PAGE = (Path(__file__).parents[2] / "docs" / "mutants.md").read_text(encoding="utf-8")
# They take half of the time. What is changed there is in part that of other names, too.
SLOW = ("attention", "rotary_attention", "gpt2", "adamw", "muon", "llama", "preference")
LEAST = {"attention": 300, "layer_norm": 100, "gelu": 100, "adamw": 400, "muon": 300, "sequence_log_probability": 100}


def entries(result):
    return {entry_of(mutant) for mutant in result.survivors_and_equal}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names_to_mutate()]
)
def test_what_survives_is_the_same_function(name):
    """A new survivor fails, and so does an entry of the list that is noticed by now."""
    (result,) = mutate([name], confirm=False)
    files = {target.module.__name__.removeprefix("minillm.") for target in targets_of(name)}
    listed = {entry for entry in known_as_equal() if entry[0] in files}
    survivors = "\n".join(map(str, result.survivors))
    assert not survivors, f"look at each: mend the check, or give the reason in equivalent.txt\n{survivors}"
    assert listed == entries(result), "no longer survivors: take them out of equivalent.txt"
    assert len(result.outcomes) >= LEAST.get(name, 2)
    assert row(result) in PAGE.splitlines(), "docs/mutants.md: python tests/mutants_page.py > docs/mutants.md"


def test_the_page_has_the_reasons():
    assert reasons() in PAGE


def test_every_entry_has_a_reason_and_belongs_to_a_name():
    files = {
        target.module.__name__.removeprefix("minillm.") for name in names_to_mutate() for target in targets_of(name)
    }
    for (file, function, before, _), reason in known_as_equal().items():
        assert file in files and function and before and len(reason.split()) > 3


def test_names():
    """Every file with a gradient of its own, and every optimizer."""
    names = names_to_mutate()
    assert {"linear", "attention", "gpt2", "llama", "dpo", "cross_entropy"} <= set(names) and set(CHECKS) < set(names)
    with pytest.raises(UserError, match='nothing to mutate is named "relu": use linear, bias'):
        next(mutate(["linear", "relu"]))
