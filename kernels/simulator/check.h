// Check mode: what every access to memory is compared with.
#pragma once

#include <cstdint>
#include <vector>

#include "order.h"
#include "runtime.h"
#include "shadow.h"

namespace minillm_sim {

class BlockRunner;
struct Thread;

class Checker {
  public:
    explicit Checker(BlockRunner& runner);
    void start_block();
    // Does not return if the memory is not the thread's to touch, or the address is misaligned.
    void access(uint64_t address, uint64_t size, int kind, bool aligned, const void* pc);
    void told(const char* text, uint64_t size, const void* pc);  // reads a text up to its end, `size` bytes at most

    Order order;

  private:
    bool in_own_memory(uint64_t address, uint64_t size, int kind) const;
    bool access_shared(uint64_t address, uint64_t size, int kind, bool aligned, const Access& access);
    void access_global(uint64_t address, uint64_t size, int kind, bool aligned, const Access& access);
    void check_cell(Cell& cell, uint64_t address, bool shared, int kind, const Access& access);
    bool lost_update(const Cell& cell, uint64_t address, bool shared, const Access& access) const;
    void remember_reader(Cell& cell, const Access& access) const;
    void watch_waiting(Thread& thread, uint64_t address, uint64_t size, int kind, const void* pc);
    void note(const char* what, const Access& access, const Access* other);
    [[noreturn]] void stop(const char* what, const Access& access);

    BlockRunner& runner;
    std::vector<Shadow> global;  // [region]
    Shadow shared;
    uint64_t shared_start = 0;
};

}  // namespace minillm_sim
