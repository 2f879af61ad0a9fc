// Packed documents and windows: token i sees the keys j with starts_i <= j <= i
// (minillm/layers/attention.py). starts (B, T), or null where every document begins at token 0.
// Along a row of the batch starts_i never decreases, so the first query of a tile has the smallest
// one: tiles of keys before it are skipped, and for a tile of keys all queries from the first on
// whose starts_i lies behind it.

#pragma once

// The starts of the row of the batch that `head` = b H + h belongs to.
__device__ inline const int* starts_of(const int* starts, int head, int heads, int time) {
    return starts ? starts + head / heads * time : starts;
}

// The first key that query i sees. Queries beyond the end see all: nothing of them is stored.
__device__ inline int first_key_of(const int* starts, int i, int time) { return starts && i < time ? starts[i] : 0; }
