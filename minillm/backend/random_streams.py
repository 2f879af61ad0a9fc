"""Random numbers without a hidden generator: a stream is a pure function of its key.

`stream(seed, "dropout", step)` makes a generator from its key, and the same key gives the same
numbers on every machine and in every process. A resumed run therefore needs its step number and
nothing else to continue bit for bit.

The generator is Philox4x64-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1,
2, 3", SC 2011). It is *counter based*: word i of a stream is a pure function of (key, i), so that a
GPU thread can compute the word of its element independently. All numbers are computed from these
words, and not by the distributions of `numpy.random.Generator`, which may change between releases
of NumPy.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np


def stream(*key: int | str) -> Stream:
    """The random stream of a key, such as `stream(seed, "dropout", step, "h.0.attn")`.

    Parts of the key are integers and strings. Different keys give streams that are independent for
    every practical purpose: the 128-bit Philox key is a BLAKE2b hash of the parts. Raises
    ValueError for a string with a NUL character.
    """
    parts = (f"s{part}" if isinstance(part, str) else f"i{int(part)}" for part in key)
    text = "\x00".join(parts)  # unambiguous: strings with a NUL are rejected below
    if text.count("\x00") != max(len(key) - 1, 0):
        raise ValueError(f"a part of a stream's key contains a NUL character: {key!r}")
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
    return Stream(np.frombuffer(digest, dtype="<u8").astype(np.uint64))


class Stream:
    """A sequence of random words that is a pure function of its key: word i is Philox4x64-10 of
    (key, 1 + i // 4)[i % 4].

    (NumPy's generator increments the counter before it computes the first block, hence the 1.) Each
    method consumes the next words of the sequence. shape: of the array that is returned, a tuple or
    an integer; () gives a single number.
    """

    def __init__(self, philox_key: np.ndarray):
        self.philox_key = philox_key  # two uint64, from which a kernel draws the same numbers
        self._generator = np.random.Philox(key=philox_key)

    def words(self, count: int) -> np.ndarray:
        """The next `count` words, uint64."""
        return self._generator.random_raw(count)

    def words32(self, count: int, start: int = 0) -> np.ndarray:
        """Words cut into halves, low half first: numbers `start` to `start + count` of this
        sequence, uint32.
        """
        blocks, first = divmod(start, 8)  # a block is four words
        if blocks:
            self._generator.advance(blocks)
        return self.words(-(-(first + count) // 2)).astype("<u8", copy=False).view("<u4")[first : first + count]

    def uniform(self, shape=()) -> np.ndarray:
        """Uniform on [0, 1): the upper 53 bits of one word each, float64."""
        shape = (shape,) if isinstance(shape, int) else shape
        return ((self.words(math.prod(shape)) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def integers(self, high: int, shape=()) -> np.ndarray:
        """Uniform on {0, ..., high - 1}: one word each, int64. `high` is at most 2**53."""
        return np.minimum((self.uniform(shape) * high).astype(np.int64), high - 1)

    def normal(self, shape=()) -> np.ndarray:
        """Standard normal, float64, by the transform of Box and Muller (1958): two words give two
        numbers.
        """
        shape = (shape,) if isinstance(shape, int) else shape
        count = math.prod(shape)
        u = self.uniform((-(-count // 2), 2))
        radius = np.sqrt(-2.0 * np.log1p(-u[:, 0]))  # 1 - u lies in (0, 1]: no logarithm of zero
        angle = 2.0 * np.pi * u[:, 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count].reshape(shape)
