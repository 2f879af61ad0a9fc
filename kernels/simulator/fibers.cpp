#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "arena.h"

namespace minillm_sim {

static __thread bool portable_switch __attribute__((tls_model("initial-exec"))) = true;

void use_portable_switch(bool portable) {
#ifdef __x86_64__
    portable_switch = portable;
#else
    (void)portable;
#endif
}

#ifdef __x86_64__
// The System V ABI wants six registers and the stack pointer kept across a call; everything else is
// the compiler's.
extern "C" void minillm_sim_switch(void** save_stack_pointer, void* next_stack_pointer);
asm(R"(
.text
.globl minillm_sim_switch
.hidden minillm_sim_switch
.type minillm_sim_switch, @function
minillm_sim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size minillm_sim_switch, .-minillm_sim_switch
)");
#endif

void switch_fiber(Fiber& from, Fiber& to) {
#ifdef __x86_64__
    if (!portable_switch) {
        minillm_sim_switch(&from.stack_pointer, to.stack_pointer);
        return;
    }
#endif
    if (!from.context) from.context = new ucontext_t;
    swapcontext(from.context, to.context);
}

void Fiber::prepare(void (*entry)()) {
    if (portable_switch) {
        if (!context) context = new ucontext_t;
        getcontext(context);
        context->uc_stack.ss_sp = stack;
        context->uc_stack.ss_size = kStackBytes;
        context->uc_link = nullptr;
        makecontext(context, entry, 0);
        return;
    }
    // What the switch will pop: six registers, then the address that `ret` goes to. At a function's
    // first instruction the stack pointer is 8 below a multiple of 16.
    auto top = reinterpret_cast<uintptr_t>(stack + kStackBytes) & ~uintptr_t{15};
    auto** slots = reinterpret_cast<void**>(top) - 8;
    for (int i = 0; i < 6; ++i) slots[i] = nullptr;
    slots[6] = reinterpret_cast<void*>(entry);
    slots[7] = nullptr;
    stack_pointer = slots;
}

namespace {

// Stacks lie side by side, each between two guards, and every group of them between two wide gaps.
constexpr size_t kSlot = kStackBytes + kStackGuardBytes, kGroup = 128, kGroupBytes = kGroup * kSlot + kStackGuardBytes;

std::mutex stacks_mutex;
std::vector<char*> free_stacks;
std::vector<uint64_t> groups;  // where each begins

void add_stacks() {
    size_t gap;
    char* pages = reserve(kGroupBytes, &gap);
    if (!pages) throw std::bad_alloc();
    groups.push_back(reinterpret_cast<uint64_t>(pages));
    for (size_t i = kGroup; i-- > 0;) {
        char* stack = pages + kStackGuardBytes + i * kSlot;
        if (mprotect(stack, kStackBytes, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
        free_stacks.push_back(stack);
    }
}

}  // namespace

char* take_stack() {
    std::lock_guard<std::mutex> lock(stacks_mutex);
    if (free_stacks.empty()) add_stacks();
    char* stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
}

void give_stack_back(char* stack) {
    std::lock_guard<std::mutex> lock(stacks_mutex);
    free_stacks.push_back(stack);
}

// Asked in a signal's handler, by a thread that holds no lock of ours.
bool is_stack(uint64_t address) {
    for (uint64_t group : groups)
        if (address - group < kGroupBytes) return true;
    return false;
}

}  // namespace minillm_sim
