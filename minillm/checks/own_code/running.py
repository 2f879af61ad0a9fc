"""All that can be checked in a user's file, a result for each."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

import numpy as np

from minillm.checks.gradcheck import CannotTell, ContractError, GradientError, Report, gradcheck
from minillm.checks.own_code.arguments import ask_for
from minillm.checks.own_code.finding import LOOKED_FOR, Found, Skipped, find
from minillm.checks.own_code.functions import BackwardRaises, PairCall, Problem
from minillm.checks.own_code.source import base_name, code_of
from minillm.checks.own_code.values import BadInput, Choice, Maker
from minillm.checks.verdicts import WRONG
from minillm.errors import UserError

ATTEMPTS = 3  # draws of the inputs, until none lies at a kink
FLOAT32 = re.compile(r"float32|dtype=['\"]f4?['\"]|\.astype\(['\"]f")


@dataclass
class Result:
    """What came out for one pair, loss or layer.

    report: of gradcheck; error: a GradientError, or None. reason: why it was not checked. inputs:
    their shapes; guessed: those that nothing tells.
    """

    name: str
    line: int
    report: Report | None = None
    error: GradientError | None = None
    reason: str = ""
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> str:
        """The inputs in words: "x (3, 4), w (4, 5)"."""
        return ", ".join(f"{name} {shape}" for name, shape in self.inputs.items())

    @property
    def failed(self) -> bool:
        return self.error is not None


def check_module(
    module: ModuleType, names: list[str] | None = None, given: dict[str, str] | None = None, method: str = "differences"
) -> Iterator[Result]:
    """A Result for all that is found in a module, or for what has one of the names.

    given: argument -> text, of --input. Raises UserError where nothing is found, or not a name.
    """
    found, skipped = find(module)
    found, skipped = _chosen(module, found, skipped, names)
    maker = Maker(module, given=given or {})
    for each in sorted((*found, *skipped), key=lambda each: each.line):
        yield (
            Result(each.name, each.line, reason=each.reason)
            if isinstance(each, Skipped)
            else _checked(each, maker, method)
        )


def prepared(found: Found, maker: Maker) -> tuple[Problem, Choice]:
    """The problem of what was found, with the first inputs that fit, or else the first with which
    forward and backward run.

    Raises UserError where there are none.
    """
    maker.sizes.begin()
    best, why, raised = None, None, None
    for choice, make in _choices_of(found, maker):
        try:
            with np.errstate(all="ignore"):
                problem = make()
                finite = _is_finite(problem)
        except UserError:
            raise
        except BackwardRaises as error:
            raised = raised or (error, choice)
            continue
        except Exception as error:  # whatever a user's code raises for a shape that does not suit it
            why = why or (error, choice)
            continue
        if problem.fits and finite:
            return problem, choice
        best = best or (problem, choice)
    if best is not None:
        return best
    if raised is not None:
        error, choice = raised
        if choice.guessed:  # it may be the guess that backward does not take
            raise ask_for(found.name, choice.guessed, str(error)) from error.why
        raise ContractError(f"{found.name}: {error}{_line_of(error.why, maker.module)}") from error.why
    raise _no_inputs(found, maker, why)


def problem_of(found: Found, maker: Maker, choice: Choice) -> Problem:
    """The problem with inputs that were chosen before: for a copy of the module. Raises what the
    user's functions raise.
    """
    maker.sizes.begin()
    for each, make in _choices_of(found, maker):
        if each.index == choice.index:
            return make()
    raise UserError(f"{found.name}: the inputs cannot be made again")


def _choices_of(found: Found, maker: Maker):
    """(choice, the function that makes its problem), the likeliest first."""
    if found.kind in ("object", "layer"):
        from minillm.checks.own_code.objects import choices
    elif found.kind == "scalar":
        from minillm.checks.own_code.scalars import choices
    else:
        choices = _choices
    for index, (choice, make) in enumerate(choices(found, maker)):
        choice.index = index
        yield choice, make


def _checked(found: Found, maker: Maker, method: str) -> Result:
    result = Result(found.name, found.line)
    for maker.seed in range(ATTEMPTS):
        try:
            problem, choice = prepared(found, maker)
            result.inputs = {name: x.shape for name, x in problem.inputs.items()}
            result.guessed = tuple(name for name in choice.guessed if name in problem.inputs)
            result.notes, result.error = list(problem.notes), None
            result.report = gradcheck(
                problem.subject, *problem.inputs.values(), name=found.name, input_names=tuple(problem.inputs), method=method,
                progress=False,
            )  # fmt: skip
        except GradientError as error:
            result.report, result.error = error.report, error
        except BadInput:
            raise
        except (UserError, TypeError) as question:
            result.reason = str(question).removeprefix(f"{found.name}: ")
        except Exception as error:  # whatever a user's code raises
            result.reason = f"it raises {type(error).__name__}: {error}"
        at_a_kink = result.report is not None and any(note.startswith("kink at") for note in result.report.notes)
        if not (at_a_kink or isinstance(result.error, CannotTell)):
            break
    maker.seed = 0
    if result.error is not None:
        result.notes += _hints(found, result)
    return result


def _chosen(module, found, skipped, names):
    if not found and not skipped:
        raise UserError(f"{module.__file__}: nothing to check is found. Looked for: {LOOKED_FOR}")
    if names:
        everything = (*found, *skipped)
        for name in names:
            if not any(_has_name(each, name) for each in everything):
                raise UserError(
                    f'{module.__file__} has no "{name}" to check: it has {", ".join(e.name for e in everything)}'
                )
        found, skipped = ([e for e in those if any(_has_name(e, name) for name in names)] for those in (found, skipped))
    if not found and not names:
        listed = "; ".join(f"{each.name} (line {each.line}): {each.reason}" for each in skipped)
        raise UserError(f"{module.__file__}: nothing can be checked: {listed}. Looked for: {LOOKED_FOR}")
    return found, skipped


def _has_name(each, name: str) -> bool:
    functions = (getattr(each, "forward", None), getattr(each, "backward", None))
    return name == each.name or any(
        getattr(f, "__name__", "") == name for f in functions if f and not getattr(each, "owner", None)
    )


def _choices(found: Found, maker: Maker):
    """(choice, the function that makes its problem) for a pair of functions or a loss."""
    codes = [code_of(found.forward), *([code_of(found.backward)] if found.backward else [])]
    returned = codes[-1].returned if found.backward else codes[0].returned[1:]
    call = PairCall(maker.module, found.forward, found.backward, maker.of_output)
    differentiated = {a for a in codes[0].names for name in returned if name and base_name(name) == a}
    for choice in maker.choices(codes[0].name, codes, differentiated=differentiated):
        yield choice, partial(call.problem, choice.values)


def _is_finite(problem: Problem) -> bool:
    if not isinstance(problem.subject, tuple):
        return True
    y, _ = problem.subject[0](*(x.copy() for x in problem.inputs.values()))
    return all(np.isfinite(each).all() for each in (y if isinstance(y, tuple) else (y,)))


def _no_inputs(found: Found, maker: Maker, why: tuple[Exception, Choice] | None) -> UserError:
    """What is said where forward runs with no inputs: the question for shapes, or, where all of
    them are known, what it raised.
    """
    if why is None:
        return ask_for(found.name, code_of(found.forward).names or ["x"])
    error, choice = why
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    if choice.guessed:
        return ask_for(found.name, dict.fromkeys(choice.guessed), said)
    shapes = ", ".join(f"{name} {x.shape}" for name, x in choice.values.items() if isinstance(x, np.ndarray))
    where = _line_of(error, maker.module)
    return UserError(f"{found.name}: forward raises {said}{where}{shapes and ', with '}{shapes}")


def _line_of(error: Exception, module: ModuleType) -> str:
    """Where in the user's file an error came from: " in line 7"."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == module.__file__]
    return f" in line {lines[-1]}" if lines else ""


def _share_of_right(result: Result) -> str:
    """ "1/4" where the wrong gradients are a fourth of the right ones, and an input has an axis of
    length 4: a mean in place of a sum. "" otherwise.
    """
    lengths = {n for shape in result.inputs.values() for n in shape if n > 1}
    wrong = [row for row in result.report.rows if row.verdict == WRONG]
    for n in sorted(lengths):
        if wrong and all(np.isclose(row.analytic * n, row.numeric, rtol=1e-6, atol=0) for row in wrong):
            return f"1/{n}"
    return ""


def _hints(found: Found, result: Result) -> list[str]:
    """What may have made a right gradient look wrong."""
    notes = []
    functions = [found.owner] if found.owner else [f for f in (found.forward, found.backward) if f]
    for function in functions:
        lines, first = inspect.getsourcelines(function)
        if line := next((i for i, text in enumerate(lines) if FLOAT32.search(text.split("#")[0])), None):
            notes.append(
                f"line {first + line} has float32: it keeps 7 digits, and rounding alone then looks like a wrong gradient. "
                "For the check use float64, or the dtype of the input"
            )
            break
    if result.report is not None and (share := _share_of_right(result)):
        notes.append(
            f"backward gives {share} of the right numbers: it averages, and forward does not. The average over the examples "
            "belongs to the loss: to its forward and to its backward"
        )
    if result.guessed:
        listed = ", ".join(f"{name} {result.inputs[name]}" for name in result.guessed)
        notes.append(
            f"nothing tells the shape of {listed}, which is guessed: say another with --input or a comment, "
            f"# {result.guessed[0]}: (N, D)"
        )
    return notes
