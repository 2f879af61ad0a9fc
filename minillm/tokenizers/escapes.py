r"""Characters as the vocabulary of RWKV spells them, which GGUF files of models of characters use.

A line end, a tab, a carriage return, the backslash and the zero are escaped; any byte may be "\x"
and two digits.
"""

from __future__ import annotations

import re

_ESCAPES = {"\0": "\\x00", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}
_CHARACTERS = {escape: character for character, escape in _ESCAPES.items()}
_PARTS = re.compile(r"\\x[0-9a-f]{2}|\\[\s\S]|[\s\S]")


def escaped(character: str) -> str:
    r"""A character as a token of the vocabulary.

    >>> print(escaped("\n"), escaped("\\"), escaped("\0"), escaped("é"))
    \n \\ \x00 é
    """
    return _ESCAPES.get(character, character)


def unescaped(token: str) -> str | None:
    r"""The text of a token; None where it is no UTF-8.

    >>> unescaped("a"), unescaped(r"\n"), unescaped(r"\xc3\xa9"), unescaped(r"\xff")
    ('a', '\n', 'é', None)
    """
    try:
        return b"".join(map(_bytes_of, _PARTS.findall(token))).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _bytes_of(part: str) -> bytes:
    if len(part) == 4:
        return bytes([int(part[2:], 16)])
    return _CHARACTERS.get(part, part[-1]).encode("utf-8")
