// A thread that does not come back by itself, in a loop without a call: a timer's signal takes the
// processor from it, and another signal gives it back later, in the state in which it was.
#pragma once

#include <signal.h>
#include <time.h>
#include <ucontext.h>

#include <cstdint>
#include <vector>

namespace minillm_sim {

double processor_seconds();  // that the calling OS thread has had

constexpr int kTickSignal = SIGURG;  // ignored by default: one that comes late does no harm

// The registers of an interrupted thread.
class Registers {
  public:
    bool valid = false;
    void save(const ucontext_t& context);
    void restore(ucontext_t& context);  // and forgets them
    uint64_t program_counter() const;
    uint64_t stack_pointer() const;
    uint64_t hash() const;

  private:
    std::vector<char> general, floating;
};

uint64_t program_counter(const ucontext_t& context);
uint64_t stack_pointer(const ucontext_t& context);
bool fault_writes(const ucontext_t& context);  // whether the access that faulted was a write, where that is known
uint64_t hash_bytes(const void* bytes, uint64_t size, uint64_t seed);

// Whether an interrupted thread can go on later. Elsewhere it can only be ended.
#if defined(__x86_64__)
constexpr bool kResumable = true;
#else
constexpr bool kResumable = false;
#endif

// Sends kTickSignal to the calling OS thread whenever it has used so much processor time, as long
// as it lives.
class Ticks {
  public:
    Ticks();
    ~Ticks();
    Ticks(const Ticks&) = delete;
    void every(long milliseconds);

  private:
    timer_t timer;
    bool made;
};

}  // namespace minillm_sim
