// How q, k, v, y and their gradients lie in memory. Each is a matrix (T, D) for every head of every
// row of the batch, (B, H, T, D) or, of keys and values, (B, H_kv, T, D). The D numbers of a token
// lie side by side; where the next token, head and row of the batch begin is free. So the kernels
// read q, k and v where one product has written them side by side, (B, T, 3, H, D), and write y as
// the next product reads it, (B, T, H, D): nothing is copied to put heads in front of tokens.

#pragma once

// Distances in numbers: to the next row of the batch, head, token.
struct Steps {
    long long batch, head;
    int token;
};

// arguments.py has the same fields. Forward uses the first four.
struct Layout {
    Steps q, k, v, y, dy, dq, dk, dv;
};

// The matrix of one head, where `head` counts the heads over the batch: b heads + h.
template <typename Number>
__device__ inline Number* matrix_of(Number* first, const Steps& steps, int head, int heads) {
    return first + head / heads * steps.batch + head % heads * steps.head;
}
