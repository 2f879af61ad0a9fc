// Memory for a kernel with nothing beside it: an access that strays far from an array, from shared
// memory or from a stack faults, in every mode, and never reaches what belongs to Python.
#pragma once

#include <cstddef>
#include <cstdint>

namespace minillm_sim {

constexpr size_t kPage = 4096;

// Pages to read and write, with `gap` bytes of addresses on either side that fault when touched.
struct Pages {
    char* start = nullptr;
    size_t size = 0, gap = 0;
};

// Throws std::bad_alloc. What the pages hold is not defined: those that were given back are handed
// out again.
Pages take_pages(size_t bytes);
void give_pages(const Pages& pages);

// Addresses that all fault when touched, with as wide a gap as there is room for; null if there is
// none.
char* reserve(size_t bytes, size_t* gap);

}  // namespace minillm_sim
