"""Bytes spelled as characters, so that white space and control bytes are visible: GPT-2's files,
tokenizer.json, GGUF.

A byte that is a printable character of Latin-1 is that character, the others are U+0100 and on, in
order ("Ġ" is the space).
"""

from __future__ import annotations

from functools import cache


@cache
def bytes_to_unicode() -> tuple[str, ...]:
    """The character of each byte.

    >>> "".join(bytes_to_unicode()[byte] for byte in b" a\\n\\xe9")
    'ĠaĊé'
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


def spell(token: bytes) -> str:
    """Bytes as characters."""
    return "".join(map(bytes_to_unicode().__getitem__, token))


@cache
def _bytes_of_characters() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(bytes_to_unicode())}


def unspell(token: str) -> bytes:
    """Characters as bytes. Raises KeyError for a character that means no byte."""
    return bytes(map(_bytes_of_characters().__getitem__, token))


def bytes_of(token: str) -> bytes:
    """The bytes that a token is decoded to: those that it spells, or, if it spells none, its own.

    >>> bytes_of("Ġa"), bytes_of("中")
    (b' a', b'\\xe4\\xb8\\xad')
    """
    try:
        return unspell(token)
    except KeyError:
        return token.encode("utf-8")
