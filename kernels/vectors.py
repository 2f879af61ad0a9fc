"""How the kernels that include vectors.cuh cut arrays into vectors of neighbours, and rows into
threads.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.precision import dtype_name
from minillm.kernels.column_sum import COLUMN_SUM_CONSTANTS
from minillm.kernels.launch import NUMBERS, ResourceLimit, c_type

HELD = 8  # numbers of a row that a thread holds in registers
# Threads of a block that holds a row: of 768 each may have 80 registers. Without vectors it needs
# more.
MAX_THREADS, MAX_THREADS_BY_ONE = 768, 512
MAX_WIDTH = HELD * MAX_THREADS
ROW_CONSTANTS = {
    **COLUMN_SUM_CONSTANTS,
    "HELD": HELD,
    "MAX_THREADS": MAX_THREADS,
    "MAX_THREADS_BY_ONE": MAX_THREADS_BY_ONE,
}
# Of a kernel whose blocks leave partial sums: the most blocks, and threads (744 for each SM of an
# H100).
BLOCKS_OF_SUMS, THREADS_OF_SUMS = 1024, 96 * 1024
BYTES = 16  # of a vector, the most that a thread reads or writes at once
NULL = np.uint64(0)  # a null pointer, which is not followed
NEIGHBOURS = {"float32": BYTES // 4, "bfloat16": BYTES // 2}  # dtype -> N, the numbers in a vector


def instances(kernel: str, limit: ResourceLimit, *further: str, by_one: int = 0) -> dict[str, ResourceLimit]:
    """The instances of a kernel that `instance` names.

    further: other template arguments. by_one: registers of those without vectors, if not as
    `limit`.
    """
    found = {}
    for dtype, number in NUMBERS.items():
        for n in (NEIGHBOURS[dtype], 1):
            name = f"{kernel}<{', '.join((number, str(n), *further))}>"
            found[name] = limit._replace(registers=by_one) if by_one and n == 1 else limit
    return found


def instance(kernel: str, width: int, arrays: tuple, *further: str) -> str:
    """The instance of a kernel for rows of `width` numbers: "gelu_forward<float, 4, true>".

    Its second argument is N, the numbers of the first array in 16 bytes, if the rows of all
    `arrays` begin at multiples of 16 bytes, and else 1. Those that are None do not count.
    """
    n = NEIGHBOURS[dtype_name(arrays[0].dtype)]
    if width % n or any(_offset(array) % BYTES for array in arrays if array is not None):
        n = 1
    return f"{kernel}<{', '.join((c_type(arrays[0]), str(n), *further))}>"


def threads_of_row(width: int, kernel: str = "") -> int:
    """Threads of a block that holds a row of `width` numbers: whole warps.

    kernel: the instance, if it has to have that many. Raises ValueError for a row that is too wide
    for one without vectors.
    """
    threads = 32 * max(1, -(-width // (32 * HELD)))
    if threads > MAX_THREADS_BY_ONE and ", 1>" in kernel:
        raise ValueError(
            f"{kernel}: rows of {width} numbers do not begin at multiples of {BYTES} bytes; of such the kernel takes "
            f"1 to {HELD * MAX_THREADS_BY_ONE}: pass arrays of their own, or minillm.kernels.use_kernels"
            f"({kernel.rpartition('_')[0]}=False) does without it"
        )
    return threads


def blocks_of_rows(rows: int, width: int, times: int = 1) -> int:
    """Blocks of a kernel that holds rows and leaves a row of partial sums for each block: fewer
    where rows are wide.

    times: as many, for a kernel that leaves no sums.
    """
    return min(rows, BLOCKS_OF_SUMS * times, max(1, THREADS_OF_SUMS * times // threads_of_row(width)))


def _offset(array) -> int:
    """Bytes from a place that a GPU aligns to the first number of the array."""
    if not isinstance(array, np.ndarray):
        return array.data.ptr
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return array.ctypes.data - owner.ctypes.data if owner is not array else 0
