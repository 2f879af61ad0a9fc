// The device: what GPUs of each compute capability have. Sources: CUDA C++ Programming Guide, "Compute Capabilities" (shared
// memory, threads and blocks of a multiprocessor), NVIDIA's data sheets for the card (multiprocessors, L2).
#include "standin.h"

//  capability, multiprocessors, threads, blocks, shared KiB of one, L2 KiB, the card
static const Gpu GPUS[] = {
    {75, 40, 1024, 16, 64, 4096, "T4"},          {80, 108, 2048, 32, 164, 40960, "A100"},
    {86, 82, 1536, 16, 100, 6144, "RTX 3090"},   {87, 16, 1536, 16, 164, 4096, "Jetson Orin"},
    {89, 128, 1536, 24, 100, 73728, "RTX 4090"}, {90, 132, 2048, 32, 228, 51200, "H100"},
    {100, 148, 2048, 32, 228, 129024, "B200"},   {103, 148, 2048, 32, 228, 129024, "B300"},
    {110, 20, 1536, 24, 228, 32768, "Thor"},     {120, 170, 1536, 24, 100, 98304, "RTX 5090"},
    {121, 48, 1536, 24, 100, 24576, "GB10"},
};
enum { H100 = 5, SHARED = 48 * 1024, RESERVED_SHARED = 1024, REGISTERS = 65536 };
const Gpu* standin_gpu = &GPUS[H100];

// 0, or -1 for a capability that is not in the table.
int standin_set_capability(int major, int minor) {
    for (size_t i = 0; i < sizeof GPUS / sizeof *GPUS; i++)
        if (GPUS[i].capability == 10 * major + minor) return standin_gpu = &GPUS[i], 0;
    return -1;
}

// All of a multiprocessor's but what is kept for the system; 7.5 keeps none.
int standin_largest_shared(void) {
    return standin_gpu->shared_kilobytes * 1024 - (standin_gpu->capability >= 80 ? RESERVED_SHARED : 0);
}

int standin_cudaGetDeviceCount(int* count) { return *count = 1, SUCCESS; }
int standin_cudaGetDevice(int* device) { return *device = 0, SUCCESS; }
int standin_cudaSetDevice(int device) {
    return device == 0 ? SUCCESS : standin_refused(cudaErrorInvalidDevice, "device %d: the stand-in has one GPU, device 0", device);
}
int standin_cudaInitDevice(int device, UNUSED unsigned flags, UNUSED unsigned mask) { return standin_cudaSetDevice(device); }
int standin_cudaDriverGetVersion(int* version) { return *version = CUDA_VERSION_OF_WHEEL, SUCCESS; }
int standin_cudaRuntimeGetVersion(int* version) { return *version = CUDA_VERSION_OF_WHEEL, SUCCESS; }
int cudaRuntimeGetVersion(int* version) { return *version = CUDA_VERSION_OF_WHEEL, SUCCESS; }  // in the place of libcudart
int standin_cudaProfilerStart(void) { return SUCCESS; }
int standin_cudaProfilerStop(void) { return SUCCESS; }
int standin_cudaDeviceCanAccessPeer(int* can, UNUSED int device, int peer) {
    *can = 0;
    return peer == 0 ? SUCCESS : standin_failed(cudaErrorInvalidDevice);
}
int standin_cudaDeviceEnablePeerAccess(UNUSED int peer, UNUSED unsigned flags) { return standin_failed(cudaErrorInvalidDevice); }
int standin_cudaDeviceDisablePeerAccess(UNUSED int peer) { return standin_failed(cudaErrorPeerAccessNotEnabled); }
int standin_cudaDeviceGetPCIBusId(char* text, int room, int device) {
    if (device) return standin_failed(cudaErrorInvalidDevice);
    return snprintf(text, room, "0000:00:00.0") < room ? SUCCESS : standin_failed(cudaErrorInvalidValue);
}
int standin_cudaDeviceGetByPCIBusId(int* device, const char* text) {
    *device = 0;
    return strcmp(text, "0000:00:00.0") ? standin_failed(cudaErrorInvalidDevice) : SUCCESS;
}

enum { LIMITS = 8 };
static size_t limits[LIMITS] = {1024, 1 << 20, 8 << 20, 2, 2048, 128, 0, 0};  // stack, printf, heap, ...
int standin_cudaDeviceGetLimit(size_t* value, unsigned limit) {
    if (limit >= LIMITS) return standin_failed(cudaErrorInvalidValue);
    return *value = limits[limit], SUCCESS;
}
int standin_cudaDeviceSetLimit(unsigned limit, size_t value) {
    if (limit >= LIMITS) return standin_failed(cudaErrorInvalidValue);
    return limits[limit] = value, SUCCESS;
}

int standin_cudaDeviceGetAttribute(int* value, int attribute, int device) {
    const Gpu* gpu = standin_gpu;
    if (device) return standin_failed(cudaErrorInvalidDevice);
    if (attribute <= 0 || attribute >= cudaDevAttrMax) return standin_failed(cudaErrorInvalidValue);
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = gpu->capability / 10; break;
        case cudaDevAttrComputeCapabilityMinor: *value = gpu->capability % 10; break;
        case cudaDevAttrMultiProcessorCount: *value = gpu->multiprocessors; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = gpu->threads; break;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = gpu->blocks; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = gpu->shared_kilobytes * 1024; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = standin_largest_shared(); break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = SHARED; break;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = gpu->capability >= 80 ? RESERVED_SHARED : 0; break;
        case cudaDevAttrL2CacheSize: *value = gpu->l2_kilobytes * 1024; break;
        case cudaDevAttrMaxPersistingL2CacheSize: *value = gpu->capability >= 80 ? gpu->l2_kilobytes * 1024 / 8 * 5 : 0; break;
        case cudaDevAttrMaxRegistersPerBlock:
        case cudaDevAttrMaxRegistersPerMultiprocessor: *value = REGISTERS; break;
        case cudaDevAttrMaxThreadsPerBlock:
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY: *value = 1024; break;
        case cudaDevAttrMaxBlockDimZ: *value = 64; break;
        case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = 65535; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrTotalConstantMemory: *value = 65536; break;
        case cudaDevAttrMaxPitch: *value = 2147483647; break;
        case cudaDevAttrTextureAlignment: *value = 512; break;
        case cudaDevAttrTexturePitchAlignment: *value = 32; break;
        case cudaDevAttrClockRate: *value = 1500000; break;
        case cudaDevAttrMemoryClockRate: *value = 2600000; break;
        case cudaDevAttrGlobalMemoryBusWidth: *value = 5120; break;
        case cudaDevAttrAsyncEngineCount: *value = 2; break;
        case cudaDevAttrCanMapHostMemory:
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrManagedMemory:
        case cudaDevAttrConcurrentManagedAccess:
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrStreamPrioritiesSupported:
        case cudaDevAttrGlobalL1CacheSupported:
        case cudaDevAttrLocalL1CacheSupported:
        case cudaDevAttrHostRegisterSupported:
        case cudaDevAttrComputePreemptionSupported:
        case cudaDevAttrCooperativeLaunch:
        case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
        default: *value = 0;  // what this device does not have: textures, IPC, ECC, ...
    }
    return SUCCESS;
}

int standin_cudaGetDeviceProperties(struct cudaDeviceProp* p, int device) {
    const Gpu* gpu = standin_gpu;
    if (device) return standin_failed(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "minillm stand-in (like %s)", gpu->like);
    p->major = gpu->capability / 10;
    p->minor = gpu->capability % 10;
    p->totalGlobalMem = (size_t)TOTAL_GIGABYTES << 30;
    p->totalConstMem = 65536;
    p->multiProcessorCount = gpu->multiprocessors;
    p->maxThreadsPerMultiProcessor = gpu->threads;
    p->maxBlocksPerMultiProcessor = gpu->blocks;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->regsPerBlock = p->regsPerMultiprocessor = REGISTERS;
    p->sharedMemPerBlock = SHARED;
    p->sharedMemPerBlockOptin = standin_largest_shared();
    p->sharedMemPerMultiprocessor = (size_t)gpu->shared_kilobytes * 1024;
    p->reservedSharedMemPerBlock = gpu->capability >= 80 ? RESERVED_SHARED : 0;
    p->l2CacheSize = gpu->l2_kilobytes * 1024;
    p->persistingL2CacheMaxSize = gpu->capability >= 80 ? p->l2CacheSize / 8 * 5 : 0;
    p->memPitch = 2147483647;
    p->textureAlignment = 512;
    p->texturePitchAlignment = 32;
    p->memoryBusWidth = 5120;
    p->asyncEngineCount = 2;
    p->canMapHostMemory = p->unifiedAddressing = p->managedMemory = p->concurrentManagedAccess = 1;
    p->concurrentKernels = p->streamPrioritiesSupported = p->globalL1CacheSupported = p->localL1CacheSupported = 1;
    p->hostRegisterSupported = p->computePreemptionSupported = p->cooperativeLaunch = p->memoryPoolsSupported = 1;
#if CUDA_VERSION_OF_WHEEL < 13000
    p->clockRate = 1500000;
    p->memoryClockRate = 2600000;
#endif
    return SUCCESS;
}
int standin_cudaGetDeviceProperties_v2(struct cudaDeviceProp* p, int device) {  // its name in CUDA 12
    return standin_cudaGetDeviceProperties(p, device);
}
