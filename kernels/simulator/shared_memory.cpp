#include "shared_memory.h"

namespace minillm_sim {

static __thread char* shared_block __attribute__((tls_model("initial-exec"))) = nullptr;

void use_shared_memory(const Pages& pages, uint64_t size) {
    shared_block = pages.start ? pages.start + (pages.size - size) / kSharedAlignment * kSharedAlignment : nullptr;
}

}  // namespace minillm_sim

// How position-independent code on x86-64 finds a thread-local variable; kernels are linked so that
// they come here.
struct TlsIndex {
    unsigned long module, offset;
};
extern "C" void* __tls_get_addr(TlsIndex* index);
extern "C" void* __wrap___tls_get_addr(TlsIndex* index) {
    if (minillm_sim::shared_block) return minillm_sim::shared_block + index->offset;
    return __tls_get_addr(index);
}
