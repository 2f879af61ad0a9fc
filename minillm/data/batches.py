"""Windows of a text: inputs, and one token further on the targets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minillm.backend.random_streams import Stream
from minillm.errors import UserError


def random_windows(tokens, batch_size: int, context_length: int, random_stream: Stream):
    """tokens (N,)  ->  inputs (B, T) and targets (B, T), int64, from B uniformly random places.

    targets[b, t] is the token after inputs[b, t]. Raises UserError if the text is shorter than one
    window and its target.
    """
    starts_possible = len(tokens) - context_length
    if starts_possible < 1:
        raise UserError(
            f"the text has {len(tokens)} tokens, one window needs {context_length + 1}: "
            "use a smaller --context-length or more text"
        )
    starts = random_stream.integers(starts_possible, batch_size)
    return _gather(tokens, starts, context_length)


def sequential_windows(
    tokens, batch_size: int, context_length: int, limit: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches (inputs, targets) of consecutive windows; every token of tokens (N,) but the first is
    a target.

    Batches have up to B rows of T tokens; the rest is one last, shorter window (1, t). limit: only
    this many full windows, evenly spaced, the same each time. Raises UserError for fewer than two
    tokens.
    """
    if len(tokens) < 2:
        raise UserError(
            f"the text has {len(tokens)} tokens, at least 2 are needed: the second is predicted from the first"
        )
    full = (len(tokens) - 1) // context_length
    chosen = np.arange(full)
    everything = not limit or limit >= full
    if not everything:
        chosen = chosen[np.linspace(0, full - 1, limit).round().astype(np.int64)]
    for first in range(0, len(chosen), batch_size):
        yield _gather(tokens, chosen[first : first + batch_size] * context_length, context_length)
    covered = full * context_length
    if everything and covered < len(tokens) - 1:
        yield _gather(tokens, np.array([covered]), len(tokens) - 1 - covered)


def _gather(tokens, starts, length):
    """Windows from `starts` (B,): one look-up of (B, T + 1) positions, of which inputs and targets
    are two views.
    """
    windows = np.asarray(tokens[starts[:, None] + np.arange(length + 1)], dtype=np.int64)
    return windows[:, :-1], windows[:, 1:]
