"""Write: a text token by token, and the sampler as a pipeline.

The page has the text, a tree of branches, and sends prompt and written tokens as ids each time; the
server has a decoder for each tab (texts.py). So every request can be answered on its own.

    /write/settings    what the page is made of: controls, first settings, readings of a prompt
    /write/start       a prompt -> its ids
    /write/next        how the next token is chosen (choice.py)
    /write/run         the same for one token after another, as a stream
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from starlette.routing import Route

from minillm.data.special import CHOICES, doubles_bos, encode_prompt
from minillm.errors import UserError
from minillm.sampler.penalties import USUAL_BREAKERS, breaker_tokens
from minillm.sampler.settings import SamplerSettings
from minillm.tokenizers import BytePairTokenizer
from minillm.tokenizers.start import first_prompt, start_of_text
from minillm.web.play.answers import answer, stream
from minillm.web.play.arguments import id_list, number_or_none, text, whole
from minillm.web.play.choice import another_choice, choice
from minillm.web.play.studio import Studio
from minillm.web.play.texts import Texts, last_pass
from minillm.web.sampler_controls import sampler_controls, settings_from

TEMPERATURE = 0.8  # at first, as of `minillm generate`
LONGEST_PROMPT = 100_000  # characters
LONGEST_TEXT = 10_000  # tokens that are written
MOST_AT_ONCE = 1_000  # tokens of a run
EMPTY = "the prompt is empty: write a word, or begin as the model's texts begin"
SESSION = 64  # characters of a session's name


def routes(studio: Studio) -> list[Route]:
    """The routes of this view."""
    texts = Texts(studio.model)

    def prompted(studio: Studio, arguments: dict) -> dict:
        return start(studio, texts, arguments)

    def chosen(studio: Studio, arguments: dict) -> dict:
        return next_token(studio, texts, arguments)

    def running(studio: Studio, arguments: dict) -> Iterator[dict]:
        return run(studio, texts, arguments)

    return [
        answer("/write/settings", studio, settings),
        answer("/write/start", studio, prompted),
        answer("/write/next", studio, chosen),
        stream("/write/run", studio, running),
    ]


def settings(studio: Studio, arguments: dict) -> dict:
    """What the page is made of."""
    return {
        "controls": sampler_controls(),
        "values": {"temperature": TEMPERATURE},
        "readings": list(CHOICES),
        "prompt": first_prompt(studio.tokenizer, "The") or "",
        "ends": list(studio.end_tokens),
        "context": studio.model.config.context_length,
    }


def start(studio: Studio, texts: Texts, arguments: dict) -> dict:
    """A prompt as the model reads it: {ids, pieces, logprobs, text, notes}.

    Arguments: prompt, a text, or null for what the model's texts begin with; special, how special
    tokens in it are read; session. Raises UserError as `minillm generate` does for a prompt that
    cannot be read.
    """
    tokenizer, prompt, special = studio.tokenizer, arguments.get("prompt"), text(arguments, "special", 10, "") or "text"
    if prompt is None:
        ids, shown = start_of_text(tokenizer)
    else:
        shown = text(arguments, "prompt", LONGEST_PROMPT, "")
        ids = encode_prompt(tokenizer, shown, special)
    if not ids:
        raise UserError(EMPTY)
    logprobs = texts.of(text(arguments, "session", SESSION, "")).prompt_logprobs(ids)
    return {
        "ids": list(ids),
        "pieces": [piece(tokenizer, token) for token in ids],
        "logprobs": logprobs,
        "text": shown,
        "notes": _notes(studio, shown, special, len(ids)) if prompt is not None else [],
    }


def next_token(studio: Studio, texts: Texts, arguments: dict) -> dict:
    """How the next token is chosen: `choice`, with `pieces` of its rows, `text` of its token,
    whether it `ends` the text, and how many tokens the model sees (`visible`).

    Arguments: session, prompt and written (ids), settings, mu; unlike (ids): with the next seed
    that draws another token than these; the answer then has the `seed`.
    """
    prompt, written, settings, mu = _place(studio, arguments)
    logits = texts.of(text(arguments, "session", SESSION, "")).logits(prompt, written)
    unlike = id_list(arguments, "unlike", studio.model.config.vocab_size, LONGEST_TEXT)
    if not unlike:
        return _shown(studio, choice(logits, settings, prompt, written, mu), prompt, written)
    found, seed = another_choice(logits, settings, prompt, written, mu, unlike)
    return {**_shown(studio, found, prompt, written), "seed": seed}


def run(studio: Studio, texts: Texts, arguments: dict) -> Iterator[dict]:
    """The choices of the next tokens, as `next_token` has them, each after the token of the one
    before.

    Arguments: those of next_token; token, which is written first; count, how many are written in
    all, and endless, whether to write on after an end of text.
    """
    prompt, written, settings, mu = _place(studio, arguments)
    count = whole(arguments, "count", 1, MOST_AT_ONCE)
    (token,) = id_list(arguments, "token", studio.model.config.vocab_size, 1) or (None,)
    session, endless = text(arguments, "session", SESSION, ""), arguments.get("endless") is True
    for _ in range(count):
        if token is not None:
            written = [*written, token]
        if len(written) >= LONGEST_TEXT:
            raise UserError(f"the text has {LONGEST_TEXT:,} tokens: begin a new one")
        made = choice(texts.of(session).logits(prompt, written), settings, prompt, written, mu)
        yield _shown(studio, made, prompt, written)
        if not endless and written and written[-1] in studio.end_tokens:
            return
        token, mu = made["trace"]["token"], made["mu"]


def prompt_of(studio: Studio, arguments: dict) -> list[int]:
    """The ids of the prompt. Raises UserError for none, and for those of another vocabulary."""
    prompt = id_list(arguments, "prompt", studio.model.config.vocab_size, LONGEST_PROMPT)
    if not prompt:
        raise UserError(EMPTY)
    return prompt


def piece(tokenizer, token: int) -> str:
    """The text of a token; empty for an id beyond the tokenizer's."""
    return tokenizer.piece(token) if token < tokenizer.vocab_size else ""


def sampler_settings(studio: Studio, values: object) -> SamplerSettings:
    """The settings that a page sends, with what `minillm generate` adds: the end tokens that come
    too early, and the texts over which no repetition reaches.

    Raises UserError, that of the sampler where a value is wrong.
    """
    if not isinstance(values, dict):
        raise UserError("the page sent settings that are no object: reload it")
    values = dict(values)
    if values.get("min_tokens"):
        if not studio.end_tokens:
            raise UserError("min_tokens: the model knows no end of text that could come too early; leave it out")
        values["end_tokens"] = list(studio.end_tokens)
    made = settings_from(values)
    if made.dry_multiplier and "dry_breakers" not in values:
        made = replace(made, dry_breakers=_usual_breakers(studio.tokenizer))
    return made


@lru_cache(maxsize=4)
def _usual_breakers(tokenizer) -> tuple[int, ...]:
    return breaker_tokens(tokenizer, USUAL_BREAKERS)


def _place(studio: Studio, arguments: dict) -> tuple[list[int], list[int], SamplerSettings, float | None]:
    """Prompt, what was written, settings, mirostat's mu."""
    written = id_list(arguments, "written", studio.model.config.vocab_size, LONGEST_TEXT)
    settings = sampler_settings(studio, arguments.get("settings", {}))
    return prompt_of(studio, arguments), written, settings, number_or_none(arguments, "mu")


def _shown(studio: Studio, made: dict, prompt: list[int], written: list[int]) -> dict:
    tokenizer, token = studio.tokenizer, made["trace"]["token"]
    return {
        **made,
        "pieces": [piece(tokenizer, row) for row in made["rows"]],
        "text": piece(tokenizer, token),
        "ends": token in studio.end_tokens,
        "visible": last_pass(studio.model.config.context_length, len(prompt), len(written))[1],
    }


def _notes(studio: Studio, prompt: str, special: str, length: int) -> list[str]:
    """What `minillm generate` remarks on a prompt."""
    tokenizer, notes, context = studio.tokenizer, [], studio.model.config.context_length
    if doubles_bos(tokenizer, prompt, special):
        notes.append(f"The prompt begins with {tokenizer.bos_token}, which is not put before it once more.")
    if prompt.endswith(" ") and isinstance(tokenizer, BytePairTokenizer):
        notes.append("The prompt ends in a space: byte pairs begin a word with its space, so leave the last one out.")
    if length > context:
        notes.append(
            f"The prompt has {length:,} tokens, and the model sees up to {context:,}: its beginning is not seen."
        )
    return notes
