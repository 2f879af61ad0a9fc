// Stream capture and graphs. While a stream is captured its work is noted with copies of its arguments; a graph is the list
// of that work, in the order in which it was asked for, which is one of the orders that its dependencies allow.
//
// CUDA C++ Programming Guide, "CUDA Graphs", "Stream capture", has the rules: which call is an error, which error, and that
// an error ends the capture. Between streams, events carry vector clocks, so that work that was not joined is found.
#include "standin.h"

enum { GLOBAL, THREAD_LOCAL, RELAXED };
enum { ACTIVE = 1, INVALIDATED = 2 };

typedef struct {
    const char* name;
    int (*run)(void* what);
    void* what;
    void (*drop)(void* what);
} Node;
typedef struct {
    atomic_int users;  // the graph and what was instantiated from it
    size_t count, room, kept_count;
    Node* nodes;
    void** kept;  // allocations that were captured
} Graph;
struct Capture {
    long number;
    int mode, broken, streams;
    pthread_t thread;
    Stream *origin, *members[MAX_CAPTURED_STREAMS];
    Clock clocks[MAX_CAPTURED_STREAMS];
    Graph* graph;
    Capture* next;
};

static atomic_int active;  // captures; without any, nothing here costs time
static Capture* captures;
static long last_number;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  // of all captures and what is noted in them
_Thread_local int standin_replaying;

// -------------------------------------------------------------------------------------------------------- what is noted

static int broken_by(Capture* capture, int code, const char* name) {
    capture->broken = 1;
    return standin_refused(code, "%s: %s", name, standin_error_text(code));
}

// A capture that the legacy stream would have to wait for.
static Capture* blocking_capture(void) {
    for (Capture* capture = captures; capture; capture = capture->next)
        for (int i = 0; i < capture->streams; i++)
            if (capture->members[i] && !(capture->members[i]->flags & cudaStreamNonBlocking)) return capture;
    return NULL;
}

int standin_take(void* handle, Capture** capture) {
    *capture = NULL;
    int code = standin_broken();
    if (code) return code;
    Stream* stream = standin_stream(handle);
    if (!stream) return standin_refused(cudaErrorInvalidResourceHandle, "a stream that is not there, or no longer");
    if (!atomic_load(&active)) return SUCCESS;
    pthread_mutex_lock(&lock);
    Capture* blocking = standin_is_legacy(stream) ? blocking_capture() : NULL;
    if (blocking)
        code = broken_by(blocking, cudaErrorStreamCaptureImplicit, "work for the legacy stream");
    else if (stream->capture && stream->capture->broken)
        code = standin_failed(cudaErrorStreamCaptureInvalidated);
    else
        *capture = stream->capture;
    pthread_mutex_unlock(&lock);
    return code;
}

static int append(Graph* graph, Node node) {
    if (graph->count == graph->room) {
        size_t room = graph->room ? 2 * graph->room : 64;
        Node* nodes = realloc(graph->nodes, room * sizeof(Node));
        if (!nodes) return cudaErrorMemoryAllocation;
        graph->nodes = nodes;
        graph->room = room;
    }
    graph->nodes[graph->count++] = node;
    return SUCCESS;
}

int standin_note(Capture* capture, void* handle, const char* name, int (*run)(void*), void* what, void (*drop)(void*)) {
    const Node node = {name, run, what, drop ? drop : free};
    if (!what) return standin_failed(cudaErrorMemoryAllocation);
    pthread_mutex_lock(&lock);
    int code = append(capture->graph, node);
    int place = standin_stream(handle)->place;
    capture->clocks[place].done[place]++;
    pthread_mutex_unlock(&lock);
    if (code) node.drop(what);
    return standin_failed(code);
}

int standin_submit(void* stream, const char* name, int (*run)(void*), const void* what, size_t size) {
    Capture* capture;
    int code = standin_take(stream, &capture);
    if (code) return code;
    if (!capture) return standin_ended(run((void*)what));
    void* copy = malloc(size);
    if (copy) memcpy(copy, what, size);
    return standin_note(capture, stream, name, run, copy, NULL);
}

void standin_keep(Capture* capture, void* address) {
    pthread_mutex_lock(&lock);
    Graph* graph = capture->graph;
    void** kept = realloc(graph->kept, (graph->kept_count + 1) * sizeof(void*));
    if (kept) graph->kept = kept, kept[graph->kept_count++] = address;
    pthread_mutex_unlock(&lock);
}

// ---------------------------------------------------------------------------------------------------- what is forbidden

int standin_wait(const Stream* stream, const char* name) {
    if (!atomic_load(&active)) return SUCCESS;
    pthread_mutex_lock(&lock);
    int code = SUCCESS;
    Capture* blocking = stream && standin_is_legacy(stream) ? blocking_capture() : NULL;
    if (!stream)  // the whole device
        for (Capture* capture = captures; capture; capture = capture->next)
            code = broken_by(capture, cudaErrorStreamCaptureUnsupported, name);
    else if (stream->capture)
        code = broken_by(stream->capture, cudaErrorStreamCaptureUnsupported, name);
    else if (blocking)
        code = broken_by(blocking, cudaErrorStreamCaptureImplicit, name);
    pthread_mutex_unlock(&lock);
    return code;
}

int standin_unsafe(const char* name) {
    if (!atomic_load(&active)) return SUCCESS;
    pthread_mutex_lock(&lock);
    int code = SUCCESS;
    for (Capture* capture = captures; capture; capture = capture->next) {
        int forbidden = capture->mode == GLOBAL ||
                        (capture->mode == THREAD_LOCAL && pthread_equal(capture->thread, pthread_self()));
        if (forbidden) code = broken_by(capture, cudaErrorStreamCaptureUnsupported, name);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

// -------------------------------------------------------------------------------------------------------------- capture

static int join(Capture* capture, Stream* stream) {
    if (capture->streams == MAX_CAPTURED_STREAMS)
        return standin_refused(cudaErrorNotSupported, "a capture of more than %d streams", MAX_CAPTURED_STREAMS);
    stream->place = capture->streams;
    stream->capture = capture;
    capture->members[capture->streams++] = stream;
    return SUCCESS;
}

static void free_graph(Graph* graph) {
    if (atomic_fetch_sub(&graph->users, 1) > 1) return;
    for (size_t i = 0; i < graph->count; i++) graph->nodes[i].drop(graph->nodes[i].what);
    for (size_t i = 0; i < graph->kept_count; i++) standin_release(graph->kept[i]);
    free(graph->nodes);
    free(graph->kept);
    free(graph);
}

int standin_cudaStreamBeginCapture(void* handle, int mode) {
    int code = standin_broken();
    if (code) return code;
    Stream* stream = standin_stream(handle);
    if (!stream) return standin_failed(cudaErrorInvalidResourceHandle);
    if (mode < GLOBAL || mode > RELAXED) return standin_failed(cudaErrorInvalidValue);
    if (standin_is_legacy(stream))
        return standin_refused(cudaErrorStreamCaptureUnsupported, "cudaStreamBeginCapture: the legacy stream cannot be captured");
    if (stream->capture) return standin_refused(cudaErrorIllegalState, "cudaStreamBeginCapture: the stream is captured already");
    Capture* capture = calloc(1, sizeof(Capture));
    Graph* graph = calloc(1, sizeof(Graph));
    if (!capture || !graph) {
        free(capture);
        free(graph);
        return standin_failed(cudaErrorMemoryAllocation);
    }
    atomic_store(&graph->users, 1);
    capture->graph = graph;
    capture->mode = mode;
    capture->thread = pthread_self();
    capture->origin = stream;
    pthread_mutex_lock(&lock);
    capture->number = ++last_number;
    join(capture, stream);
    capture->next = captures;
    captures = capture;
    atomic_fetch_add(&active, 1);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

static int all_joined(const Capture* capture) {
    for (int i = 0; i < capture->streams; i++)
        if (capture->clocks[0].done[i] < capture->clocks[i].done[i]) return 0;
    return 1;
}

// Ends a capture: its streams are free again. Called with the lock.
static void end(Capture* capture) {
    for (int i = 0; i < capture->streams; i++)
        if (capture->members[i]) capture->members[i]->capture = NULL;
    Capture** link = &captures;
    while (*link != capture) link = &(*link)->next;
    *link = capture->next;
    atomic_fetch_sub(&active, 1);
}

int standin_cudaStreamEndCapture(void* handle, Graph** graph) {
    *graph = NULL;
    Stream* stream = standin_stream(handle);
    if (!stream) return standin_failed(cudaErrorInvalidResourceHandle);
    pthread_mutex_lock(&lock);
    Capture* capture = stream->capture;
    int code = SUCCESS;
    if (!capture)
        code = cudaErrorIllegalState;
    else if (capture->origin != stream)
        code = broken_by(capture, cudaErrorStreamCaptureUnmatched, "cudaStreamEndCapture");
    else if (capture->mode != RELAXED && !pthread_equal(capture->thread, pthread_self()))
        code = cudaErrorStreamCaptureWrongThread;
    if (code) {
        pthread_mutex_unlock(&lock);
        return standin_failed(code);
    }
    code = capture->broken ? cudaErrorStreamCaptureInvalidated : all_joined(capture) ? SUCCESS : cudaErrorStreamCaptureUnjoined;
    end(capture);
    pthread_mutex_unlock(&lock);
    if (code)
        free_graph(capture->graph);
    else
        *graph = capture->graph;
    free(capture);
    return standin_failed(code);
}

int standin_cudaStreamIsCapturing(void* handle, int* status) {
    *status = 0;
    Stream* stream = standin_stream(handle);
    if (!stream) return standin_failed(cudaErrorInvalidResourceHandle);
    if (!atomic_load(&active)) return SUCCESS;
    pthread_mutex_lock(&lock);
    int code = standin_is_legacy(stream) && blocking_capture() ? cudaErrorStreamCaptureImplicit : SUCCESS;
    if (!code && stream->capture) *status = stream->capture->broken ? INVALIDATED : ACTIVE;
    pthread_mutex_unlock(&lock);
    return standin_failed(code);
}

int standin_record_captured(Stream* stream, Event* event) {
    pthread_mutex_lock(&lock);
    event->capture = stream->capture->number;
    event->clock = stream->capture->clocks[stream->place];
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int standin_wait_captured(Stream* stream, Event* event) {
    pthread_mutex_lock(&lock);
    Capture* capture = captures;
    while (capture && capture->number != event->capture) capture = capture->next;
    int code = SUCCESS;
    if (!event->capture)  // recorded outside of every capture; an event that was never recorded holds nothing up
        code = event->recorded ? broken_by(stream->capture, cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent") : SUCCESS;
    else if (!capture)
        code = standin_failed(cudaErrorCapturedEvent);
    else if (standin_is_legacy(stream))
        code = broken_by(capture, cudaErrorStreamCaptureImplicit, "cudaStreamWaitEvent");
    else if (stream->capture && stream->capture != capture)
        code = broken_by(stream->capture, cudaErrorStreamCaptureMerge, "cudaStreamWaitEvent");
    else if (!stream->capture)
        code = join(capture, stream);
    if (!code && capture)
        for (int i = 0; i < capture->streams; i++) {
            unsigned *done = &capture->clocks[stream->place].done[i], then = event->clock.done[i];
            if (then > *done) *done = then;
        }
    pthread_mutex_unlock(&lock);
    return code;
}

void standin_forget_stream(Stream* stream) {
    pthread_mutex_lock(&lock);
    if (stream->capture) {
        stream->capture->broken = 1;
        stream->capture->members[stream->place] = NULL;
        if (stream->capture->origin == stream) {
            Capture* capture = stream->capture;
            end(capture);
            free_graph(capture->graph);
            free(capture);
        }
    }
    pthread_mutex_unlock(&lock);
}

// --------------------------------------------------------------------------------------------------------------- graphs

static int replay(void* what) {
    const Graph* graph = what;
    int code = SUCCESS;
    standin_replaying++;
    for (size_t i = 0; i < graph->count && !code; i++) {
        code = graph->nodes[i].run(graph->nodes[i].what);
        standin_counted.graph_nodes++;
    }
    standin_replaying--;
    return code;
}
static void drop_graph(void* what) { free_graph(what); }

int standin_cudaGraphInstantiate(Graph** made, Graph* graph, UNUSED unsigned long long flags) {
    atomic_fetch_add(&graph->users, 1);
    *made = graph;
    return SUCCESS;
}
int standin_cudaGraphInstantiateWithFlags(Graph** made, Graph* graph, unsigned long long flags) {
    return standin_cudaGraphInstantiate(made, graph, flags);
}
int standin_cudaGraphDestroy(Graph* graph) { return free_graph(graph), SUCCESS; }
int standin_cudaGraphExecDestroy(Graph* graph) { return free_graph(graph), SUCCESS; }
int standin_cudaGraphUpload(UNUSED Graph* graph, void* stream) {
    Capture* capture;
    int code = standin_take(stream, &capture);
    return !code && capture ? standin_wait(standin_stream(stream), "cudaGraphUpload") : code;
}

static void (*graph_hook)(size_t nodes);
void standin_set_graph_hook(void (*hook)(size_t nodes)) { graph_hook = hook; }

int standin_cudaGraphLaunch(Graph* graph, void* stream) {
    Capture* capture;
    int code = standin_take(stream, &capture);
    if (code) return code;
    if (capture) {  // a graph within a graph
        atomic_fetch_add(&graph->users, 1);
        return standin_note(capture, stream, "graph", replay, graph, drop_graph);
    }
    standin_counted.graph_launches++;
    if (graph_hook) graph_hook(graph->count);
    return standin_ended(replay(graph));
}

int standin_cudaGraphGetNodes(const Graph* graph, UNUSED void** nodes, size_t* count) {
    if (nodes) return standin_refused(cudaErrorNotSupported, "cudaGraphGetNodes: nodes are only counted here");
    *count = graph->count;
    return SUCCESS;
}
int standin_cudaGraphDebugDotPrint(const Graph* graph, const char* path, UNUSED unsigned flags) {
    FILE* file = fopen(path, "w");
    if (!file) return standin_failed(cudaErrorInvalidValue);
    fputs("digraph dot {\n", file);
    for (size_t i = 0; i < graph->count; i++) {
        fprintf(file, "  node_%zu [label=\"%zu\\n%s\"];\n", i, i, graph->nodes[i].name);
        if (i) fprintf(file, "  node_%zu -> node_%zu;\n", i - 1, i);
    }
    fputs("}\n", file);
    return fclose(file) ? standin_failed(cudaErrorInvalidValue) : SUCCESS;
}
