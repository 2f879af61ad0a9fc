"""What every line of an operation computes in a small real pass: shapes, norms and a few numbers.

The passes (passes.py) run in float32 on the CPU, those of the attention ladder in the simulator,
under a line tracer (tracing.py). Each number is that of the moment when its line had run: a later
line may write over the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from minillm.web.read.operation import Operation, Seen
from minillm.web.read.passes import model_passes, passes
from minillm.web.read.tracing import Call, Look, Tracer

LISTED = 3  # arrays of a list or tuple that are shown


def observe(operation: Operation) -> list[Seen]:
    """What each statement of the operation's module assigned or changed, in the order of the file.

    line: the first of a statement; an argument of a function has the line of its `def`. Where a
    statement ran several times, in a loop or in several calls, it is the first time, and `times`
    says how often. A name is what the statement has at its left, such as y, y[..., first] or
    w[name], or an array that it writes into (`out=`); "return" and "return[i]" are what a return
    statement computed. A list has a Seen for each of its first arrays, named p[0], p[1]. Raises
    LookupError if no pass runs one of the operation's functions.
    """
    times: dict[tuple[str, int], int] = {}
    first: dict[tuple[str, int, str], dict[str, Look]] = {}
    for call in _calls(operation):
        for line, names in [(call.line, call.arguments), *((step.line, step.names) for step in call.steps)]:
            place = call.function, line
            times[place] = times.get(place, 0) + 1
            for name, described in names.items():
                if name != "_" and (looks := dict(_named(name, described))):
                    first.setdefault((*place, name), looks)
    seen = [
        Seen(function, line, text, look.shape, look.norm, look.values, look.dtype, times[function, line])
        for (function, line, _), looks in first.items()
        for text, look in looks.items()
    ]
    return sorted(seen, key=lambda each: each.line)


def _calls(operation: Operation) -> list[Call]:
    """Of its own passes; of models only if there are functions that those do not call."""
    wanted = {name for pair in operation.pairs for name in (pair.forward, pair.backward) if name}
    forget_results(operation.home)
    tracer = Tracer([operation.home.__file__])
    for run in passes(operation):
        with tracer:
            run()
    for run in model_passes(operation):
        if wanted <= {call.function for call in tracer.calls}:
            break
        with tracer:
            run()
    if missing := wanted - {call.function for call in tracer.calls}:
        raise LookupError(f"{operation.name}: no pass runs {', '.join(sorted(missing))} of {operation.module}")
    return tracer.calls


def forget_results(module: ModuleType) -> None:
    """Make the functions of a module that keep their results (`lru_cache`) compute them again."""
    for value in vars(module).values():
        if hasattr(value, "cache_clear") and value.__module__ == module.__name__:
            value.cache_clear()


def _named(name: str, described) -> Iterator[tuple[str, Look]]:
    if isinstance(described, Look):
        yield name, described
    elif isinstance(described, tuple):
        for index, part in enumerate(described[:LISTED]):
            if isinstance(part, Look) and part.shape:
                yield f"{name}[{index}]", part
