// Cooperative groups: the block, tiles of a warp, the lanes that run together, and what they do
// with each other. A grid can be synchronised in a cooperative launch.
#pragma once

#include "async_bytes.h"

namespace minillm_sim {

// The number of the running thread within its block, and the block's number within the grid.
inline unsigned block_rank() {
    const Running& t = *running;
    return (t.thread.z * t.block_size.y + t.thread.y) * t.block_size.x + t.thread.x;
}
// Of a warp, in a tile of several.
struct alignas(16) TileMemory {
    char value[16];
    unsigned arrived, phase;
};
inline unsigned block_threads() { return running->block_size.x * running->block_size.y * running->block_size.z; }

}  // namespace minillm_sim

namespace cooperative_groups {

// Lanes of one warp. Ranks count the lanes of `lanes`.
class coalesced_group {
  public:
    explicit coalesced_group(unsigned lanes) : lanes(lanes) {}
    void sync(MINILLM_SITE) const { __syncwarp(lanes, file, line); }
    unsigned size() const { return __builtin_popcount(lanes); }
    unsigned mask() const { return lanes; }
    unsigned num_threads() const { return size(); }
    unsigned thread_rank() const { return __builtin_popcount(lanes & ((1u << minillm_sim::running->lane) - 1)); }
    unsigned meta_group_size() const { return 1; }
    unsigned meta_group_rank() const { return 0; }
    template <class T>
    T shfl(T value, int rank, MINILLM_SITE) const { return __shfl_sync(lanes, value, lane_of(rank), 32, file, line); }
    template <class T>
    T shfl_down(T value, unsigned delta, MINILLM_SITE) const {
        unsigned rank = thread_rank();
        return shfl(value, rank + delta < size() ? rank + delta : rank, file, line);
    }
    template <class T>
    T shfl_up(T value, unsigned delta, MINILLM_SITE) const {
        unsigned rank = thread_rank();
        return shfl(value, rank >= delta ? rank - delta : rank, file, line);
    }
    template <class T>
    T shfl_xor(T value, unsigned mask, MINILLM_SITE) const {
        unsigned rank = thread_rank() ^ mask;
        return shfl(value, rank < size() ? rank : thread_rank(), file, line);
    }
    int any(int predicate, MINILLM_SITE) const { return __any_sync(lanes, predicate, file, line); }
    int all(int predicate, MINILLM_SITE) const { return __all_sync(lanes, predicate, file, line); }
    unsigned ballot(int predicate, MINILLM_SITE) const { return packed(__ballot_sync(lanes, predicate, file, line)); }
    template <class T>
    unsigned match_any(T value, MINILLM_SITE) const { return packed(__match_any_sync(lanes, value, file, line)); }
    template <class T>
    unsigned match_all(T value, int& all, MINILLM_SITE) const {
        return packed(__match_all_sync(lanes, value, &all, file, line));
    }

  protected:
    unsigned lanes;

  private:
    int lane_of(int rank) const {
        for (int lane = 0; lane < 32; ++lane)
            if (lanes >> lane & 1 && rank-- == 0) return lane;
        return minillm_sim::running->lane;
    }
    unsigned packed(unsigned ballot) const {  // a bit for each rank
        unsigned bits = 0;
        for (int lane = 0, rank = 0; lane < 32; ++lane)
            if (lanes >> lane & 1) bits |= (ballot >> lane & 1) << rank++;
        return bits;
    }
};

class thread_block {
  public:
    static void sync(MINILLM_SITE) { __syncthreads(file, line); }
    static unsigned thread_rank() { return minillm_sim::block_rank(); }
    static unsigned size() { return minillm_sim::block_threads(); }
    static unsigned num_threads() { return size(); }
    static dim3 group_index() { return minillm_sim::running->block; }
    static dim3 thread_index() { return minillm_sim::running->thread; }
    static dim3 group_dim() { return minillm_sim::running->block_size; }
    static dim3 dim_threads() { return minillm_sim::running->block_size; }

    thread_block() = default;
    explicit thread_block(minillm_sim::TileMemory* memory) : memory(memory) {
        if (minillm_sim::running->lane == 0) memory[thread_rank() / 32].arrived = memory[thread_rank() / 32].phase = 0;
        __syncthreads();
    }
    minillm_sim::TileMemory* memory = nullptr;
};
inline thread_block this_thread_block() { return {}; }

class grid_group {
  public:
    static bool is_valid() { return minillm_sim_is_cooperative(); }
    static void sync(MINILLM_SITE) { minillm_sim_grid_barrier(file, line); }
    static unsigned long long thread_rank() {
        return block_rank() * minillm_sim::block_threads() + minillm_sim::block_rank();
    }
    static unsigned long long size() { return num_blocks() * minillm_sim::block_threads(); }
    static unsigned long long num_threads() { return size(); }
    static unsigned long long num_blocks() {
        const minillm_sim::Index3& grid = minillm_sim::running->grid_size;
        return 1ull * grid.x * grid.y * grid.z;
    }
    static unsigned long long block_rank() {
        const minillm_sim::Running& t = *minillm_sim::running;
        return (1ull * t.block.z * t.grid_size.y + t.block.y) * t.grid_size.x + t.block.x;
    }
    static dim3 block_index() { return minillm_sim::running->block; }
    static dim3 group_dim() { return minillm_sim::running->grid_size; }
    static dim3 dim_blocks() { return minillm_sim::running->grid_size; }
};
inline grid_group this_grid() { return {}; }

template <unsigned kSize, class Parent = void, bool kOfOneWarp = kSize <= 32>
class thread_block_tile : public coalesced_group {
    static_assert(kSize && !(kSize & (kSize - 1)), "the size of a tile is a power of two");

  public:
    thread_block_tile() : coalesced_group(of_lane()) {}
    template <class Group>
    explicit thread_block_tile(const Group&) : thread_block_tile() {}
    template <class Other>
    thread_block_tile(const thread_block_tile<kSize, Other>&) : thread_block_tile() {}
    static constexpr unsigned size() { return kSize; }
    static constexpr unsigned num_threads() { return kSize; }
    unsigned thread_rank() const { return minillm_sim::running->lane % kSize; }
    unsigned meta_group_size() const { return (minillm_sim::block_threads() + kSize - 1) / kSize; }
    unsigned meta_group_rank() const { return minillm_sim::block_rank() / kSize; }
    template <class T>
    T shfl(T value, int rank, MINILLM_SITE) const { return __shfl_sync(lanes, value, rank, kSize, file, line); }
    template <class T>
    T shfl_down(T value, unsigned delta, MINILLM_SITE) const { return __shfl_down_sync(lanes, value, delta, kSize, file, line); }
    template <class T>
    T shfl_up(T value, unsigned delta, MINILLM_SITE) const { return __shfl_up_sync(lanes, value, delta, kSize, file, line); }
    template <class T>
    T shfl_xor(T value, unsigned mask, MINILLM_SITE) const { return __shfl_xor_sync(lanes, value, mask, kSize, file, line); }

  private:
    static unsigned of_lane() {
        return kSize == 32 ? 0xffffffffu : ((1u << kSize % 32) - 1) << (minillm_sim::running->lane & ~(kSize - 1));
    }
};
template <unsigned kSize, class Parent>
thread_block_tile<kSize, Parent> tiled_partition(const Parent& parent) { return thread_block_tile<kSize, Parent>(parent); }

// What a tile of several warps exchanges values through; it is given to this_thread_block().
template <unsigned kMaxBlockSize = 1024>
struct block_tile_memory {
    minillm_sim::TileMemory warp[(kMaxBlockSize + 31) / 32];
};
template <unsigned kMaxBlockSize>
thread_block this_thread_block(block_tile_memory<kMaxBlockSize>& memory) { return thread_block(memory.warp); }

// A tile of several warps: 64 to 512 threads.
template <unsigned kSize, class Parent>
class thread_block_tile<kSize, Parent, false> {
    static_assert(kSize <= 512 && !(kSize & (kSize - 1)), "the size of a tile is a power of two");

  public:
    explicit thread_block_tile(const thread_block& block) : memory(block.memory) {}
    static constexpr unsigned size() { return kSize; }
    static constexpr unsigned num_threads() { return kSize; }
    unsigned thread_rank() const { return minillm_sim::block_rank() % kSize; }
    unsigned meta_group_size() const { return (minillm_sim::block_threads() + kSize - 1) / kSize; }
    unsigned meta_group_rank() const { return minillm_sim::block_rank() / kSize; }
    void sync(MINILLM_SITE) const {
        if (!memory)
            minillm_sim_trap("a tile of several warps needs memory: __shared__ cg::block_tile_memory<N> m; "
                             "cg::this_thread_block(m)", file, line);
        __syncwarp(0xffffffffu, file, line);
        auto& first = memory[minillm_sim::block_rank() / kSize * (kSize / 32)];
        if (minillm_sim::running->lane == 0) {
            unsigned phase = atomicAdd(&first.phase, 0u);
            __threadfence_block();
            if (atomicAdd(&first.arrived, 1u) + 1 == warps()) {
                atomicExch(&first.arrived, 0u);
                __threadfence_block();
                atomicAdd(&first.phase, 1u);
            }
            while (atomicAdd(&first.phase, 0u) == phase) minillm_sim_spin(file, line);
        }
        __syncwarp(0xffffffffu, file, line);
    }
    // The value of each warp's lane 0, combined; every thread receives it.
    template <class T, class Combine>
    T combined(T of_warp, Combine&& combine, const char* file, int line) const {
        static_assert(sizeof(T) <= sizeof(memory->value), "a value of at most 16 bytes");
        unsigned begin = minillm_sim::block_rank() / kSize * (kSize / 32);
        sync(file, line);
        if (minillm_sim::running->lane == 0) *reinterpret_cast<T*>(memory[minillm_sim::block_rank() / 32].value) = of_warp;
        sync(file, line);
        T total = *reinterpret_cast<T*>(memory[begin].value);
        for (unsigned warp = 1; warp < warps(); ++warp) total = combine(total, *reinterpret_cast<T*>(memory[begin + warp].value));
        sync(file, line);
        return total;
    }

  private:
    static unsigned warps() {
        unsigned left = minillm_sim::block_threads() - minillm_sim::block_rank() / kSize * kSize;
        return ((left < kSize ? left : kSize) + 31) / 32;
    }
    minillm_sim::TileMemory* memory;
};

// Any of the groups, for functions that take one.
class thread_group {
  public:
    thread_group(const thread_block&) : whole_block(true), group(0) {}
    thread_group(const coalesced_group& lanes) : whole_block(false), group(lanes) {}
    void sync(MINILLM_SITE) const { whole_block ? __syncthreads(file, line) : group.sync(file, line); }
    unsigned size() const { return whole_block ? thread_block::size() : group.size(); }
    unsigned num_threads() const { return size(); }
    unsigned thread_rank() const { return whole_block ? thread_block::thread_rank() : group.thread_rank(); }

  private:
    bool whole_block;
    coalesced_group group;
};
template <class Parent>
thread_group tiled_partition(const Parent&, unsigned size) {
    unsigned lane = minillm_sim::running->lane;
    return coalesced_group(size >= 32 ? 0xffffffffu : ((1u << size) - 1) << (lane / size * size));
}
// The lanes of a group that give the same label, or the same answer.
template <class Label>
coalesced_group labeled_partition(const coalesced_group& group, Label label, MINILLM_SITE) {
    return coalesced_group(__match_any_sync(group.mask(), label, file, line));
}
inline coalesced_group binary_partition(const coalesced_group& group, bool answer, MINILLM_SITE) {
    unsigned yes = __ballot_sync(group.mask(), answer, file, line);
    return coalesced_group(answer ? yes : group.mask() & ~yes);
}
// One thread of the group calls a function.
template <class Group, class Function, class... Arguments>
void invoke_one(const Group& group, Function&& function, Arguments&&... arguments) {
    if (group.thread_rank() == 0) function(arguments...);
}
template <class Group, class Function, class... Arguments>
auto invoke_one_broadcast(const Group& group, Function&& function, Arguments&&... arguments) {
    decltype(function(arguments...)) result{};
    if (group.thread_rank() == 0) result = function(arguments...);
    return group.shfl(result, 0);
}
inline coalesced_group coalesced_threads(MINILLM_SITE) { return coalesced_group(__activemask(file, line)); }

template <class Group>
void sync(const Group& group, MINILLM_SITE) { group.sync(file, line); }
template <class Group>
unsigned thread_rank(const Group& group) { return group.thread_rank(); }
template <class Group>
unsigned group_size(const Group& group) { return group.size(); }

// cooperative_groups/reduce.h and scan.h
template <class T = void> struct plus { T operator()(T a, T b) const { return a + b; } };
template <class T = void> struct less { T operator()(T a, T b) const { return b < a ? b : a; } };
template <class T = void> struct greater { T operator()(T a, T b) const { return a < b ? b : a; } };
template <class T = void> struct bit_and { T operator()(T a, T b) const { return a & b; } };
template <class T = void> struct bit_or { T operator()(T a, T b) const { return a | b; } };
template <class T = void> struct bit_xor { T operator()(T a, T b) const { return a ^ b; } };
template <> struct plus<void> { template <class T> T operator()(T a, T b) const { return a + b; } };

template <class Group, class T, class Combine>
T reduce(const Group& group, T value, Combine&& combine, MINILLM_SITE) {
    T total = group.shfl(value, 0, file, line);
    for (unsigned rank = 1; rank < group.size(); ++rank) total = combine(total, group.shfl(value, rank, file, line));
    return total;
}
template <unsigned kSize, class Parent, class T, class Combine>
T reduce(const thread_block_tile<kSize, Parent, false>& group, T value, Combine&& combine, MINILLM_SITE) {
    coalesced_group warp(0xffffffffu);
    return group.combined(reduce(warp, value, combine, file, line), combine, file, line);
}
template <class Group, class T, class Combine>
void reduce_store_async(const Group& group, T* to, T value, Combine&& combine, MINILLM_SITE) {
    T total = reduce(group, value, combine, file, line);
    if (group.thread_rank() == 0) *to = total;
}
template <class Group, class T, class Combine>
T inclusive_scan(const Group& group, T value, Combine&& combine, MINILLM_SITE) {
    for (unsigned delta = 1; delta < group.size(); delta *= 2) {
        T before = group.shfl_up(value, delta, file, line);
        if (group.thread_rank() >= delta) value = combine(before, value);
    }
    return value;
}
template <class Group, class T>
T inclusive_scan(const Group& group, T value, MINILLM_SITE) { return inclusive_scan(group, value, plus<T>(), file, line); }
template <class Group, class T, class Combine>
T exclusive_scan(const Group& group, T value, Combine&& combine, MINILLM_SITE) {
    T before = group.shfl_up(inclusive_scan(group, value, combine, file, line), 1, file, line);
    return group.thread_rank() ? before : T();
}
template <class Group, class T>
T exclusive_scan(const Group& group, T value, MINILLM_SITE) { return exclusive_scan(group, value, plus<T>(), file, line); }


// cooperative_groups/memcpy_async.h: the threads of a group copy a piece each; every call is a
// group of copies.
template <class Group, class T, class Size>
void memcpy_async(const Group& group, T* to, const T* from, const Size& size) {
    minillm_sim::copy_bytes(to, from, static_cast<size_t>(size), group.thread_rank(), group.size());
    minillm_sim_copy_commit();
}
template <class Group, class T, class Size, class Given>
void memcpy_async(const Group& group, T* to, const Size& room, const T* from, const Given& given) {
    size_t size = static_cast<size_t>(room) < static_cast<size_t>(given) ? room : given;
    memcpy_async(group, to, from, size * sizeof(T));
}
template <class Group>
void wait(const Group& group, MINILLM_SITE) {
    minillm_sim_copy_wait(-1);
    group.sync(file, line);
}
template <unsigned kKeep, class Group>
void wait_prior(const Group& group, MINILLM_SITE) {
    minillm_sim_copy_wait(kKeep);
    group.sync(file, line);
}

}  // namespace cooperative_groups
