#include "scheduler.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

#include "faults.h"

namespace minillm_sim {

__thread Running* running = nullptr;
static thread_local BlockRunner* runner = nullptr;

constexpr int kSpinLimit = 100000;  // fruitless turns of every thread of a block before it counts as a livelock

void Team::report(const Thread& thread, Site site, const char* text) {
    std::lock_guard<std::mutex> lock(mutex);
    stopped = true;
    if (launch.found == launch.max_findings) return;
    Finding& finding = launch.findings[launch.found++];
    finding.other_block = -1;
    finding.times = 1;
    std::snprintf(finding.text, sizeof finding.text, "%s", text);
    finding.file = site.file;
    finding.line = site.line;
    const Index3 &block = thread.block, &index = thread.thread;
    finding.block[0] = block.x, finding.block[1] = block.y, finding.block[2] = block.z;
    finding.thread[0] = index.x, finding.thread[1] = index.y, finding.thread[2] = index.z;
}

BlockRunner::BlockRunner(Team& team) : team(team) {
    const unsigned* size = launch().block;
    thread_count = size[0] * size[1] * size[2];
    warp_count = (thread_count + 31) / 32;
    threads.resize(thread_count);
    for (Thread& thread : threads) thread.fiber.stack = take_stack();
    use_portable_switch(launch().portable_fibers);
    runner = this;
    if (launch().mode == int(Mode::kProfile)) profiler = std::make_unique<Profiler>(*this);
    if (launch().mode == int(Mode::kCheck)) checker = std::make_unique<Checker>(*this);
}

BlockRunner::~BlockRunner() {
    for (Thread& thread : threads) {
        give_stack_back(thread.fiber.stack);
        delete thread.fiber.context;
    }
    delete scheduler.context;
    runner = nullptr;
    running = nullptr;
}

// ------------------------------------------------------------------------------------------------ a block's life

void BlockRunner::run(unsigned long long block) {
    start_threads(block);
    fill_shared();
    if (checker) checker->start_block();
    for (int fruitless = 0;;) {
        bool progress = false;
        for (unsigned warp : permutation(warp_order, warp_count)) {
            progress |= run_warp(warp);
            if (team.stopped) return;
        }
        unsigned waiting = 0, done = 0;
        for (Thread& thread : threads) {
            waiting += thread.state == State::kAtBarrier;
            done += thread.state == State::kDone;
        }
        if (done == thread_count) {
            if (profiler) profiler->finish_all();
            return;
        }
        if (waiting + done == thread_count) {
            release_barrier();
            progress = true;
        }
        if (team.stopped) return;
        fruitless = progress ? 0 : fruitless + 1;
        if (fruitless > kSpinLimit) {
            for (Thread& thread : threads)
                if (thread.state == State::kSpinning) {
                    team.report(thread, thread.site, "deadlock: it waits in a loop for a value that no thread writes");
                    return;
                }
        }
    }
}

void BlockRunner::start_threads(unsigned long long block) {
    const unsigned *grid = launch().grid, *size = launch().block;
    Index3 index{unsigned(block % grid[0]), unsigned(block / grid[0] % grid[1]), unsigned(block / grid[0] / grid[1])};
    for (unsigned i = 0; i < thread_count; ++i) {
        Thread& thread = threads[i];
        thread.thread = {i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
        thread.block = index;
        thread.block_size = {size[0], size[1], size[2]};
        thread.grid_size = {grid[0], grid[1], grid[2]};
        thread.lane = i % 32;
        thread.state = State::kReady;
        thread.fiber.prepare(&BlockRunner::enter_thread);
    }
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
    // others may have been waiting for a warp in which this lane no longer takes part
    unsigned first = static_cast<unsigned>(&thread - runner->threads.data()) / 32 * 32;
    for (unsigned i = first; i < first + 32 && i < runner->thread_count; ++i)
        if (runner->threads[i].state == State::kAtCollective) runner->complete_collective(runner->threads[i]);
    runner->suspend();
}

void BlockRunner::suspend() {
    Thread& thread = current();
    switch_fiber(thread.fiber, scheduler);
}

void BlockRunner::resume(Thread& thread) {
    running = &thread;
    in_thread = true;
    switch_fiber(scheduler, thread.fiber);
    in_thread = false;
}

// ------------------------------------------------------------------------------------------------------- turns

// Runs the lanes of a warp until all are at a barrier, spinning or done. True if one of them got further.
bool BlockRunner::run_warp(unsigned warp) {
    unsigned first = warp * 32, count = thread_count - first < 32 ? thread_count - first : 32;
    bool progress = false;
    for (unsigned i = first; i < first + count; ++i)
        if (threads[i].state == State::kSpinning) threads[i].state = State::kReady;
    for (bool again = true; again;) {
        again = false;
        for (unsigned lane : permutation(lane_order, count)) {
            Thread& thread = threads[first + lane];
            if (thread.state != State::kReady) continue;
            resume(thread);
            if (team.stopped) return true;
            if (thread.state != State::kSpinning) again = progress = true;
        }
        for (unsigned i = first; i < first + count; ++i) again |= threads[i].state == State::kReady;
        if (!again) again = release_active(warp);
    }
    bool spinning = false, stuck = false;
    for (unsigned i = first; i < first + count; ++i) {
        spinning |= threads[i].state == State::kSpinning;
        stuck |= threads[i].state == State::kAtCollective;
    }
    if (stuck && !spinning) report_stuck_warp(warp);
    return progress;
}

const std::vector<unsigned>& BlockRunner::permutation(std::vector<unsigned>& order, unsigned count) {
    if (order.size() != count) {
        order.resize(count);
        bool descending = launch().order == int(Order::kDescending);
        for (unsigned i = 0; i < count; ++i) order[i] = descending ? count - 1 - i : i;
    }
    if (launch().order == int(Order::kShuffled))
        for (unsigned i = count; i > 1; --i) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;  // Knuth, MMIX
            std::swap(order[i - 1], order[(random >> 33) % i]);
        }
    return order;
}

unsigned BlockRunner::alive_lanes(unsigned warp) const {
    unsigned mask = 0;
    for (unsigned lane = 0; lane < 32 && warp * 32 + lane < thread_count; ++lane)
        if (threads[warp * 32 + lane].state != State::kDone) mask |= 1u << lane;
    return mask;
}

// If all lanes that `thread` waits for have arrived at the same operation, carry it out and let them go on.
void BlockRunner::complete_collective(Thread& thread) {
    unsigned warp = static_cast<unsigned>(&thread - threads.data()) / 32;
    unsigned mask = thread.mask & alive_lanes(warp);
    void* operands[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Thread& other = threads[warp * 32 + lane];
        bool same = other.state == State::kAtCollective && other.operation == thread.operation && other.mask == thread.mask;
        if (!same) return;
        operands[lane] = other.operand;
    }
    if (profiler) profiler->finish_warp(warp);
    if (thread.operation)
        thread.operation(operands, mask);
    else if (checker)  // __syncwarp; a shuffle or a vote does not order memory
        checker->sync_warp(warp, mask);
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) threads[warp * 32 + lane].state = State::kReady;
}

// Lanes that asked for the active mask wait until the warp can do nothing else: those at the same line are then the
// ones that run together.
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
    if (checker) checker->barrier();
    if (profiler) profiler->finish_all();
    for (Thread& thread : threads)
        if (thread.state == State::kAtBarrier) {
            thread.reduced = reduction == kBarrierCount ? count : reduction == kBarrierAnd ? all : count != 0;
            thread.state = State::kReady;
        }
}

void BlockRunner::report_stuck_warp(unsigned warp) {
    Thread *waiting = nullptr, *missing = nullptr;
    for (unsigned lane = 0; lane < 32 && !waiting; ++lane)
        if (threads[warp * 32 + lane].state == State::kAtCollective) waiting = &threads[warp * 32 + lane];
    for (unsigned lane = 0; lane < 32 && !missing; ++lane) {
        if (!((waiting->mask & alive_lanes(warp)) >> lane & 1)) continue;
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

// ------------------------------------------------------------------------------------------ what a thread may call

int BlockRunner::barrier(Site site, int predicate, int how) {
    Thread& thread = current();
    thread.site = site;
    thread.predicate = predicate;
    thread.state = State::kAtBarrier;
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
    complete_collective(thread);
    if (thread.state != State::kReady || launch().order == int(Order::kShuffled)) suspend();
}

// Tensor-core operations need all 32 lanes: none may be missing, and none may have left.
void BlockRunner::full_warp(Collective operation, void* operand, Site site) {
    unsigned warp = static_cast<unsigned>(&current() - threads.data()) / 32;
    if (alive_lanes(warp) != 0xffffffffu) fail(site, "a tensor-core operation in a warp of which some lanes are missing");
    collective(0xffffffffu, operation, operand, site);
}

unsigned BlockRunner::active(Site site) {
    Thread& thread = current();
    thread.site = site;
    thread.state = State::kAtActive;
    suspend();
    return thread.active;
}

void BlockRunner::spin(Site site) {
    Thread& thread = current();
    thread.site = site;
    thread.state = State::kSpinning;
    suspend();
}

void BlockRunner::fail(Site site, const char* text) {
    team.report(current(), site, text);
    suspend();  // for ever: the launch has been stopped
    __builtin_unreachable();
}

void BlockRunner::leave_after_fault(uint64_t address, uint64_t pc) {
    char text[200];
    auto stack = reinterpret_cast<uint64_t>(current().fiber.stack);
    if (address < stack && address + (1 << 20) >= stack)
        std::snprintf(text, sizeof text, "its local variables take more than %zu KiB of stack", kStackBytes / 1024);
    else
        std::snprintf(text, sizeof text, "access to address 0x%llx, which belongs to no array",
                      static_cast<unsigned long long>(address));
    note(text, pc + 1, 0, 0, -1);
    team.stopped = true;
    suspend();
}

// Whether an access stays within the static arrays or within the dynamic memory that the launch asked for.
bool BlockRunner::in_shared(uint64_t offset, uint64_t size) {
    const Launch& l = launch();
    uint64_t dynamic = l.shared_offset, after = dynamic + l.dynamic_reserve;
    if (offset + size <= dynamic) return true;
    if (offset >= dynamic && offset < after) return offset + size <= dynamic + l.dynamic_bytes;
    return offset >= after && offset + size <= l.shared_size;
}

// A fault after which the kernel can go on; the same one is counted, not repeated.
void BlockRunner::note(const char* text, uint64_t pc, uint64_t other_pc, unsigned other_thread, int other_block) {
    Dl_info info;
    uint64_t base = dladdr(reinterpret_cast<void*>(pc), &info) ? reinterpret_cast<uint64_t>(info.dli_fbase) : 0;
    Launch& l = launch();
    for (int i = 0; i < l.found; ++i) {
        Finding& finding = l.findings[i];
        if (finding.pc == pc - base && finding.other_pc == (other_pc ? other_pc - base : 0) && finding.text[0] == text[0]) {
            ++finding.times;
            return;
        }
    }
    if (l.found == l.max_findings) return;
    team.report(current(), {nullptr, 0}, text);
    team.stopped = false;
    Finding& finding = l.findings[l.found - 1];
    finding.pc = pc - base;
    finding.other_pc = other_pc ? other_pc - base : 0;
    finding.other_thread = other_thread;
    finding.other_block = other_block;
}

// -------------------------------------------------------------------------------------------------- a launch

bool fault_in_kernel(uint64_t address, uint64_t pc) {
    if (!runner || !runner->in_thread) return false;
    runner->leave_after_fault(address, pc);
    return true;
}

static void work(Team& team) {
    FaultGuard guard;
    BlockRunner block_runner(team);
    const Launch& launch = team.launch;
    unsigned long long count = 1ull * launch.grid[0] * launch.grid[1] * launch.grid[2];
    for (unsigned long long i; (i = team.next_block++) < count && !team.stopped;)
        block_runner.run(launch.order == int(Order::kDescending) ? count - 1 - i : i);
    if (block_runner.profiler) block_runner.profiler->hand_over();
}

extern "C" void minillm_sim_launch(Launch* launch) {
    Team team(*launch);
    std::vector<std::thread> helpers;
    for (int i = 1; i < launch->threads; ++i) helpers.emplace_back(work, std::ref(team));
    work(team);
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace minillm_sim

using minillm_sim::runner;

extern "C" {

int minillm_sim_barrier(const char* file, int line, int predicate, int reduction) {
    return runner->barrier({file, line}, predicate, reduction);
}
void minillm_sim_collective(unsigned mask, minillm_sim::Collective operation, void* operand, const char* file, int line) {
    runner->collective(mask, operation, operand, {file, line});
}
void minillm_sim_full_warp(minillm_sim::Collective operation, void* operand, const char* file, int line) {
    runner->full_warp(operation, operand, {file, line});
}
unsigned minillm_sim_active(const char* file, int line) { return runner->active({file, line}); }
void minillm_sim_spin(const char* file, int line) { runner->spin({file, line}); }
void minillm_sim_fence() {
    if (runner && runner->checker) runner->checker->fence();
}
void minillm_sim_trap(const char* what, const char* file, int line) { runner->fail({file, line}, what); }
void minillm_sim_access(const void* address, minillm_sim::size_t size, int kind, const void* pc) {
    if (!runner) return;
    if (runner->checker) runner->checker->access(reinterpret_cast<uint64_t>(address), size, kind, pc);
    if (runner->profiler) runner->profiler->access(reinterpret_cast<uint64_t>(address), size, kind, pc);
}
}
