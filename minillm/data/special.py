"""How special tokens that stand in a text are read, such as the `<|endoftext|>` between two documents.

    "One story.<|endoftext|>Another."    allow: [..., 50256, ...]    text: [..., 27, 91, 437, ...]    refuse: an error

A file of texts may hold the end-of-text token of the model that it was made for: in data it is a token unless something else is
asked for, and every other special token is refused. A prompt comes from a person: there all of it is text.
"""

from __future__ import annotations

from minillm.errors import UserError

CHOICES = ("allow", "text", "refuse")
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")  # of GPT-2 and its kind, and of Llama 3


def check_choice(special: str) -> None:
    """Raises UserError for anything but one of CHOICES and "", which is what is usual for data."""
    if special and special not in CHOICES:
        raise UserError(f'unknown --special "{special}": use one of {", ".join(CHOICES)}')


def encode_data(tokenizer, text: str, special: str = "") -> list[int]:
    """The ids of a text to learn from or to measure on. special: one of CHOICES; "" allows the end of text alone.

    Raises UserError for a special token that is not allowed, naming it and the option.
    """
    check_choice(special)
    if not special_tokens(tokenizer):
        return tokenizer.encode(text)
    ends = end_of_text(tokenizer)
    if special == "allow":
        return tokenizer.encode(text, allowed_special="all")
    if special != "text":
        refuse_tokens(tokenizer, text, () if special else ends)
    return tokenizer.encode(text, allowed_special=() if special else set(ends), disallowed_special=())


def encode_prompt(tokenizer, text: str, special: str = "text") -> list[int]:
    """The ids of a text to go on from. A BOS that stands in the text is not put before it once more."""
    ids = encode_data(tokenizer, text, special or "text")
    return ids[1:] if doubles_bos(tokenizer, text, special) else ids


def doubles_bos(tokenizer, text: str, special: str) -> bool:
    """Whether a prompt begins with the token BOS, and the tokenizer adds it, too."""
    special_ids = special_tokens(tokenizer)
    bos = tokenizer.bos_token if special_ids else None
    if special != "allow" or bos not in special_ids or not text.lstrip().startswith(bos):
        return False
    return tokenizer.encode(bos, allowed_special="all")[:2] == [special_ids[bos]] * 2


def end_of_text(tokenizer) -> dict[str, int]:
    """The tokens that end a text, by text -> id: the tokenizer's EOS, and what is known as the end of a text."""
    special_ids = special_tokens(tokenizer)
    known = {*END_OF_TEXT, tokenizer.eos_token} if special_ids else ()
    return {token: index for token, index in special_ids.items() if token in known}


def special_tokens(tokenizer) -> dict[str, int]:
    """Text -> id; none for a tokenizer of somebody's own that does no more than encode and decode."""
    return getattr(tokenizer, "special_tokens", {})


def refuse_tokens(tokenizer, text: str, allowed=()) -> None:
    """Raises UserError, naming the option, if a special token that is not allowed stands in the text."""
    for token in special_tokens(tokenizer):
        if token and token not in allowed and token in text:
            raise UserError(
                f"the text contains the special token {token!r}, at {text.index(token)}: --special allow reads it as that "
                "token, --special text as the letters that it is written with"
            )
