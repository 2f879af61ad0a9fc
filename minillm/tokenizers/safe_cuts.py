r"""Where a long text can be cut so that its parts, each encoded by itself, have the whole's ids.

    "the cat|\nsat on|\nthe mat"      the ids of three parts, one after the other

Two rules, for the named patterns of patterns.py; | is the cut:

    [A-Za-z0-9] | [ \r\n]   an ASCII letter or digit, and a space or a line end after it
    \S \n | [^\s/]            a line end after what is no white space, and before what is none

Why the pieces stay the same. No pattern looks back, so what follows a cut is cut alike if a piece
ends there. None has a piece with a letter or digit and white space behind it, which is the first
rule. After one line end a piece ends unless white space follows, or the / that o200k and tekken
take with line ends, which is the second. And only white space looks ahead, by one character: in
the first rule none is before the cut; in the second it is a single character, which is a
piece with what follows or without it.

A cut may not be inside the text of an added token. Where a token takes in white space around it, or
has to be a word, or where the text is normalized first, or the pattern is another one, no cut is
known to be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex

from minillm.tokenizers.patterns import PATTERNS

# from right to left; what is no UTF-8 is a surrogate, and is no character
_CUT = regex.compile(r"(?r)(?<=[A-Za-z0-9])(?=[ \r\n])|(?<=\S\n)(?=[^\s/\ud800-\udfff])")


class SafeCuts:
    """The places where a text can be cut.

    whole: texts that stay whole, those of added tokens. reach: characters of the longest of them.
    """

    def __init__(self, whole: Iterable[str] = ()):
        self.whole = [text for text in whole if len(text) > 1]
        self.reach = max(map(len, self.whole), default=0)

    def last(self, text: str) -> int:
        """The last place in a text at which it can be cut, 0 where there is none.

        The text may go on behind what is given.

        >>> SafeCuts().last("one two three"), SafeCuts(["two three"]).last("one two thr"), SafeCuts().last("one")
        (7, 3, 0)
        """
        end = len(text)
        while (match := _CUT.search(text, 0, end)) is not None and match.start():
            at = match.start()
            if not any(self._is_inside(token, text, at) for token in self.whole):
                return at
            end = at
        return 0

    def _is_inside(self, token: str, text: str, at: int) -> bool:
        """Whether a token, or what can still become one, begins before the place and ends after
        it.
        """
        starts = range(max(0, at - len(token) + 1), at)
        return any(token.startswith(text[start : start + len(token)]) for start in starts)


class LineEnds:
    """Where a text is cut to be counted if no place is known to be right: behind a line end. A
    piece that goes over it is counted as two.
    """

    reach = 0

    def last(self, text: str) -> int:
        """The last such place, 0 where there is none."""
        return text.rfind("\n") + 1


def text_parts(text: str, cuts: SafeCuts | None, length: int) -> Iterator[str]:
    """A text in parts of up to `length` characters, where it can be cut. cuts: None for one part.

    >>> list(text_parts("one two three", SafeCuts(), 8))
    ['one two', ' three']
    """
    start, end = 0, length
    while cuts is not None and end < len(text):
        cut = cuts.last(text[start:end])
        if cut:
            yield text[start : start + cut]
            start += cut
        end += length
    yield text[start:]


def safe_cuts(tokenizer) -> SafeCuts | None:
    """The places for the texts of a tokenizer; None where none are known."""
    if tokenizer.kind == "characters":
        return SafeCuts()
    if getattr(tokenizer, "pattern", None) not in PATTERNS or not tokenizer.takes_parts:
        return None
    return SafeCuts(token.content for token in tokenizer.added_tokens)
