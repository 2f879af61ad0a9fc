// <cuda_pipeline.h>: asynchronous copies from global to shared memory, as functions of C.
#pragma once

// zfill: how many of the last bytes are zeros and not read.
__forceinline__ void __pipeline_memcpy_async(void* to, const void* from, size_t size, size_t zfill = 0) {
    minillm_sim_copy_start(to, from, size, size - zfill);
}
__forceinline__ void __pipeline_commit() { minillm_sim_copy_commit(); }
__forceinline__ void __pipeline_wait_prior(size_t keep) { minillm_sim_copy_wait(static_cast<int>(keep)); }
