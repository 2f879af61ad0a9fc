#include "instruction.h"

#include <cstring>

namespace minillm_sim {

#if defined(__x86_64__)

namespace {

// Numbers of the registers in an instruction, as <sys/ucontext.h> names them.
constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// What comes before the byte ModRM: prefixes and the operation. x and b: the fourth bits of index
// and base.
struct Head {
    const unsigned char* modrm;
    int x = 0, b = 0;
};

bool read_head(const unsigned char* at, Head* head) {
    while (*at == 0x66 || *at == 0xf2 || *at == 0xf3 || *at == 0x2e || *at == 0x3e || *at == 0x36 || *at == 0x26) ++at;
    if (*at == 0xc5) {  // VEX of two bytes, then the operation
        head->modrm = at + 3;
        return true;
    }
    if (*at == 0xc4) {  // VEX of three bytes
        head->x = !(at[1] >> 6 & 1), head->b = !(at[1] >> 5 & 1);
        head->modrm = at + 4;
        return true;
    }
    if ((*at & 0xf0) == 0x40) {  // REX
        head->x = *at >> 1 & 1, head->b = *at & 1;
        ++at;
    }
    if (*at != 0x0f) {
        head->modrm = at + 1;
        return true;
    }
    head->modrm = at + (at[1] == 0x38 || at[1] == 0x3a ? 3 : 2);
    return true;
}

int32_t displacement(const unsigned char* at, int size) {
    if (size == 1) return static_cast<signed char>(*at);
    int32_t value = 0;
    if (size == 4) std::memcpy(&value, at, 4);
    return value;
}

}  // namespace

bool operand_address(const ucontext_t& context, uint64_t* address) {
    auto* registers = context.uc_mcontext.gregs;
    auto value = [&](int number) { return static_cast<uint64_t>(registers[kRegisters[number]]); };
    Head head;
    if (!read_head(reinterpret_cast<const unsigned char*>(registers[REG_RIP]), &head)) return false;
    int mode = *head.modrm >> 6, base = *head.modrm & 7;
    const unsigned char* next = head.modrm + 1;
    if (mode == 3 || (mode == 0 && base == 5)) return false;  // no memory, or relative to the instruction
    int size = mode == 1 ? 1 : mode == 2 ? 4 : 0;
    *address = 0;
    if (base == 4) {
        int index = (*next >> 3 & 7) | head.x << 3, scale = *next >> 6;
        base = *next++ & 7;
        if (index != 4) *address += value(index) << scale;
        if (mode == 0 && base == 5) {
            *address += static_cast<uint64_t>(static_cast<int64_t>(displacement(next, 4)));
            return true;
        }
    }
    *address += value(base | head.b << 3) + static_cast<uint64_t>(static_cast<int64_t>(displacement(next, size)));
    return true;
}

#else

bool operand_address(const ucontext_t&, uint64_t*) { return false; }

#endif

}  // namespace minillm_sim
