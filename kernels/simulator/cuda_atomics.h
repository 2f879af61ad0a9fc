// Atomic read-modify-write. Blocks run on several OS threads, so these are the processor's atomics too.
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

#define MINILLM_ATOMIC(NAME, TYPE, EXPRESSION)                                                       \
    __forceinline__ TYPE NAME(TYPE* address, TYPE value) {                                           \
        return minillm_sim::modify(address, [=](TYPE old) -> TYPE { return EXPRESSION; });           \
    }
#define MINILLM_ATOMIC_INTEGERS(NAME, EXPRESSION)   \
    MINILLM_ATOMIC(NAME, int, EXPRESSION)           \
    MINILLM_ATOMIC(NAME, unsigned, EXPRESSION)      \
    MINILLM_ATOMIC(NAME, unsigned long long, EXPRESSION)

MINILLM_ATOMIC_INTEGERS(atomicAdd, old + value)
MINILLM_ATOMIC(atomicAdd, float, old + value)
MINILLM_ATOMIC(atomicAdd, double, old + value)
MINILLM_ATOMIC(atomicSub, int, old - value)
MINILLM_ATOMIC(atomicSub, unsigned, old - value)
MINILLM_ATOMIC_INTEGERS(atomicMax, old < value ? value : old)
MINILLM_ATOMIC_INTEGERS(atomicMin, value < old ? value : old)
MINILLM_ATOMIC_INTEGERS(atomicAnd, old & value)
MINILLM_ATOMIC_INTEGERS(atomicOr, old | value)
MINILLM_ATOMIC_INTEGERS(atomicXor, old ^ value)
MINILLM_ATOMIC_INTEGERS(minillm_exchange, (void(old), value))
MINILLM_ATOMIC(minillm_exchange, float, (void(old), value))
MINILLM_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1)
MINILLM_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

// Exchanges may be the turns of a spin lock: the other threads run before the next one.
template <class T>
__forceinline__ T atomicExch(T* address, T value, MINILLM_SITE) {
    T old = minillm_exchange(address, value);
    if (minillm_bits<typename minillm_sim::Word<T>::type>(old) == minillm_bits<typename minillm_sim::Word<T>::type>(value))
        minillm_sim_spin(file, line);
    return old;
}
template <class T>
__forceinline__ T atomicCAS(T* address, T compare, T value, MINILLM_SITE) {
    T old = minillm_sim::modify(address, [=](T old) -> T { return old == compare ? value : old; });
    if (old != compare) minillm_sim_spin(file, line);
    return old;
}
