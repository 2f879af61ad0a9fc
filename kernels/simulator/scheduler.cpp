#include "scheduler.h"

#include <cstring>
#include <new>
#include <utility>

#include "shared_memory.h"

namespace minillm_sim {

__thread Running* running = nullptr;
__thread BlockRunner* runner = nullptr;

constexpr long kFirstTick = 50;  // milliseconds of processor time, between one and two of which a thread may take at a time

BlockRunner::BlockRunner(Team& team, int number, BlockRunner* first)
    : team(team), number(number), ticks(first ? first->ticks : std::make_shared<Ticks>()) {
    const unsigned* size = launch().block;
    thread_count = size[0] * size[1] * size[2];
    warp_count = (thread_count + 31) / 32;
    threads.resize(thread_count);
    alive.resize(warp_count);
    arrived.resize(warp_count);
    for (Thread& thread : threads) thread.fiber.stack = take_stack();
    restorer.stack = take_stack();
    shared = take_pages(launch().shared_size + 2 * kSharedAlignment);
    use_portable_switch(launch().portable_fibers);
    activate();
    if (launch().mode == int(Mode::kProfile)) profiler = std::make_unique<Profiler>(*this);
    if (launch().mode == int(Mode::kCheck)) checker = std::make_unique<Checker>(*this, first ? first->checker.get() : nullptr);
    started = processor_seconds();
    if (!first) ticks->every(kFirstTick);
}

void BlockRunner::activate() {
    runner = this;
    use_shared_memory(shared, launch().shared_size);
}

BlockRunner::~BlockRunner() {
    for (Thread& thread : threads) {
        give_stack_back(thread.fiber.stack);
        delete thread.fiber.context;
    }
    give_stack_back(restorer.stack);
    for (Fiber* fiber : {&scheduler, &restorer, &given_up}) delete fiber->context;
    use_shared_memory({}, 0);
    give_pages(shared);
    runner = nullptr;
    running = nullptr;
}

// ------------------------------------------------------------------------------------------------
// a block's life

void BlockRunner::start(unsigned long long block) {
    start_threads(block);
    fill_shared();
    if (checker) checker->start_block(block);
    if (profiler) profiler->start_block(block);
}

bool BlockRunner::advance() {
    for (fruitless = 0;;) {
        bool progress = false;
        for (unsigned warp : permutation(warp_order, warp_count)) {
            progress |= run_warp(warp);
            if (team.stopped) return true;
        }
        unsigned waiting = 0, done = 0, at_grid = 0;
        for (Thread& thread : threads) {
            waiting += thread.state == State::kAtBarrier;
            done += thread.state == State::kDone;
            at_grid += thread.state == State::kAtGrid;
        }
        if (at_grid && at_grid + waiting + done == thread_count) {
            if (waiting) report_torn_grid_barrier();
            return waiting != 0;
        }
        if (done == thread_count) {
            ended_waiting(true);
            if (profiler) profiler->finish_all();
            return true;
        }
        if (waiting + done == thread_count) {
            release_barrier();
            progress = true;
        }
        if (team.stopped) return true;
        if (!ended_waiting(progress)) {
            report_waiting();
            return true;
        }
    }
}

void BlockRunner::start_threads(unsigned long long block) {
    const unsigned *grid = launch().grid, *size = launch().block;
    launch_index = block;
    Index3 index{unsigned(block % grid[0]), unsigned(block / grid[0] % grid[1]), unsigned(block / grid[0] / grid[1])};
    for (unsigned i = 0; i < thread_count; ++i) {
        Thread& thread = threads[i];
        thread.thread = {i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
        thread.block = index;
        thread.block_size = {size[0], size[1], size[2]};
        thread.grid_size = {grid[0], grid[1], grid[2]};
        thread.lane = i % 32;
        thread.state = State::kReady;
        thread.site_pc = 0;
        thread.round = {};
        thread.doubt = {};
        thread.guess = {};
        thread.registers.valid = false;
        thread.patience = {};
        thread.copies.clear();
        thread.copy_group = 0;
        thread.fiber.prepare(&BlockRunner::enter_thread);
    }
    for (unsigned warp = 0; warp < warp_count; ++warp) {
        unsigned lanes = thread_count - warp * 32;
        alive[warp] = lanes < 32 ? (1u << lanes) - 1 : ~0u;
        arrived[warp] = 0;
    }
    turn_at_tick = turn;
    random = launch().seed * 0x9e3779b97f4a7c15ull + block + 1;
}

// Every byte 0xff: a float that is not a number, an index far out of bounds.
void BlockRunner::fill_shared() {
    const Launch& l = launch();
    auto* anchor = static_cast<char*>(l.shared_anchor());
    char *start = anchor - l.shared_offset, *end = start + l.shared_size, *after = anchor + l.dynamic_reserve;
    std::memset(start, 0xff, anchor - start);
    std::memset(anchor, 0xff, l.dynamic_bytes);
    if (end > after) std::memset(after, 0xff, end - after);
}

void BlockRunner::enter_thread() {
    Launch& launch = runner->launch();
    launch.entry(launch.arguments);
    Thread& thread = runner->current();
    thread.state = State::kDone;
    if (runner->checker) runner->checker->settle(thread);
    // others may have been waiting for a warp in which this lane no longer takes part
    unsigned first = static_cast<unsigned>(&thread - runner->threads.data()) / 32 * 32;
    runner->alive[first / 32] &= ~(1u << thread.lane);
    for (unsigned i = first; i < first + 32 && i < runner->thread_count; ++i)
        if (runner->threads[i].state == State::kAtCollective) runner->complete_collective(runner->threads[i]);
    runner->suspend();
}

void BlockRunner::suspend() {
    Thread& thread = current();
    if (checker) checker->let_see();
    switch_fiber(thread.fiber, scheduler);
}

void BlockRunner::resume(Thread& thread) {
    running = &thread;
    ++turn;
    if (thread.registers.valid) {
        restorer.prepare(&BlockRunner::enter_restorer);
        restoring = &thread;
        in_thread = true;
        switch_fiber(scheduler, restorer);
    } else {
        in_thread = true;
        switch_fiber(scheduler, thread.fiber);
    }
    in_thread = false;
    if (due) ask_python();
}

// -------------------------------------------------------------------------------------------------------
// turns

// Runs the lanes of a warp until all are at a barrier, spinning or done. True if one of them got
// further.
bool BlockRunner::run_warp(unsigned warp) {
    unsigned first = warp * 32, count = thread_count - first < 32 ? thread_count - first : 32;
    bool progress = false;
    for (unsigned i = first; i < first + count; ++i)
        if (threads[i].state == State::kSpinning || threads[i].state == State::kPreempted) threads[i].state = State::kReady;
    for (bool again = true; again;) {
        again = false;
        for (unsigned lane : permutation(lane_order, count)) {
            Thread& thread = threads[first + lane];
            if (thread.state != State::kReady) continue;
            resume(thread);
            if (team.stopped) return true;
            if (thread.state == State::kPreempted)
                watch_patience(thread);
            else if (thread.state != State::kSpinning)
                again = true;
            progress |= thread.state == State::kPreempted ? !thread.patience.waits : thread.state != State::kSpinning;
        }
        for (unsigned i = first; i < first + count; ++i) again |= threads[i].state == State::kReady;
        if (!again) again = release_active(warp);
    }
    bool spinning = false, stuck = false;
    for (unsigned i = first; i < first + count; ++i) {
        spinning |= threads[i].state == State::kSpinning || threads[i].state == State::kPreempted;
        stuck |= threads[i].state == State::kAtCollective;
    }
    if (stuck && !spinning) report_stuck_warp(warp);
    return progress;
}

const std::vector<unsigned>& BlockRunner::permutation(std::vector<unsigned>& order, unsigned count) {
    if (order.size() != count) {
        order.resize(count);
        bool descending = launch().order == int(TurnOrder::kDescending);
        for (unsigned i = 0; i < count; ++i) order[i] = descending ? count - 1 - i : i;
    }
    if (launch().order == int(TurnOrder::kShuffled))
        for (unsigned i = count; i > 1; --i) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;  // Knuth, MMIX
            std::swap(order[i - 1], order[(random >> 33) % i]);
        }
    return order;
}

// ------------------------------------------------------------------------------------------ what a
// thread may call

void BlockRunner::spin(Site site) {
    Thread& thread = current();
    thread.site = site;
    thread.site_pc = 0;
    thread.state = State::kSpinning;
    suspend();
}

void BlockRunner::wait_at(uint64_t pc) {
    Thread& thread = current();
    thread.site_pc = pc;
    thread.state = State::kSpinning;
    suspend();
}

// An access that check or profile mode looks at; where a thread that was busy for long gives way.
void BlockRunner::access(uint64_t address, uint64_t size, int kind, bool aligned, const void* pc) {
    int plain = kind == kVolatileRead ? kRead : kind == kVolatileWrite ? kWrite : kind;
    bool exhausted = false;
    try {
        if (checker) checker->access(address, size, kind, aligned, pc);
        if (profiler && !in_collective) profiler->access(address, size, plain, pc);
    } catch (const std::bad_alloc&) {
        exhausted = true;
    }
    if (exhausted) {
        team.report_exhausted();
        leave();
    }
    if (kind != kRead && kind != kVolatileRead && !in_collective) trace(address, size, pc);
    if (yield_soon) give_way();
}

void BlockRunner::trace(uint64_t address, uint64_t size, const void* pc) {
    Launch& l = launch();
    if (!l.traced || l.traced - address >= size) return;
    const Thread& thread = current();
    l.traced_pc = reinterpret_cast<uint64_t>(pc) - l.library;
    const Index3 &block = thread.block, &index = thread.thread;
    l.traced_block[0] = block.x, l.traced_block[1] = block.y, l.traced_block[2] = block.z;
    l.traced_thread[0] = index.x, l.traced_thread[1] = index.y, l.traced_thread[2] = index.z;
}

void BlockRunner::give_way() {
    if (!yield_soon || in_collective) return;
    yield_soon = false;
    current().state = State::kPreempted;
    suspend();
}

}  // namespace minillm_sim
