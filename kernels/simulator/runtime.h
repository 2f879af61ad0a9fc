// What a compiled kernel and the simulator's runtime know of each other. Plain C, no standard
// header: every kernel includes it, and a kernel's compile time is most of the time that a small
// test takes.
#pragma once

namespace minillm_sim {

using size_t = decltype(sizeof(0));

struct Index3 {
    unsigned x, y, z;
};

// A place in the kernel's source; default arguments of builtins are evaluated at the call.
struct Site {
    const char* file;
    int line;
};

// What a collective operation of a warp does once its lanes have arrived: operands[lane] is what
// lane passed, or null for a lane that takes no part.
using Collective = void (*)(void** operands, unsigned mask);

// The thread that is running; the runtime keeps it up to date at every switch.
struct Running {
    Index3 thread, block, block_size, grid_size;
    unsigned lane;
};

// One pointer for each OS thread. initial-exec: read with one instruction, although it lives in a
// library that is loaded late (the C library keeps room for a few such words).
extern __thread Running* running __attribute__((tls_model("initial-exec")));

enum Reduction { kBarrierOnly, kBarrierCount, kBarrierAnd, kBarrierOr };
enum AccessKind { kRead, kWrite, kAtomic, kVolatileRead, kVolatileWrite };

}  // namespace minillm_sim

// The runtime's services. Each may suspend the calling fiber.
extern "C" {
int minillm_sim_barrier(const char* file, int line, int predicate, int reduction);
void minillm_sim_collective(unsigned mask, minillm_sim::Collective operation, void* operand, const char* file, int line);
unsigned minillm_sim_active(const char* file, int line);
void minillm_sim_spin(const char* file, int line);
void minillm_sim_full_warp(minillm_sim::Collective operation, void* operand, const char* file, int line);
void minillm_sim_fence();
void minillm_sim_fence_block();
// Check mode: `lane` of the caller's warp reads from a lane that takes no part in the operation.
void minillm_sim_absent_source(int lane, int source);
void minillm_sim_copy_start(void* to, const void* from, minillm_sim::size_t size, minillm_sim::size_t given);
void minillm_sim_copy_commit();
void minillm_sim_copy_wait(int keep);  // -1: for all of them
minillm_sim::size_t minillm_sim_shared_offset(const void* address);
void* minillm_sim_shared_pointer(minillm_sim::size_t offset);
int minillm_sim_is_shared(const void* address);
void minillm_sim_grid_barrier(const char* file, int line);
int minillm_sim_is_cooperative();
[[noreturn]] void minillm_sim_trap(const char* what, const char* file, int line);
// Told to check and profile mode: an access that the compiler's instrumentation does not see as
// one.
void minillm_sim_access_here(const void* address, minillm_sim::size_t size, int kind);  // at the call
void minillm_sim_access(const void* address, minillm_sim::size_t size, int kind, const void* pc);
}
