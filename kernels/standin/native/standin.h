// What the files of the stand-in for libcuda.so.1 share. Names that begin with standin_cuda are put
// in the place of CUDA's runtime functions by attach.py, names that begin with cu are the driver's;
// all others are ours.
#pragma once
#define _GNU_SOURCE
#include <driver_types.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED __attribute__((unused))
enum { SUCCESS = cudaSuccess };

// ---------------------------------------------------------------------------------------------------- errors (errors.c)

// Notes a call's error where cudaGetLastError finds it, and hands it back.
int standin_failed(int code);
// The same, with the reason on stderr.
int standin_refused(int code, const char* format, ...) __attribute__((format(printf, 2, 3)));
// The error of a kernel that has ended the context, as CUDA keeps it, else 0;
// cudaErrorNotPermitted in a host function.
int standin_broken(void);
// Notes a variable of a module as memory of the device (memory.c).
int standin_variable(void* address, size_t size);
// What a hook answered; a Ctrl-C that came in the meantime is raised where the program goes on.
int standin_after_hook(int code);
// Notes how a kernel ended: after an illegal address and the like every later call fails as well.
int standin_ended(int code);
// Why the hook refused a launch, in the words that CuPy's exception is to have.
void standin_set_reason(const char* text);
const char* standin_error_name(int code);
const char* standin_error_text(int code);
extern _Thread_local int standin_in_host_function;

// -------------------------------------------------------------------------------------------------- what is counted

// recording.COUNTED has the same names in the same order.
typedef struct {
    atomic_long launches, products, allocations, waits, to_device, to_host, memsets, events, allocated_bytes, graph_launches,
        graph_nodes, library_calls;
} Counted;
extern Counted standin_counted;

// --------------------------------------------------------------------------------- streams (streams.c), graphs (graphs.c)

typedef struct Capture Capture;
typedef struct Stream {
    unsigned flags;
    int priority;
    Capture* capture;      // which captures this stream, or NULL
    int place;             // among the streams of its capture
    struct Stream* next;   // in the list of streams there are
} Stream;

enum { MAX_CAPTURED_STREAMS = 32 };
// How much of each stream of a capture has to be done before: a vector clock.
typedef struct {
    unsigned done[MAX_CAPTURED_STREAMS];
} Clock;

typedef struct {
    unsigned magic, flags;
    int recorded;
    double milliseconds;
    long capture;          // the number of the capture that it was last recorded in, or 0
    Clock clock;
} Event;

// The stream of a handle, NULL where there is none.
Stream* standin_stream(void* handle);
int standin_is_legacy(const Stream* stream);

// Before work is given to a stream: *capture is what has to note it, NULL where it is to be
// carried out now.
int standin_take(void* stream, Capture** capture);
// Notes work. what: from malloc; `drop` frees it, by default free().
int standin_note(Capture* capture, void* stream, const char* name, int (*run)(void* what), void* what, void (*drop)(void*));
// Carries work out, or notes a copy of `what` where the stream is captured.
int standin_submit(void* stream, const char* name, int (*run)(void* what), const void* what, size_t size);
// Before a call that waits for a stream (NULL: for all): not allowed where it is captured.
int standin_wait(const Stream* stream, const char* name);
// Before a call that CUDA calls unsafe during captures in the modes "global" and "thread local".
int standin_unsafe(const char* name);
// An allocation that lives as long as the graph that is captured.
void standin_keep(Capture* capture, void* address);
int standin_record_captured(Stream* stream, Event* event);
int standin_wait_captured(Stream* stream, Event* event);
int standin_capture_lives(long number);
void standin_forget_stream(Stream* stream);
extern _Thread_local int standin_replaying;

// ---------------------------------------------------------------------------------------------------- memory (memory.c)

enum { TOTAL_GIGABYTES = 80 };
void standin_release(void* address);

// -------------------------------------------------------------------------------------------------- devices (devices.c)

typedef struct {
    int capability, multiprocessors, threads, blocks, shared_kilobytes, l2_kilobytes;  // threads, blocks, shared: of one SM
    const char* like;
} Gpu;
extern const Gpu* standin_gpu;
int standin_largest_shared(void);  // bytes that a block may ask for
