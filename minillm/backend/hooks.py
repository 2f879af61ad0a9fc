"""Hooks around every kernel launch and matrix product, for profiling and memory measurement.

    with instrumented("kernel", name, *arrays): ...     around the work, in kernels/launch.py and matmul.py
    with add_hook(hook): ...                            around a step: `hook(kind, name, arrays)` returns
                                                        a context manager for each piece of work

With no hook installed the cost is one check of an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

_hooks: list[Callable] = []
_NO_HOOK = nullcontext()


def instrumented(kind: str, name: str, *arrays) -> AbstractContextManager:
    """A context manager around a piece of work, which enters those of all hooks.

    kind: "kernel" or "matrix product". arrays: what the work reads and writes.

    >>> seen = []
    >>> def hook(kind, name, arrays):
    ...     seen.append(name)
    ...     return nullcontext()
    >>> with add_hook(hook), instrumented("kernel", "gelu"):
    ...     seen
    ['gelu']
    """
    if not _hooks:
        return _NO_HOOK
    stack = ExitStack()
    for hook in _hooks:
        stack.enter_context(hook(kind, name, arrays))
    return stack


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
