// Where threads wait for each other: operations of a warp, barriers of the block and of the grid.
#include <cstdio>
#include <cstring>

#include "scheduler.h"

namespace minillm_sim {

static const char* const kLanesMissing = "a tensor-core operation in a warp of which some lanes are missing";

int BlockRunner::barrier(Site site, int predicate, int how) {
    Thread& thread = current();
    thread.site = site;
    thread.predicate = predicate;
    thread.state = State::kAtBarrier;
    if (checker) checker->settle(thread);
    reduction = how;
    suspend();
    return thread.reduced;
}

void BlockRunner::collective(unsigned mask, Collective operation, void* operand, Site site) {
    Thread& thread = current();
    if (!(mask >> thread.lane & 1)) fail(site, "the mask of a warp operation does not name the lane that calls it");
    thread.site = site;
    thread.mask = mask;
    thread.operation = operation;
    thread.operand = operand;
    thread.state = State::kAtCollective;
    arrived[(&thread - threads.data()) / 32] |= 1u << thread.lane;
    complete_collective(thread);
    if (thread.state != State::kReady || launch().order == int(TurnOrder::kShuffled)) suspend();
}

// Tensor-core operations need all 32 lanes: none may be missing, and none may have left.
void BlockRunner::full_warp(Collective operation, void* operand, Site site) {
    unsigned warp = static_cast<unsigned>(&current() - threads.data()) / 32;
    if (alive[warp] != 0xffffffffu) fail(site, kLanesMissing);
    current().needs_all = true;
    collective(0xffffffffu, operation, operand, site);
    current().needs_all = false;
}

unsigned BlockRunner::active(Site site) {
    Thread& thread = current();
    thread.site = site;
    thread.state = State::kAtActive;
    suspend();
    return thread.active;
}

void BlockRunner::grid_barrier(Site site) {
    if (!launch().cooperative)
        fail(site, "a barrier of the grid in a launch that is not cooperative: RawModule(enable_cooperative_groups=True), as in CuPy");
    Thread& thread = current();
    thread.site = site;
    thread.state = State::kAtGrid;
    if (checker) checker->settle(thread);
    suspend();
}

// If all lanes that `thread` waits for have arrived at the same operation, carry it out and let
// them go on.
void BlockRunner::complete_collective(Thread& thread) {
    unsigned warp = static_cast<unsigned>(&thread - threads.data()) / 32;
    unsigned mask = thread.mask & alive[warp];
    if (mask & ~arrived[warp]) return;
    if (thread.needs_all && mask != 0xffffffffu) {  // a lane has returned meanwhile
        team.report(thread, thread.site, kLanesMissing);
        team.stopped = true;
        return;
    }
    void* operands[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Thread& other = threads[warp * 32 + lane];
        if (other.operation != thread.operation || other.mask != thread.mask) return;
        operands[lane] = other.operand;
    }
    if (profiler) profiler->finish_warp(warp);
    if (thread.operation) {
        in_collective = true;
        thread.operation(operands, mask);
        in_collective = false;
    } else if (checker)  // __syncwarp; a shuffle or a vote does not order memory
        checker->order().sync_warp(warp, mask);
    arrived[warp] &= ~mask;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) threads[warp * 32 + lane].state = State::kReady;
}

// Lanes that asked for the active mask wait until the warp can do nothing else: those at the same
// line are then the ones that run together.
bool BlockRunner::release_active(unsigned warp) {
    Thread* leader = nullptr;
    unsigned mask = 0;
    for (unsigned lane = 0; lane < 32 && warp * 32 + lane < thread_count; ++lane) {
        Thread& thread = threads[warp * 32 + lane];
        if (thread.state != State::kAtActive) continue;
        if (!leader) leader = &thread;
        if (thread.site.line == leader->site.line && !std::strcmp(thread.site.file, leader->site.file)) mask |= 1u << lane;
    }
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) {
            threads[warp * 32 + lane].active = mask;
            threads[warp * 32 + lane].state = State::kReady;
        }
    return mask != 0;
}

void BlockRunner::release_barrier() {
    Thread* first = nullptr;
    int count = 0, all = 1;
    for (Thread& thread : threads) {
        if (thread.state != State::kAtBarrier) continue;
        if (!first) first = &thread;
        if (thread.site.line != first->site.line || std::strcmp(thread.site.file, first->site.file)) {
            char text[200];
            std::snprintf(text, sizeof text, "divergent barrier: thread (%u, %u, %u) is at the barrier of line %d",
                          first->thread.x, first->thread.y, first->thread.z, first->site.line);
            team.report(thread, thread.site, text);
            return;
        }
        count += thread.predicate != 0;
        all &= thread.predicate != 0;
    }
    unsigned left = 0;
    for (Thread& thread : threads) left += thread.state == State::kDone;
    if (checker && left) {
        char text[200];
        std::snprintf(text, sizeof text, "divergent barrier: %u threads of the block have returned and never reach it", left);
        team.report(*first, first->site, text);
        return;
    }
    if (checker) checker->order().barrier();
    if (profiler) profiler->finish_all();
    for (Thread& thread : threads)
        if (thread.state == State::kAtBarrier) {
            thread.reduced = reduction == kBarrierCount ? count : reduction == kBarrierAnd ? all : count != 0;
            thread.state = State::kReady;
        }
}

void BlockRunner::pass_grid_barrier() {
    activate();
    if (checker) checker->resume_block(launch_index);
    if (profiler) profiler->finish_all();
    for (Thread& thread : threads)
        if (thread.state == State::kAtGrid) thread.state = State::kReady;
}

void BlockRunner::report_stuck_warp(unsigned warp) {
    Thread *waiting = nullptr, *missing = nullptr;
    for (unsigned lane = 0; lane < 32 && !waiting; ++lane)
        if (threads[warp * 32 + lane].state == State::kAtCollective) waiting = &threads[warp * 32 + lane];
    for (unsigned lane = 0; lane < 32 && !missing; ++lane) {
        if (!((waiting->mask & alive[warp]) >> lane & 1)) continue;
        Thread& thread = threads[warp * 32 + lane];
        bool same = thread.state == State::kAtCollective && thread.operation == waiting->operation &&
                    thread.mask == waiting->mask;
        if (!same) missing = &thread;
    }
    char text[200];
    std::snprintf(text, sizeof text,
                  "deadlock: it waits for lane %u of its warp, which waits at line %d (mask 0x%08x here)",
                  missing->lane, missing->site.line, waiting->mask);
    team.report(*waiting, waiting->site, text);
}

void BlockRunner::report_incomplete_grid() {
    for (Thread& thread : threads)
        if (thread.state == State::kAtGrid)
            return team.report(thread, thread.site, "deadlock: it waits for the whole grid, of which blocks have ended");
}

void BlockRunner::report_torn_grid_barrier() {
    Thread *at_grid = nullptr, *at_block = nullptr;
    for (Thread& thread : threads) {
        if (thread.state == State::kAtGrid) at_grid = &thread;
        if (thread.state == State::kAtBarrier) at_block = &thread;
    }
    char text[200];
    std::snprintf(text, sizeof text, "deadlock: thread (%u, %u, %u) of the block is at the block's barrier of line %d", at_block->thread.x,
                  at_block->thread.y, at_block->thread.z, at_block->site.line);
    team.report(*at_grid, at_grid->site, text);
}

}  // namespace minillm_sim
