#include "heap.h"

#include <atomic>
#include <map>
#include <mutex>
#include <new>

#include "arena.h"

namespace minillm_sim {

namespace {

struct Block {
    Pages pages;
    uint64_t size;
};

std::mutex blocks_mutex;
std::map<uint64_t, Block> blocks;  // [address]
std::atomic<size_t> block_count{0};

}  // namespace

// At the end of its pages, so that what runs over the end faults.
void* heap_take(size_t size) {
    try {
        Pages pages = take_pages(size ? size : 1);
        char* block = pages.start + (pages.size - size) / 16 * 16;
        std::lock_guard<std::mutex> lock(blocks_mutex);
        blocks[reinterpret_cast<uint64_t>(block)] = {pages, size};
        ++block_count;
        return block;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

bool heap_give(void* block) {
    std::lock_guard<std::mutex> lock(blocks_mutex);
    auto found = blocks.find(reinterpret_cast<uint64_t>(block));
    if (found == blocks.end()) return false;
    give_pages(found->second.pages);
    blocks.erase(found);
    --block_count;
    return true;
}

bool heap_holds(uint64_t address, uint64_t size) {
    if (!block_count) return false;
    std::lock_guard<std::mutex> lock(blocks_mutex);
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) return false;
    --after;
    return address + size <= after->first + after->second.size;
}

}  // namespace minillm_sim
