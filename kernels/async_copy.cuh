// Copies from global to shared memory that go on while the thread computes (cp.async, sm_80 and
// later): a tile can be on its way while the one before it is used, and it passes through no
// register.
//
//     AsyncCopies copies;
//     copies.start(&tile[n], &matrix[n], true);       16 bytes, both addresses multiples of 16
//     ...                                             the tile is not there yet
//     copies.wait();                                  this thread's copies are; a barrier makes those of the others so too
//
// Under the simulator a copy is done in wait(), so that a kernel that reads too early reads what
// was there before.

#pragma once

class AsyncCopies {
   public:
    // 16 bytes; zeros if not `inside` (then `from` is not read).
    __device__ __forceinline__ void start(void* to, const void* from, bool inside);
    __device__ __forceinline__ void wait();

#ifdef MINILLM_SIMULATOR
   private:
    static const int LIMIT = 64;
    void* to_[LIMIT];
    const void* from_[LIMIT];  // null: zeros
    int count_ = 0;
#endif
};

#ifdef MINILLM_SIMULATOR

inline void AsyncCopies::start(void* to, const void* from, bool inside) {
    if (count_ == LIMIT) __trap();
    to_[count_] = to;
    from_[count_++] = inside ? from : nullptr;
}

inline void AsyncCopies::wait() {
    for (int n = 0; n < count_; ++n) {
        float4* to = static_cast<float4*>(to_[n]);
        if (from_[n])
            *to = *static_cast<const float4*>(from_[n]);
        else
            *to = make_float4(0, 0, 0, 0);
    }
    count_ = 0;
}

#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

__device__ __forceinline__ void AsyncCopies::start(void* to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void AsyncCopies::wait() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

#endif
