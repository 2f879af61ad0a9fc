// Many tensors in one launch: a table has their addresses, and each block gets a piece of PIECE
// elements of one tensor.
//
// A launch costs a few microseconds, and a model has hundreds of tensors, most of them smaller than
// what the GPU does in that time.

#pragma once

struct Piece {
    int tensor;
    long long start, end;  // elements of that tensor
};

// layout (2, tensors): the sizes, then the first block of each tensor. The block's tensor is the
// last one whose first block is not beyond it, found by bisection; a tensor of size 0 has no block.
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
