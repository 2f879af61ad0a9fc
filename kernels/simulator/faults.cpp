#include "faults.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>

#include "scheduler.h"

namespace minillm_sim {

namespace {

constexpr size_t kSignalStackBytes = 64 * 1024;
constexpr int kSignals[] = {SIGSEGV, SIGBUS};

std::mutex guards_mutex;
int guards = 0;
struct sigaction before[2];

uint64_t program_counter(const void* context) {
    auto& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    return static_cast<uint64_t>(machine.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return machine.pc;
#else
    return 0;
#endif
}

// Runs on a stack of its own, because the fiber's may be what has overflowed. It does not return: the fiber is given up.
void handle(int signal, siginfo_t* info, void* context) {
    if (running && fault_in_kernel(reinterpret_cast<uint64_t>(info->si_addr), program_counter(context))) return;
    // not a kernel's: let the handler from before have it when the instruction is tried again
    sigaction(signal, &before[signal == SIGBUS], nullptr);
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
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // not deferred: the handler never returns
    for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &action, &before[i]);
}

FaultGuard::~FaultGuard() {
    {
        std::lock_guard<std::mutex> lock(guards_mutex);
        if (!--guards)
            for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &before[i], nullptr);
    }
    sigaltstack(&previous_stack, nullptr);
    munmap(stack, kSignalStackBytes);
}

}  // namespace minillm_sim
