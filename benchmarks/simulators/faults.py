"""The planted faults of faults.cu, in words, and how each kernel is launched."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("faults.cu")
LENGTH, COUNTS, N = 256, 64, 128  # of x and y, of counts; the parameter n
BLOCK = 64


class Fault(NamedTuple):
    """name: of the kernel. words: what is wrong. fresh: y is memory that was never written. shared:
    bytes of dynamic shared memory.
    """

    name: str
    words: str
    grid: int = 2
    shared: int = 0
    fresh: bool = False


FAULTS = (
    Fault("missing_barrier", "no `__syncthreads` between writing and reading a tile"),
    Fault("missing_second_barrier", "no `__syncthreads` before a tile is overwritten in the next round"),
    Fault("missing_syncwarp", "no `__syncwarp` between the steps of a reduction in shared memory"),
    Fault("warp_synchronous", "a last warp that relies on running in step, with `volatile`"),
    Fault("race_between_blocks", "two blocks write the same numbers"),
    Fault("smoothing_in_place", "a stencil that writes what a neighbour, or another block, still reads"),
    Fault("missing_atomic", "`+=` for `atomicAdd` in global memory"),
    Fault("histogram_in_shared_memory", "`++` for `atomicAdd` in shared memory"),
    Fault("read_past_the_end", "a read one behind an array"),
    Fault("write_past_the_end", "a write one behind an array"),
    Fault("read_before_the_start", "a read one before an array"),
    Fault("read_of_another_array", "a pointer that went from one array into another"),
    Fault("wrong_stride", "a row stride of 256 for 64, beyond the end in block 1"),
    Fault("index_overflows", "an `int` product beyond 2^31"),
    Fault("shift_is_too_far", "`1 << 32` and more"),
    Fault("division_by_zero", "an integer division by zero in one thread"),
    Fault("uninitialised_shared", "a read of shared memory that no thread wrote"),
    Fault("uninitialised_global", "a read of a fresh array that no thread wrote", fresh=True),
    Fault("uninitialised_local", "a read of a local variable without a value"),
    Fault("shared_array_bound", "an index beyond a shared array, by its name"),
    Fault("shared_neighbour", "a pointer beyond a row of shared memory, into the next row"),
    Fault("dynamic_shared_too_small", "more dynamic shared memory than the launch gave", shared=4 * BLOCK),
    Fault("local_array_bound", "an index beyond a local array, by its name"),
    Fault("local_array_by_pointer", "a pointer beyond a local array, in a function"),
    Fault("local_out_of_scope", "a pointer to a local variable whose scope has ended"),
    Fault("heap_bound", "a write behind a block from the kernel's `malloc`"),
    Fault("misaligned_vector", "a `float4` at an address that is no multiple of 16"),
    Fault("write_to_const", "a write to an array that the kernel takes as `const`"),
    Fault("divergent_barriers", "two halves of a block at two different `__syncthreads`"),
    Fault("barrier_for_some", "a `__syncthreads` that a part of the block skips"),
    Fault("barrier_in_an_uneven_loop", "a `__syncthreads` in a loop, more rounds in one warp than in the other"),
    Fault("shuffle_mask_too_small", "a shuffle with the mask of half a warp"),
    Fault("shuffle_in_a_branch", "a shuffle that half of the lanes in its mask do not reach"),
    Fault("shuffle_from_an_absent_lane", "a shuffle that reads from a lane outside of its mask"),
    Fault("flag_without_fence", "a flag between blocks without `__threadfence`"),
    Fault("flag_without_volatile", "a flag between blocks that is read without `volatile`"),
    Fault("wait_without_end", "a flag that no block sets"),
    Fault("launch_too_small", "half of the threads that the array needs", grid=1),
    Fault("double_buffer_too_early", "a tile read before its asynchronous copy was waited for"),
    Fault("double_buffer_without_barrier", "asynchronous copies of other threads, read without a barrier"),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
