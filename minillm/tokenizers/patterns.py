"""How text is cut into pieces before bytes are merged: no token crosses the border of two pieces.

"Hello, world's 2026!"  with gpt2    ->  Hello|,| world|'s| 2026|!
                        with cl100k  ->  Hello|,| world|'s| |202|6|!
                        with qwen2   ->  Hello|,| world|'s| |2|0|2|6|!
"""

from __future__ import annotations

import regex

from minillm.errors import UserError
from minillm.tokenizers.file_patterns import NotTheSame, translated

# Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), and the code
# released with it.
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# GPT-4 and Llama 3: contractions in capitals too, numbers in threes, line ends by themselves.
CL100K = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"""
    r"""|\s+(?!\S)|\s+"""
)
# Qwen: as GPT-4, but every digit is a piece.
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
# GPT-4o: words are cut where a capital follows a small letter, and keep their contraction.
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASES = rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+END|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*END"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = _CASES.replace("END", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"|\p{N}{1,3}" + _REST
# Mistral from Nemo on: the same without contractions, and every digit is a piece.
TEKKEN = _CASES.replace("END", "") + r"|\p{N}" + _REST
# SmolLM: every digit is a piece, and what is left is cut as in GPT-2.
SMOLLM = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"""

PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "smollm": SMOLLM, "qwen2": QWEN2, "o200k": O200K, "tekken": TEKKEN}


def compile_pattern(pattern: str) -> regex.Pattern:
    """A pattern by its name or as a regular expression, in the spelling of tokenizer.json.

    Raises UserError if it is neither.

    Each match is a piece; what lies between matches is a piece too, so that no text is lost.
    """
    compiled = compile_expression(pattern)
    if compiled.groups:
        raise UserError(
            f"{pattern!r} has groups: write (?:...) in place of (...), or the pieces would be their contents"
        )
    return compiled


def compile_expression(pattern: str) -> regex.Pattern:
    """As `compile_pattern`; groups are allowed, and mean nothing. Raises UserError."""
    if pattern in PATTERNS:
        return regex.compile(PATTERNS[pattern])
    try:
        return regex.compile(translated(pattern))
    except NotTheSame as error:
        raise UserError(f"the regular expression {pattern!r} has {error}, which minillm does not know") from None
    except regex.error as error:
        names = ", ".join(PATTERNS)
        raise UserError(
            f"{pattern!r} is neither a pattern's name ({names}) nor a regular expression: {error}"
        ) from None


def pattern_name(expression: str) -> str | None:
    """The name under which a regular expression is known, None if it is not.

    >>> pattern_name(CL100K)
    'cl100k'
    """
    return next((name for name, known in PATTERNS.items() if known == expression), None)


def pieces(pattern: regex.Pattern, text: str) -> list[str]:
    """The pieces of a text, in order; joined they are the text.

    >>> pieces(compile_pattern("gpt2"), "Hello, world's 2026!")
    ['Hello', ',', ' world', "'s", ' 2026', '!']
    """
    if not pattern.groups:
        found = pattern.findall(text)
        if sum(map(len, found)) == len(text):
            return [piece for piece in found if piece]
    cut, end = [], 0
    for start, stop in matches(pattern, text):
        cut += [text[end:start], text[start:stop]]
        end = stop
    return [piece for piece in (*cut, text[end:]) if piece]


def matches(pattern: regex.Pattern, text: str) -> list[tuple[int, int]]:
    """Where a pattern matches, from left to right.

    There is no empty match where another one ends, nor in an empty text.

    >>> matches(compile_pattern("a*"), "baac")
    [(0, 0), (1, 3), (4, 4)]
    """
    found, end = [], -1
    for match in pattern.finditer(text) if text else ():
        if match.end() > match.start() or match.start() != end:
            found.append(match.span())
            end = match.end()
    return found
