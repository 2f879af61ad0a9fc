// Fibers: stacks of their own between which one OS thread switches by itself, in a known order.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>

namespace minillm_sim {

// One fiber, or the scheduler that starts them. Two ways to switch: a few hand-written instructions
// on x86-64 (about 60 ns for a thread's turn), and ucontext everywhere else (about 500 ns, most of
// it a system call).
struct Fiber {
    void* stack_pointer = nullptr;
    ucontext_t* context = nullptr;  // ucontext only
    char* stack = nullptr;

    void prepare(void (*entry)());  // the next switch to this fiber starts `entry`, which never returns
};

void use_portable_switch(bool portable);  // for the calling OS thread
void switch_fiber(Fiber& from, Fiber& to);

// Stacks between guards that fault when touched, kept for the next launch.
constexpr size_t kStackBytes = 64 * 1024, kStackGuardBytes = 1024 * 1024;
char* take_stack();
void give_stack_back(char* stack);
bool is_stack(uint64_t address);  // of any fiber, or the guard of one

}  // namespace minillm_sim
