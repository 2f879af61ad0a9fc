// What the stand-ins for cuBLAS, cuRAND and cuSOLVER share: a handle with its stream, and calls
// that a stream carries out. The functions themselves are written by build.py from the table in
// signatures.py.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTER_MODE_HOST = 0, POINTER_MODE_DEVICE = 1, MAX_SLOTS = 24 };

typedef struct {
    void* stream;
    int math_mode, pointer_mode;
    unsigned long long seed, offset;  // of a generator of random numbers
} Handle;

// One argument: an integer or an address in the first eight bytes, else the bytes of a number.
typedef union {
    long long integer;
    void* address;
    double real;
    unsigned char bytes[16];
} Slot;

// A call with its arguments. calls.Call in Python is the same struct.
typedef struct {
    const char* name;
    int count, infos;        // infos: how many numbers the argument devInfo has
    int of_python;           // whether the first argument is the number of work that Python keeps
    int device_scalars;      // whether numbers that are passed by their address are on the device
    int* info;               // set to 0 before, or NULL
    unsigned long long seed, offset;
    Slot slots[MAX_SLOTS];
} Call;

// Hands a call to the stream. waits: whether the program gets a result at once. The answer is
// CUDA's error code.
int standin_call(const Handle* handle, const Call* call, int waits);

// The text on stderr, and `code`.
int standin_unable(int code, const char* name, const char* why);

// A number that the program passed by its address: a copy, or the address where it is the device's.
static inline Slot standin_number(const Handle* handle, const void* address, size_t size) {
    Slot slot = {0};
    if (handle->pointer_mode == POINTER_MODE_DEVICE)
        slot.address = (void*)address;
    else
        memcpy(slot.bytes, address, size);
    return slot;
}
