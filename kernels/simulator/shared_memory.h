// Shared memory: the thread-local block of a kernel's library, kept by us and not by the C library,
// so that an access that strays from it faults and reaches nothing else.
#pragma once

#include <cstdint>

#include "arena.h"

namespace minillm_sim {

constexpr uint64_t kSharedAlignment = 1024;  // of dynamic shared memory, as the linker's stub asks for it

// For the calling OS thread: the thread-local block of `size` bytes lies at the end of these pages.
// Nothing: the C library's.
void use_shared_memory(const Pages& pages, uint64_t size);

}  // namespace minillm_sim
