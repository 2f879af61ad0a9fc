// cuSOLVER: handles and settings. What it computes is in signatures.py and solver.py.
#include "calls.h"

enum { SUCCESS = 0, ALLOC_FAILED = 2 };

static int made(Handle** handle) { return (*handle = calloc(1, sizeof(Handle))) ? SUCCESS : ALLOC_FAILED; }
int cusolverDnCreate(Handle** handle) { return made(handle); }
int cusolverSpCreate(Handle** handle) { return made(handle); }
int cusolverDnDestroy(Handle* handle) { return free(handle), SUCCESS; }
int cusolverSpDestroy(Handle* handle) { return free(handle), SUCCESS; }
int cusolverDnSetStream(Handle* handle, void* stream) { return handle->stream = stream, SUCCESS; }
int cusolverSpSetStream(Handle* handle, void* stream) { return handle->stream = stream, SUCCESS; }
int cusolverDnGetStream(const Handle* handle, void** stream) { return *stream = handle->stream, SUCCESS; }
int cusolverSpGetStream(const Handle* handle, void** stream) { return *stream = handle->stream, SUCCESS; }
// Its version: 11.7 with CUDA 12, 12.0 with CUDA 13.
int cusolverGetProperty(int part, int* value) {
    enum { MAJOR, MINOR };
    const int major = CUDA_VERSION_OF_WHEEL / 1000 - 1;
    *value = part == MAJOR ? major : part == MINOR && major == 11 ? 7 : 0;
    return SUCCESS;
}

// Settings of Jacobi's methods (tolerance, sweeps, order) do not apply: LAPACK's QR and divide-and-conquer are what runs.
int cusolverDnCreateParams(Handle** params) { return made(params); }
int cusolverDnDestroyParams(Handle* params) { return free(params), SUCCESS; }
int cusolverDnCreateSyevjInfo(Handle** params) { return made(params); }
int cusolverDnDestroySyevjInfo(Handle* params) { return free(params), SUCCESS; }
int cusolverDnCreateGesvdjInfo(Handle** params) { return made(params); }
int cusolverDnDestroyGesvdjInfo(Handle* params) { return free(params), SUCCESS; }
int cusolverDnXsyevjSetTolerance(Handle* params, double tolerance) { return (void)params, (void)tolerance, SUCCESS; }
int cusolverDnXsyevjSetMaxSweeps(Handle* params, int sweeps) { return (void)params, (void)sweeps, SUCCESS; }
int cusolverDnXsyevjSetSortEig(Handle* params, int sorted) { return (void)params, (void)sorted, SUCCESS; }
int cusolverDnXgesvdjSetTolerance(Handle* params, double tolerance) { return (void)params, (void)tolerance, SUCCESS; }
int cusolverDnXgesvdjSetMaxSweeps(Handle* params, int sweeps) { return (void)params, (void)sweeps, SUCCESS; }
int cusolverDnXgesvdjSetSortEig(Handle* params, int sorted) { return (void)params, (void)sorted, SUCCESS; }
