"""Hooks around every kernel launch and matrix product, for profiling and memory measurement.

    instrumented("kernel", name, arrays, work, *arguments)    calls `work`: in launch.py and matmul.py
    with add_hook(hook): ...                                  around a step

`hook(kind, name, arrays)` returns a context manager for each piece of work.
With no hook installed the cost is one check of an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_hooks: list[Callable] = []


def instrumented(kind: str, name: str, arrays: tuple, work: Callable, *arguments):
    """The result of `work(*arguments)`, a piece of work inside of the context managers of all
    hooks.

    kind: "kernel", "matrix product" or "communication". arrays: what the work reads and writes.

    >>> from contextlib import nullcontext
    >>> seen = []
    >>> def hook(kind, name, arrays):
    ...     seen.append(name)
    ...     return nullcontext()
    >>> with add_hook(hook):
    ...     instrumented("kernel", "sum", (), sum, [1, 2])
    3
    >>> seen
    ['sum']
    """
    if not _hooks:
        return work(*arguments)
    with ExitStack() as stack:
        for hook in _hooks:
            stack.enter_context(hook(kind, name, arrays))
        return work(*arguments)


def has_hooks() -> bool:
    """Whether any hook is installed."""
    return bool(_hooks)


@contextmanager
def add_hook(hook: Callable) -> Iterator[None]:
    """Call `hook(kind, name, arrays)` for every piece of work inside the block, in any thread."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
