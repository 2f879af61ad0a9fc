#include "preempt.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace minillm_sim {

#if defined(__x86_64__)

namespace {

// <asm/sigcontext.h>: the kernel says behind the 512 bytes of FXSAVE how long the whole state is.
constexpr uint32_t kExtendedMagic = 0x46505853;
constexpr size_t kLegacyBytes = 512, kMagicOffset = 464;

size_t floating_bytes(const void* state) {
    uint32_t magic, size;
    std::memcpy(&magic, static_cast<const char*>(state) + kMagicOffset, 4);
    std::memcpy(&size, static_cast<const char*>(state) + kMagicOffset + 4, 4);
    return magic == kExtendedMagic ? size : kLegacyBytes;
}

}  // namespace

uint64_t program_counter(const ucontext_t& context) { return uint64_t(context.uc_mcontext.gregs[REG_RIP]); }
uint64_t stack_pointer(const ucontext_t& context) { return uint64_t(context.uc_mcontext.gregs[REG_RSP]); }

// Bit 1 of the page fault's error code.
bool fault_writes(const ucontext_t& context) { return context.uc_mcontext.gregs[REG_ERR] & 2; }

void Registers::save(const ucontext_t& context) {
    auto* registers = reinterpret_cast<const char*>(context.uc_mcontext.gregs);
    auto* state = reinterpret_cast<const char*>(context.uc_mcontext.fpregs);
    general.assign(registers, registers + sizeof context.uc_mcontext.gregs);
    floating.assign(state, state + floating_bytes(state));
    valid = true;
}

void Registers::restore(ucontext_t& context) {
    std::memcpy(context.uc_mcontext.gregs, general.data(), general.size());
    std::memcpy(context.uc_mcontext.fpregs, floating.data(), floating.size());
    valid = false;
}

uint64_t Registers::program_counter() const { return reinterpret_cast<const uint64_t*>(general.data())[REG_RIP]; }
uint64_t Registers::stack_pointer() const { return reinterpret_cast<const uint64_t*>(general.data())[REG_RSP]; }

#else

uint64_t program_counter(const ucontext_t& context) {
#if defined(__aarch64__)
    return context.uc_mcontext.pc;
#else
    (void)context;
    return 0;
#endif
}
uint64_t stack_pointer(const ucontext_t& context) {
#if defined(__aarch64__)
    return context.uc_mcontext.sp;
#else
    (void)context;
    return 0;
#endif
}
bool fault_writes(const ucontext_t&) { return true; }
void Registers::save(const ucontext_t&) {}
void Registers::restore(ucontext_t&) {}
uint64_t Registers::program_counter() const { return 0; }
uint64_t Registers::stack_pointer() const { return 0; }

#endif

uint64_t Registers::hash() const {
    return hash_bytes(floating.data(), floating.size(), hash_bytes(general.data(), general.size(), 1));
}

uint64_t hash_bytes(const void* bytes, uint64_t size, uint64_t seed) {
    auto* data = static_cast<const char*>(bytes);
    uint64_t hash = seed ^ size;
    for (uint64_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        std::memcpy(&word, data + i, size - i < 8 ? size - i : 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 32;
    }
    return hash;
}

double processor_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

Ticks::Ticks() {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kTickSignal;
    event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
    made = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0;
}

Ticks::~Ticks() {
    if (made) timer_delete(timer);
}

void Ticks::every(long milliseconds) {
    itimerspec interval{};
    interval.it_value.tv_nsec = interval.it_interval.tv_nsec = milliseconds * 1000000;
    if (made) timer_settime(timer, 0, &interval, nullptr);
}

}  // namespace minillm_sim
