"""Mutants of the functions of a module, and what a check says of them.

    names = backward_functions(module)                      or any of `functions_of(module)`
    observed = observe(module, names, check)
    mutants = mutants_of(module, names, observed)
    outcomes = try_mutants(mutants, check)
    survivors = [outcome.mutant for outcome in outcomes if not outcome.noticed]

`check(copy)` is given a copy of the module and raises what it likes if something is wrong with it:
it takes the functions and classes that it calls from the copy. A mutant is seen only there; the
module itself stays as it is, and so do all others.
"""

from __future__ import annotations

import ast
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from minillm.checks.mutation.observed import Observed
from minillm.checks.mutation.places import Place, places_in, text
from minillm.checks.mutation.rules import changes
from minillm.checks.mutation.source import first_gradient_line, source_of

MOST_STEPS = 20_000  # of loops in a changed function: more than any check takes, and soon over
NEVER_RUN = "never run"


class TooManySteps(RuntimeError):
    """The loops of a changed function do not come to an end."""


@dataclass(frozen=True)
class Mutant:
    """A function with one place changed.

    function: its qualified name. line: of the file, where the changed statement begins. rule: what
    was done, as "term dropped". before, after: the place in short source text, on one line each.
    rule "never run": nothing was changed, since no call reached this statement; `after` is "", and
    it survives every check.
    """

    function: str
    line: int
    rule: str
    before: str
    after: str
    original: types.ModuleType = field(repr=False, compare=False)
    _place: Place = field(repr=False, compare=False)
    _replacement: ast.AST = field(repr=False, compare=False)

    def module(self) -> types.ModuleType:
        """A copy of the module with the fault in it. Each call makes a new one.

        Loops of the changed function raise TooManySteps when they have run 20,000 times in all.
        Raises SyntaxError where the fault leaves no program.
        """
        source = source_of(self.original)
        if self.rule == NEVER_RUN:
            return source.copy()
        function = source.functions[self.function]
        statement = source.statement_with(function)
        self._place.put(self._replacement)
        counted = _count_steps(function)
        try:
            code = source.compiled(statement)
        finally:
            for body in counted:
                del body[0]
            self._place.put(self._place.node)
        return source.copy({statement: code}, **{STEP: _Steps()})

    @property
    def file(self) -> str:
        return self.original.__file__

    def __str__(self) -> str:
        if self.rule == NEVER_RUN:
            return f"{self.file}:{self.line}: {self.rule}: {self.before}"
        return f"{self.file}:{self.line}: {self.rule}: {self.before}  ->  {self.after}"


@dataclass(frozen=True)
class Outcome:
    """mutant: what was tried. noticed: what the check said, in one line; "" for a survivor."""

    mutant: Mutant
    noticed: str


def mutants_of(module: types.ModuleType, names: Iterable[str], observed: Observed | None = None) -> list[Mutant]:
    """The mutants of the functions `names` of a module, in the order of their lines.

    names: qualified ones, as `functions_of(module)` has them: functions, methods (static ones,
    too), functions inside of functions, lambdas. A function includes those inside of it. observed:
    what `observe` returned for the check. With it, names are mistaken for others of the same shape,
    and a statement that never ran is one mutant of the rule "never run" in place of many that no
    check could notice. Without it these are left out.

    Raises UserError where the module has no source, KeyError for a name that it does not have.
    """
    source, found = source_of(module), []
    for name in names:
        function = source.functions[name]
        first_line = first_gradient_line(module, name) or 0
        found += _of_function(module, name, function, first_line, observed)
    return sorted(found, key=lambda mutant: mutant.line)


def try_mutants(mutants: Iterable[Mutant], check: Callable[[types.ModuleType], object]) -> list[Outcome]:
    """What `check(copy of the module)` says of each mutant: any exception that it raises counts as
    noticed, and so does a fault that leaves no program.

    KeyboardInterrupt ends it.
    """
    return [Outcome(mutant, noticed_by(mutant, check)) for mutant in mutants]


def noticed_by(mutant: Mutant, check: Callable[[types.ModuleType], object]) -> str:
    """What `check` says of one mutant, in one line; "" if nothing."""
    if mutant.rule == NEVER_RUN:
        return ""
    try:
        with warnings.catch_warnings(), memory_is_never_zero():
            warnings.simplefilter("ignore")
            check(mutant.module())
    except Exception as error:  # of the changed function: it may be any
        said = str(error).partition("\n")[0]
        return f"{type(error).__name__}: {said}" if said else type(error).__name__
    return ""


@contextmanager
def memory_is_never_zero() -> Iterator[None]:
    """New arrays of numbers that are not initialized begin with NaN: whether a mutant that adds to
    one is noticed does not depend on what the memory held before.
    """

    def filled(made):
        def make(*arguments, **settings):
            array = made(*arguments, **settings)
            if type(array) is np.ndarray and array.dtype.kind in "fc":
                array.fill(np.nan)
            return array

        return make

    empty, empty_like = np.empty, np.empty_like
    np.empty, np.empty_like = filled(empty), filled(empty_like)
    try:
        yield
    finally:
        np.empty, np.empty_like = empty, empty_like


# ------------------------------------------------------------------------------------------------------------------ helpers


def _of_function(module, name: str, function: ast.AST, first_line: int, observed: Observed | None) -> Iterator[Mutant]:
    seen, never_ran, passed_over = set(), set(), set(observed.passed_over if observed else ())
    for place in places_in(function, first_line):
        if observed is not None and not _ran(place, observed):
            if isinstance(place.node, ast.stmt) and id(place.parent) not in never_ran:
                yield Mutant(name, place.line, NEVER_RUN, text(place.node), "", module, place, place.node)
            never_ran |= {id(place.parent), id(place.node)}
            continue
        if place.node in passed_over or (place.above and place.above.node in passed_over):
            passed_over.add(place.node)
            continue
        for rule, replacement in changes(place, observed or Observed()):
            before, after = place.texts(replacement)
            key = (place.line, _whole(place, replacement))
            if before != after and key not in seen:
                seen.add(key)
                yield Mutant(name, place.line, rule, before, after, module, place, replacement)


def _ran(place: Place, observed: Observed) -> bool:
    """Whether the statement of a place has run; of a block, its first line."""
    while not isinstance(place.node, ast.stmt) and place.above is not None:
        place = place.above
    if not isinstance(place.node, ast.stmt):  # of a lambda
        return True
    body = getattr(place.node, "body", None)
    end = body[0].lineno - 1 if isinstance(body, list) and body else place.node.end_lineno
    return observed.ran(place.node.lineno, max(end, place.node.lineno))


def _whole(place: Place, replacement: ast.AST) -> str:
    """The whole statement with the replacement, to tell equal mutants."""
    held = place
    while held.above is not None and not isinstance(held.node, ast.stmt):
        held = held.above
    if held is place:
        return ast.unparse(ast.fix_missing_locations(replacement))
    place.put(replacement)
    try:
        return f"{id(held.node)} {text(held.node)}"
    finally:
        place.put(place.node)


STEP = "_step_of_a_loop"


class _Steps:
    """Called once for each turn of a loop."""

    def __init__(self):
        self._taken = 0

    def __call__(self) -> None:
        self._taken += 1
        if self._taken > MOST_STEPS:
            raise TooManySteps(f"a loop does not end: it has run {MOST_STEPS:,} times")


def _count_steps(function: ast.AST) -> list[list]:
    """Put a call at the start of each loop's body; returns the bodies, to take it out again."""
    bodies = [node.body for node in ast.walk(function) if isinstance(node, (ast.For, ast.While))]
    for body in bodies:
        body.insert(0, ast.Expr(ast.Call(ast.Name(STEP, ast.Load()), [], [])))
    return bodies
