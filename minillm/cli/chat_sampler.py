"""The sampler of a conversation: its settings as they are shown and typed, as in
`/sampler temperature=0.7 top_k=40`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

from minillm.cli.generate_checks import check_options
from minillm.cli.options import option
from minillm.errors import UserError
from minillm.generation.conversation import Conversation
from minillm.sampler import Sampler
from minillm.sampler.settings import SamplerSettings

OFF = ("off", "none")  # typed for a value: the setting's default
_FIELDS = {field.name: field for field in fields(SamplerSettings)}
_HELP = {  # of settings that are typed as ids here, or that are no options
    "dry_breakers": 'Ids over which no repetition reaches; usually those of newline : " *',
    "end_tokens": "Ids that end an answer, for min_tokens; usually the model's own.",
    "ties": "Whether a cut keeps the lowest of equal logits, or all.",
}
_NAMES = {option(name)[2:].replace("-", "_"): name for name in _FIELDS} | {name: name for name in _FIELDS}


def make_sampler(settings: Mapping, conversation: Conversation) -> Sampler:
    """A sampler with these settings; those that depend on the model are filled in.

    min_tokens keeps away what ends an answer, and DRY's repetitions end at the usual texts. Raises
    UserError for wrong settings, and for ids that the model's vocabulary has not.
    """
    from minillm.sampler.penalties import USUAL_BREAKERS, breaker_tokens

    settings, size = dict(settings), conversation.model.config.vocab_size
    if settings.get("min_tokens") and not settings.get("end_tokens"):
        if not conversation.end_tokens:
            raise UserError("min_tokens: this model knows no end of an answer that could come too early; leave it out")
        settings["end_tokens"] = tuple(sorted(conversation.end_tokens))
    if settings.get("dry_multiplier") and not settings.get("dry_breakers"):
        settings["dry_breakers"] = breaker_tokens(conversation.tokenizer, USUAL_BREAKERS)
    sampler = Sampler(**settings)
    for name, token in sampler.settings.named_tokens():
        if token >= size:
            raise UserError(f"{name} names token {token}, but the vocabulary has only {size} tokens")
    return sampler


def change_sampler(conversation: Conversation, text: str) -> list[str]:
    """Set what is typed, all or nothing: settings of the sampler, and max_tokens. Returns notes on
    what has no effect.

    Raises UserError for what is none, naming it.
    """
    settings, max_tokens = dict(vars(conversation.sampler.settings)), conversation.max_tokens
    for word in text.split():
        name, equals, value = word.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not equals or not value:
            raise UserError(f"{word}: write name=value, as in temperature=0.7")
        if name == "max_tokens":
            max_tokens = _read_length(value)
        elif name in _NAMES:
            settings[_NAMES[name]] = read_setting(_NAMES[name], value)
        else:
            raise UserError(f"there is no setting {name!r}: /sampler shows them all")
    sampler = make_sampler(settings, conversation)
    conversation.sampler, conversation.max_tokens = sampler, max_tokens
    return [note.replace("--", "") for note in check_options(_as_options(sampler))]


def _as_options(sampler: Sampler) -> dict:
    """The settings that are on, as the options of a command line have them: pairs are texts."""
    on = {name: value for name, value in vars(sampler.settings).items() if value != default_of(name)}
    on.pop("dry_breakers", None)  # of DRY, which needs none
    return {
        name: shown_setting(value).split(",") if isinstance(value, Mapping) else value for name, value in on.items()
    }


def setting_names() -> list[str]:
    """What can be set."""
    return ["max_tokens", *_FIELDS]


def default_of(name: str):
    """The value at which a setting does nothing."""
    field = _FIELDS[name]
    return field.default_factory() if callable(field.default_factory) else field.default


def read_setting(name: str, text: str):
    """The value of a setting as it is typed: a number, a name, ids (1,2), or pairs (5:-1,7:2).

    Raises UserError that names the setting and what it may be.

    >>> read_setting("top_k", "40"), read_setting("top_k", "off"), read_setting("logit_bias", "5:-1,7:2")
    (40, None, {5: -1.0, 7: 2.0})
    """
    if text.lower() in OFF:
        return default_of(name)
    hint, rule = get_type_hints(SamplerSettings)[name], _FIELDS[name].metadata["rule"]
    kinds = [kind for kind in get_args(hint) or (hint,) if kind not in (type(None), ...)]
    try:
        if isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping):
            pairs = [part.partition(":")[::2] for part in text.split(",")]
            return {int(left): kinds[1](right) for left, right in pairs}
        if get_origin(hint) is tuple:
            return tuple(int(part) for part in text.split(","))
        return kinds[0](text)
    except ValueError:
        raise UserError(f"{name} is {text}: it must be {rule.words}") from None


def shown_setting(value) -> str:
    """A value as `read_setting` reads it.

    >>> shown_setting(None), shown_setting((1, 2)), shown_setting({5: -1.0})
    ('off', '1,2', '5:-1.0')
    """
    if value is None or value == () or value == {}:
        return OFF[0]
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{entry}" for key, entry in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def sampler_lines(conversation: Conversation) -> list[tuple[str, str]]:
    """(name=value, what it does) for every setting."""
    settings = vars(conversation.sampler.settings)
    length = shown_setting(conversation.max_tokens)
    lines = [(f"max_tokens={length}", "Tokens of an answer, at most.")]
    for name, value in settings.items():
        help = _HELP.get(name) or _FIELDS[name].metadata["help"].replace("--", "")
        lines.append((f"{name}={shown_setting(value)}", help))
    return lines


def short_settings(conversation: Conversation) -> str:
    """The settings that are on, in one line, as they can be typed."""
    settings = vars(conversation.sampler.settings)
    on = {
        name: value for name, value in settings.items() if value != default_of(name) or name in ("temperature", "seed")
    }
    on |= {"max_tokens": conversation.max_tokens}
    return " ".join(f"{name}={shown_setting(value)}" for name, value in on.items())


def _read_length(text: str) -> int | None:
    if text.lower() in OFF:
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"max_tokens is {text}: it must be a whole number of at least 1, or off")
    return int(text)
