// Whose memory an address is in: the arrays of a launch and the variables of its library.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime.h"

namespace minillm_sim {

struct Launch;

enum RegionKind { kArgument, kVariable, kConstants };  // constants: string literals, tables of virtual functions, ...

// As Python describes it; launch_types.py has the same struct.
struct Region {
    uint64_t address, size, gap;  // gap: how far from the region an address still counts as a slip over its end
    const char* name;             // "argument 0 (y)"
    int element, kind, writable;
    int slack;                    // bytes on either side that nothing else lies in: touching them does no harm
    int unwritten;                // whether nothing was written there before the launch
};

class MemoryMap {
  public:
    explicit MemoryMap(const Launch& launch);
    const std::vector<Region>& regions() const { return sorted; }
    int holding(uint64_t address) const;  // the number of the region in which the address lies, or -1
    int near(uint64_t address) const;     // or in whose gap it lies, the nearer one of two

    bool in_slack(uint64_t address, uint64_t size) const;

    // In words: "out-of-bounds write of argument 0 (y), element 1024 (it has 1024)".
    void describe(char* text, unsigned long length, uint64_t address, int kind) const;

  private:
    int before(uint64_t address) const;  // the last region that begins at the address or below it, or -1
    std::vector<Region> sorted;          // by address
};

inline bool is_read(int kind) { return kind == kRead || kind == kVolatileRead; }

}  // namespace minillm_sim
