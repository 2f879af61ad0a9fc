#include "launch.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <new>
#include <thread>
#include <vector>

#include "faults.h"
#include "python_signals.h"
#include "scheduler.h"

namespace minillm_sim {

void Team::note(const Thread& thread, Site site, const char* text, uint64_t pc, uint64_t other_pc, unsigned other_thread,
                int other_block, const uint64_t* callers) {
    if (pc) pc -= launch.library;
    if (other_pc) other_pc -= launch.library;
    std::lock_guard<std::mutex> lock(mutex);
    for (int i = 0; i < launch.found; ++i) {
        Finding& known = launch.findings[i];
        if (known.pc == pc && known.other_pc == other_pc && known.line == site.line && known.file == site.file &&
            known.text[0] == text[0]) {
            ++known.times;
            return;
        }
    }
    if (launch.found == launch.max_findings) return;
    Finding& finding = launch.findings[launch.found++];
    std::snprintf(finding.text, sizeof finding.text, "%s", text);
    finding.file = site.file;
    finding.line = site.line;
    finding.pc = pc;
    finding.other_pc = other_pc;
    finding.other_thread = other_thread;
    finding.other_block = other_block;
    finding.times = 1;
    for (size_t i = 0; callers && i < std::size(finding.callers); ++i)
        finding.callers[i] = callers[i] ? callers[i] - launch.library : 0;
    const Index3 &block = thread.block, &index = thread.thread;
    finding.block[0] = block.x, finding.block[1] = block.y, finding.block[2] = block.z;
    finding.thread[0] = index.x, finding.thread[1] = index.y, finding.thread[2] = index.z;
}

void Team::report(const Thread& thread, Site site, const char* text) {
    note(thread, site, text, 0, 0, 0, -1);
    stopped = true;
}

void Team::report_exhausted() {
    std::lock_guard<std::mutex> lock(mutex);
    launch.exhausted = 1;
    stopped = true;
}

static void run_one_by_one(Team& team, int number) {
    BlockRunner runner(team, number);
    const Launch& launch = team.launch;
    unsigned long long count = launch.blocks();
    for (unsigned long long i; (i = team.next_block++) < count && !team.stopped;) {
        runner.start(launch.order == int(TurnOrder::kDescending) ? count - 1 - i : i);
        runner.advance();
    }
    if (runner.profiler) runner.profiler->fill_launch();
}

// A cooperative launch: one OS thread has all blocks, each up to the next barrier of the grid.
static void run_together(Team& team) {
    std::vector<std::unique_ptr<BlockRunner>> runners;
    unsigned long long count = team.launch.blocks();
    team.next_block = count;
    for (unsigned long long i = 0; i < count; ++i)
        runners.push_back(std::make_unique<BlockRunner>(team, 0, i ? runners[0].get() : nullptr));
    if (team.launch.order == int(TurnOrder::kDescending)) std::reverse(runners.begin(), runners.end());
    for (unsigned long long i = 0; i < count; ++i) {
        unsigned long long block = team.launch.order == int(TurnOrder::kDescending) ? count - 1 - i : i;
        runners[i]->activate();
        runners[i]->start(block);
        runners[i]->at_grid_barrier = !runners[i]->advance();
        if (team.stopped) return;
    }
    while (true) {
        BlockRunner *waiting = nullptr, *gone = nullptr;
        for (auto& each : runners) (each->at_grid_barrier ? waiting : gone) = each.get();
        if (waiting && gone) return waiting->report_incomplete_grid();
        if (gone) break;
        if (waiting->checker) waiting->checker->order().grid_barrier();
        for (auto& each : runners) {
            each->pass_grid_barrier();
            each->at_grid_barrier = !each->advance();
            if (team.stopped) return;
        }
    }
    for (auto& each : runners)
        if (each->profiler && each != runners[0]) runners[0]->profiler->add(*each->profiler);
    if (runners[0]->profiler) runners[0]->profiler->fill_launch();
}

static void run_all(Team& team, int number) {
    if (team.launch.cooperative)
        run_together(team);
    else
        run_one_by_one(team, number);
}

static void run_blocks(Team& team, int number) {
    FaultGuard guard;
    try {
        run_all(team, number);
    } catch (const std::bad_alloc&) {
        team.report_exhausted();
    }
    std::lock_guard<std::mutex> lock(team.mutex);
    --team.active;
    team.finished.notify_one();
}

// The calling OS thread is the first of the team. While it waits for the others it asks Python now
// and then.
static void run_team(Team& team) {
    team.active = team.launch.threads;
    std::vector<std::thread> helpers;
    for (int i = 1; i < team.launch.threads; ++i) helpers.emplace_back(run_blocks, std::ref(team), i);
    run_blocks(team, 0);
    std::unique_lock<std::mutex> lock(team.mutex);
    while (!team.finished.wait_for(lock, std::chrono::milliseconds(100), [&] { return team.active == 0; })) {
        lock.unlock();
        if (handler_raised(team.launch.raised)) team.stopped = true;
        lock.lock();
    }
    lock.unlock();
    for (std::thread& helper : helpers) helper.join();
}

extern "C" void minillm_sim_launch(Launch* launch) {
    Team team(*launch);
    run_team(team);
}

}  // namespace minillm_sim
