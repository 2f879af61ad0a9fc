// ldmatrix: matrices of 8 x 8 16-bit values, a row of which each lane names the address.
#pragma once

namespace minillm_sim {

struct MatrixLoad {
    unsigned* registers;
    const void* row;
};

template <int kCount, bool kTransposed>
void load_matrices(void** operands, unsigned) {
    for (int lane = 0; lane < 32; ++lane)
        for (int m = 0; m < kCount; ++m) {
            unsigned short half[2];
            for (int i = 0; i < 2; ++i) {
                int row = kTransposed ? 2 * (lane % 4) + i : lane / 4, column = kTransposed ? lane / 4 : 2 * (lane % 4) + i;
                auto* address = static_cast<const char*>(static_cast<MatrixLoad*>(operands[8 * m + row])->row);
                __builtin_memcpy(&half[i], address + 2 * column, 2);
            }
            static_cast<MatrixLoad*>(operands[lane])->registers[m] = half[0] | static_cast<unsigned>(half[1]) << 16;
        }
}

}  // namespace minillm_sim
