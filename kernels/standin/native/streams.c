// Streams and events. Work is carried out when it is asked for, so every stream is always empty and an event has passed as
// soon as it is recorded; what remains of a stream is its place in a capture (graphs.c).
#include <time.h>

#include "standin.h"

enum { EVENT_MAGIC = 0x45564e54, BLOCKING_SYNC = 1, DISABLE_TIMING = 2, INTERPROCESS = 4, NON_BLOCKING = 1 };
#define LEGACY ((void*)1)
#define PER_THREAD ((void*)2)

static Stream legacy;
static _Thread_local Stream per_thread;
static Stream* streams;  // those that programs have made
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int standin_is_legacy(const Stream* stream) { return stream == &legacy; }

Stream* standin_stream(void* handle) {
    if (!handle || handle == LEGACY) return &legacy;
    if (handle == PER_THREAD) return &per_thread;
    pthread_mutex_lock(&lock);
    Stream* found = streams;
    while (found && found != handle) found = found->next;
    pthread_mutex_unlock(&lock);
    return found;
}

static int stream_of(void* handle, Stream** stream) {
    *stream = standin_stream(handle);
    return *stream ? SUCCESS : standin_refused(cudaErrorInvalidResourceHandle, "a stream that is not there, or no longer");
}

int standin_cudaStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
    if (flags & ~(unsigned)NON_BLOCKING) return standin_failed(cudaErrorInvalidValue);
    Stream* made = calloc(1, sizeof(Stream));
    if (!made) return standin_failed(cudaErrorMemoryAllocation);
    made->flags = flags;
    made->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;  // cudaDeviceGetStreamPriorityRange: 0 to -5
    pthread_mutex_lock(&lock);
    made->next = streams;
    streams = made;
    pthread_mutex_unlock(&lock);
    *stream = made;
    return SUCCESS;
}
int standin_cudaStreamCreate(void** stream) { return standin_cudaStreamCreateWithPriority(stream, 0, 0); }
int standin_cudaStreamCreateWithFlags(void** stream, unsigned flags) {
    return standin_cudaStreamCreateWithPriority(stream, flags, 0);
}
int standin_cudaStreamDestroy(void* handle) {
    Stream* stream;
    int code = stream_of(handle, &stream);
    if (code || stream == &legacy || stream == &per_thread) return code ? code : standin_failed(cudaErrorInvalidResourceHandle);
    standin_forget_stream(stream);
    pthread_mutex_lock(&lock);
    for (Stream** link = &streams; *link; link = &(*link)->next) {
        if (*link != stream) continue;
        *link = stream->next;
        break;
    }
    pthread_mutex_unlock(&lock);
    free(stream);
    return SUCCESS;
}
int standin_cudaStreamGetPriority(void* handle, int* priority) {
    Stream* stream;
    int code = stream_of(handle, &stream);
    if (!code) *priority = stream->priority;
    return code;
}
int standin_cudaStreamGetFlags(void* handle, unsigned* flags) {
    Stream* stream;
    int code = stream_of(handle, &stream);
    if (!code) *flags = stream->flags;
    return code;
}
int standin_cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, SUCCESS; }

int standin_cudaStreamSynchronize(void* handle) {
    Stream* stream;
    int code = stream_of(handle, &stream);
    standin_counted.waits++;
    if (!code) code = standin_wait(stream, "cudaStreamSynchronize");
    return code ? code : standin_broken();
}
int standin_cudaStreamQuery(void* handle) {
    Stream* stream;
    int code = stream_of(handle, &stream);
    if (!code) code = standin_wait(stream, "cudaStreamQuery");
    return code ? code : standin_broken();
}
int standin_cudaDeviceSynchronize(void) {
    standin_counted.waits++;
    int code = standin_wait(NULL, "cudaDeviceSynchronize");
    return code ? code : standin_broken();
}

// ----------------------------------------------------------------------------------------------------- host functions

typedef struct {
    void (*function)(void*);
    void* data;
} HostFunction;

static int call(void* what) {
    const HostFunction* host = what;
    standin_in_host_function++;
    host->function(host->data);
    standin_in_host_function--;
    return SUCCESS;
}
int standin_cudaLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    const HostFunction host = {function, data};
    return standin_submit(stream, "host function", call, &host, sizeof host);
}
int standin_cudaStreamAddCallback(void* handle, void (*function)(void*, int, void*), void* data, UNUSED unsigned flags) {
    Stream* stream;
    int code = stream_of(handle, &stream);
    if (!code) code = standin_wait(stream, "cudaStreamAddCallback");
    if (code || (code = standin_broken())) return code;
    standin_in_host_function++;
    function(handle, SUCCESS, data);
    standin_in_host_function--;
    return SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------- events

static int event_of(Event* event) {
    if (event && event->magic == EVENT_MAGIC) return SUCCESS;
    return standin_refused(cudaErrorInvalidResourceHandle, "an event that is not there");
}

int standin_cudaEventCreateWithFlags(void** event, unsigned flags) {
    standin_counted.events++;
    if (flags & INTERPROCESS) return standin_refused(cudaErrorNotSupported, "events between processes (IPC) are not there");
    if (flags & ~(unsigned)(BLOCKING_SYNC | DISABLE_TIMING)) return standin_failed(cudaErrorInvalidValue);
    Event* made = calloc(1, sizeof(Event));
    if (!made) return standin_failed(cudaErrorMemoryAllocation);
    made->magic = EVENT_MAGIC;
    made->flags = flags;
    *event = made;
    return SUCCESS;
}
int standin_cudaEventCreate(void** event) { return standin_cudaEventCreateWithFlags(event, 0); }
int standin_cudaEventDestroy(Event* event) {
    int code = event_of(event);
    if (code) return code;
    event->magic = 0;
    free(event);
    return SUCCESS;
}
int standin_cudaEventRecordWithFlags(Event* event, void* handle, UNUSED unsigned flags) {
    Stream* stream;
    int code = event_of(event);
    if (code || (code = stream_of(handle, &stream))) return code;
    Capture* capture;
    if ((code = standin_take(handle, &capture))) return code;
    event->recorded = 1;
    if (capture) return standin_record_captured(stream, event);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->milliseconds = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
    event->capture = 0;
    return SUCCESS;
}
int standin_cudaEventRecord(Event* event, void* handle) { return standin_cudaEventRecordWithFlags(event, handle, 0); }

static int passed(Event* event, const char* name) {
    int code = event_of(event);
    if (code) return code;
    if (event->capture) return standin_refused(cudaErrorCapturedEvent, "%s: the event was last recorded in a capture", name);
    return standin_broken();
}
int standin_cudaEventSynchronize(Event* event) { return passed(event, "cudaEventSynchronize"); }
int standin_cudaEventQuery(Event* event) {
    int code = passed(event, "cudaEventQuery");
    return code ? code : standin_unsafe("cudaEventQuery");
}
int standin_cudaEventElapsedTime(float* milliseconds, Event* from, Event* to) {
    int code = passed(from, "cudaEventElapsedTime");
    if (code || (code = passed(to, "cudaEventElapsedTime"))) return code;
    if (!from->recorded || !to->recorded || (from->flags | to->flags) & DISABLE_TIMING)
        return standin_refused(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime: an event without a time");
    *milliseconds = (float)(to->milliseconds - from->milliseconds);
    return SUCCESS;
}
int standin_cudaEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) {
    return standin_cudaEventElapsedTime(milliseconds, from, to);
}
int standin_cudaStreamWaitEvent(void* handle, Event* event, UNUSED unsigned flags) {
    Stream* stream;
    int code = event_of(event);
    if (code || (code = stream_of(handle, &stream))) return code;
    return event->capture || stream->capture ? standin_wait_captured(stream, event) : standin_broken();
}
