"""Regular expressions of tokenizer.json, which are Oniguruma's, in the language of the package
`regex`.

The library `tokenizers` runs them with Oniguruma in its syntax for Ruby. Most of what occurs is
spelled and meant alike in both. What is spelled alike and means something else is spelled anew
here, and what has no equal is refused by its name:

    ^ $           of every line                               a{1,2}+    (a{1,2})+, not possessive
    \\w            letters, marks, digits, connectors      a{2}?      (a{2})?, not lazy
    \\h            a hexadecimal digit                          \\z         the end; \\Z also before a last line end
"""

from __future__ import annotations

import regex

WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
ALONE = WORD + "²³¹¼½¾"  # Oniguruma takes these for part of a word, but not inside of "[...]"
OUTSIDE = {
    "w": f"[{ALONE}]",
    "W": f"[^{ALONE}]",
    "h": "[0-9a-fA-F]",
    "H": "[^0-9a-fA-F]",
    "b": f"(?:(?<=[{ALONE}])(?![{ALONE}])|(?<![{ALONE}])(?=[{ALONE}]))",
    "B": f"(?:(?<=[{ALONE}])(?=[{ALONE}])|(?<![{ALONE}])(?![{ALONE}]))",
    "A": r"\A",
    "z": r"\Z",
    "Z": r"(?=\n?\Z)",
}
INSIDE = {"w": WORD, "h": "0-9a-fA-F", "b": r"\x08"}
SAME = set("sSdDrntfv")
CONTROL = {"a": r"\x07", "e": r"\x1b"}
GROUPS = ("(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:")
FOLDED_TOGETHER = regex.compile(
    r"ss|ff|fi|fl|st", regex.IGNORECASE
)  # "ß" is "ss" to Oniguruma where case does not count
INTERVAL = regex.compile(r"\{(\d*)(,?)(\d*)\}")
PROPERTY = regex.compile(r"\{\^?[\w ]+\}")
HEX = regex.compile(r"x(?:\{([0-9a-fA-F]+)\}|([0-9a-fA-F]{1,2}))|u([0-9a-fA-F]{4})")


class NotTheSame(Exception):
    """A part of an expression that means something else in the package `regex`; its text names the
    part.
    """


def translated(expression: str) -> str:
    """The expression in the language of `regex`. Raises NotTheSame.

    >>> translated(r" ?\\p{L}+|\\s+(?!\\S)")
    ' ?\\\\p{L}+|\\\\s+(?!\\\\S)'
    >>> translated("a{1,2}+")
    '(?:a{1,2})+'
    """
    if "(?i" in expression and (found := FOLDED_TOGETHER.search(expression)):
        raise NotTheSame(f'"{found[0]}" where capitals do not count')
    return _Translation(expression).run()


class _Translation:
    """Goes through an expression once. `atom` is where in `out` that part begins which a
    quantifier would repeat.
    """

    def __init__(self, expression: str):
        self.text, self.at = expression, 0
        self.out: list[str] = []
        self.atom, self.open_groups = 0, []

    def run(self) -> str:
        steps = {"\\": self.escape, "[": self.character_class, "(": self.group, ")": self.close, "{": self.interval}
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in steps:
                steps[character]()
            elif character in "?*+":
                self.emit_quantifier(character)
            else:
                line_ends = {"^": r"(?:\A|(?<=\n)(?=[\s\S]))", "$": r"(?![^\n])"}
                self.emit_atom(line_ends.get(character, character), 1)
        return "".join(self.out)

    def emit_atom(self, text: str, length: int) -> None:
        self.atom = len(self.out)
        self.out.append(text)
        self.at += length

    def emit_quantifier(self, text: str) -> None:
        self.out.append(text)
        self.at += len(text)

    def interval(self) -> None:
        match = INTERVAL.match(self.text, self.at)
        if not match or match[0] in ("{}", "{,}"):
            self.emit_atom(r"\{", 1)
            return
        self.emit_quantifier(match[0])
        following = self.text[self.at : self.at + 1]
        if following == "+" or following == "?" and not match[2]:
            self.out[self.atom :] = ["(?:" + "".join(self.out[self.atom :]) + ")"]

    def group(self) -> None:
        self.open_groups.append(len(self.out))
        if self.text[self.at + 1 : self.at + 2] != "?":
            self.emit_quantifier("(")
            return
        for start in GROUPS:
            if self.text.startswith(start, self.at):
                self.emit_quantifier(start)
                return
        end = self.text.find(")", self.at)
        if self.text.startswith("(?i)", self.at) and self.at == 0:
            self.open_groups.pop()
            self.emit_quantifier("(?i)")
            return
        raise NotTheSame(f"the group {self.text[self.at : min(end + 1, self.at + 8)] or self.text[self.at :]!r}")

    def close(self) -> None:
        if self.open_groups:
            self.atom = self.open_groups.pop()
        self.emit_quantifier(")")

    def escape(self) -> None:
        self.emit_atom(*self.escaped(OUTSIDE))

    def escaped(self, special: dict[str, str]) -> tuple[str, int]:
        """(the escape at this place in the other language, its length)."""
        character = self.text[self.at + 1 : self.at + 2]
        if character in ("p", "P") and (match := PROPERTY.match(self.text, self.at + 2)):
            return self.text[self.at : match.end()], match.end() - self.at
        if match := HEX.match(self.text, self.at + 1):
            return regex.escape(chr(int(match[1] or match[2] or match[3], 16))), match.end() - self.at
        if character in special:
            return special[character], 2
        if character in CONTROL:
            return CONTROL[character], 2
        if character in SAME or character and not character.isalnum():
            return self.text[self.at : self.at + 2], 2
        raise NotTheSame(f'"\\{character}"')

    def character_class(self) -> None:
        start = self.at
        self.atom = len(self.out)
        self.at += 2 if self.text[self.at + 1 : self.at + 2] == "^" else 1
        inside = [self.text[start : self.at]]
        first = True
        while self.at < len(self.text) and (first or self.text[self.at] != "]"):
            first = False
            character = self.text[self.at]
            if character == "\\":
                text, length = self.escaped(INSIDE)
                inside.append(text)
                self.at += length
                continue
            if character == "[" or self.text.startswith("&&", self.at):
                raise NotTheSame('"[" or "&&" inside of "[...]"')
            inside.append(character)
            self.at += 1
        if self.at >= len(self.text):
            raise NotTheSame('a "[" without its "]"')
        self.out.append("".join(inside) + "]")
        self.at += 1
