// Errors: their names and texts, what cudaGetLastError remembers, and errors that end a context.
#include <stdarg.h>

#include "standin.h"

Counted standin_counted;
_Thread_local int standin_in_host_function;
static _Thread_local int last;
static atomic_int ended;

static const struct {
    int code;
    const char *name, *text;
} ERRORS[] = {
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {3, "cudaErrorInitializationError", "initialization error"},
    {9, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {12, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {17, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {21, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {98, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {200, "cudaErrorInvalidKernelImage", "device kernel image is invalid"},
    {201, "cudaErrorDeviceUninitialized", "invalid device context"},
    {209, "cudaErrorNoKernelImageForDevice", "no kernel image is available for execution on the device"},
    {218, "cudaErrorInvalidPtx", "a PTX JIT compilation failed"},
    {301, "cudaErrorFileNotFound", "file not found"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {401, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {500, "cudaErrorSymbolNotFound", "named symbol not found"},
    {600, "cudaErrorNotReady", "device not ready"},
    {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {701, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {702, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {704, "cudaErrorPeerAccessAlreadyEnabled", "peer access is already enabled"},
    {705, "cudaErrorPeerAccessNotEnabled", "peer access has not been enabled"},
    {709, "cudaErrorContextIsDestroyed", "context is destroyed"},
    {710, "cudaErrorAssert", "device-side assert triggered"},
    {712, "cudaErrorHostMemoryAlreadyRegistered", "part or all of the requested memory range is already mapped"},
    {713, "cudaErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region"},
    {714, "cudaErrorHardwareStackError", "hardware stack error"},
    {715, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"},
    {716, "cudaErrorMisalignedAddress", "misaligned address"},
    {717, "cudaErrorInvalidAddressSpace", "operation not supported on global/shared address space"},
    {718, "cudaErrorInvalidPc", "invalid program counter"},
    {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {720, "cudaErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch"},
    {800, "cudaErrorNotPermitted", "operation not permitted"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {901, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {902, "cudaErrorStreamCaptureMerge", "operation would result in a merge of separate capture sequences"},
    {903, "cudaErrorStreamCaptureUnmatched", "capture was not ended in the same stream as it began"},
    {904, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {905, "cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"},
    {906, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "cudaErrorStreamCaptureWrongThread", "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "cudaErrorUnknown", "unknown error"},
};

const char* standin_error_name(int code) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].name;
    return "unrecognized error code";
}
static _Thread_local char reason[2048];
static _Thread_local int reason_of;  // the code that the reason explains
void standin_set_reason(const char* text) {
    snprintf(reason, sizeof reason, "%s", text);
    reason_of = -1;
}

// Python would raise the KeyboardInterrupt within the hook, above which is only C: it is asked for once the hook is done.
static void (*interrupt)(void);
void standin_interrupt_after_hook(void (*set)(void)) { interrupt = set; }
int standin_after_hook(int code) {
    void (*set)(void) = interrupt;
    interrupt = NULL;
    if (set) set();
    return code;
}

const char* standin_error_text(int code) {
    if (code && code == reason_of) return reason;
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].text;
    return "unrecognized error code";
}
const char* standin_cudaGetErrorName(int code) { return standin_error_name(code); }
const char* standin_cudaGetErrorString(int code) { return standin_error_text(code); }
int cuGetErrorName(int code, const char** text) { return *text = standin_error_name(code), SUCCESS; }
int cuGetErrorString(int code, const char** text) { return *text = standin_error_text(code), SUCCESS; }

int standin_failed(int code) {
    if (code) last = code;
    return code;
}

int standin_refused(int code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("stand-in: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return standin_failed(code);
}

int standin_broken(void) { return standin_failed(standin_in_host_function ? cudaErrorNotPermitted : atomic_load(&ended)); }

static int ends_a_context(int code) {
    return code == cudaErrorIllegalAddress || (code >= cudaErrorAssert && code <= cudaErrorLaunchFailure && code != 712 && code != 713);
}
int standin_ended(int code) {
    reason_of = reason_of == -1 ? code : 0;
    if (ends_a_context(code)) atomic_store(&ended, code);
    return standin_failed(code);
}
// For tests that make kernels fail on purpose: CUDA itself needs a new process.
void standin_forget_errors(void) { last = 0, atomic_store(&ended, 0); }

int standin_cudaGetLastError(void) {
    int code = last;
    last = 0;
    return atomic_load(&ended) ? atomic_load(&ended) : code;
}
int standin_cudaPeekAtLastError(void) { return atomic_load(&ended) ? atomic_load(&ended) : last; }

void standin_counts(long* into) {
    const atomic_long* values = (const atomic_long*)&standin_counted;
    for (size_t i = 0; i < sizeof standin_counted / sizeof *values; i++) into[i] = atomic_load(&values[i]);
}
void standin_count_product(void) { standin_counted.products++; }

// What attach.py puts in the place of a runtime function that the stand-in does not have: generated by build.py.
int standin_missing(const char* name) {
    return standin_refused(cudaErrorNotSupported, "%s is not there: see docs/cupy.md for what the stand-in covers", name);
}
