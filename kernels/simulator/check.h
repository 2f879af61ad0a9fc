// Check mode: what every access to memory is compared with.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "order.h"
#include "runtime.h"
#include "shadow.h"

namespace minillm_sim {

class BlockRunner;
struct Thread;

class Checker {
  public:
    // other: of an other block that is there at the same time; what global memory holds is one.
    Checker(BlockRunner& runner, Checker* other);
    void start_block(unsigned long long block);
    void resume_block(unsigned long long block);  // behind a barrier of the grid
    // Does not return if the memory is not the thread's to touch, or the address is misaligned.
    void access(uint64_t address, uint64_t size, int kind, bool aligned, const void* pc);
    void text(const char* text, uint64_t size, const void* pc);  // reads a text up to its end, `size` bytes at most
    void let_see();              // the thread at hand gives up its turn, or comes to its next access
    bool hides() const { return common->hidden.size; }
    // Bytes of shared memory that an asynchronous copy is going to write, and that it has come to.
    void take_off(uint64_t offset, uint64_t size);
    void touch_down(uint64_t offset, uint64_t size);
    void settle(Thread& thread);  // what it read it has used

    Order& order() { return common->order; }

  private:
    bool in_own_memory(uint64_t address, uint64_t size, int kind) const;
    bool access_shared(uint64_t address, uint64_t size, int kind, bool aligned, const Access& access);
    void access_global(uint64_t address, uint64_t size, int kind, bool aligned, const Access& access);
    void check_cell(Cell& cell, uint64_t address, bool shared, int kind, const Access& access);
    void hide(const Access& writer, uint64_t address, const Access& access);
    void watch_doubt(Thread& thread, uint64_t address, int kind, const void* pc);
    void guess(Thread& thread, uint64_t address, const Access& access, const Access& other);
    void watch_guess(Thread& thread, uint64_t address, int kind);
    void settle_guess(Thread& thread);
    void remember_reader(Cell& cell, const Access& access);
    void watch_waiting(Thread& thread, uint64_t address, uint64_t size, int kind, const void* pc);
    void note(const char* what, const Access& access, const Access* other);
    [[noreturn]] void stop(const char* what, const Access& access);

    // Of all blocks.
    struct Common {
        explicit Common(unsigned thread_count) : order(thread_count) {}
        Order order;
        std::vector<Shadow> global;  // [region]

        // Volatile memory by which threads signal without a fence. Whether a thread waits for such
        // a value or uses it as it is can be seen by hiding it once, from the load behind a hook up
        // to the next one: who waits comes back to the same place.
        std::unordered_map<uint64_t, uint64_t> values_before;  // [address]: what the last volatile write replaced
        std::unordered_set<uint64_t> signals;                  // addresses that a thread waited at
        struct {
            uint64_t address = 0, value = 0, size = 0;  // size 0: none
        } hidden;
    };

    BlockRunner& runner;
    std::shared_ptr<Common> common;
    Shadow shared;
    uint32_t began = 0;  // the phase in which the block began
    std::vector<uint8_t> under_way;  // [byte of shared memory]: how many asynchronous copies; made at the first one
    uint64_t copies_under_way = 0;   // bytes
    uint64_t shared_start = 0, access_size = 0;  // access_size: of the access at hand, 8 bytes at most
};

}  // namespace minillm_sim
