// What compiled kernels call: the runtime's services, and what g++ calls for -fsanitize=thread,
// bounds and integer-divide-by-zero.
#include <cstdint>
#include <cstdio>

#include "scheduler.h"

using minillm_sim::runner;

extern "C" {

int minillm_sim_barrier(const char* file, int line, int predicate, int reduction) {
    return runner->barrier({file, line}, predicate, reduction);
}
void minillm_sim_collective(unsigned mask, minillm_sim::Collective operation, void* operand, const char* file, int line) {
    runner->collective(mask, operation, operand, {file, line});
}
void minillm_sim_full_warp(minillm_sim::Collective operation, void* operand, const char* file, int line) {
    runner->full_warp(operation, operand, {file, line});
}
unsigned minillm_sim_active(const char* file, int line) { return runner->active({file, line}); }
void minillm_sim_grid_barrier(const char* file, int line) { runner->grid_barrier({file, line}); }
int minillm_sim_is_cooperative() { return runner->launch().cooperative; }
void minillm_sim_spin(const char* file, int line) { runner->spin({file, line}); }
void minillm_sim_absent_source(int lane, int source) { runner->absent_source(lane, source); }
void minillm_sim_trap(const char* what, const char* file, int line) { runner->fail({file, line}, what); }

static void fence(bool whole_device) {
    if (!runner || !runner->checker) return;
    runner->checker->order().fence(static_cast<unsigned>(&runner->current() - runner->threads.data()), whole_device);
}
void minillm_sim_fence() { fence(true); }
void minillm_sim_fence_block() { fence(false); }

void minillm_sim_access(const void* address, minillm_sim::size_t size, int kind, const void* pc) {
    bool vector = size <= 16 && !(size & (size - 1));
    if (runner) runner->access(reinterpret_cast<uint64_t>(address), size, kind, vector, pc);
}

void minillm_sim_access_here(const void* address, minillm_sim::size_t size, int kind) {
    minillm_sim_access(address, size, kind, __builtin_return_address(0));
}

}  // extern "C"

// An access whose type does not ask for its size's alignment is served in parts.
static void serve(const void* address, uint64_t size, int kind, bool aligned, const void* pc) {
    if (runner) runner->access(reinterpret_cast<uint64_t>(address), size, kind, aligned, pc);
}

#define MINILLM_HOOK(NAME, SIZE, KIND, ALIGNED)                                       \
    void __tsan_##NAME##SIZE(void* address) {                                         \
        serve(address, SIZE, minillm_sim::KIND, ALIGNED, __builtin_return_address(0)); \
    }
#define MINILLM_HOOKS(SIZE)                                     \
    MINILLM_HOOK(read, SIZE, kRead, true)                       \
    MINILLM_HOOK(write, SIZE, kWrite, true)                     \
    MINILLM_HOOK(unaligned_read, SIZE, kRead, false)            \
    MINILLM_HOOK(unaligned_write, SIZE, kWrite, false)          \
    MINILLM_HOOK(volatile_read, SIZE, kVolatileRead, true)      \
    MINILLM_HOOK(volatile_write, SIZE, kVolatileWrite, true)    \
    MINILLM_HOOK(unaligned_volatile_read, SIZE, kVolatileRead, false) \
    MINILLM_HOOK(unaligned_volatile_write, SIZE, kVolatileWrite, false)

extern "C" {
MINILLM_HOOKS(1)
MINILLM_HOOKS(2)
MINILLM_HOOKS(4)
MINILLM_HOOKS(8)
MINILLM_HOOKS(16)
void __tsan_read_range(void* address, unsigned long size) {
    serve(address, size, minillm_sim::kRead, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long size) {
    serve(address, size, minillm_sim::kWrite, false, __builtin_return_address(0));
}
// Copies of whole structures, by clang 15 and later.
void* __tsan_memcpy(void* to, const void* from, unsigned long size) {
    serve(from, size, minillm_sim::kRead, false, __builtin_return_address(0));
    serve(to, size, minillm_sim::kWrite, false, __builtin_return_address(0));
    return __builtin_memcpy(to, from, size);
}
void* __tsan_memset(void* to, int value, unsigned long size) {
    serve(to, size, minillm_sim::kWrite, false, __builtin_return_address(0));
    return __builtin_memset(to, value, size);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}

namespace {

// How the compiler passes a place, and a type: "'float [64]'".
struct Location {
    const char* file;
    unsigned line, column;
};
struct TypeName {
    uint16_t kind, info;
    char name[1];
};
struct OutOfBounds {
    Location place;
    const TypeName *array, *index;
};
struct Arithmetic {
    Location place;
    const TypeName* type;
};
struct Shift {
    Location place;
    const TypeName *left, *right;
};

// An operand of at most 64 bits; info has the binary logarithm of the bits, and 1 for a sign.
long long operand(const TypeName* type, void* value) {
    int unused = 64 - (1 << (type->info >> 1));
    auto bits = reinterpret_cast<uint64_t>(value);
    return unused > 0 && unused < 64 ? static_cast<long long>(bits << unused) >> unused : static_cast<long long>(bits);
}

// The kernel goes on with what the processor makes of it.
void note_overflow(void* data, void* left, const char* operation, void* right, const void* pc) {
    const TypeName* type = static_cast<Arithmetic*>(data)->type;
    char text[200];
    std::snprintf(text, sizeof text, "signed integer overflow: %lld %s %lld does not fit in %s", operand(type, left),
                  operation, operand(type, right), type->name);
    if (runner && runner->checker) runner->note(text, reinterpret_cast<uint64_t>(pc), 0, 0, -1);
}

}  // namespace

extern "C" void __ubsan_handle_out_of_bounds(void* data, void* index) {
    auto* fault = static_cast<OutOfBounds*>(data);
    char text[300];
    std::snprintf(text, sizeof text, "index %lld is beyond the bound of the array %s",
                  static_cast<long long>(reinterpret_cast<intptr_t>(index)), fault->array->name);
    minillm_sim_trap(text, fault->place.file, static_cast<int>(fault->place.line));
}

#define MINILLM_OVERFLOW(NAME, OPERATION)                                                 \
    extern "C" void __ubsan_handle_##NAME##_overflow(void* data, void* left, void* right) { \
        note_overflow(data, left, OPERATION, right, __builtin_return_address(0));           \
    }
MINILLM_OVERFLOW(add, "+")
MINILLM_OVERFLOW(sub, "-")
MINILLM_OVERFLOW(mul, "*")
extern "C" void __ubsan_handle_negate_overflow(void* data, void* value) {
    note_overflow(data, nullptr, "-", value, __builtin_return_address(0));
}
extern "C" void __ubsan_handle_shift_out_of_bounds(void* data, void*, void* distance) {
    auto* shift = static_cast<Shift*>(data);
    char text[200];
    std::snprintf(text, sizeof text, "a shift by %lld of %s", operand(shift->right, distance), shift->left->name);
    if (runner && runner->checker) runner->note(text, reinterpret_cast<uint64_t>(__builtin_return_address(0)), 0, 0, -1);
}

extern "C" void __ubsan_handle_divrem_overflow(void* data, void*, void*) {
    auto* place = static_cast<Location*>(data);
    minillm_sim_trap("integer division by zero", place->file, static_cast<int>(place->line));
}
