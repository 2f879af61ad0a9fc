#include "map.h"

#include <algorithm>
#include <cstdio>

#include "scheduler.h"

namespace minillm_sim {

MemoryMap::MemoryMap(const Launch& launch) : sorted(launch.regions, launch.regions + launch.region_count) {
    std::sort(sorted.begin(), sorted.end(), [](const Region& a, const Region& b) { return a.address < b.address; });
}

int MemoryMap::before(uint64_t address) const {
    auto after = std::upper_bound(sorted.begin(), sorted.end(), address,
                                  [](uint64_t value, const Region& region) { return value < region.address; });
    return static_cast<int>(after - sorted.begin()) - 1;
}

int MemoryMap::holding(uint64_t address) const {
    int found = before(address);
    return found >= 0 && address - sorted[found].address < sorted[found].size ? found : -1;
}

int MemoryMap::near(uint64_t address) const {
    int low = before(address), high = low + 1;
    uint64_t below = ~0ull, above = ~0ull;
    if (low >= 0) below = address - std::min(address, sorted[low].address + sorted[low].size);
    if (high < static_cast<int>(sorted.size())) above = sorted[high].address - address;
    if (low >= 0 && below <= above && below < sorted[low].gap) return low;
    return above <= below && above <= (above == ~0ull ? 0 : sorted[high].gap) ? high : -1;
}

bool MemoryMap::in_slack(uint64_t address, uint64_t size) const {
    int found = near(address);
    if (found < 0) return false;
    const Region& region = sorted[found];
    return address + region.slack >= region.address && address + size <= region.address + region.size + region.slack;
}

void MemoryMap::describe(char* text, unsigned long length, uint64_t address, int kind) const {
    const char* what = is_read(kind) ? "read" : "write";
    int found = near(address);
    if (found < 0 || sorted[found].kind == kConstants) {
        std::snprintf(text, length, "access to address 0x%llx, which belongs to no array",
                      static_cast<unsigned long long>(address));
        return;
    }
    const Region& region = sorted[found];
    auto distance = static_cast<long long>(address - region.address), element = static_cast<long long>(region.element);
    long long index = distance >= 0 ? distance / element : -((-distance + element - 1) / element);
    auto size = static_cast<long long>(region.size) / element;
    if (region.kind == kArgument)
        std::snprintf(text, length, "out-of-bounds %s of %s, element %lld (it has %lld)", what, region.name, index, size);
    else
        std::snprintf(text, length, "out-of-bounds %s of %s, byte %lld (it has %lld bytes)", what, region.name, index, size);
}

}  // namespace minillm_sim
