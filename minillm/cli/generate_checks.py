"""Options of `minillm generate` that exclude each other are refused; those without effect get a
note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from minillm.cli.options import option
from minillm.errors import UserError

DEFAULT_TOKENS = 500  # --max-tokens
NO_CHOICE = ("ties", "order")  # how other settings are read
SEARCHES = (
    *("beams", "length_penalty", "early_stopping", "n_best", "contrastive_alpha"),
    *("draft", "lookup", "lookahead"),
)
OFF = {  # values at which an option does nothing, if that is not 0
    **dict.fromkeys(("temperature", "top_p", "typical_p", "repetition_penalty", "beams", "n_best", "num_samples"), 1),
    "order": "minillm",
}
NEEDS = {  # an option, and those of which one must be there for it to have an effect
    "xtc_threshold": ("xtc_probability",),
    "mirostat_eta": ("mirostat_tau",),
    "dry_base": ("dry_multiplier",),
    "dry_allowed_length": ("dry_multiplier",),
    "dry_breakers": ("dry_multiplier",),
    "penalty_window": (
        *("repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("no_repeat_ngram", "dry_multiplier"),
    ),
    "length_penalty": ("beams",),
    "early_stopping": ("beams",),
    "lookahead": ("draft", "lookup"),
    "chart": ("compare",),
}


def cuts() -> list[str]:
    """The settings that say which tokens may be chosen."""
    from minillm.sampler.settings import CUTS

    return _of_panels(CUTS)


def choosing() -> list[str]:
    """The settings that choose a token: cuts, penalties, tokens that are wanted or not."""
    from minillm.sampler.settings import CUTS, MEMORY, WANTED

    return _of_panels(CUTS, MEMORY, WANTED)


def _of_panels(*panels: str) -> list[str]:
    from minillm.sampler.settings import SamplerSettings

    named = [field.name for field in fields(SamplerSettings) if field.metadata.get("panel") in panels]
    return [name for name in named if name not in NO_CHOICE]


def check_options(given: Mapping) -> list[str]:
    """Raises UserError for options that exclude each other; returns a line for each that has no
    effect.

    given: the options of the command line by name, without those that were left out.
    """
    on = {name for name, value in given.items() if not _is_off(name, value)}
    if "dry_breakers" in given and not all(given["dry_breakers"]):
        raise UserError("--dry-breaker is empty: it would be in every token, and DRY would do nothing; leave it out")
    if "compare" in on:
        refused = ("temperature", *choosing(), *SEARCHES, "order", "json_lines", "trace", "logprobs")
        kept_for = "--compare shows every strategy in a table of its own"
        _refuse(kept_for, [name for name in (*refused, "max_time") if name in on])
        return list(_without_effect(given, on))
    if {"draft", "lookup"} <= on:
        raise UserError("--draft and --lookup both guess ahead: choose one")
    if {"min_tokens", "ignore_end"} <= on:
        raise UserError("--min-tokens keeps an end of text away, --ignore-end writes on after it: leave one out")
    if search := next((name for name in ("beams", "contrastive_alpha") if name in on), None):
        _check_search(search, on, given)
    return list(_without_effect(given, on))


def is_greedy(given: Mapping) -> bool:
    """Whether the likeliest token is always chosen."""
    return given.get("temperature") == 0 or (given.get("top_k") == 1 and given.get("order") in (None, "minillm"))


def _check_search(search: str, on: set[str], given: Mapping) -> None:
    """A search looks at the model's own probabilities; contrastive search at the likeliest top_k by
    them.
    """
    allowed = ("top_k",) if search == "contrastive_alpha" else ()
    asked = on | ({"temperature"} if given.get("temperature") == 0 else set())
    ignored = [name for name in ("temperature", *choosing(), "order") if name not in allowed]
    _refuse(f"{option(search)} looks at the model's own probabilities", [name for name in ignored if name in asked])


def _without_effect(given: Mapping, on: set[str]) -> Iterator[str]:
    for name, needed in NEEDS.items():
        if name in on and not on & set(needed):
            yield f"{option(name)} changes nothing without {' or '.join(map(option, needed))}"
    searches = {"beams", "contrastive_alpha"} & on
    if "seed" in given and (searches or is_greedy(given)) and "compare" not in on:
        yield "--seed changes nothing: nothing is drawn where the likeliest is chosen"
    if given.get("temperature") == 0 and not searches:
        named = [option(name) for name in cuts() if name in on and name not in NEEDS]
        if named:
            yield f"{', '.join(named)}: no effect at --temperature 0, which takes the likeliest token anyway"
    if given.get("num_samples", 1) > 1 and is_greedy(given):
        yield f"--num-samples {given['num_samples']}: the likeliest token is always the same, and so are the texts"
    if "xtc_probability" in on and given.get("xtc_threshold", 0) > 0.5:
        yield "--xtc-threshold above 0.5 turns XTC off: two tokens cannot both be likelier than that"
    most = given.get("max_tokens", DEFAULT_TOKENS)
    if given.get("min_tokens", 0) >= most:
        yield f"--min-tokens {given['min_tokens']}: the text ends at --max-tokens {most} in any case"
    late = [position for position in _positions(given.get("forced_tokens")) if position >= most]
    if late:
        yield f"--force-token at {late[0]}: the last position is {most - 1} (--max-tokens {most})"
    banned = set(given.get("banned_tokens") or ()) & set(_positions(given.get("logit_bias")))
    if banned:
        yield f"--logit-bias of token {min(banned)}: it is banned"


def _positions(pairs) -> list[int]:
    """The numbers before the colons of options such as 3:17; those that are none are refused
    elsewhere.
    """
    return [int(left) for left in (pair.partition(":")[0] for pair in pairs or ()) if left.strip().isdecimal()]


def _is_off(name: str, value) -> bool:
    """Whether an option has the value at which it does nothing."""
    value = getattr(value, "value", value)
    return value in (None, False, 0, [], ()) or (name in OFF and value == OFF[name])


def _refuse(why: str, names: list[str]) -> None:
    if names:
        raise UserError(f"{why}: leave out {', '.join(map(option, names))}")
