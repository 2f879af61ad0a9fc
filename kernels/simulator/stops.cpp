// How a thread leaves the processor against its will: after a fault, when the launch is over, when
// its time is up.
#include <pthread.h>

#include <cstdio>
#include <cstring>
#include <iterator>

#include "faults.h"
#include "instruction.h"
#include "python_signals.h"
#include "scheduler.h"

namespace minillm_sim {

constexpr uint64_t kBesideArray = 128;  // bytes within which a stray pointer is one of an array
constexpr long kLaterTicks = 5;  // milliseconds, once a thread had to be interrupted

void BlockRunner::fail(Site site, const char* text) {
    team.report(current(), site, text);
    leave();
}

void BlockRunner::fail_at(uint64_t pc, const char* text) {
    note(text, pc, 0, 0, -1);
    leave();
}

void BlockRunner::leave() {
    team.stopped = true;
    suspend();
    __builtin_unreachable();
}

void BlockRunner::note(const char* text, uint64_t pc, uint64_t other_pc, unsigned other_thread, int other_block) {
    team.note(current(), {nullptr, 0}, text, pc, other_pc, other_thread, other_block);
}

// A shuffle: the lane's own site is that of the call.
void BlockRunner::absent_source(int lane, int source) {
    if (!checker) return;
    auto warp = static_cast<unsigned>(&current() - threads.data()) / 32;
    const Thread& thread = threads[warp * 32 + static_cast<unsigned>(lane)];
    bool is_alive = source >= 0 && source < 32 && alive[warp] >> source & 1;
    char text[200];
    std::snprintf(text, sizeof text, "a shuffle: lane %d reads lane %d, which takes no part (%s; mask 0x%08x)", lane, source,
                  is_alive ? "the mask does not name it" : "the warp has no such lane any more, or never had", thread.mask);
    team.note(thread, thread.site, text, 0, 0, 0, -1);
}

// ---------------------------------------------------------------------------------------- where an
// address belongs

uint64_t BlockRunner::shared_start() {
    return reinterpret_cast<uint64_t>(launch().shared_anchor()) - launch().shared_offset;
}

// Whether an access stays within one static array, or within the dynamic memory that the launch
// asked for.
bool BlockRunner::in_shared(uint64_t offset, uint64_t size) {
    const Launch& l = launch();
    if (offset - l.shared_offset < l.dynamic_reserve) return offset + size <= l.shared_offset + l.dynamic_bytes;
    for (int i = 0; i < l.shared_array_count; ++i) {
        const SharedArray& array = l.shared_arrays[i];
        if (offset - array.offset < array.size) return offset + size <= array.offset + array.size;
    }
    return false;
}

// The static array beside a place in no array; null if there is none.
const SharedArray* BlockRunner::array_beside(uint64_t offset) {
    for (int i = 0; i < launch().shared_array_count; ++i) {
        const SharedArray& array = launch().shared_arrays[i];
        if (offset - array.offset + kBesideArray < array.size + 2 * kBesideArray) return &array;
    }
    return nullptr;
}

bool BlockRunner::readable(uint64_t address, uint64_t size) {
    auto stack = reinterpret_cast<uint64_t>(current().fiber.stack);
    if (address - stack < kStackBytes) return address + size <= stack + kStackBytes;
    if (in_shared(address - shared_start(), size)) return true;
    int found = map().holding(address);
    return found >= 0 && address + size <= map().regions()[found].address + map().regions()[found].size;
}

void BlockRunner::describe_shared(char* text, size_t length, uint64_t offset, int kind) {
    const Launch& l = launch();
    const char* access = is_read(kind) ? "read" : "write";
    const SharedArray* array = offset - l.shared_offset < l.dynamic_reserve ? nullptr : array_beside(offset);
    if (array)
        std::snprintf(text, length, "out-of-bounds %s of shared memory, byte %lld of %s, which has %llu", access,
                      static_cast<long long>(offset - array->offset), array->name, static_cast<unsigned long long>(array->size));
    else if (offset < l.shared_offset)
        std::snprintf(text, length, "out-of-bounds %s of shared memory, in no array", access);
    else
        std::snprintf(text, length, "out-of-bounds %s of shared memory, byte %lld of the dynamic part (the launch gave %llu bytes: "
                      "shared_mem, --shared)",
                      access, static_cast<long long>(offset - l.shared_offset), static_cast<unsigned long long>(l.dynamic_bytes));
}

void BlockRunner::describe(char* text, size_t length, uint64_t address, int kind) {
    auto stack = reinterpret_cast<uint64_t>(current().fiber.stack);
    uint64_t offset = address - shared_start(), gap = shared.gap;
    if (address < stack && address + kStackGuardBytes >= stack)
        std::snprintf(text, length, "its local variables take more than %zu KiB of stack", kStackBytes / 1024);
    else if (offset + gap < launch().shared_size + 2 * gap)
        describe_shared(text, length, offset, kind);
    else if (is_stack(address))
        std::snprintf(text, length, "access to address 0x%llx, which belongs to no array: beyond its own local variables",
                      static_cast<unsigned long long>(address));
    else
        map().describe(text, length, address, kind);
}

// -------------------------------------------------------------------------------------------------------
// signals

// At the instruction `pc`; if it is none of the kernel's library, at the call that led out of
// there. The calls are looked for among the words on the stack.
void BlockRunner::note_at(const char* text, uint64_t pc, uint64_t stack_pointer) {
    uint64_t places[5] = {};
    size_t found = 0;
    if (team.in_library(pc)) places[found++] = pc + 1;
    auto stack = reinterpret_cast<uint64_t>(current().fiber.stack);
    for (uint64_t at = stack_pointer & ~7ull; at - stack < kStackBytes && found < std::size(places); at += 8) {
        uint64_t word;
        std::memcpy(&word, reinterpret_cast<const void*>(at), 8);
        if (team.in_library(word)) places[found++] = word;
    }
    team.note(current(), {nullptr, 0}, text, places[0], 0, 0, -1, places + 1);
}

void BlockRunner::leave_after_fault(int signal, const siginfo_t& info, const ucontext_t& context) {
    char text[300];
    uint64_t pc = program_counter(context), address = reinterpret_cast<uint64_t>(info.si_addr), operand = 0;
    if (signal != SIGSEGV && signal != SIGBUS) {
        std::snprintf(text, sizeof text, "%s", fault_text(signal, info));
    } else if (pc == address) {
        std::snprintf(text, sizeof text, "call of a function at address 0x%llx, where there is none",
                      static_cast<unsigned long long>(pc));
    } else {
        // a misaligned vector, or an address that no memory can have: the processor does not say
        // which address it was
        bool said = info.si_code == SEGV_MAPERR || info.si_code == SEGV_ACCERR;
        if (!said && operand_address(context, &operand)) address = operand;
        if (!said && operand && operand >> 47 == 0)
            std::snprintf(text, sizeof text, "misaligned access to address 0x%llx", static_cast<unsigned long long>(operand));
        else
            describe(text, sizeof text, address, fault_writes(context) ? kWrite : kRead);
    }
    note_at(text, pc, stack_pointer(context));
    team.stopped = true;
    switch_fiber(given_up, scheduler);
}

// Takes the processor from a thread that had it for a whole period of the timer, where its state
// can be kept: in the kernel's own code, not in a library that may hold a lock.
void BlockRunner::tick(ucontext_t& context) {
    if (restoring) {
        Thread* thread = restoring;
        restoring = nullptr;
        return thread->registers.restore(context);
    }
    due = true;
    if (!in_thread) return;
    if (is_overdue() && team.mutex.try_lock()) {  // the interrupted thread itself may hold it
        team.mutex.unlock();
        char text[100];
        std::snprintf(text, sizeof text, "it still runs after %g seconds: a loop that does not end?", launch().seconds);
        note_at(text, program_counter(context), stack_pointer(context));
        team.stopped = true;
    }
    bool long_turn = turn == turn_at_tick;
    turn_at_tick = turn;
    if (!long_turn && !team.stopped) return;
    if (in_collective || !team.in_library(program_counter(context)) || !(kResumable || team.stopped) ||
        (checker && checker->hides())) {
        yield_soon = true;
        return;
    }
    Thread& thread = current();
    thread.registers.save(context);
    thread.state = State::kPreempted;
    ticks->every(kLaterTicks);
    switch_fiber(given_up, scheduler);
}

bool BlockRunner::is_overdue() const {
    return team.launch.seconds > 0 && !team.stopped && processor_seconds() - started > team.launch.seconds;
}

void BlockRunner::enter_restorer() {
    pthread_kill(pthread_self(), kTickSignal);  // comes back in the interrupted thread
    __builtin_unreachable();
}

void BlockRunner::ask_python() {
    due = false;
    if (number == 0 && handler_raised(launch().raised)) team.stopped = true;
}

bool fault_in_kernel(int signal, const siginfo_t& info, const ucontext_t& context) {
    if (!runner || !runner->in_thread) return false;
    runner->leave_after_fault(signal, info, context);
    return true;
}

void tick(ucontext_t& context) {
    if (runner) runner->tick(context);
}

}  // namespace minillm_sim
