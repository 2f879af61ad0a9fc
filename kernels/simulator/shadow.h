// Check mode: who touched which bytes last. The unit of a race is the bytes touched, so that two
// fields of one struct are two places; cells are as large as all accesses so far allow, and are
// divided when a smaller access comes.
#pragma once

#include <cstdint>
#include <vector>

#include "order.h"

namespace minillm_sim {

// Two readers are remembered: the second one is from another block or warp than the first, if there
// was one.
struct Cell {
    Access writer, reader, other_reader;
};

class Shadow {
  public:
    Shadow(uint64_t size, uint64_t unit) : size(size), unit(unit) {}

    // Calls visit(cell) for every cell of the bytes from `offset` on.
    template <class Visit>
    void each(uint64_t offset, uint64_t count, Visit visit) {
        if (cells.empty()) cells.resize(size / unit + 1);
        while (unit > 1 && (offset | count) % unit) divide();
        for (uint64_t i = offset / unit; i < (offset + count) / unit; ++i) visit(cells[i]);
    }

  private:
    void divide() {
        std::vector<Cell> halves(cells.size() * 2);
        for (uint64_t i = 0; i < halves.size(); ++i) halves[i] = cells[i / 2];
        cells.swap(halves);
        unit /= 2;
    }

    uint64_t size, unit;
    std::vector<Cell> cells;  // made at the first access
};

}  // namespace minillm_sim
