// Check mode: what every access to memory is compared with.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "runtime.h"

namespace minillm_sim {

class BlockRunner;
struct Thread;

// An array of the launch, as Python describes it; the same struct stands in module.py.
struct Region {
    uint64_t address, size, guard;  // guard: bytes on either side that may be touched without harm
    int element, writable, argument, entry;  // entry: of a table of pointers, -1 if the argument is no table
};

// Who accessed a byte last. phase: a number that grows with every block and every barrier, so that accesses of
// different phases of one block are ordered. time: the thread's count of warp synchronisations.
struct Access {
    uint32_t phase = 0;
    uint16_t thread = 0, atomic = 0;
    uint32_t time = 0;
    uint64_t pc = 0;
};

// Two readers are remembered: the second one is from another block or warp than the first, if there was one.
struct Cell {
    Access writer, reader, other_reader;
};

class Checker {
  public:
    explicit Checker(BlockRunner& runner);
    void start_block();
    void barrier() { ++phase; }
    void sync_warp(unsigned warp, unsigned mask);
    void fence() { fence_phase = phase; }
    void access(uint64_t address, uint64_t size, int kind, const void* pc);

  private:
    void check_cell(Cell& cell, bool shared, const Access& access, int kind, uint64_t address);
    bool ordered(const Access& before, const Access& now) const;
    void synchronise(uint64_t address);
    void remember_reader(Cell& cell, const Access& access) const;
    void report(const char* what, const Access& access, const Access* other);
    uint32_t block_of(uint32_t phase_of_access) const;

    BlockRunner& runner;
    // What a block did from `first` up to its fence in `last`, and then told by an atomic operation.
    struct Release {
        uint32_t first, last;
    };

    uint32_t phase = 0, first_phase = 0, fence_phase = 0;
    std::map<uint64_t, std::vector<Release>> releases;  // [address of the atomic]
    std::vector<Release> acquired;                      // what this block has been told
    std::vector<uint32_t> block_starts;           // the first phase of each block that ran
    std::vector<std::vector<Cell>> global_cells;  // per region, one for each element
    std::vector<Cell> shared_cells;               // one for each byte
    std::vector<uint32_t> clocks;                 // [thread][lane]: the time of `lane` that is before `thread`'s now
    uint64_t shared_start = 0, stacks_low = ~0ull, stacks_high = 0;
    friend class BlockRunner;
};

}  // namespace minillm_sim
