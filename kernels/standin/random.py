"""cuRAND's generators: the distributions are cuRAND's, the numbers are NumPy's Philox's.

Number i of a generator is a function of its seed and of i alone, as cuRAND has it, so that drawing
2 and then 3 numbers gives what drawing 5 gives.
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.standin.memory import array
from minillm.kernels.standin.signatures import Function

_WORDS = 4  # of 64 bits in a block of Philox 4x64, which is what one number may use


def carry_out(function: Function, arguments: list, call) -> None:
    """A call of a function in signatures.CURAND: `count` numbers at an address, further settings
    behind.
    """
    address, count, *settings = arguments
    name = function.name.removeprefix("curandGenerate")
    dtype, distribution = _DISTRIBUTIONS[name]
    array(address, dtype, (count,))[...] = distribution(_bits(call.seed, call.offset, count), *settings)


def _bits(seed: int, offset: int, count: int) -> np.ndarray:
    """Two words of 64 random bits for each number: (2, count)."""
    generator = np.random.Philox(key=seed, counter=offset)
    return generator.random_raw(_WORDS * count).reshape(count, _WORDS)[:, :2].T


def _uniform(bits: np.ndarray) -> np.ndarray:
    """In (0, 1], as cuRAND has them: 0 is left out, 1 is not."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53


def _uniform_float(bits: np.ndarray) -> np.ndarray:
    """In (0, 1] in float32: 24 bits, so that rounding makes no 0."""
    return ((bits[0] >> np.uint64(40)).astype(np.float64) + 1) * 2.0**-24


def _normal(bits: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Box and Muller (1958): sqrt(-2 ln u) cos(2 pi v)."""
    u, v = _uniform(bits[0]), _uniform(bits[1])
    return mean + deviation * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)


def _poisson(bits: np.ndarray, rate: float) -> np.ndarray:
    """By inversion: how many of the probabilities, summed up, lie below a uniform number."""
    most = int(rate + 12 * np.sqrt(rate) + 30)
    logs = np.arange(most) * np.log(rate) - rate - np.concatenate([[0], np.cumsum(np.log(np.arange(1, most)))])
    return np.searchsorted(np.cumsum(np.exp(logs)), _uniform(bits[0]), side="left")


_DISTRIBUTIONS = {
    "": (np.uint32, lambda bits: bits[0] >> np.uint64(32)),
    "LongLong": (np.uint64, lambda bits: bits[0]),
    "Uniform": (np.float32, _uniform_float),
    "UniformDouble": (np.float64, lambda bits: _uniform(bits[0])),
    "Normal": (np.float32, _normal),
    "NormalDouble": (np.float64, _normal),
    "LogNormal": (np.float32, lambda *drawn: np.exp(_normal(*drawn))),
    "LogNormalDouble": (np.float64, lambda *drawn: np.exp(_normal(*drawn))),
    "Poisson": (np.uint32, _poisson),
}
