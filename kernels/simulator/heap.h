// What malloc() and new give to a kernel: blocks with nothing beside them, which stay until they
// are given back.
#pragma once

#include <cstddef>
#include <cstdint>

namespace minillm_sim {

void* heap_take(size_t size);  // null if there is no room
bool heap_give(void* block);   // false if it is none
bool heap_holds(uint64_t address, uint64_t size);

}  // namespace minillm_sim
