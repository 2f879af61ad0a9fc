// Accesses to memory that does not belong to the process, while a kernel runs: a report in place of the end of Python.
#pragma once

#include <signal.h>

#include <cstdint>

namespace minillm_sim {

// Reports the fault of the running kernel thread and leaves it for good; false if none runs. Part of the scheduler.
bool fault_in_kernel(uint64_t address, uint64_t pc);

// For the calling OS thread, as long as it lives; the process's handler of SIGSEGV and SIGBUS is ours meanwhile.
class FaultGuard {
  public:
    FaultGuard();
    ~FaultGuard();
    FaultGuard(const FaultGuard&) = delete;

  private:
    char* stack;
    stack_t previous_stack;
};

}  // namespace minillm_sim
