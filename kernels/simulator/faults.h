// What a processor traps and a GPU does not, while a kernel runs: wild pointers, division by zero,
// abort(). A report in place of the end of Python. And the timer's signal, by which a kernel can be
// stopped.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <cstdint>

namespace minillm_sim {

// Reports the fault of the running kernel thread and leaves it for good; false if none runs. Part
// of the scheduler.
bool fault_in_kernel(int signal, const siginfo_t& info, const ucontext_t& context);
// The timer of the calling OS thread has run out. Part of the scheduler.
void tick(ucontext_t& context);

// For the calling OS thread, as long as it lives; the process's handlers of these signals are ours
// meanwhile.
class FaultGuard {
  public:
    FaultGuard();
    ~FaultGuard();
    FaultGuard(const FaultGuard&) = delete;

  private:
    char* stack;
    stack_t previous_stack;
};

// In words, for a signal other than SIGSEGV and SIGBUS.
const char* fault_text(int signal, const siginfo_t& info);

}  // namespace minillm_sim
