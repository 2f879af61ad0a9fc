"""Shapes as comments write them: `(B, H, T, D)`, `(..., 3C)`, `(t, T + 1)`, and the numbers that
their letters have.

>>> shape, = shapes_in("qkv (B, T, 3C), read once")
>>> letters = Letters()
>>> letters.fit([Fit(shape, (2, 5, 36))])
True
>>> letters.numbers
{'B': 2, 'T': 5, 'C': 12}
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

LETTER = re.compile(r"(?:[A-Z](?:_[a-z]+|_?\d)?|[tnrv])$")  # T, H_kv, O_1, C3; of the small ones those of a block
TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_]\w*)|([-+*/])|(\.\.\.))")
GROUP = re.compile(r"(?<![\w\])])\(([^()]*)\)")  # not the parentheses of a call
ANY = "..."  # any number of axes; in a sum, any number


@dataclass(frozen=True)
class Shape:
    """A shape in a text. start, end: where; sizes: a sum for each axis, or ANY."""

    text: str
    start: int
    end: int
    sizes: tuple[object, ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Fit:
    """A claim: this is the shape of what was observed. scope: of its small letters and of `...`,
    None for the call.
    """

    shape: Shape
    observed: tuple[int, ...]
    scope: object = None


def shapes_in(text: str, names: Collection[str] = ()) -> list[Shape]:
    """The shapes in a text, in order. names: further words that may be sizes, those of a function's
    arguments.
    """
    found = []
    for group in GROUP.finditer(text):
        sizes = _sizes(group[1], names)
        if sizes is not None:
            found.append(Shape(" ".join(group[0].split()), *group.span(), sizes))
    return found


def half_understood(text: str, names: Collection[str] = ()) -> list[str]:
    """Groups in parentheses that begin like a shape and are none, such as (N, at least V)."""
    found = []
    for group in GROUP.finditer(text):
        parts = [part.strip() for part in group[1].split(",")]
        if len(parts) > 1 and _sizes(group[1], names) is None and LETTER.match(parts[0]) and parts[0].isupper():
            found.append(" ".join(group[0].split()))
    return found


def letters_of(shape: Shape) -> set[str]:
    """The letters and names in a shape."""
    return {name for size in shape.sizes if size != ANY for term in size for name, _ in term.powers}


@dataclass(frozen=True)
class Term:
    """A product: a number times letters, each with a power of 1 or -1."""

    factor: Fraction
    powers: tuple[tuple[str, int], ...]


@dataclass
class Letters:
    """What numbers the letters have. A small letter belongs to a scope, unless the call has bound
    it.
    """

    numbers: dict[object, object] = field(default_factory=dict)

    def copy(self) -> Letters:
        """The same numbers, to try something."""
        return Letters(dict(self.numbers))

    def fit(self, fits: Iterable[Fit]) -> bool:
        """Whether all shapes can be those observed, with the numbers so far; letters without one
        get theirs.
        """
        equations = []
        for each in fits:
            found = self._equations(each)
            if found is None:
                return False
            equations += found
        while equations:
            waiting = []
            for terms, number, scope in equations:
                unknown = {self._key(name, scope) for term in terms for name, _ in term.powers} - self.numbers.keys()
                if not unknown:
                    if self._value(terms, scope) != number:
                        return False
                elif len(unknown) > 1 or not self._solve(terms, number, scope, unknown.pop()):
                    waiting.append((terms, number, scope))
            if len(waiting) == len(equations):
                return True  # products of two unknown letters: nothing contradicts them
            equations = waiting
        return True

    def _equations(self, fit: Fit) -> list | None:
        sizes, observed = fit.shape.sizes, fit.observed
        if ANY in sizes:
            at = sizes.index(ANY)
            after = len(sizes) - at - 1
            if len(observed) < at + after:
                return None
            leading = observed[at : len(observed) - after]
            if self.numbers.setdefault((ANY, fit.scope), leading) != leading and fit.scope is None:
                return None
            sizes = sizes[:at] + sizes[at + 1 :]
            observed = observed[:at] + observed[len(observed) - after :]
        if len(sizes) != len(observed):
            return None
        return [(size, number, fit.scope) for size, number in zip(sizes, observed) if Term(Fraction(0), ()) not in size]

    def _key(self, name: str, scope) -> object:
        return (name, scope) if scope is not None and name.islower() and name not in self.numbers else name

    def _value(self, terms: tuple[Term, ...], scope) -> Fraction:
        total = Fraction(0)
        for term in terms:
            product = term.factor
            for name, power in term.powers:
                product *= Fraction(self.numbers[self._key(name, scope)]) ** power
            total += product
        return total

    def _solve(self, terms: tuple[Term, ...], number: int, scope, unknown) -> bool:
        """The unknown letter from one equation, if it is in one term only, as a factor."""
        has = [term for term in terms if any(self._key(name, scope) == unknown for name, _ in term.powers)]
        if len(has) != 1 or [p for name, p in has[0].powers if self._key(name, scope) == unknown] != [1]:
            return False
        others = tuple((name, power) for name, power in has[0].powers if self._key(name, scope) != unknown)
        rest = number - self._value(tuple(term for term in terms if term is not has[0]), scope)
        scale = self._value((Term(has[0].factor, others),), scope)
        if scale == 0:
            return False
        found = rest / scale
        self.numbers[unknown] = int(found) if found.denominator == 1 else found
        return True


# ------------------------------------------------------------------------------------------------------------- parsing


def _sizes(text: str, names: Collection[str]) -> tuple | None:
    """The sizes of the axes in parentheses; None where it is no shape."""
    parts = [part.strip() for part in text.split(",")]
    if parts[0] == "0-d":
        return ()
    if len(parts) == 1 and parts != [ANY]:
        return None
    if parts[-1] == "":
        parts.pop()
    sizes = [ANY if part == ANY else _sum(part, names) for part in parts]
    if None in sizes:
        return None
    letters = [name for size in sizes if size != ANY for term in size for name, _ in term.powers]
    is_shape = ANY in sizes or any(map(LETTER.match, letters)) or (letters and re.search("[-+*/]", text))
    return tuple(sizes) if is_shape else None


def _sum(text: str, names: Collection[str]) -> tuple[Term, ...] | None:
    """A size as a sum of terms: "3C", "H D", "H / H_kv t", "T - 1"; None where it is none."""
    terms: list[Term] = []
    factor, powers, power, sign = Fraction(1), [], 1, 1
    is_empty = True
    for kind, token in _tokens(text):
        if kind == "number":
            factor *= Fraction(int(token)) ** power
            power, is_empty = 1, False
        elif kind == "name":
            if not LETTER.match(token) and token not in names:
                return None
            powers.append((token, power))
            power, is_empty = 1, False
        elif kind == "any":
            factor, power, is_empty = Fraction(0), 1, False
        elif token in "*/":
            power = -1 if token == "/" else 1
        elif token in "+-":
            if is_empty:
                return None
            terms.append(Term(sign * factor, tuple(powers)))
            factor, powers, power, sign, is_empty = Fraction(1), [], 1, 1 if token == "+" else -1, True
        else:
            return None
    if is_empty:
        return None
    return (*terms, Term(sign * factor, tuple(powers)))


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text.rstrip()):
        found = TOKEN.match(text, position)
        if found is None:
            yield "other", text[position:]
            return
        kind = ("number", "name", "operator", "any")[found.lastindex - 1]
        yield kind, found[found.lastindex]
        position = found.end()
