// Which keys a query sees, for one score and for a whole tile of scores. Query i sees key j if both
// are inside of the text, j <= i where causal, and j >= starts_i (starts.cuh). Most tiles lie
// wholly on one side of these borders: they are computed without a look at single scores, or not at
// all.

#pragma once

#include "starts.cuh"

struct Mask {
    const int* starts;  // of the row of the batch, or null
    int time, causal;

    __device__ bool sees(int i, int j) const {
        return i < time && j < time && (!causal || j <= i) && j >= first_key_of(starts, i, time);
    }
    // No query of i ... i + queries - 1 sees a key of j ... j + keys - 1. Since starts_i never
    // decreases, the first query sees the farthest back.
    __device__ bool hides_all(int i, int queries, int j, int keys) const {
        return i >= time || j >= time || (causal && j > i + queries - 1) || j + keys <= first_key_of(starts, i, time);
    }
    // Every query sees every key.
    __device__ bool hides_none(int i, int queries, int j, int keys) const {
        int last = i + queries - 1;
        return last < time && j + keys <= time && (!causal || j + keys - 1 <= i) && first_key_of(starts, last, time) <= j;
    }
};
