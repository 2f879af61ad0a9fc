// Calls of the libraries beside CUDA's runtime: handed to their stream, carried out by the hook, where there is one.
#include "calls.h"

#include "standin.h"

static int (*call_hook)(const Call*);
void standin_set_call_hook(int (*hook)(const Call*)) { call_hook = hook; }

static int run(void* what) {
    const Call* call = what;
    if (call->info) memset(call->info, 0, call->infos * sizeof(int));
    return call_hook ? standin_after_hook(call_hook(call)) : SUCCESS;
}

// Work of Python's is kept by Python until no graph can ask for it: the hook hears of that.
static void (*forget_hook)(long long number);
void standin_set_forget_hook(void (*hook)(long long)) { forget_hook = hook; }
static void drop(void* what) {
    const Call* call = what;
    if (call->of_python && forget_hook) forget_hook(call->slots[0].integer);
    free(what);
}

static int submit(void* stream, const Call* call) {
    Capture* capture;
    int code = standin_take(stream, &capture);
    if (code) return code;
    if (!capture) return standin_ended(run((void*)call));
    Call* copy = malloc(sizeof *copy);
    if (copy) *copy = *call;
    return standin_note(capture, stream, call->name, run, copy, drop);
}

int standin_call(const Handle* handle, const Call* call, int waits) {
    standin_counted.library_calls++;
    int code = waits ? standin_wait(standin_stream(handle->stream), call->name) : SUCCESS;
    standin_counted.waits += waits;
    return code ? code : submit(handle->stream, call);
}

int standin_unable(int code, const char* name, const char* why) {
    fprintf(stderr, "stand-in: %s: %s\n", name, why);
    return code;
}
