// Operations of a warp. Each lane leaves its operand and waits; the last lane to arrive computes
// the results of all.
#pragma once

namespace minillm_sim {

template <class T>
struct Shuffle {
    T value, result;
    int source;  // the lane to read from, or this lane's own
};

template <class T>
void shuffle(void** operands, unsigned mask) {
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        auto* mine = static_cast<Shuffle<T>*>(operands[lane]);
        auto* theirs = static_cast<Shuffle<T>*>(mine->source >= 0 && mine->source < 32 ? operands[mine->source] : nullptr);
        if (theirs)
            mine->result = theirs->value;
        else {  // a lane that takes no part: what the GPU returns is undefined
            minillm_sim_absent_source(lane, mine->source);
            __builtin_memset(static_cast<void*>(&mine->result), 0xff, sizeof(T));
        }
    }
}

template <class T>
T exchange(unsigned mask, T value, int source, int width, const char* file, int line) {
    if (width < 1 || width > 32 || width & (width - 1))
        minillm_sim_trap("the width of a shuffle has to be 1, 2, 4, 8, 16 or 32", file, line);
    Shuffle<T> operand;
    operand.value = value;
    operand.source = source;
    minillm_sim_collective(mask, &shuffle<T>, &operand, file, line);
    return operand.result;
}

struct Vote {
    unsigned predicate, ballot;
};

inline void vote(void** operands, unsigned mask) {
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && static_cast<Vote*>(operands[lane])->predicate) ballot |= 1u << lane;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) static_cast<Vote*>(operands[lane])->ballot = ballot;
}

}  // namespace minillm_sim

inline void __syncwarp(unsigned mask = 0xffffffffu, MINILLM_SITE) {
    minillm_sim_collective(mask, nullptr, nullptr, file, line);
}
inline unsigned __activemask(MINILLM_SITE) { return minillm_sim_active(file, line); }

inline unsigned __ballot_sync(unsigned mask, int predicate, MINILLM_SITE) {
    minillm_sim::Vote operand{predicate != 0, 0};
    minillm_sim_collective(mask, &minillm_sim::vote, &operand, file, line);
    return operand.ballot;
}
inline int __any_sync(unsigned mask, int predicate, MINILLM_SITE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MINILLM_SITE) {
    return __ballot_sync(mask, !predicate, file, line) == 0;
}

// width cuts the warp into segments of that many lanes; a source beyond the segment is the lane
// itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MINILLM_SITE) {
    int lane = minillm_sim::running->lane;
    return minillm_sim::exchange(mask, value, (lane & ~(width - 1)) + (source & (width - 1)), width, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MINILLM_SITE) {
    unsigned lane = minillm_sim::running->lane, within = lane & (width - 1);
    return minillm_sim::exchange(mask, value, within + delta < unsigned(width) ? lane + delta : lane, width, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MINILLM_SITE) {
    unsigned lane = minillm_sim::running->lane, within = lane & (width - 1);
    return minillm_sim::exchange(mask, value, within >= delta ? lane - delta : lane, width, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, MINILLM_SITE) {
    int lane = minillm_sim::running->lane, source = lane ^ lane_mask;
    // a source in a later segment than the lane's own is the lane itself (PTX ISA, shfl.bfly)
    return minillm_sim::exchange(mask, value, source <= (lane | (width - 1)) ? source : lane, width, file, line);
}
