// Atomic read-modify-write. Blocks run on several OS threads, so these are the processor's atomics
// too.
#pragma once

namespace minillm_sim {

template <class T>
struct Word;
template <>
struct Word<int> { using type = int; };
template <>
struct Word<unsigned> { using type = unsigned; };
template <>
struct Word<float> { using type = unsigned; };
template <>
struct Word<unsigned short> { using type = unsigned short; };
template <>
struct Word<__half> { using type = unsigned short; };
template <>
struct Word<__nv_bfloat16> { using type = unsigned short; };
template <>
struct Word<__half2> { using type = unsigned; };
template <>
struct Word<__nv_bfloat162> { using type = unsigned; };
template <>
struct Word<long> { using type = unsigned long; };
template <>
struct Word<unsigned long> { using type = unsigned long; };
template <>
struct Word<long long> { using type = unsigned long long; };
template <>
struct Word<unsigned long long> { using type = unsigned long long; };
template <>
struct Word<double> { using type = unsigned long long; };

// Replaces the value at `address` by update(value) in one step; returns the old value.
template <class T, class Update>
__attribute__((noinline, no_sanitize("thread", "bounds"))) T modify(T* address, Update update) {
    using W = typename Word<T>::type;
#ifdef MINILLM_SIMULATOR_OBSERVED
    minillm_sim_access(address, sizeof(T), kAtomic, __builtin_return_address(0));
#endif
    W* word = reinterpret_cast<W*>(address);
    W expected = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;) {
        T old = minillm_bits<T>(expected);
        W desired = minillm_bits<W>(static_cast<T>(update(old)));
        if (__atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return old;
    }
}

}  // namespace minillm_sim

// An operation of CUDA's, with the scopes of its value: block, device, system. Overloads as in
// CUDA, so that what is given is converted; unsigned long is there besides, because uint64_t is
// that on Linux.
#define MINILLM_ATOMIC(NAME, TYPE, EXPRESSION)   \
    MINILLM_SCOPED(NAME, TYPE, EXPRESSION)       \
    MINILLM_SCOPED(NAME##_block, TYPE, EXPRESSION) \
    MINILLM_SCOPED(NAME##_system, TYPE, EXPRESSION)
#define MINILLM_SCOPED(NAME, TYPE, EXPRESSION)                                                       \
    __forceinline__ TYPE NAME(TYPE* address, TYPE value) {                                           \
        return minillm_sim::modify(address, [=](TYPE old) -> TYPE { return EXPRESSION; });           \
    }
#define MINILLM_ATOMIC_INTEGERS(NAME, EXPRESSION)     \
    MINILLM_ATOMIC(NAME, int, EXPRESSION)             \
    MINILLM_ATOMIC(NAME, unsigned, EXPRESSION)        \
    MINILLM_ATOMIC(NAME, unsigned long, EXPRESSION)   \
    MINILLM_ATOMIC(NAME, unsigned long long, EXPRESSION)
#define MINILLM_ATOMIC_ORDERED(NAME, EXPRESSION)  \
    MINILLM_ATOMIC_INTEGERS(NAME, EXPRESSION)     \
    MINILLM_ATOMIC(NAME, long, EXPRESSION)        \
    MINILLM_ATOMIC(NAME, long long, EXPRESSION)

MINILLM_ATOMIC_INTEGERS(atomicAdd, old + value)
MINILLM_ATOMIC(atomicAdd, float, old + value)
MINILLM_ATOMIC(atomicAdd, double, old + value)
MINILLM_ATOMIC(atomicSub, int, old - value)
MINILLM_ATOMIC(atomicSub, unsigned, old - value)
MINILLM_ATOMIC_ORDERED(atomicMax, old < value ? value : old)
MINILLM_ATOMIC_ORDERED(atomicMin, value < old ? value : old)
MINILLM_ATOMIC_ORDERED(atomicAnd, old & value)
MINILLM_ATOMIC_ORDERED(atomicOr, old | value)
MINILLM_ATOMIC_ORDERED(atomicXor, old ^ value)
MINILLM_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1)
MINILLM_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

// Exchanges may be the turns of a spin lock: the other threads run before the next one.
#define MINILLM_EXCHANGE(NAME, TYPE)                                                                 \
    __forceinline__ TYPE NAME(TYPE* address, TYPE value, MINILLM_SITE) {                             \
        using W = minillm_sim::Word<TYPE>::type;                                                     \
        TYPE old = minillm_sim::modify(address, [=](TYPE) -> TYPE { return value; });                \
        if (minillm_bits<W>(old) == minillm_bits<W>(value)) minillm_sim_spin(file, line);            \
        return old;                                                                                  \
    }
#define MINILLM_COMPARE_AND_SWAP(NAME, TYPE)                                                         \
    __forceinline__ TYPE NAME(TYPE* address, TYPE compare, TYPE value, MINILLM_SITE) {               \
        TYPE old = minillm_sim::modify(address, [=](TYPE old) -> TYPE { return old == compare ? value : old; }); \
        if (old != compare) minillm_sim_spin(file, line);                                            \
        return old;                                                                                  \
    }
#define MINILLM_SWAPS(SUFFIX)                                    \
    MINILLM_EXCHANGE(atomicExch##SUFFIX, int)                    \
    MINILLM_EXCHANGE(atomicExch##SUFFIX, unsigned)               \
    MINILLM_EXCHANGE(atomicExch##SUFFIX, float)                  \
    MINILLM_EXCHANGE(atomicExch##SUFFIX, unsigned long)          \
    MINILLM_EXCHANGE(atomicExch##SUFFIX, unsigned long long)     \
    MINILLM_COMPARE_AND_SWAP(atomicCAS##SUFFIX, int)             \
    MINILLM_COMPARE_AND_SWAP(atomicCAS##SUFFIX, unsigned)        \
    MINILLM_COMPARE_AND_SWAP(atomicCAS##SUFFIX, unsigned short)  \
    MINILLM_COMPARE_AND_SWAP(atomicCAS##SUFFIX, unsigned long)   \
    MINILLM_COMPARE_AND_SWAP(atomicCAS##SUFFIX, unsigned long long)
MINILLM_SWAPS()
MINILLM_SWAPS(_block)
MINILLM_SWAPS(_system)
