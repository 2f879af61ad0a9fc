#include "check.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "heap.h"
#include "scheduler.h"

namespace minillm_sim {

namespace {

// The largest power of two up to 8 that divides an element: accesses smaller than that are rare.
uint64_t first_unit(int element) { return std::min(element & -element, 8); }

bool is_sync(int kind) { return kind >= kAtomic; }

constexpr const char *kTwoWrite = "data race: two threads write", *kReadsWritten = "data race: it reads what another thread writes";
constexpr const char *kReadsCopy = "it reads shared memory that an asynchronous copy is still to write: wait for the copy (of another "
                                   "thread's, a barrier has to come after that)",
                     *kWritesCopy = "it writes shared memory that an asynchronous copy is still to write";
constexpr unsigned kDoubtfulAccesses = 64;  // a loop that waits comes back within so many

}  // namespace

Checker::Checker(BlockRunner& runner, Checker* other)
    : runner(runner), common(other ? other->common : std::make_shared<Common>(static_cast<unsigned>(runner.threads.size()))),
      shared(runner.launch().shared_size, 4) {
    if (!other)
        for (const Region& region : runner.map().regions()) common->global.emplace_back(region.size, first_unit(region.element));
    shared_start = runner.shared_start();
}

void Checker::start_block(unsigned long long block) {
    began = order().start_block(block);
    under_way.assign(under_way.size(), 0);
    copies_under_way = 0;
}

void Checker::resume_block(unsigned long long block) { order().start_block(block); }

void Checker::take_off(uint64_t offset, uint64_t size) {
    if (under_way.empty()) under_way.resize(runner.launch().shared_size);
    for (uint64_t i = offset; i < offset + size; ++i) ++under_way[i];
    copies_under_way += size;
}

void Checker::touch_down(uint64_t offset, uint64_t size) {
    for (uint64_t i = offset; i < offset + size; ++i) --under_way[i];
    copies_under_way -= size;
}

void Checker::access(uint64_t address, uint64_t size, int kind, bool aligned, const void* pc) {
    Thread& thread = runner.current();
    if (runner.in_collective || !size) return;  // the runtime itself, on behalf of a warp
    let_see();
    watch_doubt(thread, address, kind, pc);
    watch_guess(thread, address, kind);
    watch_waiting(thread, address, size, kind, pc);
    if (in_own_memory(address, size, kind)) return;
    auto index = static_cast<unsigned>(&thread - runner.threads.data());
    Access access = order().now(index, reinterpret_cast<uint64_t>(pc));
    access.sync = kind == kAtomic ? kAtomically : is_sync(kind) ? kVolatile : kPlain;
    access_size = std::min<uint64_t>(size, 8);
    if (!access_shared(address, size, kind, aligned, access)) access_global(address, size, kind, aligned, access);
    if (kind == kVolatileWrite && runner.readable(address, size))
        std::memcpy(&common->values_before[address], reinterpret_cast<const void*>(address), access_size);
}

void Checker::text(const char* text, uint64_t size, const void* pc) {
    for (uint64_t i = 0; i < size; ++i) {
        access(reinterpret_cast<uint64_t>(text + i), 1, kRead, true, pc);
        if (!text[i]) return;
    }
}

// The thread's stack, its indices and the word that points to them.
bool Checker::in_own_memory(uint64_t address, uint64_t size, int kind) const {
    const Thread& thread = runner.current();
    auto stack = reinterpret_cast<uint64_t>(thread.fiber.stack);
    if (address - stack < kStackBytes && address + size <= stack + kStackBytes) return true;
    if (!is_read(kind)) return false;
    auto indices = reinterpret_cast<uint64_t>(static_cast<const Running*>(&thread));
    auto pointer = reinterpret_cast<uint64_t>(&running);
    return (address - indices < sizeof(Running) && address + size <= indices + sizeof(Running)) ||
           (address == pointer && size == sizeof running);
}

bool Checker::access_shared(uint64_t address, uint64_t size, int kind, bool aligned, const Access& access) {
    const Launch& launch = runner.launch();
    uint64_t offset = address - shared_start;
    if (offset >= launch.shared_size && offset + runner.shared_gap() >= launch.shared_size + 2 * runner.shared_gap())
        return false;
    for (int i = 0; i < launch.flag_count; ++i)
        if (offset - launch.flags[i] < 8) return true;
    char text[200];
    if (!runner.in_shared(offset, size)) {
        runner.describe_shared(text, sizeof text, offset, kind);
        stop(text, access);
    }
    if (aligned && address % size) stop("misaligned shared access", access);
    for (uint64_t i = offset; copies_under_way && i < offset + size; ++i)
        if (under_way[i]) {
            note(is_read(kind) ? kReadsCopy : kWritesCopy, access, nullptr);
            return true;
        }
    if (kind == kAtomic || kind == kVolatileRead) order().read_sync(access.thread, address, true);
    shared.each(offset, size, [&](Cell& cell) { check_cell(cell, address, true, kind, access); });
    if (kind == kAtomic || kind == kVolatileWrite) order().write_sync(access.thread, address, true);
    return true;
}

void Checker::access_global(uint64_t address, uint64_t size, int kind, bool aligned, const Access& access) {
    if (heap_holds(address, size)) return;
    const MemoryMap& map = runner.map();
    int found = map.holding(address);
    if (found < 0 || address + size > map.regions()[found].address + map.regions()[found].size) {
        uint64_t first = found < 0 ? address : map.regions()[found].address + map.regions()[found].size;
        char text[300];
        runner.describe(text, sizeof text, first, kind);
        note(text, access, nullptr);
        if (!map.in_slack(address, size)) runner.leave();
        return;  // of no array, and nothing is kept there: what follows may be of use, too
    }
    const Region& region = map.regions()[found];
    if (aligned && address % size) stop("misaligned global access", access);
    if (!is_read(kind) && !region.writable) {
        if (region.kind == kArgument)
            note("write to an array that the kernel takes as const", access, nullptr);
        else
            stop("write to a constant", access);
    }
    if (region.kind == kConstants) return;
    if (kind == kAtomic || kind == kVolatileRead) order().read_sync(access.thread, address, false);
    if (region.unwritten && kind != kWrite && kind != kVolatileWrite) {
        bool unwritten = false;
        common->global[found].each(address - region.address, size, [&](Cell& cell) { unwritten |= !cell.writer.phase; });
        if (unwritten) note("uninitialised read of an array that was never written", access, nullptr);
    }
    common->global[found].each(address - region.address, size, [&](Cell& cell) { check_cell(cell, address, false, kind, access); });
    if (kind == kAtomic || kind == kVolatileWrite) order().write_sync(access.thread, address, false);
}

void Checker::check_cell(Cell& cell, uint64_t address, bool shared, int kind, const Access& access) {
    if (shared && cell.writer.phase < began) {
        if (kind != kWrite && kind != kVolatileWrite) note("uninitialised read of shared memory", access, nullptr);
        cell.writer = {};
        if (cell.reader.phase < began) cell.reader = cell.other_reader = {};
    }
    bool write = !is_read(kind);
    if (cell.writer.phase && !order().ordered(cell.writer, access)) {
        if (!write && !access.sync && cell.writer.sync == kAtomically)
            guess(runner.current(), address, access, cell.writer);
        else if (!cell.writer.sync || !access.sync)  // atomic and volatile accesses do not race among themselves
            note(write ? kTwoWrite : kReadsWritten, access, &cell.writer);
        else if (kind == kVolatileRead && cell.writer.sync == kVolatile &&
                 !order().told(cell.writer, access.thread, address, shared))
            hide(cell.writer, address, access);
    }
    if (!write) return remember_reader(cell, access);
    for (const Access* reader : {&cell.reader, &cell.other_reader})
        if (reader->phase && !(reader->sync && access.sync) && !order().ordered(*reader, access)) {
            Thread& other = runner.threads[reader->thread];
            if (access.sync == kAtomically && order().of_this_block(*reader) && other.state != State::kDone)
                guess(other, address, *reader, access);
            else
                note("data race: it writes what another thread reads", access, reader);
        }
    cell.writer = access;
    cell.reader = cell.other_reader = {};
}

void Checker::hide(const Access& writer, uint64_t address, const Access& access) {
    Thread& thread = runner.current();
    auto before = common->values_before.find(address);
    if (thread.doubt.pc || common->hidden.size || common->signals.count(address) || before == common->values_before.end()) return;
    uint64_t size = access_size;
    std::memcpy(&common->hidden.value, reinterpret_cast<const void*>(address), size);
    if (!std::memcmp(&common->hidden.value, &before->second, size)) return;  // nothing changed
    std::memcpy(reinterpret_cast<void*>(address), &before->second, size);
    common->hidden.address = address;
    common->hidden.size = size;
    thread.doubt = {reinterpret_cast<const void*>(access.pc), address, 0, access, writer};
}

void Checker::let_see() {
    if (!common->hidden.size) return;
    std::memcpy(reinterpret_cast<void*>(common->hidden.address), &common->hidden.value, common->hidden.size);
    common->hidden.size = 0;
}

void Checker::watch_doubt(Thread& thread, uint64_t address, int kind, const void* pc) {
    Doubt& doubt = thread.doubt;
    const Round& round = thread.round;
    if (kind == kVolatileRead && round.pc == pc && round.address == address && !round.wrote) common->signals.insert(address);
    if (doubt.pc == pc && doubt.address == address)
        doubt.pc = nullptr;
    else if (doubt.pc && (++doubt.accesses > kDoubtfulAccesses || (!is_read(kind) && !in_own_memory(address, 1, kind))))
        settle(thread);
}

void Checker::guess(Thread& thread, uint64_t address, const Access& access, const Access& other) {
    if (!thread.guess.access.phase) thread.guess = {address, 0, access, other};
}

void Checker::watch_guess(Thread& thread, uint64_t address, int kind) {
    Guess& guess = thread.guess;
    if (!guess.access.phase) return;
    if (kind == kAtomic && address == guess.address)
        guess = {};
    else if (++guess.accesses > kDoubtfulAccesses || (!is_read(kind) && !in_own_memory(address, 1, kind)))
        settle_guess(thread);
}

void Checker::settle_guess(Thread& thread) {
    if (thread.guess.access.phase) note(kReadsWritten, thread.guess.access, &thread.guess.other);
    thread.guess = {};
}

void Checker::settle(Thread& thread) {
    let_see();
    settle_guess(thread);
    if (thread.doubt.pc) note(kReadsWritten, thread.doubt.read, &thread.doubt.write);
    thread.doubt.pc = nullptr;
}

void Checker::remember_reader(Cell& cell, const Access& access) {
    if (!cell.reader.phase || order().ordered(cell.reader, access))
        cell.reader = access;
    else if (!cell.other_reader.phase || order().ordered(cell.other_reader, access) ||
             (order().of_this_block(cell.reader) && cell.other_reader.thread / 32 == cell.reader.thread / 32))
        cell.other_reader = access;
}

// A thread that comes back to the same atomic or volatile access, and read the same all the way
// round, waits.
void Checker::watch_waiting(Thread& thread, uint64_t address, uint64_t size, int kind, const void* pc) {
    Round& round = thread.round;
    bool sync = kind == kAtomic || kind == kVolatileRead;
    ++round.accesses;
    round.wrote |= !is_read(kind) && round.address == address;
    if (sync && round.pc == pc && round.address == address) {
        bool same = round.hash == round.last_hash && round.accesses == round.last_accesses;
        round.last_hash = round.hash;
        round.last_accesses = round.accesses;
        round.hash = round.accesses = 0;
        round.wrote = kind == kAtomic;
        if (same) runner.wait_at(reinterpret_cast<uint64_t>(pc));
    } else if (sync && (!round.pc || round.accesses > 1000)) {
        round = {pc, address, 0, 0, 0, 0, false};
    }
    if (!round.pc) return;
    uint64_t value = 0;
    if (kind != kWrite && kind != kVolatileWrite && runner.readable(address, size))
        std::memcpy(&value, reinterpret_cast<const void*>(address), std::min<uint64_t>(size, 8));
    for (uint64_t part : {reinterpret_cast<uint64_t>(pc), address, value})
        round.hash = (round.hash ^ part) * 0x9e3779b97f4a7c15ull + (round.hash >> 29);
}

void Checker::note(const char* what, const Access& access, const Access* other) {
    runner.note(what, access.pc, other ? other->pc : 0, other ? other->thread : 0, other ? int(order().block_number(*other)) : -1);
}

void Checker::stop(const char* what, const Access& access) {
    note(what, access, nullptr);
    runner.leave();
}

}  // namespace minillm_sim
