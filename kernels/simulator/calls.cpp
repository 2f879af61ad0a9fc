// The C library's functions that a kernel's code calls, by the linker's --wrap: what would end
// Python is a report, and what reads or writes memory through a pointer is looked at in check mode.
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "heap.h"
#include "scheduler.h"

using minillm_sim::runner;

namespace {

void touch(const void* address, size_t size, int kind, const void* pc) {
    if (runner && size) runner->access(reinterpret_cast<uint64_t>(address), size, kind, false, pc);
}

[[noreturn]] void end(const char* text, const void* pc) {
    if (!runner || !runner->in_thread) std::abort();
    runner->fail_at(reinterpret_cast<uint64_t>(pc), text);
}

// The texts that a format takes are read by the C library, whose accesses are not observed.
void look_at_texts(const char* format, va_list arguments, const void* pc) {
    if (!runner || !runner->checker) return;
    runner->checker->text(format, ~0ull, pc);
    for (const char* at = format; (at = std::strchr(at, '%')); ++at) {
        int precision = -1;
        bool precise = false, wide = false;
        for (++at; *at && std::strchr("-+ #0123456789.*hlLqjzt", *at); ++at) {
            if (*at == '.') precise = true, precision = 0;
            if (*at >= '0' && *at <= '9' && precise) precision = precision * 10 + (*at - '0');
            if (*at == '*') {
                int given = va_arg(arguments, int);
                if (precise) precision = given;
            }
            wide |= *at == 'L';
        }
        if (!*at) return;
        if (std::strchr("eEfFgGaA", *at)) {
            if (wide)
                (void)va_arg(arguments, long double);
            else
                (void)va_arg(arguments, double);
        } else if (*at == 's') {
            runner->checker->text(va_arg(arguments, const char*), precision < 0 ? ~0ull : uint64_t(precision), pc);
        } else if (*at != '%') {
            (void)va_arg(arguments, long long);
        }
    }
}

// Put together first and written in one piece: printf itself would hold a lock while it follows a
// wild pointer.
int print(const char* format, va_list arguments, const void* pc) {
    va_list texts, again;
    va_copy(texts, arguments);
    va_copy(again, arguments);
    look_at_texts(format, texts, pc);
    std::vector<char> line(256);
    int length = std::vsnprintf(line.data(), line.size(), format, arguments);
    if (length >= static_cast<int>(line.size())) {
        line.resize(static_cast<size_t>(length) + 1);
        std::vsnprintf(line.data(), line.size(), format, again);
    }
    if (length > 0) std::fwrite(line.data(), 1, static_cast<size_t>(length), stdout);
    va_end(texts);
    va_end(again);
    if (runner && runner->in_thread) runner->give_way();
    return length;
}

}  // namespace

#define MINILLM_PC __builtin_return_address(0)

extern "C" {

[[noreturn]] void __wrap_abort() { end("abort() was called", MINILLM_PC); }
[[noreturn]] void __wrap_exit(int) { end("exit() was called", MINILLM_PC); }
[[noreturn]] void __wrap__exit(int) { end("_exit() was called", MINILLM_PC); }
[[noreturn]] void __wrap__Exit(int) { end("_Exit() was called", MINILLM_PC); }
[[noreturn]] void __wrap_quick_exit(int) { end("quick_exit() was called", MINILLM_PC); }
int __wrap_raise(int) { end("raise() was called", MINILLM_PC); }
[[noreturn]] void __wrap___assert_fail(const char* condition, const char* file, unsigned line, const char*) {
    char text[300];
    std::snprintf(text, sizeof text, "assertion failed: %s", condition);
    minillm_sim_trap(text, file, static_cast<int>(line));
}
[[noreturn]] void __wrap___stack_chk_fail() { end("it wrote beyond an array among its local variables", MINILLM_PC); }
void* __wrap___cxa_allocate_exception(size_t) { end("an exception was thrown", MINILLM_PC); }
[[noreturn]] void __wrap___cxa_throw(void*, void*, void (*)(void*)) { end("an exception was thrown", MINILLM_PC); }
[[noreturn]] void __wrap___cxa_rethrow() { end("an exception was thrown", MINILLM_PC); }
[[noreturn]] void __wrap___cxa_pure_virtual() { end("a pure virtual function was called", MINILLM_PC); }
[[noreturn]] void __wrap__ZSt9terminatev() { end("std::terminate() was called", MINILLM_PC); }

void* __wrap_memcpy(void* to, const void* from, size_t size) {
    touch(from, size, minillm_sim::kRead, MINILLM_PC);
    touch(to, size, minillm_sim::kWrite, MINILLM_PC);
    return std::memcpy(to, from, size);
}
void* __wrap_memmove(void* to, const void* from, size_t size) {
    touch(from, size, minillm_sim::kRead, MINILLM_PC);
    touch(to, size, minillm_sim::kWrite, MINILLM_PC);
    return std::memmove(to, from, size);
}
void* __wrap_memset(void* to, int value, size_t size) {
    touch(to, size, minillm_sim::kWrite, MINILLM_PC);
    return std::memset(to, value, size);
}
int __wrap_memcmp(const void* one, const void* other, size_t size) {
    touch(one, size, minillm_sim::kRead, MINILLM_PC);
    touch(other, size, minillm_sim::kRead, MINILLM_PC);
    return std::memcmp(one, other, size);
}

int __wrap_vprintf(const char* format, va_list arguments) { return print(format, arguments, MINILLM_PC); }
int __wrap_printf(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = print(format, arguments, MINILLM_PC);
    va_end(arguments);
    return length;
}

void* __wrap_malloc(size_t size) { return minillm_sim::heap_take(size); }
void* __wrap_calloc(size_t count, size_t size) {
    void* block = minillm_sim::heap_take(count * size);
    if (block) std::memset(block, 0, count * size);
    return block;
}
void __wrap_free(void* block) {
    if (block && !minillm_sim::heap_give(block)) end("free() of memory that malloc() did not give", MINILLM_PC);
}
void* __wrap__Znwm(size_t size) { return minillm_sim::heap_take(size); }
void* __wrap__Znam(size_t size) { return minillm_sim::heap_take(size); }
void __wrap__ZdlPv(void* block) {
    if (block && !minillm_sim::heap_give(block)) end("delete of memory that new did not give", MINILLM_PC);
}
void __wrap__ZdaPv(void* block) { __wrap__ZdlPv(block); }
void __wrap__ZdlPvm(void* block, size_t) { __wrap__ZdlPv(block); }
void __wrap__ZdaPvm(void* block, size_t) { __wrap__ZdlPv(block); }
}
