// Profile mode: what each line of a kernel asks of memory, in the units in which the hardware
// serves a warp.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>
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

// The first execution of an instruction by a warp of the watched block; launch_types.py has the
// same struct.
struct WarpAccess {
    uint64_t pc;
    int kind, size, warp;             // size: bytes of a lane
    uint32_t lanes, ever;             // that took part the first time, and at any time
    unsigned long long times;         // that the warp executed it
    unsigned long long actual, ideal; // of the first time, as in ProfileRecord
    int shared;
    uint64_t start[32], address[32];  // of a lane: its access, and where the array or the block's shared memory starts
};

// One OS thread runs all blocks in this mode, and the lanes of a warp run one after the other up to
// the next point at which they meet. The n-th time that each lane comes to the same place since
// then is taken as one instruction of the warp.
class Profiler {
  public:
    explicit Profiler(BlockRunner& runner) : runner(runner) {}
    void start_block(unsigned long long block);
    void access(uint64_t address, uint64_t size, int kind, const void* pc);
    void finish_warp(unsigned warp);  // its lanes have met
    void finish_all();
    void add(const Profiler& other);  // what it has counted, of another block
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
    void count(unsigned warp, uint64_t key, const Place& place, const Instruction& instruction);
    void watch(unsigned warp, const ProfileRecord& cost, const Place& place, const Instruction& instruction);

    BlockRunner& runner;
    std::vector<std::unordered_map<uint64_t, Place>> warps;  // [warp][pc and kind: a copy of a vector is both]
    std::map<std::pair<uint64_t, int>, ProfileRecord> records;  // [pc and kind, shared]
    bool watching = false;                                      // the block at hand
    std::map<std::tuple<unsigned, uint64_t, int>, WarpAccess> watched;  // [warp, pc and kind, shared]
};

}  // namespace minillm_sim
