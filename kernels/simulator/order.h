// Check mode: which accesses are before which. Barriers order a block, __syncwarp the lanes of a
// warp. A fence, then an atomic or volatile write, and an atomic or volatile read of the same place
// by another thread, later, order what came before the fence before what comes after the read:
// between any two threads, of one block or of two.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace minillm_sim {

// What an access has to do with others at the same place.
enum Sync : uint8_t { kPlain, kAtomically, kVolatile };

// phase: a number that grows with every block and every barrier, so that accesses of different
// phases of one block are ordered. time: the thread's count of its warp synchronisations and
// fences. phase 0: there was no access.
struct Access {
    uint32_t phase = 0;
    uint16_t thread = 0;
    Sync sync = kPlain;
    uint32_t time = 0;
    uint64_t pc = 0;
};

class Order {
  public:
    explicit Order(unsigned thread_count);
    uint32_t start_block(unsigned long long block);  // or a part of it, behind a barrier of the grid; its first phase
    void barrier();
    void grid_barrier() { all_before = phase; }  // what happened is before what comes
    void sync_warp(unsigned warp, unsigned mask);
    void fence(unsigned thread, bool whole_device);
    void read_sync(unsigned thread, uint64_t address, bool shared);   // an atomic or volatile read
    void write_sync(unsigned thread, uint64_t address, bool shared);  // an atomic or volatile write

    Access now(unsigned thread, uint64_t pc) const { return {phase, uint16_t(thread), kPlain, time(thread), pc}; }
    bool ordered(const Access& before, const Access& now) const;
    // Whether `thread` has read, at this address, what the thread of `before` told there.
    bool told(const Access& before, unsigned thread, uint64_t address, bool shared) const;
    bool of_this_block(const Access& access) const { return access.phase >= first_phase; }
    unsigned long long block_number(const Access& access) const { return block_numbers[block_of(access)]; }

  private:
    uint32_t block_of(const Access& access) const;  // in the order in which blocks, and parts of blocks, ran
    using Place = std::pair<uint64_t, bool>;  // address, and whether it is in shared memory
    using Known = std::map<Place, uint32_t>;  // the version of each place's log up to which a thread has read it

    // What a fence has before it: all phases of its block below `phase`; in `phase` the times of
    // threads from `first` on.
    struct Fence {
        uint64_t id = 0;  // 0: there was none
        uint32_t phase = 0;
        unsigned first = 0;
        std::shared_ptr<std::vector<uint32_t>> times;
        Known known;
    };
    struct Release {
        uint32_t version;
        uint16_t thread;
        bool whole_device;
        Fence fence;
    };
    struct Log {
        uint32_t version = 0;
        std::unordered_map<uint32_t, std::vector<Release>> by_block;
        std::vector<std::pair<uint32_t, Known>> links;  // version, and what its releaser knew of other places
        std::unordered_map<unsigned, uint64_t> last;    // [thread of this block]: the fence that it released last
        uint32_t last_block = 0;
    };

    uint32_t time(unsigned thread) const { return clocks[thread * 32 + thread % 32]; }
    void release(unsigned thread, const Place& place, const Fence& fence, bool whole_device);
    void follow(Known& into, const Place& place, uint32_t version) const;
    bool covered(const Access& before, unsigned thread) const;
    bool covers(const Log& log, uint32_t version, const Access& before, uint32_t block) const;
    static void merge(Known& into, const Known& from);
    static void merge(Fence& into, const Fence& from, uint64_t id);

    unsigned thread_count;
    uint32_t phase = 0, first_phase = 0, all_before = 0;
    uint64_t fences = 0;
    bool in_phase = false;                // whether threads fenced or read in this phase
    std::vector<uint32_t> clocks;         // [thread][lane]: the time of `lane` that is before `thread`'s now
    std::vector<uint32_t> block_starts;   // the first phase of each block that ran
    std::vector<unsigned long long> block_numbers;  // and which it was
    std::vector<Fence> wide, narrow;      // [thread]: its last fence in this phase, for the device and for the block
    Fence block_fence;                    // all those of an earlier phase
    std::vector<Known> known;             // [thread]: read in this phase
    Known block_known;                    // read in earlier phases
    std::vector<Known> all_known;         // [thread]: `known`, and what those knew who released it, and so on
    Known all_block_known;
    std::map<Place, Log> logs;
};

}  // namespace minillm_sim
