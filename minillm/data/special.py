"""How special tokens in a text are read, such as the `<|endoftext|>` between two documents.

    "One story.<|endoftext|>Another."    allow: [..., 50256, ...]    text: [..., 27, 91, 437, ...]    refuse: an error

Training data may contain the end-of-text token of the model that it was made for: by default it is
read as that token, and every other special token is refused. A prompt is typed by a person: by
default all of it is text.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from minillm.errors import UserError

CHOICES = ("allow", "text", "refuse")
BLOCK = 1 << 20  # ids that are looked at together
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")  # of GPT-2 and its kind, and of Llama 3


def check_choice(special: str) -> None:
    """Raises UserError unless `special` is one of CHOICES or "", the default for data."""
    if special and special not in CHOICES:
        raise UserError(f'unknown --special "{special}": use one of {", ".join(CHOICES)}')


def encode_data(tokenizer, text: str, special: str = "", around: bool = True) -> list[int]:
    """The ids of a text for training or evaluation.

    special: one of CHOICES; "" allows the end of text alone. around: with the ids that the
    tokenizer puts around a text; False for a part of one.

    Raises UserError for a special token that is not allowed, naming it and the option.
    """
    check_choice(special)
    encode = tokenizer.encode if around else partial(tokenizer.encode, add_special_tokens=False)
    if not special_tokens(tokenizer):
        return encode(text)
    ends = end_of_text(tokenizer)
    if special == "allow":
        return encode(text, allowed_special="all")
    if special != "text":
        refuse_tokens(tokenizer, text, () if special else ends)
    return encode(text, allowed_special=() if special else set(ends), disallowed_special=())


def encode_prompt(tokenizer, text: str, special: str = "text") -> list[int]:
    """The ids of a prompt. If the text begins with BOS, the tokenizer's own BOS is not added."""
    ids = encode_data(tokenizer, text, special or "text")
    return ids[1:] if doubles_bos(tokenizer, text, special) else ids


def doubles_bos(tokenizer, text: str, special: str) -> bool:
    """Whether a prompt begins with the token BOS and the tokenizer adds one as well."""
    special_ids = special_tokens(tokenizer)
    bos = tokenizer.bos_token if special_ids else None
    if special != "allow" or bos not in special_ids or not text.lstrip().startswith(bos):
        return False
    return tokenizer.encode(bos, allowed_special="all")[:2] == [special_ids[bos]] * 2


def end_of_text(tokenizer) -> dict[str, int]:
    """The tokens that end a text, by text -> id: the tokenizer's EOS, and what is known as the end
    of a text.
    """
    special_ids = special_tokens(tokenizer)
    known = {*END_OF_TEXT, tokenizer.eos_token} if special_ids else ()
    return {token: index for token, index in special_ids.items() if token in known}


def end_of_text_note(tokenizer, *ids) -> str | None:
    """A line on how often the end of text is among ids; None where it is not."""
    ends = end_of_text(tokenizer)
    blocks = (part[start : start + BLOCK] for part in ids for start in range(0, len(part), BLOCK))
    count = sum(int(np.isin(block, list(ends.values())).sum()) for block in blocks)
    return f"{count:,} of them {'is' if count == 1 else 'are'} the end of text, {' or '.join(ends)}" if count else None


def special_tokens(tokenizer) -> dict[str, int]:
    """Text -> id; none for a custom tokenizer that has only encode and decode."""
    return getattr(tokenizer, "special_tokens", {})


def refuse_tokens(tokenizer, text: str, allowed=()) -> None:
    """Raises UserError, naming the option, if the text contains a special token that is not
    allowed.
    """
    for token in special_tokens(tokenizer):
        if token and token not in allowed and token in text:
            raise UserError(
                f"the text contains the special token {token!r}, at {text.index(token)}: --special allow reads it as that "
                "token, --special text as the letters that it is written with"
            )
