// One block in flight: its threads as fibers, and the rules by which they take turns.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "check.h"
#include "fibers.h"
#include "profile.h"
#include "runtime.h"

namespace minillm_sim {

enum class State { kReady, kAtBarrier, kAtCollective, kAtActive, kSpinning, kDone };
enum class Order { kAscending, kDescending, kShuffled };
enum class Mode { kRun, kCheck, kProfile };

// What went wrong, for Python to put into words. A copy of this struct stands in module.py.
struct Finding {
    char text[400];
    const char* file;
    int line;
    unsigned block[3], thread[3];
    uint64_t pc, other_pc;           // check mode: of the access, and of the one it conflicts with
    unsigned other_thread;           // number within its block
    int other_block;                 // in the order in which blocks ran; -1: there is no other
    unsigned long long times;
};

// A launch as Python describes it; the same struct stands in module.py.
struct Launch {
    void (*entry)(void**);
    void** arguments;
    void* (*shared_anchor)();      // the address of the dynamic shared memory in the calling OS thread
    uint64_t shared_offset;        // from the start of the thread-local block to that address
    uint64_t shared_size;          // of the whole thread-local block
    uint64_t dynamic_reserve;      // bytes that it keeps for dynamic shared memory
    uint64_t dynamic_bytes;        // and how many of them this launch asked for
    uint64_t seed;
    unsigned grid[3], block[3];
    int mode, order, threads, portable_fibers;
    const Region* regions;
    int region_count;
    int max_findings, found;
    Finding* findings;
    const uint64_t* flags;  // offsets of the compiler's own 8-byte flags among the shared arrays
    int flag_count;
    ProfileRecord* profile;
    int max_profiled, profiled;
};

struct Thread : Running {
    Fiber fiber;
    State state;
    Site site;
    unsigned mask;         // of the collective operation it waits in
    Collective operation;
    void* operand;
    unsigned active;       // what __activemask returned
    int predicate, reduced;  // of a barrier
};

// Shared by the OS threads of a launch.
struct Team {
    Launch& launch;
    std::atomic<unsigned long long> next_block{0};
    std::atomic<bool> stopped{false};
    std::mutex mutex;

    explicit Team(Launch& launch) : launch(launch) {}
    void report(const Thread& thread, Site site, const char* text);  // records a finding and stops the launch
};

class BlockRunner {
  public:
    explicit BlockRunner(Team& team);
    ~BlockRunner();
    void run(unsigned long long block);

    // Called from within a fiber.
    int barrier(Site site, int predicate, int reduction);
    void collective(unsigned mask, Collective operation, void* operand, Site site);
    void full_warp(Collective operation, void* operand, Site site);
    unsigned active(Site site);
    void spin(Site site);
    [[noreturn]] void fail(Site site, const char* text);
    void leave_after_fault(uint64_t address, uint64_t pc);
    Thread& current() { return *static_cast<Thread*>(running); }
    Launch& launch() { return team.launch; }
    bool in_shared(uint64_t offset, uint64_t size);
    void note(const char* text, uint64_t pc, uint64_t other_pc, unsigned other_thread, int other_block);
    std::unique_ptr<Checker> checker;    // check mode only
    std::unique_ptr<Profiler> profiler;  // profile mode only
    std::vector<Thread> threads;
    bool in_thread = false;  // and not in the scheduler

  private:
    static void enter_thread();
    void suspend();
    void resume(Thread& thread);
    void start_threads(unsigned long long block);
    void fill_shared();
    bool run_warp(unsigned warp);
    void complete_collective(Thread& thread);
    bool release_active(unsigned warp);
    void release_barrier();
    void report_stuck_warp(unsigned warp);
    unsigned alive_lanes(unsigned warp) const;
    const std::vector<unsigned>& permutation(std::vector<unsigned>& order, unsigned count);

    Team& team;
    unsigned thread_count, warp_count;
    std::vector<unsigned> warp_order, lane_order;
    Fiber scheduler;
    uint64_t random = 0;
    int reduction = 0;
};

}  // namespace minillm_sim
