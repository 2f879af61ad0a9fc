"""Prefetching: a thread draws the next batch while the device computes the present one.

A batch is a function of its key, (seed, step, micro-step), so it does not depend on the thread or
the time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class BatchPrefetcher:
    """The training batches of a run. Use it as a context manager.

    ahead: draw the next batch in a thread. On the CPU this gains nothing: all cores are busy.
    """

    def __init__(self, run, ahead: bool):
        self._draw, self._micro_steps = run.examples.batch, run.settings.gradient_accumulation
        self._thread = ThreadPoolExecutor(1, "minillm-batches") if ahead else None
        self._coming = None  # (step, micro_step), future

    def __enter__(self) -> BatchPrefetcher:
        return self

    def __exit__(self, *exception) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def get(self, step: int, micro_step: int):
        """The batch of a micro-step, a tuple (examples.py); the thread then draws the next."""
        key, (awaited, future) = (step, micro_step), self._coming or (None, None)
        batch = future.result() if awaited == key else self._draw(*key)
        if self._thread is not None:
            following = divmod(step * self._micro_steps + micro_step + 1, self._micro_steps)
            self._coming = following, self._thread.submit(self._draw, *following)
        return batch
