// A launch: what Python asks for, what went wrong, and what the OS threads that run its blocks
// share.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "map.h"
#include "profile.h"
#include "runtime.h"

namespace minillm_sim {

struct Thread;

enum class TurnOrder { kAscending, kDescending, kShuffled };
enum class Mode { kRun, kCheck, kProfile };

// What went wrong, for Python to put into words. launch_types.py has a copy of this struct.
struct Finding {
    char text[400];
    const char* file;
    int line;
    unsigned block[3], thread[3];
    uint64_t pc, other_pc;           // of the access, and of the one it conflicts with, from the library's start
    unsigned other_thread;           // number within its block
    int other_block;                 // its number; -1: there is no other
    unsigned long long times;
    uint64_t callers[4];             // where pc is of a function of the simulator's own: calls that may have led there
};

// A static shared array; launch_types.py has the same struct.
struct SharedArray {
    uint64_t offset, size;  // in the block's shared memory
    const char* name;
};

// A launch as Python describes it; launch_types.py has the same struct.
struct Launch {
    void (*entry)(void**);
    void** arguments;
    void* (*shared_anchor)();      // the address of the dynamic shared memory in the calling OS thread
    uint64_t shared_offset;        // from the start of the block's shared memory to that address
    uint64_t shared_size;          // of all shared memory
    uint64_t dynamic_reserve;      // bytes that it keeps for dynamic shared memory
    uint64_t dynamic_bytes;        // and how many of them this launch asked for
    uint64_t seed;
    unsigned grid[3], block[3];
    int mode, order, threads, portable_fibers;
    int cooperative;  // all blocks are there at the same time, and can wait for each other
    const Region* regions;
    int region_count;
    int max_findings, found;
    Finding* findings;
    const uint64_t* flags;  // offsets of the compiler's own 8-byte flags among the shared arrays
    int flag_count;
    const SharedArray* shared_arrays;
    int shared_array_count;
    ProfileRecord* profile;
    int max_profiled, profiled;
    unsigned long long watched_block;  // whose accesses are kept: the number of a block; max_watched 0: of none
    WarpAccess* watched_accesses;
    int max_watched, watched;
    uint64_t library, text, text_size;  // where the kernel's library is, and its instructions
    void* raised[3];                    // what a handler of signals raised meanwhile; Python raises it again
    int exhausted;                      // whether there was no memory for what the simulator keeps
    double seconds;                     // of processor time that one OS thread may take; 0: any
    uint64_t traced;                    // an address whose last write is to be known; 0: none
    uint64_t traced_pc;                 // the instruction that wrote there last, from the library's start; 0: none
    unsigned traced_block[3], traced_thread[3];

    unsigned long long blocks() const { return 1ull * grid[0] * grid[1] * grid[2]; }
};

// Shared by the OS threads of a launch.
struct Team {
    Launch& launch;
    MemoryMap map;
    std::atomic<unsigned long long> next_block{0};
    std::atomic<bool> stopped{false};
    std::mutex mutex;
    std::condition_variable finished;  // one of its OS threads
    // Of the OS threads that run blocks: how many there are, how many have only waiting threads
    // left, how often one of those came on again, and how often each went round its waiting
    // threads.
    std::atomic<int> active{0}, stuck{0};
    std::atomic<unsigned> freed{0};
    std::unique_ptr<std::atomic<unsigned>[]> rounds;

    explicit Team(Launch& launch) : launch(launch), map(launch), rounds(new std::atomic<unsigned>[launch.threads]()) {}
    // Records a finding; the same one is counted, not repeated. pc: 0 where the place in the source
    // is known.
    void note(const Thread& thread, Site site, const char* text, uint64_t pc, uint64_t other_pc, unsigned other_thread,
              int other_block, const uint64_t* callers = nullptr);
    void report(const Thread& thread, Site site, const char* text);  // and stops the launch
    void report_exhausted();                                         // and stops it, too
    bool in_library(uint64_t pc) const { return pc - launch.text < launch.text_size; }
};

}  // namespace minillm_sim
