// Memory: pages of the host in the place of the device's, a list of what is allocated, copies and fills that are checked
// against that list. An allocation lies between two pages that cannot be touched, so that a kernel that leaves it fails.
#include <sys/mman.h>
#include <unistd.h>

#include "standin.h"

#define TOTAL ((size_t)TOTAL_GIGABYTES << 30)
#define CONTEXT ((size_t)1 << 30)  // what a context and its modules take on a real device

typedef struct {
    size_t used, most_used, threshold;
} Pool;
// The first three as cudaMemoryType has them; VARIABLE: of a module (__device__, __constant__), which is never freed.
typedef enum { PINNED = 1, DEVICE = 2, MANAGED = 3, REGISTERED = 4, VARIABLE = 5 } Kind;
typedef struct {
    char* start;
    size_t size;
    Kind kind;
    Pool* pool;
} Region;

static Region* regions;  // by their start
static size_t region_count, region_room, held;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t page(void) {
    static size_t size;
    if (!size) size = (size_t)sysconf(_SC_PAGESIZE);
    return size;
}
static size_t in_pages(size_t size) { return (size + page() - 1) / page() * page(); }

// ------------------------------------------------------------------------------------------------- what is allocated

// The number of regions that begin at an address or before it. Called with the lock.
static size_t up_to(const void* address) {
    size_t low = 0, high = region_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (regions[middle].start <= (const char*)address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int add_region(Region region) {
    if (region_count == region_room) {
        size_t room = region_room ? 2 * region_room : 256;
        Region* grown = realloc(regions, room * sizeof(Region));
        if (!grown) return 0;
        regions = grown;
        region_room = room;
    }
    size_t place = up_to(region.start);
    memmove(regions + place + 1, regions + place, (region_count - place) * sizeof(Region));
    regions[place] = region;
    region_count++;
    return 1;
}

// Where an address lies; kind 0 for memory that CUDA knows nothing of.
static Region region_of(const void* address) {
    Region found = {0};
    pthread_mutex_lock(&lock);
    size_t place = up_to(address);
    if (place && (size_t)((const char*)address - regions[place - 1].start) < regions[place - 1].size) found = regions[place - 1];
    pthread_mutex_unlock(&lock);
    return found;
}

static int of_device(Region region) { return region.kind == DEVICE || region.kind == VARIABLE; }

// Takes the region that begins at an address out of the list; 0 where there is none of these kinds.
static int remove_region(const void* address, int first_kind, int last_kind, Region* removed) {
    int found = 0;
    pthread_mutex_lock(&lock);
    size_t place = up_to(address);
    if (place && regions[place - 1].start == address && (int)regions[place - 1].kind >= first_kind &&
        (int)regions[place - 1].kind <= last_kind) {
        *removed = regions[place - 1];
        memmove(regions + place - 1, regions + place, (region_count - place) * sizeof(Region));
        region_count--;
        if (removed->kind == DEVICE || removed->kind == MANAGED) held -= in_pages(removed->size);
        if (removed->pool) removed->pool->used -= removed->size;
        found = 1;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static void unmap(Region region) { munmap(region.start - page(), in_pages(region.size) + 2 * page()); }

// Pages that are only there once they are touched.
static int allocate(void** address, size_t size, Kind kind, Pool* pool) {
    *address = NULL;
    int code = standin_broken();
    if (code || !size) return code;
    int counts = kind == DEVICE || kind == MANAGED;
    if (size > TOTAL) return standin_failed(cudaErrorMemoryAllocation);
    char* start = mmap(NULL, in_pages(size) + 2 * page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return standin_failed(cudaErrorMemoryAllocation);
    const Region region = {start + page(), size, kind, pool};
    pthread_mutex_lock(&lock);
    int fits = (!counts || held + in_pages(size) <= TOTAL - CONTEXT) &&
               !mprotect(region.start, in_pages(size), PROT_READ | PROT_WRITE) && add_region(region);
    if (fits && counts) {
        held += in_pages(size);
        standin_counted.allocations++;
        standin_counted.allocated_bytes += (long)size;
    }
    if (fits && pool) {
        pool->used += size;
        if (pool->used > pool->most_used) pool->most_used = pool->used;
    }
    pthread_mutex_unlock(&lock);
    if (!fits) return unmap(region), standin_failed(cudaErrorMemoryAllocation);
    *address = region.start;
    return SUCCESS;
}

// A variable of a module, which the program asked for by its name: copies and fills may go there.
int standin_variable(void* address, size_t size) {
    pthread_mutex_lock(&lock);
    size_t place = up_to(address);
    int known = place && regions[place - 1].start == address;
    int well = known || add_region((Region){address, size, VARIABLE, NULL});
    pthread_mutex_unlock(&lock);
    return well ? SUCCESS : standin_failed(cudaErrorMemoryAllocation);
}

int standin_cudaMalloc(void** address, size_t size) {
    int code = standin_unsafe("cudaMalloc");
    return code ? code : allocate(address, size, DEVICE, NULL);
}
int standin_cudaMallocManaged(void** address, size_t size, UNUSED unsigned flags) {
    int code = standin_unsafe("cudaMallocManaged");
    return code ? code : allocate(address, size, MANAGED, NULL);
}
int standin_cudaHostAlloc(void** address, size_t size, UNUSED unsigned flags) {
    int code = standin_unsafe("cudaHostAlloc");
    return code ? code : allocate(address, size, PINNED, NULL);
}
int standin_cudaMallocHost(void** address, size_t size) { return standin_cudaHostAlloc(address, size, 0); }

static int release(void* address, int first_kind, int last_kind, const char* name) {
    Region region;
    if (!address) return SUCCESS;
    if (!remove_region(address, first_kind, last_kind, &region))
        return standin_refused(cudaErrorInvalidValue, "%s: nothing is allocated at %p", name, address);
    unmap(region);
    return SUCCESS;
}
int standin_cudaFree(void* address) {
    int code = address ? standin_unsafe("cudaFree") : SUCCESS;
    return code ? code : release(address, DEVICE, MANAGED, "cudaFree");
}
int standin_cudaFreeHost(void* address) {
    int code = standin_unsafe("cudaFreeHost");
    return code ? code : release(address, PINNED, PINNED, "cudaFreeHost");
}
void standin_release(void* address) { release(address, DEVICE, MANAGED, "cudaGraphDestroy"); }

int standin_cudaHostRegister(void* address, size_t size, UNUSED unsigned flags) {
    if (!address || !size) return standin_failed(cudaErrorInvalidValue);
    if (region_of(address).kind) return standin_failed(cudaErrorHostMemoryAlreadyRegistered);
    pthread_mutex_lock(&lock);
    int added = add_region((Region){address, size, REGISTERED, NULL});
    pthread_mutex_unlock(&lock);
    return added ? SUCCESS : standin_failed(cudaErrorMemoryAllocation);
}
int standin_cudaHostUnregister(void* address) {
    Region region;
    return remove_region(address, REGISTERED, REGISTERED, &region) ? SUCCESS : standin_failed(cudaErrorHostMemoryNotRegistered);
}
int standin_cudaHostGetDevicePointer(void** device, void* host, UNUSED unsigned flags) {
    *device = host;
    return region_of(host).kind ? SUCCESS : standin_failed(cudaErrorInvalidValue);
}

int standin_cudaMemGetInfo(size_t* free, size_t* total) {
    int code = standin_broken();
    if (code) return code;
    *free = TOTAL - CONTEXT - held;
    *total = TOTAL;
    return SUCCESS;
}

int standin_cudaPointerGetAttributes(struct cudaPointerAttributes* attributes, const void* address) {
    memset(attributes, 0, sizeof *attributes);
    Region region = region_of(address);
    attributes->type = region.kind == REGISTERED ? cudaMemoryTypeHost
                       : of_device(region)       ? cudaMemoryTypeDevice
                                                 : (enum cudaMemoryType)region.kind;
    attributes->device = region.kind ? 0 : cudaInvalidDeviceId;
    attributes->devicePointer = region.kind ? (void*)address : NULL;
    attributes->hostPointer = of_device(region) ? NULL : (void*)address;
    return standin_broken();
}

// ------------------------------------------------------------------------------------------------------- pools in order

static Pool first_pool;
static Pool* current_pool = &first_pool;

// In a capture the address has to stay the graph's, so it is the graph that gives the memory back.
int standin_cudaMallocFromPoolAsync(void** address, size_t size, Pool* pool, void* stream) {
    Capture* capture;
    int code = standin_take(stream, &capture);
    if (!code) code = allocate(address, size, DEVICE, pool);
    if (!code && capture && *address) standin_keep(capture, *address);
    return code;
}
int standin_cudaMallocAsync(void** address, size_t size, void* stream) {
    return standin_cudaMallocFromPoolAsync(address, size, current_pool, stream);
}
int standin_cudaFreeAsync(void* address, void* stream) {
    Capture* capture;
    int code = standin_take(stream, &capture);
    return code || capture ? code : release(address, DEVICE, DEVICE, "cudaFreeAsync");
}
int standin_cudaDeviceGetDefaultMemPool(Pool** pool, UNUSED int device) { return *pool = &first_pool, SUCCESS; }
int standin_cudaDeviceGetMemPool(Pool** pool, UNUSED int device) { return *pool = current_pool, SUCCESS; }
int standin_cudaDeviceSetMemPool(UNUSED int device, Pool* pool) { return current_pool = pool, SUCCESS; }
int standin_cudaMemPoolCreate(Pool** pool, UNUSED const void* properties) {
    *pool = calloc(1, sizeof(Pool));
    return *pool ? SUCCESS : standin_failed(cudaErrorMemoryAllocation);
}
int standin_cudaMemPoolDestroy(Pool* pool) {
    if (pool == &first_pool) return standin_failed(cudaErrorInvalidValue);
    if (current_pool == pool) current_pool = &first_pool;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < region_count; i++)
        if (regions[i].pool == pool) regions[i].pool = NULL;
    pthread_mutex_unlock(&lock);
    free(pool);
    return SUCCESS;
}
int standin_cudaMemPoolTrimTo(UNUSED Pool* pool, UNUSED size_t size) { return SUCCESS; }
int standin_cudaMemPoolGetAttribute(const Pool* pool, int attribute, void* value) {
    switch (attribute) {
        case cudaMemPoolAttrReleaseThreshold: *(uint64_t*)value = pool->threshold; break;
        case cudaMemPoolAttrReservedMemCurrent:  // nothing is kept in reserve
        case cudaMemPoolAttrUsedMemCurrent: *(uint64_t*)value = pool->used; break;
        case cudaMemPoolAttrReservedMemHigh:
        case cudaMemPoolAttrUsedMemHigh: *(uint64_t*)value = pool->most_used; break;
        default: *(int*)value = 1;
    }
    return SUCCESS;
}
int standin_cudaMemPoolSetAttribute(Pool* pool, int attribute, const void* value) {
    if (attribute == cudaMemPoolAttrReleaseThreshold) pool->threshold = *(const uint64_t*)value;
    if (attribute == cudaMemPoolAttrReservedMemHigh || attribute == cudaMemPoolAttrUsedMemHigh) pool->most_used = pool->used;
    return SUCCESS;
}
// The location (CUDA 13) or the device (CUDA 12) follows; all memory is in one place here.
int standin_cudaMemPrefetchAsync(const void* address, UNUSED size_t size) {
    return region_of(address).kind == MANAGED ? SUCCESS : standin_failed(cudaErrorInvalidValue);
}
int standin_cudaMemAdvise(const void* address, UNUSED size_t size) {
    return region_of(address).kind == MANAGED ? SUCCESS : standin_failed(cudaErrorInvalidValue);
}

// --------------------------------------------------------------------------------------------------------------- copies

typedef struct {
    char* to;
    const char* from;
    size_t size, rows, layers, to_pitch, from_pitch, to_layer, from_layer;  // bytes; size: of a row
    int kind;
} Copy;

static size_t extent(const Copy* c, int to) {
    if (!c->size || !c->rows || !c->layers) return 0;
    return (c->layers - 1) * (to ? c->to_layer : c->from_layer) + (c->rows - 1) * (to ? c->to_pitch : c->from_pitch) + c->size;
}

// Whether one side of a copy may be what `kind` says: on the device, on the host, or either.
static int side_is_there(const char* name, const Copy* c, int to) {
    const char* address = to ? c->to : c->from;
    size_t size = extent(c, to);
    int on_device = to ? c->kind == cudaMemcpyHostToDevice || c->kind == cudaMemcpyDeviceToDevice
                       : c->kind == cudaMemcpyDeviceToHost || c->kind == cudaMemcpyDeviceToDevice;
    Region region = region_of(address);
    int wrong = region.kind ? (size_t)(address - region.start) + size > region.size : on_device;
    if (!wrong && !on_device && c->kind != cudaMemcpyDefault) wrong = of_device(region);
    if (wrong)
        standin_refused(cudaErrorInvalidValue, "%s: %zu bytes %s %p are not memory of the %s (%s)", name, size, to ? "to" : "from",
                        (const void*)address, on_device || of_device(region) ? "device" : "host",
                        of_device(region) && !on_device && c->kind != cudaMemcpyDefault ? "they are the device's"
                        : region.kind ? "they go beyond the allocation" : "nothing is allocated there");
    return !wrong;
}

static int copy(void* what) {
    const Copy* c = what;
    int to_device = of_device(region_of(c->to)), from_device = of_device(region_of(c->from));
    standin_counted.to_device += to_device && !from_device;
    standin_counted.to_host += from_device && !to_device;
    for (size_t layer = 0; layer < c->layers; layer++)
        for (size_t row = 0; row < c->rows; row++)
            memmove(c->to + layer * c->to_layer + row * c->to_pitch, c->from + layer * c->from_layer + row * c->from_pitch, c->size);
    return SUCCESS;
}

static int ask(const char* name, Copy c, void* stream, int waits) {
    int code = waits ? standin_unsafe(name) : SUCCESS;
    if (code || (waits && (code = standin_wait(standin_stream(stream), name)))) return code;
    if (c.kind < cudaMemcpyHostToHost || c.kind > cudaMemcpyDefault) return standin_failed(cudaErrorInvalidMemcpyDirection);
    if (c.to_pitch < c.size || c.from_pitch < c.size) return standin_failed(cudaErrorInvalidPitchValue);
    if (extent(&c, 0) && (!side_is_there(name, &c, 1) || !side_is_there(name, &c, 0))) return standin_failed(cudaErrorInvalidValue);
    Capture* capture;
    if ((code = standin_take(stream, &capture))) return code;
    if (capture && (!region_of(c.to).kind || !region_of(c.from).kind))
        return standin_wait(standin_stream(stream), "a copy from or to memory of the host that is not pinned");
    standin_counted.waits += waits;
    return standin_submit(stream, name, copy, &c, sizeof c);
}
static Copy flat(void* to, const void* from, size_t size, int kind) { return (Copy){to, from, size, 1, 1, size, size, 0, 0, kind}; }
static Copy rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, int kind) {
    return (Copy){to, from, width, height, 1, to_pitch, from_pitch, 0, 0, kind};
}

int standin_cudaMemcpy(void* to, const void* from, size_t size, int kind) {
    return ask("cudaMemcpy", flat(to, from, size, kind), NULL, 1);
}
int standin_cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
    return ask("cudaMemcpyAsync", flat(to, from, size, kind), stream, 0);
}
int standin_cudaMemcpyPeer(void* to, int to_device, const void* from, int from_device, size_t size) {
    if (to_device || from_device) return standin_failed(cudaErrorInvalidDevice);
    return ask("cudaMemcpyPeer", flat(to, from, size, cudaMemcpyDeviceToDevice), NULL, 1);
}
int standin_cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t size, void* stream) {
    if (to_device || from_device) return standin_failed(cudaErrorInvalidDevice);
    return ask("cudaMemcpyPeerAsync", flat(to, from, size, cudaMemcpyDeviceToDevice), stream, 0);
}
int standin_cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, int kind) {
    return ask("cudaMemcpy2D", rows(to, to_pitch, from, from_pitch, width, height, kind), NULL, 1);
}
int standin_cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                              int kind, void* stream) {
    return ask("cudaMemcpy2DAsync", rows(to, to_pitch, from, from_pitch, width, height, kind), stream, 0);
}

static int boxes(const struct cudaMemcpy3DParms* p, Copy* c) {
    if (p->srcArray || p->dstArray) return standin_refused(cudaErrorNotSupported, "cudaMemcpy3D: arrays of textures are not there");
    const struct cudaPitchedPtr to = p->dstPtr, from = p->srcPtr;
    const struct cudaPos a = p->dstPos, b = p->srcPos;
    *c = (Copy){(char*)to.ptr + (a.z * to.ysize + a.y) * to.pitch + a.x, (char*)from.ptr + (b.z * from.ysize + b.y) * from.pitch + b.x,
                p->extent.width, p->extent.height, p->extent.depth, to.pitch, from.pitch, to.ysize * to.pitch,
                from.ysize * from.pitch, p->kind};
    return SUCCESS;
}
int standin_cudaMemcpy3D(const struct cudaMemcpy3DParms* p) {
    Copy c;
    int code = boxes(p, &c);
    return code ? code : ask("cudaMemcpy3D", c, NULL, 1);
}
int standin_cudaMemcpy3DAsync(const struct cudaMemcpy3DParms* p, void* stream) {
    Copy c;
    int code = boxes(p, &c);
    return code ? code : ask("cudaMemcpy3DAsync", c, stream, 0);
}

// ---------------------------------------------------------------------------------------------------------------- fills

typedef struct {
    char* start;
    int value;
    size_t size;
} Fill;

// Whole pages of zeros are handed back instead of written, so that a large model costs no memory until it is read.
static int fill(void* what) {
    const Fill* f = what;
    char* first = (char*)(((uintptr_t)f->start + page() - 1) / page() * page());
    char* last = (char*)((uintptr_t)(f->start + f->size) / page() * page());
    standin_counted.memsets++;
    if (!f->value && last > first && region_of(f->start).kind != REGISTERED && !madvise(first, last - first, MADV_DONTNEED)) {
        memset(f->start, 0, first - f->start);
        memset(last, 0, f->start + f->size - last);
    } else {
        memset(f->start, f->value, f->size);
    }
    return SUCCESS;
}
static int ask_fill(const char* name, void* start, int value, size_t size, void* stream) {
    Region region = region_of(start);
    if (size && (!region.kind || (size_t)((char*)start - region.start) + size > region.size))
        return standin_refused(cudaErrorInvalidValue, "%s: %zu bytes at %p are not allocated", name, size, start);
    const Fill f = {start, value, size};
    return standin_submit(stream, name, fill, &f, sizeof f);
}
int standin_cudaMemset(void* start, int value, size_t size) {
    int code = standin_unsafe("cudaMemset");
    return code ? code : ask_fill("cudaMemset", start, value, size, NULL);
}
int standin_cudaMemsetAsync(void* start, int value, size_t size, void* stream) {
    return ask_fill("cudaMemsetAsync", start, value, size, stream);
}
