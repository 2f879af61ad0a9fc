// The memory that an x86-64 instruction refers to, where the processor does not say it: a fault for
// a misaligned address.
#pragma once

#include <ucontext.h>

#include <cstdint>

namespace minillm_sim {

// False if the instruction is not understood.
bool operand_address(const ucontext_t& context, uint64_t* address);

}  // namespace minillm_sim
