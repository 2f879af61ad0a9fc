// Reductions and comparisons over the lanes of a warp, which newer GPUs have as instructions.
#pragma once

namespace minillm_sim {

template <class T>
struct Combined {
    T value, result;
};

template <class T, T (*combine)(T, T)>
void reduce(void** operands, unsigned mask) {
    bool first = true;
    T total{};
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        T value = static_cast<Combined<T>*>(operands[lane])->value;
        total = first ? value : combine(total, value);
        first = false;
    }
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) static_cast<Combined<T>*>(operands[lane])->result = total;
}

template <class T>
struct Matched {
    T value;
    unsigned lanes;
};

template <class T>
void match(void** operands, unsigned mask) {
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        auto* mine = static_cast<Matched<T>*>(operands[lane]);
        mine->lanes = 0;
        for (int other = 0; other < 32; ++other)
            if (mask >> other & 1 && !__builtin_memcmp(&static_cast<Matched<T>*>(operands[other])->value, &mine->value, sizeof(T)))
                mine->lanes |= 1u << other;
    }
}

template <class T> inline T sum_of(T a, T b) { return a + b; }
template <class T> inline T least_of(T a, T b) { return b < a ? b : a; }
template <class T> inline T greatest_of(T a, T b) { return a < b ? b : a; }
template <class T> inline T and_of(T a, T b) { return a & b; }
template <class T> inline T or_of(T a, T b) { return a | b; }
template <class T> inline T xor_of(T a, T b) { return a ^ b; }

}  // namespace minillm_sim

#define MINILLM_REDUCE(NAME, TYPE, COMBINE)                                                                    \
    inline TYPE NAME(unsigned mask, TYPE value, MINILLM_SITE) {                                                \
        minillm_sim::Combined<TYPE> operand{value, value};                                                     \
        minillm_sim_collective(mask, &minillm_sim::reduce<TYPE, &minillm_sim::COMBINE<TYPE>>, &operand, file, line); \
        return operand.result;                                                                                 \
    }
MINILLM_REDUCE(__reduce_add_sync, int, sum_of)
MINILLM_REDUCE(__reduce_add_sync, unsigned, sum_of)
MINILLM_REDUCE(__reduce_min_sync, int, least_of)
MINILLM_REDUCE(__reduce_min_sync, unsigned, least_of)
MINILLM_REDUCE(__reduce_max_sync, int, greatest_of)
MINILLM_REDUCE(__reduce_max_sync, unsigned, greatest_of)
MINILLM_REDUCE(__reduce_and_sync, unsigned, and_of)
MINILLM_REDUCE(__reduce_or_sync, unsigned, or_of)
MINILLM_REDUCE(__reduce_xor_sync, unsigned, xor_of)
#undef MINILLM_REDUCE

// The lanes of the mask that hold the same value as this one.
template <class T>
unsigned __match_any_sync(unsigned mask, T value, MINILLM_SITE) {
    minillm_sim::Matched<T> operand{value, 0};
    minillm_sim_collective(mask, &minillm_sim::match<T>, &operand, file, line);
    return operand.lanes;
}
template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* all, MINILLM_SITE) {
    *all = (__match_any_sync(mask, value, file, line) & mask) == mask;
    return *all ? mask : 0;
}
