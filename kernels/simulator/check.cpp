#include "check.h"

#include <cstdio>

#include "scheduler.h"

namespace minillm_sim {

Checker::Checker(BlockRunner& runner) : runner(runner) {
    const Launch& launch = runner.launch();
    for (int i = 0; i < launch.region_count; ++i)
        global_cells.emplace_back(launch.regions[i].size / launch.regions[i].element + 1);
    shared_cells.resize(launch.shared_size);
    clocks.resize(runner.threads.size() * 32);
    shared_start = reinterpret_cast<uint64_t>(launch.shared_anchor()) - launch.shared_offset;
}

void Checker::start_block() {
    first_phase = ++phase;
    fence_phase = 0;
    acquired.clear();
    block_starts.push_back(phase);
    clocks.assign(clocks.size(), 0);
    for (size_t thread = 0; thread < clocks.size() / 32; ++thread) clocks[thread * 32 + thread % 32] = 1;
}

// Lanes of the mask learn of each other what each of them knows, and begin a new time of their own.
void Checker::sync_warp(unsigned warp, unsigned mask) {
    uint32_t joined[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1)
            for (unsigned i = 0; i < 32; ++i) {
                uint32_t time = clocks[(warp * 32 + lane) * 32 + i];
                if (time > joined[i]) joined[i] = time;
            }
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) {
            uint32_t* clock = &clocks[(warp * 32 + lane) * 32];
            for (unsigned i = 0; i < 32; ++i) clock[i] = joined[i];
            ++clock[lane];
        }
}

void Checker::access(uint64_t address, uint64_t size, int kind, const void* pc) {
    Thread& thread = runner.current();
    auto index = static_cast<uint16_t>(&thread - runner.threads.data());
    Access access{phase, index, uint16_t(kind == kAtomic), clocks[index * 32u + index % 32u],
                  reinterpret_cast<uint64_t>(pc)};
    const Launch& launch = runner.launch();
    if (address >= shared_start && address < shared_start + launch.shared_size) {
        uint64_t offset = address - shared_start;
        for (int i = 0; i < launch.flag_count; ++i)
            if (offset - launch.flags[i] < 8) return;
        if (address % (size <= 16 && !(size & (size - 1)) ? size : 1)) report("misaligned shared access", access, nullptr);
        if (!runner.in_shared(offset, size)) {
            report(kind == kRead ? "out-of-bounds read of shared memory" : "out-of-bounds write of shared memory", access,
                   nullptr);
            return;
        }
        for (uint64_t i = offset; i < offset + size; ++i) check_cell(shared_cells[i], true, access, kind, address);
        return;
    }
    for (int r = 0; r < launch.region_count; ++r) {
        const Region& region = launch.regions[r];
        if (address + region.guard < region.address || address >= region.address + region.size + region.guard) continue;
        if (address % (size <= 16 && !(size & (size - 1)) ? size : 1)) report("misaligned global access", access, nullptr);
        if (address < region.address || address + size > region.address + region.size) {
            char text[200];
            long long distance = static_cast<long long>(address - region.address);
            char entry[20] = "";
            if (region.entry >= 0) std::snprintf(entry, sizeof entry, "[%d]", region.entry);
            std::snprintf(text, sizeof text, "out-of-bounds %s of argument %d%s, element %lld (it has %lld)",
                          kind == kRead ? "read" : "write", region.argument, entry, distance / region.element,
                          static_cast<long long>(region.size / region.element));
            report(text, access, nullptr);
            return;
        }
        if (kind != kRead && !region.writable) report("write to an array that the kernel takes as const", access, nullptr);
        if (kind == kAtomic) synchronise(address);
        uint64_t first = (address - region.address) / region.element;
        uint64_t last = (address + size - 1 - region.address) / region.element;
        for (uint64_t i = first; i <= last; ++i) check_cell(global_cells[r][i], false, access, kind, address);
        return;
    }
    // Anything else is the thread's own: local arrays, constants.
}

void Checker::check_cell(Cell& cell, bool shared, const Access& access, int kind, uint64_t) {
    if (shared && cell.writer.phase < first_phase) {
        if (kind != kWrite) report("uninitialised read of shared memory", access, nullptr);
        cell.writer = {};
        if (cell.reader.phase < first_phase) cell.reader = cell.other_reader = {};
    }
    if (cell.writer.phase && !(cell.writer.atomic && kind == kAtomic) && !ordered(cell.writer, access))
        report(kind == kRead ? "data race: it reads what another thread writes" : "data race: two threads write", access,
               &cell.writer);
    if (kind != kRead) {
        for (const Access* reader : {&cell.reader, &cell.other_reader})
            if (reader->phase && !ordered(*reader, access)) report("data race: it writes what another thread reads", access, reader);
        cell.writer = access;
        cell.reader = cell.other_reader = {};
    } else {
        remember_reader(cell, access);
    }
}

bool Checker::ordered(const Access& before, const Access& now) const {
    if (before.phase < first_phase) {  // another block
        for (const Release& release : acquired)
            if (release.first <= before.phase && before.phase <= release.last) return true;
        return false;
    }
    if (before.phase < now.phase || before.thread == now.thread) return true;
    return before.thread / 32 == now.thread / 32 && clocks[now.thread * 32u + before.thread % 32u] >= before.time;
}

// A fence and then an atomic operation make what the block did before known to every block that comes to the same address
// with an atomic operation later: how the last block to finish finds the work of the others.
void Checker::synchronise(uint64_t address) {
    std::vector<Release>& told = releases[address];
    acquired.insert(acquired.end(), told.begin(), told.end());
    if (fence_phase) told.push_back({first_phase, fence_phase});
}

void Checker::remember_reader(Cell& cell, const Access& access) const {
    if (!cell.reader.phase || ordered(cell.reader, access))
        cell.reader = access;
    else if (!cell.other_reader.phase || ordered(cell.other_reader, access) ||
             (cell.reader.phase >= first_phase && cell.other_reader.thread / 32 == cell.reader.thread / 32))
        cell.other_reader = access;
}

uint32_t Checker::block_of(uint32_t phase_of_access) const {
    uint32_t block = 0;
    while (block + 1 < block_starts.size() && block_starts[block + 1] <= phase_of_access) ++block;
    return block;
}

void Checker::report(const char* what, const Access& access, const Access* other) {
    runner.note(what, access.pc, other ? other->pc : 0, other ? other->thread : 0, other ? int(block_of(other->phase)) : -1);
}

}  // namespace minillm_sim

// ----------------------------------------------- what g++ calls for -fsanitize=thread and -fsanitize=bounds

#define MINILLM_PC __builtin_return_address(0)
#define MINILLM_HOOKS(SIZE)                                                                                       \
    void __tsan_read##SIZE(void* p) { minillm_sim_access(p, SIZE, minillm_sim::kRead, MINILLM_PC); }              \
    void __tsan_write##SIZE(void* p) { minillm_sim_access(p, SIZE, minillm_sim::kWrite, MINILLM_PC); }            \
    void __tsan_unaligned_read##SIZE(void* p) { minillm_sim_access(p, SIZE, minillm_sim::kRead, MINILLM_PC); }    \
    void __tsan_unaligned_write##SIZE(void* p) { minillm_sim_access(p, SIZE, minillm_sim::kWrite, MINILLM_PC); }  \
    void __tsan_volatile_read##SIZE(void* p) { minillm_sim_access(p, SIZE, minillm_sim::kRead, MINILLM_PC); }     \
    void __tsan_volatile_write##SIZE(void* p) { minillm_sim_access(p, SIZE, minillm_sim::kWrite, MINILLM_PC); }

extern "C" {
MINILLM_HOOKS(1)
MINILLM_HOOKS(2)
MINILLM_HOOKS(4)
MINILLM_HOOKS(8)
MINILLM_HOOKS(16)
void __tsan_read_range(void* p, unsigned long size) { minillm_sim_access(p, size, minillm_sim::kRead, MINILLM_PC); }
void __tsan_write_range(void* p, unsigned long size) { minillm_sim_access(p, size, minillm_sim::kWrite, MINILLM_PC); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}

extern "C" void __ubsan_handle_out_of_bounds(void* data, void* index) {
    struct Location {  // how the compiler passes the place
        const char* file;
        unsigned line, column;
    };
    auto* place = static_cast<Location*>(data);
    char text[100];
    std::snprintf(text, sizeof text, "index %lld is beyond the bound of the array",
                  static_cast<long long>(reinterpret_cast<intptr_t>(index)));
    minillm_sim_trap(text, place->file, static_cast<int>(place->line));
}
