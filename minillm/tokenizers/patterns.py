"""How text is cut into pieces before bytes are merged: no token crosses the border of two pieces.

"Hello, world's 2026!"  with gpt2    ->  Hello|,| world|'s| 2026|!
                        with cl100k  ->  Hello|,| world|'s| |202|6|!
"""

from __future__ import annotations

import regex

from minillm.errors import UserError

# Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), and the code released with it.
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# GPT-4 and Llama 3: contractions in capitals too, numbers in threes, line ends by themselves.
CL100K = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"""
    r"""|\s+(?!\S)|\s+"""
)
# SmolLM: every digit is a piece, and what is left is cut as in GPT-2.
SMOLLM = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"""

PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "smollm": SMOLLM}


def compile_pattern(pattern: str) -> regex.Pattern:
    """A pattern by its name or as a regular expression of the package `regex`. Raises UserError if it is neither.

    Each match is a piece; what lies between matches is a piece too, so that no text is lost.
    """
    try:
        compiled = regex.compile(PATTERNS.get(pattern, pattern))
    except regex.error as error:
        names = ", ".join(PATTERNS)
        raise UserError(
            f"{pattern!r} is neither a pattern's name ({names}) nor a regular expression: {error}"
        ) from None
    if compiled.groups:
        raise UserError(
            f"{pattern!r} has groups: write (?:...) in place of (...), or the pieces would be their contents"
        )
    return compiled


def pieces(pattern: regex.Pattern, text: str) -> list[str]:
    """The pieces of a text, in order; joined they are the text.

    >>> pieces(compile_pattern("gpt2"), "Hello, world's 2026!")
    ['Hello', ',', ' world', "'s", ' 2026', '!']
    """
    found = pattern.findall(text)
    if sum(map(len, found)) == len(text):
        return found
    cut, end = [], 0
    for match in pattern.finditer(text):
        cut += [text[end : match.start()], match[0]]
        end = match.end()
    return [piece for piece in (*cut, text[end:]) if piece]
