"""Whether the shapes in docstrings and comments are those of a real pass.

shape_problems(operation)    comments that a pass contradicts: file:line, what they say, what was seen
unchecked(operation)         comments that no pass could be compared with, and why

Within one call of a function a letter has one number, in its docstring, its comments and the fields
of what it saves. Names of whole numbers, such as T in `B, T, C = x.shape`, have the numbers of the
code. In all methods of one object the letters of its weights have one number each. Two letters that
have the same number in every call, or every object, are a problem, too: then no pass can tell which
is which, and a wrong letter would not be noticed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from minillm import layers
from minillm.kernels.attention import arguments
from minillm.models import gpt2, language_model, llama
from minillm.web.read.operation import OPERATIONS, Operation, shown
from minillm.web.read.passes import model_passes, passes
from minillm.web.read.shape_comments import Claim, Comments
from minillm.web.read.shape_text import LETTER, Fit, Letters, letters_of
from minillm.web.read.tracing import Call, Fields, Look, Step, Tracer
from minillm.web.read.values import forget_results

# The base of layers has no shapes, and much that is called.
LAYERS = tuple(str(path) for path in sorted(Path(layers.__file__).parent.glob("*.py")) if path.name != "layer.py")
MODELS = tuple(gpt_or_llama.__file__ for gpt_or_llama in (gpt2, llama, language_model))

OF_A_CALL = ("B", "T", "N", "M", "t", "n", "v")  # letters that have another number in every call of a method


def shape_problems(operation: Operation, source: str | None = None) -> list[str]:
    """The wrong comments of an operation's file, each as "file:line: ...".

    source: a text to read the comments from in place of the file, with the same lines of code.
    """
    return [problem for path in files_of(operation) for problem in _report(operation, path, source).problems]


def unchecked(operation: Operation, source: str | None = None) -> list[str]:
    """The comments with a shape that nothing was compared with, each as "file:line: ..."."""
    return [line for path in files_of(operation) for line in _report(operation, path, source).unchecked]


def files_of(operation: Operation) -> tuple[str, ...]:
    """The files whose comments belong to an operation: that of its functions first."""
    home = operation.home.__file__
    return (home, arguments.__file__) if hasattr(operation.home, "FlashSaved") else (home,)


@dataclass
class Report:
    """What came of the comments of one file. compared: how many claims were."""

    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    compared: int = 0


def report(path: str, calls: Iterable[Call], source: str | None = None) -> Report:
    """Compare the comments of a file with the calls of its functions."""
    comments = Comments(Path(path).read_text(encoding="utf-8") if source is None else source)
    return _Comparison(path, comments).of(calls)


# ---------------------------------------------------------------------------------------------------------- observed


@lru_cache
def calls_of(operation: Operation) -> tuple[Call, ...]:
    """Every call in the passes of an operation and, for layers and models, in those of the small
    models.
    """
    calls = _traced(passes(operation), {*files_of(operation), *LAYERS})
    return (*calls, *_calls_of_models()) if operation.home.__file__ in LAYERS + MODELS else calls


@lru_cache
def _calls_of_models() -> tuple[Call, ...]:
    return _traced(model_passes(OPERATIONS["gpt2"]), {*LAYERS, *MODELS})


def _traced(runs, files: set[str]) -> tuple[Call, ...]:
    """The calls that finished, of several with the same shapes one."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) in files:
            forget_results(module)
    tracer = Tracer(files, numbers=False)
    for run in runs:
        with tracer:
            run()
    found: dict[str, Call] = {}
    for call in tracer.calls:
        if call.finished:
            found.setdefault(repr(call), call).owners.update(call.owners)
    return tuple(found.values())


@lru_cache
def _report(operation: Operation, path: str, source: str | None) -> Report:
    return report(path, calls_of(operation), source)


# --------------------------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class _Constraint:
    """A claim in one call: one of the options has to fit."""

    claim: Claim
    options: tuple[tuple[Fit, ...], ...]


class _Comparison:
    """The comments of one file against calls."""

    def __init__(self, path: str, comments: Comments):
        self._path, self._comments = path, comments
        fields = [claim for claim in comments.claims if claim.kind == "field"]
        self._claims = {None: fields}  # those of a function, and of all fields
        for where in {claim.where for claim in comments.claims}:
            self._claims[where] = [c for c in comments.claims if c.where == where and c.kind != "field"] + fields
        self._problems: dict[tuple, str] = {}
        self._compared: set[Claim] = set()
        self._letters: dict[str, dict[tuple[str, str], bool]] = {}  # function -> two letters -> were they different
        self._objects: dict[
            tuple[str, int], dict[str, dict[int, str]]
        ] = {}  # class, object -> letter -> number -> method

    def of(self, calls: Iterable[Call]) -> Report:
        """The report."""
        called = {call.function for call in calls if call.file == self._path}
        found: dict[tuple, list[Call]] = {}
        for call in calls:
            if constraints := tuple(self._constraints(call)):
                found.setdefault((call.file, call.function, constraints), []).append(call)
        for (_, _, constraints), same in found.items():
            owners = set().union(*(call.owners for call in same))
            self._check(same[0], list(constraints), owners)
        self._check_letters()
        problems = [self._problems[key] for key in sorted(self._problems, key=lambda key: key[0].line)]
        return Report(problems, list(self._unchecked(called)), len(self._compared))

    def _constraints(self, call: Call) -> Iterator[_Constraint]:
        saved = [part for part in _flat(call.returned) if isinstance(part, Fields)]
        own = call.function if call.file == self._path else None
        for claim in self._claims.get(own, self._claims[None]) if own or saved else ():
            if claim.kind == "field":
                for part in saved:
                    yield from _of_field(claim, part)
            else:
                if claim.kind in _FOUND:
                    found = _FOUND[claim.kind](claim, call)
                    yield from (_Constraint(claim, _options(claim, look.shape)) for look in found)
                else:
                    for index, step in enumerate(call.steps):
                        if step.line == claim.statement:
                            yield from _at_step(claim, step, index)

    def _check(self, call: Call, constraints: list[_Constraint], owners: set[int]) -> None:
        self._compared.update(constraint.claim for constraint in constraints)
        given = _numbers_of(call)
        letters = _solved(constraints, given)
        while letters is None:
            wrong = self._wrong(constraints, given)
            for claim in wrong:
                rest = [each for each in constraints if each.claim != claim]
                known = _solved(rest, given)
                self._add(claim, call, [each for each in constraints if each.claim == claim], known)
            constraints = [each for each in constraints if each.claim not in wrong]
            letters = _solved(constraints, given)
        named = {n: number for n, number in letters.numbers.items() if isinstance(n, str) and LETTER.match(n)}
        _note_pairs(self._letters.setdefault(call.function, {}), {name: {number} for name, number in named.items()})
        for owner in owners if call.file == self._path else ():
            of_object = self._objects.setdefault((call.function.rpartition(".")[0], owner), {})
            for name, number in named.items():
                if name not in OF_A_CALL:
                    of_object.setdefault(name, {}).setdefault(number, call.function)

    def _wrong(self, constraints: list[_Constraint], given: Letters) -> list[Claim]:
        """The claims each of which, left out, makes the others agree; or else the first one that
        contradicts those before it.
        """
        claims = list(dict.fromkeys(each.claim for each in constraints))
        alone = [c for c in claims if _solved([each for each in constraints if each.claim != c], given) is not None]
        if alone:
            return alone
        kept: list[_Constraint] = []
        for claim in claims:
            own = [each for each in constraints if each.claim == claim]
            if _solved(kept + own, given) is None:
                return [claim]
            kept += own
        raise AssertionError("claims that agree one after the other agree together")

    def _add(self, claim: Claim, call: Call, constraints: list[_Constraint], letters: Letters | None) -> None:
        observed = dict.fromkeys(
            " @ ".join(str(fit.observed) for fit in option) for c in constraints for option in c.options
        )
        names = sorted({name for shape in claim.shapes for name in letters_of(shape)})
        numbers = {} if letters is None else letters.numbers
        known = ", ".join(f"{name} {numbers[name]}" for name in names if name in numbers)
        text = f"{self._at(claim.line)}: {call.function}: the comment says {claim.text}, the pass has "
        text += " or ".join(list(observed)[:3]) + (f" where {known}" if known else "")
        text += ": correct the comment"
        self._problems.setdefault((claim, call.function), text)

    def _check_letters(self) -> None:
        for function, pairs in self._letters.items():
            self._add_pairs(pairs, function)
        of_classes: dict[str, dict[tuple[str, str], bool]] = {}
        for (kind, _), letters in self._objects.items():
            _note_pairs(of_classes.setdefault(kind, {}), letters)
            for name, numbers in letters.items():
                for function in numbers.values() if len(numbers) > 1 else ():
                    text = f"{name} is {' and '.join(map(str, numbers))} in the methods of one object"
                    self._add_letter(name, function, text)
        for kind, pairs in of_classes.items():
            self._add_pairs(pairs, kind)

    def _add_pairs(self, pairs: dict[tuple[str, str], bool], where: str) -> None:
        for pair in (pair for pair, differ in pairs.items() if not differ):
            counts = [len(self._using(name, where)) or len(self._comments.claims) for name in pair]
            for name, count in zip(pair, counts):
                if count == min(counts):
                    self._add_letter(name, where, f"{pair[0]} and {pair[1]} are the same number in every pass")

    def _add_letter(self, name: str, where: str, text: str) -> None:
        for claim in self._using(name, where)[:1]:
            problem = f"{self._at(claim.line)}: {claim.where}: the comment says {claim.text}, but {text}"
            self._problems.setdefault((claim, where), problem)

    def _using(self, name: str, where: str) -> list[Claim]:
        """A letter's claims in a function, or in the methods of a class; fields come last."""
        own = [c for c in self._comments.claims if c.where == where or c.where.startswith(f"{where}.")]
        near = own + [c for c in self._comments.claims if c.kind == "field" and c not in own]
        return [claim for claim in near if any(name in letters_of(shape) for shape in claim.shapes)]

    def _unchecked(self, called: set[str]) -> Iterator[str]:
        for claim in self._comments.claims:
            if claim not in self._compared:
                ran = claim.where in called or claim.kind == "field"
                reason = "no pass had it" if ran else f"no pass calls {claim.where}"
                yield f"{self._at(claim.line)}: {claim.text}: {reason}"
        for each in self._comments.unclear:
            yield f"{self._at(each.line)}: {each.text}: {each.reason}"

    def _at(self, line: int) -> str:
        return f"{shown(Path(self._path))}:{line}"


def _note_pairs(pairs: dict[tuple[str, str], bool], letters: dict) -> None:
    """Note for each two letters whether they had different numbers, now or before."""
    for pair in combinations(sorted(letters), 2):
        pairs[pair] = pairs.get(pair, False) or set(letters[pair[0]]) != set(letters[pair[1]])


def _solved(constraints: list[_Constraint], given: Letters) -> Letters | None:
    """Numbers with which all constraints hold; None if there are none."""
    letters = given.copy()
    single = [fit for each in constraints if len(each.options) == 1 for fit in each.options[0]]
    if not letters.fit(single):
        return None
    several = [each.options for each in constraints if len(each.options) > 1]
    return _with_options(several, single, given)


def _with_options(several: list[tuple[tuple[Fit, ...], ...]], fits: list[Fit], given: Letters) -> Letters | None:
    letters = given.copy()
    if not letters.fit(fits):
        return None
    if not several:
        return letters
    tried = (_with_options(several[1:], [*fits, *option], given) for option in several[0])
    return next((found for found in tried if found is not None), None)


def _numbers_of(call: Call) -> Letters:
    """The whole numbers among a call's arguments and names, which comments may call sizes."""
    described = {**call.arguments, **call.at_end}
    numbers = {
        n: look for n, look in described.items() if isinstance(look, Look) and look.dtype == "int" and look.values
    }
    return Letters({name: int(look.values[0]) for name, look in numbers.items()})


def _argument(claim: Claim, call: Call) -> Iterator[Look]:
    arrays = {name: value for name, value in call.arguments.items() if name != "self"}
    if claim.name == "*":
        yield from (value for value in arrays.values() if _is_array(value))
    elif claim.name == "":
        yield from [value for value in arrays.values() if _is_array(value)][:1]
    elif claim.name in arrays:
        yield from _each(arrays[claim.name], claim)
    else:  # a name of the function itself, as it is at its end
        yield from _each(call.at_end.get(claim.name), claim)


def _results(claim: Claim, call: Call) -> Iterator[Look]:
    flat = list(_flat(call.returned))
    if claim.position < 0:
        yield from (value for value in flat if _is_array(value))
    elif claim.position < len(flat):
        yield from _each(flat[claim.position], claim)


def _attribute(claim: Claim, call: Call) -> Iterator[Look]:
    assigned = (step.names.get(f"self.{claim.name}") for step in call.steps)
    yield from (look for described in assigned for look in _each(described, claim))


_FOUND = {"argument": _argument, "result": _results, "attribute": _attribute}


def _flat(returned) -> Iterator[object]:
    if isinstance(returned, tuple):
        for part in returned:
            yield from _flat(part)
    else:
        yield returned


def _each(described, claim: Claim) -> Iterator[Look]:
    """The array itself, or those of a list. A number is compared with 0-d alone."""
    if isinstance(described, Look) and (described.shape or any(not shape.sizes for shape in claim.shapes)):
        yield described
    elif isinstance(described, tuple):
        yield from (part for part in described if _is_array(part))


def _is_array(described) -> bool:
    return isinstance(described, Look) and described.shape != ()


def _of_field(claim: Claim, saved: Fields) -> Iterator[_Constraint]:
    if saved.kind == claim.where:
        described = saved.values[claim.name]
        for index, look in enumerate(_each(described, claim)):  # of a list each array has small letters of its own
            scope = ("field", claim.name, index) if isinstance(described, tuple) else ("field",)
            yield _Constraint(claim, _options(claim, look.shape, scope))


def _at_step(claim: Claim, step: Step, index: int) -> Iterator[_Constraint]:
    if claim.kind == "product":
        pairs = list(zip(claim.shapes[::2], claim.shapes[1::2]))
        options = tuple(
            (Fit(left, a, index), Fit(right, b, index))
            for a, b in dict.fromkeys(step.products)
            for left, right in pairs
        )
        if options:
            yield _Constraint(claim, options)
    elif claim.kind == "operand":
        options = tuple((Fit(claim.shapes[0], shape, index),) for shape in dict.fromkeys(step.operands) if shape)
        if options:
            yield _Constraint(claim, options)
    else:
        targets = step.statement.targets or tuple(name for name in step.names if name.startswith("return"))
        chosen = targets if claim.position < 0 else targets[claim.position : claim.position + 1]
        for target in chosen:
            for look in _each(step.names.get(target), claim):
                yield _Constraint(claim, _options(claim, look.shape, index))


def _options(claim: Claim, observed: tuple[int, ...], scope=None) -> tuple[tuple[Fit, ...], ...]:
    return tuple((Fit(shape, observed, scope),) for shape in claim.shapes)
