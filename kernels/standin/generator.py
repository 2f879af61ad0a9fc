"""In the place of cupy.random.Generator, whose kernels are compiled into CuPy's wheel: NumPy's
generators.

The distributions are the same; the numbers of a seed are others than on a GPU.
"""

from __future__ import annotations

import numpy as np

# Methods of cupy.random.Generator; NumPy's have the same names and arguments, but for `dtype` and
# `out` of some.
METHODS = """beta binomial chisquare dirichlet exponential f gamma geometric hypergeometric integers logseries poisson power
random standard_exponential standard_gamma standard_normal uniform""".split()


class BitGenerator:
    """A seed: what XORWOW(seed), MRG32k3a(seed) and Philox4x3210(seed) are here.

    seed: as numpy.random.SeedSequence takes it, or such a sequence. size: of the state on a GPU,
    which has no meaning here.
    """

    def __init__(self, seed=None, *, size: int = -1):
        self.sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)


class XORWOW(BitGenerator):
    """CuPy's default."""


class MRG32k3a(BitGenerator):
    """Another generator of cuRAND's."""


class Philox4x3210(BitGenerator):
    """Another generator of cuRAND's."""


class Generator:
    """The numbers of a bit generator, as arrays of CuPy's."""

    def __init__(self, bit_generator: BitGenerator):
        kind = (XORWOW, MRG32k3a, Philox4x3210).index(type(bit_generator))
        self.bit_generator = bit_generator
        self._numbers = np.random.Generator(np.random.Philox(bit_generator.sequence.spawn(3)[kind]))

    def _drawn(self, method: str, *arguments, dtype=None, out=None, **named):
        import cupy

        arguments = [_on_the_host(each) for each in arguments]
        named = {name: _on_the_host(each) for name, each in named.items()}
        if method == "integers" and dtype is not None:
            named["dtype"] = dtype  # it says how large a number may be
        drawn = np.asarray(getattr(self._numbers, method)(*arguments, **_with_size(named, out)))
        drawn = drawn if dtype is None else drawn.astype(dtype)
        if out is None:
            return cupy.asarray(drawn)
        out[...] = cupy.asarray(drawn)
        return out


def _method(name: str):
    def method(self, *arguments, **named):
        return self._drawn(name, *arguments, **named)

    method.__name__ = name
    method.__doc__ = f"As cupy.random.Generator.{name}."
    return method


for _name in METHODS:
    setattr(Generator, _name, _method(_name))


def replace() -> None:
    """From here on, cupy.random has these classes."""
    import cupy.random
    from cupy.random import _bit_generator, _generator_api

    _generator_api.Generator = cupy.random.Generator = Generator
    for each in (BitGenerator, XORWOW, MRG32k3a, Philox4x3210):
        for module in (cupy.random, _bit_generator):
            setattr(module, each.__name__, each)


def _on_the_host(value):
    import cupy

    return value.get() if isinstance(value, cupy.ndarray) else value


def _with_size(named: dict, out) -> dict:
    """The keyword arguments; an array `out` says the size."""
    return named if out is None or named.get("size") is not None else {**named, "size": out.shape}
