// One block in flight: its threads as fibers, and the rules by which they take turns.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "arena.h"
#include "check.h"
#include "fibers.h"
#include "launch.h"
#include "preempt.h"
#include "profile.h"
#include "runtime.h"

namespace minillm_sim {

enum class State { kReady, kAtBarrier, kAtGrid, kAtCollective, kAtActive, kSpinning, kPreempted, kDone };

// Check mode: what a thread did since it came by an atomic or volatile access, and what it did the
// time before.
struct Round {
    const void* pc;
    uint64_t address, accesses, hash, last_accesses, last_hash;
    bool wrote;  // to that address, since then
};

// Check mode: a volatile read of what another thread wrote without a fence. pc 0: there is none.
struct Doubt {
    const void* pc;
    uint64_t address;
    unsigned accesses;  // since then
    Access read, write;
};

// A plain read of what other threads change by atomics alone. It is the first guess of a loop
// around atomicCAS, if an atomic of the thread's own at that address comes next; else it is a race.
// access.phase 0: none.
struct Guess {
    uint64_t address;
    unsigned accesses;  // since then
    Access access, other;
};

// An asynchronous copy that is under way. given: how many bytes it reads; the others are zeros.
struct Copy {
    uint64_t to;
    const void* from;
    uint64_t size, given;
    unsigned group;
    const void* pc;
};

// What is known of a thread that was interrupted again and again.
struct Patience {
    std::vector<uint64_t> states;                            // hashes of its registers and stack
    std::vector<std::pair<uint64_t, uint64_t>> with_memory;  // and of all memory, for states that it was in twice
    bool waits;                                              // it was in one state twice with the same memory
};

struct Thread : Running {
    Fiber fiber;
    State state;
    Site site;
    unsigned mask;         // of the collective operation it waits in
    Collective operation;
    bool needs_all = false;        // of the warp's lanes, returned ones, too
    void* operand;
    unsigned active;       // what __activemask returned
    int predicate, reduced;  // of a barrier
    uint64_t site_pc;      // of the loop in which it waits; 0: `site` says it
    Round round;
    Doubt doubt;
    Guess guess;
    Registers registers;   // if it was interrupted
    Patience patience;
    std::vector<Copy> copies;
    unsigned copy_group;   // in which the next copy will be
};

class BlockRunner;
extern __thread BlockRunner* runner __attribute__((tls_model("initial-exec")));  // of the calling OS thread

class BlockRunner {
  public:
    // first: the runner of the OS thread that was made first, null for that one. What check mode
    // knows of memory, and the timer, are shared with it.
    BlockRunner(Team& team, int number, BlockRunner* first = nullptr);
    ~BlockRunner();
    void start(unsigned long long block);
    // Until the block is done, or the launch over: true; or until all its threads are at a barrier
    // of the grid: false.
    bool advance();
    void activate();            // its block is the one that the OS thread is going to run
    void pass_grid_barrier();   // all blocks are there
    void report_incomplete_grid();  // blocks have ended without coming to it

    // Called from within a fiber.
    int barrier(Site site, int predicate, int reduction);
    void collective(unsigned mask, Collective operation, void* operand, Site site);
    void full_warp(Collective operation, void* operand, Site site);
    unsigned active(Site site);
    void grid_barrier(Site site);
    void spin(Site site);
    void wait_at(uint64_t pc);
    void access(uint64_t address, uint64_t size, int kind, bool aligned, const void* pc);
    void start_copy(void* to, const void* from, uint64_t size, uint64_t given, const void* pc);
    void commit_copies();
    void wait_for_copies(int keep);
    void give_way();  // if the thread at hand has been busy for long
    void absent_source(int lane, int source);
    [[noreturn]] void fail(Site site, const char* text);
    [[noreturn]] void fail_at(uint64_t pc, const char* text);
    [[noreturn]] void leave();  // for ever: the launch is over
    void note(const char* text, uint64_t pc, uint64_t other_pc, unsigned other_thread, int other_block);

    // Called from within a signal's handler.
    void leave_after_fault(int signal, const siginfo_t& info, const ucontext_t& context);
    void tick(ucontext_t& context);

    Thread& current() { return *static_cast<Thread*>(running); }
    Launch& launch() { return team.launch; }
    const MemoryMap& map() const { return team.map; }
    uint64_t shared_start();
    uint64_t shared_gap() const { return shared.gap; }
    bool in_shared(uint64_t offset, uint64_t size);
    const SharedArray* array_beside(uint64_t offset);
    bool readable(uint64_t address, uint64_t size);
    void describe(char* text, size_t length, uint64_t address, int kind);
    void describe_shared(char* text, size_t length, uint64_t offset, int kind);

    std::unique_ptr<Checker> checker;    // check mode only
    std::unique_ptr<Profiler> profiler;  // profile mode only
    std::vector<Thread> threads;
    bool at_grid_barrier = false;  // its block waits for the others of a cooperative launch
    bool in_thread = false;      // and not in the scheduler
    bool in_collective = false;  // the operation of a warp is carried out

  private:
    static void enter_thread();
    static void enter_restorer();
    void suspend();
    void land(const Copy& copy);
    void resume(Thread& thread);
    void start_threads(unsigned long long block);
    void fill_shared();
    bool run_warp(unsigned warp);
    void complete_collective(Thread& thread);
    bool release_active(unsigned warp);
    void release_barrier();
    void report_stuck_warp(unsigned warp);
    bool ended_waiting(bool progress);
    void report_waiting();
    void report_torn_grid_barrier();
    void watch_patience(Thread& thread);
    uint64_t memory_hash();
    void note_at(const char* text, uint64_t pc, uint64_t stack_pointer);
    void ask_python();
    void trace(uint64_t address, uint64_t size, const void* pc);
    bool is_overdue() const;
    const std::vector<unsigned>& permutation(std::vector<unsigned>& order, unsigned count);

    Team& team;
    int number;  // of this OS thread in the team
    unsigned long long launch_index = 0;  // the number of the block
    unsigned thread_count, warp_count;
    std::vector<unsigned> warp_order, lane_order;
    std::vector<unsigned> alive, arrived;  // of each warp: lanes that are not done, and those at a collective operation
    Fiber scheduler, restorer, given_up;
    Pages shared;
    std::shared_ptr<Ticks> ticks;
    uint64_t random = 0;
    int reduction = 0;
    double started = 0;                    // processor time of the OS thread, in seconds, when it began
    volatile bool due = false;             // the timer has run out: Python is to be asked
    volatile bool yield_soon = false;      // and the thread at hand is to give way at the next occasion
    volatile uint64_t turn = 0, turn_at_tick = 0;
    Thread* volatile restoring = nullptr;  // the thread whose registers the next signal puts back
    uint64_t fruitless = 0;                // rounds in which no thread came on
    bool is_stuck = false;
    unsigned freed_then = 0;
    std::vector<unsigned> rounds_then;     // of the others, when all were stuck; empty: they are not
};

}  // namespace minillm_sim
