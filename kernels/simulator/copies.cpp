// Asynchronous copies into shared memory (cp.async and what is built on it). A copy lands where its
// thread waits for it: until then the destination holds what it held before, and check mode reports
// every access to it.
#include <cstdio>
#include <cstring>

#include "scheduler.h"

namespace minillm_sim {

void BlockRunner::start_copy(void* to, const void* from, uint64_t size, uint64_t given, const void* pc) {
    if (size != 4 && size != 8 && size != 16) fail_at(reinterpret_cast<uint64_t>(pc), "an asynchronous copy of other than 4, 8 or 16 bytes");
    if (given > size) fail_at(reinterpret_cast<uint64_t>(pc), "an asynchronous copy that reads more bytes than it writes");
    Thread& thread = current();
    Copy copy{reinterpret_cast<uint64_t>(to), from, size, given, thread.copy_group, pc};
    uint64_t offset = copy.to - shared_start(), source = reinterpret_cast<uint64_t>(from);
    if (copy.to % size || (given && source % size))
        fail_at(reinterpret_cast<uint64_t>(pc), "misaligned asynchronous copy: both addresses are multiples of its size");
    if (!in_shared(offset, size)) {
        char text[200];
        describe_shared(text, sizeof text, offset, kWrite);
        fail_at(reinterpret_cast<uint64_t>(pc), text);
    }
    if (given) access(source, given, kRead, false, pc);
    access(copy.to, size, kWrite, false, pc);
    if (checker) checker->take_off(offset, size);
    thread.copies.push_back(copy);
}

void BlockRunner::commit_copies() { ++current().copy_group; }

// keep: of the groups that are committed, how many of the latest may be under way still. -1: none
// may, and what is not committed lands, too.
void BlockRunner::wait_for_copies(int keep) {
    Thread& thread = current();
    size_t left = 0;
    for (size_t i = 0; i < thread.copies.size(); ++i) {
        const Copy copy = thread.copies[i];
        if (keep < 0 || copy.group + static_cast<unsigned>(keep) < thread.copy_group)
            land(copy);
        else
            thread.copies[left++] = copy;
    }
    thread.copies.resize(left);
}

void BlockRunner::land(const Copy& copy) {
    if (checker) {
        checker->touch_down(copy.to - shared_start(), copy.size);
        checker->access(copy.to, copy.size, kWrite, false, copy.pc);
    }
    auto* to = reinterpret_cast<char*>(copy.to);
    std::memcpy(to, copy.from, copy.given);
    std::memset(to + copy.given, 0, copy.size - copy.given);
}

}  // namespace minillm_sim

using minillm_sim::runner;

extern "C" {
void minillm_sim_copy_start(void* to, const void* from, minillm_sim::size_t size, minillm_sim::size_t given) {
    runner->start_copy(to, from, size, given, __builtin_return_address(0));
}
void minillm_sim_copy_commit() { runner->commit_copies(); }
void minillm_sim_copy_wait(int keep) { runner->wait_for_copies(keep); }

// Addresses of the shared window: the distance from the start of the block's shared memory.
minillm_sim::size_t minillm_sim_shared_offset(const void* address) {
    return reinterpret_cast<uint64_t>(address) - runner->shared_start();
}
void* minillm_sim_shared_pointer(minillm_sim::size_t offset) {
    uint64_t within = uint32_t(offset), size = runner->launch().shared_size;
    // beyond it: an address that faults, and that is said to lie outside of shared memory
    return reinterpret_cast<void*>(runner->shared_start() + (within < size ? within : size + within % 4096));
}
int minillm_sim_is_shared(const void* address) { return minillm_sim_shared_offset(address) < runner->launch().shared_size; }
}
