"""Those who want to know of every kernel that is launched and every matrix product: the profile, and memory measurements.

    with instrumented("kernel", name, *arrays): ...        around the work, in kernels/launch.py and matmul.py
    with add_hook(watcher): ...                       around a step: `watcher(kind, name, arrays)` gives a context manager

While nobody watches, a call costs a look at an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

_watchers: list[Callable] = []
_NOBODY = nullcontext()


def instrumented(kind: str, name: str, *arrays) -> AbstractContextManager:
    """To be entered around a piece of work. kind: "kernel" or "matrix product"; arrays: what it reads and writes.

    >>> seen = []
    >>> def watcher(kind, name, arrays):
    ...     seen.append(name)
    ...     return nullcontext()
    >>> with add_hook(watcher), instrumented("kernel", "gelu"):
    ...     seen
    ['gelu']
    """
    if not _watchers:
        return _NOBODY
    stack = ExitStack()
    for watcher in _watchers:
        stack.enter_context(watcher(kind, name, arrays))
    return stack


@contextmanager
def add_hook(watcher: Callable) -> Iterator[None]:
    """Inside, `watcher` is asked for a context manager around every piece of work, in whatever thread."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
