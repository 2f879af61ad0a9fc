#include "order.h"

#include <algorithm>

namespace minillm_sim {

Order::Order(unsigned thread_count)
    : thread_count(thread_count), clocks(thread_count * 32), wide(thread_count), narrow(thread_count), known(thread_count),
      all_known(thread_count) {}

uint32_t Order::start_block(unsigned long long block) {
    first_phase = ++phase;
    block_starts.push_back(phase);
    block_numbers.push_back(block);
    clocks.assign(clocks.size(), 0);
    for (unsigned thread = 0; thread < thread_count; ++thread) clocks[thread * 32 + thread % 32] = 1;
    wide.assign(thread_count, Fence{});
    narrow.assign(thread_count, Fence{});
    known.assign(thread_count, Known{});
    block_fence = {};
    block_known.clear();
    all_known.assign(thread_count, Known{});
    all_block_known.clear();
    in_phase = false;
    for (auto log = logs.begin(); log != logs.end();) log = log->first.second ? logs.erase(log) : std::next(log);
    return first_phase;
}

// Every thread then knows what each of them knew, and a fence of any of them is before what any of
// them does.
void Order::barrier() {
    if (in_phase) {
        Fence joined;
        for (unsigned thread = 0; thread < thread_count; ++thread) {
            merge(block_known, known[thread]);
            known[thread].clear();
            merge(all_block_known, all_known[thread]);
            all_known[thread].clear();
            if (wide[thread].id) {
                if (!joined.id) {
                    joined.id = ++fences;
                    joined.phase = phase;
                    joined.times = std::make_shared<std::vector<uint32_t>>(thread_count);
                }
                merge(joined, wide[thread], joined.id);
            }
            wide[thread] = narrow[thread] = {};
        }
        if (joined.id) block_fence = joined;
        in_phase = false;
    }
    ++phase;
}

// Lanes of the mask learn of each other what each of them knows, and begin a new time of their own.
void Order::sync_warp(unsigned warp, unsigned mask) {
    uint32_t joined[32] = {};
    Known all, followed;
    Fence fence, inner;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        unsigned thread = warp * 32 + lane;
        for (unsigned i = 0; i < 32; ++i) joined[i] = std::max(joined[i], clocks[thread * 32 + i]);
        if (!in_phase) continue;
        merge(all, known[thread]);
        merge(followed, all_known[thread]);
        if (wide[thread].id) merge(fence, wide[thread], fences + 1);
        if (narrow[thread].id) merge(inner, narrow[thread], fences + 1);
    }
    if (fence.id || inner.id) ++fences;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        unsigned thread = warp * 32 + lane;
        uint32_t* clock = &clocks[thread * 32];
        std::copy(joined, joined + 32, clock);
        ++clock[lane];
        if (!in_phase) continue;
        known[thread] = all;
        all_known[thread] = followed;
        wide[thread] = fence;
        narrow[thread] = inner;
    }
}

void Order::fence(unsigned thread, bool whole_device) {
    Fence made;
    made.id = ++fences;
    made.phase = phase;
    made.first = thread / 32 * 32;
    made.times = std::make_shared<std::vector<uint32_t>>(&clocks[thread * 32], &clocks[thread * 32] + 32);
    made.known = block_known;
    merge(made.known, known[thread]);
    (whole_device ? wide : narrow)[thread] = made;
    ++clocks[thread * 32 + thread % 32];
    in_phase = true;
}

void Order::read_sync(unsigned thread, uint64_t address, bool shared) {
    auto log = logs.find({address, shared});
    if (log == logs.end()) return;
    known[thread][log->first] = log->second.version;
    follow(all_known[thread], log->first, log->second.version);
    in_phase = true;
}

void Order::write_sync(unsigned thread, uint64_t address, bool shared) {
    const Fence& outer = wide[thread].id ? wide[thread] : block_fence;
    if (outer.id) release(thread, {address, shared}, outer, true);
    if (narrow[thread].id > outer.id) release(thread, {address, shared}, narrow[thread], false);
}

void Order::release(unsigned thread, const Place& place, const Fence& fence, bool whole_device) {
    Log& log = logs[place];
    if (log.last_block != first_phase) {
        log.last.clear();
        log.last_block = first_phase;
    }
    uint64_t& last = log.last[thread];
    if (last >= fence.id) return;
    last = fence.id;
    Release made{++log.version, uint16_t(thread), whole_device, fence};
    made.fence.known.erase(place);  // a thread that reads this version knows all earlier ones here
    if (!made.fence.known.empty() && (log.links.empty() || log.links.back().second != made.fence.known))
        log.links.emplace_back(made.version, made.fence.known);
    made.fence.known.clear();
    log.by_block[first_phase].push_back(made);
}

bool Order::ordered(const Access& before, const Access& now) const {
    if (before.phase <= all_before) return true;
    if (of_this_block(before)) {
        if (before.phase < now.phase || before.thread == now.thread) return true;
        if (before.thread / 32 == now.thread / 32 && clocks[now.thread * 32u + before.thread % 32u] >= before.time) return true;
    }
    return covered(before, now.thread);
}

// Adds a place up to a version, and what those knew who released there up to it, and so on.
void Order::follow(Known& into, const Place& place, uint32_t version) const {
    std::vector<std::pair<Place, uint32_t>> open{{place, version}};
    while (!open.empty()) {
        auto [next, up_to] = open.back();
        open.pop_back();
        auto by_all = all_block_known.find(next);
        uint32_t& already = into[next];
        uint32_t from = by_all == all_block_known.end() ? already : std::max(already, by_all->second);
        if (from >= up_to) continue;
        already = up_to;
        auto log = logs.find(next);
        if (log == logs.end()) continue;
        auto& links = log->second.links;
        for (auto link = links.rbegin(); link != links.rend() && link->first > from; ++link)
            if (link->first <= up_to) open.insert(open.end(), link->second.begin(), link->second.end());
    }
}

bool Order::covered(const Access& before, unsigned thread) const {
    if (all_block_known.empty() && all_known[thread].empty()) return false;
    uint32_t block = block_starts[block_of(before)];
    for (const Known* each : {&all_known[thread], &all_block_known})
        for (auto& [place, version] : *each) {
            auto log = logs.find(place);
            if (log != logs.end() && covers(log->second, version, before, block)) return true;
        }
    return false;
}

bool Order::covers(const Log& log, uint32_t version, const Access& before, uint32_t block) const {
    auto releases = log.by_block.find(block);
    if (releases == log.by_block.end()) return false;
    for (auto each = releases->second.rbegin(); each != releases->second.rend(); ++each) {  // the latest covers most
        const Release& release = *each;
        if (release.version > version) continue;
        if (!release.whole_device && block != first_phase) continue;
        const Fence& fence = release.fence;
        if (before.phase < fence.phase) return true;
        if (before.phase > fence.phase || before.thread < fence.first) continue;
        unsigned index = before.thread - fence.first;
        if (index < fence.times->size() && (*fence.times)[index] >= before.time) return true;
    }
    return false;
}

bool Order::told(const Access& before, unsigned thread, uint64_t address, bool shared) const {
    Place place{address, shared};
    uint32_t version = 0;
    for (const Known* each : {&block_known, &known[thread]}) {
        auto found = each->find(place);
        if (found != each->end()) version = std::max(version, found->second);
    }
    auto log = logs.find(place);
    if (!version || log == logs.end()) return false;
    auto releases = log->second.by_block.find(block_starts[block_of(before)]);
    if (releases == log->second.by_block.end()) return false;
    for (const Release& release : releases->second)
        if (release.version <= version && release.thread == before.thread) return true;
    return false;
}

uint32_t Order::block_of(const Access& access) const {
    auto after = std::upper_bound(block_starts.begin(), block_starts.end(), access.phase);
    return static_cast<uint32_t>(after - block_starts.begin()) - 1;
}

void Order::merge(Known& into, const Known& from) {
    for (auto& [place, version] : from) into[place] = std::max(into[place], version);
}

// Both are of the same phase; `from` is of one warp, `into` of the same one or of the block.
void Order::merge(Fence& into, const Fence& from, uint64_t id) {
    if (!into.id) {
        into = from;
        into.times = std::make_shared<std::vector<uint32_t>>(*from.times);
    } else {
        for (size_t i = 0; i < from.times->size() && from.first + i - into.first < into.times->size(); ++i) {
            uint32_t& time = (*into.times)[from.first + i - into.first];
            time = std::max(time, (*from.times)[i]);
        }
        merge(into.known, from.known);
    }
    into.id = id;
}

}  // namespace minillm_sim
