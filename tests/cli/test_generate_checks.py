"""Options that make no sense beside others are refused; those that change nothing are reported."""

from dataclasses import fields

import pytest

from minillm.cli.generate_checks import NEEDS, NO_CHOICE, OFF, check_options, choosing, cuts
from minillm.cli.options import option
from minillm.errors import UserError
from minillm.sampler.penalties import breaker_tokens
from minillm.sampler.settings import SamplerSettings
from minillm.tokenizers import CharacterTokenizer

SAMPLING = dict(
    temperature=0.5, top_k=5, top_p=0.9, min_p=0.1, typical_p=0.9, epsilon_cutoff=0.1, eta_cutoff=0.1, top_n_sigma=1.0,
    xtc_probability=0.5, mirostat_tau=2.0, repetition_penalty=1.2, presence_penalty=1.0, frequency_penalty=1.0,
    no_repeat_ngram=2, dry_multiplier=1.0, logit_bias=["3:1"], banned_tokens=[3], forced_tokens=["0:3"], min_tokens=2,
)  # fmt: skip


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("other", [dict(beams=3), dict(contrastive_alpha=0.5), dict(compare=True)])
def test_what_a_search_does_not_look_at_is_refused(other, name):
    if "contrastive_alpha" in other and name == "top_k":
        assert check_options({**other, "top_k": 5}) == []
        return
    with pytest.raises(UserError, match=f"leave out {option(name)}$"):
        check_options({**other, name: SAMPLING[name]})


@pytest.mark.parametrize("name", [*OFF, "presence_penalty", "top_k", "banned_tokens"])
def test_what_is_off_is_refused_nowhere(name):
    value = OFF.get(name, [] if name == "banned_tokens" else 0)
    for other in (dict(beams=3), dict(contrastive_alpha=0.5), dict(compare=True)):
        assert name in other or check_options({**other, name: value}) == []


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(beams=2, temperature=0.0), "leave out --temperature"),
        (dict(dry_multiplier=1.0, dry_breakers=["\n", ""]), "--dry-breaker is empty"),
        (dict(draft="a", lookup=True), "choose one"),
        (dict(min_tokens=3, ignore_end=True), "leave one out"),
        (dict(compare=True, json_lines=True, max_time=2.0), "leave out --json, --max-time"),
        (dict(compare=True, beams=2, lookup=True), "leave out --beams, --lookup"),
    ],
)
def test_what_excludes_each_other(given, message):
    with pytest.raises(UserError, match=message):
        check_options(given)


@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_another_option(name):
    value = ["x"] if name == "dry_breakers" else 0.3
    (note,) = check_options({name: value})
    assert note.startswith(f"{option(name)} changes nothing without --")
    for needed in NEEDS[name]:
        assert check_options({name: value, needed: True if needed in ("lookup", "compare") else 2}) == []


@pytest.mark.parametrize(
    "given, notes",
    [
        (dict(temperature=0.0, seed=3), ["--seed changes nothing"]),
        (dict(top_k=1, seed=3), ["--seed changes nothing"]),
        (dict(beams=3, seed=3), ["--seed changes nothing"]),
        (dict(temperature=0.0, top_p=0.9, mirostat_tau=3.0), ["--top-p, --mirostat: no effect at --temperature 0"]),
        (dict(temperature=0.0, num_samples=3), ["--num-samples 3: the likeliest token is always the same"]),
        (dict(xtc_probability=0.5, xtc_threshold=0.6), ["--xtc-threshold above 0.5 turns XTC off"]),
        (dict(min_tokens=9, max_tokens=9), ["--min-tokens 9: the text ends at --max-tokens 9"]),
        (dict(forced_tokens=["1:2", "5:2"], max_tokens=5), ["--force-token at 5: the last position is 4"]),
        (dict(banned_tokens=[4], logit_bias=["4:2"]), ["--logit-bias of token 4: it is banned"]),
        (dict(temperature=0.8, top_k=40, seed=1, stop=["x"], max_time=3.0, num_samples=2), []),
        (dict(temperature=0.0, repetition_penalty=1.2), []),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_reported(given, notes):
    told = check_options(given)
    assert len(told) == len(notes) and all(line.startswith(start) for line, start in zip(told, notes)), told


def test_an_empty_breaker_is_refused_by_the_sampler_too():
    with pytest.raises(UserError, match="a breaker of DRY is empty"):
        breaker_tokens(CharacterTokenizer("ab"), ["a", ""])


def test_every_setting_of_the_sampler_is_refused_beside_compare():
    """A new one, too: the lists are made from the settings' panels."""
    shown = {field.name for field in fields(SamplerSettings) if field.metadata.get("panel")}
    assert shown <= {*choosing(), *NO_CHOICE, "temperature"} and set(cuts()) < set(choosing())
