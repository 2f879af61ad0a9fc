r"""GPT-2's pattern without the regular expression: where pre-tokens begin.

    characters   I  t  '  s  _  _  o  k  !        _ is a space
    kinds        L  L  O  L  S  S  L  L  O        letter, number, other, white space
    begins       *     *     *  *        *

Source: GPT2 in patterns.py, part by part:

    \p{L}+  \p{N}+  [^\s\p{L}\p{N}]+    a run of one kind is a piece: it begins where the kind changes,
    ` ?` before each of them            or at the space before it
    \s+(?!\S)|\s+                       a run of white space leaves its last character to what follows:
                                        that one begins a piece, which goes on if it is a space
    '(?:[sdmt]|ll|ve|re)                a piece that begins with an apostrophe ends after these letters

The regular expression is the twin, and the tests compare the two.
"""

from __future__ import annotations

import sys

import numpy as np
import regex

LETTER, NUMBER, OTHER, SPACE, UNKNOWN = range(5)
EXPRESSIONS = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}
# the kind of each character, filled in as characters are met; ASCII needs no expression compiled
_kinds = np.full(sys.maxunicode + 1, UNKNOWN, np.uint8)
_kinds[:128] = [
    LETTER if each.isalpha() else NUMBER if each.isdigit() else SPACE if each in " \t\n\r\v\f" else OTHER
    for each in map(chr, range(128))
]


def code_points(text: str) -> np.ndarray:
    """The characters of a text (N,) as numbers."""
    return np.frombuffer(*((text.encode(), np.uint8) if text.isascii() else (text.encode("utf-32-le"), "<u4")))


def gpt2_begins(codes: np.ndarray) -> np.ndarray:
    """Where the pre-tokens of a text begin, in ascending order.

    codes: its characters (N,).

    >>> gpt2_begins(code_points("It's  ok!")).tolist()
    [0, 2, 4, 5, 8]
    """
    kinds = kinds_of(codes)
    begins = np.empty(len(codes), bool)
    begins[:1] = True
    is_space = kinds == SPACE
    # a kind begins, and no space before it belongs to it
    np.logical_and(kinds[1:] != kinds[:-1], codes[:-1] != ord(" "), out=begins[1:])
    # the last white space of a run
    begins[:-1] |= is_space[:-1] & ~is_space[1:]
    _cut_contractions(codes, kinds, begins)
    return np.flatnonzero(begins)


def _cut_contractions(codes: np.ndarray, kinds: np.ndarray, begins: np.ndarray) -> None:
    """'s, 't and so on are pieces: the letters after them begin the next one."""
    (at,) = np.nonzero((codes[:-1] == ord("'")) & begins[:-1] & (kinds[1:] == LETTER))
    first = codes[at + 1]
    second = codes[np.minimum(at + 2, len(codes) - 1)]  # a text that ends here ends in `first`, which is no pair of it
    short = np.isin(first, _numbers("sdmt"))
    long = np.zeros(len(at), bool)
    for letters in ("ll", "ve", "re"):
        long |= (first == ord(letters[0])) & (second == ord(letters[1])) & (at + 2 < len(codes))
    begins[at[short | long] + 1] = False
    for ends in (at[short] + 2, at[long] + 3):
        begins[ends[ends < len(codes)]] = True


def kinds_of(codes: np.ndarray) -> np.ndarray:
    """The kind of each character (N,) -> (N,), as the package regex sees it."""
    kinds = _kinds[codes]
    if (kinds == UNKNOWN).any():
        new = np.unique(codes[kinds == UNKNOWN])
        text = new.astype("<u4").tobytes().decode("utf-32-le")
        _kinds[new] = OTHER
        for kind, expression in EXPRESSIONS.items():
            _kinds[[ord(character) for character in regex.findall(expression, text)]] = kind
        kinds = _kinds[codes]
    return kinds


def _numbers(text: str) -> list[int]:
    return list(map(ord, text))
