"""Mutants of the kernels that no check notices, and why: they are the same function, or only slower.

(kernels, function, text of the line, before, after) -> the reason. A part is a pattern of the whole text, as fnmatch
has it; "*" is any. The first that fits counts.
"""

from fnmatch import fnmatchcase
from typing import NamedTuple

UNIFORM = (
    "all threads of the warp, or of the block, have the same number here: it does not matter which of them writes it"
)
DEAD = "the number is written over before it is read"
EITHER = "both sides give the same at the border"
ONCE = "a thread takes no second turn here: the grid is as large as the rows, up to CUDA's limit of blocks"
ZERO = "the index is 0 in every launch of this kernel"


class Survivor(NamedTuple):
    kernels: str
    function: str
    source: str
    before: str
    after: str
    reason: str

    def fits(self, kernel, mutant) -> bool:
        """Whether a mutant of a kernel is meant."""
        found = (kernel, mutant.function, mutant.source, mutant.before, mutant.after or "nothing")
        return all(fnmatchcase(text, pattern) for text, pattern in zip(found, self[:5]))


def escaped(text):
    """A text as a pattern."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in text)


SURVIVORS = [
    # reduce.cuh
    Survivor("*", "block_sum", "if (threadIdx.x % 32 == 0)*", "0", "1", UNIFORM),
    Survivor("*", "block_sum", "if (threadIdx.x % 32 == 0)*", "32", "33", "33 w lies in warp w, for all 32 warps"),
    Survivor("*", "warp_sum", "*", "16", "17", "17, 8, 4, 2, 1 reach all lanes, too: the sum has another order"),
]


def reason(kernel, mutant):
    """Why a mutant survives; None for one that is not in the list."""
    return next((each.reason for each in SURVIVORS if each.fits(kernel, mutant)), None)
