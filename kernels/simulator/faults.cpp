#include "faults.h"

#include <sys/mman.h>

#include <iterator>
#include <mutex>

#include "preempt.h"
#include "scheduler.h"

namespace minillm_sim {

namespace {

constexpr size_t kSignalStackBytes = 64 * 1024;
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, kTickSignal};

std::mutex guards_mutex;
int guards = 0;
struct sigaction before[std::size(kSignals)];

// Runs on a stack of its own, because the fiber's may be what has overflowed. After a fault it does
// not return: the fiber is given up.
void handle(int signal, siginfo_t* info, void* context) {
    auto& machine = *static_cast<ucontext_t*>(context);
    if (signal == kTickSignal) return tick(machine);
    if (running && fault_in_kernel(signal, *info, machine)) return;
    // not a kernel's: let the handler from before have it when the instruction is tried again
    for (size_t i = 0; i < std::size(kSignals); ++i)
        if (kSignals[i] == signal) sigaction(signal, &before[i], nullptr);
}

}  // namespace

FaultGuard::FaultGuard() {
    stack = static_cast<char*>(mmap(nullptr, kSignalStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    stack_t signal_stack{};
    signal_stack.ss_sp = stack;
    signal_stack.ss_size = kSignalStackBytes;
    sigaltstack(&signal_stack, &previous_stack);
    std::lock_guard<std::mutex> lock(guards_mutex);
    if (guards++) return;
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;  // not deferred: the handler may never return
    for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &action, &before[i]);
}

FaultGuard::~FaultGuard() {
    {
        std::lock_guard<std::mutex> lock(guards_mutex);
        if (!--guards)
            for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &before[i], nullptr);
    }
    sigaltstack(&previous_stack, nullptr);
    munmap(stack, kSignalStackBytes);
}

const char* fault_text(int signal, const siginfo_t& info) {
    switch (signal) {
        case SIGFPE:
            return info.si_code == FPE_INTDIV ? "integer division by zero, or of the smallest integer by -1" : "arithmetic fault";
        case SIGILL:
            return "an illegal instruction: a trap, or a place that the compiler takes for unreachable";
        case SIGTRAP:
            return "a breakpoint";
        default:
            return "abort() was called";
    }
}

}  // namespace minillm_sim
