#include "profile.h"

#include <algorithm>

#include "scheduler.h"

namespace minillm_sim {

namespace {

constexpr uint64_t kSector = 32, kBank = 4, kBanks = 32;

// How many different blocks of `unit` bytes the lanes touch.
uint64_t touched(const std::vector<uint64_t>& addresses, uint64_t size, uint64_t unit) {
    std::vector<uint64_t> blocks;
    for (uint64_t address : addresses)
        for (uint64_t block = address / unit; block <= (address + size - 1) / unit; ++block) blocks.push_back(block);
    std::sort(blocks.begin(), blocks.end());
    return std::unique(blocks.begin(), blocks.end()) - blocks.begin();
}

// The largest number of different words in one bank: how often shared memory has to be asked for
// these words.
uint64_t conflicts(std::vector<uint64_t> words) {
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    uint64_t in_bank[kBanks] = {}, most = 0;
    for (uint64_t word : words) most = std::max(most, ++in_bank[word % kBanks]);
    return most;
}

// Accesses of 8 bytes are served by half warps, those of 16 bytes by quarters; neighbouring parts
// go together if they then still touch every bank once at most.
uint64_t wavefronts(const uint64_t* address, uint32_t lanes, uint64_t size) {
    unsigned part = size <= 4 ? 32 : size <= 8 ? 16 : 8;
    uint64_t total = 0;
    std::vector<uint64_t> together;
    for (unsigned first = 0; first < 32; first += part) {
        std::vector<uint64_t> words;
        for (unsigned lane = first; lane < first + part; ++lane)
            if (lanes >> lane & 1)
                for (uint64_t word = address[lane] / kBank; word <= (address[lane] + size - 1) / kBank; ++word)
                    words.push_back(word);
        std::vector<uint64_t> joined = together;
        joined.insert(joined.end(), words.begin(), words.end());
        if (conflicts(joined) <= 1) {
            together = joined;
        } else {
            total += conflicts(together);
            together = words;
        }
    }
    return total + conflicts(together);
}

}  // namespace

void Profiler::start_block(unsigned long long block) {
    const Launch& launch = runner.launch();
    watching = launch.max_watched && block == launch.watched_block;
}

void Profiler::access(uint64_t address, uint64_t size, int kind, const void* pc) {
    const Launch& launch = runner.launch();
    uint64_t shared_start = runner.shared_start();
    bool shared = address - shared_start < launch.shared_size;
    for (int i = 0; i < launch.flag_count && shared; ++i)
        if (address - shared_start - launch.flags[i] < 8) return;
    int region = shared ? -1 : runner.map().near(address);
    bool global = region >= 0 && runner.map().regions()[region].kind == kArgument;
    if (!shared && !global) return;  // the thread's own: local arrays, constants
    unsigned index = static_cast<unsigned>(&runner.current() - runner.threads.data()), lane = index % 32;
    if (warps.size() <= index / 32) warps.resize(index / 32 + 1);
    Place& place = warps[index / 32][reinterpret_cast<uint64_t>(pc) << 2 | unsigned(kind)];
    place.size = size;
    place.kind = kind;
    uint32_t time = place.times[lane]++;
    if (place.instructions.size() <= time) place.instructions.resize(time + 1);
    Instruction& instruction = place.instructions[time];
    instruction.address[lane] = address;
    instruction.lanes |= 1u << lane;
}

void Profiler::finish_warp(unsigned warp) {
    if (warp >= warps.size()) return;
    for (auto& [key, place] : warps[warp]) {
        for (const Instruction& instruction : place.instructions) count(warp, key, place, instruction);
        place.instructions.clear();
        std::fill(std::begin(place.times), std::end(place.times), 0);
    }
}

void Profiler::finish_all() {
    for (unsigned warp = 0; warp < warps.size(); ++warp) finish_warp(warp);
}

void Profiler::count(unsigned warp, uint64_t key, const Place& place, const Instruction& instruction) {
    if (!instruction.lanes) return;
    std::vector<uint64_t> addresses;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (instruction.lanes >> lane & 1) addresses.push_back(instruction.address[lane]);
    int shared = addresses[0] - runner.shared_start() < runner.launch().shared_size;
    ProfileRecord& record = records[{key, shared}];
    uint64_t bytes = touched(addresses, place.size, 1), unit = shared ? kBank * kBanks : kSector;
    uint64_t ideal = (bytes + unit - 1) / unit;
    uint64_t actual = shared ? wavefronts(instruction.address, instruction.lanes, place.size)
                             : touched(addresses, place.size, kSector);
    record.pc = key >> 2;
    record.shared = shared;
    record.kind = place.kind;
    ++record.instructions;
    record.bytes += bytes;
    record.ideal += ideal;
    record.actual += actual;
    if (watching) watch(warp, {key >> 2, shared, place.kind, 1, bytes, actual, ideal}, place, instruction);
}

void Profiler::watch(unsigned warp, const ProfileRecord& cost, const Place& place, const Instruction& instruction) {
    auto [found, first] = watched.try_emplace({warp, cost.pc << 2 | unsigned(cost.kind), cost.shared});
    WarpAccess& access = found->second;
    access.ever |= instruction.lanes;
    ++access.times;
    if (!first) return;
    access.pc = cost.pc;
    access.kind = cost.kind;
    access.shared = cost.shared;
    access.size = int(place.size);
    access.warp = int(warp);
    access.lanes = instruction.lanes;
    access.actual = cost.actual;
    access.ideal = cost.ideal;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(instruction.lanes >> lane & 1)) continue;
        uint64_t address = instruction.address[lane];
        access.address[lane] = address;
        access.start[lane] = cost.shared ? runner.shared_start() : runner.map().regions()[runner.map().near(address)].address;
    }
}

void Profiler::add(const Profiler& other) {
    for (auto& [key, record] : other.records) {
        auto [found, first] = records.try_emplace(key, record);
        if (first) continue;
        found->second.instructions += record.instructions;
        found->second.bytes += record.bytes;
        found->second.actual += record.actual;
        found->second.ideal += record.ideal;
    }
    watched.insert(other.watched.begin(), other.watched.end());
}

void Profiler::fill_launch() {
    Launch& launch = runner.launch();
    for (auto& [key, record] : records) {
        if (launch.profiled == launch.max_profiled) break;
        record.pc -= launch.library;
        launch.profile[launch.profiled++] = record;
    }
    for (auto& [key, access] : watched) {
        if (launch.watched == launch.max_watched) return;
        access.pc -= launch.library;
        launch.watched_accesses[launch.watched++] = access;
    }
}

}  // namespace minillm_sim
