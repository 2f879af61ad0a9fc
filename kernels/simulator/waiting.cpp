// Loops that wait for what never comes. A thread that comes back to the same state of registers,
// stack and memory, while no other thread changes anything, will do so for ever.
#include <sched.h>

#include <algorithm>
#include <cstring>

#include "scheduler.h"

namespace minillm_sim {

constexpr uint64_t kFruitlessTurns = 2000000;  // of all spinning threads together, before they count as stuck
constexpr uint64_t kFewestRounds = 1000;
constexpr uint64_t kWaitingRounds = 4;         // where all of them were interrupted again and again
constexpr size_t kMostStates = 64;

// True until it is certain that the block's threads wait for ever.
bool BlockRunner::ended_waiting(bool progress) {
    if (progress) {
        fruitless = 0;
        rounds_then.clear();
        if (is_stuck) {
            is_stuck = false;
            --team.stuck;
            ++team.freed;
        }
        return true;
    }
    ++fruitless;
    ++team.rounds[number];
    uint64_t spinning = 0;
    for (Thread& thread : threads) spinning += thread.state == State::kSpinning;
    uint64_t limit = spinning ? std::max(kFewestRounds, kFruitlessTurns / spinning) : kWaitingRounds;
    if (fruitless < limit) return true;
    if (!is_stuck) {
        is_stuck = true;
        ++team.stuck;
    }
    if (team.stuck < team.active) {  // another OS thread may yet write what this one waits for
        rounds_then.clear();
        sched_yield();
        return true;
    }
    int count = launch().threads;
    if (rounds_then.empty()) {
        freed_then = team.freed;
        for (int i = 0; i < count; ++i) rounds_then.push_back(team.rounds[i]);
        return true;
    }
    if (freed_then != team.freed) {
        rounds_then.clear();
        return true;
    }
    // every other one has looked again since then; those that have ended do not
    int went_on = 0;
    for (int i = 0; i < count; ++i) went_on += team.rounds[i] - rounds_then[i] >= 2;
    if (went_on >= team.active) return false;
    sched_yield();
    return true;
}

void BlockRunner::report_waiting() {
    const char* text = team.next_block < 1ull * launch().grid[0] * launch().grid[1] * launch().grid[2]
                           ? "deadlock: it waits in a loop for a value that no thread writes (blocks that have not started are "
                             "waited for in vain: it is not certain that a GPU runs them at the same time)"
                           : "deadlock: it waits in a loop for a value that no thread writes";
    for (Thread& thread : threads) {
        running = &thread;
        if (thread.state == State::kPreempted)
            note_at(text, thread.registers.program_counter(), thread.registers.stack_pointer());
        else if (thread.state == State::kSpinning && thread.site_pc)
            note(text, thread.site_pc, 0, 0, -1);
        else if (thread.state == State::kSpinning)
            team.note(thread, thread.site, text, 0, 0, 0, -1);
        else
            continue;
        team.stopped = true;
        return;
    }
}

// Memory is compared only once the registers and the stack have been the same, because that takes
// long.
void BlockRunner::watch_patience(Thread& thread) {
    if (!thread.registers.valid) return;
    Patience& patience = thread.patience;
    uint64_t pointer = thread.registers.stack_pointer(), top = reinterpret_cast<uint64_t>(thread.fiber.stack) + kStackBytes;
    uint64_t low = std::max(pointer - 128, top - kStackBytes);  // 128 bytes below the pointer are in use, too (System V ABI)
    if (top - low > kStackBytes) return;
    uint64_t state = hash_bytes(reinterpret_cast<const void*>(low), top - low, thread.registers.hash());
    auto& states = patience.states;
    if (std::find(states.begin(), states.end(), state) == states.end()) {
        if (states.size() == kMostStates) states.erase(states.begin());
        states.push_back(state);
        return;
    }
    std::pair<uint64_t, uint64_t> all{state, memory_hash()};
    auto& seen = patience.with_memory;
    patience.waits = std::find(seen.begin(), seen.end(), all) != seen.end();
    if (patience.waits) return;
    if (seen.size() == kMostStates) seen.erase(seen.begin());
    seen.push_back(all);
}

uint64_t BlockRunner::memory_hash() {
    uint64_t hash = hash_bytes(reinterpret_cast<const void*>(shared_start()), launch().shared_size, 1);
    for (const Region& region : map().regions())
        if (region.writable) hash = hash_bytes(reinterpret_cast<const void*>(region.address), region.size, hash);
    return hash;
}

}  // namespace minillm_sim
