// Many tensors in one launch: their addresses stand in a table, and blocks are dealt out to them in pieces.
//
// A launch costs a few microseconds, and a model has hundreds of tensors, most of them smaller than what the GPU does in
// that time.

#pragma once

const int PIECE = 4096;  // elements that one block works on; tensor_list.py has the same number

struct Piece {
    int tensor;
    long long start, end;  // elements of that tensor
};

// layout (2, tensors): the sizes, then the first block of each tensor. The block's tensor is the last one whose first
// block is not beyond it, found by bisection; a tensor of size 0 has no block.
__device__ inline Piece piece_of_block(const long long* layout, int tensors) {
    const long long* first_block = layout + tensors;
    int low = 0, high = tensors - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (first_block[middle] <= blockIdx.x) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    long long start = (blockIdx.x - first_block[low]) * PIECE, size = layout[low];
    Piece piece = {low, start, start + PIECE < size ? start + PIECE : size};
    return piece;
}
