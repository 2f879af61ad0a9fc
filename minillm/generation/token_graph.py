"""The pass of one token as a CUDA graph: recorded once, replayed for each token that follows.

A token is a hundred launches or more, each of which costs the host some microseconds of Python, and
none of which keeps a GPU busy for long. CUDA can record them as a graph and launch the whole of it
at once. What differs between two tokens must then lie in the device's memory and not among the
arguments: the ids and their place in the text are written there before each replay, and the kernels
read them (kernels/attention/decode.cu).

A recorded pass holds for one memory of the cache. When that grows, when rows are reordered into new
memory or a window moves to the front, the next passes are plain launches, and then one is recorded
again. Nothing is recorded, and each token is launched as before,

- where a layer's `decode` is not one of this package, or uses numbers of the present pass
  (`Cache.is_fixed`): it may do anything;
- where a product goes to cuBLAS, which CuPy does not let into a recording: more than a few rows
  (kernels/skinny_matmul.py), LoRA, kernels that are switched off;
- while hooks watch each launch, for a profile say.

All arrays that the launches use are kept for as long as the recording: others may be freed, and
their memory be used by the next one who asks for it.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from minillm.backend.hooks import add_hook, has_hooks
from minillm.kernels import choices


class TokenGraph:
    """Records and replays the passes of one model's body over one token for each row, on "cuda"."""

    def __init__(self, model):
        self._body = model.body
        self._is_possible = all(_is_ours(layer) for _, layer in model.body.layers())
        self._last = self._recorded = None  # the key of the pass before this one, if it could have been recorded

    def replayed(self, ids, cache):
        """ids (B, 1) in host memory, the next tokens of a cache  ->  x (B, 1, C), and the cache as
        after `decode`; None where this pass has to be launched.
        """
        if not self._is_possible or ids.shape[1] != 1 or has_hooks() or not cache.has_room(1):
            return None
        key = _key(cache)
        if self._recorded is None or self._recorded.key != key or self._recorded.limit <= cache.length:
            if key != self._last:
                return None
            self._last = self._recorded = None  # its memory is free for the next one
            try:
                self._recorded = _Recording(self._body, ids.shape, cache, key)
            except _NotRecorded:
                self._is_possible = False
                return None
        return self._recorded.replay(ids, cache)

    def note_pass(self, cache) -> None:
        """A pass was launched: what it needs is compiled, and its memory is there."""
        self._last = None if cache.is_fixed or cache.count != 1 else _key(cache)


class _NotRecorded(Exception):
    """CuPy or CUDA refused one of the calls."""


class _Recording:
    """The graph of one pass, and what it works on."""

    def __init__(self, body, shape, cache, key):
        import cupy

        self.key, self._kept, self._cupy = key, [], cupy
        self._input = cupy.zeros(1 + shape[0], np.int64)  # the place, then the ids
        stream = cupy.cuda.Stream(non_blocking=True)
        self._pool = cupy.cuda.MemoryPool()  # so that what is freed in between serves this pass alone
        cache.start(1, self._input[:1])
        cache.is_recorded = True
        try:
            with stream, cupy.cuda.using_allocator(self._pool.malloc), add_hook(self._keep):
                stream.begin_capture()
                try:
                    self._x = body.decode(self._input[1:].reshape(shape), cache)
                finally:
                    self._graph = stream.end_capture()
        except RuntimeError as error:  # CuPy's of what it does not let in, and CUDA's
            cache.forget_pass()
            raise _NotRecorded from error
        self.limit = cache.limit
        self._kept.append(dict(cache.shared))
        cache.forget_pass()

    def replay(self, ids, cache):
        numbers = np.concatenate([[cache.length], ids.reshape(-1)])
        self._input.set(numbers, stream=self._cupy.cuda.get_current_stream())
        self._graph.launch()
        cache.start(1, self._input[:1])
        cache.note_replayed()
        return self._x.copy()  # the next replay writes over x

    @contextmanager
    def _keep(self, kind, name, arrays):
        self._kept.extend(array for array in arrays if not isinstance(array, np.generic))
        yield


def _key(cache) -> tuple:
    return id(cache), cache.changes, choices()


def _is_ours(layer) -> bool:
    """Whether a layer decodes by a method of this package."""
    return "decode" not in vars(layer) and type(layer).decode.__module__.startswith(
        ("minillm.layers.", "minillm.models.")
    )
