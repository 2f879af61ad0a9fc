// Profile mode: what each line of a kernel asks of memory, in the units in which the hardware
// serves a warp.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "runtime.h"

namespace minillm_sim {

class BlockRunner;

// The accesses of one instruction to one kind of memory; launch_types.py has the same struct.
struct ProfileRecord {
    uint64_t pc;
    int shared, kind;                 // shared or global memory; AccessKind
    unsigned long long instructions;  // of a warp
    unsigned long long bytes;         // asked for by its lanes, every byte once for each instruction
    unsigned long long actual, ideal; // sectors of 32 bytes (global), wavefronts (shared)
};

// One OS thread runs all blocks in this mode, and the lanes of a warp run one after the other up to
// the next point at which they meet. The n-th time that each lane comes to the same place since
// then is taken as one instruction of the warp.
class Profiler {
  public:
    explicit Profiler(BlockRunner& runner) : runner(runner) {}
    void access(uint64_t address, uint64_t size, int kind, const void* pc);
    void finish_warp(unsigned warp);  // its lanes have met
    void finish_all();
    void fill_launch();  // fills launch.profile

  private:
    struct Instruction {
        uint64_t address[32];
        uint32_t lanes = 0;
    };
    struct Place {
        uint64_t size;
        int kind;
        uint32_t times[32] = {};
        std::vector<Instruction> instructions;
    };
    void count(uint64_t key, const Place& place, const Instruction& instruction);

    BlockRunner& runner;
    std::vector<std::unordered_map<uint64_t, Place>> warps;  // [warp][pc and kind: a copy of a vector is both]
    std::map<std::pair<uint64_t, int>, ProfileRecord> records;  // [pc and kind, shared]
};

}  // namespace minillm_sim
