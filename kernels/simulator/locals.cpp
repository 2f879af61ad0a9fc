// The values that the threads of one warp have when they come to a line, as text for Python:
// name, 0x1e, tokens each with 0x1f behind it, 0x1d. A token is a letter for its kind, and its
// value.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#include "runtime.h"
#include "scheduler.h"

namespace {

// What --break asks for, and what was seen of it.
struct Breakpoint {
    bool armed = false;
    unsigned block[3], warp, hit;
    unsigned times[32];     // how often each lane came to the line
    std::string text[32];   // its variables at the time asked for
    std::atomic<bool> elsewhere{false};
    unsigned other[6];      // a block and a thread of another warp that came there first
} breakpoint;
thread_local std::string* written = nullptr;

unsigned number_in_block(const minillm_sim::Running& r) {
    return r.thread.x + r.block_size.x * (r.thread.y + r.block_size.y * r.thread.z);
}

void put(char kind, const char* value) {
    *written += kind;
    *written += value;
    *written += '\x1f';
}

// Locals are compiled with -ftrivial-auto-var-init=pattern, whose bytes are 0xfe (g++) or 0xaa
// (clang++; of floating point 0xff).
bool was_never_set(const void* value, size_t size) {
    auto* bytes = static_cast<const unsigned char*>(value);
    if (size < 4 || (bytes[0] != 0xfe && bytes[0] != 0xaa && bytes[0] != 0xff)) return false;
#ifndef __clang__
    if (bytes[0] != 0xfe) return false;
#endif
    for (size_t i = 1; i < size; ++i)
        if (bytes[i] != bytes[0]) return false;
#ifdef __clang__
    return bytes[0] == 0xaa;
#endif
    return true;
}

double of_half(uint16_t bits) {
    int exponent = bits >> 10 & 31;
    double value = exponent == 31 ? (bits & 1023 ? NAN : INFINITY)
                   : exponent     ? std::ldexp(1024 + (bits & 1023), exponent - 25)
                                  : std::ldexp(bits & 1023, -24);
    return bits & 0x8000 ? -value : value;
}

template <class T> T as(const void* value) {
    T result;
    std::memcpy(&result, value, sizeof result);
    return result;
}

void put_number(char kind, const void* value, size_t size) {
    char text[64] = "";
    if (was_never_set(value, size)) {
        put('?', "");
        return;
    }
    long long whole = size == 1 ? as<int8_t>(value) : size == 2 ? as<int16_t>(value) : size == 4 ? as<int32_t>(value) : as<int64_t>(value);
    if (kind == 'b') {
        unsigned char byte = as<unsigned char>(value);
        if (byte > 1) return put('?', "");
        std::snprintf(text, sizeof text, "%s", byte ? "true" : "false");
    } else if (kind == 'h') {
        uint32_t bits = uint32_t(as<uint16_t>(value)) << 16;
        std::snprintf(text, sizeof text, "%.4g", static_cast<double>(as<float>(&bits)));
    } else if (kind == 'f' && size == 2) {
        std::snprintf(text, sizeof text, "%.5g", of_half(as<uint16_t>(value)));
    } else if (kind == 'f') {
        std::snprintf(text, sizeof text, "%.17g", size == 4 ? static_cast<double>(as<float>(value)) : as<double>(value));
        kind = size == 4 ? 'f' : 'd';
    } else if (kind == 'u') {
        uint64_t all = size == 8 ? ~0ull : (1ull << 8 * size) - 1;
        std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(static_cast<uint64_t>(whole) & all));
    } else {
        std::snprintf(text, sizeof text, "%lld", whole);
    }
    put(kind == 'f' || kind == 'd' ? (size == 2 ? 't' : kind) : 't', text);
}

}  // namespace

extern "C" {

void minillm_sim_break_at(const unsigned* block, unsigned warp, unsigned hit) {
    std::memcpy(breakpoint.block, block, sizeof breakpoint.block);
    breakpoint.warp = warp;
    breakpoint.hit = hit;
    breakpoint.elsewhere = false;
    for (int lane = 0; lane < 32; ++lane) breakpoint.times[lane] = 0, breakpoint.text[lane].clear();
    breakpoint.armed = true;
}
void minillm_sim_break_off() { breakpoint.armed = false; }
unsigned minillm_sim_break_times(unsigned lane) { return breakpoint.times[lane]; }
const char* minillm_sim_break_text(unsigned lane) { return breakpoint.text[lane].c_str(); }
const unsigned* minillm_sim_break_elsewhere() { return breakpoint.elsewhere ? breakpoint.other : nullptr; }

bool minillm_sim_stops() {
    const minillm_sim::Running* r = minillm_sim::running;
    if (!breakpoint.armed || !r) return false;
    unsigned block[3] = {r->block.x, r->block.y, r->block.z}, number = number_in_block(*r);
    if (std::memcmp(block, breakpoint.block, sizeof block) || number / 32 != breakpoint.warp) {
        if (!breakpoint.elsewhere.exchange(true)) {
            unsigned other[6] = {block[0], block[1], block[2], r->thread.x, r->thread.y, r->thread.z};
            std::memcpy(breakpoint.other, other, sizeof other);
        }
        return false;
    }
    if (++breakpoint.times[number % 32] != breakpoint.hit) return false;
    written = &breakpoint.text[number % 32];
    return true;
}
void minillm_sim_local(const char* name) {
    if (!written->empty()) *written += '\x1d';
    *written += name;
    *written += '\x1e';
}
void minillm_sim_put_text(const char* text) { put('n', text); }
void minillm_sim_put(char kind, const void* value, minillm_sim::size_t size, int parts) {
    char text[32];
    if (kind == 's') {
        std::snprintf(text, sizeof text, "(%lu bytes)", static_cast<unsigned long>(size));
        put('t', text);
        return;
    }
    if (parts > 1) put('n', "[");
    for (int i = 0; i < parts; ++i)
        put_number(kind, static_cast<const char*>(value) + size / static_cast<size_t>(parts) * static_cast<size_t>(i),
                   size / static_cast<size_t>(parts));
    if (parts > 1) put('n', "]");
}
void minillm_sim_put_pointer(const void* address, minillm_sim::size_t element) {
    if (was_never_set(&address, sizeof address)) {
        put('?', "");
        return;
    }
    char text[96];
    uint64_t at = reinterpret_cast<uint64_t>(address);
    uint64_t shared = minillm_sim::runner ? minillm_sim::runner->shared_start() : 0;
    std::snprintf(text, sizeof text, "%llu:%lu:%llu", static_cast<unsigned long long>(at),
                  static_cast<unsigned long>(element), static_cast<unsigned long long>(shared));
    put('p', text);
}

}  // extern "C"
