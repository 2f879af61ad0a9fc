#include "arena.h"

#include <sys/mman.h>

#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace minillm_sim {

namespace {

// 16 GiB: an int times 4 bytes, and an int times 16 bytes up to a thousand million. Addresses cost
// nothing until touched, but a process has 128 TiB of them at most, and `ulimit -v` may allow less.
constexpr size_t kGaps[] = {size_t{16} << 30, size_t{64} << 20, size_t{1} << 20, size_t{64} << 10};
constexpr size_t kMostReserved = size_t{24} << 40;
constexpr size_t kMostKept = size_t{64} << 20;  // bytes given back that are not returned to the system

std::mutex mutex;
std::map<size_t, std::vector<Pages>> kept;  // [bytes]
size_t kept_bytes = 0, reserved = 0;

void release(const Pages& pages) {
    munmap(pages.start - pages.gap, pages.size + 2 * pages.gap);
    reserved -= pages.size + 2 * pages.gap;
}

char* reserve_locked(size_t bytes, size_t* gap) {
    for (size_t wanted : kGaps) {
        size_t all = bytes + 2 * wanted;
        if (wanted == kGaps[0] && reserved + all > kMostReserved) continue;
        void* start = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start == MAP_FAILED) continue;
        reserved += all;
        *gap = wanted;
        return static_cast<char*>(start) + wanted;
    }
    return nullptr;
}

}  // namespace

char* reserve(size_t bytes, size_t* gap) {
    std::lock_guard<std::mutex> lock(mutex);
    return reserve_locked(bytes, gap);
}

Pages take_pages(size_t bytes) {
    size_t size = (bytes + kPage - 1) / kPage * kPage;
    std::lock_guard<std::mutex> lock(mutex);
    auto found = kept.find(size);
    if (found != kept.end() && !found->second.empty()) {
        Pages pages = found->second.back();
        found->second.pop_back();
        kept_bytes -= size;
        return pages;
    }
    Pages pages;
    pages.size = size;
    pages.start = reserve_locked(size, &pages.gap);
    if (!pages.start) throw std::bad_alloc();
    if (mprotect(pages.start, size, PROT_READ | PROT_WRITE)) {
        release(pages);
        throw std::bad_alloc();
    }
    return pages;
}

void give_pages(const Pages& pages) {
    std::lock_guard<std::mutex> lock(mutex);
    if (kept_bytes + pages.size > kMostKept) return release(pages);
    kept[pages.size].push_back(pages);
    kept_bytes += pages.size;
}

}  // namespace minillm_sim

// What memory.py calls.
extern "C" void* minillm_sim_take_pages(uint64_t bytes, uint64_t* size, uint64_t* gap) {
    try {
        minillm_sim::Pages pages = minillm_sim::take_pages(bytes);
        *size = pages.size;
        *gap = pages.gap;
        return pages.start;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
extern "C" void minillm_sim_give_pages(void* start, uint64_t size, uint64_t gap) {
    minillm_sim::Pages pages;
    pages.start = static_cast<char*>(start);
    pages.size = size;
    pages.gap = gap;
    minillm_sim::give_pages(pages);
}
