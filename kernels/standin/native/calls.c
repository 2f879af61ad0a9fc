// Calls of the libraries beside CUDA's runtime: handed to their stream, carried out by the hook, where there is one.
#include "calls.h"

#include "standin.h"

static int (*call_hook)(const Call*);
void standin_set_call_hook(int (*hook)(const Call*)) { call_hook = hook; }

static int run(void* what) {
    const Call* call = what;
    if (call->info) memset(call->info, 0, call->infos * sizeof(int));
    return call_hook ? call_hook(call) : SUCCESS;
}

int standin_call(const Handle* handle, const Call* call, int waits) {
    standin_counted.library_calls++;
    int code = waits ? standin_wait(standin_stream(handle->stream), call->name) : SUCCESS;
    standin_counted.waits += waits;
    return code ? code : standin_submit(handle->stream, call->name, run, call, sizeof *call);
}

int standin_unable(int code, const char* name, const char* why) {
    fprintf(stderr, "stand-in: %s: %s\n", name, why);
    return code;
}
